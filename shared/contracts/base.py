"""The types that all contracts share.

Readers ignore unknown fields (`extra="ignore"`). Writers add none: the published JSON Schemas say `additionalProperties: false`.
Numbers are strict: `"100"`, `100.0` and `true` are not amounts.
"""

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from shared.contracts.currencies import ISO_4217

AMOUNT_MINOR_MAX = 999_999_999_999
"""Ten thousand million in a currency with two decimals. A bigint holds the sum of 9 million such invoices, and a card number is longer."""

MINOR_UNIT = "in the minor unit of the currency"
NAME_LENGTH_MAX = 255
"""In characters. An e-mail address has at most 254."""
CODE_LENGTH_MAX = 64
TEXT_LENGTH_MAX = 1_000
EVIDENCE_LENGTH_MAX = 4_000


def _known_currency(code: str) -> str:
    if code not in ISO_4217:
        raise ValueError("is not an ISO 4217 currency code")
    return code


AmountMinor = Annotated[int, Field(strict=True, ge=1, le=AMOUNT_MINOR_MAX, description=MINOR_UNIT)]
AmountOrZero = Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MINOR_MAX, description=MINOR_UNIT)]
Currency = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{3}$"), AfterValidator(_known_currency)]
Name = Annotated[
    str,
    StringConstraints(
        strict=True,
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+$",
        max_length=NAME_LENGTH_MAX,
    ),
]
"""An identifier that another system chose: an invoice number such as `INV/2026/00001` or `#1001`, a customer such as an e-mail address.

It is compared as it is. Control characters, line breaks, and what turns the direction of writing are refused: nobody chose them, and on a
screen they show another identifier than the one that is stored.
"""
Code = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_.:-]+$", max_length=CODE_LENGTH_MAX)]
"""A code for programs: a reason code, a decline code."""


def added(description: str) -> Any:
    """A member that a later version added. It is left out where it has no value, so that an earlier message keeps its bytes."""
    return Field(default=None, description=description, exclude_if=lambda value: value is None)


ADVICE: Any = added("the gateway's code for what can be done about the reason, if it gave one")
REST: Any = added("how much; absent: all that is left, as the gateway knows it")
Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=TEXT_LENGTH_MAX)]
LongText = Annotated[
    str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=EVIDENCE_LENGTH_MAX)
]
Version = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]

Kind = Literal["command", "event", "answer"]


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Contract(Part):
    """The data of one message. Each subclass has a wire name with a version, written by hand."""

    wire_name: ClassVar[str]
    kind: ClassVar[Kind]
    exchange: ClassVar[str]

    def subject(self) -> str:
        """The CloudEvents `subject`: the id of what the message is about."""
        raise NotImplementedError


class AboutInvoice(Contract):
    invoice_id: Name

    def subject(self) -> str:
        return self.invoice_id


class AboutPayment(AboutInvoice):
    payment_id: UUID


class PaymentAmount(AboutPayment):
    amount_minor: AmountMinor
    currency: Currency
