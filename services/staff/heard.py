"""What staff keep of a message that they hear: facts for the story of an invoice. Pure.

The messages of a payment come in any order, and twice. So everything here is a merge that gives the same result in every order: the highest
version, the earliest time, the first of two texts. `story_store` merges with the rows by the same rules.

Kept is a closed list of members. Payment methods, addresses and hashes are not on it, nor is any body.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract
from shared.contracts.catalogue import short_name
from shared.ids import derived_id
from shared.messaging.envelope import Inbound
from shared.records import dataclass, replace

NUMBERS: Final[Mapping[type[Contract], int]] = {
    invoice.InvoiceIssued: 1,
    invoice.InvoicePaymentOverdue: 2,
    invoice.InvoicePaid: 3,
    invoice.InvoicePaymentFailed: 4,
    invoice.InvoicePaymentInDoubt: 5,
    invoice.InvoiceVoided: 6,
    invoice.InvoiceSettlementRejected: 7,
    invoice.InvoiceRefundRequested: 8,
    invoice.InvoiceRefunded: 9,
    invoice.InvoiceRefundFailed: 10,
    invoice.InvoiceRefundRejected: 11,
    invoice.InvoiceCommandRejected: 12,
    payment_gateway.PaymentCaptured: 13,
    payment_gateway.PaymentDeclined: 14,
    payment_gateway.PaymentNotCharged: 15,
    payment_gateway.PaymentRefunded: 16,
    payment_gateway.PaymentInDoubt: 17,
    payment_gateway.PaymentNeedsDecision: 18,
    payment_gateway.PaymentRefundInDoubt: 19,
    payment_gateway.PaymentRefundFailed: 20,
    payment_gateway.PaymentInquired: 21,
    payment_gateway.PaymentResolutionRefused: 22,
    invoice.RecordPayment: 23,
    invoice.RecordPaymentFailure: 24,
    invoice.FlagPaymentInDoubt: 25,
    invoice.RecordRefund: 26,
    invoice.RecordRefundFailure: 27,
    invoice.RequestRefund: 28,
    invoice.CloseCommand: 29,
    payment_gateway.InquirePayment: 30,
    payment_gateway.RefundPayment: 31,
    payment_gateway.MakeRefund: 32,
    payment_gateway.ResolvePayment: 33,
}
"""The number under which each type is stored. A number is never used for another type."""
NAMES: Final[Mapping[int, str]] = {number: short_name(kind.wire_name) for kind, number in NUMBERS.items()}
"""The short name of a type, by its number: `InvoicePaid`."""

FACTS: Final = frozenset(
    (
        "customer_id",
        "amount_minor",
        "currency",
        "reason",
        "advice",
        "outcome",
        "version",
        "late",
        "receipt_number",
        "reference_code",
        "gateway_id",
        "refund_id",
        "refunded_minor",
        "settled_as",
        "state",
        "number",
        "decided_by",
        "requested_by",
        "resolution",
        "expected_version",
        "evidence",
        "command_id",
        "command_type",
        "look",
    )
)
"""The members that are kept, of messages that have them."""
POSITIONS_MAX: Final = 4
"""Messages that one command brings about, at most."""

OPEN, PENDING, IN_DOUBT, PAID, VOID = "open", "payment_pending", "in_doubt", "paid", "void"
FINAL: Final = frozenset({PAID, VOID})
"""How an invoice ends. Whatever else is heard later was said before."""
SETTLED: Final = frozenset({"captured", "declined", "not_charged", "refunded", "not_refunded"})
"""How a payment ends."""
ACCEPTED, REJECTED = "accepted", "rejected"


@dataclass(frozen=True, slots=True)
class MessageHeard:
    """A message. `type` is one of `NUMBERS`, `cause` the id of the message that brought it about."""

    id: UUID
    at: datetime
    type: int
    invoice_id: str | None
    payment_id: UUID | None
    cause: UUID | None
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """The short name of its type; of one that a newer build wrote: its number."""
        return NAMES.get(self.type, f"type {self.type}")


@dataclass(frozen=True, slots=True)
class InvoiceHeard:
    """An invoice. `changed_at`: when its status was told. Its amount is in minor units."""

    invoice_id: str
    customer_id: str | None
    amount_minor: int | None
    currency: str | None
    status: str
    issued_at: datetime | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentHeard:
    """A payment. Its `status` is that of its highest `version`. `requested_at`: when it was first heard of; its request goes past staff."""

    payment_id: UUID
    invoice_id: str
    amount_minor: int | None
    currency: str | None
    status: str
    version: int
    receipt_number: str | None
    reference_code: str | None
    gateway_id: str | None
    correlation_id: str
    requested_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class CommandHeard:
    """A command of upstream, and its answer."""

    command_id: UUID
    type: str
    invoice_id: str | None
    answer: str
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Heard:
    """What messages tell: each of them, and one record for each thing that they are about, in the order of their keys."""

    messages: tuple[MessageHeard, ...] = ()
    invoices: tuple[InvoiceHeard, ...] = ()
    payments: tuple[PaymentHeard, ...] = ()
    commands: tuple[CommandHeard, ...] = ()


def hear(messages: Iterable[Inbound]) -> Heard:
    """What these messages tell. Raises KeyError for a type that staff do not hear."""
    told = [(message, NUMBERS[type(message.data)]) for message in messages]
    return Heard(
        tuple({message.id: _message(message, number) for message, number in told}.values()),
        _merged((_invoice(message) for message, _ in told), lambda one: one.invoice_id, merge_invoices),
        _merged((_payment(message) for message, _ in told), lambda one: one.payment_id, merge_payments),
        _merged((_command(message) for message, _ in told), lambda one: one.command_id, merge_commands),
    )


def _message(message: Inbound, number: int) -> MessageHeard:
    members = vars(
        message.data
    )  # asking a contract for a member that it has not costs it an exception, 20 times a message
    return MessageHeard(
        message.id,
        message.time,
        number,
        members.get("invoice_id"),
        members.get("payment_id"),
        message.causation_id,
        _facts(members),
    )


def _facts(members: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: _plain(value) for name, value in members.items() if value is not None and name in FACTS}
    if (refund := members.get("refund")) is not None:
        facts["refund"] = {
            "id": str(refund.refund_id),
            "amount_minor": refund.amount_minor,
            "left_minor": refund.left_minor,
        }
    if attempts := members.get("attempts"):
        facts["attempts"] = [{"at": one.at.isoformat(), "step": one.step, "answer": one.answer} for one in attempts]
    return facts


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


# -- invoices ------------------------------------------------------------------------------------------------------------------------------

_STATUS_OF_INVOICE: Final[Mapping[type[Contract], str]] = {
    invoice.InvoiceIssued: OPEN,
    invoice.InvoicePaymentOverdue: PENDING,
    invoice.InvoicePaymentInDoubt: IN_DOUBT,
    invoice.InvoicePaymentFailed: OPEN,
    invoice.InvoicePaid: PAID,
    invoice.InvoiceVoided: VOID,
}


def _invoice(message: Inbound) -> InvoiceHeard | None:
    status = _STATUS_OF_INVOICE.get(type(message.data))
    if status is None:
        return None
    issued = message.data if isinstance(message.data, invoice.InvoiceIssued) else None
    return InvoiceHeard(
        message.data.subject(),
        issued.customer_id if issued else None,
        issued.amount_minor if issued else None,
        issued.currency if issued else None,
        status,
        message.time if issued else None,
        message.time,
    )


def merge_invoices(one: InvoiceHeard, other: InvoiceHeard) -> InvoiceHeard:
    """What both tell of the same invoice."""
    newer = max(one, other, key=lambda heard: (heard.status in FINAL, heard.changed_at, heard.status))
    return replace(
        newer,
        customer_id=_least(one.customer_id, other.customer_id),
        amount_minor=_least(one.amount_minor, other.amount_minor),
        currency=_least(one.currency, other.currency),
        issued_at=_least(one.issued_at, other.issued_at),
    )


# -- payments ------------------------------------------------------------------------------------------------------------------------------

UNKNOWN_STATUS = "pending"
_STATUS_OF_PAYMENT: Final[Mapping[type[Contract], str]] = {
    payment_gateway.PaymentCaptured: "captured",
    payment_gateway.PaymentDeclined: "declined",
    payment_gateway.PaymentNotCharged: "not_charged",
    payment_gateway.PaymentInDoubt: "in_doubt",
    payment_gateway.PaymentNeedsDecision: "needs_decision",
    payment_gateway.PaymentRefundInDoubt: "refund_in_doubt",
}
_TELL_OF_A_PAYMENT: Final = (
    payment_gateway.PaymentEvent,
    invoice.InvoicePaymentOverdue,
    invoice.InvoicePaymentFailed,
    invoice.InvoicePaymentInDoubt,
)

_WITH_ITS_AMOUNT: Final = (
    payment_gateway.PaymentCaptured,
    payment_gateway.PaymentInDoubt,
    payment_gateway.PaymentNeedsDecision,
)
"""Messages whose amount is that of the payment, and not of a refund."""


def _payment(message: Inbound) -> PaymentHeard | None:
    data = message.data
    if not isinstance(data, _TELL_OF_A_PAYMENT):
        return None
    status, version = _standing(data)
    members = vars(data)
    attempts = members.get("attempts", ())
    return PaymentHeard(
        data.payment_id,
        data.invoice_id,
        members.get("amount_minor") if isinstance(data, _WITH_ITS_AMOUNT) else None,
        members.get("currency"),
        status,
        version,
        members.get("receipt_number"),
        members.get("reference_code"),
        members.get("gateway_id"),
        message.correlation_id,
        min([message.time, *(one.at for one in attempts)]),
        message.time if status in SETTLED else None,
    )


def _standing(data: Contract) -> tuple[str, int]:
    """The status that the message tells, and the version of it. 0: it tells none."""
    if isinstance(data, payment_gateway.PaymentRefunded):
        is_part = data.refund is not None and data.refund.left_minor > 0
        return "captured" if is_part else "refunded", data.version
    if isinstance(data, payment_gateway.PaymentRefundFailed):
        return "not_refunded" if data.decided_by else "refund_failed", data.version
    status = _STATUS_OF_PAYMENT.get(type(data))
    return (UNKNOWN_STATUS, 0) if status is None else (status, getattr(data, "version", 0))


def merge_payments(one: PaymentHeard, other: PaymentHeard) -> PaymentHeard:
    """What both tell of the same payment."""
    newer = other if other.version > one.version else one
    return replace(
        newer,
        invoice_id=min(one.invoice_id, other.invoice_id),
        amount_minor=_least(one.amount_minor, other.amount_minor),
        currency=_least(one.currency, other.currency),
        receipt_number=_least(one.receipt_number, other.receipt_number),
        reference_code=_least(one.reference_code, other.reference_code),
        gateway_id=_least(one.gateway_id, other.gateway_id),
        correlation_id=min(one.correlation_id, other.correlation_id),
        requested_at=min(one.requested_at, other.requested_at),
    )


# -- commands ------------------------------------------------------------------------------------------------------------------------------

_ACCEPTED_BY: Final[Mapping[type[Contract], type[invoice.UpstreamCommand]]] = {
    invoice.InvoiceIssued: invoice.IssueInvoice,
    invoice.InvoiceVoided: invoice.VoidInvoice,
    invoice.InvoiceRefundRequested: invoice.RefundInvoice,
}


def _command(message: Inbound) -> CommandHeard | None:
    data = message.data
    if isinstance(data, invoice.InvoiceCommandRejected):
        return CommandHeard(data.command_id, data.command_type, data.invoice_id, REJECTED, data.reason, message.time)
    command = _ACCEPTED_BY.get(type(data))
    cause = message.causation_id
    if command is None or cause is None or getattr(data, "requested_by", None) is not None:
        return None
    if all(message.id != derived_id(cause, position) for position in range(POSITIONS_MAX)):
        return None  # a deadline said it again
    return CommandHeard(cause, command.wire_name, data.subject(), ACCEPTED, None, message.time)


def merge_commands(one: CommandHeard, other: CommandHeard) -> CommandHeard:
    """What both tell of the same command. One that was accepted stays so, though others were rejected for using its id."""
    return min(
        one, other, key=lambda heard: (heard.answer, heard.at, heard.reason or "", heard.type, heard.invoice_id or "")
    )


# -- merging -------------------------------------------------------------------------------------------------------------------------------

Record = TypeVar("Record")
Value = TypeVar("Value", int, str, datetime)


def _merged(
    records: Iterable[Record | None], key: Callable[[Record], Any], merge: Callable[[Record, Record], Record]
) -> tuple[Record, ...]:
    """One record for each key, sorted by key: rows are locked in that order."""
    merged: dict[Any, Record] = {}
    for record in records:
        if record is not None:
            before = merged.get(key(record))
            merged[key(record)] = record if before is None else merge(before, record)
    return tuple(merged[name] for name in sorted(merged))


def _least(one: Value | None, other: Value | None) -> Value | None:
    """The lower of two, if both are known, as SQL's `least` gives it."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
