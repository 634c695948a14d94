"""The HTTP side of the sandbox: authentication, idempotency keys, modes, and how a reply is delivered or withheld."""

import asyncio
import hashlib
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from deploy.sandbox import replies, rules
from deploy.sandbox.bank import Params, SandboxBank
from deploy.sandbox.faults import BEHAVIOURS, CARDS, Deed, Manner
from deploy.sandbox.ledger import Ledger, Row
from deploy.sandbox.limits import RateLimits
from deploy.sandbox.replies import Json, SandboxReply

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 64 * 1024  # a payment has 300 bytes
FIELDS_MAX = 64  # Stripe takes 50 metadata entries; our payments have two
KEY_CHARS_MAX = 255  # Stripe's limit
SILENCE_MAX_S = 600.0  # a connection that is never answered is cut after ten minutes, as load balancers do
KEY_AGE_S = 86_400.0  # Stripe may delete keys after 24 hours
SLOW_S = 1.5  # longer than a test's client waits, and short enough for a person

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST instead of FIN

Action = Callable[[str, Params, str | None], SandboxReply]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Mode(Enum):
    """How the whole gateway behaves. A fault run switches it. It is not durable: after a restart the mode is NORMAL."""

    NORMAL = "normal"
    DOWN_500 = "down_500"  # every request is answered 500 and not acted upon
    SILENT = "silent"  # every request is read, and neither answered nor acted upon
    REFUSE = "refuse"  # the API does not listen, so connections are refused; only the admin port answers
    UNAUTHORISED = "unauthorised"  # every request is answered 401: somebody has rotated the key
    FORBIDDEN = "forbidden"  # every request is answered 403: the key has lost its permissions
    ELSEWHERE = "elsewhere"  # every request is answered 404: there is no Stripe at this URL
    LENIENT = "lenient"  # a confirm need not say where the customer is, as before API version 2023-08-16
    LIVE = "live"  # everything is done, and answered as from an account in live mode
    UNSEARCHABLE = "unsearchable"  # every search is answered 500; everything else works
    SLOW = "slow"  # every request waits `delay_ms` before it is acted upon, even if the client no longer waits


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """`key_age_s`: when an idempotency key expires. `slow_s`: how late `pm_remit_slow` acts. `requests_per_s`: how many requests a second
    each endpoint takes, before it answers 429 (None: as many as come)."""

    key_age_s: float = KEY_AGE_S
    slow_s: float = SLOW_S
    requests_per_s: float | None = None


class Api:
    """The routes of the public listener. `admin_routes` are offered by the second listener as well."""

    def __init__(
        self,
        ledger: Ledger,
        bank: SandboxBank,
        *,
        clock: Callable[[], float],
        settings: SandboxSettings,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._bank = bank
        self._keys = _Keys(ledger, clock=clock, age_s=settings.key_age_s)
        self._slow_s = settings.slow_s
        self._sleep = sleep
        self.limits = RateLimits(settings.requests_per_s, time.monotonic)
        self.mode, self._delay_s = Mode.NORMAL, 0.0
        self._closing = asyncio.Event()
        self._late: set[asyncio.Task[SandboxReply]] = set()
        self._request_numbers = count(1)
        self.on_refuse: Callable[[bool], Awaitable[None]] | None = None

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        self._bank.is_lenient, self._bank.is_unsearchable = mode is Mode.LENIENT, mode is Mode.UNSEARCHABLE

    def routes(self) -> list[web.RouteDef]:
        bank = self._bank
        confirm = self._endpoint(bank.confirm, rules.CONFIRM_INTENT, kind="confirm")
        return [
            web.post("/v1/payment_methods", self._endpoint(bank.create_payment_method, _METHOD_PARAMS)),
            web.post("/v1/payment_methods/{id}/attach", self._endpoint(bank.attach, {"customer"})),
            web.post("/v1/customers", self._endpoint(bank.create_customer, {"name", "email", "metadata["})),
            web.get("/v1/payment_methods/{id}", self._endpoint(bank.retrieve_payment_method, {"expand["})),
            web.post("/v1/payment_intents", self._endpoint(bank.create_intent, rules.CREATE_INTENT)),
            web.get("/v1/payment_intents", self._endpoint(bank.list_intents, _LIST_PARAMS | {"customer", "expand["})),
            web.get("/v1/payment_intents/search", self._endpoint(bank.search_intents, {"query", "limit", "page"})),
            web.get("/v1/payment_intents/{id}", self._endpoint(bank.retrieve_intent, {"expand["})),
            web.post("/v1/payment_intents/{id}/confirm", confirm),
            web.post("/v1/payment_intents/{id}/cancel", self._endpoint(bank.cancel, set(), kind="cancel")),
            web.post("/v1/refunds", self._endpoint(bank.create_refund, rules.CREATE_REFUND)),
            web.get("/v1/refunds", self._endpoint(bank.list_refunds, _LIST_PARAMS | {"payment_intent", "expand["})),
            web.get("/v1/refunds/{id}", self._endpoint(bank.retrieve_refund, set())),
            web.get("/v1/disputes", self._endpoint(bank.list_disputes, _LIST_PARAMS | {"payment_intent", "expand["})),
            *self.admin_routes(),
            web.route("*", "/{unknown:.*}", self._endpoint(_unrecognised, {""})),
        ]

    def admin_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_sandbox/", self._show_state),
            web.get("/_sandbox/ledger", self._show_ledger),
            web.get("/_sandbox/books/{id}", self._show_books),
            web.get("/_sandbox/faults", _show_faults),
            web.post("/_sandbox/mode", self._set_mode),
            web.post(f"/_sandbox/payments/{{id}}/{{deed:{'|'.join(deed.value for deed in Deed)}}}", self._do),
        ]

    async def close(self) -> None:
        """End all connections that hang, and cancel all actions that were to happen late."""
        self._closing.set()
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    # -- one request

    def _endpoint(self, action: Action, allowed: Collection[str], kind: str = "") -> Handler:
        """A handler for `action`. `allowed`: names of parameters; one that ends in "[" is a prefix. Any other parameter is refused, as at
        Stripe."""

        async def handle(request: web.Request) -> web.StreamResponse:
            refused = _refuse_key(request) or await self._under_mode(request, kind)
            if not refused and not self.limits.takes(_endpoint_of(request)):
                refused = replies.rate_limited(retry_after_s=None)
            reply = refused or await self._answer(request, action, allowed, kind)
            await self._ledger.committed()
            return await self._deliver(request, reply)

        return handle

    async def _under_mode(self, request: web.Request, kind: str) -> SandboxReply | None:
        reply = _BY_MODE.get(self.mode)
        if reply is not None and kind:
            self._bank.log(kind, request.match_info["id"], request.headers.get("Idempotency-Key"), self.mode.value)
        return reply

    async def _answer(self, request: web.Request, action: Action, allowed: Collection[str], kind: str) -> SandboxReply:
        params = _parse(request.query_string if request.method == "GET" else await request.text())
        if params is None:
            return replies.invalid("Invalid form encoding")
        unknown = next((name for name in params if not _is_allowed(name, allowed)), None)
        if unknown is not None:
            return replies.invalid(
                "Received unknown parameter", code="parameter_unknown", param=replies.printable(unknown)
            )
        target = request.match_info.get("id", "")
        if request.method == "GET":
            await asyncio.sleep(self._delay_s)
            return action(target, params, None)
        key = request.headers.get("Idempotency-Key")
        known = self._keys.check(key, request.path, params)
        if known:
            if kind:
                self._bank.log(kind, target, key, _known_words(known))
            return known

        def act() -> SandboxReply:
            reply = action(target, params, key)
            self._keys.save(key, request.path, params, reply)
            return reply

        delay_s = self._delay_s + (self._slow_s if kind == "confirm" and self._bank.slow(target) else 0.0)
        return await self._act_late(key, act, delay_s) if delay_s else act()

    async def _act_late(self, key: str | None, act: Callable[[], SandboxReply], delay_s: float) -> SandboxReply:
        """Run it in a task of its own, so that it also happens if the client hangs up."""

        async def later() -> SandboxReply:
            await self._sleep(delay_s)
            return act()

        self._keys.begin(key)
        task = asyncio.create_task(later())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        task.add_done_callback(lambda _: self._keys.end(key))
        return await asyncio.shield(task)

    async def _deliver(self, request: web.Request, reply: SandboxReply) -> web.StreamResponse:
        body = orjson.dumps(reply.body)
        if self.mode is Mode.LIVE:
            body = body.replace(b'"livemode":false', b'"livemode":true')
        match reply.manner:
            case Manner.HANG:
                await self._hold(request)
            case Manner.RESET:
                _reset(request)
            case Manner.BAD_JSON:
                body = body[: len(body) // 2]
            case Manner.BAD_FIELDS:
                body = orjson.dumps(reply.body | {"amount": "some", "amount_received": None, "currency": 978})
            case _:
                pass
        headers = {"Request-Id": f"req_sandbox_{next(self._request_numbers)}", **reply.headers}
        return web.Response(body=body, status=reply.status, content_type="application/json", headers=headers)

    async def _hold(self, request: web.Request) -> None:
        try:
            async with asyncio.timeout(SILENCE_MAX_S):
                await self._closing.wait()
        except TimeoutError:
            log.info("a connection held in silence was cut")
        _reset(request)

    # -- for people and fault runs

    async def _show_state(self, _: web.Request) -> web.Response:
        return _pretty({"mode": self.mode.value, "delay_ms": self._delay_s * 1000})

    async def _show_ledger(self, request: web.Request) -> web.Response:
        return _pretty(self._bank.show(request.query.get("payment")))

    async def _show_books(self, request: web.Request) -> web.Response:
        payment = request.match_info["id"]
        return web.Response(text=books(payment, self._bank.show(payment)))

    async def _set_mode(self, request: web.Request) -> web.Response:
        try:
            wanted = orjson.loads(await request.read())
            mode, delay_s = Mode(wanted["mode"]), float(wanted.get("delay_ms", 0)) / 1000
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            choices = ", ".join(mode.value for mode in Mode)
            return _pretty({"error": f'send {{"mode": one of {choices}, "delay_ms": number}}'}, status=400)
        changed = (mode is Mode.REFUSE) is not (self.mode is Mode.REFUSE)
        self.mode, self._delay_s = mode, delay_s if mode is Mode.SLOW else 0.0
        if changed and self.on_refuse:
            await self.on_refuse(mode is Mode.REFUSE)
        return await self._show_state(request)

    async def _do(self, request: web.Request) -> web.Response:
        done = self._bank.do(Deed(request.match_info["deed"]), request.match_info["id"])
        await self._ledger.committed()
        return _pretty({"done": done}, status=200 if done else 404)


_BY_MODE: Mapping[Mode, SandboxReply] = {
    Mode.DOWN_500: replies.server_error(saved=False),
    Mode.SILENT: replies.silence(),
    Mode.UNAUTHORISED: replies.unauthorised("Invalid API Key provided.", 401),
    Mode.FORBIDDEN: replies.unauthorised(
        "The provided key does not have the required permissions for this endpoint.", 403
    ),
    Mode.ELSEWHERE: replies.invalid("Unrecognized request URL.", status=404),
}
"""How every request is answered, without being acted upon. In other modes requests are acted upon."""

_METHOD_PARAMS = {"type", "card[", "billing_details["}
_LIST_PARAMS = {"created[", "limit", "starting_after"}


class _Keys:
    """Idempotency keys (https://docs.stripe.com/api/idempotent_requests)."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float], age_s: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._age_s = age_s
        self._in_flight: set[str] = set()

    def check(self, key: str | None, path: str, params: Params) -> SandboxReply | None:
        """The saved answer, or a refusal; None: the request must be acted upon."""
        if key is None:
            return None
        if len(key) > KEY_CHARS_MAX:
            return replies.idempotency_error("Idempotency keys are at most 255 characters.", status=400)
        if key in self._in_flight:
            words = "There is currently another in-progress request using this Idempotent Key."
            return replies.idempotency_error(words, status=409, code="idempotency_key_in_use")
        row = self._ledger.one("SELECT * FROM idempotency_keys WHERE key = ? ORDER BY seq DESC LIMIT 1", key)
        if row is None or row["created"] + self._age_s <= self._clock():
            return None
        return self._known(row, path, params)

    def _known(self, row: Row, path: str, params: Params) -> SandboxReply:
        same = row["path"] == path and row["parameters_sha256"] == _hash(params)
        column = "replays" if same else "mismatches"
        self._ledger.write(f"UPDATE idempotency_keys SET {column} = {column} + 1 WHERE seq = ?", row["seq"])  # noqa: S608 - one of two constants
        if not same:
            words = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            return replies.idempotency_error(words, status=400)
        return SandboxReply(row["status"], orjson.loads(row["body"]), headers={"Idempotent-Replayed": "true"})

    def save(self, key: str | None, path: str, params: Params, reply: SandboxReply) -> None:
        if key is None or not reply.saved:
            return
        self._ledger.write(
            "INSERT INTO idempotency_keys (key, path, parameters_sha256, status, body, created)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            *(key, path, _hash(params), reply.status, orjson.dumps(reply.body).decode(), int(self._clock())),
        )

    def begin(self, key: str | None) -> None:
        """Mark the key as in use: until `end`, another request under it is a conflict."""
        if key is not None:
            self._in_flight.add(key)

    def end(self, key: str | None) -> None:
        if key is not None:
            self._in_flight.discard(key)


def _hash(params: Params) -> str:
    """The SHA-256 of the parameters without a card number: sixteen digits can be guessed from their hash."""
    shown = dict(params)
    number = shown.pop("card[number]", None)
    if number:
        shown["card"] = f"{CARDS.get(number, 'unknown')} {number[-4:]}"
    return hashlib.sha256(orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _known_words(reply: SandboxReply) -> str:
    return f"replayed {reply.status}" if reply.headers else f"{reply.status} nothing"


def _parse(text: str) -> Params | None:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        return None


def _is_allowed(name: str, allowed: Collection[str]) -> bool:
    root, bracket, _ = name.partition("[")
    return root + bracket in allowed or "" in allowed


def _refuse_key(request: web.Request) -> SandboxReply | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return rules.refused_key(key if scheme == "Bearer" else "", request.method, request.path)


def _endpoint_of(request: web.Request) -> str:
    """The method and path of the endpoint, such as `POST /v1/payment_intents/{id}/confirm`."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource is not None else ''}"


def _unrecognised(_: str, __: Params, ___: str | None) -> SandboxReply:
    return replies.invalid("Unrecognized request URL.", status=404)


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    transport.abort()


async def _show_faults(_: web.Request) -> web.Response:
    shown: Mapping[str, Any] = {
        token: {"about": b.about, "ends": [ending.value for ending in b.ends]} for token, b in BEHAVIOURS.items()
    }
    return _pretty(dict(shown))


def books(payment: str, shown: Json) -> str:
    """What the ledger has of a payment, for people: what a gateway's dashboard would show."""
    lines = [f"The sandbox gateway's books: payment {payment}", ""]
    lines += [
        f"status {row['status'].replace('_', ' ')}, {row['amount']} {row['currency'].upper()} in minor units"
        for row in shown["payment_intents"]
    ] or ["There is no such payment here."]
    for kind in ("charges", "refunds"):
        lines += [
            f"{kind[:-1]} {row['id']}: {row['amount']}{', ' + row['status'] if 'status' in row else ''}"
            for row in shown[kind]
        ] or [f"{kind}: none"]
    return "\n".join(lines) + "\n"


def _pretty(body: Json, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(body, option=orjson.OPT_INDENT_2), status=status, content_type="application/json"
    )
