"""What services stored as JSON: the one place of the audit that knows which form each body must have.

The check `bodies_readable` tells of every body that has not its form. For all other checks such a body says nothing: they ask for bodies
here, and so find in one whatever its form promises. SQL compares members of a body as texts, since a cast ends the statement.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.audit.align import StoredRow
from services.audit.finding import Tally
from services.audit.stores import Stores, read_json
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.contracts.mistakes import words
from shared.contracts.times import read_time

# -- forms -----------------------------------------------------------------------------------------------------------------------------


class Form:
    """What a body must be, as a type. Members that it does not name may be there as well."""

    def __init__(self, type_: Any) -> None:
        self.type = type_

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)

    def mistake(self, body: Any) -> str | None:
        """What is wrong with the body, in words; None if it has this form."""
        try:
            self._adapter.validate_python(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            return f"{place} {words(first)}" if place else words(first)
        return None

    def read(self, body: Any, otherwise: Any) -> Any:
        """The body if it has this form."""
        return body if self.mistake(body) is None else otherwise


Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Flag = Annotated[bool, Field(strict=True)]
Id = UUID
Time = Annotated[str, Field(strict=True), AfterValidator(read_time)]


class _Body(BaseModel):
    """A member with a default may be absent; null is something else."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


class _Method(_Body):
    kind: Text
    fingerprint: Text


class _Issued(_Body):
    customer_id: Text
    amount_minor: Whole
    currency: Text


class _OfPayment(_Body):
    payment_id: Id


class _PaymentRequested(_OfPayment):
    amount_minor: Whole
    currency: Text
    method: _Method


class _Paid(_OfPayment):
    amount_minor: Whole
    currency: Text
    receipt_number: Text


class _PaymentFailed(_OfPayment):
    outcome: Literal["declined", "not_charged"]
    reason: Text
    advice: Text | None = None


class _Reason(_Body):
    reason: Text


class _SettlementRejected(_OfPayment, _Reason):
    pass


class _OfRefund(_OfPayment):
    refund_id: Id


class _RefundRequested(_OfRefund):
    amount_minor: Whole | None
    currency: Text
    reason: Text
    requested_by: Text | None


class _Refunded(_OfRefund):
    amount_minor: Whole
    currency: Text
    refunded_minor: Whole
    version: Whole


class _RefundFailed(_OfRefund):
    amount_minor: Whole | None
    currency: Text
    refunded_minor: Whole
    reason: Text
    version: Whole


class _RefundRejected(_OfRefund):
    reason: Text
    requested_by: Text


EVENTS: Final[Mapping[str, Form]] = {
    "Issued": Form(_Issued),
    "PaymentRequested": Form(_PaymentRequested),
    "Paid": Form(_Paid),
    "PaymentFailed": Form(_PaymentFailed),
    "PaymentInDoubt": Form(_OfPayment),
    "Voided": Form(_Reason),
    "SettlementRejected": Form(_SettlementRejected),
    "RefundRequested": Form(_RefundRequested),
    "Refunded": Form(_Refunded),
    "RefundFailed": Form(_RefundFailed),
    "RefundRejected": Form(_RefundRejected),
}
"""The data of an invoice's stored events, by the name of the event."""
OBJECT: Final = Form(dict[str, Any])
"""The form of what no check looks into, and of kinds that are not known here: other checks tell of those."""


class RefundOfInvoice(_Body):
    """A refund in the row of an invoice."""

    refund_id: Id
    asked_minor: Whole | None
    status: Literal["pending", "refunded", "failed"]
    refunded_minor: Whole
    version: Whole


REFUNDS_OF_INVOICE: Final = Form(list[RefundOfInvoice] | None)


class _Envelope(_Body):
    id: Text
    type: Text
    correlationid: Text
    causationid: Id
    time: Time = ""
    data: dict[str, Any]


_ENVELOPE: Final = Form(_Envelope)
_ID: Final = Form(Id)
_OUTCOMES: Final = {name: Form(contract) for name, contract in BY_WIRE_NAME.items()}


class _Dispute(_Body):
    status: Text


class Side(_Body):
    """What the gateway said of a payment, in its row."""

    answer: Text
    captured_minor: Whole | None
    refunded_minor: Whole | None
    currency: Text | None
    disputed: Flag
    dispute: _Dispute | None = None
    lost_minor: Whole = 0


SIDE: Final = Form(Side | None)
"""What the gateway said of a payment."""


class SagaRefund(_Body):
    """A refund that a saga remembers."""

    refund_id: Id
    status: Literal["asked", "in_doubt", "failed", "made", "unmade"]
    version: Whole
    asked_minor: Whole | None
    amount_minor: Whole | None
    currency: Text
    reason: Text = ""
    code: Text | None = None
    is_recorded: Flag = False
    decided_by: Text | None = None


REFUNDS_OF_SAGA: Final = Form(list[SagaRefund] | None)


class _Attempt(_Body):
    at: Time
    step: Text
    answer: Text
    evidence: Text


class _ShownSide(_Body):
    answer: Text
    captured_minor: Whole | None = None
    refunded_minor: Whole | None = None
    currency: Text | None = None
    disputed: Flag = False
    dispute: _Dispute | None = None
    lost_minor: Whole | None = None


class _Decided(_Body):
    status: Text = ""
    by: Text | None
    version: Whole


class _Case(_Body):
    attempts: list[_Attempt]
    refusals: list[dict[str, Any]] = []
    decision: dict[str, Any] | None = None
    inquiry: Whole = 0
    settled_as: Text | None = None
    gateway: _ShownSide | None = None
    refunds: list[dict[str, Any]] = []
    decided: _Decided | None = None
    found_captured: Whole = 0
    found_missing: Whole = 0
    noted_version: Whole = 0


CASE: Final = Form(_Case)
"""What staff are shown of a case."""


class _HeardAttempt(_Body):
    at: Time
    step: Text
    answer: Text


class _HeardRefund(_Body):
    id: Text
    amount_minor: Whole | None
    left_minor: Whole


class Facts(_Body):
    """What staff keep of a message."""

    customer_id: Text = ""
    amount_minor: Whole = 0
    currency: Text = ""
    reason: Text = ""
    advice: Text = ""
    outcome: Text = ""
    version: Whole = 0
    late: Flag = False
    receipt_number: Text = ""
    reference_code: Text = ""
    gateway_id: Text = ""
    refund_id: Text = ""
    refunded_minor: Whole = 0
    settled_as: Text = ""
    state: Text = ""
    number: Whole = 0
    decided_by: Text = ""
    requested_by: Text = ""
    resolution: Text = ""
    expected_version: Whole = 0
    evidence: Text = ""
    command_id: Id | None = None
    command_type: Text = ""
    look: Flag = False
    refund: _HeardRefund = _HeardRefund(id="", amount_minor=None, left_minor=0)
    attempts: list[_HeardAttempt] = []


FACTS: Final = Form(Facts)
"""What staff keep of a message that they heard."""


class _PurgedRow(_Body):
    table: Text
    key: Text
    left_sha256: Text = ""


class _Purge(_Body):
    database: Text = ""
    rows: list[_PurgedRow]


PURGE: Final = Form(_Purge)
"""The details of an entry of the journal about a purge."""

# -- reading ---------------------------------------------------------------------------------------------------------------------------

_PURGED = (b"[card", b"card-data-removed")
"""What a purge leaves in place of what it took out. The journal tells of it."""


def is_purged(body: bytes) -> bool:
    """Whether `remit purge` took something out of the message."""
    return any(left in body for left in _PURGED)


def event_of(type_: str, body: bytes) -> dict[str, Any]:
    """The message of an outcome as it was published. Empty if it has not its form, or if `remit purge` took something out of it."""
    if is_purged(body):
        return {}
    event = read_json(body)
    found: dict[str, Any] = event if _outcome_mistake(type_, event) is None else {}
    return found


def _outcome_mistake(type_: str, event: Any) -> str | None:
    return _ENVELOPE.mistake(event) or _OUTCOMES.get(type_, OBJECT).mistake(event["data"])


def cause_of(body: bytes) -> UUID | None:
    """The id of the message that brought about an outcome. What a purge takes out of the body is never this."""
    event = read_json(body)
    cause = event.get("causationid") if isinstance(event, dict) else None
    return UUID(cause) if _ID.mistake(cause) is None else None


def event_data(event: StoredRow) -> dict[str, Any] | None:
    """The data of an invoice's event, which is named `event`; None if it has not its form."""
    data: dict[str, Any] | None = EVENTS.get(event["event"], OBJECT).read(event["data"], None)
    return data


# -- the check -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BodyColumn:
    """A column with bodies. `about` is which thing each is of, `place` what it is there, and `kind` what it is of its kind, as SQL."""

    service: str
    table: str
    name: str
    about: str
    place: str
    mistake: Callable[[str, Any], str | None]
    kind: str = "''"

    @property
    def query(self) -> str:
        named = f"{self.about} AS about, {self.place} AS place, {self.kind} AS kind, {self.name} AS body"
        return f"SELECT {named} FROM {self.table} WHERE {self.name} IS NOT NULL"  # noqa: S608 - constants


def _always(form: Form) -> Callable[[str, Any], str | None]:
    return lambda _, body: form.mistake(body)


def _by_kind(forms: Mapping[str, Form]) -> Callable[[str, Any], str | None]:
    return lambda kind, body: forms.get(kind, OBJECT).mistake(body)


def _published(type_: str, body: bytes) -> str | None:
    return None if is_purged(body) else _outcome_mistake(type_, read_json(body))


_EVENT, _NUMBER = "split_part(type, '.', 1)", "'outcome ' || version"
COLUMNS: Final = (
    BodyColumn("invoice", "events", "data", "stream_id", "'event ' || version", _by_kind(EVENTS), _EVENT),
    BodyColumn("invoice", "invoices", "refunds", "invoice_id", "'its refunds'", _always(REFUNDS_OF_INVOICE)),
    BodyColumn("payment_gateway", "outcomes", "body", "payment_id", _NUMBER, _published, "type"),
    BodyColumn("payment_gateway", "payments", "gateway_side", "payment_id", "'what the gateway said'", _always(SIDE)),
    BodyColumn("saga", "sagas", "refunds", "payment_id", "'the refunds of its saga'", _always(REFUNDS_OF_SAGA)),
    BodyColumn("staff", "cases", "details", "payment_id", "'its case'", _always(CASE)),
    BodyColumn("staff", "messages", "facts", "id", "'what staff heard'", _always(FACTS)),
    BodyColumn("staff", "journal", "details", "id", "'entry ' || position", _by_kind({"purge": PURGE}), "action"),
)
"""Every stored body into which a check looks, but for dead letters: what those hold may have any form."""


async def bodies_readable(counted: Tally, stores: Stores) -> None:
    """Every stored body has the members and the types of its kind."""
    for column in COLUMNS:
        if stores.has(column.service):
            async for row in stores.databases[column.service].rows(column.query):
                counted.look()
                if (why := column.mistake(row["kind"], row["body"])) is not None:
                    counted.breach(row["about"], f"{row['place']}: {why}")
