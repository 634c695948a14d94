"""The adapter against servers that misbehave at the level of TCP and HTTP: was the request sent, or is its result unknown?"""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs
from uuid import UUID

import pytest

from services.payment_gateway.gateways import port, stripe
from services.payment_gateway.gateways.stripe import StripeGateway
from shared.records import replace
from tests.support.hasty_gateway import HASTY_S, PATIENT_S, hasty_gateway

ORDER = port.Order(UUID(int=1), "inv-1", 1250, "EUR", "pm_card_visa")
SOUGHT = port.Sought(ORDER.payment_id, ORDER.amount_minor, ORDER.currency)
REFUND = port.RefundOrder(UUID(int=9), UUID(int=1), 250, "EUR")
CARD = port.Card("4242424242424242", 12, 2030)
DECLINED = '{"error": {"type": "card_error", "code": "card_declined"}}'
LATER = b'{"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many requests."}}'

NESTED = '{"id": "pi_1", "status": ' + '{"a":' * 400 + "1" + "}" * 401

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ScriptedStripe:
    url: str
    requests: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def server(answer: Answer, *, reads: bool = True) -> AsyncIterator[ScriptedStripe]:
    """A server that gives one answer to every connection, after reading its request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if reads:
                found.requests.append(await _read_request(reader))
            await answer(writer)
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    found = ScriptedStripe(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        yield found
    finally:
        listener.close()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    return head + await reader.readexactly(length)


def http(status: str, body: bytes = b"{}", headers: str = "", *, length: int | None = None) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body) if length is None else length}\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return answer


async def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def silence(writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


async def drip(writer: asyncio.StreamWriter) -> None:
    """An answer that never ends: each byte comes in time, the whole does not."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(HASTY_S / 20)


async def close(_: asyncio.StreamWriter) -> None: ...


def one_after_the_other(*answers: Answer) -> Answer:
    """Each request gets the next of these answers, each later one a 500."""
    left = iter(answers)

    async def answer(writer: asyncio.StreamWriter) -> None:
        await next(left, http("500 Internal Server Error", b'{"error": {"type": "api_error"}}'))(writer)

    return answer


def patient_gateway(url: str) -> StripeGateway:
    return StripeGateway(api_key="sk_test_1", base_url=url, timeout_s=PATIENT_S, connections=8)


@asynccontextmanager
async def stripe_at(
    url: str, made_by: Callable[[str], StripeGateway] = patient_gateway
) -> AsyncIterator[StripeGateway]:
    gateway = made_by(url)
    try:
        yield gateway
    finally:
        await gateway.close()


async def all_answers(gateway: StripeGateway) -> list[object]:
    return await asyncio.gather(
        gateway.tokenise(CARD, key="k1"),
        gateway.find(SOUGHT),
        gateway.find(replace(SOUGHT, customer="cus_1")),
        gateway.prepare(ORDER, key="k2"),
        gateway.execute("pi_1", key="k3"),
        gateway.inquire("pi_1"),
        gateway.cancel("pi_1", key="k4"),
        gateway.refund("pi_1", REFUND, key="k5"),
        gateway.inquire_refund("pi_1", REFUND.refund_id),
    )


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose listener accepts no more connections: the next handshake never completes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port_number = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port_number))
            waiting.append(client)
        try:
            yield port_number
        finally:
            for client in waiting:
                client.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


async def test_a_refused_connection_was_not_sent(closed_port: int) -> None:
    async with stripe_at(f"http://127.0.0.1:{closed_port}") as gateway:
        assert {type(answer) for answer in await all_answers(gateway)} == {port.NotSent}


async def test_a_handshake_that_never_completes_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "CONNECT_TIMEOUT_S", HASTY_S)
    with full_backlog() as port_number:
        async with stripe_at(f"http://127.0.0.1:{port_number}") as gateway:
            answer = await gateway.execute("pi_1", key="k")
    assert answer == port.NotSent("no connection: ConnectionTimeoutError")


async def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    async with stripe_at("http://gateway.invalid") as gateway:
        assert isinstance(await gateway.execute("pi_1", key="k"), port.NotSent)


@pytest.mark.parametrize(
    ("answer", "reads"),
    [
        pytest.param(close, False, id="closed before the request is read"),
        pytest.param(reset, False, id="reset before the request is read"),
        pytest.param(close, True, id="closed after the request"),
        pytest.param(reset, True, id="reset after the request"),
        pytest.param(http("200 OK", b'{"id": "pi_1"', length=500), True, id="cut in the body"),
        pytest.param(http("200 OK", b"<html>"), True, id="not JSON"),
        pytest.param(http("200 OK", b""), True, id="empty"),
        pytest.param(http("200 OK", b"\xff\xfe"), True, id="not UTF-8"),
        pytest.param(http("200 OK", b"[]"), True, id="a list"),
        pytest.param(http("200 OK", b"null"), True, id="null"),
        pytest.param(http("200 OK", b'"succeeded"'), True, id="a string"),
        pytest.param(http("200 OK", b"[" * 100_000), True, id="too deep"),
        pytest.param(http("200 OK", NESTED.encode()), True, id="a nested status"),
        pytest.param(http("200 OK", b" " * 5_000_000 + b"{}"), True, id="too large"),
        pytest.param(http("200 OK", b'{"id": "pi_1", "object": 3, "data": 7}'), True, id="strange fields"),
        pytest.param(http("200 OK", b'{"object": "list", "data": {"a": 1}}'), True, id="a strange list"),
        pytest.param(http("400 Bad Request", b'{"error": {"type": "idempotency_error"}}'), True, id="other parameters"),
        pytest.param(http("400 Bad Request", b'{"error": []}'), True, id="an error that is a list"),
        pytest.param(http("400 Bad Request", b'{"error": null}'), True, id="an error that is null"),
        pytest.param(http("409 Conflict", b'{"error": {"type": "idempotency_error"}}'), True, id="key in flight"),
        pytest.param(http("500 Internal ScriptedStripe Error", b'{"error": {"type": "api_error"}}'), True, id="500"),
        pytest.param(http("502 Bad Gateway", b"<html>"), True, id="502"),
        pytest.param(http("503 Service Unavailable", DECLINED.encode()), True, id="503 that claims a decline"),
    ],
)
async def test_a_request_that_may_have_been_received_is_unknown(answer: Answer, reads: bool) -> None:
    async with server(answer, reads=reads) as far, stripe_at(far.url) as gateway:
        assert {type(found) for found in await all_answers(gateway)} == {port.Unknown}


@pytest.mark.parametrize("answer", [silence, drip])
async def test_a_request_not_answered_in_time_is_unknown(answer: Answer) -> None:
    async with server(answer) as far, stripe_at(far.url, hasty_gateway) as gateway, asyncio.timeout(PATIENT_S):
        assert {type(found) for found in await all_answers(gateway)} == {port.Unknown}


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("inf", None), ("1e9", 3600.0)]
)
async def test_a_rate_limited_request_was_not_sent_and_has_a_retry_time(
    retry_after: str, seconds: float | None
) -> None:
    limited = http("429 Too Many Requests", LATER, f"Retry-After: {retry_after}\r\n")
    async with server(limited) as far, stripe_at(far.url) as gateway:
        answer = await gateway.execute("pi_1", key="k")
    assert isinstance(answer, port.Limited)
    assert answer.retry_after_s == seconds


async def test_a_lock_on_one_payment_is_no_limit_for_all() -> None:
    body = b'{"error": {"type": "invalid_request_error", "code": "lock_timeout", "message": "This object is locked."}}'
    async with server(http("429 Too Many Requests", body)) as far, stripe_at(far.url) as gateway:
        assert isinstance(await gateway.execute("pi_1", key="k"), port.NotSent)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_wrong_key_is_the_operators_to_mend(status: str) -> None:
    refusal = http(status, b'{"error": {"type": "invalid_request_error", "message": "Invalid API Key sk_test_abc"}}')
    async with server(refusal) as far, stripe_at(far.url) as gateway:
        found = await all_answers(gateway)
    assert {type(answer) for answer in found} == {port.Misconfigured}
    assert {type(answer.otherwise) for answer in found if isinstance(answer, port.Misconfigured)} == {port.NotSent}
    assert "sk_test_abc" not in str(found)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>nginx</html>",
        b'{"error": {"type": "invalid_request_error", "message": "Unrecognized request URL (GET: /v1/x)."}}',
        b'{"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such payment_intent: '
        b"'pi_1'; a similar object exists in live mode, but a test mode key was used to make this request.\"}}",
    ],
    ids=["no Stripe at all", "no such path", "a key of the other mode"],
)
async def test_a_404_that_is_about_no_payment_is_the_operators_to_mend(body: bytes) -> None:
    async with server(http("404 Not Found", body)) as far, stripe_at(far.url) as gateway:
        found = await all_answers(gateway)
        assert isinstance(await gateway.check(), port.Misconfigured)
    assert {type(answer) for answer in found} == {port.Misconfigured}
    assert {type(answer.otherwise) for answer in found if isinstance(answer, port.Misconfigured)} == {port.Unknown}


async def test_a_payment_of_the_other_mode_is_never_confirmed() -> None:
    """The key says one mode and the account is of the other: nothing of it is recorded."""
    live = http("200 OK", b'{"id": "pi_1", "amount": 1250, "currency": "eur", "livemode": true}')
    async with server(live) as far, stripe_at(far.url) as gateway:
        answer = await gateway.prepare(ORDER, key="k")
    assert isinstance(answer, port.Misconfigured)
    assert "the gateway answers in live mode, and GATEWAY_MODE is test" in answer.evidence


async def test_the_mode_of_the_account_is_checked_before_any_payment() -> None:
    listed = http("200 OK", b'{"object": "list", "data": [{"id": "pi_1", "livemode": true}]}')
    async with server(listed) as far, stripe_at(far.url) as gateway:
        assert isinstance(await gateway.check(), port.Misconfigured)


@pytest.mark.parametrize(
    ("error", "answered"),
    [
        ({"code": "parameter_invalid", "param": "mandate"}, port.Refused),
        ({"code": "card_declined", "decline_code": "do_not_honor", "advice_code": "try_again_later"}, port.Refused),
        ({"code": "payment_intent_unexpected_state"}, port.Unknown),
    ],
)
async def test_a_refused_confirm_stands_although_the_payment_cannot_be_asked_for(
    error: dict[str, str], answered: type[port.ExecuteAnswer]
) -> None:
    refusal = {"error": {"type": "invalid_request_error", "message": "This is why.", **error}}
    async with (
        server(one_after_the_other(http("400 Bad Request", json.dumps(refusal).encode()))) as far,
        stripe_at(far.url) as gateway,
    ):
        answer = await gateway.execute("pi_1", key="k")
    assert isinstance(answer, answered)
    assert "This is why." in answer.evidence
    if isinstance(answer, port.Refused):
        assert (answer.code, answer.advice) == (error.get("decline_code") or error["code"], error.get("advice_code"))
        assert all(word in answer.evidence for word in error.values() if word != "card_declined")


DISPUTED = (
    b'{"id": "pi_1", "status": "succeeded", "amount": 1250, "currency": "eur",'
    b' "latest_charge": {"id": "ch_1", "amount_refunded": 0, "disputed": true}}'
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("401 Unauthorized", port.Misconfigured),
        ("403 Forbidden", port.Captured),
        ("429 Too Many Requests", port.Limited),
    ],
)
async def test_who_may_not_read_disputes_knows_that_there_is_one_and_a_revoked_key_knows_nothing(
    status: str, kind: type[port.ChargeAnswer]
) -> None:
    """The dispute may have been won. A case of it would be the operator's fault."""
    answers = one_after_the_other(http("200 OK", DISPUTED), http(status, LATER))
    async with server(answers) as scripted, stripe_at(scripted.url) as gateway:
        assert type(await gateway.inquire("pi_1")) is kind


CAPTURED_NOW = http("200 OK", DISPUTED.replace(b"true", b"false"))
REFUSED = http(
    "400 Bad Request", b'{"error": {"type": "invalid_request_error", "code": "payment_intent_unexpected_state"}}'
)
MORE = http("200 OK", b'{"object": "list", "data": [{"id": "pi_2"}], "has_more": true}')
NONE = http("200 OK", b'{"object": "list", "data": []}')
FURTHER: dict[str, tuple[Callable[[StripeGateway], Awaitable[object]], list[Answer], list[str]]] = {
    "a charge": (lambda it: it.execute("pi_1", key="k"), [CAPTURED_NOW], []),
    "a refused confirm": (lambda it: it.execute("pi_1", key="k"), [REFUSED, CAPTURED_NOW], ["retrieve"]),
    "a refused cancel": (lambda it: it.cancel("pi_1", key="k"), [REFUSED, CAPTURED_NOW], ["retrieve"]),
    "an inquiry": (lambda it: it.inquire("pi_1"), [CAPTURED_NOW], []),
    "a dispute": (lambda it: it.inquire("pi_1"), [http("200 OK", DISPUTED), NONE], ["list_disputes"]),
    "a refused refund": (
        lambda it: it.refund("pi_1", REFUND, key="k"),
        [REFUSED, CAPTURED_NOW, NONE],
        ["retrieve", "list_refunds"],
    ),
    "about a refund": (
        lambda it: it.inquire_refund("pi_1", REFUND.refund_id),
        [
            CAPTURED_NOW,
            http("200 OK", b'{"object": "list", "data": [{"id": "re_1", "amount": 1}], "has_more": true}'),
            NONE,
        ],
        ["list_refunds", "list_refunds"],
    ),
    "a customer with many payments": (lambda it: it.find(replace(SOUGHT, customer="cus_1")), [MORE, NONE], ["search"]),
    "an event": (lambda it: it.owner("pi_1"), [CAPTURED_NOW], ["retrieve"]),
}


@pytest.mark.parametrize("call", FURTHER)
async def test_each_further_request_of_a_call_has_its_turn(call: str) -> None:
    made, answers, further = FURTHER[call]
    turns: list[str] = []

    async def follow_up(
        endpoint: port.GatewayEndpoint, request: Callable[[], Awaitable[port.T]]
    ) -> port.T | port.Limited:
        turns.append(endpoint)
        return await request()

    async with server(one_after_the_other(*answers)) as scripted, stripe_at(scripted.url) as gateway:
        gateway.pace_by(follow_up)
        assert not isinstance(await made(gateway), port.Unknown)
        assert turns == further
        assert len(scripted.requests) == len(answers)


async def test_a_redirect_is_not_followed() -> None:
    async with server(http("200 OK")) as elsewhere:
        redirect = http("307 Temporary Redirect", b"", f"Location: {elsewhere.url}/v1/x\r\n")
        async with server(redirect) as far, stripe_at(far.url) as gateway:
            assert {type(answer) for answer in await all_answers(gateway)} == {port.Unknown}
        assert elsewhere.requests == []


async def test_one_request_per_call_with_our_key_and_our_ids() -> None:
    broken = http("500 Internal ScriptedStripe Error", b'{"error": {"type": "api_error"}}')
    async with server(broken) as far, stripe_at(far.url) as gateway:
        await gateway.prepare(ORDER, key="prepare-1")
    (request,) = far.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"Idempotency-Key: prepare-1\r\n" in head
    assert b"Authorization: Bearer sk_test_1\r\n" in head
    assert b"metadata[payment_id]=00000000-0000-0000-0000-000000000001" in body
    assert b"metadata[invoice_id]=inv-1" in body
    assert b"amount=1250&currency=eur&payment_method=pm_card_visa" in body


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder in which the SDK would keep an id of this machine."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("home")
async def test_nothing_about_this_machine_is_sent() -> None:
    """The SDK would send its platform, the duration of the last request, and the id."""
    answer = http("200 OK", headers="Request-Id: req_1\r\n")
    async with server(answer) as far, stripe_at(far.url) as gateway:
        await gateway.inquire("pi_1")
        await gateway.inquire("pi_1")
    assert len(far.requests) == 2
    assert [word for word in (b"telemetry", b"platform") for request in far.requests if word in request.lower()] == []


async def test_a_slash_in_an_id_leads_to_no_other_path() -> None:
    async with server(http("404 Not Found")) as far, stripe_at(far.url) as gateway:
        await gateway.execute("pi_1/../../refunds?", key="k")
    assert far.requests[0].startswith(b"POST /v1/payment_intents/pi_1%2F..%2F..%2Frefunds%3F/confirm ")


@pytest.mark.parametrize(
    ("currency", "amount_minor", "amount"),
    [("ISK", 500, 50_000), ("UGX", 500, 50_000), ("MGA", 500, 5), ("JPY", 500, 500)],
)
async def test_an_amount_is_sent_and_read_as_stripe_counts_it(currency: str, amount_minor: int, amount: int) -> None:
    told = {
        "id": "pi_1",
        "status": "succeeded",
        "amount": amount,
        "amount_received": amount,
        "currency": currency.lower(),
    }
    async with server(http("200 OK", json.dumps(told).encode())) as far, stripe_at(far.url) as gateway:
        order = port.Order(UUID(int=1), "inv-1", amount_minor, currency, "pm_card_visa")
        assert isinstance(await gateway.prepare(order, key="k"), port.Prepared)
        captured = await gateway.inquire("pi_1")
    assert b"amount=%d&" % amount in far.requests[0]
    assert isinstance(captured, port.Captured)
    assert (captured.amount_minor, captured.currency) == (amount_minor, currency)


async def test_a_part_of_a_whole_unit_is_refused_before_sending(closed_port: int) -> None:
    async with stripe_at(f"http://127.0.0.1:{closed_port}") as gateway:
        order = port.Order(UUID(int=1), "inv-1", 501, "MGA", "pm_card_visa")
        answer = await gateway.prepare(order, key="k")
    assert isinstance(answer, port.Refused)
    assert answer.code == "amount_not_chargeable"


def intent(status: str, gateway_id: str = "pi_1", **more: object) -> dict[str, object]:
    metadata = {"payment_id": str(ORDER.payment_id)}
    return {"id": gateway_id, "status": status, "amount": 1250, "currency": "eur", "metadata": metadata, **more}


NOT_OURS = intent("succeeded", "pi_9", metadata={"payment_id": str(UUID(int=2))})
FOUND_AMONG: dict[str, tuple[list[dict[str, object]], str | type[port.FindAnswer]]] = {
    "none": ([], port.NotFound),
    "none of ours": ([NOT_OURS, intent("succeeded", "pi_8", metadata={})], port.NotFound),
    "a capture before an orphan": ([intent("requires_confirmation", "pi_2"), intent("succeeded")], "pi_1"),
    "a capture before a cancel": ([intent("canceled", "pi_2"), intent("succeeded")], "pi_1"),
    "what nobody knows before a cancel": ([intent("canceled", "pi_2"), intent("new_status")], "pi_1"),
    "a charge under way before a decline": ([intent("requires_payment_method", "pi_2"), intent("processing")], "pi_1"),
    # What was cancelled had an outcome. The orphan beside it may never be charged.
    "a cancel before an orphan": ([intent("requires_confirmation", "pi_2"), intent("canceled")], "pi_1"),
    "an orphan": ([NOT_OURS, intent("requires_confirmation")], "pi_1"),
    "an orphan of another amount": ([intent("requires_confirmation", amount=1)], port.Refused),
    "an orphan of another currency": ([intent("requires_confirmation", currency="usd")], port.Refused),
    "a capture of another amount": ([intent("succeeded", amount=1)], "pi_1"),
    "a payment without a readable id": ([intent("succeeded", "ch_1")], port.Unknown),
    "a payment of the other mode": ([intent("succeeded", livemode=True)], port.Misconfigured),
}


@pytest.mark.parametrize("customer", [None, "cus_1"], ids=["searched", "listed"])
@pytest.mark.parametrize(("listed", "found"), FOUND_AMONG.values(), ids=FOUND_AMONG)
async def test_of_several_payments_with_our_id_the_one_that_may_hold_money_is_found(
    listed: list[dict[str, object]], found: str | type[port.FindAnswer], customer: str | None
) -> None:
    body = json.dumps({"object": "list", "has_more": False, "data": listed}).encode()
    async with server(http("200 OK", body)) as far, stripe_at(far.url) as gateway:
        answer = await gateway.find(replace(SOUGHT, customer=customer))
    if isinstance(found, str):
        assert isinstance(answer, port.Found)
        assert answer.gateway_id == found
    else:
        assert isinstance(answer, found)


async def test_a_customer_with_more_payments_than_a_page_has_is_searched_for() -> None:
    body = json.dumps({"object": "list", "has_more": True, "data": [NOT_OURS]}).encode()
    async with server(http("200 OK", body)) as far, stripe_at(far.url) as gateway:
        answer = await gateway.find(replace(SOUGHT, customer="cus_1"))
    lines = [request.partition(b" HTTP")[0] for request in far.requests]
    assert lines[0] == b"GET /v1/payment_intents?customer=cus_1&limit=100"
    assert lines[1].startswith(b"GET /v1/payment_intents/search?query=metadata")
    assert isinstance(answer, port.Unknown), "what is not on this page may be on the next"


async def test_a_payment_of_a_customer_that_does_not_exist_is_searched_for() -> None:
    """Its refusal comes when it is prepared. That nobody can list its payments is no doubt that waits for a person."""
    refusal = {"error": {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}}
    answers = (
        http("400 Bad Request", json.dumps(refusal).encode()),
        http("200 OK", b'{"has_more": false, "data": []}'),
    )
    async with server(one_after_the_other(*answers)) as far, stripe_at(far.url) as gateway:
        answer = await gateway.find(replace(SOUGHT, customer="cus_none"))
    assert isinstance(answer, port.NotFound)
    assert b"/v1/payment_intents/search?" in far.requests[1]


DETAILS = port.ChargeDetails("cus_1", "mandate_1", "May & June", "ACME 5", (("cost_center", "42"),))


async def test_texts_of_the_sender_go_with_the_payment_and_the_mandate_with_its_confirm() -> None:
    broken = http("500 Internal Server Error", b'{"error": {"type": "api_error"}}')
    async with server(broken) as far, stripe_at(far.url) as gateway:
        await gateway.prepare(replace(ORDER, details=DETAILS), key="k1")
        await gateway.execute("pi_1", mandate="mandate_1", key="k2")
        await gateway.execute("pi_1", key="k3")
    prepared, confirmed, plain = (parse_qs(request.partition(b"\r\n\r\n")[2].decode()) for request in far.requests)
    assert prepared["customer"] == ["cus_1"]
    assert prepared["description"] == ["May & June"]
    assert prepared["statement_descriptor_suffix"] == ["ACME 5"]
    assert prepared["metadata[cost_center]"] == ["42"]
    assert prepared["metadata[invoice_id]"] == ["inv-1"]
    assert confirmed == {"off_session": ["true"], "mandate": ["mandate_1"]}
    assert plain == {"off_session": ["true"]}


async def test_metadata_of_a_sender_never_replaces_our_ids() -> None:
    posing = port.ChargeDetails(metadata=(("invoice_id", "another"), ("payment_id", "another")))
    broken = http("500 Internal Server Error", b'{"error": {"type": "api_error"}}')
    async with server(broken) as far, stripe_at(far.url) as gateway:
        await gateway.prepare(replace(ORDER, details=posing), key="k")
    assert b"another" not in far.requests[0]


async def test_the_card_holder_goes_with_the_card_for_address_verification() -> None:
    broken = http("500 Internal Server Error", b'{"error": {"type": "api_error"}}')
    async with server(broken) as far, stripe_at(far.url) as gateway:
        await gateway.tokenise(replace(CARD, name="Jane Doe", postal_code="90210"), key="k")
        await gateway.tokenise(CARD, key="k")
    with_holder, without = (parse_qs(request.partition(b"\r\n\r\n")[2].decode()) for request in far.requests)
    assert with_holder["billing_details[name]"] == ["Jane Doe"]
    assert with_holder["billing_details[address][postal_code]"] == ["90210"]
    assert not any(name.startswith("billing") for name in without)


async def test_a_proxy_that_refuses_has_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY is honoured: the request to connect comes to the proxy, and our key does not."""
    async with server(http("403 Forbidden")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with stripe_at("https://api.example.test") as gateway:
            assert isinstance(await gateway.execute("pi_1", key="k"), port.NotSent)
    (request,) = proxy.requests
    assert request.startswith(b"CONNECT api.example.test:443 ")
    assert b"sk_test_1" not in request


async def test_a_host_in_no_proxy_is_reached_directly(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    async with server(http("403 Forbidden")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        async with stripe_at(f"https://127.0.0.1:{closed_port}") as gateway:
            assert isinstance(await gateway.execute("pi_1", key="k"), port.NotSent)
    assert proxy.requests == []


async def test_a_proxy_of_another_kind_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match="HTTPS_PROXY must be"):
        patient_gateway("https://api.example.test")


async def test_a_file_with_no_certificates_is_refused_at_the_start(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        if file.name == "empty.pem":
            file.write_text("no certificate")
        with pytest.raises(ValueError, match="the CA file cannot be read"):
            StripeGateway(
                api_key="sk_test_1", base_url="https://api.example.test", timeout_s=1, connections=1, ca_file=file
            )


async def test_cancellation_passes_through() -> None:
    async with server(silence) as far, stripe_at(far.url) as gateway:
        task = asyncio.create_task(gateway.execute("pi_1", key="k"))
        async with asyncio.timeout(PATIENT_S):
            while not far.requests:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_card_number_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    echo = http("400 Bad Request", b'{"error": {"type": "invalid_request_error", "message": "bad: 4242424242424242"}}')
    with caplog.at_level(logging.DEBUG):
        async with server(echo) as far, stripe_at(far.url) as gateway:
            answer = await gateway.tokenise(CARD, key="k")
    assert b"4242424242424242" in far.requests[0]  # the number was sent, so the search below proves something
    assert isinstance(answer, port.Refused)
    assert "4242424242424242" not in caplog.text + repr(answer) + repr(CARD)
