"""Deadlines: rows that fire once, by the database's clock. A deadline that fires only inquires, or sends commands again.

The state of the saga decides which commands those are. If the clock is wrong by an hour or a day, they are sent earlier or later, and no
outcome changes.
"""

from collections.abc import Sequence
from datetime import datetime

import structlog

from services.saga import store
from services.saga.domain import DeadlineFired, ReminderSchedule
from services.saga.handlers import SOURCE, advance
from services.saga.store import DueDeadline, SagaTransition
from shared import crash_points
from shared.clock import Clock
from shared.messaging import facts
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Outgoing
from shared.messaging.relay import Relay
from shared.observability import metrics
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Connection, Database, MovedOnError
from shared.persistence.due_rows import WHENEVER, DueWindow
from shared.persistence.outbox import OutboxBatch
from shared.persistence.writes import WriteBatch

log = structlog.get_logger(__name__)

FIRE_ROWS_MAX = 200
"""Deadlines in one transaction: as many as messages in a batch, so that transactions and locks stay short."""

UNREADABLE_INTERVAL_S = 60.0
"""When the deadline of an unreadable saga fires again, perhaps in a build that can read the saga. Until then it delays no others."""


class DeadlineScheduler:
    """Fires deadlines that are due. Several instances may do so at the same time."""

    name = "deadline_scheduler"
    interval_s = 0.5
    """Far below the shortest sensible deadline. A run is one small query with an index."""
    retry_on = (*AWAY_ERRORS, MovedOnError)
    """After these errors, nothing was stored and the deadlines are still due."""

    def __init__(self, database: Database, relay: Relay, clock: Clock, schedule: ReminderSchedule) -> None:
        self._database = database
        self._relay = relay
        self._clock = clock
        self._schedule = schedule
        self._due = store.due_rows()

    async def run_once(self) -> float:
        """Fire one batch of deadlines. If there were any, there may be more: the next look follows at once."""
        window = await self._look()
        return self.interval_s if window is None or not await self.fire(window) else 0.0

    async def _look(self) -> DueWindow | None:
        async with self._database.connection() as connection:
            return await self._due.look(connection)

    async def fire(self, window: DueWindow = WHENEVER, now: datetime | None = None) -> int:
        """Fire one batch of the deadlines of `window` that are due at `now`, by default the database's time. Returns how many there were.

        If the reply to the commit is lost, either everything is stored and the sweeper publishes, or nothing is and the deadlines fire
        again. Raises one of `AWAY_ERRORS`, and MovedOnError or a unique violation if another instance changed a saga meanwhile.
        """
        async with self._database.transaction() as tx:
            due = await store.fire_due(tx, at_most=FIRE_ROWS_MAX, window=window, now=now)
            if not due:
                return 0
            outbox_batches = await self._advance(tx, due)
            crash_points.reach("saga.deadlines.before_commit")
        crash_points.reach("saga.deadlines.after_commit")
        facts.committed(outbox_batches)
        await self._relay.publish(outbox_batches)
        return len(due)

    async def _advance(self, tx: Connection, due: Sequence[DueDeadline]) -> list[OutboxBatch]:
        """Store the transition of every saga whose deadline fired. Returns the outbox batches to publish."""
        sagas = await store.load_readable(tx, {deadline.payment_id for deadline in due})
        unreadable = [deadline.id for deadline in due if deadline.payment_id not in sagas]
        await store.put_off(tx, unreadable, seconds=UNREADABLE_INTERVAL_S)
        now = self._clock()
        transitions: list[tuple[Cause, SagaTransition]] = []
        outgoing: list[Outgoing] = []
        for deadline in due:
            saga = sagas.get(deadline.payment_id)
            if saga is None:
                continue
            metrics.SAGA_DEADLINES.labels(state=saga.status.value).inc()
            reaction = advance(saga, DeadlineFired(deadline.number), self._schedule)
            cause = Cause(deadline.id, deadline.correlation_id, now)
            sagas[deadline.payment_id] = reaction.state
            transitions += [(cause, transition) for transition in reaction.effects]
            outgoing += [encode(draft, cause, position, source=SOURCE) for position, draft in enumerate(reaction.says)]
        writes = WriteBatch(tx)
        await store.save(writes, transitions)
        outbox_batches = await outbox.insert(writes, outgoing)
        await writes.flush()
        return outbox_batches
