"""A running service over the real broker and database: given these messages, when one more arrives, then exactly these leave."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from shared.contracts.base import Contract
from tests.support.databases import rows
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until


class Conversation:
    """A conversation with one service. `hears`: every place where the service may publish. `marker`: makes a message to the same queue that
    changes nothing else. Once the marker was handled, so was what was sent before it, even a duplicate that leaves no trace."""

    def __init__(
        self,
        upstream: UpstreamClient,
        database_url: str,
        hears: Sequence[Subscription],
        *,
        handled: str,
        marker: Callable[[Contract], Contract],
    ) -> None:
        """`handled`: the query that finds the message `$1` if it was handled."""
        self._upstream = upstream
        self._database_url = database_url
        self._hears = hears
        self._handled = handled
        self._marker = marker

    async def given(self, *messages: Contract) -> None:
        """These messages were handled, one after the other, and what they caused was received."""
        for message in messages:
            await self.when(message)

    async def when(self, message: Contract, **how: Any) -> list[Received]:
        """All messages that leave once this one was handled: in the order of `hears`, and from each in the order of arrival."""
        await self._upstream.send(message, **how)
        marker_id = await self._upstream.send(self._marker(message), message_id=uuid4())

        async def done() -> bool:
            handled = await rows(self._database_url, self._handled, marker_id)
            return bool(handled) and not await rows(self._database_url, "SELECT 1 FROM outbox")

        await until(done, what=f"the handling of {message.wire_name}")
        left = [received for one in self._hears for received in await one.waiting()]
        return [received for received in left if received.event["causationid"] != str(marker_id)]


def contents(received: Sequence[Received]) -> list[Contract]:
    """The contents of these messages."""
    return [one.content for one in received]


def causes(received: Sequence[Received]) -> set[tuple[UUID, str]]:
    """The ids of the messages that caused these, each with the correlation id of its flow."""
    return {(UUID(one.event["causationid"]), one.event["correlationid"]) for one in received}
