"""The gateway's ledger counts some currencies as Stripe does; the audit compares them with invoices in the minor unit of ISO 4217."""

import sqlite3
from contextlib import closing

import pytest

from services.audit.payments import MINOR_UNITS


@pytest.mark.parametrize(
    ("amount", "currency", "amount_minor"),
    [
        (1250, "eur", 1250),
        (500, "jpy", 500),
        (50_000, "isk", 500),
        (50_000, "UGX", 500),
        (5, "mga", 500),
        (150, "isk", 1.5),
    ],
)
def test_an_amount_is_compared_in_the_minor_unit(amount: int, currency: str, amount_minor: float) -> None:
    """A part of a minor unit stays one, so that no invoice equals it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        sql = f"SELECT {MINOR_UNITS} FROM (SELECT ? AS amount, ? AS currency)"
        assert connection.execute(sql, (amount, currency)).fetchone() == (amount_minor,)
