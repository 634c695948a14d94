"""What a dead letter would charge, and since when it waits."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from services.staff.charges import OLD_AFTER, charge_of, read_body, with_facts
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus
from services.staff.desk.said import said
from services.staff.story import Named
from shared.contracts.invoice import PayInvoice
from shared.contracts.schemas import examples_of
from shared.ids import new_id

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def letter(time: str | None) -> DeadLetter:
    event = {"specversion": "1.0", "id": str(new_id()), "type": PayInvoice.wire_name, "source": "/t"}
    event |= {"time": time} if time else {}
    body = json.dumps({**event, "data": examples_of(PayInvoice)[0]}).encode()
    return DeadLetter(
        new_id(), "invoice.commands", "remit", "handler_failed", content_type="application/cloudevents+json", body=body
    )


@pytest.mark.parametrize(
    ("time", "since", "is_old"),
    [
        (None, NOW, False),
        ("2026-11-29T11:00:00Z", NOW - timedelta(hours=1), False),
        ("2026-11-27T12:00:00Z", NOW - timedelta(days=2), True),
        ("2027-01-01T00:00:00Z", NOW, False),
    ],
    ids=["its sender says no time", "young", "old", "from a clock that is fast"],
)
def test_a_charge_is_old_by_its_own_time_if_it_has_one(time: str | None, since: datetime, *, is_old: bool) -> None:
    kept = letter(time)
    charge = charge_of(DeadLetterRecord(kept, 0, 1, DeadLetterStatus.OPEN, NOW, NOW))
    assert charge is not None
    assert (charge.since, charge.is_old(NOW + timedelta(minutes=1), OLD_AFTER)) == (since, is_old)
    assert (with_facts(kept, read_body(kept)).asked_at is None) is (time is None)


def test_a_link_to_an_invoice_holds_its_whole_number() -> None:
    (part,) = said((Named("INV/2026#1?a=b", "invoice"),))
    assert (part.text, part.place) == ("INV/2026#1?a=b", "/invoices/INV%2F2026%231%3Fa%3Db")
