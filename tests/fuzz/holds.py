"""What must hold for any input: one function for each border of Remit, called by the fuzzer, by Hypothesis, and with the corpus.

Each raises AssertionError for a broken promise and lets any other exception through: no input of a sender may raise one.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest import mock
from uuid import UUID

from services.invoice.answers import StoredAnswer
from services.invoice.command_inbox import CommandInbox, answer_fresh
from services.invoice.domain import Invoice
from services.invoice.handlers import InvoiceHandler
from services.invoice.store import Loaded
from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, Payment, PaymentStatus, Policy
from services.payment_gateway.gateways import port, stripe
from services.payment_gateway.gateways.evidence import EVIDENCE_CHARS_MAX
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus
from services.staff import intake
from services.staff.dead_letters import DeadLetter, arrive
from shared.amqp import frames
from shared.batch.inbox import DeadLettered, DecidedBatch, Item
from shared.batch.worker import QueueWorker
from shared.card_data.scan import has_card_data
from shared.card_data.values import as_text
from shared.contracts.catalogue import PUBLIC_COMMANDS
from shared.messaging import dead_letters
from shared.messaging.codec import Malformed, decode
from shared.messaging.consumer import Delivery, read_delivery
from shared.messaging.envelope import Inbound, Outgoing
from shared.messaging.publisher import _payload, mark_of
from shared.observability.health import Readiness

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CPU_S_MAX = 2.0
"""CPU time of this thread, so that the load of the machine does not count. It is a hundred times what the slowest healthy input takes, and
far below the time in which a blocked event loop would miss a heartbeat."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fails if the body took longer than CPU_S_MAX."""
    started = time.thread_time()
    yield
    spent_s = time.thread_time() - started
    assert spent_s < CPU_S_MAX, f"took {spent_s:.1f} s of CPU"


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store the text: it must be UTF-8 without NUL."""
    return "\0" not in text and text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass")


def delivery(
    body: bytes,
    *,
    content_type: str | None,
    headers: Mapping[str, Any],
    message_id: str | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    type_: str | None = None,
    content_encoding: str | None = None,
    queue: str = "invoice.commands",
    routing_key: str = "any",
) -> Delivery:
    """The delivery that the consumer makes of such a message."""
    return Delivery(
        body=body,
        tag=1,
        generation=1,
        queue=queue,
        exchange="invoice.commands.entry",
        routing_key=routing_key,
        content_type=content_type,
        message_id=message_id,
        correlation_id=correlation_id,
        reply_to=reply_to,
        type=type_,
        content_encoding=content_encoding,
        headers=dict(headers),
    )


# -- the codec -------------------------------------------------------------------------------------------------------------------------


def codec(
    body: bytes, content_type: str | None, headers: Mapping[str, Any], content_encoding: str | None = None
) -> Inbound | Malformed:
    """Any bytes are read or refused, quickly, and a refusal never shows them."""
    with bounded():
        decoded = decode(body, content_type=content_type, content_encoding=content_encoding, headers=headers)
    match decoded:
        case Malformed():
            texts = [decoded.detail, decoded.type or "", decoded.correlation_id or ""]
            assert not any(has_card_data(text) for text in texts), texts
            assert all(is_storable(text) for text in texts), texts
            assert not (decoded.reason.is_card_data and (decoded.content_hash or decoded.outline_hash)), "a hash of it"
        case Inbound():
            assert not has_card_data(body)
            assert is_storable(decoded.data.model_dump_json())
            assert str(decoded.id).encode() in _lowered(body, headers), "the id must be the one in the message"
    return decoded


def _lowered(body: bytes, headers: Mapping[str, Any]) -> bytes:
    """All bytes of the message in lower case, with escapes decoded."""
    text = body.decode("utf-8", "replace") + " ".join(str(value) for value in headers.values())
    return re.sub(r"\\u00([0-7][0-9a-fA-F])", lambda found: chr(int(found[1], 16)), text).lower().encode()


# -- the border of the public queue ----------------------------------------------------------------------------------------------------

_WORKER = QueueWorker(
    InvoiceHandler(),
    inbox=CommandInbox(),
    consumer=cast("Any", SimpleNamespace(queue="invoice.commands")),
    database=cast("Any", None),
    relay=cast("Any", None),
    clock=lambda: NOW,
    readiness=Readiness(),
)
_CHANNEL = cast("Any", SimpleNamespace(number=1, max_content_size=131_064))


def border(arrived: Delivery) -> Item | DeadLettered:
    """A command gets one answer or becomes one dead letter. What is published can be stored and sent, and shows no card number."""
    with bounded():
        admitted = _WORKER._admit(arrived)
        published = _dead_letter_message(admitted) if isinstance(admitted, DeadLettered) else answered(admitted)
    for message in published:
        assert not has_card_data(message.body), "a card number leaves in a body"
        texts = [message.routing_key, message.type, message.correlation_id, message.message_id or ""]
        assert not has_card_data(as_text([texts, message.headers])), "a card number leaves in a header"
    return admitted


def _dead_letter_message(dead_lettered: DeadLettered) -> list[Outgoing]:
    letter = _WORKER._as_dead_letter(dead_lettered)
    try:
        _payload(mark_of(letter), letter, _CHANNEL)
    except ValueError:  # then it is sent without the parts that AMQP cannot carry
        letter = dead_letters.stripped(letter)
        _payload(mark_of(letter), letter, _CHANNEL)
    return [letter]


def answered(item: Item) -> list[Outgoing]:
    """What is published about a command that the inbox accepted: one answer, and perhaps events."""
    states = {}
    if item.message is not None:
        key = item.message.data.subject()
        states[key] = Loaded(Invoice(key), set())
    changes = _WORKER._unit_of_work._react([item], states, NOW)
    answers, published = answer_fresh(DecidedBatch([item], (), changes, NOW))
    assert [(id_, answer.command_id) for id_, answer in answers.items()] == [(item.id, item.id)], (
        "exactly one answer, with the id of the command"
    )
    assert item.message is None or item.message.data.wire_name in PUBLIC_COMMANDS
    for texts in [*map(_texts, answers.values()), *map(_texts, published)]:
        assert all(is_storable(text) for text in texts), texts
        assert not has_card_data(as_text(list(texts))), texts
    for message in published:
        _payload(mark_of(message), message, _CHANNEL)
    return published


def _texts(row: StoredAnswer | Outgoing | DeadLetter) -> list[str]:
    return [value for part in fields(row) if isinstance(value := getattr(row, part.name), str)]


# -- frames ----------------------------------------------------------------------------------------------------------------------------


METHOD = frames.DELIVER + b"\x01c" + (1).to_bytes(8) + b"\x01\x00\x00"
"""The beginning of a redelivery: consumer tag, delivery tag, redelivered, exchange, routing key."""


def frame(raw: bytes, body: bytes) -> Delivery:
    """Any header frame is read; a delivery that was read goes through the border."""
    with bounded():
        arrived, _ = read_delivery(METHOD, raw[frames.PREFIX_BYTES : -1], body, queue="invoice.commands", generation=1)
    border(arrived)
    return arrived


# -- staff's intake --------------------------------------------------------------------------------------------------------------------


def dead_letter(arrived: Delivery) -> DeadLetter:
    """Any dead letter is read, can be stored, and shows no card number, not even an encoded one."""
    with bounded():
        read = intake.read(arrived)
    arrive(None, read, NOW)
    assert (read.body is None) == (read.withheld is not None)
    assert read.body is None or not has_card_data(read.body)
    for text in [*_texts(read), as_text(read.headers)]:
        assert is_storable(text), text
        assert not has_card_data(text), text
    return read


# -- the gateway's answers -------------------------------------------------------------------------------------------------------------

GATEWAY_ID = "pi_1"
POLICY = Policy(ladder_s=(1.0, 2.0), remind_s=60.0)
ORDER = port.Order(UUID(int=1), "INV-1", 1250, "EUR", "pm_card_visa")
REFUND = port.RefundOrder(UUID(int=2), ORDER.payment_id, 250, "EUR")
AT_WORK = PaymentRefund(REFUND.refund_id, "x", asked_minor=250, status=PaymentRefundStatus.AT_WORK, amount_minor=250)
BEFORE = {
    GatewayStep.PREPARE: PaymentStatus.REQUESTED,
    GatewayStep.EXECUTE: PaymentStatus.PREPARED,
    GatewayStep.INQUIRE: PaymentStatus.IN_DOUBT,
    GatewayStep.CANCEL: PaymentStatus.CANCELLING,
    GatewayStep.REFUND: PaymentStatus.REFUNDING,
    GatewayStep.INQUIRE_REFUND: PaymentStatus.REFUND_IN_DOUBT,
}
ANSWERS: dict[GatewayStep, tuple[type, ...]] = {
    GatewayStep.PREPARE: get_args(port.PrepareAnswer),
    GatewayStep.EXECUTE: get_args(port.ExecuteAnswer),
    GatewayStep.INQUIRE: get_args(port.ChargeAnswer),
    GatewayStep.CANCEL: get_args(port.ChargeAnswer),
    GatewayStep.REFUND: get_args(port.RefundAnswer),
    GatewayStep.INQUIRE_REFUND: get_args(port.RefundAnswer),
}


@dataclass(frozen=True, slots=True)
class FuzzedReply:
    """One HTTP answer of a gateway."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """The body as JSON; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def intent(self) -> dict[str, Any]:
        """The payment in the answer, or in its error; empty if there is none."""
        told = self.json()
        if self.status >= 300:
            told = told.get("error") if isinstance(told, dict) else None
            told = told.get("payment_intent") if isinstance(told, dict) else None
        return told if isinstance(told, dict) and told.get("id") == GATEWAY_ID else {}


class _FuzzedTransport(stripe._StripeTransport):
    """The adapter's own transport, with given answers."""

    replies: Iterator[FuzzedReply] = iter(())

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        reply = next(self.replies)
        return reply.body, reply.status, reply.headers


def gateway(
    step: GatewayStep, replies: Sequence[FuzzedReply]
) -> port.PrepareAnswer | port.ExecuteAnswer | port.RefundAnswer:
    """Whatever the gateway answers becomes one of the port's answers.

    Money moved only if the gateway says so about our payment, a decline needs its own words, and an unreadable answer means in doubt.
    `replies`: the first answer, and those to each further question.
    """
    _FuzzedTransport.replies = _forever(replies)
    with bounded():
        answer = asyncio.run(_ask(step))
    assert isinstance(answer, ANSWERS[step]), answer
    _evidence_is_fit(answer.evidence)
    _agrees_with_replies(answer, replies)
    payment = Payment(
        ORDER.payment_id,
        ORDER.invoice_id,
        BEFORE[step],
        amount_minor=ORDER.amount_minor,
        currency=ORDER.currency,
        method_token=ORDER.method_token,
        gateway_id=None if step is GatewayStep.PREPARE else GATEWAY_ID,
        pending=domain.PendingOutcome(PaymentStatus.NOT_CHARGED, "x") if step is GatewayStep.CANCEL else None,
        refunds=(AT_WORK,) if step in {GatewayStep.REFUND, GatewayStep.INQUIRE_REFUND} else (),
    )
    _recorded_agrees_with_replies(domain.on_answer(payment, step, answer, POLICY).payment, payment, answer, replies)
    return answer


def _forever(replies: Sequence[FuzzedReply]) -> Iterator[FuzzedReply]:
    yield from replies
    while True:
        yield replies[-1]


async def _ask(step: GatewayStep) -> port.PrepareAnswer | port.ExecuteAnswer | port.RefundAnswer:
    with mock.patch.object(stripe, "_StripeTransport", _FuzzedTransport):
        adapter = stripe.StripeGateway(api_key="sk_test_1", base_url="http://127.0.0.1:1", timeout_s=5.0, connections=1)
    try:
        match step:
            case GatewayStep.PREPARE:
                return await adapter.prepare(ORDER, key="k")
            case GatewayStep.EXECUTE:
                return await adapter.execute(GATEWAY_ID, key="k")
            case GatewayStep.CANCEL:
                return await adapter.cancel(GATEWAY_ID, key="k")
            case GatewayStep.REFUND:
                return await adapter.refund(GATEWAY_ID, REFUND, key="k")
            case GatewayStep.INQUIRE_REFUND:
                return await adapter.inquire_refund(GATEWAY_ID, REFUND.refund_id)
            case _:
                return await adapter.inquire(GATEWAY_ID)
    finally:
        await adapter.close()


def _evidence_is_fit(evidence: str) -> None:
    assert len(evidence) <= EVIDENCE_CHARS_MAX
    assert is_storable(evidence), evidence
    assert not has_card_data(evidence), evidence


def _agrees_with_replies(
    answer: port.PrepareAnswer | port.ExecuteAnswer | port.RefundAnswer, replies: Sequence[FuzzedReply]
) -> None:
    intents = [reply.intent() for reply in replies]
    match answer:
        case port.Captured():
            succeeded = [intent for intent in intents if intent.get("status") == "succeeded"]
            amounts = [intent.get("amount_received", intent.get("amount")) for intent in succeeded]
            assert answer.amount_minor in amounts, "captured, but no reply says so"
        case port.Declined():
            assert any(intent.get("status") == "requires_payment_method" for intent in intents), (
                "declined, but no reply says so"
            )
        case port.Cancelled():
            assert any(intent.get("status") == "canceled" for intent in intents), "cancelled, but no reply says so"
        case port.Prepared():
            bodies = [body for reply in replies if isinstance(body := reply.json(), dict)]
            assert any(body.get("amount") == ORDER.amount_minor for body in bodies), "prepared with another amount"
        case port.NotFound():
            assert any(reply.status == 404 for reply in replies)
        case port.NotSent() | port.Limited():
            assert any(reply.status == 429 for reply in replies)
        case port.Misconfigured():
            assert any(reply.status in {401, 403, 404} or b"livemode" in reply.body for reply in replies)
        case port.Refused():
            assert any(reply.status in {400, 402, 404} for reply in replies)
        case _:  # this answer ends no payment
            return


def _recorded_agrees_with_replies(
    after: Payment, before: Payment, answer: object, replies: Sequence[FuzzedReply]
) -> None:
    match after.status:
        case PaymentStatus.CAPTURED if before.refunds:
            assert isinstance(answer, port.Refunded), "a part is given back, and no reply says so"
        case PaymentStatus.CAPTURED:
            intents = [reply.intent() for reply in replies]
            ours = {"id": GATEWAY_ID, "status": "succeeded", "amount_received": 1250}
            assert any({"amount_received": i.get("amount"), **i}.items() >= ours.items() for i in intents), (
                "not our amount"
            )
        case PaymentStatus.DECLINED | PaymentStatus.NOT_CHARGED:
            assert isinstance(answer, port.Cancelled) or (
                isinstance(answer, port.Refused) and before.gateway_id is None
            ), "settled without a confirmed cancel"
        case PaymentStatus.REFUNDED:
            assert isinstance(answer, port.Refunded)
        case _:  # this status settles nothing
            return
