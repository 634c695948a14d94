"""Every event is stored, read back, and announced as its specification says."""

import json
from typing import get_args

import pytest

from services.invoice.domain import Event, Issued, reference_code
from services.invoice.handlers import announce
from services.invoice.stored_events import STORED_AS, UPCASTERS, dump, load
from shared.contracts import invoice as messages
from tests.unit.invoice.invoices import CARD, MONEY, OTHER, REQUESTED, THIS, EventSpecification
from tests.unit.invoice.specification import EVENTS

each_event = pytest.mark.parametrize("specified", EVENTS, ids=lambda specified: specified.stored_as)


# -- nothing is forgotten --------------------------------------------------------------------------------------------------------------


def test_every_event_is_specified() -> None:
    lacking = sorted(event.__name__ for event in set(get_args(Event)) - {type(one.event) for one in EVENTS})
    assert not lacking, (
        f"{', '.join(lacking)}: write an EventSpecification into EVENTS, in the file of the command that brings it about: "
        "tests/unit/invoice/test_<command>.py"
    )


def test_every_name_that_was_ever_written_is_specified() -> None:
    lacking = sorted({*STORED_AS.values(), *UPCASTERS} - {one.stored_as for one in EVENTS})
    assert not lacking, (
        f"write an EventSpecification for {', '.join(lacking)} into tests/unit/invoice/test_<command>.py"
    )


def test_every_specified_name_is_read_by_somebody() -> None:
    unread = sorted({one.stored_as for one in EVENTS} - {*STORED_AS.values(), *UPCASTERS})
    assert not unread, (
        f"services/invoice/stored_events.py reads no {', '.join(unread)} any more. History that was written stays readable: "
        "add an upcaster, or give the event its stored name in STORED_AS"
    )


# -- history ---------------------------------------------------------------------------------------------------------------------------


@each_event
def test_what_was_written_reads_for_ever(specified: EventSpecification) -> None:
    assert load(specified.stored_as, specified.stored) == specified.event


@each_event
def test_an_event_is_written_in_its_newest_form(specified: EventSpecification) -> None:
    name, data = dump(specified.event)
    if specified.stored_as not in UPCASTERS:
        assert (name, json.loads(json.dumps(data, default=str))) == (specified.stored_as, specified.stored)


def test_a_name_that_nobody_reads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Issued\.99"):
        load("Issued.99", {"customer_id": "C-1", **MONEY})


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


# -- what the world hears --------------------------------------------------------------------------------------------------------------


@each_event
def test_an_event_is_announced(specified: EventSpecification) -> None:
    if specified.announced is not None:
        assert announce(specified.event, "INV-1", None) == specified.announced


def test_every_event_is_announced_in_its_newest_form() -> None:
    silent = [one.stored_as for one in EVENTS if one.announced is None and one.stored_as not in UPCASTERS]
    assert not silent, f"say in `announced` what the world hears of {', '.join(silent)}"


def test_a_request_carries_the_card_that_history_does_not_keep() -> None:
    requested = announce(REQUESTED, "INV-1", CARD)
    assert requested == messages.InvoicePaymentRequested(invoice_id="INV-1", payment_id=THIS, method=CARD, **MONEY)


def test_a_reference_code_stays_what_it_was_when_a_customer_wrote_it_down() -> None:
    assert (reference_code(THIS), reference_code(OTHER)) == ("PF-WWFJVY5V", "PF-BA7B5Q3A")
