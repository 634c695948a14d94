"""A proxy before the broker that ends the connection whenever certain bytes pass, as a broker does that crashes over a message."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


class DeadlyBroker:
    """Passes everything on, and aborts a connection on which one of `deadly` comes from the client."""

    def __init__(self, url: str) -> None:
        self.deadly: set[bytes] = set()
        self.deaths = 0
        self.connections = 0
        self.away = False
        self._behind = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = url

    def cut_all(self) -> None:
        """End every connection at once, as a restart of the broker does."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self.away:
            to_client.transport.abort()
            return
        self.connections += 1
        server, to_server = await asyncio.open_connection(self._behind.hostname, self._behind.port or 5672)
        writers = {to_client, to_server}
        self._writers |= writers
        try:
            await asyncio.gather(self._pass(client, to_server, writers), self._pass(server, to_client, set()))
        except ConnectionError:
            pass
        finally:
            self._writers -= writers
            for writer in writers:
                writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ended_by_death: set[asyncio.StreamWriter]
    ) -> None:
        seen = b""
        while data := await reader.read(CHUNK_BYTES):
            seen = seen[-1_000:] + data
            if ended_by_death and any(marker in seen for marker in self.deadly):
                self.deaths += 1
                for each in ended_by_death:
                    each.transport.abort()
                return
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def deadly_broker(url: str) -> AsyncIterator[DeadlyBroker]:
    """A deadly broker before the one at `url`."""
    broker = DeadlyBroker(url)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    broker.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
    try:
        yield broker
    finally:
        broker.cut_all()
        server.close()
