"""The adapter for Stripe's HTTP API, through Stripe's own asynchronous SDK.

Nothing that the SDK does is hidden: it makes no retries of its own, has an explicit timeout, uses our idempotency keys and one connection
pool of limited size, and sends no telemetry. This module turns what the SDK returns or raises into answers of the port. `stripe_answers`
reads the JSON. So requests use the SDK's `raw_request_async`: its resource classes would first make an object of every value, which took a
tenth of this service's CPU at a busy gateway (measured).

Stripe saves the answer to an idempotency key, even a 500 or a refusal, and replays it when the key comes again. So a repeated `execute` or
`cancel` should have a new key. That is safe, because one PaymentIntent charges only once, whatever the keys. A replayed answer may be
outdated, so the adapter then asks for the present state.
"""

import logging
import os
import ssl
from collections.abc import Awaitable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import stripe

from services.payment_gateway.gateways import port
from services.payment_gateway.gateways import stripe_answers as answers
from services.payment_gateway.gateways.evidence import evidence
from services.payment_gateway.gateways.stripe_answers import Accepted, Rejected, Reply

_INTENTS = "/v1/payment_intents"
CONNECT_TIMEOUT_S = 3.0  # a handshake that takes longer is an outage
# Connecting may take this share of the whole timeout. A timeout while connecting means "not sent", a later one means "in doubt".
CONNECT_SHARE = 0.5
# Shorter than any server's keepalive. A request that is written to a connection which the server just closed would be in doubt.
KEEPALIVE_S = 15.0
PAGE_SIZE = 100  # the largest page of Stripe's lists
ANSWER_BYTES_MAX = 4 * 1024 * 1024  # far more than a full page of refunds

UNLIKE_ISO_4217 = frozenset({"ISK", "UGX", "MGA"})
"""Currencies whose minor unit at Stripe differs from ISO 4217 by a factor of 100 (https://docs.stripe.com/currencies#special-cases).
They are refused, because a charge of a hundred times the amount is worse than none."""

# With telemetry, the SDK tells Stripe about this machine in each request, and keeps an id of it in a file in the home directory.
stripe.enable_telemetry = False
# The SDK logs request bodies at DEBUG, and the body of `tokenise` has a card number.
logging.getLogger("stripe").setLevel(logging.WARNING)


class _StripeTransport(stripe.AIOHTTPClient):
    """The SDK's aiohttp client with three changes. Errors of aiohttp pass through, and `_reply` tells them apart.

    - It releases its connection when reading an answer fails. Version 16.1 leaves that to the garbage collector.
    - It follows no redirect. Stripe never sends one, and a request for Stripe must not go elsewhere.
    - It stops reading after `ANSWER_BYTES_MAX` bytes.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__(session=session)
        self._connections = session

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        request = self._connections.request(method, url, headers=headers, data=post_data, allow_redirects=False)
        async with request as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    raise _AnswerTooLargeError
            return bytes(body), response.status, response.headers


class _AnswerTooLargeError(Exception):
    """The answer is larger than any that Stripe sends."""


class StripeGateway:
    """The gateway of Stripe (see `port.Gateway`). It must be created inside a running event loop, and closed."""

    def __init__(self, *, api_key: str, base_url: str, timeout_s: float, connections: int) -> None:
        """Open the gateway. Raises ValueError, which says which setting is wrong.

        `timeout_s` limits one request in seconds, from connecting to the last byte of the answer. `connections` is the size of the pool. It
        must be at least the number of calls at once, because waiting for a connection counts against `timeout_s`.
        """
        _refuse_unsafe_settings(api_key, base_url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEPALIVE_S, ssl=_trust(base_url)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=timeout_s, sock_connect=min(timeout_s * CONNECT_SHARE, CONNECT_TIMEOUT_S)
            ),
        )
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url.rstrip("/")},
            max_network_retries=0,
            http_client=_StripeTransport(self._session),
        )

    async def tokenise(self, card: port.Card, *, key: str) -> port.TokeniseAnswer:
        number, month, year = card.number, card.exp_month, card.exp_year
        details = {"number": number, "exp_month": month, "exp_year": year}
        reply = await self._post("/v1/payment_methods", key, {"type": "card", "card": details})
        match reply:
            case Accepted():
                return answers.read_token(reply)
            case Rejected():
                return port.Refused(reply.code, reply.evidence)
            case _:
                return reply

    async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
        if order.currency in UNLIKE_ISO_4217:
            return port.Refused(
                "currency_not_supported", f"Stripe counts {order.currency} in another unit than ISO 4217"
            )
        reply = await self._post(
            _INTENTS,
            key,
            {
                "amount": order.amount_minor,
                "currency": order.currency.lower(),
                "payment_method": order.method_token,
                "allowed_payment_method_types": ["card"],
                "capture_method": "automatic",
                "metadata": {"payment_id": str(order.payment_id), "invoice_id": order.invoice_id},
            },
        )
        match reply:
            case Accepted():
                return answers.read_prepared(reply, order)
            case Rejected():
                return port.Refused(reply.code, reply.evidence)
            case _:
                return reply

    async def execute(self, gateway_id: str, *, key: str) -> port.ChargeAnswer:
        return await self._outcome(gateway_id, await self._post(f"{_intent(gateway_id)}/confirm", key))

    async def cancel(self, gateway_id: str, *, key: str) -> port.ChargeAnswer:
        return await self._outcome(gateway_id, await self._post(f"{_intent(gateway_id)}/cancel", key))

    async def inquire(self, gateway_id: str) -> port.ChargeAnswer:
        reply = await self._get(_intent(gateway_id))
        match reply:
            case Accepted():
                return answers.read_charge(reply.body, gateway_id, reply.evidence)
            case Rejected(status=404):
                return port.NotFound(reply.evidence)
            case Rejected():
                return port.Unknown(reply.evidence)
            case _:
                return reply

    async def _outcome(self, gateway_id: str, reply: Reply) -> port.ChargeAnswer:
        """The outcome of a confirm or a cancel. Stripe refuses both if the payment has passed that state. Then its state is asked for."""
        if isinstance(reply, port.NotSent | port.Unknown):
            return reply
        if not reply.replayed:
            intent = reply.body if isinstance(reply, Accepted) else reply.payment_intent
            answer = answers.read_charge(intent, gateway_id, reply.evidence) if intent else None
            if answer and (isinstance(reply, Accepted) or isinstance(answer, port.Declined)):
                return answer
        return await self.inquire(gateway_id)

    async def refund(self, gateway_id: str, *, key: str) -> port.RefundAnswer:
        reply = await self._post("/v1/refunds", key, {"payment_intent": gateway_id})
        match reply:
            case Accepted(replayed=False):
                return answers.read_refund(reply.body, reply.evidence)
            case Accepted():
                return await self.inquire_refund(gateway_id)
            case Rejected():
                known = await self.inquire_refund(gateway_id)
                return port.RefundFailed(reply.code, reply.evidence) if isinstance(known, port.NoRefund) else known
            case _:
                return reply

    async def inquire_refund(self, gateway_id: str) -> port.RefundAnswer:
        """Ask for the payment first, then for its refunds. An empty list of refunds only means something if the payment was captured."""
        charge = await self.inquire(gateway_id)
        match charge:
            case port.NotFound() | port.NotSent() | port.Unknown():
                return charge
            case port.Captured():
                pass
            case _:
                return port.NoRefund(evidence(charge.evidence, "nothing was captured"))
        reply = await self._get("/v1/refunds", {"payment_intent": gateway_id, "limit": PAGE_SIZE})
        match reply:
            case Accepted():
                refunds = _objects(reply.body)
                if refunds is None:
                    return port.Unknown(evidence(reply.evidence, "the list of refunds is unreadable"))
                return answers.read_refunds(refunds, charge.amount_minor, reply.evidence)
            case Rejected():
                return port.Unknown(reply.evidence)
            case _:
                return reply

    async def close(self) -> None:
        await self._session.close()

    async def _post(self, path: str, key: str, params: Mapping[str, Any] | None = None) -> Reply:
        """Send a POST request. The SDK takes `params` and its own options (`headers`, `api_key`) together; no parameter has such a name."""
        return await _reply(self._client.raw_request_async("post", path, **(params or {}), idempotency_key=key))

    async def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        return await _reply(self._client.raw_request_async("get", path, **(params or {})))


def _intent(gateway_id: str) -> str:
    return f"{_INTENTS}/{quote(gateway_id, safe='')}"


async def _reply(call: Awaitable[stripe.StripeResponse]) -> Reply:
    """Await one request of the SDK, and tell all ways apart in which it can end. A cancellation passes through."""
    try:
        response = await call
    except stripe.StripeError as refusal:
        return answers.read_error(refusal.http_status, refusal.json_body, refusal.headers or {})
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failure:
        # aiohttp raises these two errors only while connecting, before any byte of the request is written.
        return port.NotSent(evidence("no connection:", type(failure).__name__))
    except Exception as failure:  # noqa: BLE001 - see below
        # These are timeouts, resets, cut bodies, and errors inside the SDK, which does not check strange answers. In version 16.1 an
        # `error` that is no object raises AttributeError, and deep nesting RecursionError. In all cases the request may have arrived.
        return port.Unknown(evidence("no answer:", type(failure).__name__))
    return answers.read_success(response.data, response.headers)


def _refuse_unsafe_settings(api_key: str, base_url: str) -> None:
    if os.environ.get("STRIPE_LOG"):  # read by the SDK itself; it prints request bodies to stderr
        raise ValueError("STRIPE_LOG must not be set: it makes the Stripe SDK print card numbers")
    if urlsplit(base_url).scheme not in {"http", "https"}:
        raise ValueError(f"the gateway's base URL must be http(s)://, not {base_url!r}")
    if urlsplit(base_url).scheme == "http" and "_live_" in api_key:
        raise ValueError("a live Stripe key must not be sent over http://")


def _trust(base_url: str) -> ssl.SSLContext | bool:
    """The certificates that the SDK brings along, because slim container images have none."""
    return ssl.create_default_context(cafile=stripe.ca_bundle_path) if base_url.startswith("https:") else True


def _objects(body: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    data = body.get("data")
    return data if isinstance(data, list) and all(isinstance(item, Mapping) for item in data) else None
