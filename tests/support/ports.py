"""Ports of this machine."""

import random
import socket
from contextlib import suppress

_PORTS = range(10_000, 18_000)
"""Below those that private stacks take, and below those that Linux gives to outgoing connections: else somebody could get the port before
the test has opened it."""
_CHANCE = random.SystemRandom()
"""Not the one that Hypothesis seeds: all processes would draw the same ports."""


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    for port in _CHANCE.sample(_PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
