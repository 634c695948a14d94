"""What the preview of a run says of a message is what the run does with it, for every kind of message that there is."""

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

import pytest

from services.staff import run_store
from services.staff.actions import dead_letters, payments
from services.staff.actions import runs as run_actions
from services.staff.charges import REQUESTS
from services.staff.dead_letters import DeadLetter, DeadLetterStatus, Withheld
from services.staff.domain import CaseStatus
from services.staff.letter_reader import LetterReader
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Role, Via
from services.staff.run_sender import RunSender
from services.staff.runs import TAKEN, Bin, RunAct, RunState
from services.staff.store import Selection
from shared.contracts.invoice import InvoicePaymentRequested, PayInvoice, TokenMethod
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft
from shared.messaging.topology import COMMANDS
from shared.persistence.database import Database
from shared.records import dataclass, replace
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, NOW, keep_case
from tests.support.kept_letters import event, keep

Kind = Literal["command", "request", "event", "command elsewhere", "later command"]
CaseIs = Literal["none", "in doubt", "settled", "proposed", "proposed before"]
KINDS: tuple[Kind, ...] = ("command", "request", "event", "command elsewhere", "later command")
CASES: tuple[CaseIs, ...] = ("none", "in doubt", "settled", "proposed", "proposed before")
DAY = timedelta(days=1)
EVERYTHING = frozenset(Role)
ANN, BEN = (Actor(name, Via.DESK, EVERYTHING) for name in ("ann", "ben"))
AMOUNT = LIMIT + 1


@dataclass(frozen=True, slots=True)
class Sample:
    """A failed message, how its payment stands, and whether somebody has read what it charges."""

    kind: Kind
    case: CaseIs
    age: timedelta
    is_read: bool
    change: str


def samples() -> Iterator[Sample]:
    """All kinds of messages and payments, and each kind with each thing that keeps it from being replayed."""
    for kind, case, age, is_read in itertools.product(KINDS, CASES, (timedelta(0), DAY * 2), (True, False)):
        yield Sample(kind, case, age, is_read, "")
    for kind, change in itertools.product(KINDS, ("withheld", "no queue", "replayed", "discarded", "in a run")):
        yield Sample(kind, "none", timedelta(0), is_read=True, change=change)


def letter_of(sample: Sample, payment_id: UUID) -> DeadLetter:
    queue = {"event": "saga.events", "request": REQUESTS, "command elsewhere": REQUESTS}.get(sample.kind, COMMANDS)
    contract = InvoicePaymentRequested if sample.kind == "request" else PayInvoice
    said = contract(
        invoice_id="INV-1",
        payment_id=payment_id,
        amount_minor=AMOUNT,
        currency="EUR",
        method=TokenMethod(token="pm_card_visa"),
    )
    sent = encode(Draft(said), Cause(uuid4(), "C-1", NOW - sample.age), 0, source="/billing")
    body = sent.body.replace(b"PayInvoice.v1", b"PayInvoice.v99") if sample.kind == "later command" else sent.body
    letter = DeadLetter(
        uuid4(), queue, "remit", "handler_failed", content_type=STRUCTURED, body=body, message_id=str(sent.id)
    )
    return replace(event(1), id=letter.id) if sample.kind == "event" else letter


async def keep_samples(environment: Environment, database: Database) -> dict[UUID, Sample]:
    """Store them all, with the cases of their payments. What nobody has read is as an earlier build stored it."""
    kept: dict[UUID, Sample] = {}
    for sample in samples():
        payment_id = await _keep_case(environment, database, sample.case)
        letter = letter_of(sample, payment_id)
        await keep(database, replace(letter, may_charge=None), clock=lambda sample=sample: NOW - sample.age)  # type: ignore[misc]
        kept[letter.id] = sample
    while await LetterReader(database).run_once() == 0.0:
        pass
    staff = environment.databases["staff"]
    forget = (
        "may_charge = NULL, invoice_id = NULL, payment_id = NULL, amount_minor = NULL, currency = NULL, asked_at = NULL"
    )
    await _change(staff, forget, [id_ for id_, one in kept.items() if not one.is_read])
    settled = "settled_by = 'ann', settled_at = last_seen"
    for change, what in (
        ("withheld", f"body = NULL, withheld = '{Withheld.CARD_DATA}'"),
        ("no queue", "queue = 'somebody.elses'"),
        ("replayed", f"status = '{DeadLetterStatus.REPLAYED}', replays = 1, {settled}"),
        ("discarded", f"status = '{DeadLetterStatus.DISCARDED}', {settled}"),
    ):
        await _change(staff, what, [id_ for id_, one in kept.items() if one.change == change])
    in_a_run = tuple(id_ for id_, one in kept.items() if one.change == "in a run")
    other = await run_actions.preview(database, LetterFilter(ids=in_a_run), who=BEN, title="other", clock=clock)
    assert other.no is not None
    assert (await run_actions.act(database, other.no, RunAct.TRY, who=BEN, sure=True, clock=clock)).ok
    return kept


async def _change(url: str, what: str, ids: list[UUID]) -> None:
    await execute(url, f"UPDATE dead_letters SET {what} WHERE id = ANY('{{{','.join(map(str, ids))}}}'::uuid[])")


async def _keep_case(environment: Environment, database: Database, case: CaseIs) -> UUID:
    if case == "none":
        return uuid4()
    status = CaseStatus.CAPTURED if case == "settled" else CaseStatus.NEEDS_DECISION
    payment_id = await keep_case(database, AMOUNT, status=status)
    if case.startswith("proposed"):
        words = {"expected_version": 4, "evidence": "seen", "reason": "why"}
        proposed = await payments.resolve(database, payment_id, resolution="not_charged", who=ANN, **words)  # type: ignore[arg-type]
        assert proposed.proposal is not None
    if case == "proposed before":
        await execute(environment.databases["staff"], f"UPDATE cases SET version = 5 WHERE payment_id = '{payment_id}'")
    return payment_id


def clock() -> datetime:
    return NOW


class NoBroker:
    async def publish(self, batches: object) -> None: ...


async def go_through(environment: Environment, database: Database, no: int, starter: Actor) -> None:
    """Send all that the run would send."""
    url = environment.databases["staff"]
    assert (await run_actions.act(database, no, RunAct.TRY, who=starter, sure=True, rate=500, clock=clock)).ok
    sender = RunSender(database, NoBroker(), clock, old_after=DAY)  # type: ignore[arg-type]
    for _ in range(50):
        await execute(url, "UPDATE replay_runs SET paced_at = now() - interval '1 second'")
        state = await sender.take_turn(no)
        told = "UPDATE dead_letters SET outcome = 'handled', outcome_at = now() WHERE replay_entry IS NOT NULL"
        await execute(url, told)
        if state is RunState.DONE:
            return
        if state is RunState.WAITING:
            shown = await run_actions.show_run(database, no)
            assert shown is not None
            act = next(act for act in (RunAct.GO, RunAct.REST) if run_actions.may(shown[0].run, act))
            assert (await run_actions.act(database, no, act, who=starter, rate=500, clock=clock)).ok
    pytest.fail("the run never ended")


@pytest.mark.parametrize("takes_in_old", [False, True])
async def test_a_run_sends_what_its_preview_lists_and_nothing_else(
    environment: Environment, database: Database, *, takes_in_old: bool
) -> None:
    kept = await keep_samples(environment, database)
    url = environment.databases["staff"]
    previewed = await run_actions.preview(database, LetterFilter(status=None), who=ANN, title="all", clock=clock)
    assert previewed.no is not None
    if takes_in_old:
        assert (await run_actions.take_in(database, previewed.no, who=BEN, reason="promised", clock=clock)).ok
    listed = await _listed(url, previewed.no)
    async with database.connection() as connection:
        found = await run_store.find_run(connection, previewed.no)
    assert found is not None
    await go_through(environment, database, previewed.no, ANN)

    items = await rows(
        url, f"SELECT letter_id, sent_at, why, amount_minor FROM replay_items WHERE run_no = {previewed.no}"
    )
    sent = {row["letter_id"] for row in items if row["sent_at"] is not None}
    otherwise = {
        f"{kept[row['letter_id']]}": row["why"]
        for row in items
        if (row["letter_id"] in listed) is not (row["letter_id"] in sent)
    }
    assert not otherwise
    assert sum(one.count for one in found.summaries if one.bin in TAKEN) == len(sent)
    charged = sum(
        AMOUNT
        for id_ in sent
        if kept[id_].kind in ("command", "request") and _may_still_charge(kept[id_], takes_in_old)
    )
    sums = Counter[str]()
    for one in found.summaries:
        sums.update(one.sums if one.bin is Bin.CHARGES else {})
    assert sums["EUR"] == charged
    await _nobody_else_can_be_replayed(database, kept, sent)


def _may_still_charge(sample: Sample, takes_in_old: bool) -> bool:
    """What is settled charges nobody any more. What was too old counts as charging, whatever became of its payment."""
    return sample.case != "settled" or (takes_in_old and sample.age > DAY)


async def _listed(url: str, no: int) -> set[UUID]:
    found = await rows(url, f"SELECT letter_id FROM replay_items WHERE run_no = {no} AND state = 8")
    return {row["letter_id"] for row in found}


async def _nobody_else_can_be_replayed(database: Database, kept: dict[UUID, Sample], sent: set[UUID]) -> None:
    """What the preview left out is refused, too, if somebody replays it alone; but for what is only not read yet."""
    left = tuple(id_ for id_, one in kept.items() if id_ not in sent and one.is_read and one.change != "in a run")
    results = await dead_letters.replay(database, Selection(ids=left), who=ANN, old_after=DAY, clock=clock)
    assert len(results) == len(left)
    assert not {f"{kept[one.subject]}" for one in results if one.ok and one.subject}


async def test_what_is_read_at_last_is_in_the_same_bin_as_what_was_read_at_once(
    environment: Environment, database: Database
) -> None:
    kept = await keep_samples(environment, database)
    while await LetterReader(database).run_once() == 0.0:
        pass
    previewed = await run_actions.preview(database, LetterFilter(), who=ANN, title="all", clock=clock)
    assert previewed.no is not None
    listed = await _listed(environment.databases["staff"], previewed.no)
    taken = {
        is_read: {
            replace(kept[id_], is_read=True) for id_ in listed if kept[id_].is_read is is_read and not kept[id_].change
        }
        for is_read in (True, False)
    }
    assert taken[True] == taken[False]
    assert len(taken[True]) >= len(KINDS)
