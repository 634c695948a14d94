"""When a batch that failed is tried again: after a conflict, after an outage, and never for ever.

In an outage the batch is held. In a long one everything is given back to the broker. A message is never spent on an outage.
"""

import asyncio
import random
import time

import structlog

from shared.messaging.consumer import Consumer
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence.database import Database, Trouble, is_unique_violation, trouble
from shared.records import dataclass, field
from shared.retry_policy import OUTAGE

log = structlog.get_logger(__name__)

TRIES_MAX = 3
"""Tries of a message on which a handler or the database stumbles, before it is set aside: enough for a state that changes meanwhile."""
CONFLICTS_MAX = 20
"""Repeats of a batch that met a concurrent writer; each repeat loads what that writer stored, so far fewer are needed."""
CONFLICT_PAUSE_S = 0.01
HOLD_MAX_S = 300.0
"""How long a batch is held in an outage before everything is given back; the broker's consumer timeout is 30 minutes."""


class Stopped(Exception):
    """The service stops while a batch is held: it goes back to the broker unacknowledged."""


@dataclass(slots=True)
class RetryState:
    """How often one batch was tried, and why it failed."""

    conflicts: int = 0
    outages: int = 0
    tries: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def failures(self) -> int:
        return self.conflicts + self.outages + self.tries


class BatchRetry:
    """Decides whether a batch that failed can be tried again, and waits until then.

    `name` stands in readiness and metrics: the queue, as a rule. `consumer`: who gives deliveries back in a long outage; without one the
    batch is held for as long as it takes. `tries_max`: tries of an item alone.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        readiness: Readiness,
        *,
        consumer: Consumer | None = None,
        tries_max: int = TRIES_MAX,
    ) -> None:
        self._name = name
        self._database = database
        self._readiness = readiness
        self._consumer = consumer
        self._tries_max = tries_max
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Whoever waits, or begins to, raises `Stopped`."""
        self._stopping.set()

    def succeeded(self) -> None:
        """The database answers."""
        self._readiness.set(f"database {self._name}", ok=True)

    async def can_repeat(self, error: Exception, state: RetryState, *, alone: bool) -> bool:
        """Whether the same batch can be committed now: after a conflict, after an outage, and, if it is one item alone, a few times
        anyway. Raises `Stopped`."""
        match trouble(error):
            case Trouble.CONFLICT if state.conflicts < CONFLICTS_MAX:
                state.conflicts += 1
                metrics.CONFLICTS.labels(queue=self._name).inc()
                await self.pause(random.uniform(0, CONFLICT_PAUSE_S * state.conflicts))
                return True
            case Trouble.CONFLICT if not is_unique_violation(error):
                await self.outlast(error, state)  # somebody holds a lock for long: nothing wrong with the messages
                return True
            case Trouble.AWAY:
                await self.outlast(error, state)
                return True
            case _:
                state.tries += 1
                return alone and state.tries < self._tries_max

    async def outlast(self, error: Exception, state: RetryState) -> None:
        """Wait for the database with the batch in hand. Raises `Stopped`."""
        state.outages += 1
        log.warning("database_away", waiting=self._name, error=type(error).__name__, attempt=state.outages)
        self._readiness.set(f"database {self._name}", ok=False, reason=describe_error(error))
        if self._consumer is not None and time.monotonic() - state.since > HOLD_MAX_S:
            await self._give_back(self._consumer)
            state.since = time.monotonic()
        else:
            await self.pause(OUTAGE.delay_s(state.outages))

    async def _give_back(self, consumer: Consumer) -> None:
        """Give all deliveries back to the broker until the database answers."""
        await consumer.pause()
        await OUTAGE.call(
            self._ask_database, on=(Exception,), log=log, event="database_still_away", sleep=self.pause
        )  # any failure means: not yet
        consumer.resume()

    async def _ask_database(self) -> None:
        async with self._database.connection() as connection:
            await connection.fetchval("SELECT 1")

    async def pause(self, seconds: float) -> None:
        """Wait. Raises `Stopped` if the service stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopped
