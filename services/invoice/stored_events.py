"""Stored events are not contracts: how this service writes its history, and reads all of it, old forms included.

To change the form of a stored event, give it the next version in `StoredName`, and the old name an entry in `UPCASTERS`. What was ever
written stays readable: tests/contracts/stored_events holds an example of every name and version.
"""

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from typing import Any, assert_never, get_args
from uuid import UUID

from services.invoice.domain import (
    Event,
    Issued,
    MethodSummary,
    Paid,
    PaymentFailed,
    PaymentFlaggedInDoubt,
    PaymentRequested,
    SettlementRejected,
    Voided,
)


class StoredName(StrEnum):
    """Event and version, as they are written today. A stored name stays what it is when its class is renamed."""

    ISSUED = "Issued.1"
    PAYMENT_REQUESTED = "PaymentRequested.1"
    PAID = "Paid.1"
    PAYMENT_FAILED = "PaymentFailed.1"
    PAYMENT_FLAGGED_IN_DOUBT = "PaymentInDoubt.1"
    VOIDED = "Voided.1"
    SETTLEMENT_REJECTED = "SettlementRejected.1"


UPCASTERS: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {}
"""Old stored name -> function from its data to the next name and data. Empty until a stored event changes its form."""

_FIELDS: dict[type, tuple[str, ...]] = {
    event: tuple(field.name for field in fields(event)) for event in get_args(Event)
}


def dump(event: Event) -> tuple[str, dict[str, Any]]:
    """The stored name and data of an event."""
    return _name(event), {name: _plain(getattr(event, name)) for name in _FIELDS[type(event)]}


def load(name: str, data: dict[str, Any]) -> Event:
    """The event behind a stored name and data, brought to its present form first. Raises ValueError for a name that nothing here reads."""
    while (upcast := UPCASTERS.get(name)) is not None:
        name, data = upcast(data)
    values = dict(data)
    if "payment_id" in values:
        values["payment_id"] = UUID(values["payment_id"])
    if "method" in values:
        values["method"] = MethodSummary(**values["method"])
    return _type(StoredName(name))(**values)


def _name(event: Event) -> StoredName:
    match event:
        case Issued():
            return StoredName.ISSUED
        case PaymentRequested():
            return StoredName.PAYMENT_REQUESTED
        case Paid():
            return StoredName.PAID
        case PaymentFailed():
            return StoredName.PAYMENT_FAILED
        case PaymentFlaggedInDoubt():
            return StoredName.PAYMENT_FLAGGED_IN_DOUBT
        case Voided():
            return StoredName.VOIDED
        case SettlementRejected():
            return StoredName.SETTLEMENT_REJECTED
        case _:
            assert_never(event)


def _type(name: StoredName) -> type[Event]:
    match name:
        case StoredName.ISSUED:
            return Issued
        case StoredName.PAYMENT_REQUESTED:
            return PaymentRequested
        case StoredName.PAID:
            return Paid
        case StoredName.PAYMENT_FAILED:
            return PaymentFailed
        case StoredName.PAYMENT_FLAGGED_IN_DOUBT:
            return PaymentFlaggedInDoubt
        case StoredName.VOIDED:
            return Voided
        case StoredName.SETTLEMENT_REJECTED:
            return SettlementRejected
        case _:
            assert_never(name)


def _plain(value: Any) -> Any:
    return {"kind": value.kind, "fingerprint": value.fingerprint} if isinstance(value, MethodSummary) else value
