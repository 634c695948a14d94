"""What anybody may send to the endpoint of webhooks, over a real socket: it costs little, and is told from what the gateway signs."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from unittest.mock import Mock

import aiohttp
import pytest
from structlog.testing import capture_logs

from services.payment_gateway import webhooks
from services.payment_gateway.settings import WebhookSettings
from services.payment_gateway.webhooks import BODY_BYTES_MAX, PATH, Webhooks

DEADLINE_S = 20.0


@pytest.fixture
async def port() -> AsyncIterator[int]:
    endpoint = Webhooks(WebhookSettings("127.0.0.1", 0, ("whsec_x",)), Mock(), Mock(), livemode=False)
    await endpoint.listen()
    running = asyncio.create_task(endpoint.run())
    yield endpoint.listens_on
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_a_compressed_body_is_not_unpacked(port: int, encoding: str) -> None:
    bomb = gzip.compress(b" " * 100 * BODY_BYTES_MAX)
    headers = {"content-encoding": encoding, "stripe-signature": "t=1,v1=00"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}{PATH}", data=bomb, headers=headers) as answer,
    ):
        assert (answer.status, await answer.text()) == (400, "forged\n")


@pytest.mark.parametrize(
    "rest", [b"content-length: 20\r\n\r\n{}", b"transfer-encoding: chunked\r\n\r\nzz\r\n"], ids=["cut", "broken"]
)
async def test_a_body_that_does_not_come_whole_is_no_outage(
    port: int, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.05)
    with capture_logs() as logs:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\n%b" % (PATH.encode(), rest))
        first = await asyncio.wait_for(reader.readline(), DEADLINE_S)
        writer.close()
    assert b" 400 " in first
    assert logs == []
