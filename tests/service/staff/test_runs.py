"""Runs over the real broker and database: each message is sent once or is still open, whatever dies in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.staff import run_store, store
from services.staff.__main__ import assemble
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions import runs as run_actions
from services.staff.dead_letters import arrive
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Via
from services.staff.run_sender import RunSender
from services.staff.runs import Bin, ItemState, RunAct, RunRefusal, RunState
from services.staff.store import Selection
from shared import crash_points
from shared.clock import system_clock
from shared.contracts import invoice as messages
from shared.contracts.operations import ReplayHandled
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft
from shared.persistence.database import Database
from shared.records import replace
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.kept_letters import QUEUE, event, keep, payment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

ANN = Actor("ann", Via.DESK)
DAY = timedelta(days=1)


@asynccontextmanager
async def armed(setting: str) -> AsyncIterator[None]:
    crash_points.arm(setting)
    try:
        yield
    finally:
        crash_points.arm("")


async def fail_again(database: Database, letter_id: UUID, error_type: str = "ValueError") -> None:
    """The replayed message comes back as a dead letter."""
    async with database.transaction() as tx:
        records = await store.lock_letters(tx, {letter_id})
        record = records[letter_id]
        letter = replace(record.letter, generation=record.replays, error_type=error_type)
        await store.save_letters(tx, [arrive(record, letter, system_clock())], locked=records)


async def tell(environment: Environment, outcome: str = "handled", where: str = "outcome IS NULL") -> None:
    """What services tell of all that was replayed."""
    await execute(
        environment.databases["staff"],
        f"UPDATE dead_letters SET outcome = '{outcome}', outcome_at = now() WHERE replay_entry IS NOT NULL AND {where}",
    )


class Nowhere:
    """Stands in for the broker: it publishes nothing, so what was sent stays in the outbox."""

    async def publish(self, batches: object) -> None: ...


@pytest.fixture
def sender(database: Database) -> RunSender:
    return RunSender(database, Nowhere(), system_clock, old_after=DAY)  # type: ignore[arg-type]


async def begun(database: Database, filter_: LetterFilter | None = None, **options: Any) -> int:
    previewed = await run_actions.preview(database, filter_ or LetterFilter(), who=ANN, title="test")
    assert previewed.no is not None, previewed.result.text
    result = await run_actions.act(database, previewed.no, RunAct.TRY, who=ANN, **{"sure": True} | options)
    assert result.ok, result.text
    return previewed.no


async def state_of(database: Database, no: int) -> RunState:
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    return shown[0].run.state


async def sent_ids(environment: Environment) -> list[str]:
    found = await rows(environment.databases["staff"], "SELECT message_id FROM outbox_messages WHERE exchange = ''")
    return sorted(row["message_id"] for row in found)


# -- the preview ---------------------------------------------------------------------------------------------------------------------------


async def test_a_preview_fixes_the_list_and_says_what_it_would_charge(database: Database) -> None:
    old = payment("INV-3", 5_00)
    old = replace(old, asked_at=system_clock() - 2 * DAY)
    await keep(database, payment("INV-1", 12_00), payment("INV-2", 4_00), old, event(1))
    previewed = await run_actions.preview(database, LetterFilter(), who=ANN, title="all")
    assert previewed.no == 1
    shown = await run_actions.show_run(database, 1)
    assert shown is not None
    kept, counts = shown
    assert {one["bin"]: (one["count"], one["sums"]) for one in kept.bins} == {
        Bin.CHARGES: (2, {"EUR": 16_00}),
        Bin.CHARGES_NOBODY: (1, {}),
        Bin.TOO_OLD: (1, {}),
    }
    assert (kept.total, counts[ItemState.LISTED], counts[ItemState.LEFT_OUT]) == (3, 3, 1)
    await keep(database, event(2))
    refused = await run_actions.act(database, 1, RunAct.TRY, who=ANN)
    assert refused.refusal is RunRefusal.NOT_SURE
    async with database.connection() as connection:
        first = (await run_store.smallest_of(connection, 1, at_most=1))[0]
    assert first.invoice_id == "INV-2"


async def test_nothing_selected_is_no_run(database: Database) -> None:
    previewed = await run_actions.preview(database, LetterFilter(), who=ANN, title="none")
    assert (previewed.no, previewed.result.refusal) == (None, RunRefusal.NONE_SELECTED)


async def test_a_letter_is_in_one_run_at_a_time(database: Database) -> None:
    await keep(database, event(1), event(2))
    second = await run_actions.preview(database, LetterFilter(), who=ANN, title="second")
    first = await begun(database)
    third = await run_actions.preview(database, LetterFilter(), who=ANN, title="third")
    assert second.no is not None
    assert third.no is not None
    result = await run_actions.act(database, second.no, RunAct.TRY, who=ANN)
    assert result.ok
    for no, listed in ((second.no, 0), (third.no, 0), (first, 2)):
        shown = await run_actions.show_run(database, no)
        assert shown is not None
        assert shown[0].total == listed


async def test_the_same_act_sent_twice_is_one_run(database: Database) -> None:
    await keep(database, event(1))
    once = Actor("ann", Via.DESK, request=uuid4())
    both = [await run_actions.preview(database, LetterFilter(), who=once, title="twice") for _ in range(2)]
    assert [one.no for one in both] == [1, 1]


# -- how it goes ---------------------------------------------------------------------------------------------------------------------------


async def test_a_run_goes_through_all_steps(environment: Environment, database: Database, sender: RunSender) -> None:
    await keep(database, *(event(number) for number in range(115)))
    no = await begun(database)
    for act, sent, state in (
        (None, 1, RunState.WAITING),
        (RunAct.GO, 111, RunState.WAITING),
        (RunAct.REST, 115, RunState.DONE),
    ):
        if act is not None:
            assert (await run_actions.act(database, no, act, who=ANN, rate=500)).ok
        for _ in range(9):
            await execute(
                environment.databases["staff"], "UPDATE replay_runs SET paced_at = now() - interval '1 second'"
            )
            await sender.take_turn(no)
            await tell(environment)
        assert len(await sent_ids(environment)) == sent
        assert await state_of(database, no) is state
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert (shown[0].ended_at is not None, shown[1][ItemState.HANDLED]) == (True, 115)
    journal = await rows(environment.databases["staff"], "SELECT who, details FROM journal WHERE action = 'replay'")
    assert {(row["who"], row["details"]["run"]) for row in journal} == {("ann", no)}
    assert len(journal) == 115


async def test_it_stops_by_itself_at_the_one_that_fails_again(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    letter_id, _ = await keep(database, event(1), event(2))
    no = await begun(database, first=letter_id)
    await sender.take_turn(no)
    await fail_again(database, letter_id)
    assert await sender.take_turn(no) is RunState.HALTED
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert (shown[0].run.halted_by, shown[0].run.halted_how) == (letter_id, "failed")
    assert await sender.take_turn(no) is RunState.HALTED
    assert (await run_actions.act(database, no, RunAct.LEAVE_OUT, who=ANN)).ok
    assert await sender.take_turn(no) is RunState.WAITING
    assert len(await sent_ids(environment)) == 1


async def test_a_message_of_which_nothing_is_heard_stops_it(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    await keep(database, event(1))
    no = await begun(database)
    await sender.take_turn(no)
    assert await sender.take_turn(no) is RunState.RUNNING
    await execute(environment.databases["staff"], "UPDATE replay_items SET sent_at = sent_at - interval '61 seconds'")
    assert await sender.take_turn(no) is RunState.HALTED
    await tell(environment)
    assert (await run_actions.act(database, no, RunAct.LEAVE_OUT, who=ANN)).ok
    assert await sender.take_turn(no) is RunState.DONE
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert shown[1][ItemState.HANDLED] == 1


async def test_what_somebody_else_replayed_or_what_got_too_old_is_left_out(
    environment: Environment, database: Database
) -> None:
    letter_id, _ = await keep(database, event(1), payment("INV-1", 100))
    no = await begun(database, first=letter_id)
    assert [r.ok for r in await dead_letter_actions.replay(database, Selection(ids=(letter_id,)), who=ANN)] == [True]
    sender = RunSender(database, Nowhere(), system_clock, old_after=-DAY)  # type: ignore[arg-type]
    for _ in range(3):
        await sender.take_turn(no)
    assert await state_of(database, no) is RunState.DONE
    found = await rows(environment.databases["staff"], "SELECT why FROM replay_items ORDER BY position")
    assert [row["why"] for row in found] == ["already_replayed", "old_charge"]
    assert len(await sent_ids(environment)) == 1


async def test_what_waits_stays_open_when_a_run_is_stopped(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    await keep(database, *(event(number) for number in range(3)))
    no = await begun(database)
    await sender.take_turn(no)
    assert (await run_actions.act(database, no, RunAct.STOP, who=ANN)).ok
    await sender.take_turn(no)
    await tell(environment)
    await sender.take_turn(no)
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert (shown[0].ended_at is not None, shown[1][ItemState.HANDLED], shown[1][ItemState.NOT_SENT]) == (True, 1, 2)
    again = await run_actions.preview(database, LetterFilter(), who=ANN, title="again")
    assert again.result.text == "R-2 lists 2 messages; nothing is sent"


# -- what dies ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["staff.run.before_commit", "staff.run.after_commit"])
async def test_whatever_dies_each_message_is_sent_once_or_is_open(
    environment: Environment, database: Database, sender: RunSender, point: str
) -> None:
    ids = await keep(database, event(1))
    no = await begun(database)
    async with armed(f"{point}:1:raise"):
        with pytest.raises(crash_points.InjectedFault):
            await sender.take_turn(no)
    is_sent = point.endswith("after_commit")
    (letter,) = await rows(environment.databases["staff"], "SELECT status FROM dead_letters")
    assert letter["status"] == ("replayed" if is_sent else "open")
    assert len(await sent_ids(environment)) == int(is_sent)
    other = RunSender(database, Nowhere(), system_clock, old_after=DAY)  # type: ignore[arg-type]
    assert await other.take_turn(no) is (None if is_sent else RunState.RUNNING)
    await execute(environment.databases["staff"], "UPDATE replay_runs SET lease_until = now() - interval '1 second'")
    await other.take_turn(no)
    assert len(await sent_ids(environment)) == 1
    journal = await rows(environment.databases["staff"], "SELECT subject FROM journal WHERE action = 'replay'")
    assert [row["subject"] for row in journal] == ids


async def test_a_run_survives_the_service_over_the_real_broker(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    await keep(database, *(event(number) for number in range(3)))
    no = await begun(database)
    async with environment.running("staff", assemble):
        tap = await upstream.queue(QUEUE)
        first = await tap.next()
    await tell(environment)
    await execute(environment.databases["staff"], "UPDATE replay_runs SET lease_until = now()")
    async with environment.running("staff", assemble):
        await _becomes(database, no, RunState.WAITING)
        assert (await run_actions.act(database, no, RunAct.REST, who=ANN, rate=500)).ok
        others = await tap.take(2)
        await tell(environment)
        await _becomes(database, no, RunState.DONE)
    assert len({first.id, *(one.id for one in others)}) == 3
    assert await tap.waiting() == []


async def _becomes(database: Database, no: int, state: RunState) -> None:
    async def is_there() -> bool:
        return await state_of(database, no) is state

    await until(is_there, what=f"the run {state}")


# -- what is told of replays -------------------------------------------------------------------------------------------------------------


async def test_only_of_a_replayed_message_is_told_what_became_of_it(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    from services.invoice.__main__ import assemble as assemble_invoice

    issue = messages.IssueInvoice(invoice_id="INV-9", customer_id="C-1", amount_minor=100, currency="EUR")
    sent = encode(Draft(issue), Cause(uuid4(), "C-1", system_clock()), 0, source="/billing")
    letter = replace(
        event(1),
        queue="invoice.commands",
        body=sent.body,
        body_bytes=len(sent.body),
        content_type=STRUCTURED,
        message_id=str(sent.id),
        type=issue.wire_name,
        sender="administrator",
    )
    await keep(database, letter)
    tap = await upstream.tap("staff.reports", ReplayHandled.wire_name)
    async with environment.running("staff", assemble), environment.running("invoice", assemble_invoice):
        await upstream.send(issue)  # healthy: nothing is told of it
        await dead_letter_actions.replay(database, Selection(), who=ANN)
        told = await tap.next()
        assert (told.data["queue"], told.data["replays"]) == ("invoice.commands", 1)
        assert told.data["outcome"] in {"handled", "rejected"}

        async def noted() -> list[dict[str, Any]]:
            return await rows(environment.databases["staff"], "SELECT * FROM dead_letters WHERE outcome IS NOT NULL")

        (kept,) = await until(noted, what="the outcome")
    assert kept["outcome"] == told.data["outcome"]
    assert await tap.waiting() == []
