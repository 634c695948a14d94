"""The types that all contracts share.

Readers ignore unknown members (`extra="ignore"`). Writers add none.
Whatever a JSON Schema can say holds of what is written, before anything is changed of it: a length counts the white space around a text.
Numbers are strict: `"100"`, `100.0` and `true` are not amounts. So are truth values and times.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.json_schema import WithJsonSchema

from shared.contracts.currencies import ISO_4217
from shared.contracts.times import RFC_3339, read_time

AMOUNT_MINOR_MAX = 999_999_999_999
"""Ten thousand million in a currency with two decimals. A bigint holds the sum of 9 million such invoices, and a card number is longer."""

MINOR_UNIT = "in the minor unit of the currency"
NAME_LENGTH_MAX = 255
"""In characters. An e-mail address has at most 254."""
CODE_LENGTH_MAX = 64
TEXT_LENGTH_MAX = 1_000
EVIDENCE_LENGTH_MAX = 4_000
CORRELATION_LENGTH_MAX = 128


def _known_currency(code: str) -> str:
    if code not in ISO_4217:
        raise ValueError("is not an ISO 4217 currency code")
    return code


def _in_its_one_spelling(value: object) -> object:
    """A UUID can also be written without hyphens, in braces and as a URN. Here it has one text only."""
    if isinstance(value, str) and len(value) != UUID_LENGTH:
        raise ValueError(NO_UUID)
    return value


def _as_time(value: object) -> object:
    if isinstance(value, str):
        return read_time(value)
    if isinstance(value, datetime):
        return value
    raise ValueError("must be a text")


def stripped(text: str) -> str:
    """The text without the white space around it."""
    return text.strip(WHITE_SPACE)


UUID_LENGTH = 36
NO_UUID = "must be a UUID such as 0190a5c4-7f2e-7c1b-9b1e-2d4f6a8b0c1d"
WHITE_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
"""What Unicode calls white space, one by one: what `\\s` means differs between languages."""
NOT_BLANK = f"[^{WHITE_SPACE}]"
NAME = "^[^\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+$"
CODE = "^[A-Za-z0-9_.:-]+$"
SHA_256 = "^[0-9a-f]{64}$"

AmountMinor = Annotated[int, Field(strict=True, ge=1, le=AMOUNT_MINOR_MAX, description=MINOR_UNIT)]
AmountOrZero = Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MINOR_MAX, description=MINOR_UNIT)]
Currency = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_known_currency),
    WithJsonSchema({"type": "string", "enum": sorted(ISO_4217), "description": "an ISO 4217 currency code"}),
]
Id = Annotated[UUID, BeforeValidator(_in_its_one_spelling)]
"""An id of a command, a payment or a refund."""
Flag = Annotated[bool, Field(strict=True)]
Time = Annotated[
    datetime,
    BeforeValidator(_as_time),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": RFC_3339}),
]
Name = Annotated[str, StringConstraints(strict=True, pattern=NAME, max_length=NAME_LENGTH_MAX)]
"""An identifier that another system chose: an invoice number such as `INV/2026/00001` or `#1001`, a customer such as an e-mail address.

It is compared as it is. Control characters, line breaks, and what turns the direction of writing are refused: nobody chose them, and on a
screen they show another identifier than the one that is stored.
"""
Code = Annotated[str, StringConstraints(strict=True, pattern=CODE, max_length=CODE_LENGTH_MAX)]
"""A code for programs: a reason code, a decline code."""
Sha256 = Annotated[str, StringConstraints(strict=True, pattern=SHA_256)]


def known(*codes: type[StrEnum]) -> Any:
    """A code that is one of these, or one that a later version adds. The JSON Schema lists those that there are."""

    def listed(schema: dict[str, Any]) -> None:
        later = {name: schema.pop(name) for name in list(schema)}
        schema["anyOf"] = [
            {"enum": sorted({code.value for enum in codes for code in enum})},
            {**later, "description": "a code that is not listed here; a later version may add some"},
        ]

    return Field(json_schema_extra=listed)


def added(description: str) -> Any:
    """A member that a later version added. It is left out where it has no value, so that an earlier message keeps its bytes."""
    return Field(default=None, description=description, exclude_if=lambda value: value is None)


ADVICE: Any = added("the gateway's code for what can be done about the reason, if it gave one")
REST: Any = added("how much; absent: all that is left, as the gateway knows it")
Text = Annotated[
    str, StringConstraints(strict=True, pattern=NOT_BLANK, max_length=TEXT_LENGTH_MAX), AfterValidator(stripped)
]
LongText = Annotated[
    str, StringConstraints(strict=True, pattern=NOT_BLANK, max_length=EVIDENCE_LENGTH_MAX), AfterValidator(stripped)
]
Version = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]

Kind = Literal["command", "event", "answer"]


class Part(BaseModel):
    """A part of a message."""

    # A service reads and writes a few of all messages: what checks one is built when it is used first.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


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
    payment_id: Id


class PaymentAmount(AboutPayment):
    amount_minor: AmountMinor
    currency: Currency
