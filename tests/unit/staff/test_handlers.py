"""The inbound surface of `staff.cases`: the fact about a case that each message becomes."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.staff.domain import (
    CaseAttempt,
    CaseStatus,
    DecisionRefused,
    Doubted,
    Fact,
    GatewaySide,
    Inquired,
    Settled,
)
from services.staff.handlers import ROUTES
from services.staff.refunds import CaseRefundStatus, RefundTold
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as messages
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES
from shared.messaging.envelope import Inbound
from shared.messaging.topology import CASE, WORK_QUEUES, routing_key
from shared.records import replace

MESSAGE, DECISION = UUID(int=1), UUID(int=2)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ABOUT: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": UUID(int=3), "version": 4}
MONEY: dict[str, Any] = {"amount_minor": 1_250, "currency": "EUR"}
ATTEMPT = messages.Attempt(at=NOW, step="inquire", answer="unknown", evidence="HTTP 504")
DOUBT: dict[str, Any] = {**ABOUT, **MONEY, "reason": "silent", "gateway_id": "pi_1", "attempts": (ATTEMPT,)}


REFUND: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": UUID(int=3), "refund_id": UUID(int=4)}
PART = messages.RefundFacts(refund_id=UUID(int=4), amount_minor=1_250, refunded_minor=1_250, left_minor=0)
OF_A_PART = PART.model_copy(update={"refunded_minor": 1_250, "left_minor": 1})


def told(status: CaseRefundStatus) -> RefundTold:
    return RefundTold(UUID(int=4), status, 4, 1_250, "EUR")


def doubted(status: CaseStatus, decided_by: str | None = None) -> Doubted:
    attempts = (CaseAttempt(NOW, "inquire", "unknown", "HTTP 504"),)
    return Doubted(4, status, 1_250, "EUR", "silent", "pi_1", attempts, decided_by)


FACTS: dict[Contract, Fact] = {
    messages.PaymentInDoubt(**DOUBT): doubted(CaseStatus.IN_DOUBT),
    messages.PaymentNeedsDecision(**DOUBT): doubted(CaseStatus.NEEDS_DECISION),
    messages.PaymentRefundInDoubt(**DOUBT): doubted(CaseStatus.REFUND_IN_DOUBT),
    messages.PaymentRefundFailed(**DOUBT): doubted(CaseStatus.REFUND_FAILED),
    messages.PaymentRefundFailed(**DOUBT, decided_by="ann"): doubted(CaseStatus.REFUND_FAILED, "ann"),
    messages.PaymentCaptured(**ABOUT, **MONEY, receipt_number="ch_1", gateway_id="pi_1", decided_by="ann"): Settled(
        4, CaseStatus.CAPTURED, None, "ann", 1_250, "EUR", "pi_1"
    ),
    messages.PaymentDeclined(**ABOUT, reason="no_money"): Settled(4, CaseStatus.DECLINED, "no_money"),
    messages.PaymentNotCharged(**ABOUT, reason="decided_by_person", decided_by="ann"): Settled(
        4, CaseStatus.NOT_CHARGED, "decided_by_person", "ann"
    ),
    messages.PaymentRefunded(**ABOUT, **MONEY, refund_id="re_1", decided_by="ann"): Settled(
        4, CaseStatus.REFUNDED, None, "ann", 1_250, "EUR"
    ),
    messages.PaymentNeedsDecision(
        **DOUBT,
        settled_as="captured",
        gateway=messages.GatewaySide(answer="captured", captured_minor=900, disputed=True),
    ): replace(
        doubted(CaseStatus.NEEDS_DECISION),
        settled_as="captured",
        gateway=GatewaySide("captured", 900, None, None, disputed=True),
    ),
    messages.PaymentInquired(**DOUBT, state="captured", number=17): Inquired(
        4, 17, 1_250, "EUR", "pi_1", (CaseAttempt(NOW, "inquire", "unknown", "HTTP 504"),)
    ),
    messages.PaymentRefunded(**ABOUT, **MONEY, refund_id="re_1", refund=PART): Settled(
        4, CaseStatus.REFUNDED, currency="EUR", refund=told(CaseRefundStatus.REFUNDED)
    ),
    messages.PaymentRefunded(**ABOUT, **MONEY, refund_id="re_1", refund=OF_A_PART): Settled(
        4, CaseStatus.CAPTURED, currency="EUR", refund=told(CaseRefundStatus.REFUNDED)
    ),
    messages.PaymentRefundFailed(**DOUBT, refund=PART): replace(
        doubted(CaseStatus.REFUND_FAILED), refund=replace(told(CaseRefundStatus.FAILED), code="silent")
    ),
    invoice_messages.InvoiceRefundRequested(**REFUND, **MONEY, reason="damaged", requested_by="ann"): RefundTold(
        UUID(int=4), CaseRefundStatus.ASKED, 0, 1_250, "EUR", reason="damaged", requested_by="ann"
    ),
    invoice_messages.InvoiceRefunded(**REFUND, **MONEY, refunded_minor=1_250, version=4): told(
        CaseRefundStatus.REFUNDED
    ),
    invoice_messages.InvoiceRefundFailed(**REFUND, **MONEY, refunded_minor=0, reason="kept", version=4): replace(
        told(CaseRefundStatus.FAILED), code="kept"
    ),
    invoice_messages.InvoiceRefundRejected(**REFUND, reason="not_paid", requested_by="ann"): RefundTold(
        UUID(int=4), CaseRefundStatus.REJECTED, code="not_paid", requested_by="ann"
    ),
    messages.PaymentResolutionRefused(
        **ABOUT, reason="version_differs", state="captured", decided_by="bob", resolution="not_charged"
    ): DecisionRefused(MESSAGE, 4, "captured", "version_differs", "bob", "not_charged", DECISION),
}


@pytest.mark.parametrize("message", FACTS, ids=lambda message: type(message).__name__)
def test_every_message_is_a_fact(message: Contract) -> None:
    inbound = Inbound(MESSAGE, message, "flow-1", NOW, causation_id=DECISION)
    assert ROUTES[type(message)](message, inbound) == FACTS[message]


def test_every_message_bound_to_the_queue_is_a_fact() -> None:
    (queue,) = (queue for queue in WORK_QUEUES if queue.name == "staff.cases")
    keys = {binding.routing_key for binding in queue.bindings}
    brought = {m for m in MESSAGES if keys & {m.wire_name, routing_key(m.wire_name, CASE)}}
    assert brought == set(ROUTES) == {type(message) for message in FACTS}
