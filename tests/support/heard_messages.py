"""The life of an invoice as staff hear it: issued, paid in doubt, decided, captured late, given back.

Staff do not hear how the saga passes an outcome on to the invoice (`topology.PASSED_ON`), only what the invoice says then.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract
from shared.ids import derived_id
from shared.messaging.envelope import Inbound

START = datetime(2026, 11, 26, 13, 20, 3, 118_000, tzinfo=UTC)
INVOICE, CUSTOMER, PAYMENT = "INV-19980", "C-1190", UUID("01932f40-55d1-7a0e-8c27-93aa7d20c9e4")
ISSUE, PAY = UUID(int=1), UUID(int=2)
MONEY: dict[str, Any] = {"amount_minor": 31_000, "currency": "EUR"}
ABOUT: dict[str, Any] = {"invoice_id": INVOICE, "payment_id": PAYMENT}


def message(
    data: Contract, seconds: float, *, cause: UUID | None = None, position: int | str = 0, start: datetime = START
) -> Inbound:
    """What is said so many seconds after the start, because of `cause`."""
    cause = cause or UUID(int=int(seconds * 1_000) + 1_000)
    at = start + timedelta(seconds=seconds)
    return Inbound(derived_id(cause, position), data, str(PAY), at, causation_id=cause)


def passed_on(outcome: Inbound) -> UUID:
    """The id of the command by which the saga passes this on to the invoice."""
    return derived_id(outcome.id, 0)


def attempts(number: int, start: datetime = START) -> tuple[payment_gateway.Attempt, ...]:
    return tuple(
        payment_gateway.Attempt(
            at=start + timedelta(seconds=98 + 60 * n),
            step="execute" if n == 0 else "inquire",
            answer="unknown",
            evidence="HTTP 504",
        )
        for n in range(number)
    )


def life_of_an_invoice(start: datetime = START) -> list[Inbound]:
    """Every message of it that staff hear, each caused by one before it, or by what passed that one on."""

    def say(data: Contract, seconds: float, cause: UUID | None = None) -> Inbound:
        position = 0 if isinstance(data, invoice.InvoiceIssued) else data.wire_name
        return message(data, seconds, cause=cause, position=position, start=start)

    doubt: dict[str, Any] = {**ABOUT, **MONEY, "reason": "no_readable_answer", "gateway_id": "pi_3QJx7t"}
    issued = say(invoice.InvoiceIssued(invoice_id=INVOICE, customer_id=CUSTOMER, **MONEY), 0, ISSUE)
    doubted = say(payment_gateway.PaymentInDoubt(**doubt, version=3, attempts=attempts(1, start)), 108)
    flagged = say(invoice.InvoicePaymentInDoubt(**ABOUT), 108.015, passed_on(doubted))
    needs = say(
        payment_gateway.PaymentNeedsDecision(**doubt, version=4, attempts=attempts(12, start)), 11_047, doubted.id
    )
    resolve = say(
        payment_gateway.ResolvePayment(
            **ABOUT,
            resolution="not_charged",
            expected_version=4,
            evidence="dashboard 17:35, no charge of 310.00 EUR",
            decided_by="ben.resolver",
            reason="nothing was charged",
        ),
        12_019,
    )
    told = say(
        payment_gateway.PaymentNotCharged(**ABOUT, version=5, reason="decided_by_person", decided_by="ben.resolver"),
        12_019.031,
        resolve.id,
    )
    failed = say(
        invoice.InvoicePaymentFailed(
            **ABOUT, outcome="not_charged", reason="decided_by_person", reference_code="PF-7KQ2MX9D"
        ),
        12_019.049,
        passed_on(told),
    )
    late = say(
        payment_gateway.PaymentCaptured(
            **ABOUT, **MONEY, version=6, receipt_number="ch_3QJx7tB2mm1", gateway_id="pi_3QJx7t", late=True
        ),
        127_272,
        told.id,
    )
    refund = say(payment_gateway.RefundPayment(**ABOUT, reason="captured late"), 127_272.012, late.id)
    refunded = say(
        payment_gateway.PaymentRefunded(
            **ABOUT,
            **MONEY,
            version=7,
            refund_id="re_3QJx81",
            refund=payment_gateway.RefundFacts(
                refund_id=PAYMENT, amount_minor=31_000, refunded_minor=31_000, left_minor=0
            ),
        ),
        127_273.677,
        refund.id,
    )
    duplicate = say(
        invoice.InvoiceCommandRejected(
            command_id=UUID(int=3),
            command_type=invoice.PayInvoice.wire_name,
            invoice_id=INVOICE,
            reason="payment_under_way",
        ),
        110,
        UUID(int=3),
    )
    return [
        issued, doubted, flagged, duplicate, needs, resolve, told, failed, late, refund, refunded,
    ]  # fmt: skip


def healthy_payment(number: int, start: datetime = START) -> list[Inbound]:
    """An invoice that is issued and paid at once."""
    about: dict[str, Any] = {"invoice_id": f"INV-{number}", "payment_id": UUID(int=10_000 + number)}
    issued = message(
        invoice.InvoiceIssued(invoice_id=f"INV-{number}", customer_id="C-1", **MONEY),
        0,
        cause=UUID(int=20_000 + number),
        start=start,
    )
    captured = message(
        payment_gateway.PaymentCaptured(
            **about, **MONEY, version=2, receipt_number=f"ch_{number}", gateway_id=f"pi_{number}"
        ),
        1.0,
        cause=derived_id(UUID(int=20_000 + number), "requested"),
        start=start,
    )
    paid = message(
        invoice.InvoicePaid(**about, **MONEY, receipt_number=f"ch_{number}"),
        1.02,
        cause=passed_on(captured),
        start=start,
    )
    return [issued, captured, paid]
