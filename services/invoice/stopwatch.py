"""Measures how long a payment takes: from the commit of its request to the commit of its outcome.

It is measured in the memory of an instance, so each measures the payments that began and ended on it: a fair sample of all. A payment that
outlasts its instance is not measured; the gauges of payments in doubt tell of it.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

from services.invoice.domain import Event, Paid, PaymentFailed, PaymentRequested
from shared.observability import metrics

BEGUN_MAX: Final = 20_000
"""Payments under way that are remembered, 4 MiB. A busy instance has a few hundred."""


class PaymentStopwatch:
    """Remembers when payments began. `monotonic` gives seconds that never go back."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._begun: dict[UUID, float] = {}

    def happened(self, events: Iterable[Event]) -> None:
        """Note payments that begin with these events, and measure those that end with them."""
        for event in events:
            match event:
                case PaymentRequested():
                    self._begun[event.payment_id] = self._monotonic()
                    if len(self._begun) > BEGUN_MAX:
                        del self._begun[next(iter(self._begun))]  # the oldest
                case Paid():
                    self._ended(event.payment_id, "paid")
                case PaymentFailed():
                    self._ended(event.payment_id, event.outcome)
                case _:
                    pass

    def _ended(self, payment_id: UUID, outcome: str) -> None:
        began_s = self._begun.pop(payment_id, None)
        if began_s is not None:
            metrics.PAYMENT_SECONDS.labels(outcome=outcome).observe(self._monotonic() - began_s)
