"""What may be spent on one text or message: what a sender writes must not hold the messages of others up."""

import math
from typing import Final

EFFORT_MAX_US: Final = 3_600
"""For the headers and the body of a message, or for another text. Our own largest body, with times or floats wherever a gateway may write,
takes a third."""
NO_LIMIT: Final = math.inf
"""Where nobody waits: the audit, a purge."""


class TooMuchEffort(Exception):
    """There is more in a text that looks like card data, or is encoded, than chance explains."""


class Effort:
    """An account of microseconds. What a step costs is reckoned from counts and not measured, so a text costs the same everywhere.

    The prices are those of the worst text for the step, on the machine of tests/bench.
    """

    def __init__(self, limit_us: float = EFFORT_MAX_US) -> None:
        self.left_us = limit_us

    def spend(self, cost_us: float) -> None:
        """Raises `TooMuchEffort` once nothing is left."""
        self.left_us -= cost_us
        if self.left_us < 0:
            raise TooMuchEffort
