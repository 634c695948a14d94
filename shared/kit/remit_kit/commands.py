"""Commands as values: made once, kept, and sent as often as it takes, always with the same id and the same bytes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self
from uuid import UUID, uuid4, uuid5  # noqa: TID251 - a sender draws its ids

SOURCE = "/remit-kit"
"""The CloudEvents `source` of commands whose sender names none."""

CommandName = Literal["IssueInvoice", "PayInvoice", "VoidInvoice", "RefundInvoice"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Store `to_json()` in your own transaction before you send it: after a crash you send the same command again.

    It may hold a token or an encrypted card, so it does not show its data.
    """

    id: UUID
    name: CommandName
    data: Mapping[str, Any] = field(repr=False)
    source: str = SOURCE
    time: str = ""

    @classmethod
    def new(cls, name: CommandName, data: Mapping[str, Any], *, command_id: UUID | None, source: str = SOURCE) -> Self:
        """A command of this moment. Without `command_id` it gets a new id. What is None is left out of the data."""
        given = {key: value for key, value in data.items() if value is not None}
        now = datetime.now(UTC).isoformat()  # noqa: TID251 - a sender has a clock of its own
        return cls(command_id or new_id(), name, given, source, now)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The command of which `to_json` made this text."""
        event = json.loads(text)
        name: CommandName = event["type"].split(".")[-2]
        return cls(UUID(event["id"]), name, event["data"], event["source"], event["time"])

    @property
    def type(self) -> str:
        """The wire name."""
        return f"remit.invoice.{self.name}.v1"

    @property
    def correlation_id(self) -> str:
        """What its answer carries. Another command to which somebody gave the same id has another one."""
        return str(uuid5(self.id, self.to_json()))

    @property
    def subject_id(self) -> UUID:
        """The id of the payment or the refund that the command asks for. Raises ValueError if it asks for neither."""
        found = self.data.get("payment_id") or self.data.get("refund_id")
        if found is None:
            raise ValueError(f"{self.name} has an answer and no outcome after it")
        return UUID(found)

    def to_json(self) -> str:
        """The message as it is sent: CloudEvents JSON."""
        return json.dumps(
            {
                "specversion": "1.0",
                "id": str(self.id),
                "type": self.type,
                "source": self.source,
                "time": self.time,
                "datacontenttype": "application/json",
                "data": self.data,
            }
        )


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """What the card gateway gave for a card. A saved card belongs to a `customer` there.

    `details` are texts that the gateway shows: `description`, `statement_descriptor`, `metadata`.
    """

    token: str
    customer: str | None = None
    mandate: str | None = None
    details: Mapping[str, Any] | None = None

    def to_data(self) -> dict[str, Any]:
        return {"kind": "token", **{name: value for name, value in asdict(self).items() if value is not None}}


@dataclass(frozen=True, slots=True, repr=False)
class EncryptedCard:
    """A card that `encrypt_card` encrypted for one payment."""

    jwe: str
    details: Mapping[str, Any] | None = None

    def to_data(self) -> dict[str, Any]:
        return {"kind": "encrypted_card", **{name: value for name, value in asdict(self).items() if value is not None}}


def issue_invoice(
    invoice_id: str,
    *,
    customer_id: str,
    amount_minor: int,
    currency: str,
    command_id: UUID | None = None,
    source: str = SOURCE,
) -> Command:
    """Issue an invoice. `amount_minor` counts the minor unit of the currency: 12500 is 125.00 EUR."""
    data = {"invoice_id": invoice_id, "customer_id": customer_id, "amount_minor": amount_minor, "currency": currency}
    return Command.new("IssueInvoice", data, command_id=command_id, source=source)


def pay_invoice(
    invoice_id: str,
    *,
    amount_minor: int,
    currency: str,
    method: Token | EncryptedCard,
    payment_id: UUID | None = None,
    command_id: UUID | None = None,
    source: str = SOURCE,
) -> Command:
    """Pay the whole invoice. Every attempt to pay needs a `payment_id` of its own; without one it gets a new one."""
    data = {
        "invoice_id": invoice_id,
        "payment_id": str(payment_id or new_id()),
        "amount_minor": amount_minor,
        "currency": currency,
        "method": method.to_data(),
    }
    return Command.new("PayInvoice", data, command_id=command_id, source=source)


def void_invoice(invoice_id: str, *, reason: str, command_id: UUID | None = None, source: str = SOURCE) -> Command:
    """Void the invoice, so that it can never be paid."""
    return Command.new(
        "VoidInvoice", {"invoice_id": invoice_id, "reason": reason}, command_id=command_id, source=source
    )


def refund_invoice(
    invoice_id: str,
    *,
    currency: str,
    reason: str,
    amount_minor: int | None = None,
    refund_id: UUID | None = None,
    command_id: UUID | None = None,
    source: str = SOURCE,
) -> Command:
    """Give back what paid the invoice, or `amount_minor` of it. Without `refund_id` the refund gets a new id."""
    data = {
        "invoice_id": invoice_id,
        "refund_id": str(refund_id or new_id()),
        "amount_minor": amount_minor,
        "currency": currency,
        "reason": reason,
    }
    return Command.new("RefundInvoice", data, command_id=command_id, source=source)


def new_id() -> UUID:
    """An id that nobody else has."""
    return uuid4()
