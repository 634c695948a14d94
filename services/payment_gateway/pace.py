"""Paces the calls to the gateway: at most so many a second to each endpoint, and to all together; fewer after the gateway says 429.

Every request takes a turn: the first of a call by its step, before the call begins, and each further one in the adapter (`follow_up`).
Turns are given in order, ahead of time, so a caller knows at once how long it has to wait. After a 429 all turns that were given are void,
and all calls are slower: by a fifth, then faster again by a fortieth each second (additive increase, multiplicative decrease, as in TCP).
So instances that share an account share its limit even if their settings, together, exceed it.

The limit is a setting of each instance, and no row in the database: a row would cost a statement for each call, and would still not know of
other programs that use the same account. Only the gateway's 429 tells of them.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.port import GatewayEndpoint
from shared.records import dataclass, field

BURST_S: Final = 0.25
"""Calls that come at once get their turns so much too early. With 20 calls/s, any second then has at most 25."""
INQUIRIES_SHARE: Final = 0.2
"""The share of all calls that is kept from calls that begin or make charges. So doubts end while many payments wait."""
BACK_OFF: Final = 0.8
RECOVERY_PER_S: Final = 0.025
"""After a 429: from four fifths back to the full pace in nine seconds. In a simulation of 5 000 payments, two instances that each took the
whole limit for theirs needed 1.02 times the ideal time."""
RECOVERED_S: Final = 600.0
"""By then the pace has recovered, however slow it was: by a fortieth each second, from `SLOWEST` in three minutes."""
SETTLE_S: Final = 1.0
"""Calls that were sent so soon after a slow-down do not slow the pace once more: the limit counts them together with those before."""
SLOWEST: Final = 0.01
"""The slowest pace, as a part of the setting. A gateway that says 429 to everything is asked this often."""
RESUME_JITTER: Final = 0.25
"""After a wait that the gateway asked for, each instance resumes up to so much later, so that they do not resume together."""

SEARCH_SHARE: Final = 0.75
"""The pace of searches, as a part of that of an endpoint. Stripe takes 20 searches a second (https://docs.stripe.com/search#rate-limits),
and 25 requests a second to any other endpoint."""

CHARGING_STEPS: Final = frozenset({GatewayStep.FIND, GatewayStep.TOKENISE, GatewayStep.PREPARE, GatewayStep.EXECUTE})
Asked = GatewayStep | GatewayEndpoint
"""What a turn is for: the first request of a step, or a further one."""
_ENDPOINTS: Final[dict[Asked, Asked]] = {
    **{step: step for step in GatewayStep},
    **{endpoint: endpoint for endpoint in GatewayEndpoint},
    GatewayStep.INQUIRE_REFUND: GatewayStep.INQUIRE,
    GatewayEndpoint.RETRIEVE: GatewayStep.INQUIRE,
    GatewayEndpoint.SEARCH: GatewayStep.FIND,
}
"""The first request of a step goes to one endpoint of the gateway. To ask about a refund begins with asking about its payment."""
FOLLOW_UP_BEYOND_S: Final = 2.0
"""How much later a further request may have its turn than the first of a call: turns are given that far ahead, so it waits behind them.
With less, calls that all need one would begin for ever, and none would end."""


def follow_up_within_s(lease_margin_s: float) -> float:
    """The longest wait of a further request for its turn. A first request waits for at most half of the lease's margin (`charging`)."""
    return lease_margin_s / 2 + FOLLOW_UP_BEYOND_S


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one call, in `wait_s` seconds. It holds only if the pace is still in the same `round` then."""

    wait_s: float
    round: int


@dataclass(slots=True)
class _Limit:
    """At most `per_s` calls a second. `next_s` is the time of the next turn if calls come evenly."""

    per_s: float
    next_s: float = 0.0

    def begins_s(self) -> float:
        return self.next_s - BURST_S

    def take(self, at_s: float, speed: float) -> None:
        self.next_s = max(self.next_s, at_s) + 1.0 / (self.per_s * speed)


@dataclass(slots=True)
class Pace:
    """The pace of one instance: `per_s` calls a second, `endpoint_per_s` to each endpoint. `clock` gives seconds, `jitter` 0 to 1.

    `follow_up_within_s`: a further request whose turn comes later is not made, since its call has a lease and a timeout.
    """

    per_s: float
    endpoint_per_s: float
    follow_up_within_s: float
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    round: int = 0
    """Counts how often the turns that were given became void."""
    _speed: float = 1.0
    """The pace after the last slow-down, as a part of the setting."""
    _slowed_s: float = 0.0
    _paused_until_s: float = 0.0
    _all: _Limit = field(init=False)
    _charges: _Limit = field(init=False)
    _endpoints: dict[Asked, _Limit] = field(init=False)

    def __post_init__(self) -> None:
        self._begin_round(self.clock())

    @property
    def speed(self) -> float:
        """The present pace, as a part of the setting: 1 unless the gateway said 429 a short while ago."""
        if self._speed == 1.0:  # it never did
            return 1.0
        resting_s = min(max(0.0, self.clock() - self._slowed_s), RECOVERED_S)
        return min(1.0, self._speed * math.pow(1.0 + RECOVERY_PER_S, resting_s))

    def wait_s(self, asked: Asked) -> float:
        """Seconds until such a request would have its turn."""
        begins_s = max(limit.begins_s() for limit in self._limits(asked))
        return max(0.0, max(begins_s, self._paused_until_s) - self.clock())

    def take_turn(self, asked: Asked) -> Turn:
        """Take the next turn of such a request. The caller has to wait for it."""
        wait_s, speed = self.wait_s(asked), self.speed
        for limit in self._limits(asked):
            limit.take(self.clock() + wait_s, speed)
        return Turn(wait_s, self.round)

    async def follow_up(
        self, endpoint: GatewayEndpoint, request: Callable[[], Awaitable[port.T]]
    ) -> port.T | port.Limited:
        """Make a further request of a call in its turn (see `port.FollowUp`), but not if that comes after `follow_up_within_s`."""
        ends_s = self.clock() + self.follow_up_within_s
        while (wait_s := self.wait_s(endpoint)) <= ends_s - self.clock():
            turn = self.take_turn(endpoint)
            if turn.wait_s:
                await asyncio.sleep(turn.wait_s)
            if turn.round == self.round:
                sent_s = self.clock()
                answer = await request()
                if isinstance(answer, port.Limited):
                    self.slow_down(sent_s=sent_s, retry_after_s=answer.retry_after_s)
                return answer
        return port.Limited("its turn at the gateway comes too late", retry_after_s=wait_s, is_ours=True)

    def room(self, within_s: float) -> int:
        """How many payments can begin within so many seconds."""
        per_s = min(limit.per_s for limit in self._limits(GatewayStep.PREPARE)) * self.speed
        return max(0, int((within_s - self.wait_s(GatewayStep.PREPARE)) * per_s))

    def slow_down(self, *, sent_s: float, retry_after_s: float | None) -> None:
        """Slow all calls, since the gateway said 429 to one that was sent at `sent_s`. It may have said how long to wait.

        The calls in flight together are answered 429 together. They slow the pace once.
        """
        now_s, begins_round = self.clock(), False
        if retry_after_s is not None:
            resume_s = now_s + retry_after_s * (1.0 + RESUME_JITTER * self.jitter())
            begins_round = resume_s > self._paused_until_s
            self._paused_until_s = max(self._paused_until_s, resume_s)
        if not self.round or sent_s >= self._slowed_s + SETTLE_S:
            self._speed, begins_round = max(SLOWEST, self.speed * BACK_OFF), True
            self._slowed_s = max(now_s, self._paused_until_s)
        if begins_round:
            self.round += 1
            self._begin_round(now_s + BURST_S)  # without a burst

    def _begin_round(self, next_s: float) -> None:
        """Begin with no turns given."""
        self._all, self._charges = _Limit(self.per_s, next_s), _Limit(self.per_s * (1.0 - INQUIRIES_SHARE), next_s)
        self._endpoints = {endpoint: _Limit(self.endpoint_per_s, next_s) for endpoint in set(_ENDPOINTS.values())}
        self._endpoints[GatewayStep.FIND] = _Limit(self.endpoint_per_s * SEARCH_SHARE, next_s)

    def _limits(self, asked: Asked) -> tuple[_Limit, ...]:
        endpoint = self._endpoints[_ENDPOINTS[asked]]
        return (endpoint, self._all, self._charges) if asked in CHARGING_STEPS else (endpoint, self._all)
