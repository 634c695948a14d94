"""The gateway port over Stripe's HTTP API, through Stripe's own asynchronous SDK.

The SDK is used with nothing hidden: no retries of its own, an explicit timeout, our idempotency keys, one bounded
connection pool, no telemetry. What it raises and what it lets through is turned into the port's answers here; what the
JSON means is in `stripe_answers`, so it is asked for through the SDK's `raw_request_async`: its resource classes make an
object of every value first (a tenth of this service's CPU at a busy gateway, measured).

Two things people who call this should know. Stripe saves the answer to a key, 500s and refusals included, and gives it
again: so a repeated `execute` or `cancel` deserves a key of its own (the PaymentIntent fences, not the key), and where
a replayed answer does arrive, it is a memory, and the adapter asks how things are now.
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
CONNECT_SHARE = (
    0.5  # of the whole timeout at most: a request cut while connecting is "not sent", cut later it is in doubt
)
KEEPALIVE_S = 15.0  # shorter than any server's: writing into a connection just closed over there is in doubt
PAGE_SIZE = 100  # the most that Stripe's lists give at once
ANSWER_BYTES_MAX = 4 * 1024 * 1024  # far more than a full page of refunds

UNLIKE_ISO_4217 = frozenset({"ISK", "UGX", "MGA"})
"""Currencies whose minor unit at Stripe differs from ISO 4217 by a factor of 100
(https://docs.stripe.com/currencies#special-cases): refused, because a charge of a hundred times the amount is worse
than none.
"""

# Else the SDK tells Stripe about this machine with each request, and keeps an id of it in a file in the home directory.
stripe.enable_telemetry = False
# The SDK logs request bodies at DEBUG, and the body of `tokenise` is a card number.
logging.getLogger("stripe").setLevel(logging.WARNING)


class _StripeTransport(stripe.AIOHTTPClient):
    """The SDK's aiohttp client, except that it gives its connection back when reading an answer fails (16.1 leaves that to the
    garbage collector), follows no redirect (Stripe never sends one; what is meant for it must not be sent on) and reads no answer
    without end. What aiohttp raises goes through as it is: `_reply` tells it apart.
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
    """More than any answer of Stripe's."""


class StripeGateway:
    """See `port.Gateway`. To be built inside a running event loop, and closed."""

    def __init__(self, *, api_key: str, base_url: str, timeout_s: float, connections: int) -> None:
        """`timeout_s` bounds one request from connect to the last byte of the answer. `connections` is the size of the
        pool: keep it at least as large as the number of payments worked on at once, since waiting for a connection
        counts against `timeout_s`.

        ValueError says which setting is wrong.
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
        """What a confirm or a cancel came to. Stripe refuses both when the payment is past them: its state then says
        why.
        """
        if isinstance(reply, port.NotSent | port.Unknown):
            return reply
        if not reply.replayed:
            body = reply.body if isinstance(reply, Accepted) else reply.payment_intent
            answer = answers.read_charge(body, gateway_id, reply.evidence) if body else None
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
        """Asks for the payment first: a list of no refunds means something only for a payment that was captured."""
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
        """`params` share their names with the SDK's options, `headers` or `api_key` for instance: Stripe has no such parameters."""
        return await _reply(self._client.raw_request_async("post", path, **(params or {}), idempotency_key=key))

    async def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        return await _reply(self._client.raw_request_async("get", path, **(params or {})))


def _intent(gateway_id: str) -> str:
    return f"{_INTENTS}/{quote(gateway_id, safe='')}"


async def _reply(call: Awaitable[stripe.StripeResponse]) -> Reply:
    """One request through the SDK, every way it can end told apart. Cancellation passes through."""
    try:
        response = await call
    except stripe.StripeError as refusal:
        return answers.read_error(refusal.http_status, refusal.json_body, refusal.headers or {})
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failure:
        # aiohttp raises these two only while connecting, before a byte of the request is written.
        return port.NotSent(evidence("no connection:", type(failure).__name__))
    except Exception as failure:  # noqa: BLE001 - see below
        # Timeouts, resets, cut bodies; but also whatever the SDK trips over, for it reads a strange answer as it comes (16.1: an
        # `error` that is no object raises AttributeError, deep nesting RecursionError). In all of them the request may have arrived.
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
    """The certificates shipped with the SDK: slim container images have none of their own."""
    return ssl.create_default_context(cafile=stripe.ca_bundle_path) if base_url.startswith("https:") else True


def _objects(body: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    data = body.get("data")
    return data if isinstance(data, list) and all(isinstance(item, Mapping) for item in data) else None
