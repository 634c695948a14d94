"""The port to a card gateway: the calls that this service makes, and every answer it can get.

A charge takes two steps, so that the gateway itself prevents a second charge. `prepare` creates a payment that cannot charge by itself,
and `execute` confirms exactly that payment. An adapter never raises an error of a gateway or a network. It returns one of the answers
below, and `Unknown` if no other fits. Only bugs and cancellations leave an adapter as exceptions.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar
from uuid import UUID

from shared.records import dataclass

RETRY_AFTER_MAX_S = 3_600.0
"""The longest wait that a gateway can ask for. It must not park a payment for a day."""


AMOUNT_SHOWN_MAX = 999_999_999_999
"""The largest amount of a gateway that is shown: the largest of our own. A longer number could read as a card number."""


@dataclass(frozen=True, slots=True)
class ChargeDetails:
    """What a charge says besides its amount, as the sender gave it.

    `customer` owns the payment method at the gateway, and `mandate` is the customer's consent there. `description`, `statement_descriptor`
    and `metadata` are texts for people: at the gateway, and on the statement of the customer.
    """

    customer: str | None = None
    mandate: str | None = None
    description: str | None = None
    statement_descriptor: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()


NO_DETAILS = ChargeDetails()


@dataclass(frozen=True, slots=True)
class Order:
    """One payment to prepare. `amount_minor` is in the minor unit of the ISO 4217 `currency`. `method_token` is a token of the gateway."""

    payment_id: UUID
    invoice_id: str
    amount_minor: int
    currency: str
    method_token: str
    details: ChargeDetails = NO_DETAILS


@dataclass(frozen=True, slots=True)
class Sought:
    """A payment to look for. `amount_minor` and `currency` are those of its order, `customer` too if the order named one."""

    payment_id: UUID
    amount_minor: int | None
    currency: str | None
    customer: str | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A card in the clear. It exists only in this process, between decryption and `tokenise`. It is never shown and never stored.

    `name` and `postal_code` are of the card holder, for address verification (AVS).
    """

    number: str
    exp_month: int
    exp_year: int
    name: str | None = None
    postal_code: str | None = None

    def __repr__(self) -> str:
        return "Card(****)"


# The answers. `evidence` is a short redacted text for a person: HTTP status, the gateway's request id, its text.


@dataclass(frozen=True, slots=True)
class Tokenised:
    """The gateway gave a token for a card."""

    method_token: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The gateway has an unconfirmed payment with the id `gateway_id`. Nothing is charged."""

    gateway_id: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway understood the request and will never do it, for instance because of a bad token. This request charged nothing.

    `advice` is the gateway's code for what the sender can do about it, or None.
    """

    code: str
    evidence: str
    advice: str | None = None


DISPUTE_LOST = "lost"
DISPUTE_OPEN = frozenset(
    {
        "warning_needs_response",
        "warning_under_review",
        "needs_response",
        "under_review",
        "appeal_needs_response",
        "appeal_under_review",
    }
)
"""The statuses of a dispute, in Stripe's words, that do not say yet whose the money will be."""
DISPUTE_OVER = frozenset({"won", "warning_closed"})
"""The statuses of a dispute after which the money is ours. `lost` means that it went back. What any other status means a person decides."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """How a dispute of a charge stands. `amount_minor` is in the minor unit of `currency`, and None if it cannot be read.

    `due_by` is when evidence has to be there, in Unix seconds, or None if the bank takes none, or nothing is known about it.
    """

    status: str
    reason: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    due_by: int | None = None


@dataclass(frozen=True, slots=True)
class StandingRefund:
    """A refund that the gateway has made, or has not finished (`is_pending`). `gateway_id` is the gateway's id of it.

    `payment_id` and `refund_id` are the ids of ours that its texts there name, or None. Anybody who makes a refund there can write them.
    """

    gateway_id: str
    amount_minor: int
    payment_id: UUID | None = None
    refund_id: UUID | None = None
    is_pending: bool = False


@dataclass(frozen=True, slots=True)
class Captured:
    """The card was charged. `amount_minor` is in the minor unit of `currency`, as the gateway reports it.

    `refunded_minor` of it was given back since, by whomever. `disputed` means that the customer disputes the charge, or did so: the gateway
    may have taken the money back. `dispute` is the dispute that matters most, or None if nobody can say how it stands. `lost_minor` was
    lost in disputes, as far as its currency is that of the charge. `standing` are its refunds but for those that failed, oldest first. An
    answer to `execute` or `cancel` may tell none of these.
    """

    gateway_id: str
    amount_minor: int
    currency: str
    receipt_number: str
    evidence: str
    refunded_minor: int = 0
    disputed: bool = False
    dispute: Dispute | None = None
    lost_minor: int = 0
    standing: tuple[StandingRefund, ...] | None = None

    @property
    def gone_minor(self) -> int:
        """What was given back, or lost."""
        return self.refunded_minor + self.lost_minor

    @property
    def is_contested(self) -> bool:
        """Whether a dispute may still take the money, or took nobody knows how much of it."""
        if not self.disputed or (self.dispute is not None and self.dispute.status in DISPUTE_OVER):
            return False
        return self.dispute is None or self.dispute.status != DISPUTE_LOST or self.lost_minor == 0


@dataclass(frozen=True, slots=True)
class Declined:
    """The bank said no. The payment can still be confirmed at the gateway until it is cancelled there.

    `advice` is the bank's code for what the sender can do about it, or None.
    """

    code: str
    evidence: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """The payment exists at the gateway and was never confirmed. Nothing is charged yet, but a confirm on its way could charge it."""

    evidence: str


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The customer would have to act (3-D Secure), but no customer is present."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Processing:
    """The gateway is still working on the charge."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The payment is cancelled at the gateway for good. No confirm can charge it any more."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Found:
    """The gateway has a payment with our payment id: that of the id `gateway_id`. If it has several, the one that may hold money.

    It says nothing about the state of the payment, which may be outdated by the time it is found.
    """

    gateway_id: str
    evidence: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The gateway does not know this id."""

    evidence: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The gateway did not take the request (connection refused, the payment is locked), so it is safe to send it again."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Limited:
    """The gateway takes no more requests at present (429), whatever they are about. It is safe to send this one again.

    `retry_after_s` is the wait in seconds that the gateway asked for, or None. `is_ours`: our own pace had no turn for it in time, so the
    gateway was not asked.
    """

    evidence: str
    retry_after_s: float | None = None
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request was sent and got no usable answer (timeout, reset, 5xx, a conflict, rubbish). It may or may not have been done.

    `key_spent` means that the gateway has finished with our idempotency key and saved this answer: under the same key it gives no other.
    `key_taken` means that it knows the key from a request of ours with other parameters, and so has done nothing now. That request we have
    forgotten, or an earlier build made it in other words.
    """

    evidence: str
    key_spent: bool = False
    key_taken: bool = False


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The gateway refuses this service, not this payment: its key, its permissions, its mode or its URL. An operator has to mend it.

    One answer alone does not prove that. If the gateway takes the service after all (`Gateway.check`), the answer means `otherwise`.
    `lacks_permission`: it knows the key, and the key may not do this.
    """

    evidence: str
    otherwise: "NotSent | Unknown"
    lacks_permission: bool = False


@dataclass(frozen=True, slots=True)
class MadeFor:
    """The gateway has this payment, made for our payment `payment_id`, or for nobody of ours if that is None."""

    payment_id: UUID | None


@dataclass(frozen=True, slots=True)
class Usable:
    """The gateway takes this service's requests."""


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """One refund to make. `amount_minor` is in the minor unit of the ISO 4217 `currency`. The gateway keeps our ids with the refund."""

    refund_id: UUID
    payment_id: UUID
    amount_minor: int
    currency: str


# `refund_id` of an answer is the gateway's id of the refund.


@dataclass(frozen=True, slots=True)
class Refunded:
    """This refund was made: its amount was given back. `amount_minor` is that amount, or None if the gateway does not say it.

    `charge` is the charge, if a dispute may take its money all the same, or if not all of it has gone back.
    """

    refund_id: str
    evidence: str
    amount_minor: int | None = None
    charge: Captured | None = None


@dataclass(frozen=True, slots=True)
class RefundPending:
    """The gateway has started this refund and has not finished it."""

    refund_id: str
    evidence: str


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """The gateway did not give the money back, and will not do so by itself.

    `refund_id` is that of the refund that failed, or None if the gateway refused to begin one. The other fields are as those of `NoRefund`.
    """

    code: str
    evidence: str
    refund_id: str | None = None
    left_minor: int | None = None
    about: UUID | None = None
    standing: tuple[StandingRefund, ...] | None = None


@dataclass(frozen=True, slots=True)
class NoRefund:
    """The gateway knows the payment, and has no refund with our id.

    `left_minor` is what can still be given back, in the minor unit of the currency: the capture without every refund that anybody made,
    those that are under way included. None if nothing was captured. `about` is our id, if several were asked about. `standing` are the
    refunds of the payment but for those that failed, oldest first. `charge` is the charge, if a dispute may take its money all the same.
    """

    evidence: str
    left_minor: int | None = None
    about: UUID | None = None
    standing: tuple[StandingRefund, ...] | None = None
    charge: Captured | None = None


NoAnswer = NotSent | Limited | Unknown | Misconfigured
"""What every call can come to."""
TokeniseAnswer = Tokenised | Refused | NoAnswer
PrepareAnswer = Prepared | Refused | NoAnswer
FindAnswer = Found | NotFound | Refused | NoAnswer
ChargeAnswer = Captured | Declined | Unconfirmed | ActionRequired | Processing | Cancelled | NotFound | NoAnswer
ExecuteAnswer = ChargeAnswer | Refused
RefundAnswer = Refunded | RefundPending | RefundFailed | NoRefund | NotFound | NoAnswer
OwnerAnswer = MadeFor | NotFound | NoAnswer
CheckAnswer = Usable | NoAnswer


def worst(answers: Sequence[RefundAnswer]) -> RefundAnswer:
    """Of the answers about several refunds the one that matters: the first that failed, or else was not made, or else the last."""
    for is_worst in (lambda one: isinstance(one, RefundFailed), lambda one: not isinstance(one, Refunded)):
        if (found := next(filter(is_worst, answers), None)) is not None:
            return found
    return answers[-1]


class GatewayEndpoint(StrEnum):
    """Where an adapter sends the further requests of a call."""

    RETRIEVE = "retrieve"
    SEARCH = "search"
    LIST_REFUNDS = "list_refunds"
    LIST_DISPUTES = "list_disputes"


T = TypeVar("T")


class FollowUp(Protocol):
    """Makes a further request of a call in its turn, and slows all calls if it is answered 429."""

    async def __call__(self, endpoint: GatewayEndpoint, request: Callable[[], Awaitable[T]]) -> T | Limited: ...


async def at_once(endpoint: GatewayEndpoint, request: Callable[[], Awaitable[T]]) -> T | Limited:  # noqa: ARG001 - it waits for none
    """Makes a further request without waiting, for who calls the gateway now and then."""
    return await request()


class Gateway(Protocol):
    """A card gateway. `key` is an idempotency key of ours. The same key always comes with the same parameters."""

    async def tokenise(self, card: Card, *, key: str) -> TokeniseAnswer:
        """Exchange a card for the gateway's token."""
        ...

    async def find(self, sought: Sought) -> FindAnswer:
        """Look for a payment with our payment id. Whatever the gateway has of it counts, in any state.

        `NotFound` may overlook what was made within the last minutes. `Refused` means that it has one that this service must not confirm.
        """
        ...

    async def prepare(self, order: Order, *, key: str) -> PrepareAnswer:
        """Create the payment unconfirmed, with our payment id and invoice id in its metadata."""
        ...

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> ExecuteAnswer:
        """Confirm exactly this payment, with no customer present. It charges at most once, however often and by whom it is confirmed."""
        ...

    async def inquire(self, gateway_id: str) -> ChargeAnswer:
        """Ask what the gateway knows about this payment now, and about its refunds if it has any."""
        ...

    async def cancel(self, gateway_id: str, *, key: str) -> ChargeAnswer:
        """Cancel the payment for good. If it has succeeded, the answer is `Captured`."""
        ...

    async def refund(self, gateway_id: str, order: RefundOrder, *, key: str) -> RefundAnswer:
        """Give an amount of this payment back, with our ids in the refund's metadata."""
        ...

    async def inquire_refund(self, gateway_id: str, *refund_ids: UUID) -> RefundAnswer:
        """Ask what the gateway knows about these refunds of ours of this payment, and what is left to give back.

        The answer is about the first that failed, or else the first that was not made, or else the last.
        """
        ...

    async def owner(self, gateway_id: str) -> OwnerAnswer:
        """Ask for which payment of ours this payment was made, or the payment of this refund."""
        ...

    def pace_by(self, follow_up: FollowUp) -> None:
        """Make further requests by `follow_up`, and those of `owner`. The first request of any other call has had its turn."""
        ...

    async def check(self) -> CheckAnswer:
        """Ask whether the gateway takes this service's requests. It changes nothing there."""
        ...

    async def close(self) -> None:
        """Close the connections to the gateway."""
        ...
