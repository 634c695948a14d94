"""How fast this machine is just now. Limits of CPU time were measured on a quick one; others, and this one at other hours, take longer."""

import time

LOOPS = 100_000
QUICK_S = 0.0014
"""CPU seconds of the yardstick when a body of base64, the worst known, took 4.7 ms."""


def slowness() -> float:
    """How many times longer than on the quick machine the same work takes at this moment; at least 1."""
    started, total = time.thread_time(), 0
    for number in range(LOOPS):
        total += number
    return max(1.0, (time.thread_time() - started) / QUICK_S)
