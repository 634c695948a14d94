"""Every outcome has its message, and no evidence makes a message too large."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import pytest

from services.payment_gateway.domain import Outcome, Payment, PaymentStatus, PaymentTransition
from services.payment_gateway.handlers import (
    ROUTES,
    TELLS_ATTEMPTS,
    Charger,
    PaymentChange,
    RequestHandler,
    _writes,
    announce,
)
from services.payment_gateway.ledger import GatewayAttempt
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus
from services.payment_gateway.store import Origin, PaymentRow, PaymentUpdate
from shared.contracts import payment_gateway as messages
from shared.contracts.catalogue import MESSAGES
from shared.contracts.invoice import InvoicePaymentRequested, TokenMethod
from shared.ids import derived_id
from shared.messaging.codec import BODY_BYTES_MAX, decode, encode
from shared.messaging.envelope import Cause, Inbound
from shared.messaging.topology import QUEUES, Binding, ingress_exchange
from shared.persistence.database import Connection

ID, PART = (UUID(f"018f3c5e-0000-7000-8000-00000000000{number}") for number in (1, 2))
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAYMENT = Payment(
    ID,
    "INV-1",
    PaymentStatus.CAPTURED,
    version=4,
    amount_minor=1_250,
    currency="EUR",
    gateway_id="pi_1",
    reason="processing",
    receipt_number="ch_1",
    refund_id="re_1",
    was_case=True,
    refunds=(
        PaymentRefund(PART, "damaged", 250, PaymentRefundStatus.REFUNDED, 250, version=3, gateway_id="re_0"),
        PaymentRefund(ID, "void", amount_minor=1_000, version=4, gateway_id="re_1"),
    ),
)
ABOUT = {"invoice_id": "INV-1", "payment_id": ID, "version": 4}
AMOUNT = {**ABOUT, "amount_minor": 1_250, "currency": "EUR"}
ATTEMPT = GatewayAttempt(ID, 1, 1, NOW, "inquire", "unknown", "HTTP 504", None)
REFUND = {"refund_id": ID, "amount_minor": 1_000, "refunded_minor": 250, "left_minor": 1_000}
CASE = {
    **AMOUNT,
    "reason": "processing",
    "gateway_id": "pi_1",
    "attempts": ({"at": NOW, "step": "inquire", "answer": "unknown", "evidence": "HTTP 504"},),
}
EXPECTED = {
    Outcome.CAPTURED: messages.PaymentCaptured(**AMOUNT, receipt_number="ch_1", gateway_id="pi_1"),
    Outcome.CAPTURED_LATE: messages.PaymentCaptured(**AMOUNT, receipt_number="ch_1", gateway_id="pi_1", late=True),
    Outcome.DECLINED: messages.PaymentDeclined(**ABOUT, reason="processing"),
    Outcome.NOT_CHARGED: messages.PaymentNotCharged(**ABOUT, reason="processing"),
    Outcome.IN_DOUBT: messages.PaymentInDoubt(**CASE),
    Outcome.NEEDS_DECISION: messages.PaymentNeedsDecision(**CASE),
    Outcome.REFUNDED: messages.PaymentRefunded(**AMOUNT | {"amount_minor": 1_000}, refund_id="re_1", refund=REFUND),
    Outcome.REFUND_IN_DOUBT: messages.PaymentRefundInDoubt(**CASE, refund=REFUND),
    Outcome.REFUND_FAILED: messages.PaymentRefundFailed(**CASE, refund=REFUND),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_its_message(outcome: Outcome) -> None:
    draft = announce(outcome, PAYMENT, (ATTEMPT,))
    assert draft.data == EXPECTED[outcome]
    assert draft.message_id == derived_id(ID, 4), "payment id and version name an outcome"


def test_staff_receive_only_outcomes_of_cases() -> None:
    assert announce(Outcome.CAPTURED, PAYMENT).routing_suffix == "case"
    assert announce(Outcome.CAPTURED, replace(PAYMENT, was_case=False)).routing_suffix == ""


def test_every_message_of_the_queues_has_a_route() -> None:
    ours = {"payment_gateway.requests", "payment_gateway.commands"}
    bound = {binding for queue in QUEUES if queue.name in ours for binding in queue.bindings}
    brought = {m for m in MESSAGES if Binding(ingress_exchange(m.exchange), m.wire_name) in bound}
    assert brought == set(ROUTES)
    assert set(ROUTES) <= set(MESSAGES)


@pytest.mark.parametrize("letter", ['"', "\\", "\u20ac", "\U0001f4b8", "\x01"])
@pytest.mark.parametrize(
    "outcome", sorted(TELLS_ATTEMPTS, key=str)
)  # sorted: each worker of pytest-xdist collects by itself
def test_no_evidence_makes_a_case_too_large(letter: str, outcome: Outcome) -> None:
    attempt = replace(ATTEMPT, answer="refund_failed:" + "x" * 50, evidence=letter * 400)
    message = encode(announce(outcome, PAYMENT, [attempt] * 80), Cause(ID, "C-1", NOW), 0, source="payment_gateway")
    assert len(message.body) < BODY_BYTES_MAX * 3 // 4
    assert isinstance(decode(message.body, content_type=message.content_type), Inbound)


@pytest.mark.parametrize(
    "evidence",
    [
        '"2026-01-01T12:34:56.123456+00:00",',
        '\\n"2026-01-01 12:34:56",',
        '"created":1767225600,',
        "0.1234567890123456 ",
        '{"id":"pi_3NXabcdef0123456789","amount":1234,"charge":null},',
        '"cvc_check":"pass",',
    ],
)
def test_no_usual_evidence_makes_a_case_a_card_number_or_too_many_values(evidence: str) -> None:
    attempt = replace(ATTEMPT, evidence=(evidence * 400)[:400])
    draft = announce(min(TELLS_ATTEMPTS, key=str), PAYMENT, [attempt] * 80)
    message = encode(draft, Cause(ID, "C-1", NOW), 0, source="payment_gateway")
    assert isinstance(decode(message.body, content_type=message.content_type), Inbound)


def test_of_several_messages_about_a_payment_in_one_batch_the_row_is_compared_with_what_it_was_before_all() -> None:
    rows = [PaymentRow(PAYMENT, fence, Origin(ID, "C-1", None), NOW) for fence in (1, 2, 3)]
    moves = [PaymentTransition(PAYMENT, delay_s=delay_s) for delay_s in (1.0, 2.0)]
    changes = [PaymentChange(*of) for of in zip(rows[:2], rows[1:], moves, strict=True)]
    assert _writes(changes) == ([], [PaymentUpdate(rows[2], held_fence=1, delay_s=2.0)])


async def test_only_requests_are_decided_on_without_reading() -> None:
    """Whatever else comes to their queue is about a payment that was seen."""
    handler = RequestHandler(cast(Charger, None))
    requested, asked = (
        Inbound(ID, data, "C-1", NOW)
        for data in (
            InvoicePaymentRequested(
                invoice_id="INV-1", payment_id=ID, amount_minor=1, currency="EUR", method=TokenMethod(token="pm_1")
            ),
            messages.InquirePayment(invoice_id="INV-1", payment_id=ID),
        )
    )
    assert await handler.load_unlocked(cast(Connection, None), [requested], {}) == {ID: None}
    assert await handler.load_unlocked(cast(Connection, None), [requested, asked], {}) is None
