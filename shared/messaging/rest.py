"""How long the public lane rests after the broker took long over public copies.

Others choose the patterns of their bindings. Over one with 16 `#` RabbitMQ 3.10 computes a fifth of a second for each event, over one with
64 minutes, and no permission forbids it. What it costs is one CPU of the broker for as long as a publish lasts. So after copies that
took long, the lane leaves the broker alone for four times as long, and ever longer while they go on taking long.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from shared.messaging.publisher import Published
from shared.observability import metrics
from shared.persistence.outbox import Backoff

log = structlog.get_logger(__name__)

LONG_S: Final = 1.0
"""Copies that wait longer for their confirms have met something that costs the broker too much. They take milliseconds."""
SHARE: Final = 4
"""So many times as long as that wait the rest lasts at least."""
RESTS: Final = Backoff(4.0, 6)
"""The rests after long waits in a row. The longest is 256 s: nobody of ours waits for public copies."""
LONGEST_S: Final = RESTS.delay_s(RESTS.doublings_max)


class Rest:
    """The rests of one relay. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._long_in_a_row = 0
        self._ends_at = clock()

    @property
    def is_on(self) -> bool:
        return self._clock() < self._ends_at

    def after(self, published: Published) -> None:
        """Begin a rest if these copies took long. The outage of a broker shows nothing."""
        seconds = published.slowest_s
        if published.failed and not (published.not_taken or published.unclear):
            return
        if seconds < LONG_S:
            if published.confirmed:
                self._long_in_a_row = 0
            return
        rest_s = min(max(SHARE * seconds, RESTS.delay_s(self._long_in_a_row)), LONGEST_S)
        self._long_in_a_row += 1
        self._ends_at = self._clock() + rest_s
        metrics.PUBLIC_COPIES_SLOW.inc()
        log.error(
            "public_copies_slow",
            took_s=round(seconds, 1),
            rest_s=round(rest_s),
            advice="a queue that somebody bound has no leader, or a pattern has many `#`: `rabbitmqctl list_bindings`, then unbind it",
        )
