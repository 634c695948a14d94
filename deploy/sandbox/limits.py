"""Rate limits, one for each endpoint, as Stripe has them (https://docs.stripe.com/rate-limits)."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class RateLimits:
    """Each endpoint takes `per_s` requests a second, and as many at once after a quiet second. None: as many as come.

    `clock` gives seconds. A refused request costs nothing.
    """

    per_s: float | None
    clock: Callable[[], float]
    refused: int = 0
    """How many requests were refused."""
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By endpoint: the requests that were left, and when."""

    def takes(self, endpoint: str) -> bool:
        """Whether the endpoint takes one more request now."""
        if self.per_s is None:
            return True
        now = self.clock()
        left, since = self._left.get(endpoint, (self.per_s, now))
        left = min(self.per_s, left + (now - since) * self.per_s)
        takes = left >= 1.0
        self._left[endpoint] = (left - takes, now)
        self.refused += not takes
        return takes
