"""How this service stores its events, and reads all of them, old forms included. Stored events are not contracts.

An event is stored with the name of its class and a version. A test has an example of every name and version that was ever written. It fails
if a new one has none.

To change the form of a stored event, give its class the next version in `STORED_AS`, and give the old name an entry in `UPCASTERS`. If a
class is renamed, `STORED_AS` keeps the name under which it was stored.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args
from uuid import UUID

from services.invoice.domain import Event, Issued, MethodSummary, PaymentFailed, PaymentFlaggedInDoubt

STORED_AS: dict[type[Event], str] = {event: f"{event.__name__}.1" for event in get_args(Event)} | {
    PaymentFlaggedInDoubt: "PaymentInDoubt.1",
    PaymentFailed: "PaymentFailed.2",
}
"""The name and version with which each event is written today."""

UPCASTERS: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "PaymentFailed.1": lambda data: ("PaymentFailed.2", data | {"advice": None}),
}
"""For each old stored name, the function from its data to the next name and data."""

_EVENTS = {name: event for event, name in STORED_AS.items()}
_IDS = {"payment_id", "refund_id"}
_APART = "owner"
"""Stored in a column of its own: the build before cannot read data that holds it."""
_FIELDS = {event: tuple(field.name for field in fields(event) if field.name != _APART) for event in STORED_AS}


def dump(event: Event) -> tuple[str, dict[str, Any]]:
    """The stored name and data of an event. The owner that `Issued` has is stored beside them."""
    return STORED_AS[type(event)], {name: _plain(getattr(event, name)) for name in _FIELDS[type(event)]}


def load(name: str, data: dict[str, Any], owner: str | None = None) -> Event:
    """The event of a stored name, data and owner. An old form is brought to the present one first.

    Raises ValueError for an unknown name.
    """
    while (upcast := UPCASTERS.get(name)) is not None:
        name, data = upcast(data)
    values = dict(data)
    for id_ in _IDS & values.keys():
        values[id_] = UUID(values[id_])
    if "method" in values:
        values["method"] = MethodSummary(**values["method"])
    if (event := _EVENTS.get(name)) is None:
        raise ValueError(f"no event is stored as {name}")
    return Issued(**values, owner=owner) if event is Issued else event(**values)


def _plain(value: Any) -> Any:
    return {"kind": value.kind, "fingerprint": value.fingerprint} if isinstance(value, MethodSummary) else value
