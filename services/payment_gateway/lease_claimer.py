"""Claims payments that are due and that no instance holds: another instance, a crash or the ladder left them to do."""

import asyncio

from services.payment_gateway import store
from services.payment_gateway.charging import Charging
from shared import crash_points
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.persistence.due_rows import DueWindow

BUSY_INTERVAL_S = 0.02
"""Seconds between two claims while rows are due, or while there is no room for more payments."""
CLAIM_MAX = 200
"""Rows in one claim. Larger claims would gain little."""
BEGUN_EVERY = 25
"""While there is no room for new payments, every so many looks are for begun ones: twice a second. They pass over all that wait."""
COMPONENT = "charging"


class LeaseClaimer:
    """Leases due payments for `charging`, as many as it has room for. While none are due, it looks less and less often."""

    name = "lease_claimer"
    interval_s = 0.25
    """How late a payment may start that another instance made due."""
    retry_on: tuple[type[Exception], ...] = (Exception,)
    """A single bad row must not end the service: the service would find the row again at every start."""

    def __init__(self, charging: Charging, database: Database, readiness: Readiness) -> None:
        self._charging = charging
        self._database = database
        self._readiness = readiness
        self.due = store.due_rows()
        self._pause_s = BUSY_INTERVAL_S
        self._full_looks = 0

    async def run_once(self) -> float:
        """Claim due payments once."""
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
        """Wait for `seconds`, or until this instance made rows due (`Charging.wake`)."""
        try:
            async with asyncio.timeout(seconds):
                await self._charging.woken.wait()
        except TimeoutError:
            return
        finally:
            self._charging.woken.clear()

    async def _claim(self) -> int:
        """Lease due rows and hand them to `charging`. Returns their number."""
        at_most = min(self._charging.free, CLAIM_MAX)
        claimed = await self._lease(at_most) if at_most > 0 else 0
        if claimed == max(at_most, 0):
            self._full_looks += 1
            if self._full_looks % BEGUN_EVERY == 0 and (at_most := min(self._charging.free_for_begun, CLAIM_MAX)) > 0:
                claimed += await self._lease(at_most, only_begun=True)
        return claimed

    async def _lease(self, at_most: int, *, only_begun: bool = False) -> int:
        async with self._database.connection() as connection:
            crash_points.reach("charging.before_claim")
            window = await self.due.look(connection)
            if window is None:
                return 0
            if only_begun:  # they may be anywhere among those that wait
                window = DueWindow(self.due.since)
            rows = await store.claim(
                connection, self._charging.lease, at_most=at_most, only_begun=only_begun, window=window
            )
        if not rows:
            return 0
        crash_points.reach("charging.after_claim")
        if self._charging.is_stopping:
            await self._charging.release([(row.payment.payment_id, row.fence) for row in rows])
        else:
            self._charging.accept(rows)
        return len(rows)
