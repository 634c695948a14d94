"""Takes payments that are due and in nobody's hands: what another instance, a crash or the ladder left to do."""

import asyncio

from services.payment_gateway import store
from services.payment_gateway.charging import Charging
from shared import crash_points
from shared.observability.health import Readiness
from shared.persistence.database import Database

BUSY_INTERVAL_S = 0.02
"""Between looks for due rows while there are some, or no room for any."""
CLAIM_MAX = 200
"""Rows claimed at a time; set-based statements gain little beyond."""
COMPONENT = "charging"


class LeaseClaimer:
    """Leases due payments for `charging`, as many as it has room for. While there are none it looks ever more rarely."""

    name = "lease_claimer"
    interval_s = 0.25
    """What became due elsewhere starts at most this late."""
    retry_on: tuple[type[Exception], ...] = (Exception,)
    """One row must not end the service, which would find it again at every start."""

    def __init__(self, charging: Charging, database: Database, readiness: Readiness) -> None:
        self._charging = charging
        self._database = database
        self._readiness = readiness
        self._pause_s = BUSY_INTERVAL_S

    async def run_once(self) -> float:
        """Claim what is due."""
        try:
            claimed = await self._claim()
        except Exception as error:
            self._readiness.set(COMPONENT, ok=False, reason=type(error).__name__)
            raise
        self._readiness.set(COMPONENT, ok=True)
        is_busy = claimed or self._charging.free <= 0
        self._pause_s = BUSY_INTERVAL_S if is_busy else min(2 * self._pause_s, self.interval_s)
        return self._pause_s

    async def wait(self, seconds: float) -> None:
        """Until then, or until rows became due here (`Charging.wake`)."""
        try:
            async with asyncio.timeout(seconds):
                await self._charging.woken.wait()
        except TimeoutError:
            return
        finally:
            self._charging.woken.clear()

    async def _claim(self) -> int:
        """Lease due rows and hand them over; how many."""
        at_most = min(self._charging.free, CLAIM_MAX)
        if at_most <= 0:
            return 0
        async with self._database.connection() as connection:
            crash_points.reach("charging.before_claim")
            rows = await store.claim(connection, self._charging.lease, at_most=at_most)
        if not rows:
            return 0
        crash_points.reach("charging.after_claim")
        if self._charging.is_stopping:
            await self._charging.release([(row.payment.payment_id, row.fence) for row in rows])
        else:
            self._charging.accept(rows)
        return len(rows)
