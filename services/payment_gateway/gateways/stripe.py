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
import re
import ssl
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import getproxies, proxy_bypass
from uuid import UUID

import aiohttp
import stripe

from services.payment_gateway.gateways import port
from services.payment_gateway.gateways import stripe_answers as answers
from services.payment_gateway.gateways.evidence import evidence
from services.payment_gateway.gateways.port import GatewayEndpoint
from services.payment_gateway.gateways.stripe_amounts import to_stripe
from services.payment_gateway.gateways.stripe_answers import Accepted, Rejected, Reply
from services.payment_gateway.gateways.stripe_events import PAYMENT_ID, payment_id_in
from shared.records import dataclass, replace

_INTENTS = "/v1/payment_intents"
_REFUNDS = "/v1/refunds"
_REFUND = "re_"  # begins the id of a refund
_METHODS = "/v1/payment_methods"
_DISPUTES = "/v1/disputes"
CONNECT_TIMEOUT_S = 3.0  # a handshake that takes longer is an outage
# Connecting may take this share of the whole timeout. A timeout while connecting means "not sent", a later one means "in doubt".
CONNECT_SHARE = 0.5
# Shorter than any server's keepalive. A request that is written to a connection which the server just closed would be in doubt.
KEEPALIVE_S = 15.0
PAGE_SIZE = 100  # the largest page of Stripe's lists
PAGES_MAX = 3  # of the refunds of one payment; nobody gives an invoice back in three hundred parts
ANSWER_BYTES_MAX = 4 * 1024 * 1024  # far more than a full page of refunds

_KEY = re.compile(r"(?:sk|rk)_(?P<mode>live|test)_[A-Za-z0-9_]+")
_KEY_KINDS = {
    "pk_": "is a publishable key",
    "whs": "is the secret of a webhook",
    "sk_": "is no whole key",
    "rk_": "is no whole key",
}
"""What people enter by mistake, by the first three letters."""

# With telemetry, the SDK tells Stripe about this machine in each request, and keeps an id of it in a file in the home directory.
stripe.enable_telemetry = False
# The SDK logs request bodies at DEBUG, and the body of `tokenise` has a card number.
logging.getLogger("stripe").setLevel(logging.WARNING)


class _StripeTransport(stripe.AIOHTTPClient):
    """The SDK's aiohttp client with four changes. Errors of aiohttp pass through, and `_reply` tells them apart.

    - It releases its connection when reading an answer fails. Version 16.1 leaves that to the garbage collector.
    - It follows no redirect. Stripe never sends one, and a request for Stripe must not go elsewhere.
    - It stops reading after `ANSWER_BYTES_MAX` bytes.
    - It takes the proxy of the environment. aiohttp would read it as well, but with it passwords from a file `.netrc`, which would replace
      our key.
    """

    def __init__(self, session: aiohttp.ClientSession, proxy: str | None) -> None:
        super().__init__(session=session)
        self._connections = session
        self._forward_proxy = proxy

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        request = self._connections.request(
            method, url, headers=headers, data=post_data, allow_redirects=False, proxy=self._forward_proxy
        )
        async with request as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    raise _AnswerTooLargeError
            return bytes(body), response.status, response.headers


Listed = Literal["payment_intents", "refunds", "disputes"]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. `has_more`: others follow after its last object."""

    things: list[Mapping[str, Any]]
    has_more: bool


class _AnswerTooLargeError(Exception):
    """The answer is larger than any that Stripe sends."""


class StripeGateway:
    """The gateway of Stripe (see `port.Gateway`). It must be created inside a running event loop, and closed."""

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        timeout_s: float,
        connections: int,
        livemode: bool = False,
        takes_cards: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        """Open the gateway. Raises ValueError, which says which setting is wrong.

        `livemode` is the mode of the account. With `takes_cards`, `check` also asks whether cards can be exchanged for tokens. `ca_file`
        has certificates to trust besides those of the SDK.

        `timeout_s` limits one request in seconds, from connecting to the last byte of the answer. `connections` is the size of the pool. It
        must be at least the number of calls at once, because waiting for a connection counts against `timeout_s`.
        """
        _refuse_unsafe_settings(api_key, base_url, livemode=livemode)
        self._livemode, self._takes_cards = livemode, takes_cards
        self._follow_up: port.FollowUp = port.at_once
        trusted, proxy = _trust(base_url, ca_file), proxy_for(base_url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEPALIVE_S, ssl=trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=timeout_s, sock_connect=min(timeout_s * CONNECT_SHARE, CONNECT_TIMEOUT_S)
            ),
        )
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url.rstrip("/")},
            max_network_retries=0,
            http_client=_StripeTransport(self._session, proxy),
        )

    async def tokenise(self, card: port.Card, *, key: str) -> port.TokeniseAnswer:
        number, month, year = card.number, card.exp_month, card.exp_year
        params: dict[str, Any] = {"type": "card", "card": {"number": number, "exp_month": month, "exp_year": year}}
        holder = _given({"name": card.name, "address": _given({"postal_code": card.postal_code})})
        reply = await self._post(_METHODS, key, params | _given({"billing_details": holder}))
        match reply:
            case Accepted():
                return answers.read_token(reply)
            case Rejected():
                return _refused(reply)
            case _:
                return reply

    async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
        amount = to_stripe(order.amount_minor, order.currency)
        if amount is None:
            return port.Refused("amount_not_chargeable", f"Stripe counts {order.currency} in whole units")
        reply = await self._post(_INTENTS, key, _order(order, amount))
        match reply:
            case Accepted():
                wrong_mode = answers.read_mode(reply.body, livemode=self._livemode, words=reply.evidence)
                return wrong_mode or answers.read_prepared(reply, order)
            case Rejected():
                return _refused(reply)
            case _:
                return reply

    async def find(self, sought: port.Sought) -> port.FindAnswer:
        """Look for it among the newest payments of its customer, if it has one, else by our id in the metadata.

        It is searched for as well if the customer has more than a page, or does not exist: then the payment was refused, and will be again.
        Lists are never outdated, and merchants in India cannot search. The index that is searched lags by less than a minute, and by up to
        an hour while Stripe has an outage (https://docs.stripe.com/api/payment_intents/search).
        """
        if sought.customer is not None:
            listed = await self._listed(_INTENTS, {"customer": sought.customer, "limit": PAGE_SIZE})
            if isinstance(listed, port.NoAnswer):
                return listed
            if isinstance(listed, Page) and not listed.has_more:
                return self._found(listed, sought)
            found = await self._follow_up(GatewayEndpoint.SEARCH, lambda: self._searched(sought))
        else:
            found = await self._searched(sought)
        return self._found(found, sought) if isinstance(found, Page) else found

    async def _searched(self, sought: port.Sought) -> "Page | port.NoAnswer":
        query = f"metadata['{PAYMENT_ID}']:'{sought.payment_id}'"
        return await self._list(f"{_INTENTS}/search", {"query": query, "limit": PAGE_SIZE})

    def _found(self, page: "Page", sought: port.Sought) -> port.FindAnswer:
        ours = [thing for thing in page.things if payment_id_in(thing) == sought.payment_id]
        for intent in ours:
            wrong_mode = answers.read_mode(intent, livemode=self._livemode, words="found")
            if wrong_mode is not None:
                return wrong_mode
        return answers.read_found(ours, sought, has_more=page.has_more)

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> port.ExecuteAnswer:
        """Confirm the payment. A refusal is no doubt, unless the payment has gone on, or is unknown to Stripe."""
        params = {"off_session": True} | ({"mandate": mandate} if mandate else {})
        reply = await self._post(f"{_intent(gateway_id)}/confirm", key, params)
        answer = await self._outcome(gateway_id, reply)
        return _refused(reply) if isinstance(reply, Rejected) and _is_refused(reply, answer) else answer

    async def cancel(self, gateway_id: str, *, key: str) -> port.ChargeAnswer:
        return await self._outcome(gateway_id, await self._post(f"{_intent(gateway_id)}/cancel", key))

    async def inquire(self, gateway_id: str) -> port.ChargeAnswer:
        return await self._with_refunds(gateway_id, await self._charge(gateway_id))

    async def _with_refunds(self, gateway_id: str, charge: port.ChargeAnswer) -> port.ChargeAnswer:
        """The same answer, with the refunds that stand if something was given back."""
        if not isinstance(charge, port.Captured) or not charge.refunded_minor:
            return charge
        refunds = await self._refunds_of(gateway_id)
        if not isinstance(refunds, list):
            return refunds
        return replace(charge, standing=answers.standing_refunds(refunds, charge.currency))

    async def _charge(self, gateway_id: str) -> port.ChargeAnswer:
        """What became of the charge, with its disputes, and without its refunds."""
        return await self._state(gateway_id, await self._retrieve(gateway_id))

    async def _charge_further(self, gateway_id: str) -> port.ChargeAnswer:
        """The same, after another request of the same call."""
        retrieved = await self._follow_up(GatewayEndpoint.RETRIEVE, lambda: self._retrieve(gateway_id))
        return await self._state(gateway_id, retrieved)

    async def _state(self, gateway_id: str, reply: Accepted | port.NotFound | port.NoAnswer) -> port.ChargeAnswer:
        """The state of a payment that was retrieved. If its charge is disputed, how that stands is asked as well."""
        if not isinstance(reply, Accepted):
            return reply
        answer = answers.read_charge(reply.body, gateway_id, reply.evidence)
        if not isinstance(answer, port.Captured) or not answer.disputed:
            return answer
        disputes = await self.disputes(gateway_id)
        return answers.read_disputes(disputes, answer) if isinstance(disputes, list) else disputes

    async def disputes(self, gateway_id: str) -> list[Mapping[str, Any]] | port.NoAnswer:
        """All disputes of a payment, newest first; none if this key may not read them. A charge has a few at most."""
        params = {"payment_intent": gateway_id, "limit": PAGE_SIZE}
        reply = await self._follow_up(GatewayEndpoint.LIST_DISPUTES, lambda: self._get(_DISPUTES, params))
        match reply:
            case Accepted():
                return _objects(reply.body) or []
            case Rejected() | port.Misconfigured(lacks_permission=True):
                return []
            case _:
                return reply

    async def owner(self, gateway_id: str) -> port.OwnerAnswer:
        intent = await self._given_back_from(gateway_id) if gateway_id.startswith(_REFUND) else gateway_id
        if not isinstance(intent, str):
            return intent
        reply = await self._follow_up(GatewayEndpoint.RETRIEVE, lambda: self._retrieve(intent))
        return port.MadeFor(payment_id_in(reply.body)) if isinstance(reply, Accepted) else reply

    async def _given_back_from(self, refund_id: str) -> str | port.NotFound | port.NoAnswer:
        """The payment at Stripe that a refund is of."""
        address = f"{_REFUNDS}/{quote(refund_id, safe='')}"
        reply = await self._follow_up(GatewayEndpoint.LIST_REFUNDS, lambda: self._get(address, {}))
        match reply:
            case Accepted(body={"payment_intent": str() as intent}):
                return intent
            case Accepted() | Rejected(status=answers.NOT_FOUND):
                return port.NotFound(reply.evidence)
            case Rejected():
                return port.Unknown(reply.evidence)
            case _:
                return reply

    async def show(self, gateway_id: str) -> Mapping[str, Any] | port.NotFound | port.NoAnswer:
        """The payment with its charge, as Stripe shows it."""
        reply = await self._retrieve(gateway_id)
        return reply.body if isinstance(reply, Accepted) else reply

    async def _retrieve(self, gateway_id: str) -> Accepted | port.NotFound | port.NoAnswer:
        """The payment together with its charge, which tells of refunds and disputes."""
        reply = await self._get(_intent(gateway_id), {"expand": ["latest_charge"]})
        match reply:
            case Accepted():
                return answers.read_mode(reply.body, livemode=self._livemode, words=reply.evidence) or reply
            case Rejected(status=answers.NOT_FOUND):
                return port.NotFound(reply.evidence)
            case Rejected():
                return port.Unknown(reply.evidence)
            case _:
                return reply

    async def _outcome(self, gateway_id: str, reply: Reply) -> port.ChargeAnswer:
        """The outcome of a confirm or a cancel. Stripe refuses both if the payment has passed that state. Then its state is asked for.

        The evidence of a refusal stays in front of that of the answer, because it says why.
        """
        if isinstance(reply, port.NoAnswer):
            return reply
        if not reply.replayed:
            intent = reply.body if isinstance(reply, Accepted) else reply.payment_intent
            answer = answers.read_charge(intent, gateway_id, reply.evidence) if intent else None
            if answer and (isinstance(reply, Accepted) or isinstance(answer, port.Declined | port.Unconfirmed)):
                return _advised(answer, reply)
        known = await self._with_refunds(gateway_id, await self._charge_further(gateway_id))
        return (
            replace(known, evidence=evidence(reply.evidence, known.evidence)) if isinstance(reply, Rejected) else known
        )

    async def refund(self, gateway_id: str, order: port.RefundOrder, *, key: str) -> port.RefundAnswer:
        """Make one refund. After a refusal the list of refunds tells whether one was made all the same."""
        amount = to_stripe(order.amount_minor, order.currency)
        if amount is None:
            return port.RefundFailed("amount_not_refundable", f"Stripe counts {order.currency} in whole units")
        metadata = {answers.REFUND_ID: str(order.refund_id), PAYMENT_ID: str(order.payment_id)}
        reply = await self._post(_REFUNDS, key, {"payment_intent": gateway_id, "amount": amount, "metadata": metadata})
        match reply:
            case Accepted(replayed=False):
                return answers.read_refund(reply.body, amount, order.currency, reply.evidence)
            case Accepted():
                return await self._refunds_after(await self._charge_further(gateway_id), gateway_id, order.refund_id)
            case Rejected():
                known = await self._refunds_after(await self._charge_further(gateway_id), gateway_id, order.refund_id)
                words = evidence(reply.evidence, known.evidence)
                if isinstance(known, port.NoRefund):
                    return port.RefundFailed(reply.code, words, left_minor=known.left_minor)
                return replace(known, evidence=words)
            case _:
                return reply

    async def inquire_refund(self, gateway_id: str, *refund_ids: UUID) -> port.RefundAnswer:
        return await self._refunds_after(await self._charge(gateway_id), gateway_id, *refund_ids)

    async def _refunds_after(self, charge: port.ChargeAnswer, gateway_id: str, *refund_ids: UUID) -> port.RefundAnswer:
        """Ask for the refunds of a payment that stands so. An empty list only means something if the payment was captured."""
        match charge:
            case port.NotFound() | port.NotSent() | port.Limited() | port.Unknown() | port.Misconfigured():
                return charge
            case port.Captured():
                pass
            case _:
                return port.NoRefund(evidence(charge.evidence, "nothing was captured"))
        refunds = await self._refunds_of(gateway_id)
        if not isinstance(refunds, list):
            return refunds
        known = port.worst([answers.read_refunds(refunds, charge, refund_id) for refund_id in refund_ids])
        is_part = isinstance(known, port.Refunded) and charge.gone_minor < charge.amount_minor
        if not isinstance(known, port.Refunded | port.NoRefund) or not (charge.is_contested or is_part):
            return known
        return replace(known, charge=replace(charge, standing=answers.standing_refunds(refunds, charge.currency)))

    async def _refunds_of(self, gateway_id: str) -> list[Mapping[str, Any]] | port.NoAnswer:
        """All refunds of a payment, newest first. One page missing could hold ours, so a list that is not whole is no answer."""
        found: list[Mapping[str, Any]] = []
        params: dict[str, Any] = {"payment_intent": gateway_id, "limit": PAGE_SIZE}
        for _ in range(PAGES_MAX):
            page = await self._follow_up(GatewayEndpoint.LIST_REFUNDS, lambda: self._list(_REFUNDS, params))
            if not isinstance(page, Page):
                return page
            found += page.things
            if not page.has_more:
                return found
            params["starting_after"] = page.things[-1].get("id") if page.things else None
        return port.Unknown(f"more than {PAGES_MAX * PAGE_SIZE} refunds of one payment")

    async def page(self, kind: Listed, since: int, until: int | None, after: str | None) -> Page | port.NoAnswer:
        """One page of what was created from `since` until before `until` (Unix seconds), newest first, after the object `after`.

        A payment is shown with its charge, a refund and a dispute with its payment.
        """
        created = {"gte": since} | ({"lt": until} if until is not None else {})
        expand = ["data.latest_charge" if kind == "payment_intents" else "data.payment_intent"]
        params = {"created": created, "limit": PAGE_SIZE, "expand": expand} | _given({"starting_after": after})
        return await self._list(f"/v1/{kind}", params)

    async def _list(self, path: str, params: Mapping[str, Any]) -> Page | port.NoAnswer:
        listed = await self._listed(path, params)
        return port.Unknown(listed.evidence) if isinstance(listed, Rejected) else listed

    async def _listed(self, path: str, params: Mapping[str, Any]) -> Page | Rejected | port.NoAnswer:
        reply = await self._get(path, params)
        if not isinstance(reply, Accepted):
            return reply
        things = _objects(reply.body)
        if things is None:
            return port.Unknown(evidence(reply.evidence, "the list is unreadable"))
        return Page(things, has_more=bool(reply.body.get("has_more")))

    def pace_by(self, follow_up: port.FollowUp) -> None:
        self._follow_up = follow_up

    async def check(self) -> port.CheckAnswer:
        """Make a harmless request of each kind that this service needs. A POST without parameters is refused, and creates nothing.

        Stripe looks at the key and its permissions first. The list also tells the mode, once the account has a payment.
        """
        listed = await self._get(_INTENTS, {"limit": 1})
        if isinstance(listed, Accepted):
            for intent in _objects(listed.body) or ():
                wrong_mode = answers.read_mode(intent, livemode=self._livemode, words=listed.evidence)
                if wrong_mode is not None:
                    return wrong_mode
        if isinstance(listed, port.NoAnswer):
            return listed
        for path in (_INTENTS, _REFUNDS, *((_METHODS,) if self._takes_cards else ())):
            reply = await self._post(path, None)
            if isinstance(reply, port.NoAnswer):
                return reply
        reply = await self._get(_REFUNDS, {"limit": 1})
        return reply if isinstance(reply, port.NoAnswer) else port.Usable()

    async def close(self) -> None:
        await self._session.close()

    async def _post(self, path: str, key: str | None, params: Mapping[str, Any] | None = None) -> Reply:
        """Send a POST request. The SDK takes `params` and its own options (`headers`, `api_key`) together; no parameter has such a name."""
        keyed = {"idempotency_key": key} if key else {}
        return await _reply(self._client.raw_request_async("post", path, **(params or {}), **keyed))

    async def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Reply:
        return await _reply(self._client.raw_request_async("get", path, **(params or {})))


def _order(order: port.Order, amount: int) -> dict[str, Any]:
    """The parameters of a new PaymentIntent. Without `confirm` it takes no `off_session` and no `mandate`: they come with the confirm."""
    details = order.details
    ours = {PAYMENT_ID: str(order.payment_id), "invoice_id": order.invoice_id}
    params = {
        "amount": amount,
        "currency": order.currency.lower(),
        "payment_method": order.method_token,
        "allowed_payment_method_types": ["card"],
        "capture_method": "automatic",
        "metadata": dict(details.metadata) | ours,
    }
    texts = {
        "customer": details.customer,
        "description": details.description,
        "statement_descriptor_suffix": details.statement_descriptor,  # cards take no whole descriptor
    }
    return params | _given(texts)


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value}


def _is_refused(reply: Rejected, known: port.ChargeAnswer) -> bool:
    """Whether a confirm was refused for good. `known` is the state of the payment, or no answer about it.

    Without an answer, a refusal that is about the request (a parameter, a method, the account) still stands: the cancel that follows finds
    out what the payment is. One that is about the state of the payment does not: it may be a capture.
    """
    match known:
        case port.Unconfirmed():
            return True
        case port.NotSent() | port.Limited() | port.Unknown() | port.Misconfigured():
            return reply.code != answers.UNEXPECTED_STATE and reply.status != answers.NOT_FOUND
        case _:
            return False


def _refused(reply: Rejected) -> port.Refused:
    return port.Refused(reply.code, reply.evidence, reply.advice)


def _advised(answer: port.ChargeAnswer, reply: Accepted | Rejected) -> port.ChargeAnswer:
    """The decline with the advice of the error, which the payment itself may lack."""
    if isinstance(answer, port.Declined) and isinstance(reply, Rejected):
        return replace(answer, advice=answer.advice or reply.advice)
    return answer


def _intent(gateway_id: str) -> str:
    return f"{_INTENTS}/{quote(gateway_id, safe='')}"


async def _reply(call: Awaitable[stripe.StripeResponse]) -> Reply:
    """Await one request of the SDK, and tell all ways apart in which it can end. A cancellation passes through."""
    try:
        response = await call
    except stripe.StripeError as refusal:
        return answers.read_error(refusal.http_status, refusal.json_body, refusal.headers or {})
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as failure:
        # aiohttp raises these errors only while connecting, before any byte of the request is written.
        return port.NotSent(evidence("no connection:", type(failure).__name__))
    except Exception as failure:  # noqa: BLE001 - see below
        # These are timeouts, resets, cut bodies, and errors inside the SDK, which does not check strange answers. In version 16.1 an
        # `error` that is no object raises AttributeError, and deep nesting RecursionError. In all cases the request may have arrived.
        return port.Unknown(evidence("no answer:", type(failure).__name__))
    return answers.read_success(response.data, response.headers)


def _refuse_unsafe_settings(api_key: str, base_url: str, *, livemode: bool) -> None:
    if os.environ.get("STRIPE_LOG"):  # read by the SDK itself; it prints request bodies to stderr
        raise ValueError("STRIPE_LOG must not be set: it makes the Stripe SDK print card numbers")
    url = urlsplit(base_url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("the gateway's URL must be https://HOST or http://HOST")
    if url.path.strip("/") or url.query or url.fragment or url.username is not None:
        raise ValueError("the gateway's URL is an address without path, query or user, such as https://api.stripe.com")
    if not _has_usable_port(url):
        raise ValueError("the port in the gateway's URL must be a number from 1 to 65535")
    if url.scheme == "http" and "_live_" in api_key:
        raise ValueError("a live Stripe key must not be sent over http://")
    kind = _KEY.fullmatch(api_key)
    if kind is None:
        mistake = _KEY_KINDS.get(api_key[:3], "is none of Stripe")
        raise ValueError(f"the API key {mistake}: give a secret (sk_) or restricted (rk_) key")
    if (kind["mode"] == "live") is not livemode:
        mode = "live" if livemode else "test"
        raise ValueError(f"the API key is one for {kind['mode']} mode, and the mode is {mode}")


def _has_usable_port(url: SplitResult) -> bool:
    try:
        return url.port != 0
    except ValueError:
        return False


def _trust(base_url: str, ca_file: Path | None) -> ssl.SSLContext | bool:
    """The certificates that the SDK brings along, because slim container images have none, and those of `ca_file`."""
    if not base_url.startswith("https:"):
        return True
    trusted = ssl.create_default_context(cafile=stripe.ca_bundle_path)
    if ca_file is not None:
        try:
            trusted.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise ValueError("the CA file cannot be read, or holds no certificate") from None
    return trusted


def proxy_for(base_url: str) -> str | None:
    """The proxy for https that the environment names (`HTTPS_PROXY`, `NO_PROXY`), or None. Loopback http goes to no proxy.

    Raises ValueError if it is no http proxy: aiohttp speaks no other kind.
    """
    url = urlsplit(base_url)
    proxy = getproxies().get("https")
    if url.scheme != "https" or not proxy or proxy_bypass(url.netloc):
        return None
    if urlsplit(proxy).scheme not in {"http", "https"}:
        raise ValueError("HTTPS_PROXY must be http://HOST:PORT or https://HOST:PORT")
    return proxy


def _objects(body: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    data = body.get("data")
    return data if isinstance(data, list) and all(isinstance(item, Mapping) for item in data) else None
