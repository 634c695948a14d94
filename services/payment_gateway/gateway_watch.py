"""Watches whether the gateway takes this service at all: its key, its permissions, its mode, its URL.

A gateway that answers 401 to everything says nothing about any payment. Until an operator has mended that, no payment is claimed, and none
loses a rung of its ladder. Everything goes on by itself when a check finds the gateway usable.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from services.payment_gateway.gateways import port
from shared.observability.health import Readiness
from shared.outage_log import OutageLog

log = structlog.get_logger(__name__)

COMPONENT = "gateway access"
CHECK_INTERVAL_S = 5.0
"""Seconds between two checks while the gateway refuses this service. So it goes on within seconds after an operator has mended the key."""
LOG_INTERVAL_S = 60.0
"""How often the error is logged: often enough to be seen, and rarely enough to leave room for other lines."""
IDLE_INTERVAL_S = 60.0
"""Seconds between two looks at whether a check is wanted, while none is."""


class GatewayWatch:
    """Knows whether the gateway refuses this service, and checks until it no longer does."""

    name = "gateway_watch"
    interval_s = CHECK_INTERVAL_S
    retry_on: tuple[type[Exception], ...] = ()
    """Whatever goes wrong in a check is caught: it only means that nothing is known."""

    def __init__(
        self,
        gateway: port.Gateway,
        readiness: Readiness,
        *,
        timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._readiness = readiness
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._logged_at = -LOG_INTERVAL_S
        self._outage = OutageLog(log, "gateway_check_failed", "gateway_answers")
        self._checks = 0
        self._one_at_a_time = asyncio.Lock()
        self._refused = asyncio.Event()

    @property
    def is_refused(self) -> bool:
        """Whether the gateway refuses this service, so that no payment may be claimed."""
        return self._refused.is_set()

    async def run_once(self) -> float:
        """Check if the gateway was not reached yet, or if it refuses this service."""
        if self.is_refused or not self._checks:
            await self._check()
        return self.interval_s if self.is_refused or not self._checks else IDLE_INTERVAL_S

    async def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or less if the gateway begins to refuse this service."""
        if self.is_refused:
            await asyncio.sleep(min(seconds, self.interval_s))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._refused.wait()
        except TimeoutError:
            return

    async def meaning(self, answer: port.Misconfigured) -> port.NoAnswer:
        """What the answer to one payment means: that the gateway refuses this service, or something about this payment only.

        One check decides for all payments that got such an answer meanwhile. If it does not reach the gateway, the answer stands.
        """
        self._refused.set()
        if await self._check():
            return answer if self.is_refused else answer.otherwise
        self._refuse(answer)
        return answer

    async def _check(self) -> bool:
        """Check, or wait for a check under way. Returns whether it reached the gateway."""
        before = self._checks
        async with self._one_at_a_time:
            return self._checks != before or await self._ask()

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._gateway.check()
        except Exception as error:  # noqa: BLE001 - a timeout, or a bug in the adapter: either way nothing is known
            self._outage.failed(error)
            return False
        self._outage.succeeded()
        match answer:
            case port.Misconfigured():
                self._refuse(answer)
            case port.Usable():
                self._allow()
            case _:
                return False
        self._checks += 1
        return True

    def _refuse(self, answer: port.Misconfigured) -> None:
        self._refused.set()
        self._readiness.set(COMPONENT, ok=False, reason=answer.evidence)
        now_s = self._monotonic()
        if now_s - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now_s
            log.error("gateway_refuses_service", evidence=answer.evidence)

    def _allow(self) -> None:
        if self.is_refused:
            self._refused.clear()
            log.info("gateway_takes_service")
        self._readiness.set(COMPONENT, ok=True)
