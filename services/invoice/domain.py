"""The invoice, an event-sourced decider: state, commands, events, decide, evolve. Pure: no I/O, clock, randomness, logging.

A rejection is a value: the sender of the command gets it as an answer. It is never an exception. A command that is done twice decides
nothing the second time, or is rejected because of the events of the first time.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import reduce
from hashlib import sha256
from typing import Literal, assert_never
from uuid import UUID

from services.invoice import refunds
from services.invoice.refunds import (
    RecordRefund,
    RecordRefundFailure,
    Refund,
    Refunded,
    RefundFailed,
    RefundRejected,
    RefundRequested,
    Refunds,
)
from shared.records import dataclass, replace

FailureOutcome = Literal["declined", "not_charged"]


class InvoiceStatus(StrEnum):
    ABSENT = "absent"
    OPEN = "open"
    PAYMENT_PENDING = "payment_pending"
    IN_DOUBT = "in_doubt"
    PAID = "paid"
    VOID = "void"


class RejectionReason(StrEnum):
    """Why a command is rejected: reason codes for programs. The README lists them."""

    ALREADY_ISSUED = "already_issued"
    UNKNOWN_INVOICE = "unknown_invoice"
    ALREADY_PAID = "already_paid"
    INVOICE_VOID = "invoice_void"
    PAYMENT_UNDER_WAY = "payment_under_way"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    PAYMENT_ID_USED = "payment_id_used"
    NOTHING_TO_PAY = "nothing_to_pay"
    AMOUNT_NOT_CHARGEABLE = "amount_not_chargeable"
    CURRENCY_NOT_CHARGEABLE = "currency_not_chargeable"
    NOT_PAID = "not_paid"
    NOTHING_TO_REFUND = "nothing_to_refund"
    REFUND_TOO_LARGE = "refund_too_large"
    REFUND_ID_USED = "refund_id_used"
    TOO_MANY_REFUNDS = "too_many_refunds"


class SettlementRejectionReason(StrEnum):
    """Why captured money cannot be booked. It then has to be refunded."""

    NOT_AWAITED = "payment_not_awaited"
    AMOUNT_DIFFERS = "amount_differs"


_UNKNOWN_TO_STRIPE = "CUP ERN IQD IRR KPW LYD MRU SDG SSP STN SYP TMT UYI VED VES ZWG"
CURRENCIES_NOT_CHARGEABLE = frozenset({"BGN", *_UNKNOWN_TO_STRIPE.split()})
"""Currencies that no card is charged in. Bulgaria has paid in euro since 2026; messages about earlier payments still name its lev. The
others are in no list of Stripe's: not in https://docs.stripe.com/currencies#presentment-currencies, and not in what it answers to one
that it does not know."""
CHARGEABLE_STEPS = {"BHD": 10, "JOD": 10, "KWD": 10, "OMR": 10, "TND": 10, "MGA": 100}
"""Amounts in these currencies are charged in multiples of this number of minor units: card networks drop the third decimal, and the fifth
of an ariary (https://docs.stripe.com/currencies#special-cases)."""


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """The payment method, as events store it: the token, or only a fingerprint of an encrypted card."""

    kind: Literal["token", "encrypted_card"]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """The state of an invoice.

    `owner` is the name of the sender that issued it. None if nobody knows.

    `payment_id` is the payment that is pending or in doubt, or the one that paid. `version` is that of the event stream. It is 0 if the
    invoice does not exist.
    """

    invoice_id: str
    status: InvoiceStatus = InvoiceStatus.ABSENT
    version: int = 0
    customer_id: str = ""
    amount_minor: int = 0
    currency: str = ""
    payment_id: UUID | None = None
    receipt_number: str | None = None
    owner: str | None = None
    refunds: Refunds = ()


# -- commands --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issue:
    """Issue the invoice. It belongs to `owner`, the name of the sender. None if nobody vouches for a name."""

    customer_id: str
    amount_minor: int
    currency: str
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Pay:
    """Pay the whole balance.

    `payment_id_used` says that a payment of any invoice has this id already: ids are unique over all invoices. The handler looks it up.
    """

    payment_id: UUID
    amount_minor: int
    currency: str
    method: MethodSummary
    payment_id_used: bool


@dataclass(frozen=True, slots=True)
class Void:
    """Void the invoice, so that it can never be paid."""

    reason: str


@dataclass(frozen=True, slots=True)
class RecordPayment:
    """Mark the invoice paid, because the money was captured."""

    payment_id: UUID
    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class RecordPaymentFailure:
    """Open the invoice again, because the payment ended without a charge. `advice` is the gateway's code for what can be done, or None."""

    payment_id: UUID
    outcome: FailureOutcome
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class FlagPaymentInDoubt:
    """Mark the payment in doubt, because nobody knows whether the card was charged."""

    payment_id: UUID


Command = (
    Issue
    | Pay
    | Void
    | RecordPayment
    | RecordPaymentFailure
    | FlagPaymentInDoubt
    | Refund
    | RecordRefund
    | RecordRefundFailure
)

# -- events ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issued:
    customer_id: str
    amount_minor: int
    currency: str
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class PaymentRequested:
    payment_id: UUID
    amount_minor: int
    currency: str
    method: MethodSummary


@dataclass(frozen=True, slots=True)
class Paid:
    payment_id: UUID
    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    payment_id: UUID
    outcome: FailureOutcome
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class PaymentFlaggedInDoubt:
    payment_id: UUID


@dataclass(frozen=True, slots=True)
class Voided:
    reason: str


@dataclass(frozen=True, slots=True)
class SettlementRejected:
    payment_id: UUID
    reason: str


Event = (
    Issued
    | PaymentRequested
    | Paid
    | PaymentFailed
    | PaymentFlaggedInDoubt
    | Voided
    | SettlementRejected
    | RefundRequested
    | Refunded
    | RefundFailed
    | RefundRejected
)


# -- decide ----------------------------------------------------------------------------------------------------------------------------


def decide(command: Command, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    """The events that the command causes, or the reason why it is rejected. No events mean that it is accepted and changes nothing."""
    match command:
        case Issue():
            return _issue(command, invoice)
        case Pay():
            return _pay(command, invoice)
        case Void():
            return _void(command, invoice)
        case RecordPayment():
            return _record(command, invoice)
        case RecordPaymentFailure():
            return _record_failure(command, invoice)
        case FlagPaymentInDoubt():
            return _flag_in_doubt(command, invoice)
        case Refund():
            return _refund(command, invoice)
        case RecordRefund():
            return _record_refund(command, invoice)
        case RecordRefundFailure():
            return refunds.record_failure(command, invoice.refunds, invoice.currency)
        case _:
            assert_never(command)


def _issue(command: Issue, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    if invoice.status is not InvoiceStatus.ABSENT:
        return RejectionReason.ALREADY_ISSUED
    issued = Issued(command.customer_id, command.amount_minor, command.currency, command.owner)
    return _not_chargeable(command) or (issued,)


def _not_chargeable(command: Issue) -> RejectionReason | None:
    """Why no card can ever be charged for this invoice, so that its sender is told before anybody tries to pay.

    A minimum is not among the reasons, since it depends on the currency in which the account at the gateway is paid out; nor is a maximum,
    which depends on the card.
    """
    if command.amount_minor == 0:
        return RejectionReason.NOTHING_TO_PAY
    if command.currency in CURRENCIES_NOT_CHARGEABLE:
        return RejectionReason.CURRENCY_NOT_CHARGEABLE
    if command.amount_minor % CHARGEABLE_STEPS.get(command.currency, 1):
        return RejectionReason.AMOUNT_NOT_CHARGEABLE
    return None


def _pay(command: Pay, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    match invoice.status:
        case InvoiceStatus.ABSENT:
            return RejectionReason.UNKNOWN_INVOICE
        case InvoiceStatus.PAID:
            return RejectionReason.ALREADY_PAID
        case InvoiceStatus.VOID:
            return RejectionReason.INVOICE_VOID
        case InvoiceStatus.PAYMENT_PENDING | InvoiceStatus.IN_DOUBT:
            return (
                RejectionReason.PAYMENT_UNDER_WAY
            )  # while one payment is unresolved, another could charge a second time
        case InvoiceStatus.OPEN:
            return _pay_open(command, invoice)
        case _:
            assert_never(invoice.status)


def _pay_open(command: Pay, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    if command.payment_id_used:
        return RejectionReason.PAYMENT_ID_USED
    if command.currency != invoice.currency:
        return RejectionReason.CURRENCY_DIFFERS
    if command.amount_minor != invoice.amount_minor:
        return RejectionReason.AMOUNT_DIFFERS
    return (PaymentRequested(command.payment_id, command.amount_minor, command.currency, command.method),)


def _void(command: Void, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    match invoice.status:
        case InvoiceStatus.ABSENT:
            return RejectionReason.UNKNOWN_INVOICE
        case InvoiceStatus.PAID:
            return RejectionReason.ALREADY_PAID
        case InvoiceStatus.VOID:
            return RejectionReason.INVOICE_VOID
        case InvoiceStatus.PAYMENT_PENDING | InvoiceStatus.IN_DOUBT:
            return RejectionReason.PAYMENT_UNDER_WAY
        case InvoiceStatus.OPEN:
            return (Voided(command.reason),)
        case _:
            assert_never(invoice.status)


def _record(command: RecordPayment, invoice: Invoice) -> tuple[Event, ...]:
    if invoice.payment_id != command.payment_id or invoice.status not in {
        InvoiceStatus.PAYMENT_PENDING,
        InvoiceStatus.IN_DOUBT,
        InvoiceStatus.PAID,
    }:
        return (SettlementRejected(command.payment_id, SettlementRejectionReason.NOT_AWAITED),)
    if invoice.status is InvoiceStatus.PAID:
        return ()
    if (command.amount_minor, command.currency) != (invoice.amount_minor, invoice.currency):
        return (SettlementRejected(command.payment_id, SettlementRejectionReason.AMOUNT_DIFFERS),)
    return (Paid(command.payment_id, command.amount_minor, command.currency, command.receipt_number),)


def _record_failure(command: RecordPaymentFailure, invoice: Invoice) -> tuple[Event, ...]:
    """Record a failure. If it is stale (another payment is pending, or this one has ended), it is accepted and causes no event."""
    if invoice.payment_id == command.payment_id and invoice.status in {
        InvoiceStatus.PAYMENT_PENDING,
        InvoiceStatus.IN_DOUBT,
    }:
        return (PaymentFailed(command.payment_id, command.outcome, command.reason, command.advice),)
    return ()


def _flag_in_doubt(command: FlagPaymentInDoubt, invoice: Invoice) -> tuple[Event, ...]:
    if invoice.payment_id == command.payment_id and invoice.status is InvoiceStatus.PAYMENT_PENDING:
        return (PaymentFlaggedInDoubt(command.payment_id),)
    return ()


def _refund(command: Refund, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    """Request a refund, or reject it: to upstream as an answer, to a person as an event."""
    decided = _refund_of(command, invoice)
    if not isinstance(decided, RejectionReason) or command.requested_by is None or command.payment_id is None:
        return decided
    return (RefundRejected(command.payment_id, command.refund_id, decided.value, command.requested_by),)


def _refund_of(command: Refund, invoice: Invoice) -> tuple[Event, ...] | RejectionReason:
    if invoice.status is InvoiceStatus.ABSENT:
        return RejectionReason.UNKNOWN_INVOICE
    paid_by = invoice.payment_id
    if invoice.status is not InvoiceStatus.PAID or paid_by is None or command.payment_id not in {None, paid_by}:
        return RejectionReason.NOT_PAID
    if command.refund_id == paid_by:
        return (
            RejectionReason.REFUND_ID_USED
        )  # it is that of the refund which the saga asks for, if we cannot take the money
    known = refunds.find(invoice.refunds, command.refund_id)
    if known is not None:
        if command.currency != invoice.currency:
            return RejectionReason.CURRENCY_DIFFERS
        return () if known.asked_minor == command.amount_minor else RejectionReason.REFUND_ID_USED
    requested = RefundRequested(
        paid_by,
        command.refund_id,
        command.amount_minor,
        command.currency,
        command.reason,
        command.requested_by,
    )
    return _unfit_refund(command, invoice) or (requested,)


def _unfit_refund(command: Refund, invoice: Invoice) -> RejectionReason | None:
    """Why what is left of the paid invoice cannot be given back like this, or None."""
    if command.currency != invoice.currency:
        return RejectionReason.CURRENCY_DIFFERS
    if len(invoice.refunds) >= refunds.REFUNDS_MAX:
        return RejectionReason.TOO_MANY_REFUNDS
    left_minor = refunds.left_minor(invoice.refunds, invoice.amount_minor)
    if left_minor <= 0:
        return RejectionReason.NOTHING_TO_REFUND
    if command.amount_minor is not None:
        if command.amount_minor > left_minor:
            return RejectionReason.REFUND_TOO_LARGE
        if command.amount_minor % CHARGEABLE_STEPS.get(command.currency, 1):
            return RejectionReason.AMOUNT_NOT_CHARGEABLE
    return None


def _record_refund(command: RecordRefund, invoice: Invoice) -> tuple[Event, ...]:
    """Record a refund of what paid the invoice. One that it did not ask for was made by people at the gateway, and is told as any other."""
    is_known = refunds.find(invoice.refunds, command.refund_id) is not None
    if is_known or invoice.status is not InvoiceStatus.PAID or invoice.payment_id != command.payment_id:
        return refunds.record(command, invoice.refunds)
    requested = refunds.record_unasked(command)
    return (requested, *refunds.record(command, refunds.fold(invoice.refunds, requested)))


# -- evolve ----------------------------------------------------------------------------------------------------------------------------


def evolve(invoice: Invoice, event: Event) -> Invoice:
    """The invoice after one more event."""
    return replace(_apply(invoice, event), version=invoice.version + 1)


def _apply(invoice: Invoice, event: Event) -> Invoice:
    match event:
        case Issued():
            return replace(
                invoice,
                status=InvoiceStatus.OPEN,
                customer_id=event.customer_id,
                amount_minor=event.amount_minor,
                currency=event.currency,
                owner=event.owner,
            )
        case PaymentRequested():
            return replace(invoice, status=InvoiceStatus.PAYMENT_PENDING, payment_id=event.payment_id)
        case Paid():
            return replace(invoice, status=InvoiceStatus.PAID, receipt_number=event.receipt_number)
        case PaymentFailed():
            return replace(invoice, status=InvoiceStatus.OPEN, payment_id=None)
        case PaymentFlaggedInDoubt():
            return replace(invoice, status=InvoiceStatus.IN_DOUBT)
        case Voided():
            return replace(invoice, status=InvoiceStatus.VOID)
        case SettlementRejected():
            return invoice  # the event is for the saga, and changes nothing about the invoice
        case RefundRequested() | Refunded() | RefundFailed() | RefundRejected():
            return replace(invoice, refunds=refunds.fold(invoice.refunds, event))
        case _:
            assert_never(event)


def ended_payment(event: Event) -> UUID | None:
    """The payment that ends with this event, or None."""
    match event:
        case Paid() | PaymentFailed():
            return event.payment_id
        case Issued() | PaymentRequested() | PaymentFlaggedInDoubt() | Voided() | SettlementRejected():
            return None
        case RefundRequested() | Refunded() | RefundFailed() | RefundRejected():
            return None
        case _:
            assert_never(event)


def replay(invoice_id: str, events: Iterable[Event]) -> Invoice:
    """The state of an invoice after these events."""
    return reduce(evolve, events, Invoice(invoice_id))


def reference_code(payment_id: UUID) -> str:
    """The code that a customer quotes on the telephone about a failed payment. It has eight characters without look-alikes."""
    alphabet = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    digest = sha256(payment_id.bytes).digest()
    return "PF-" + "".join(alphabet[byte % len(alphabet)] for byte in digest[:8])
