"""Money above the limit on the real database: proposals, who answers them, races, claims and notes."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.staff import people_store, store
from services.staff.actions import accounts, cases, dead_letters, payments, proposals, second_thoughts
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.dead_letters import DeadLetterRecord, DeadLetterStatus
from services.staff.desk.acted import sentence
from services.staff.domain import CaseStatus, DecisionRefusal, Settled
from services.staff.letter_reader import LetterReader
from services.staff.people import Actor, Role, Via, at_terminal
from services.staff.people_store import Person
from services.staff.proposals import ProposalRefusal, ProposalState, SecondPersonLimits
from services.staff.second_person import SecondPersonLimitsKeeper
from services.staff.store import JournalEntry, Selection, append_entries
from shared.clock import system_clock
from shared.contracts.base import TEXT_LENGTH_MAX
from shared.contracts.payment_gateway import ResolvePayment
from shared.persistence.database import Database
from shared.records import replace
from tests.support.databases import execute, rows, until_one_waits
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, NOW, keep_case, keep_request, kept_case_of, tell_case

RESOLVER = frozenset({Role.RESOLVER})
BEN = Actor("ben.resolver", Via.DESK, RESOLVER)
ANN = Actor("ann.resolver", Via.DESK, RESOLVER)
SAW = "the gateway's dashboard shows no charge"


async def decide(database: Database, payment_id: UUID, who: Actor = BEN, **changes: Any) -> ActionResult:
    wanted: dict[str, Any] = {"resolution": "not_charged", "expected_version": 4, "evidence": SAW, "reason": "none"}
    return await payments.resolve(database, payment_id, **(wanted | changes), who=who)


async def proposed(database: Database, payment_id: UUID, who: Actor = BEN) -> UUID:
    result = await decide(database, payment_id, who)
    assert (result.ok, result.proposal is not None) == (True, True), result.text
    assert result.proposal is not None
    return result.proposal


async def sent(environment: Environment) -> list[dict[str, Any]]:
    """The data of the messages that wait to be sent."""
    found = await rows(environment.databases["staff"], "SELECT unnest(bodies) AS body FROM outbox ORDER BY created_at")
    return [orjson.loads(row["body"])["data"] for row in found]


async def journal(environment: Environment) -> list[tuple[str, str]]:
    found = await rows(environment.databases["staff"], "SELECT who, action FROM journal ORDER BY position")
    return [(row["who"], row["action"]) for row in found]


# -- decisions -------------------------------------------------------------------------------------------------------------------------


async def test_up_to_the_limit_one_person_decides(environment: Environment, database: Database) -> None:
    payment_id = await keep_case(database, LIMIT)
    result = await decide(database, payment_id)
    assert (result.ok, result.proposal) == (True, None)
    assert [data["decided_by"] for data in await sent(environment)] == ["ben.resolver"]


async def test_above_the_limit_nothing_leaves_until_another_person_agrees(
    environment: Environment, database: Database
) -> None:
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id)
    assert await sent(environment) == []
    own = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=BEN)
    assert own.refusal is ProposalRefusal.SAME_PERSON
    terminal = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=at_terminal("ann"))
    assert terminal.refusal is ProposalRefusal.NOT_ALLOWED
    assert await sent(environment) == []
    agreed = await proposals.agree(database, payment_id, proposal_id=proposal, saw="no charge there", who=ANN)
    assert agreed.ok, agreed.text
    (data,) = await sent(environment)
    assert (data["decided_by"], data["evidence"]) == ("ben.resolver, ann.resolver agreed", SAW)
    assert await journal(environment) == [
        ("ben.resolver", "propose"),
        ("ben.resolver", "refused"),
        ("ann", "refused"),
        ("ann.resolver", "agree"),
        ("ben.resolver, ann.resolver agreed", "resolve"),
    ]
    after = await kept_case_of(database, payment_id)
    assert after.proposal is None
    assert after.case.decision_on_its_way is not None
    late = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=replace(ANN, name="cleo"))
    assert late.refusal is ProposalRefusal.NO_PROPOSAL
    assert "ann.resolver agreed at " in late.text
    assert ResolvePayment.model_validate(data).journal_head is not None


async def test_a_terminal_is_no_way_around(environment: Environment, database: Database) -> None:
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id, at_terminal("ben.resolver"))
    assert await sent(environment) == []
    own = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=BEN)
    assert own.refusal is ProposalRefusal.SAME_PERSON


@pytest.mark.parametrize("unknown", [{"amount_minor": None}, {"currency": None}, {"currency": "CHF"}])
async def test_what_is_not_known_or_has_no_limit_takes_a_second_person(
    environment: Environment, database: Database, unknown: dict[str, Any]
) -> None:
    amount = unknown.pop("amount_minor", 1)
    await proposed(database, await keep_case(database, amount, **unknown))
    assert await sent(environment) == []


async def test_an_open_proposal_bars_other_decisions_until_it_is_answered(database: Database) -> None:
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id)
    again = await decide(database, payment_id)
    other = await decide(database, payment_id, ANN, resolution="captured", receipt_number="R-1")
    refund = await payments.refund(database, payment_id, refund_id=uuid4(), reason="no", who=ANN, amount_minor=1)
    assert {one.refusal for one in (again, other, refund)} == {ProposalRefusal.PROPOSAL_OPEN}
    assert again.text.endswith("take it back first")
    assert other.text.startswith("ben.resolver proposed not charged at ")
    assert other.text.endswith("agree or do not agree")
    not_mine = await proposals.withdraw(database, payment_id, proposal_id=proposal, who=ANN)
    assert not_mine.refusal is ProposalRefusal.NOT_ALLOWED
    assert (await proposals.withdraw(database, payment_id, who=BEN)).ok
    assert (await proposals.withdraw(database, payment_id, who=BEN)).refusal is ProposalRefusal.NO_PROPOSAL
    second = await proposed(database, payment_id, ANN)
    stale = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=BEN)
    assert stale.refusal is ProposalRefusal.NO_PROPOSAL, "ben looked at another proposal than the one that is open"
    assert (await proposals.disagree(database, payment_id, proposal_id=second, saw="it is there", who=BEN)).ok
    async with database.connection() as connection:
        states = [one.state for one in await store.proposals_about(connection, payment_id)]
    assert states == [ProposalState.WITHDRAWN, ProposalState.DISAGREED]


async def test_of_two_people_who_answer_one_wins_and_the_other_reads_who(
    environment: Environment, database: Database
) -> None:
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id)
    people = [replace(ANN, name=name) for name in ("ann", "cleo")]
    both = await asyncio.gather(
        *(proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=one) for one in people)
    )
    (won,), (lost,) = ([one for one in both if one.ok is ok] for ok in (True, False))
    winner = people[both.index(won)].name
    assert lost.refusal is ProposalRefusal.NO_PROPOSAL
    assert f"{winner} agreed at " in lost.text
    assert len(await sent(environment)) == 1


async def test_of_two_people_who_propose_one_wins(database: Database) -> None:
    payment_id = await keep_case(database)
    both = await asyncio.gather(decide(database, payment_id, BEN), decide(database, payment_id, ANN))
    (lost,) = (one for one in both if not one.ok)
    assert lost.refusal is ProposalRefusal.PROPOSAL_OPEN
    winner = "ben" if both[0].ok else "ann"
    assert lost.text.startswith(f"{winner}.resolver proposed not charged")


async def test_a_proposal_about_an_earlier_version_no_longer_counts(
    environment: Environment, database: Database
) -> None:
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id)
    await tell_case(database, payment_id, Settled(5, CaseStatus.CAPTURED))
    assert (await kept_case_of(database, payment_id)).proposal is None
    late = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=ANN)
    assert late.refusal is ProposalRefusal.PROPOSAL_OUTDATED
    assert await sent(environment) == []


async def test_a_version_that_moved_without_ending_the_proposal_ends_it_now(
    environment: Environment, database: Database
) -> None:
    """The build before moves cases and knows no proposals."""
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id)
    await execute(environment.databases["staff"], "UPDATE cases SET version = 6")
    late = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=ANN)
    assert late.refusal is ProposalRefusal.PROPOSAL_OUTDATED
    anew = await decide(database, payment_id, ANN, expected_version=6)
    assert anew.proposal is not None


# -- refunds ---------------------------------------------------------------------------------------------------------------------------


async def refund(
    database: Database, payment_id: UUID, amount: int | None, who: Actor = BEN, **more: Any
) -> ActionResult:
    more.setdefault("refund_id", uuid4())
    return await payments.refund(database, payment_id, reason="damaged", who=who, amount_minor=amount, **more)


async def test_small_refunds_of_one_payment_add_up(environment: Environment, database: Database) -> None:
    payment_id = await keep_case(database, 90_000, status=CaseStatus.CAPTURED)
    assert (await refund(database, payment_id, 30_000)).proposal is None
    again = await refund(database, payment_id, 30_000, ANN)
    assert again.proposal is not None
    assert [data["amount_minor"] for data in await sent(environment)] == [30_000]
    agreed = await proposals.agree(database, payment_id, proposal_id=again.proposal, saw="it is broken", who=BEN)
    assert agreed.ok, agreed.text
    assert [data["requested_by"] for data in await sent(environment)][-1] == "ann.resolver, ben.resolver agreed"


async def test_two_refunds_at_once_of_a_payment_without_a_case_are_counted_one_after_the_other(
    environment: Environment, database: Database
) -> None:
    payment_id = uuid4()
    known: dict[str, Any] = {"invoice_id": "INV-9", "currency": "EUR"}
    both = await asyncio.gather(*(refund(database, payment_id, 30_000, **known) for _ in range(2)))
    assert sorted(one.proposal is None for one in both) == [False, True]
    assert len(await sent(environment)) == 1


async def test_two_people_agree_with_one_refund_and_not_with_the_same_once_more(
    environment: Environment, database: Database
) -> None:
    """It may have failed meanwhile, and what is left of the payment is another amount."""
    payment_id, refund_id = await keep_case(database, 90_000, status=CaseStatus.CAPTURED), uuid4()
    first = await refund(database, payment_id, None, refund_id=refund_id)
    assert first.proposal is not None
    assert (await proposals.agree(database, payment_id, proposal_id=first.proposal, saw=SAW, who=ANN)).ok
    again = await refund(database, payment_id, None, refund_id=refund_id)
    assert again.proposal not in {None, first.proposal}
    assert len(await sent(environment)) == 1


async def test_a_refund_is_in_the_currency_of_its_payment(environment: Environment, database: Database) -> None:
    """The limit of another currency is another one."""
    payment_id = await keep_case(database, 90_000, status=CaseStatus.CAPTURED)
    refused = await refund(database, payment_id, LIMIT, currency="USD")
    assert (refused.refusal, refused.text) == (ActionRefusal.INVALID, "this payment is in EUR")
    assert await sent(environment) == []


# -- requests that are discarded -------------------------------------------------------------------------------------------------------


async def discard(database: Database, letter_id: UUID, who: Actor = BEN) -> ActionResult:
    (result,) = await dead_letters.discard(database, Selection(ids=(letter_id,)), who=who, reason="a test")
    return result


async def letter_of(database: Database, letter_id: UUID) -> DeadLetterRecord:
    found = await dead_letters.show_dead_letter(database, letter_id)
    assert found is not None
    return found[0]


async def test_to_discard_a_large_request_takes_two_people(environment: Environment, database: Database) -> None:
    small, _ = await keep_request(database, LIMIT)
    large, payment_id = await keep_request(database, LIMIT + 1)
    assert (await discard(database, small)).proposal is None
    waits = await discard(database, large)
    assert (waits.ok, waits.subject) == (True, large)
    assert waits.proposal is not None
    assert (await discard(database, large)).refusal is ProposalRefusal.PROPOSAL_OPEN
    assert (await letter_of(database, large)).status is DeadLetterStatus.OPEN
    agreed = await proposals.agree(database, payment_id, proposal_id=waits.proposal, saw=SAW, who=ANN)
    assert agreed.ok, agreed.text
    record = await letter_of(database, large)
    assert (record.status, record.settlement and record.settlement.by) == (
        DeadLetterStatus.DISCARDED,
        "ben.resolver, ann.resolver agreed",
    )
    assert [data["decided_by"] for data in await sent(environment)] == [
        "ben.resolver",
        "ben.resolver, ann.resolver agreed",
    ]


async def test_nothing_is_done_with_letters_of_a_payment_while_a_proposal_is_open(
    environment: Environment, database: Database
) -> None:
    letter_id, payment_id = await keep_request(database, LIMIT)
    await accounts.change_setting(database, second_thoughts.EDIT_AND_REPLAY, value=True, who=ANN)
    proposal = (await refund(database, payment_id, None, invoice_id="INV-1", currency="EUR")).proposal
    assert proposal is not None
    selection, plain = Selection(ids=(letter_id,)), dict[str, Any](who=ANN, reason="why")
    for _ in range(2):  # also where nobody has read yet what the letter is about
        results = [
            *await dead_letters.replay(database, selection, old_after=None, **plain),
            *await dead_letters.discard(database, selection, **plain),
            await second_thoughts.edit(database, letter_id, old_after=None, **plain),
        ]
        assert {one.refusal for one in results} == {ProposalRefusal.PROPOSAL_OPEN}
        assert {one.text.partition(" at ")[0] for one in results} == {"ben.resolver proposed refund"}
        assert {sentence(one.text, one.name)[:4] for one in results} == {"ben."}
        await LetterReader(database).run_once()
    assert await sent(environment) == []
    assert (await proposals.withdraw(database, payment_id, who=BEN)).ok
    (replayed,) = await dead_letters.replay(database, selection, old_after=None, **plain)
    assert replayed.ok


async def test_a_request_that_was_replayed_meanwhile_is_not_discarded(
    environment: Environment, database: Database
) -> None:
    """The build before replays what is proposed."""
    letter_id, payment_id = await keep_request(database, LIMIT + 1)
    waits = await discard(database, letter_id)
    assert waits.proposal is not None
    replayed = "UPDATE dead_letters SET status = 'replayed', settled_by = 'ann', settled_at = now() WHERE id = $1"
    await execute(environment.databases["staff"], replayed, letter_id)
    late = await proposals.agree(database, payment_id, proposal_id=waits.proposal, saw=SAW, who=ANN)
    assert late.refusal is ProposalRefusal.PROPOSAL_OUTDATED
    assert (await kept_case_of(database, payment_id)).proposal is None


async def test_what_cannot_be_done_is_not_agreed_with(environment: Environment, database: Database) -> None:
    """Both names together are longer than a message takes. The proposals stay open, and nothing is sent."""
    ben = at_terminal("b" * TEXT_LENGTH_MAX)
    letter_id, of_letter = await keep_request(database, LIMIT + 1)
    of_case = await keep_case(database)
    results = {of_letter: await discard(database, letter_id, ben), of_case: await decide(database, of_case, ben)}
    for payment_id, result in results.items():
        assert result.proposal is not None
        refused = await proposals.agree(database, payment_id, proposal_id=result.proposal, saw=SAW, who=ANN)
        assert refused.refusal is ActionRefusal.INVALID
        still = (await kept_case_of(database, payment_id)).proposal
        assert (still and still.id) == result.proposal
    assert await sent(environment) == []
    assert [action for _, action in await journal(environment)] == ["propose", "propose", "refused", "refused"]


# -- claims, notes, contradictions -----------------------------------------------------------------------------------------------------


async def test_of_two_people_who_claim_a_case_the_second_reads_who_is_on_it(database: Database) -> None:
    payment_id = await keep_case(database)
    both = await asyncio.gather(*(cases.claim(database, payment_id, who=who) for who in (BEN, ANN)))
    (lost,) = (one for one in both if not one.ok)
    winner = "ben.resolver" if both[0].ok else "ann.resolver"
    assert lost.refusal is ProposalRefusal.CLAIMED
    assert lost.text.startswith(f"{winner} is on it since ")
    assert (await kept_case_of(database, payment_id)).claimed_by == winner
    assert (await cases.unclaim(database, payment_id, who=ANN)).ok
    assert (await kept_case_of(database, payment_id)).claimed_at is None
    assert (await cases.claim(database, payment_id, who=ANN)).ok


async def test_nobody_is_on_a_case_that_was_settled(database: Database) -> None:
    payment_id = await keep_case(database)
    await cases.claim(database, payment_id, who=BEN)
    await tell_case(database, payment_id, Settled(5, CaseStatus.CAPTURED))
    assert (await kept_case_of(database, payment_id)).claimed_by is None


async def test_a_note_is_kept_in_the_journal(database: Database) -> None:
    payment_id = await keep_case(database)
    assert (await cases.note(database, payment_id, text="called the bank", who=BEN)).ok
    found = await payments.show_case(database, payment_id)
    assert found is not None
    assert [(entry.action, entry.details["note"]) for entry in found[1]] == [("note", "called the bank")]
    for act in (cases.claim, cases.unclaim):
        assert (await act(database, uuid4(), who=BEN)).text == "there is no case of this payment"
    assert not (await cases.note(database, payment_id, text="4242424242424242", who=BEN)).ok


async def test_what_contradicts_a_decision_stands_on_the_case_until_somebody_takes_note(database: Database) -> None:
    payment_id = await keep_case(database)
    early = await cases.take_note(database, payment_id, text="nothing", seen=6, who=BEN)
    assert early.refusal is ProposalRefusal.NOTHING_TO_NOTE
    await tell_case(database, payment_id, Settled(5, CaseStatus.NOT_CHARGED, decided_by="ben.resolver"))
    assert (await kept_case_of(database, payment_id)).contradicted_at is None
    await tell_case(database, payment_id, Settled(6, CaseStatus.CAPTURED))
    shown = await kept_case_of(database, payment_id)
    assert (shown.contradicted_at, shown.noted_at, shown.case.is_contradicted) == (NOW, None, True)
    await tell_case(database, payment_id, Settled(7, CaseStatus.REFUNDED))
    assert (await cases.take_note(database, payment_id, text="the dashboard lagged", seen=6, who=ANN)).ok
    noted = await kept_case_of(database, payment_id)
    assert (noted.case.is_contradicted, noted.noted_at is not None, noted.contradicted_at) == (False, True, NOW)
    again = await cases.take_note(database, payment_id, text="me too", seen=6, who=BEN)
    assert again.refusal is ProposalRefusal.NOTHING_TO_NOTE
    assert "somebody took note of it at " in again.text


async def test_note_is_taken_of_the_contradiction_that_was_shown(database: Database) -> None:
    """Meanwhile somebody decided anew, and the gateway contradicts that, too."""
    payment_id = await keep_case(database)
    for version in (5, 8):
        await tell_case(database, payment_id, Settled(version, CaseStatus.NOT_CHARGED, decided_by="ben.resolver"))
        await tell_case(database, payment_id, Settled(version + 1, CaseStatus.CAPTURED))
    stale = await cases.take_note(database, payment_id, text="the dashboard lagged", seen=6, who=ANN)
    assert stale.refusal is DecisionRefusal.VERSION_DIFFERS
    assert (await kept_case_of(database, payment_id)).case.is_contradicted
    assert (await cases.take_note(database, payment_id, text="it lagged twice", seen=9, who=ANN)).ok


# -- the limits ------------------------------------------------------------------------------------------------------------------------


async def test_the_service_keeps_its_limits_in_the_database(database: Database) -> None:
    first = SecondPersonLimits({"EUR": LIMIT, "USD": LIMIT})
    keeper = SecondPersonLimitsKeeper(database, SecondPersonLimits({"EUR": 100, "CHF": 5}))
    try:
        for _ in range(2):
            assert await keeper.run_once() == keeper.interval_s
            async with database.connection() as connection:
                assert await store.second_person_limits(connection) == {"EUR": 100, "CHF": 5}
        assert (await decide(database, await keep_case(database, 101))).proposal is not None
        assert (await decide(database, await keep_case(database, 100))).proposal is None
    finally:
        await SecondPersonLimitsKeeper(database, first).run_once()
    async with database.connection() as connection:
        assert await store.second_person_limits(connection) == first.above_minor


async def test_a_decision_that_is_on_its_way_is_not_agreed_to_anew(
    environment: Environment, database: Database
) -> None:
    """Limits were raised meanwhile, and somebody else decided alone on a case that had no proposal then."""
    payment_id = await keep_case(database, LIMIT)
    assert (await decide(database, payment_id)).ok
    again = await decide(database, payment_id, ANN)
    assert again.refusal is DecisionRefusal.DECISION_ON_ITS_WAY
    assert len(await sent(environment)) == 1


async def test_how_a_proposal_ended_stays(database: Database) -> None:
    payment_id = await keep_case(database)
    await proposed(database, payment_id)
    assert (await proposals.withdraw(database, payment_id, who=BEN)).ok
    async with database.transaction() as tx:
        (ended,) = await store.proposals_about(tx, payment_id)
        await store.end_proposal(tx, replace(ended, state=ProposalState.AGREED, answered_by="ann"))
        await store.outdate_proposals(tx, {payment_id: ended.version + 1}, system_clock())
        assert await store.proposals_about(tx, payment_id) == [ended]
    assert ended.state is ProposalState.WITHDRAWN


async def test_of_two_who_would_discard_a_request_at_once_one_proposes_it(
    environment: Environment, database: Database
) -> None:
    """Neither saw the other's proposal when the amount was compared with the limit."""
    letter_id, payment_id = await keep_request(database, LIMIT + 1)
    limits = SecondPersonLimits({"EUR": LIMIT})
    waits = dead_letters._discard_or_wait(await letter_of(database, letter_id), BEN, "a test", NOW, limits, 0)
    assert isinstance(waits, dead_letters._Waits)
    first, second = [await dead_letters._propose_discard(database, waits, who, "a test", NOW) for who in (BEN, ANN)]
    assert first.proposal is not None
    assert second.refusal is ProposalRefusal.PROPOSAL_OPEN
    assert (await proposals.withdraw(database, payment_id, who=BEN)).ok
    replayed = "UPDATE dead_letters SET status = 'replayed', settled_by = 'ann', settled_at = now()"
    await execute(environment.databases["staff"], replayed)
    third = await dead_letters._propose_discard(database, waits, ANN, "a test", NOW)
    assert third.refusal is ActionRefusal.ALREADY_REPLAYED


# -- who could be two people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Ben\u0130", "\u212aate"])
async def test_an_account_that_was_made_by_clicks_is_known_whatever_its_letters(database: Database, name: str) -> None:
    person, now = Person(uuid4(), name, frozenset(), "none", None, active=True), system_clock()
    async with database.transaction() as tx:
        await people_store.insert_person(tx, person, now)
        await append_entries(tx, [JournalEntry.of(Actor("cleo", Via.DESK), now, "add_person", person.id, {})])
        assert await people_store.let_in_by_clicks(tx, name, "cleo") == [name]


@pytest.mark.parametrize("doubtful", [BEN.name, ANN.name])
async def test_an_account_that_was_made_by_clicks_is_not_one_of_two_people(
    environment: Environment, database: Database, doubtful: str
) -> None:
    """Otherwise an admin could make a second self at the desk, and agree with it."""
    cleo, run = Actor("cleo.admin", Via.DESK, frozenset(Role)), at_terminal("operator")
    for person in (BEN, ANN):
        maker = cleo if person.name == doubtful else run
        await accounts.add_person(database, person.name, roles=RESOLVER, password="x", who=maker)
    payment_id = await keep_case(database)
    proposal = await proposed(database, payment_id)
    own = Actor(doubtful, Via.DESK, RESOLVER)
    await accounts.set_password(database, doubtful, password="its own", who=own)
    refused = await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=ANN)
    assert refused.refusal is ProposalRefusal.NOT_ALLOWED
    assert refused.text.startswith(f"{doubtful} got a password at the desk")
    assert await sent(environment) == []
    await accounts.set_password(database, doubtful, password="y", who=run)
    await accounts.set_password(database, doubtful, password="its own anew", who=own)
    assert (await proposals.agree(database, payment_id, proposal_id=proposal, saw=SAW, who=ANN)).ok
    assert len(await sent(environment)) == 1


# -- sent again ------------------------------------------------------------------------------------------------------------------------


async def test_what_is_sent_again_because_its_answer_was_lost_is_done_once(
    environment: Environment, database: Database
) -> None:
    """The desk died after the act, before it kept the answer for the form."""
    payment_id, again = await keep_case(database, LIMIT), replace(BEN, request=uuid4())
    large, refund_id = await keep_case(database), uuid4()
    for _ in range(2):
        done = [
            await payments.ask(database, payment_id, who=again),
            await cases.claim(database, payment_id, who=again),
            await cases.note(database, payment_id, text="called", who=again),
            await cases.unclaim(database, payment_id, who=again),
            await refund(database, payment_id, 9, again, refund_id=refund_id),
            await decide(database, payment_id, again),
            await decide(database, large, again),
        ]
        assert [(one.ok, one.entry is not None) for one in done] == [(True, True)] * 7
        assert done[-1].proposal == done[-1].entry
    assert len(await sent(environment)) == 3
    assert len(await journal(environment)) == 7


async def test_a_discard_locks_its_case_before_its_letter_like_whoever_agrees(
    environment: Environment, database: Database
) -> None:
    letter_id, payment_id = await keep_request(database, LIMIT + 1)
    await discard(database, letter_id)
    assert (await proposals.withdraw(database, payment_id, who=BEN)).ok
    async with asyncio.timeout(20), database.transaction() as tx:
        assert await store.find_case(tx, payment_id, lock=True) is not None
        discarding = asyncio.create_task(discard(database, letter_id, ANN))
        await until_one_waits(environment.databases["staff"])
        await tx.fetch("SELECT id FROM dead_letters WHERE id = $1 FOR UPDATE NOWAIT", letter_id)
    assert (await discarding).proposal is not None
