"""What a consumer makes of the losses of its connection: how many messages it takes at once, and how long it waits.

A message can end every connection on which the broker delivers it: RabbitMQ 4.0.5 does so with an AMQP 1.0 property that AMQP 0-9-1 cannot
carry. Each loss counts a delivery against every unacknowledged message, so beside such a message healthy ones would reach the delivery
limit as well. A consumer that takes one message at a time loses its connection with that message alone, until the broker dead-letters it.
"""

from typing import Final

from shared.messaging.topology import DELIVERY_LIMIT
from shared.retry_policy import OUTAGE

LOSSES_MAX = 2
"""Losses in a row after which a consumer takes one message at a time."""
ALONE: Final = OUTAGE
"""The policy while one message is taken at a time and none comes. Its waits grow with each delivery limit's worth of losses, not with each
loss. The broker gives out the message that ends connections before all others, and they wait until it has reached the limit: half a minute
on a busy machine (measured with RabbitMQ 4.0.5). What resets connections before a delivery counts against no message, and may never end."""


class Losses:
    """The losses of one consumer.

    `prefetch` is the number of messages that it may hold unacknowledged while all is well. With `wary` it begins as after losses, because
    it cannot know how its process ended the last time. `delivery_limit` is that of its queue.
    """

    def __init__(self, prefetch: int, *, wary: bool = False, delivery_limit: int = DELIVERY_LIMIT) -> None:
        self._full_prefetch = prefetch
        self._delivery_limit = delivery_limit
        self._failures = 0
        self._in_a_row = 0
        self._acknowledged = 0
        self._is_alone = wary

    @property
    def prefetch(self) -> int:
        """How many messages may be unacknowledged now."""
        return 1 if self._is_alone else self._full_prefetch

    @property
    def reason(self) -> str:
        """Why one message is taken at a time, for readiness. Empty if that is not because of losses."""
        if not self._is_alone or self._in_a_row < LOSSES_MAX:
            return ""
        return f"lost {self._in_a_row} times in a row; takes one message at a time"

    def not_opened(self) -> None:
        """The broker could not be reached, or refused: an outage, which counts against no message."""
        self._failures += 1

    def lost(self) -> None:
        """The consumer was lost after it had begun."""
        self._failures += 1
        self._in_a_row += 1
        self._acknowledged = 0
        if self._in_a_row >= LOSSES_MAX:
            self._is_alone = True

    def acknowledged(self, messages: int) -> None:
        """The broker was sent an acknowledgement. Once it covers as many messages as a loss can concern, those are through."""
        self._failures = 0
        self._acknowledged += messages
        if self._acknowledged >= self._full_prefetch:
            self._end()

    def found_nothing(self) -> None:
        """The consumer lived for a while, and nothing waits in its queue: nothing there can end its connection."""
        self._failures = 0
        self._end()

    def _end(self) -> None:
        self._in_a_row = 0
        self._is_alone = False

    def delay_s(self, *, nothing_came: bool) -> float:
        """Seconds to wait before the consumer opens again. They grow until something is acknowledged.

        `nothing_came` says that the consumer had begun and was lost without a delivery: what ended it was on its way. Otherwise a broken
        network is as likely, and the message at the head of the queue must not pay for it with its deliveries.

        """
        if self._is_alone and nothing_came:
            return ALONE.delay_s(1 + max(0, self._in_a_row - LOSSES_MAX) // (self._delivery_limit + 1))
        return OUTAGE.delay_s(max(1, self._failures))
