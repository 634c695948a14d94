"""How often something may be tried: so many times at once, and then again after a while. Counted in this process alone."""

import ipaddress
import math
from collections import OrderedDict

from starlette.requests import HTTPConnection

from shared.clock import Clock

KEYS_MAX = 10_000
"""So many keys are remembered, those used last. To forget one only lets its owner try again."""


IPV6_NETWORK_BITS = 64


def network_of(address: str) -> str:
    """The address by which tries are counted. Of IPv6 everybody has a whole network, and so as many addresses as they like."""
    try:
        read = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not isinstance(read, ipaddress.IPv6Address):
        return str(read)
    if read.ipv4_mapped is not None:
        return str(read.ipv4_mapped)
    return str(ipaddress.ip_network((int(read), IPV6_NETWORK_BITS), strict=False))


def network_of_client(request: HTTPConnection) -> str:
    """By what the tries of whoever sent this are counted; empty if nobody says who."""
    return network_of(request.client.host) if request.client else ""


class Limiter:
    """Lets each key `burst` times through, and once more every `every_s` seconds."""

    def __init__(self, *, burst: int, every_s: float, clock: Clock) -> None:
        self._burst, self._every_s, self._clock = burst, every_s, clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, key: str) -> int:
        """0 if it may be tried now, which counts as a try; else in how many seconds. A clock that jumps back lets nobody wait for long."""
        now = self._clock().timestamp()
        full_at = min(max(self._full_at.pop(key, 0.0), now), now + self._burst * self._every_s)
        used = (full_at - now) / self._every_s
        allowed = used <= self._burst - 1
        self._full_at[key] = full_at + self._every_s if allowed else full_at
        if len(self._full_at) > KEYS_MAX:
            self._full_at.popitem(last=False)
        return 0 if allowed else max(1, math.ceil(round((used - (self._burst - 1)) * self._every_s, 3)))

    def left_wait_s(self, key: str) -> int:
        """As `wait_s`, but it is no try."""
        full_at = self._full_at.get(key, 0.0)
        wait_s = full_at - (self._burst - 1) * self._every_s - self._clock().timestamp()
        return 0 if wait_s <= 0 else max(1, math.ceil(round(min(wait_s, self._every_s), 3)))

    def forget(self, key: str) -> None:
        """Let this key try again, because it proved to be no guess."""
        self._full_at.pop(key, None)
