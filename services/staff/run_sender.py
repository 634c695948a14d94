"""Sends the messages of runs, several times a second. One instance has a run at a time; if it dies, another one goes on.

A turn is one transaction: what became of the messages before, the state of the run, and for each message that is sent now its letter, its
place in the run, its entry in the journal and its row in the outbox. So whatever dies, a message was sent once, or is still open.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import cast
from uuid import UUID

import structlog

from services.staff import run_store, runs
from services.staff.actions.dead_letters import replay_within
from services.staff.actions.results import ActionResult
from services.staff.people import Actor, Via
from services.staff.run_store import KeptRun
from services.staff.runs import ENDED, RunState, RunTurn
from shared import crash_points
from shared.clock import Clock
from shared.ids import new_id
from shared.messaging.envelope import Outgoing
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Connection, Database
from shared.persistence.outbox import OutboxBatch

log = structlog.get_logger(__name__)

CHUNK_MAX = 100
"""Messages in one transaction. Their bodies have at most 6 MiB together, and locks stay short."""
TURN_S = 0.2
"""Between two turns while a run is under way. So a run stops within a second after a message has failed again."""


class RunSender:
    """Takes a turn in each run. `is_told`: services tell what became of replayed messages; without it silence is no bad sign."""

    name = "run_sender"
    interval_s = 1.0
    retry_on = AWAY_ERRORS

    def __init__(
        self, database: Database, relay: Relay, clock: Clock, *, old_after: timedelta, is_told: bool = True
    ) -> None:
        self._database = database
        self._relay = relay
        self._clock = clock
        self._old_after = old_after
        self._is_told = is_told
        self._owner = new_id()

    async def run_once(self) -> float:
        """Take one turn in each run that is under way."""
        async with self._database.connection() as connection:
            numbers = await run_store.runs_at_work(connection)
        states = [await self.take_turn(no) for no in numbers]
        return TURN_S if any(state is RunState.RUNNING for state in states) else self.interval_s

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
            log.info("run_changed", run=kept.name, state=turn.run.state, step=turn.run.step)
        await self._relay.publish(batches)
        return turn.run.state

    async def _turn(self, tx: Connection, kept: KeptRun, since_last: timedelta) -> tuple[RunTurn, list[OutboxBatch]]:
        await run_store.settle_items(tx, kept.no)
        counts = await run_store.counts_of(tx, kept.no)
        trouble = await run_store.trouble_of(tx, kept.no, with_silence=self._is_told)
        turn = runs.turn(kept.run, counts, trouble, since_last)
        sent, messages = await self._send(tx, kept, min(turn.send, CHUNK_MAX)) if turn.send else (0, [])
        batches = await outbox.insert(tx, messages)
        is_over = turn.run.state in ENDED and not counts.in_flight
        used = timedelta(seconds=sent / kept.run.rate)
        await run_store.save_turn(tx, kept.no, turn.run, used=used, is_over=is_over)
        return turn, batches

    async def _send(self, tx: Connection, kept: KeptRun, at_most: int) -> tuple[int, Sequence[Outgoing]]:
        """Replay the next messages in this transaction. One that is not open any more, or got too old, is left out."""
        items = await run_store.next_items(tx, kept.no, at_most=at_most)
        positions = {letter_id: position for position, letter_id in items}
        results, messages = await replay_within(
            tx,
            list(positions),
            who=_actor(kept),
            reason=kept.reason,
            old_after=self._old_after,
            now=self._clock(),
            is_told=self._is_told,
            run=kept.no,
        )
        sent = [(positions[subject], entry) for subject, entry in map(_sent, results) if entry is not None]
        left_out = [(positions[cast(UUID, r.subject)], str(r.refusal)) for r in results if r.refusal is not None]
        await run_store.note_sent(tx, kept.no, sent, left_out)
        return len(sent), messages


def _sent(result: ActionResult) -> tuple[UUID, UUID | None]:
    return cast(UUID, result.subject), result.entry if result.ok else None


def _actor(kept: KeptRun) -> Actor:
    """The person who started the run. The ids of its journal entries follow from the run, so none is written twice."""
    return Actor(kept.started_by or kept.made_by, Via(kept.started_via or Via.DESK), request=kept.id)
