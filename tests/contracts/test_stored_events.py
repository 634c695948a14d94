"""Stored events: an example of every name and version ever written, which reads to its event for ever. An example never changes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest

from services.audit.fold import fold
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
    replay,
)
from services.invoice.stored_events import UPCASTERS, StoredName, dump, load

GOLDEN = Path(__file__).parent / "stored_events"
ID = UUID("018f3c5e-0000-7000-8000-000000000001")

EXPECTED: dict[str, Event] = {
    "Issued.1": Issued("C-1", 1250, "EUR"),
    "PaymentRequested.1": PaymentRequested(ID, 1250, "EUR", MethodSummary("encrypted_card", "9f86d081884c7d65")),
    "Paid.1": Paid(ID, 1250, "EUR", "ch_1"),
    "PaymentFailed.1": PaymentFailed(ID, "declined", "insufficient_funds"),
    "PaymentInDoubt.1": PaymentFlaggedInDoubt(ID),
    "Voided.1": Voided("wrong address"),
    "SettlementRejected.1": SettlementRejected(ID, "payment_not_awaited"),
}
"""What each golden file reads to."""

HISTORIES = (
    ("Issued.1", "PaymentRequested.1", "PaymentInDoubt.1", "Paid.1", "SettlementRejected.1"),
    ("Issued.1", "PaymentRequested.1", "PaymentFailed.1", "Voided.1"),
)
"""Every name that is written today, in an order in which it may happen."""


def golden(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return data


def missing(wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    return sorted(set(wanted) - set(there))


# -- nothing is forgotten --------------------------------------------------------------------------------------------------------------


def test_every_stored_name_has_a_golden_file() -> None:
    lacking = missing((*StoredName, *UPCASTERS), (path.stem for path in GOLDEN.glob("*.json")))
    assert lacking == [], "write an example of each to tests/contracts/stored_events/NAME.json"


def test_every_golden_file_is_read_by_somebody() -> None:
    unread = missing((path.stem for path in GOLDEN.glob("*.json")), (*StoredName, *UPCASTERS))
    assert unread == [], "history that was written stays readable: add an upcaster to services/invoice/stored_events.py"


def test_every_golden_file_has_its_expected_event() -> None:
    lacking = missing((path.stem for path in GOLDEN.glob("*.json")), EXPECTED)
    assert lacking == [], "say in EXPECTED of tests/contracts/test_stored_events.py what each reads to"


def test_every_event_of_the_invoice_is_stored_under_a_name() -> None:
    lacking = missing(
        (event.__name__ for event in get_args(Event)), (type(event).__name__ for event in EXPECTED.values())
    )
    assert lacking == [], (
        "give each a name in services/invoice/stored_events.py and an example in tests/contracts/stored_events"
    )


# -- what was written reads for ever ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_file_reads_to_its_event(name: str) -> None:
    assert load(name, golden(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", StoredName)
def test_an_event_is_written_as_its_newest_golden_file(name: StoredName) -> None:
    written_name, data = dump(EXPECTED[name])
    assert (written_name, json.loads(json.dumps(data, default=str))) == (name, golden(name))


def test_a_name_that_nobody_reads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Issued\.99"):
        load("Issued.99", golden("Issued.1"))


def test_an_old_form_is_brought_to_the_present_one_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """How an upcaster is written. Here the first form of `Issued` had an amount in whole euros, and the second no currency."""
    monkeypatch.setitem(
        UPCASTERS,
        "Issued.-1",
        lambda data: ("Issued.0", {"customer_id": data["customer_id"], "amount_minor": 100 * data["euros"]}),
    )
    monkeypatch.setitem(UPCASTERS, "Issued.0", lambda data: ("Issued.1", {**data, "currency": "EUR"}))
    assert load("Issued.-1", {"customer_id": "C-1", "euros": 12}) == Issued("C-1", 1200, "EUR")
    assert load("Issued.0", {"customer_id": "C-1", "amount_minor": 1200}) == Issued("C-1", 1200, "EUR")


# -- the audit reads the same history --------------------------------------------------------------------------------------------------


def test_every_stored_name_is_part_of_a_history() -> None:
    lacking = missing(StoredName, (name for history in HISTORIES for name in history))
    assert lacking == [], "add each to HISTORIES of tests/contracts/test_stored_events.py"


@pytest.mark.parametrize("history", HISTORIES)
def test_the_audit_folds_what_is_stored_as_the_invoice_does(history: tuple[str, ...]) -> None:
    try:
        audited = fold((name, golden(name)) for name in history)
    except ValueError as error:
        pytest.fail(f"services/audit/fold.py does not fold what the invoice stores: {error}")
    invoice = replay("INV-1", (load(name, golden(name)) for name in history))
    assert (audited.status, audited.version, audited.receipt_number) == (
        invoice.status,
        invoice.version,
        invoice.receipt_number,
    )
