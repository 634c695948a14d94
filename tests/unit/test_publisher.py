"""When an idle publisher asks the broker whether it takes messages."""

from typing import cast

import pytest

from shared.amqp.broker_link import BrokerLink, Channel
from shared.messaging.publisher import PROBE_AFTER_S, Publisher


class Asking(Publisher):
    """Its channel is always open. It counts the probes."""

    def __init__(self, now_s: float) -> None:
        super().__init__(cast(BrokerLink, None), clock=lambda: now_s)
        self.probes = 0

    async def _open_channel(self) -> Channel:
        return cast(Channel, None)

    async def _probe(self, channel: Channel) -> None:
        del channel
        self.probes += 1


@pytest.mark.parametrize(
    ("failing", "silent_s", "probes"),
    [(False, 0.0, 0), (False, PROBE_AFTER_S, 1), (True, 0.0, 1)],
    ids=["a confirm came lately", "silence", "a failure, though a confirm came lately"],
)
async def test_a_probe_is_sent_after_silence_and_after_a_failure(failing: bool, silent_s: float, probes: int) -> None:
    """A broker under an alarm opens channels and confirms nothing."""
    publisher = Asking(now_s=100.0)
    publisher._failing, publisher._confirmed_at = failing, 100.0 - silent_s
    await publisher.keep_open()
    assert (publisher.probes, publisher._failing) == (probes, False)
