"""The watch over the queue of unreadable dead letters leaves nothing behind when it fails."""

from typing import cast

import pytest

from services.staff.unreadable import UnreadableWatch
from shared.amqp.broker_link import BrokerLink


class SilentChannel:
    """A channel on which the broker answers nothing."""

    is_closed = False

    async def queue_declare(self, *_: object, **__: object) -> None:
        raise TimeoutError

    async def close(self, **_: object) -> None:
        self.is_closed = True


class Link:
    def __init__(self) -> None:
        self.opened = SilentChannel()

    async def channel(self, *, confirms: bool) -> SilentChannel:
        return self.opened


async def test_a_channel_on_which_nothing_comes_is_closed() -> None:
    """Otherwise every look would leave one, until the connection has no more room for channels."""
    link = Link()
    with pytest.raises(TimeoutError):
        await UnreadableWatch(cast("BrokerLink", link)).run_once()
    assert link.opened.is_closed
