"""An instance of a service says that it runs. Staff show who runs, and who is gone.

A heartbeat is not stored before it is sent: an instance whose database is away says so. One that is lost is followed by the next.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shared.build import this_build
from shared.clock import Clock
from shared.contracts.operations import REASONS_SHOWN_MAX, Heartbeat
from shared.ids import new_id
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft
from shared.messaging.publisher import Publisher
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence.database import AWAY_ERRORS, Connection, Database

log = structlog.get_logger(__name__)

HEARTBEAT_INTERVAL_S = 10.0
GOODBYE_S = 1.0
OVERDUE_AFTER_S = 30
"""What is due for longer than this is overdue: whoever does it looks twice a second."""
OVERDUE_COUNTED_MAX = 1_000
"""Overdue rows that are counted. That there are some is what matters."""

CountOverdue = Callable[[Connection, int, int], Awaitable[int]]
"""Counts what has been due for longer than so many seconds, at most so many."""


@dataclass(slots=True)
class Vitals:
    """What only the service itself can say about its work; set by its `assemble`."""

    count_overdue: CountOverdue | None = None
    leases_held: Callable[[], int] = lambda: 0


class HeartbeatSender:
    """Says every ten seconds that this instance runs, and how it is."""

    name = "heartbeat"
    interval_s = HEARTBEAT_INTERVAL_S
    retry_on: tuple[type[Exception], ...] = (Exception,)
    """Not even a bug may end the service: it pays, and this only tells."""

    def __init__(
        self,
        service: str,
        publisher: Publisher,
        *,
        database: Database,
        readiness: Readiness,
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self.instance = f"{socket.gethostname()[:40]}:{os.getpid()}:{new_id()}"
        self._service = service
        self._publisher = publisher
        self._database = database
        self._readiness = readiness
        self._vitals = vitals
        self._clock = clock

    async def run_once(self) -> float:
        """Say it once. Nothing is raised if the broker is away: the next heartbeat is soon."""
        data = await self._heartbeat()
        id_ = new_id()
        await self._publisher.publish(
            [encode(Draft(data, message_id=id_), Cause(id_, str(id_), self._clock()), 0, source=self._service)]
        )
        return self.interval_s

    async def say_goodbye(self) -> None:
        """Say once more how it is: that it was told to stop. So nobody misses it. Never raises, and waits for a second at most."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self.run_once()
        except Exception as error:  # noqa: BLE001 - a service that stops must stop
            log.warning("goodbye_not_said", error=describe_error(error))

    async def _heartbeat(self) -> Heartbeat:
        reasons = dict(list(self._readiness.reasons.items())[:REASONS_SHOWN_MAX])
        oldest = metrics.OUTBOX_OLDEST.values()
        return Heartbeat(
            service=self._service,
            instance=self.instance,
            version=this_build().version,
            not_ready=reasons,
            outbox_oldest_s=max(oldest.values(), default=None),
            overdue=await self._overdue(),
            leases_held=self._vitals.leases_held(),
        )

    async def _overdue(self) -> int | None:
        if self._vitals.count_overdue is None:
            return None
        try:
            async with self._database.connection() as connection:
                return await self._vitals.count_overdue(connection, OVERDUE_AFTER_S, OVERDUE_COUNTED_MAX)
        except AWAY_ERRORS:
            return None
