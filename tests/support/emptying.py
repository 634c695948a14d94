"""Empties queues between tests, by one connection that outlives them: to open another costs more than to look at all queues."""

from contextlib import AsyncExitStack

from aio_pika.exceptions import AMQPError
from aiormq.exceptions import ChannelInvalidStateError

from tests.support.databases import in_background
from tests.support.upstream_client import UpstreamClient

_BROKEN = (AMQPError, ChannelInvalidStateError, ConnectionError)


class _Broom:
    """A client that is opened when it is needed, and again if the broker was away meanwhile."""

    def __init__(self) -> None:
        self._kept: tuple[UpstreamClient, AsyncExitStack] | None = None

    async def purge(self, url: str) -> None:
        try:
            await (await self._client(url)).purge(when_unconsumed=True)
        except _BROKEN:
            await self.close()
            await (await self._client(url)).purge(when_unconsumed=True)

    async def _client(self, url: str) -> UpstreamClient:
        if self._kept is None:
            opened = AsyncExitStack()
            self._kept = await opened.enter_async_context(UpstreamClient.open(url)), opened
        return self._kept[0]

    async def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept[1].aclose()


_broom = _Broom()


async def empty_queues(url: str) -> None:
    """Empty all of Remit's queues on the broker of this process."""
    await in_background(_broom.purge(url))


async def end() -> None:
    """Close the connection. Nothing may be emptied meanwhile."""
    await in_background(_broom.close())
