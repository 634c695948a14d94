"""What this service asks of a card gateway, and every answer it can get.

The charge is used in two steps so that the gateway fences for us: `prepare` creates a payment that cannot
charge by itself, `execute` confirms exactly that one. An adapter never raises for what a gateway or a network does:
each outcome is one of the answers below, and whatever it cannot place is `Unknown`. Only a bug or a cancellation leaves
an adapter as an exception.
"""

from typing import Protocol
from uuid import UUID

from shared.records import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """One payment to prepare. `amount_minor` is in the minor unit of the ISO 4217 `currency`; `method_token` is the
    gateway's own token.
    """

    payment_id: UUID
    invoice_id: str
    amount_minor: int
    currency: str
    method_token: str


@dataclass(frozen=True, slots=True)
class Card:
    """A card in the clear. Lives only inside this process between decryption and `tokenise`; never shown (see
    `__repr__`), never stored.
    """

    number: str
    exp_month: int
    exp_year: int

    def __repr__(self) -> str:
        return "Card(****)"


# Answers. `evidence` is a short redacted text for a person: HTTP status, the gateway's request id, its words.


@dataclass(frozen=True, slots=True)
class Tokenised:
    method_token: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The gateway holds an unconfirmed payment under `gateway_id`; nothing is charged."""

    gateway_id: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway understood the request and will never do it (a bad token, an amount it does not take). Nothing was
    charged.
    """

    code: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Captured:
    gateway_id: str
    amount_minor: int
    currency: str
    receipt_number: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The bank said no. The payment stays confirmable at the gateway until it is cancelled there."""

    code: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """It exists there and was never confirmed: nothing is charged yet, a confirm on its way could still charge it."""

    evidence: str


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The customer would have to act (3-D Secure); there is no customer here."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Processing:
    evidence: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Cancelled there for good: no confirm can charge it any more."""

    evidence: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The gateway does not know this id."""

    evidence: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The gateway did not take the request (429, connection refused): safe to send again, after `retry_after_s` if it
    said so.
    """

    evidence: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Sent, and no readable answer (timeout, reset, 5xx, a conflict, rubbish): it may or may not have happened."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """The whole amount went back."""

    refund_id: str
    evidence: str


@dataclass(frozen=True, slots=True)
class RefundPending:
    refund_id: str
    evidence: str


@dataclass(frozen=True, slots=True)
class RefundFailed:
    code: str
    evidence: str


@dataclass(frozen=True, slots=True)
class NoRefund:
    """The gateway knows the payment and holds no refund of it."""

    evidence: str


TokeniseAnswer = Tokenised | Refused | NotSent | Unknown
PrepareAnswer = Prepared | Refused | NotSent | Unknown
ChargeAnswer = (
    Captured | Declined | Unconfirmed | ActionRequired | Processing | Cancelled | NotFound | NotSent | Unknown
)
RefundAnswer = Refunded | RefundPending | RefundFailed | NoRefund | NotFound | NotSent | Unknown


class Gateway(Protocol):
    """Keys are idempotency keys of ours: the same key always comes with the same parameters."""

    async def tokenise(self, card: Card, *, key: str) -> TokeniseAnswer:
        """Exchange a card for the gateway's token."""
        ...

    async def prepare(self, order: Order, *, key: str) -> PrepareAnswer:
        """Create the payment unconfirmed, our payment id and invoice id in its metadata."""
        ...

    async def execute(self, gateway_id: str, *, key: str) -> ChargeAnswer:
        """Confirm exactly this payment. However often and by whomever it is confirmed, it charges at most once."""
        ...

    async def inquire(self, gateway_id: str) -> ChargeAnswer:
        """What the gateway knows of this payment now."""
        ...

    async def cancel(self, gateway_id: str, *, key: str) -> ChargeAnswer:
        """Cancel for good. One that has succeeded answers `Captured`."""
        ...

    async def refund(self, gateway_id: str, *, key: str) -> RefundAnswer:
        """Give the whole captured amount back."""
        ...

    async def inquire_refund(self, gateway_id: str) -> RefundAnswer:
        """What the gateway knows of the refund of this payment."""
        ...

    async def close(self) -> None: ...
