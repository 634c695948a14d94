"""Values as text on a terminal."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from deploy.cli import words
from deploy.cli.invoice import InvoiceStatusOption
from services.invoice.domain import InvoiceStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount_minor", "currency", "shown"),
    [(1_250, "EUR", "12.50 EUR"), (7, "JPY", "7 JPY"), (7, "XXX", "7 XXX"), (None, "EUR", ""), (7, None, "")],
)
def test_money_is_in_major_units_where_the_currency_is_known(
    amount_minor: int | None, currency: str | None, shown: str
) -> None:
    assert words.money(amount_minor, currency) == shown


@pytest.mark.parametrize(
    ("type_", "shown"), [("remit.invoice.PayInvoice.v1", "PayInvoice"), ("their.own", "their.own"), (None, "?")]
)
def test_a_type_of_ours_is_shortened(type_: str | None, shown: str) -> None:
    assert words.short_type(type_) == shown


def test_an_id_is_shortened_on_a_narrow_terminal() -> None:
    id_ = UUID("0197b1c4-0000-7000-8000-000000000001")
    assert words.id_text(id_, wide=True, length=8) == str(id_)
    assert words.id_text(id_, wide=False, length=8) == "00000001"


def test_times_are_in_utc() -> None:
    assert words.time(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-11-22 12:00:00"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")]
)
def test_an_age_is_in_the_largest_unit_that_gives_at_least_two(seconds: int, shown: str) -> None:
    assert words.age(NOW - timedelta(seconds=seconds), NOW) == shown


def test_the_command_line_knows_every_state_of_an_invoice() -> None:
    known, states = {one.value for one in InvoiceStatusOption}, {one.value for one in InvoiceStatus} - {"absent"}
    assert known == states, f"deploy/cli/invoice.py: InvoiceStatusOption must be {sorted(states)}"
