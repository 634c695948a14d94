"""What somebody typed is read as codes, numbers, ends of ids, or an amount and a day."""

from datetime import UTC, date, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from services.invoice.domain import reference_code
from services.staff.find import ALPHABET, By, SearchTerm, amount_and_day, amount_lookup, minor_units, read

TODAY = date(2026, 11, 28)


@pytest.mark.parametrize(
    "typed", ["PF-7KQ2MX9D", "pf-7kq2mx9d", " PF 7KQ2 MX9D ", "PF7KQ2MX9D", "p f\u20137kq2\u2014mx9d", "PF_7KQ2.MX9D"]
)
def test_blanks_dashes_and_case_of_a_code_do_not_matter(typed: str) -> None:
    assert read(typed).lookups == (SearchTerm(By.REFERENCE, "PF-7KQ2MX9D"),)


@pytest.mark.parametrize("code", ["0KQ2MX9D", "7KQ2MX91", "7KQIMXOD"])
def test_a_code_with_what_no_code_has_was_misheard(code: str) -> None:
    typed = read(f"PF-{code}")
    assert By.REFERENCE not in {lookup.by for lookup in typed.lookups}
    assert typed.misheard is not None
    assert all(character in typed.misheard for character in code if character not in ALPHABET)


def test_every_code_that_is_given_is_found() -> None:
    for number in range(300):
        code = reference_code(UUID(int=number))
        assert read(code).lookups == (SearchTerm(By.REFERENCE, code),)


@pytest.mark.parametrize("typed", ["PF-123", "PF", "PFAD-2026-17"])
def test_what_is_no_code_is_looked_for_as_anything_else(typed: str) -> None:
    assert SearchTerm(By.INVOICE, typed) in read(typed).lookups


def test_an_id_is_looked_for_as_every_kind_of_id() -> None:
    id_ = UUID("01932f40-55d1-7a0e-8c27-93aa7d20c9e4")
    bys = [lookup.by for lookup in read(str(id_).upper()).lookups]
    assert bys == [By.PAYMENT, By.COMMAND, By.LETTER, By.MESSAGE, By.CORRELATION]
    assert {lookup.text for lookup in read(str(id_)).lookups} == {str(id_)}


def test_an_end_is_looked_for_where_ids_end() -> None:
    bys = {lookup.by for lookup in read("…7d20c9e4").lookups}
    assert {By.PAYMENT_END, By.COMMAND_END, By.LETTER_END, By.INVOICE_END} <= bys
    assert By.PAYMENT_END not in {lookup.by for lookup in read("INV-19980").lookups}
    assert By.INVOICE_END not in {lookup.by for lookup in read("abc").lookups}


@pytest.mark.parametrize(
    ("typed", "end"),
    [
        ("7D20 C9E4", "7d20c9e4"),
        ("93 aa-7d20\u2013c9e4", "93aa7d20c9e4"),
        ("8c2793aa7d20c9e4", "8c27-93aa7d20c9e4"),
        ("7a0e-8c27-93aa7d20c9e4", "7a0e-8c27-93aa7d20c9e4"),
    ],
)
def test_an_end_is_found_however_it_was_read_out(typed: str, end: str) -> None:
    assert SearchTerm(By.PAYMENT_END, end) in read(typed).lookups


def test_nobody_says_dashes_and_capitals_of_an_invoice() -> None:
    assert SearchTerm(By.INVOICE, "INV-19980") in read("inv 19980").lookups


@pytest.mark.parametrize("typed", ["", "   ", "\t\n"])
def test_nothing_is_nothing(typed: str) -> None:
    assert read(typed).lookups == ()


def test_what_is_very_long_is_cut() -> None:
    assert len(read("x" * 100_000).text) == 300


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("310.00 26.11.", ("310.00", None, date(2026, 11, 26))),
        ("310 26. 11.", ("310", None, date(2026, 11, 26))),
        ("1 240,50 EUR 1.12.2025", ("1 240,50", "EUR", date(2025, 12, 1))),
        ("310.00 usd 2026-11-26", ("310.00", "USD", date(2026, 11, 26))),
        ("310.00 30.11.", ("310.00", None, date(2025, 11, 30))),
        ("310.00 29.11.", ("310.00", None, date(2026, 11, 29))),
        ("310.00 31.2.", None),
        ("310.00 ABC 26.11.", None),
        ("310.00", None),
        ("26.11.", None),
        ("INV-19980", None),
    ],
)
def test_an_amount_and_a_day(typed: str, found: tuple[str, str | None, date] | None) -> None:
    assert amount_and_day(typed, TODAY) == found


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("310.00", "EUR", 31_000),
        ("310", "EUR", 31_000),
        ("310,5", "EUR", 31_050),
        ("1 240.00", "EUR", 124_000),
        ("1'240.00", "CHF", 124_000),
        ("500", "JPY", 500),
        ("500.5", "JPY", None),
        ("1.234", "EUR", None),
        ("1.234", "KWD", 1_234),
        ("-5", "EUR", None),
        ("abc", "EUR", None),
        ("310", "ABC", None),
        ("", "EUR", None),
    ],
)
def test_an_amount_in_minor_units_of_its_currency(amount: str, currency: str, minor: int | None) -> None:
    assert minor_units(amount, currency) == minor


def test_a_day_is_that_of_whoever_looks_and_the_days_around_it() -> None:
    lookup = amount_lookup("310.00", "EUR", date(2026, 11, 26), ZoneInfo("Europe/Berlin"))
    assert lookup is not None
    assert (lookup.begin, lookup.end) == (
        datetime(2026, 11, 24, 23, tzinfo=UTC),
        datetime(2026, 11, 27, 23, tzinfo=UTC),
    )
    assert amount_lookup("x", "EUR", date(2026, 11, 26), UTC) is None
