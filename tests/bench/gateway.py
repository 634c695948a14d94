"""A card gateway over HTTP that costs next to nothing and answers after a set time: `python -m tests.bench.gateway PORT_FILE LATENCY_MS`.

It knows only those requests of Stripe's API that a successful payment needs (create, confirm, retrieve), and keeps the newest payments in
memory. It shares the two cores with what is measured. The sandbox (`deploy.sandbox`), with its ledger on disk and its faults, would take
more of them. It is for measurements only, and ends with its parent's pipe.
"""

import asyncio
import sys
from collections import OrderedDict
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs

import orjson
import uvloop

REMEMBERED_MAX = 50_000
HEAD_END = b"\r\n\r\n"
NO_DIGITS = str.maketrans("0123456789", "ghijklmnop")
"""Letters for ids: of random digits, one id in twenty thousand would look like a card number, and be refused."""


class GatewayPayments:
    """Payments by id. The id is derived from the idempotency key, so that a repeated request finds the same payment."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, dict[str, object]] = OrderedDict()

    def answer(self, method: str, path: str, key: str, body: bytes) -> tuple[int, dict[str, object]]:
        """Returns HTTP status and JSON."""
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[:2] != ["v1", "payment_intents"]:
            return 404, _error("unknown path")
        if method == "POST" and len(parts) == 2:
            return (200, self._create(key, body)) if body else (400, _error("missing parameters"))
        intent = self._known.get(parts[2]) if len(parts) > 2 else None
        if intent is None:
            return 404, _error("no such payment_intent")
        if parts[3:] == ["confirm"]:
            charge = str(intent["id"]).replace("pi_", "ch_", 1)
            intent |= {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge}
        return 200, intent

    def _create(self, key: str, body: bytes) -> dict[str, object]:
        params = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        intent_id = "pi_" + "".join(filter(str.isalnum, key)).translate(NO_DIGITS)
        made: dict[str, object] = {
            "id": intent_id,
            "object": "payment_intent",
            "amount": int(params["amount"]),
            "currency": params["currency"],
            "payment_method": params["payment_method"],
            "status": "requires_confirmation",
            "latest_charge": None,
        }
        intent = self._known.setdefault(intent_id, made)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return intent


def _error(message: str) -> dict[str, object]:
    return {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": message}}


class Connection(asyncio.Protocol):
    """HTTP/1.1 with kept connections, one request at a time on each, which is how aiohttp sends them."""

    def __init__(self, payments: GatewayPayments, latency_s: float) -> None:
        self._payments = payments
        self._latency_s = latency_s
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(HEAD_END)
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, path, _ = lines[0].split(" ")
        status, answer = self._payments.answer(method, path, headers.get("idempotency-key", ""), rest[:length])
        body = orjson.dumps(answer)
        reason = "OK" if status == 200 else "Not Found"
        reply = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        asyncio.get_running_loop().call_later(self._latency_s, self._send, reply.encode() + body)

    def _send(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)


async def serve(port_file: Path, latency_s: float) -> None:
    """Serve until standard input closes."""
    payments = GatewayPayments()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(payments, latency_s), "127.0.0.1", 0, backlog=1_000)
    port_file.write_text(str(server.sockets[0].getsockname()[1]))  # noqa: ASYNC240 - nobody waits yet
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), float(sys.argv[2]) / 1_000))
