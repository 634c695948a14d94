"""The messages that the invoice service owns: the commands it takes, the events it publishes, the answers it gives."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from shared.contracts.base import (
    ADVICE,
    REST,
    WHITE_SPACE,
    AboutInvoice,
    AboutPayment,
    AmountMinor,
    AmountOrZero,
    Code,
    Contract,
    Currency,
    Id,
    Kind,
    Name,
    Part,
    PaymentAmount,
    Sha256,
    Text,
    Version,
    added,
    known,
    stripped,
)

ShortText = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=255)]
"""A text that AMQP carries in a short string."""

# -- payment methods -----------------------------------------------------------------------------------------------------------------

JWE_LENGTH_MAX = 4_096
"""A compact JWE of a card under RSA-4096 has about 1 000 characters, so no legitimate one comes near this limit."""


GATEWAY_ID = "^[A-Za-z0-9_-]+$"
GatewayId = Annotated[str, StringConstraints(strict=True, pattern=GATEWAY_ID, min_length=3, max_length=255)]
"""An id that the card gateway issued."""
METADATA_ENTRIES_MAX = 20
"""Entries of `metadata`. Stripe takes fifty, and two of them are ours."""
DOTTED = "^[A-Za-z0-9_.-]+$"
MetadataName = Annotated[str, StringConstraints(strict=True, pattern=DOTTED, max_length=40)]
_CONTROL = "\u0000-\u001f\u007f-\u009f"
LINE = f"^[^{_CONTROL}]*[^{_CONTROL}{WHITE_SPACE}][^{_CONTROL}]*$"
Line = Annotated[str, StringConstraints(strict=True, pattern=LINE, max_length=500), AfterValidator(stripped)]
STATEMENT = "^[A-Za-z0-9 .,&+/:#-]*[A-Za-z][A-Za-z0-9 .,&+/:#-]*$"
StatementDescriptor = Annotated[str, StringConstraints(strict=True, pattern=STATEMENT, max_length=22)]
"""Stripe's rule for statements: a letter at least, Latin characters, none of `<>\\'"*`."""


class ChargeDetails(Part):
    """Texts about a charge, which the gateway shows as they are: to colleagues in its dashboard, and on the customer's statement."""

    description: Line | None = added("what is paid; shown at the gateway, and in receipts")
    statement_descriptor: StatementDescriptor | None = added(
        "what the customer's statement shows behind the name of the company"
    )
    metadata: Annotated[dict[MetadataName, Line], Field(max_length=METADATA_ENTRIES_MAX)] | None = added(
        "for programs at the gateway; `payment_id` and `invoice_id` are ours"
    )


class TokenMethod(Part):
    """A token that the card gateway issued. A saved card belongs to a customer there, and is charged with that customer only."""

    kind: Literal["token"] = "token"
    token: GatewayId
    customer: GatewayId | None = added("the gateway's id of the customer who owns the token")
    mandate: GatewayId | None = added("the gateway's id of the customer's consent to this charge")
    details: ChargeDetails | None = added("texts about the charge")


class EncryptedCardMethod(Part):
    """A card that the sender encrypted for the payment-gateway service: a compact JWE, bound to the payment id."""

    kind: Literal["encrypted_card"] = "encrypted_card"
    jwe: Annotated[str, StringConstraints(strict=True, pattern=DOTTED, min_length=50, max_length=JWE_LENGTH_MAX)]
    details: ChargeDetails | None = added("texts about the charge")


PaymentMethod = Annotated[TokenMethod | EncryptedCardMethod, Field(discriminator="kind")]

# -- commands from upstream ------------------------------------------------------------------------------------------------------------


class UpstreamCommand(AboutInvoice):
    """A command that any system may send that may write to `invoice.commands.entry`."""

    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "invoice.commands.entry"


class IssueInvoice(UpstreamCommand):
    """Issue an invoice. One of nothing is rejected with a reason of its own: it needs no payment."""

    wire_name: ClassVar[str] = "remit.invoice.IssueInvoice.v1"
    customer_id: Name
    amount_minor: AmountOrZero
    currency: Currency


class PayInvoice(UpstreamCommand):
    """Pay the whole balance. The sender chooses `payment_id`, a new one for every attempt to pay."""

    wire_name: ClassVar[str] = "remit.invoice.PayInvoice.v1"
    payment_id: Id
    amount_minor: AmountMinor
    currency: Currency
    method: PaymentMethod


class VoidInvoice(UpstreamCommand):
    """Void an invoice that nobody paid. It takes no payment afterwards."""

    wire_name: ClassVar[str] = "remit.invoice.VoidInvoice.v1"
    reason: Text


class RefundInvoice(UpstreamCommand):
    """Give back what paid the invoice, or a part of it. The sender chooses `refund_id`, a new one for every refund of the invoice."""

    wire_name: ClassVar[str] = "remit.invoice.RefundInvoice.v1"
    refund_id: Id
    amount_minor: AmountMinor | None = REST
    currency: Currency
    reason: Text


# -- commands from the saga and from staff -----------------------------------------------------------------------------------------------


class RecordPayment(PaymentAmount):
    """Mark the invoice paid, because the money was captured."""

    wire_name: ClassVar[str] = "remit.invoice.RecordPayment.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"
    receipt_number: Text


class RecordPaymentFailure(AboutPayment):
    """Open the invoice again, because the payment ended without a charge."""

    wire_name: ClassVar[str] = "remit.invoice.RecordPaymentFailure.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"
    outcome: Literal["declined", "not_charged"]
    reason: Code
    advice: Code | None = ADVICE


class FlagPaymentInDoubt(AboutPayment):
    """Mark the payment in doubt, because nobody knows yet whether the card was charged."""

    wire_name: ClassVar[str] = "remit.invoice.FlagPaymentInDoubt.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"


class RequestRefund(AboutPayment):
    """A person gives back what paid the invoice, or a part of it."""

    wire_name: ClassVar[str] = "remit.invoice.RequestRefund.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"
    refund_id: Id
    amount_minor: AmountMinor | None = REST
    currency: Currency
    reason: Text
    requested_by: Text


class RecordRefund(PaymentAmount):
    """Note that a refund was made. `version` is that of the payment at the payment-gateway service: what is older changes nothing.

    If the invoice did not ask for it, people gave the money back at the gateway.
    """

    wire_name: ClassVar[str] = "remit.invoice.RecordRefund.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"
    refund_id: Id
    version: Version
    decided_by: Text | None = added("who decided that it was made, or had it made, if a person did")


class RecordRefundFailure(AboutPayment):
    """Note that a refund was not made, or that the bank sent it back. `version` is as for `RecordRefund`."""

    wire_name: ClassVar[str] = "remit.invoice.RecordRefundFailure.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"
    refund_id: Id
    reason: Code
    version: Version


class CloseCommand(Contract):
    """Give the sender of a command its final answer, because the command became a dead letter and was discarded."""

    wire_name: ClassVar[str] = "remit.invoice.CloseCommand.v1"
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"
    command_id: Id
    command_type: Text
    reply_to: ShortText | None = None
    reply_correlation_id: ShortText | None = None
    reason: Text
    sender: ShortText | None = Field(default=None, description="the name of the command's sender, if it is known")
    content_hash: Sha256 | None = Field(
        default=None,
        description="SHA-256 over the command's type and data, if they could be read; a repeated command is told by it",
    )
    outline_hash: Sha256 | None = added("the same without long numbers, in its place if there are some")
    replaced_by: Id | None = added(
        "the id of the command that staff sent in its place; without it the command was given up"
    )

    def subject(self) -> str:
        return str(self.command_id)


class AnswerReason(StrEnum):
    """Every reason for which a command can be rejected. `CommandAnswered` and `InvoiceCommandRejected` carry its value.

    A reader must expect reasons that a later version adds.
    """

    # the state of the invoice is the reason
    UNKNOWN_INVOICE = "unknown_invoice"
    ALREADY_ISSUED = "already_issued"
    ALREADY_PAID = "already_paid"
    INVOICE_VOID = "invoice_void"
    PAYMENT_UNDER_WAY = "payment_under_way"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    PAYMENT_ID_USED = "payment_id_used"
    NOT_PAID = "not_paid"
    NOTHING_TO_REFUND = "nothing_to_refund"
    REFUND_TOO_LARGE = "refund_too_large"
    REFUND_ID_USED = "refund_id_used"
    TOO_MANY_REFUNDS = "too_many_refunds"
    # no card could ever be charged
    NOTHING_TO_PAY = "nothing_to_pay"
    AMOUNT_NOT_CHARGEABLE = "amount_not_chargeable"
    CURRENCY_NOT_CHARGEABLE = "currency_not_chargeable"
    # the message itself is the reason
    COMMAND_ID_REUSED = "command_id_reused"
    SENDER_UNKNOWN = "sender_unknown"
    NOT_PUBLIC = "not_public"
    REPLY_TO_NOT_ALLOWED = "reply_to_not_allowed"
    CLEAR_CARD_NUMBER = "clear_card_number"
    CVV_NOT_ACCEPTED = "cvv_not_accepted"
    INVALID_DATA = "invalid_data"
    NOT_JSON = "not_json"
    NOT_A_CLOUD_EVENT = "not_a_cloud_event"
    UNKNOWN_TYPE = "unknown_type"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    UNSUPPORTED_CONTENT_ENCODING = "unsupported_content_encoding"
    TOO_LARGE = "too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_TOO_LONG = "number_too_long"
    NUL_CHARACTER = "nul_character"
    LONE_SURROGATE = "lone_surrogate"
    # a person decided
    DISCARDED = "discarded"
    REPLACED = "replaced"


class FailureReason(StrEnum):
    """Our own reasons for which a payment ended without a charge. Any other reason is a code of the gateway."""

    AUTHENTICATION_REQUIRED = "authentication_required"
    GATEWAY_UNAVAILABLE = "gateway_unavailable"
    NOT_CONFIRMED = "not_confirmed"
    CANCELLED_AT_GATEWAY = "cancelled_at_gateway"
    DECIDED_BY_PERSON = "decided_by_person"
    SETTLEMENT_REJECTED = "settlement_rejected"
    REFUNDED = "refunded"
    CARD_UNREADABLE = "card_unreadable"
    CARD_ENCRYPTION_UNSUPPORTED = "card_encryption_unsupported"
    CARD_KEY_UNKNOWN = "card_key_unknown"
    CARD_NOT_FOR_THIS_PAYMENT = "card_not_for_this_payment"
    CARD_CVV_PRESENT = "card_cvv_present"
    CARD_MEMBER_UNEXPECTED = "card_member_unexpected"
    CARD_NUMBER_INVALID = "card_number_invalid"
    CARD_EXPIRY_INVALID = "card_expiry_invalid"


# -- events ------------------------------------------------------------------------------------------------------------------------------


class InvoiceIssued(AboutInvoice):
    """The invoice was issued."""

    wire_name: ClassVar[str] = "remit.invoice.InvoiceIssued.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    customer_id: Name
    amount_minor: AmountMinor
    currency: Currency


class InvoicePaymentRequested(PaymentAmount):
    """Charge the card. It holds what pays, so it goes by an exchange of its own that only the payment-gateway service hears."""

    wire_name: ClassVar[str] = "remit.invoice.InvoicePaymentRequested.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.requests"
    method: PaymentMethod


class InvoicePaymentOverdue(AboutPayment):
    """A payment has been pending for too long, and its request was sent again. It is told ever more rarely, each time with another id."""

    wire_name: ClassVar[str] = "remit.invoice.InvoicePaymentOverdue.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"


class InvoicePaid(PaymentAmount):
    """The card was charged, and the invoice is paid."""

    wire_name: ClassVar[str] = "remit.invoice.InvoicePaid.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    receipt_number: Text


class InvoicePaymentFailed(AboutPayment):
    """The payment ended without a charge, and the invoice is open again. A customer can quote `reference_code` on the telephone."""

    wire_name: ClassVar[str] = "remit.invoice.InvoicePaymentFailed.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    outcome: Literal["declined", "not_charged"]
    reason: Annotated[Code, known(FailureReason)]
    advice: Code | None = ADVICE
    reference_code: Code


class InvoicePaymentInDoubt(AboutPayment):
    """Nobody knows yet whether the card was charged. It is being found out; the outcome follows."""

    wire_name: ClassVar[str] = "remit.invoice.InvoicePaymentInDoubt.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"


class InvoiceVoided(AboutInvoice):
    """The invoice was voided."""

    wire_name: ClassVar[str] = "remit.invoice.InvoiceVoided.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    reason: Text


class InvoiceSettlementRejected(AboutPayment):
    """Money was captured for an invoice that cannot take it. The saga then gives the money back."""

    wire_name: ClassVar[str] = "remit.invoice.InvoiceSettlementRejected.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    reason: Code


class InvoiceRefundRequested(AboutPayment):
    """Upstream or a person asked for a refund, and it will be made. It comes again, also with other ids, while the refund is overdue.

    It also comes, right before `InvoiceRefunded`, if a person gave money back at the gateway: then it tells who found that.
    """

    wire_name: ClassVar[str] = "remit.invoice.InvoiceRefundRequested.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    refund_id: Id
    amount_minor: AmountMinor | None = REST
    currency: Currency
    reason: Text
    requested_by: Text | None = added("who asked, if a person did")


class InvoiceRefunded(PaymentAmount):
    """A refund was made. `refunded_minor` is the sum of all refunds of the invoice, this one included.

    Of two events about one refund, that of the higher `version` is the newer one.
    """

    wire_name: ClassVar[str] = "remit.invoice.InvoiceRefunded.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    refund_id: Id
    refunded_minor: AmountMinor
    version: Version


class InvoiceRefundFailed(AboutPayment):
    """A refund was not made, or the bank sent it back after it had been made. `refunded_minor` is the sum of the refunds that stand.

    Staff look at it. If they can make it after all, `InvoiceRefunded` follows.
    """

    wire_name: ClassVar[str] = "remit.invoice.InvoiceRefundFailed.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    refund_id: Id
    reason: Code
    amount_minor: AmountMinor | None = REST
    currency: Currency
    refunded_minor: AmountOrZero
    version: Version


class InvoiceRefundRejected(AboutPayment):
    """A refund that a person asked for does not fit the invoice. Upstream hears of such a rejection in its answer."""

    wire_name: ClassVar[str] = "remit.invoice.InvoiceRefundRejected.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    refund_id: Id
    reason: Code
    requested_by: Text


class InvoiceCommandRejected(Contract):
    """A command was rejected. The saga does not receive this event: an upstream duplicate must not affect a good payment."""

    wire_name: ClassVar[str] = "remit.invoice.InvoiceCommandRejected.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "invoice.events"
    command_id: Id
    command_type: Text
    invoice_id: Name | None = None
    reason: Annotated[Code, known(AnswerReason)]

    def subject(self) -> str:
        return self.invoice_id or str(self.command_id)


# -- the answer ------------------------------------------------------------------------------------------------------------------------


class CommandAnswered(Contract):
    """The one final answer to a command, sent to its `reply_to`. If the command comes again, it gets the same answer word for word."""

    wire_name: ClassVar[str] = "remit.invoice.CommandAnswered.v1"
    kind: ClassVar[Kind] = "answer"
    exchange: ClassVar[str] = ""
    command_id: Id
    answer: Literal["accepted", "rejected"]
    reason: Annotated[Code, known(AnswerReason)] | None = Field(
        default=None, description="set if rejected; the table of codes is in the README"
    )
    detail: Text | None = Field(default=None, description="for people; never shows the input")

    def subject(self) -> str:
        return str(self.command_id)
