"""Sends the messages of runs, several times a second. One instance has a run at a time; if it dies, another one goes on.

A turn is one transaction: what became of the messages before, the state of the run, and for each message that is sent now its letter, its
place in the run, its entry in the journal and its row in the outbox. So whatever dies, a message was sent once, or is still open. What is
published twice, because a process died before it noted a confirm, has the same id and the same bytes both times.
"""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import cast
from uuid import UUID

import structlog

from services.staff import dead_letters, run_store, runs, store
from services.staff.actions.dead_letters import replay_within
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.people import Actor, Via
from services.staff.run_store import KeptRun, NextItem
from services.staff.runs import ENDED, BadSign, Halt, RunState, RunTurn
from services.staff.store import JournalEntry
from shared import crash_points
from shared.clock import Clock
from shared.ids import derived_id, new_id
from shared.messaging.relay import Relay
from shared.observability.logs import describe_error
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Connection, Database, Trouble, trouble
from shared.persistence.outbox import OutboxBatch
from shared.records import dataclass, field

log = structlog.get_logger(__name__)

CHUNK_MAX = 100
"""Messages in one transaction. Their bodies have at most 6 MiB together, and locks stay short."""
TURN_S = 0.2
"""Between two turns while a run is under way. So a run stops within a second after a message has failed again."""
REST_S = 5.0
"""How long a run whose turn failed is left alone, so that the others have their turns meanwhile."""
NOT_TAKEN = "the broker did not confirm it: its queue is gone, full or silent"
"""The reason in the journal why a message that was sent is open again."""


@dataclass(slots=True)
class _Sent:
    """What a turn sends: positions with entries of the journal, positions that were left out with why, and what is to be published."""

    sent: list[tuple[int, UUID]] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)
    batches: list[OutboxBatch] = field(default_factory=list)


class RunSender:
    """Takes a turn in each run. `is_told`: services tell what became of replayed messages; without it silence is no bad sign."""

    name = "run_sender"
    interval_s = 1.0
    retry_on = AWAY_ERRORS

    def __init__(
        self,
        database: Database,
        relay: Relay,
        clock: Clock,
        *,
        old_after: timedelta,
        is_told: bool = True,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._relay = relay
        self._clock = clock
        self._old_after = old_after
        self._is_told = is_told
        self._seconds = seconds
        self._owner = new_id()
        self._rests_until: dict[int, float] = {}

    async def run_once(self) -> float:
        """Take one turn in each run that is under way. What goes wrong with one of them does not hold the others."""
        async with self._database.connection() as connection:
            numbers = await run_store.runs_at_work(connection)
        now = self._seconds()
        self._rests_until = {no: until for no, until in self._rests_until.items() if until > now}
        states = [await self._try_turn(no) for no in numbers if no not in self._rests_until]
        return TURN_S if any(state is RunState.RUNNING for state in states) else self.interval_s

    async def _try_turn(self, no: int) -> RunState | None:
        """Take a turn in this run. If it fails because of the run, and not of an outage, the run stops, and says so on its page."""
        try:
            return await self.take_turn(no)
        except crash_points.InjectedFault:
            raise
        except Exception as error:
            what = trouble(error)
            if what in (Trouble.AWAY, Trouble.MISTAKE):
                raise
            self._rests_until[no] = self._seconds() + REST_S
            if what is Trouble.CONFLICT:
                log.warning("run_turn_conflict", run=f"R-{no}", error=describe_error(error))
                return None
            log.exception("run_turn_failed", run=f"R-{no}", error=describe_error(error))
            async with self._database.connection() as connection:
                await run_store.halt(connection, no, type(error).__name__)
            return None

    async def take_turn(self, no: int) -> RunState | None:
        """Take a turn in this run, and publish what it sends. Returns its state afterwards; None if it is another instance's."""
        async with self._database.transaction() as tx:
            leased = await run_store.lease(tx, no, self._owner)
            if leased is None:
                return None
            kept, since_last = leased
            turn, batches = await self._turn(tx, kept, since_last)
            crash_points.reach("staff.run.before_commit")
        crash_points.reach("staff.run.after_commit")
        if turn.run.state is not kept.run.state:
            log.info("run_changed", run=kept.name, state=turn.run.state, step=turn.run.step, how=turn.run.halted_how)
        await self._relay.publish(batches)
        return turn.run.state

    async def _turn(self, tx: Connection, kept: KeptRun, since_last: timedelta) -> tuple[RunTurn, list[OutboxBatch]]:
        refused = await self._look_into_outbox(tx, kept)
        await run_store.settle_items(tx, kept.no)
        counts = await run_store.counts_of(tx, kept.no)
        bad = refused or await run_store.trouble_of(tx, kept.no, with_silence=self._is_told)
        turn = runs.turn(kept.run, counts, bad, since_last)
        sending = _Sent()
        if turn.send:
            items = await run_store.next_items(tx, kept.no, at_most=min(turn.send, CHUNK_MAX))
            await self._send(tx, kept, items, sending)
            await run_store.note_sent(tx, kept.no, sending.sent, sending.left_out)
        is_over = turn.run.state in ENDED and not counts.in_flight
        used = timedelta(seconds=len(sending.sent) / kept.run.rate)
        await run_store.save_turn(tx, kept.no, turn.run, used=used, is_over=is_over)
        return turn, sending.batches

    # -- what is sent ------------------------------------------------------------------------------------------------------------------

    async def _send(self, tx: Connection, kept: KeptRun, items: Sequence[NextItem], sending: _Sent) -> None:
        """Replay these messages in this transaction. Those that cannot be taken are set aside, one by one, and the others are sent."""
        try:
            async with tx.transaction():
                found = await self._replay(tx, kept, items)
        except crash_points.InjectedFault:
            raise
        except Exception as error:
            if trouble(error) not in (Trouble.DATA, Trouble.BUG):
                raise
            if len(items) == 1:
                (item,) = items
                log.exception(
                    "run_message_set_aside", run=kept.name, letter=str(item.letter_id), error=describe_error(error)
                )
                sending.left_out.append(
                    (item.position, "unstorable" if trouble(error) is Trouble.DATA else "error_of_ours")
                )
                return
            half = len(items) // 2
            await self._send(tx, kept, items[:half], sending)
            await self._send(tx, kept, items[half:], sending)
            return
        sending.sent += found.sent
        sending.left_out += found.left_out
        sending.batches += found.batches

    async def _replay(self, tx: Connection, kept: KeptRun, items: Sequence[NextItem]) -> _Sent:
        positions = {item.letter_id: item.position for item in items}
        results, messages = await replay_within(
            tx,
            list(positions),
            who=_actor(kept),
            reason=kept.reason,
            old_after=self._old_after,
            now=self._clock(),
            is_told=self._is_told,
            run=kept.no,
            listed={item.letter_id: item.charge for item in items},
        )
        by_letter = {cast(UUID, result.subject): result for result in results}
        sent = [(positions[id_], result.entry) for id_, result in by_letter.items() if result.entry is not None]
        left_out = [
            (position, _why(by_letter.get(id_)))
            for id_, position in positions.items()
            if not _is_sent(by_letter.get(id_))
        ]
        return _Sent(sent, left_out, await outbox.insert(tx, messages))

    # -- what the broker did not take ----------------------------------------------------------------------------------------------------

    async def _look_into_outbox(self, tx: Connection, kept: KeptRun) -> BadSign | None:
        """Make failed messages again of what the broker refused. What waits because the broker is away is not silent."""
        if not await outbox.others_are_behind(tx):
            return None
        on_their_way = await run_store.on_their_way(tx, kept.no)
        sent = {derived_id(entry_id, 0): (entry_id, letter_id) for entry_id, letter_id in on_their_way.items()}
        refused = [sent[message_id] for message_id in await outbox.take_back_refused(tx, sent)]
        waiting = [sent[message_id][1] for message_id in await outbox.still_here(tx, sent)]
        if waiting:
            await run_store.note_still_here(tx, kept.no, waiting)
        return await self._take_back(tx, kept, refused) if refused else None

    async def _take_back(self, tx: Connection, kept: KeptRun, refused: Sequence[tuple[UUID, UUID]]) -> BadSign:
        """Open the letters of these entries again. They wait in the run, and are sent under new entries once it goes on."""
        ids = [letter_id for _, letter_id in refused]
        records = await store.lock_letters(tx, ids)
        now, who = self._clock(), _actor(kept)
        reopened = {
            id_: dead_letters.reopened(records[id_])
            for entry_id, id_ in refused
            if records[id_].replay_entry == entry_id
        }
        entries = [
            JournalEntry.of(
                who, now, "undo", id_, {"of": str(entry_id), "action": "replay", "reason": NOT_TAKEN, "run": kept.no}
            ).changing(records[id_].stands, reopened[id_].stands)
            for entry_id, id_ in refused
            if id_ in reopened
        ]
        await store.append_entries(tx, entries)
        await store.save_letters(tx, list(reopened.values()), locked=records)
        await run_store.take_back_items(tx, kept.no, ids)
        queue = records[ids[0]].letter.queue
        log.warning("run_refused", run=kept.name, queue=queue, messages=len(ids))
        return BadSign(ids[0], Halt.REFUSED, queue)


def _is_sent(result: ActionResult | None) -> bool:
    return result is not None and result.entry is not None


def _why(result: ActionResult | None) -> str:
    return str(ActionRefusal.UNKNOWN if result is None else result.refusal)


def _actor(kept: KeptRun) -> Actor:
    """The person who started the run. The ids of its journal entries follow from the run, so none is written twice.

    What the broker refused is sent again by entries of their own: they follow from how often it refused as well.
    """
    request = derived_id(kept.id, kept.refusals) if kept.refusals else kept.id
    return Actor(kept.started_by or kept.made_by, Via(kept.started_via or Via.DESK), request=request)
