"""Runs over the real broker and database: each message is sent once or is still open, whatever dies in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.staff import run_sender, run_store, store
from services.staff.__main__ import assemble
from services.staff.actions import accounts
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions import runs as run_actions
from services.staff.actions.results import ActionRefusal
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, Withheld, arrive
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Role, Via
from services.staff.proposals import ProposalRefusal
from services.staff.run_sender import REST_S, TURN_S, RunSender
from services.staff.runs import Bin, Halt, ItemState, RunAct, RunRefusal, RunState
from services.staff.store import Selection
from shared import crash_points
from shared.clock import system_clock
from shared.contracts import invoice as messages
from shared.contracts.operations import ReplayHandled
from shared.messaging.apply import apply_topology
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft, Lane
from shared.persistence.database import Connection, Database
from shared.records import replace
from tests.support.databases import execute, outbox_is_empty, rows, until_one_waits
from tests.support.environment import Environment
from tests.support.kept_letters import QUEUE, event, keep, payment
from tests.support.publishing_lanes import PublishingLanes
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import DEADLINE_S, until

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


async def long_ago(environment: Environment) -> None:
    """More than a minute passes for all that was sent."""
    await execute(environment.databases["staff"], "UPDATE replay_items SET sent_at = sent_at - interval '61 seconds'")
    await execute(environment.databases["staff"], "UPDATE outbox SET created_at = created_at - interval '61 seconds'")


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
        Bin.TOO_OLD: (1, {"EUR": 5_00}),
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
    await long_ago(environment)
    assert await sender.take_turn(no) is RunState.RUNNING, "it still waits for the broker, which may be away"
    await execute(environment.databases["staff"], "DELETE FROM outbox")
    assert await sender.take_turn(no) is RunState.RUNNING
    await long_ago(environment)
    assert await sender.take_turn(no) is RunState.HALTED
    await tell(environment)
    assert (await run_actions.act(database, no, RunAct.LEAVE_OUT, who=ANN)).ok
    assert await sender.take_turn(no) is RunState.DONE
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert shown[1][ItemState.HANDLED] == 1


@pytest.mark.parametrize(
    ("halted", "act"), [(False, RunAct.RESUME), (True, RunAct.LEAVE_OUT)], ids=["paused", "halted"]
)
async def test_it_goes_on_without_what_was_shown_and_nothing_else(
    environment: Environment, database: Database, sender: RunSender, halted: bool, act: RunAct
) -> None:
    """Messages fail while somebody looks at a page that is not live."""
    ids = await keep(database, *(event(number) for number in range(12)))
    no = await begun(database)
    await sender.take_turn(no)
    await tell(environment)
    await sender.take_turn(no)
    assert (await run_actions.act(database, no, RunAct.GO, who=ANN)).ok
    await sender.take_turn(no)
    sent = [id_ for id_ in ids if await is_on_its_way(environment, id_)]
    if halted:
        await fail_again(database, sent[0])
    else:
        assert (await run_actions.act(database, no, RunAct.PAUSE, who=ANN)).ok
    await sender.take_turn(no)
    shown = await version_of(database, no)
    await fail_again(database, sent[1])
    await sender.take_turn(no)
    refused = await run_actions.act(database, no, act, who=ANN, version=shown)
    assert refused.refusal is ActionRefusal.CHANGED
    assert (await run_actions.act(database, no, act, who=ANN, version=await version_of(database, no))).ok
    assert await sender.take_turn(no) is RunState.RUNNING
    await fail_again(database, sent[2])
    assert await sender.take_turn(no) is RunState.HALTED


async def is_on_its_way(environment: Environment, letter_id: UUID) -> bool:
    query = f"SELECT 1 FROM replay_items WHERE letter_id = $1 AND state = {ItemState.SENT}"
    return bool(await rows(environment.databases["staff"], query, letter_id))


async def version_of(database: Database, no: int) -> str:
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    return shown[0].version(shown[1])


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


@pytest.mark.parametrize("listed", [event(1), payment("INV-1", 100)])
async def test_what_came_anew_and_charges_otherwise_than_the_list_shows_is_left_out(
    environment: Environment, database: Database, sender: RunSender, listed: DeadLetter
) -> None:
    """A sender may send another body under the same id."""
    (letter_id,) = await keep(database, listed)
    no = await begun(database)
    other = payment("INV-1", 900_000)
    async with database.transaction() as tx:
        records = await store.lock_letters(tx, {letter_id})
        record = arrive(records[letter_id], replace(other, id=letter_id), system_clock())
        await store.save_letters(tx, [record], locked=records)
    await sender.take_turn(no)
    found = await rows(environment.databases["staff"], "SELECT state, why FROM replay_items")
    assert [dict(row) for row in found] == [{"state": ItemState.LEFT_OUT, "why": "changed"}]
    assert await sent_ids(environment) == []


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
        await outbox_is_empty(environment.databases["staff"])  # else it may be sent again, under the same id
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


@pytest.fixture
async def staff_lanes(environment: Environment, database: Database) -> AsyncIterator[PublishingLanes]:
    """The lanes of the staff service, whose sweepers run when a test wants."""
    opened = PublishingLanes(environment.rabbitmq_url, database)
    yield opened
    await opened.close()


async def test_what_was_published_and_not_noted_is_published_again_as_it_was(
    environment: Environment, upstream: UpstreamClient, database: Database, staff_lanes: PublishingLanes
) -> None:
    """The process dies between the broker's confirm and the end of the outbox row. Who receives it knows it by its id."""
    await keep(database, event(1))
    no = await begun(database)
    sender = RunSender(database, staff_lanes.outside, system_clock, old_after=DAY)
    async with armed("relay.after_outside:1:raise"):
        with pytest.raises(crash_points.InjectedFault):
            await sender.take_turn(no)
    await staff_lanes.sweep(Lane.OUTSIDE)
    first, again = await (await upstream.queue(QUEUE)).waiting()
    assert (first.id, first.message.body, first.message.headers) == (
        again.id,
        again.message.body,
        again.message.headers,
    )
    assert await staff_lanes.waiting() == []
    await tell(environment)
    assert await sender.take_turn(no) is RunState.DONE
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert shown[1].of == {ItemState.HANDLED: 1}
    assert len(await rows(environment.databases["staff"], "SELECT 1 FROM journal WHERE action = 'replay'")) == 1


# -- what goes wrong ---------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def gone(environment: Environment, upstream: UpstreamClient) -> AsyncIterator[None]:
    await upstream.delete_queue(QUEUE)
    yield
    await apply_topology(environment.rabbitmq_url)


@asynccontextmanager
async def full(environment: Environment, upstream: UpstreamClient) -> AsyncIterator[None]:
    ctl, vhost = environment.stack.broker.ctl, environment.stack.vhost
    policy = '{"max-length": 1, "overflow": "reject-publish"}'
    await asyncio.to_thread(ctl, "-p", vhost, "set_policy", "full", f"^{QUEUE}$", policy, "--apply-to", "queues")
    for _ in range(2):  # a quorum queue takes one more than it may have
        await upstream.send_raw(b"{}", exchange="", key=QUEUE, message_id=str(uuid4()))
    yield
    await asyncio.to_thread(ctl, "-p", vhost, "clear_policy", "full")
    await upstream.purge()


@pytest.mark.parametrize("trouble", [gone, full])
async def test_a_run_stops_when_the_broker_refuses_and_its_letters_are_open(
    environment: Environment,
    upstream: UpstreamClient,
    database: Database,
    staff_lanes: PublishingLanes,
    trouble: Callable[[Environment, UpstreamClient], AbstractAsyncContextManager[None]],
) -> None:
    await keep(database, event(1), event(2))
    no = await begun(database)
    sender = RunSender(database, staff_lanes.outside, system_clock, old_after=DAY)
    async with trouble(environment, upstream):
        await sender.take_turn(no)
        await staff_lanes.sweep(Lane.RETRY)  # refused for the second time, it is left alone for longer
        # A machine that stands still for seconds must not use that up.
        staff = environment.databases["staff"]
        await execute(staff, "UPDATE outbox SET sweep_after = sweep_after + interval '1 minute' WHERE refusals = 2")
        assert await sender.take_turn(no) is RunState.HALTED
        shown = await run_actions.show_run(database, no)
        assert shown is not None
        assert (shown[0].run.halted_how, shown[0].run.halted_why) == (Halt.REFUSED, QUEUE)
        assert (shown[1].of, await staff_lanes.waiting()) == ({ItemState.WAITS: 2}, [])
        letters = await rows(environment.databases["staff"], "SELECT DISTINCT status, replays FROM dead_letters")
        assert [dict(row) for row in letters] == [{"status": "open", "replays": 0}]
    assert (await run_actions.act(database, no, RunAct.LEAVE_OUT, who=ANN)).refusal is RunRefusal.RUN_NOT_RUNNING
    assert (await run_actions.act(database, no, RunAct.RESUME, who=ANN)).ok
    assert await sender.take_turn(no) is RunState.RUNNING
    await staff_lanes.sweep(Lane.RETRY)  # what refused lately is tried apart from others
    assert len(await (await upstream.queue(QUEUE)).waiting()) == 1
    acts = await rows(
        environment.databases["staff"], "SELECT action FROM journal WHERE details ? 'run' ORDER BY position"
    )
    assert [row["action"] for row in acts] == ["run_try", "replay", "undo", "run_resume", "replay"]


async def test_a_run_that_fails_stops_and_holds_no_other(
    environment: Environment, database: Database, sender: RunSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await keep(database, event(1), event(2))
    bad = await begun(database, LetterFilter(ids=(one,)))
    good = await begun(database, LetterFilter(ids=(two,)))
    settle_items = run_store.settle_items

    async def failing(tx: Any, no: int) -> None:
        if no == bad:
            raise KeyError("a text of somebody")
        await settle_items(tx, no)

    monkeypatch.setattr(run_store, "settle_items", failing)
    assert await sender.run_once() == TURN_S
    assert await state_of(database, good) is RunState.RUNNING
    assert len(await sent_ids(environment)) == 1
    shown = await run_actions.show_run(database, bad)
    assert shown is not None
    assert (shown[0].run.state, shown[0].run.halted_how) == (RunState.HALTED, Halt.ERROR)
    assert shown[0].run.halted_why == "KeyError", "its text may be anybody's"
    monkeypatch.undo()
    assert (await run_actions.act(database, bad, RunAct.RESUME, who=ANN)).ok
    again = RunSender(database, Nowhere(), system_clock, old_after=DAY, seconds=lambda: 0.0)  # type: ignore[arg-type]
    await execute(environment.databases["staff"], "UPDATE replay_runs SET lease_until = now() - interval '1 second'")
    await again.run_once()
    assert len(await sent_ids(environment)) == 2


REFUSING = """
    CREATE FUNCTION refuse_letter() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'a test' USING ERRCODE = 'data_exception'; END $$;
    CREATE TRIGGER refuse_letter BEFORE UPDATE ON dead_letters FOR EACH ROW
        WHEN (NEW.error_type = 'Refused') EXECUTE FUNCTION refuse_letter();
"""


async def test_what_cannot_be_taken_is_set_aside_and_the_run_goes_on(
    environment: Environment, database: Database, sender: RunSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = replace(event(1), type="a bug")
    await keep(database, *(event(number) for number in range(2, 6)), bug, replace(event(6), error_type="Refused"))
    message_of = dead_letter_actions.replayed_message

    def failing(record: DeadLetterRecord, *arguments: Any, **options: Any) -> Any:
        if record.letter.type == bug.type:
            raise KeyError
        return message_of(record, *arguments, **options)

    monkeypatch.setattr(dead_letter_actions, "replayed_message", failing)
    no = await begun(database)
    await execute(environment.databases["staff"], REFUSING)
    try:
        for act in (None, RunAct.GO):
            if act is not None:
                assert (await run_actions.act(database, no, act, who=ANN)).ok
            # The ids are drawn: both may come first. Then two turns set them aside, one sends, and one hears of it.
            for _ in range(4):
                await sender.take_turn(no)
                await tell(environment)
    finally:
        await execute(environment.databases["staff"], "DROP FUNCTION refuse_letter CASCADE")
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert (shown[0].run.state, shown[1].set_aside) == (RunState.DONE, 2)
    assert shown[1].of == {ItemState.HANDLED: 4, ItemState.LEFT_OUT: 2}
    why = await rows(environment.databases["staff"], "SELECT why FROM replay_items WHERE state = 7 ORDER BY why")
    assert [row["why"] for row in why] == ["error_of_ours", "unstorable"]
    still_open = await rows(environment.databases["staff"], "SELECT id FROM dead_letters WHERE status = 'open'")
    assert len(still_open) == 2


async def test_a_turn_that_fails_is_tried_again_after_a_rest_and_a_conflict_halts_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep(database, event(1))
    no = await begun(database)
    tried, now = [], [0.0]

    async def failing(*_: Any) -> None:
        tried.append(now[0])
        raise asyncpg.DeadlockDetectedError

    monkeypatch.setattr(run_store, "settle_items", failing)
    sender = RunSender(database, Nowhere(), system_clock, old_after=DAY, seconds=lambda: now[0])  # type: ignore[arg-type]
    for now[0] in (0.0, REST_S - 0.1, REST_S + 0.1):
        await sender.run_once()
    assert tried == [0.0, REST_S + 0.1]
    assert await state_of(database, no) is RunState.RUNNING


async def test_an_outage_halts_no_run(database: Database, sender: RunSender, monkeypatch: pytest.MonkeyPatch) -> None:
    await keep(database, event(1))
    no = await begun(database)

    async def failing(*_: Any) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(run_store, "settle_items", failing)
    with pytest.raises(ConnectionResetError):  # `run_every` backs off, and tells of the outage
        await sender.run_once()
    assert await state_of(database, no) is RunState.RUNNING


async def test_a_turn_sends_so_many_messages_at_most(
    environment: Environment, database: Database, sender: RunSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_sender, "CHUNK_MAX", 2)
    await keep(database, *(event(number) for number in range(6)))
    no = await begun(database)
    sent = []
    for act in (None, None, RunAct.GO, None):
        if act is not None:
            assert (await run_actions.act(database, no, act, who=ANN)).ok
        await sender.take_turn(no)
        sent.append(len(await sent_ids(environment)))
        await tell(environment)
    assert sent == [1, 1, 3, 5]


REFUSED = "UPDATE outbox SET refusals = 1, sweep_after = now() + interval '1 minute'"
"""The broker refused whatever is in the outbox."""


async def test_what_a_stopped_run_could_not_send_waits_no_longer(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    handled, refused = await keep(database, event(1), event(2))
    no = await begun(database, first=handled)
    await sender.take_turn(no)
    await tell(environment)
    await execute(environment.databases["staff"], "DELETE FROM outbox")  # it is confirmed
    assert await sender.take_turn(no) is RunState.WAITING
    assert (await run_actions.act(database, no, RunAct.GO, who=ANN)).ok
    await sender.take_turn(no)
    assert (await run_actions.act(database, no, RunAct.STOP, who=ANN)).ok
    await execute(environment.databases["staff"], REFUSED)
    await sender.take_turn(no)
    async with database.transaction() as tx:
        await run_store.take_back_items(tx, no, [handled])  # of what was handled nothing comes back
        counts = await run_store.counts_of(tx, no)
    assert counts.of == {ItemState.HANDLED: 1, ItemState.NOT_SENT: 1}
    letters = await rows(environment.databases["staff"], "SELECT id FROM dead_letters WHERE status = 'open'")
    assert [row["id"] for row in letters] == [refused]


async def test_a_letter_that_was_replayed_anew_is_not_opened_by_the_refusal_of_an_earlier_replay(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    await keep(database, event(1))
    no = await begun(database)
    await sender.take_turn(no)
    await execute(environment.databases["staff"], REFUSED)
    anew = uuid4()
    await execute(environment.databases["staff"], "UPDATE dead_letters SET replay_entry = $1", anew)
    await sender.take_turn(no)
    letters = await rows(environment.databases["staff"], "SELECT status, replay_entry FROM dead_letters")
    assert [dict(row) for row in letters] == [{"status": "replayed", "replay_entry": anew}]


async def test_what_was_told_of_another_replay_says_nothing_about_a_run(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    await keep(database, event(1))
    no = await begun(database)
    await sender.take_turn(no)
    await tell(environment)
    await execute(environment.databases["staff"], "UPDATE dead_letters SET replay_entry = $1", uuid4())
    assert await sender.take_turn(no) is RunState.RUNNING
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert shown[1].of == {ItemState.SENT: 1}


async def test_an_error_of_ours_halts_only_a_run_that_is_running(database: Database) -> None:
    await keep(database, event(1))
    no = await begun(database)
    assert (await run_actions.act(database, no, RunAct.PAUSE, who=ANN)).ok
    async with database.connection() as connection:
        await run_store.halt(connection, no, "KeyError")
    assert await state_of(database, no) is RunState.PAUSED


async def test_what_a_stopped_run_did_not_send_can_be_in_another_one(database: Database) -> None:
    await keep(database, event(1), event(2))
    no = await begun(database)
    assert (await run_actions.act(database, no, RunAct.STOP, who=ANN)).ok
    another = await begun(database)
    shown = await run_actions.show_run(database, another)
    assert shown is not None
    assert shown[1].of == {ItemState.WAITS: 2}


async def test_a_silent_message_is_one_that_a_person_has_to_see(
    environment: Environment, database: Database, sender: RunSender
) -> None:
    await keep(database, event(1))
    no = await begun(database)
    await sender.take_turn(no)
    await execute(environment.databases["staff"], "DELETE FROM outbox")  # it is confirmed
    await long_ago(environment)
    assert await sender.take_turn(no) is RunState.HALTED
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert shown[1].unseen == ((ItemState.NO_SIGN, 1),)


async def test_an_act_that_is_sent_twice_is_done_once(environment: Environment, database: Database) -> None:
    await keep(database, event(1))
    no = await begun(database)
    once = Actor("ann", Via.DESK, request=uuid4())
    first, again = [await run_actions.act(database, no, RunAct.SPEED, who=once, rate=7) for _ in range(2)]
    assert (first.ok, again) == (True, first)


# -- the second person -------------------------------------------------------------------------------------------------------------------

REPLAYER = frozenset({Role.REPLAYER})
BEN, CLEO = Actor("ben", Via.DESK, REPLAYER), Actor("cleo", Via.DESK, REPLAYER)


async def with_old(database: Database) -> int:
    """A list that leaves out what is too old to charge, and what cannot be replayed at all. Ann made it."""
    old = replace(payment("INV-1", 5_00), asked_at=system_clock() - 2 * DAY)
    withheld = replace(event(1), body=None, withheld=Withheld.CARD_DATA)
    await keep(database, old, withheld, event(2))
    previewed = await run_actions.preview(database, LetterFilter(), who=ANN, title="old")
    assert previewed.no is not None
    return previewed.no


@pytest.mark.parametrize(
    ("who", "refusal"),
    [
        (replace(BEN, name="Ann"), ProposalRefusal.SAME_PERSON),
        (replace(BEN, is_program=True), ProposalRefusal.NOT_ALLOWED),
        (replace(BEN, roles=frozenset({Role.VIEWER})), ProposalRefusal.NOT_ALLOWED),
        (BEN, None),
    ],
    ids=["who made the list", "a program", "without the role", "another person"],
)
async def test_what_is_too_old_is_taken_in_by_another_person_alone(
    database: Database, who: Actor, refusal: ProposalRefusal | None
) -> None:
    no = await with_old(database)
    result = await run_actions.take_in(database, no, who=who, reason="asked the sender")
    assert result.refusal is refusal
    shown = await run_actions.show_run(database, no)
    assert shown is not None
    assert shown[1][ItemState.LISTED] == (1 if refusal else 2)


@pytest.mark.parametrize(
    ("who", "refusal"),
    [
        (BEN, ProposalRefusal.SAME_PERSON),
        (replace(CLEO, is_program=True), ProposalRefusal.NOT_ALLOWED),
        (Actor("made.by.clicks", Via.DESK, REPLAYER), ProposalRefusal.NOT_ALLOWED),
        (CLEO, None),
    ],
    ids=["who took it in", "a program", "an account that was made by clicks", "another person"],
)
async def test_what_a_second_person_took_in_is_begun_by_another_one(
    database: Database, who: Actor, refusal: ProposalRefusal | None
) -> None:
    await accounts.add_person(database, "made.by.clicks", roles=REPLAYER, password="x", who=ANN)
    no = await with_old(database)
    assert (await run_actions.take_in(database, no, who=BEN, reason="asked the sender")).ok
    result = await run_actions.act(database, no, RunAct.TRY, who=who, sure=True)
    assert result.refusal is refusal


# -- two at once ---------------------------------------------------------------------------------------------------------------------------


async def test_of_two_runs_that_begin_at_once_one_has_the_letter(environment: Environment, database: Database) -> None:
    await keep(database, event(1))
    for title in ("one", "other"):
        await run_actions.preview(database, LetterFilter(), who=ANN, title=title)

    async def start(no: int) -> int:
        async with database.transaction() as tx:
            return await run_store.start_items(tx, no, None)

    async with asyncio.timeout(DEADLINE_S):
        async with database.transaction() as tx:
            assert await run_store.start_items(tx, 1, None) == 1
            waiting = asyncio.create_task(start(2))
            await until_one_waits(environment.databases["staff"])
        assert await waiting == 0


async def test_of_two_people_who_act_on_a_run_at_once_the_second_acts_on_what_the_first_made_of_it(
    environment: Environment, database: Database
) -> None:
    await keep(database, event(1))
    no = await begun(database)
    async with asyncio.timeout(DEADLINE_S):
        async with database.transaction() as tx:
            kept = await run_store.find_run(tx, no, lock=True)
            assert kept is not None
            pausing = asyncio.ensure_future(run_actions.act(database, no, RunAct.PAUSE, who=ANN))
            await until_one_waits(environment.databases["staff"])
            await run_store.save_run(tx, replace(kept, run=replace(kept.run, state=RunState.STOPPED)))
        assert (await pausing).refusal is RunRefusal.RUN_NOT_RUNNING
    assert await state_of(database, no) is RunState.STOPPED


async def test_two_lists_that_are_made_at_once_have_two_numbers(environment: Environment, database: Database) -> None:
    async def made(tx: Connection) -> int:
        about = {"title": "t", "filter_": {}, "bins": [], "rate": 1, "made_by": "ann", "made_at": system_clock()}
        return await run_store.insert_run(tx, uuid4(), taken=[], left_out=[], **about)  # type: ignore[arg-type]

    async def make() -> int:
        async with database.transaction() as tx:
            return await made(tx)

    async with asyncio.timeout(DEADLINE_S):
        async with database.transaction() as tx:
            assert await made(tx) == 1
            waiting = asyncio.create_task(make())
            await until_one_waits(environment.databases["staff"])
        assert await waiting == 2


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
