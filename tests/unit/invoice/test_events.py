"""Every event is stored, read back, and published as its specification requires."""

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


# -- completeness ------------------------------------------------------------------------------------------------------------------------


def test_every_event_is_specified() -> None:
    lacking = sorted(event.__name__ for event in set(get_args(Event)) - {type(one.event) for one in EVENTS})
    assert not lacking, (
        f"{', '.join(lacking)}: write an EventSpecification into EVENTS, in the file of the command that causes it: "
        "tests/unit/invoice/test_<command>.py"
    )


def test_every_stored_name_is_specified() -> None:
    lacking = sorted({*STORED_AS.values(), *UPCASTERS} - {one.stored_as for one in EVENTS})
    assert not lacking, (
        f"write an EventSpecification for {', '.join(lacking)} into tests/unit/invoice/test_<command>.py"
    )


def test_every_specified_name_can_be_read() -> None:
    unread = sorted({one.stored_as for one in EVENTS} - {*STORED_AS.values(), *UPCASTERS})
    assert not unread, (
        f"services/invoice/stored_events.py reads no {', '.join(unread)} any more. History that was written stays readable: "
        "add an upcaster, or give the event its stored name in STORED_AS"
    )


# -- storage -----------------------------------------------------------------------------------------------------------------------------


@each_event
def test_every_stored_form_is_still_readable(specified: EventSpecification) -> None:
    assert load(specified.stored_as, specified.stored) == specified.event


@each_event
def test_an_event_is_written_in_its_newest_form(specified: EventSpecification) -> None:
    name, data = dump(specified.event)
    if specified.stored_as not in UPCASTERS:
        assert (name, json.loads(json.dumps(data, default=str))) == (specified.stored_as, specified.stored)


def test_an_unknown_stored_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Issued\.99"):
        load("Issued.99", {"customer_id": "C-1", **MONEY})


def test_an_old_form_is_upcast_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example of an upcaster. Here the first form of `Issued` had an amount in whole euros, and the second had no currency."""
    monkeypatch.setitem(
        UPCASTERS,
        "Issued.-1",
        lambda data: ("Issued.0", {"customer_id": data["customer_id"], "amount_minor": 100 * data["euros"]}),
    )
    monkeypatch.setitem(UPCASTERS, "Issued.0", lambda data: ("Issued.1", {**data, "currency": "EUR"}))
    assert load("Issued.-1", {"customer_id": "C-1", "euros": 12}) == Issued("C-1", 1200, "EUR")
    assert load("Issued.0", {"customer_id": "C-1", "amount_minor": 1200}) == Issued("C-1", 1200, "EUR")


# -- publishing --------------------------------------------------------------------------------------------------------------------------


@each_event
def test_an_event_is_announced(specified: EventSpecification) -> None:
    if specified.announced is not None:
        assert announce(specified.event, "INV-1", None) == specified.announced


def test_every_event_is_announced_in_its_newest_form() -> None:
    silent = [one.stored_as for one in EVENTS if one.announced is None and one.stored_as not in UPCASTERS]
    assert not silent, f"tell in `announced` what is published of {', '.join(silent)}"


def test_a_request_carries_the_card_that_events_do_not_keep() -> None:
    requested = announce(REQUESTED, "INV-1", CARD)
    assert requested == messages.InvoicePaymentRequested(invoice_id="INV-1", payment_id=THIS, method=CARD, **MONEY)


def test_a_reference_code_never_changes() -> None:
    assert (reference_code(THIS), reference_code(OTHER)) == ("PF-WWFJVY5V", "PF-BA7B5Q3A")
