"""The messages that the payment-gateway service owns: the commands it takes and the outcomes it publishes."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from shared.contracts.base import (
    ADVICE,
    REST,
    AboutPayment,
    AmountMinor,
    AmountOrZero,
    Code,
    Currency,
    Flag,
    Id,
    Kind,
    LongText,
    Part,
    PaymentAmount,
    Text,
    Time,
    Version,
    added,
)

ATTEMPTS_SHOWN_MAX = 50
"""A case shows the last fifty gateway calls, and a ladder makes fewer. This keeps the message far below the body limit of 64 KiB."""

EVIDENCE_SHOWN_MAX = 500


class PaymentCommand(AboutPayment):
    kind: ClassVar[Kind] = "command"
    exchange: ClassVar[str] = "settlement.commands"


class InquirePayment(PaymentCommand):
    """Ask what is known about a payment.

    A known outcome is announced again. If the payment is in doubt, the gateway is asked now. About a payment that was never seen nothing is
    said or stored, since its request may still be on its way.
    """

    wire_name: ClassVar[str] = "remit.payment_gateway.InquirePayment.v1"
    look: Flag | None = added(
        "whether the gateway is asked now even if the payment is settled, and staff are told what it says"
    )


class RefundPayment(PaymentCommand):
    """Give back all that is left of a payment, because its invoice cannot take the money. The refund has the id of the payment."""

    wire_name: ClassVar[str] = "remit.payment_gateway.RefundPayment.v1"
    reason: Text


class MakeRefund(PaymentCommand):
    """Give back an amount of a payment, at most once for each `refund_id`."""

    wire_name: ClassVar[str] = "remit.payment_gateway.MakeRefund.v1"
    refund_id: Id
    amount_minor: AmountMinor | None = REST
    currency: Currency
    reason: Text


Resolution = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again", "give_back", "reopen"]
"""What a person says became of the money; or what to do. `refund_again`: the gateway is asked, and the refund made anew if none was made.
`give_back`: a capture that is not as it should be is given back. `reopen`: a decision was wrong."""
JOURNAL_HEAD = "^[0-9]{1,19}:[0-9a-f]{64}$"
JournalHead = Annotated[str, StringConstraints(strict=True, pattern=JOURNAL_HEAD)]
"""The position of the last entry of staff's journal, and the hash that chains all entries up to it."""


class ResolvePayment(PaymentCommand):
    """A person's decision about a payment in doubt, or that an earlier decision was wrong (`reopen`).

    `expected_version` is the version that the person saw.
    """

    wire_name: ClassVar[str] = "remit.payment_gateway.ResolvePayment.v1"
    resolution: Resolution
    expected_version: Version
    evidence: LongText
    decided_by: Text
    reason: Text
    receipt_number: Text | None = Field(default=None, description="required when the resolution is `captured`")
    journal_head: JournalHead | None = Field(
        default=None, description="position and hash of the entry of staff's journal that says the same"
    )


class PaymentEvent(AboutPayment):
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "payment.events"
    version: Version


class PaymentCaptured(PaymentEvent, PaymentAmount):
    """The card was charged. `late` means that the payment already had another outcome."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentCaptured.v1"
    receipt_number: Text
    gateway_id: Text | None = Field(
        default=None, description="the gateway's id of the payment; absent where a person decided without it"
    )
    late: Flag = False
    decided_by: Text | None = Field(default=None, description="who decided, if a person did")


class PaymentDeclined(PaymentEvent):
    """The bank said no, and the payment was cancelled at the gateway afterwards."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentDeclined.v1"
    reason: Code
    advice: Code | None = ADVICE


class PaymentNotCharged(PaymentEvent):
    """The card was not charged and never will be: cancelled at the gateway, never sent, or decided by a person."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentNotCharged.v1"
    reason: Code
    advice: Code | None = ADVICE
    decided_by: Text | None = None


class Attempt(Part):
    """One call to the gateway, and its answer."""

    at: Time
    step: Code
    answer: Code
    evidence: Annotated[str, Field(max_length=EVIDENCE_SHOWN_MAX)]


class Dispute(Part):
    """How a dispute of the charge stands, in the gateway's words, such as `needs_response`, `won` or `lost`."""

    status: Code
    reason: Code | None = None
    amount_minor: AmountOrZero | None = None
    currency: Code | None = None
    evidence_due_at: Time | None = Field(default=None, description="by when the bank has to have our evidence")


class GatewaySide(Part):
    """What the gateway says about the payment: the kind of its answer, and, if it shows a capture, the amounts.

    `disputed` stays true after a dispute that was won.
    """

    answer: Code
    captured_minor: AmountOrZero | None = None
    refunded_minor: AmountOrZero | None = None
    currency: Code | None = None
    disputed: Flag = False
    dispute: Dispute | None = added("how the dispute stands; absent if there is none, or nobody can say")
    lost_minor: AmountOrZero | None = added("what was lost in disputes, and so went back to the customer")


class CaseEvent(PaymentEvent, PaymentAmount):
    """A payment that a person may have to look at, with everything that is known about it, so that staff need not ask elsewhere."""

    reason: Code
    gateway_id: Text | None = None
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=ATTEMPTS_SHOWN_MAX)] = ()
    settled_as: Code | None = added("the outcome that the payment had before, if it had one")
    gateway: GatewaySide | None = added("the gateway's side, where it is not as it should be")


class PaymentInDoubt(CaseEvent):
    """Nobody knows whether the card was charged. The gateway is being asked."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentInDoubt.v1"


class PaymentNeedsDecision(CaseEvent):
    """A person must decide: the gateway could not tell in any attempt whether the card was charged, or it contradicts what was settled."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentNeedsDecision.v1"


class RefundFacts(Part):
    """Which refund an event is about. `refunded_minor` is all that was given back of the payment by then, `left_minor` the rest of it.

    The gateway's own list counts refunds that people made there, too.
    """

    refund_id: Annotated[Id, Field(description="our id; that of the payment if its invoice could not take the money")]
    amount_minor: AmountMinor | None = added("of this refund; absent while nobody knows how much is left")
    refunded_minor: AmountOrZero
    left_minor: AmountOrZero


REFUND: Any = added(
    "which refund; absent in messages of builds that knew one refund of a payment only, of the whole amount"
)


class PaymentRefunded(PaymentEvent, PaymentAmount):
    """Money was given back. `amount_minor` is that of this refund, which may be a part of the payment."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentRefunded.v1"
    refund_id: Text | None = Field(default=None, description="the gateway's id of the refund")
    decided_by: Text | None = Field(default=None, description="who decided that it was made, if a person did")
    asked_by: Text | None = added("who had it given back, because the capture was not as it should be")
    refund: RefundFacts | None = REFUND


class PaymentRefundInDoubt(CaseEvent):
    """Nobody knows whether the money was given back. A person may decide. The gateway is still asked from time to time."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentRefundInDoubt.v1"
    refund: RefundFacts | None = REFUND


class PaymentRefundFailed(CaseEvent):
    """The gateway refuses to give the money back. A person must decide."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentRefundFailed.v1"
    decided_by: Text | None = None
    refund: RefundFacts | None = REFUND


class PaymentInquired(CaseEvent):
    """The gateway was asked about a payment that is or was a case. The last attempt is what it said. `state` is that of the payment.

    `number` orders these events: the highest has the newest answer.
    """

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentInquired.v1"
    state: Code
    number: Annotated[int, Field(strict=True, ge=1)]


class PaymentResolutionRefused(PaymentEvent):
    """A person's decision came too late or does not fit the payment. `version` and `state` are the payment's present ones."""

    wire_name: ClassVar[str] = "remit.payment_gateway.PaymentResolutionRefused.v1"
    reason: Code
    state: Code
    decided_by: Text
    resolution: Resolution
