"""When a failed batch is tried again: after a conflict, after an outage, and a few times after any other error.

In an outage the worker holds the batch and waits. In a long outage it gives all deliveries back to the broker. No message becomes a dead
letter because of an outage.
"""

import asyncio
import random
import time
from contextlib import AbstractContextManager

import structlog

from shared.messaging.consumer import Consumer
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.observability.logs import describe_error
from shared.outage_log import OutageLog
from shared.persistence.database import Database, Trouble, is_refused, is_unique_violation, trouble
from shared.records import dataclass, field
from shared.retry_policy import OUTAGE

log = structlog.get_logger(__name__)

TRIES_MAX = 3
"""Tries of a message that makes the handler or the database fail, before it is dead-lettered. Three allow for a state that changes
meanwhile."""
CONFLICTS_MAX = 20
"""Repeats of a batch after conflicts. Each repeat loads what the concurrent writer stored, so far fewer are needed."""
CONFLICT_PAUSE_S = 0.01
"""The longest pause after the first conflict of a batch. It grows by as much with each further conflict."""
HOLD_MAX_S = 300.0
"""How long a batch is held in an outage before all deliveries are given back. The broker's consumer timeout is 30 minutes."""


class Stopped(Exception):
    """The service stops while a batch is held. The batch stays unacknowledged, so the broker delivers it again."""


@dataclass(slots=True)
class RetryState:
    """How often one batch failed, by kind of failure: conflicts, outages, and `tries` that ended in any other error.

    `since` is the time of the first try, or the time when deliveries were last given back.
    """

    conflicts: int = 0
    outages: int = 0
    tries: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def failures(self) -> int:
        return self.conflicts + self.outages + self.tries


class BatchRetry:
    """Decides whether a failed batch can be tried again, and waits until it can.

    `name` is the name in readiness and metrics, usually that of the queue. `consumer` gives deliveries back to the broker in a long
    outage; without one, the batch is held until the outage ends. `tries_max` limits the tries of an item that is alone in its batch.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        readiness: Readiness,
        *,
        consumer: Consumer | None = None,
        tries_max: int = TRIES_MAX,
        liveness: Liveness | None = None,
    ) -> None:
        self._name = name
        self._liveness = liveness or Liveness()
        self._database = database
        self._readiness = readiness
        self._consumer = consumer
        self._tries_max = tries_max
        self._stopping = asyncio.Event()
        self._outage = OutageLog(log, "database_away", "database_back", waiting=name)

    def stop(self) -> None:
        """Make every wait raise `Stopped`, both the current and later ones."""
        self._stopping.set()

    def at_work(self) -> AbstractContextManager[None]:
        """Have liveness watch one try. Between two tries it watches nothing, since an outage may be long."""
        return self._liveness.at_work(f"commit {self._name}")

    def succeeded(self) -> None:
        """Tell readiness, and the log after an outage, that the database answers."""
        self._outage.succeeded()
        self._readiness.set(f"database {self._name}", ok=True)

    async def can_repeat(self, error: Exception, state: RetryState, *, alone: bool) -> bool:
        """Whether the same batch is worth another try now. Waits first where that helps. Raises `Stopped`.

        It is after a conflict and after an outage. After any other error it is only if the batch is one item (`alone`), and only
        `tries_max` times.
        """
        match trouble(error):
            case Trouble.CONFLICT if state.conflicts < CONFLICTS_MAX:
                state.conflicts += 1
                self._count("conflict")
                await self.pause(random.uniform(0, CONFLICT_PAUSE_S * state.conflicts))
                return True
            case Trouble.CONFLICT if not is_unique_violation(error):
                await self.outlast(error, state)  # another session holds a lock for long: the messages are fine
                return True
            case Trouble.AWAY | Trouble.MISTAKE:
                await self.outlast(error, state)
                return True
            case _:
                state.tries += 1
                if is_tried_again := alone and state.tries < self._tries_max:
                    self._count("error")
                return is_tried_again

    def _count(self, cause: str) -> None:
        metrics.BATCH_RETRIES.labels(queue=self._name, cause=cause).inc()

    async def outlast(self, error: Exception, state: RetryState) -> None:
        """Wait for the database while holding the batch. Raises `Stopped`."""
        state.outages += 1
        self._count("outage")
        self._outage.failed(error, is_mistake=is_refused(error))
        self._readiness.set(f"database {self._name}", ok=False, reason=describe_error(error))
        if self._consumer is not None and time.monotonic() - state.since > HOLD_MAX_S:
            await self._give_back(self._consumer)
            state.since = time.monotonic()
        else:
            await self.pause(OUTAGE.delay_s(state.outages))

    async def _give_back(self, consumer: Consumer) -> None:
        """Give all deliveries back to the broker until the database answers."""
        await consumer.pause()
        outage = OutageLog(log, "deliveries_given_back", "deliveries_taken_again", waiting=self._name)
        await OUTAGE.call(
            self._ask_database, on=(Exception,), outage=outage, sleep=self.pause
        )  # any error means that the database is still away
        consumer.resume()

    async def _ask_database(self) -> None:
        async with self._database.connection() as connection:
            await connection.fetchval("SELECT 1")

    async def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raises `Stopped` if the service stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopped
