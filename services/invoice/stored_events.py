"""Stored events are not contracts: how this service writes its history, and reads all of it, old forms included."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any
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

_TYPES: dict[str, type[Event]] = {
    "Issued.1": Issued,
    "PaymentRequested.1": PaymentRequested,
    "Paid.1": Paid,
    "PaymentFailed.1": PaymentFailed,
    "PaymentInDoubt.1": PaymentFlaggedInDoubt,
    "Voided.1": Voided,
    "SettlementRejected.1": SettlementRejected,
}
_FIELDS = {event: tuple(field.name for field in fields(event)) for event in _TYPES.values()}
_NAMES = {event: name for name, event in _TYPES.items()}

UPCASTERS: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {}
"""Old stored name -> function from its data to the next name and data. Empty until a stored event changes its form."""


def dump(event: Event) -> tuple[str, dict[str, Any]]:
    """The stored name and data of an event."""
    return _NAMES[type(event)], {name: _plain(getattr(event, name)) for name in _FIELDS[type(event)]}


def _plain(value: Any) -> Any:
    return {"kind": value.kind, "fingerprint": value.fingerprint} if isinstance(value, MethodSummary) else value


def load(name: str, data: dict[str, Any]) -> Event:
    """The event behind a stored name and data, brought to its present form first."""
    while (upcast := UPCASTERS.get(name)) is not None:
        name, data = upcast(data)
    values = dict(data)
    if "payment_id" in values:
        values["payment_id"] = UUID(values["payment_id"])
    if "method" in values:
        values["method"] = MethodSummary(**values["method"])
    return _TYPES[name](**values)
