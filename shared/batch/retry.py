"""Holding a batch through an outage: wait, try again, and in a long one give everything back to the broker. A message is never spent on
an outage."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import structlog

from shared.messaging.consumer import Consumer
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence.database import Database, Trouble, is_unique_violation, trouble

log = structlog.get_logger(__name__)

TRIES_MAX = 3
"""Tries of a message on which a handler or the database stumbles, before it is set aside: enough for a state that changes meanwhile."""
CONFLICTS_MAX = 20
"""Repeats of a batch that met a concurrent writer; each repeat loads what that writer stored, so far fewer are needed."""
CONFLICT_PAUSE_S = 0.01
OUTAGE_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits while the database is away; the last repeats. Keeps recovery after its restart well under 10 s."""
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
    """Decides whether a batch that failed can be tried again, and waits until then."""

    def __init__(self, consumer: Consumer, database: Database, readiness: Readiness) -> None:
        self._consumer = consumer
        self._database = database
        self._readiness = readiness
        self._stopping = asyncio.Event()
        self._part = f"database {consumer.queue}"

    def stop(self) -> None:
        """Whoever waits, or begins to, raises `Stopped`."""
        self._stopping.set()

    def succeeded(self) -> None:
        """The database answers."""
        self._readiness.set(self._part, ok=True)

    async def can_repeat(self, error: Exception, patience: RetryState, *, alone: bool) -> bool:
        """Whether the same batch can be committed now: after a conflict, after an outage, and, if it is one message alone, a few times
        anyway. Raises `Stopped`."""
        match trouble(error):
            case Trouble.CONFLICT if patience.conflicts < CONFLICTS_MAX:
                patience.conflicts += 1
                metrics.CONFLICTS.labels(queue=self._consumer.queue).inc()
                await self.pause(random.uniform(0, CONFLICT_PAUSE_S * patience.conflicts))
                return True
            case Trouble.CONFLICT if not is_unique_violation(error):
                await self.outlast(
                    error, patience
                )  # somebody holds a lock for long: an outage, nothing wrong with the messages
                return True
            case Trouble.AWAY:
                await self.outlast(error, patience)
                return True
            case _:
                patience.tries += 1
                return alone and patience.tries < TRIES_MAX

    async def outlast(self, error: Exception, patience: RetryState) -> None:
        """Wait for the database with the batch in hand. Raises `Stopped`."""
        patience.outages += 1
        log.warning("database_away", queue=self._consumer.queue, error=type(error).__name__, attempt=patience.outages)
        self._readiness.set(self._part, ok=False, reason=describe_error(error))
        if time.monotonic() - patience.since > HOLD_MAX_S:
            await self._consumer.pause()
            await self._until_database_answers()
            self._consumer.resume()
            patience.since = time.monotonic()
        else:
            await self.pause(OUTAGE_PAUSES_S[min(patience.outages, len(OUTAGE_PAUSES_S)) - 1])

    async def _until_database_answers(self) -> None:
        while True:
            try:
                async with self._database.connection() as connection:
                    await connection.fetchval("SELECT 1")
                return
            except Exception as error:  # noqa: BLE001 - any failure means: not yet
                log.warning("database_still_away", queue=self._consumer.queue, error=type(error).__name__)
                await self.pause(OUTAGE_PAUSES_S[-1])

    async def pause(self, seconds: float) -> None:
        """Wait. Raises `Stopped` if the service stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopped
