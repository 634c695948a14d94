"""The verdict over a payment by both sides."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock, Mock
from uuid import UUID

import pytest

from services.payment_gateway import store
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.stripe import Page
from services.payment_gateway.reconcile import fetch, run
from services.payment_gateway.reconcile.books import BookedIntent, BookedPayment, BookedRefund, new_books
from services.payment_gateway.reconcile.compare import Comparison, OurPayment, Verdict, compare
from services.payment_gateway.reconcile.fetch import ReconcileError
from services.payment_gateway.reconcile.run import Reconciliation
from services.payment_gateway.store import PaymentRow
from shared.persistence.database import Connection
from shared.records import replace

PAYMENT = UUID(int=7)
OURS = OurPayment(PAYMENT, "INV-1", "captured", 1_250, "EUR", "pi_1", None)
THEIRS = BookedPayment("pi_1", PAYMENT, "INV-1", "succeeded", 1_250, 1_250, 0, "EUR", disputed=False, created=0)
CANCELLED = replace(THEIRS, status="canceled", captured=0)


@pytest.mark.parametrize(
    ("status", "theirs", "verdict"),
    [
        ("captured", THEIRS, Verdict.AGREES),
        ("captured", replace(THEIRS, captured=750), Verdict.DIFFERS),
        ("captured", replace(THEIRS, currency="USD"), Verdict.DIFFERS),
        ("captured", replace(THEIRS, refunded=1), Verdict.DIFFERS),
        ("captured", replace(THEIRS, disputed=True), Verdict.DIFFERS),
        ("captured", CANCELLED, Verdict.DIFFERS),
        ("refunded", replace(THEIRS, refunded=1_250), Verdict.AGREES),
        ("refunded", replace(THEIRS, refunded=1_249), Verdict.DIFFERS),
        ("refunded", THEIRS, Verdict.DIFFERS),
        ("declined", CANCELLED, Verdict.AGREES),
        ("declined", THEIRS, Verdict.DIFFERS),
        ("not_charged", replace(CANCELLED, status="requires_confirmation"), Verdict.DIFFERS),
        ("in_doubt", THEIRS, Verdict.OPEN),
        ("needs_decision", CANCELLED, Verdict.OPEN),
        ("refund_failed", THEIRS, Verdict.OPEN),
        ("of_a_newer_build", THEIRS, Verdict.OPEN),
    ],
)
def test_both_sides_agree_or_a_person_looks(status: str, theirs: BookedPayment, verdict: Verdict) -> None:
    assert compare(replace(OURS, status=status), theirs).verdict is verdict


@pytest.mark.parametrize(
    ("there_minor", "verdict"), [(250, Verdict.AGREES), (0, Verdict.DIFFERS), (251, Verdict.DIFFERS)]
)
def test_what_went_back_in_parts_is_expected_there(there_minor: int, verdict: Verdict) -> None:
    assert compare(replace(OURS, refunded_minor=250), replace(THEIRS, refunded=there_minor)).verdict is verdict


@pytest.mark.parametrize(
    ("there_minor", "verdict"),
    [(849, Verdict.DIFFERS), (850, Verdict.AGREES), (1_250, Verdict.AGREES), (1_251, Verdict.DIFFERS)],
)
def test_what_went_back_elsewhere_is_not_expected_there(there_minor: int, verdict: Verdict) -> None:
    whole = replace(OURS, status="refunded", refunded_minor=850, elsewhere_minor=400)
    assert compare(whole, replace(THEIRS, refunded=there_minor)).verdict is verdict


def test_money_that_a_person_let_stay_is_with_us() -> None:
    kept = replace(OURS, status="refund_failed", decided_by="ann")
    assert compare(kept, THEIRS).verdict is Verdict.AGREES
    assert compare(kept, replace(THEIRS, refunded=1_250)).verdict is Verdict.DIFFERS


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [({"captured": 0, "status": "requires_confirmation"}, Verdict.AGREES), ({}, Verdict.DIFFERS)],
)
def test_a_second_payment_there_matters_once_it_is_captured(changed: dict[str, Any], verdict: Verdict) -> None:
    assert compare(OURS, replace(THEIRS, gateway_id="pi_2", **changed)).verdict is verdict


def test_what_nobody_knows_here_is_told_by_whose_it_is() -> None:
    assert compare(None, THEIRS).verdict is Verdict.UNKNOWN_HERE
    assert compare(None, replace(THEIRS, payment_id=None)).verdict is Verdict.FOREIGN


def test_a_capture_that_no_payment_of_ours_has_is_a_stray_until_it_is_a_case() -> None:
    second = replace(THEIRS, gateway_id="pi_2")
    as_case = replace(OURS, payment_id=UUID(int=8), status="needs_decision", gateway_id="pi_2")
    assert compare(None, THEIRS).stray == THEIRS
    assert compare(None, CANCELLED).stray is None, "no money moved"
    assert compare(OURS, second).stray == second
    assert compare(OURS, second, as_case).verdict is Verdict.OPEN
    assert compare(OURS, replace(THEIRS, captured=750)).stray is None, "it is that of our payment"


@pytest.mark.parametrize(
    ("status", "decided_by", "is_stray"),
    [
        ("requested", None, False),
        ("needs_decision", None, False),
        ("not_charged", "ann", False),
        ("not_charged", None, True),
    ],
)
def test_what_the_payment_finds_by_itself_is_no_second_case(
    status: str, decided_by: str | None, is_stray: bool
) -> None:
    """After a restore its gateway id is gone. A case about the same money would give back the one capture."""
    forgotten = replace(OURS, status=status, gateway_id=None, decided_by=decided_by)
    told = compare(forgotten, THEIRS)
    assert (told.verdict, told.stray is not None) == (Verdict.DIFFERS, is_stray)


def test_a_case_hides_no_payment_that_has_found_the_same_capture() -> None:
    as_case = replace(OURS, payment_id=UUID(int=8), status="needs_decision")
    assert compare(OURS, THEIRS, as_case).verdict is Verdict.AGREES


def test_both_sides_are_told_in_words() -> None:
    told = compare(OURS, replace(THEIRS, captured=750, refunded=250, disputed=True))
    assert (told.here, told.there) == ("captured", "succeeded, captured 750 of 1250 EUR, refunded 250, disputed")


def test_a_currency_that_the_gateway_counts_otherwise_is_compared_in_its_units() -> None:
    krona = replace(OURS, amount_minor=12, currency="ISK")
    assert compare(krona, replace(THEIRS, amount=1_200, captured=1_200, currency="ISK")).verdict is Verdict.AGREES


async def test_whatever_contradicts_is_looked_at_however_little_of_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Comparison] = []

    async def look_at(_: object, broken: Sequence[Comparison], now: datetime) -> int:
        assert now == NOW
        looked.extend(broken)
        return 1

    monkeypatch.setattr(run, "look_at", look_at)
    monkeypatch.setattr(run, "SHOWN_MAX", 3)
    result = Reconciliation(NOW)
    unknown, agrees = compare(None, CANCELLED), compare(OURS, THEIRS)
    for _ in range(2):
        await result.judged(Mock(), [unknown, agrees, unknown])
    await result.judged(Mock(), [agrees])
    assert (looked, result.unfit) == ([unknown] * 4, 2)
    assert (result.broken, result.found) == (4, [unknown] * 3)


class NothingChanges:
    """A connection whose transaction changes nothing."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


async def test_what_differs_is_looked_at_and_a_capture_that_nobody_has_becomes_a_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A case of a forgotten payment has a version above all that was told of it: one a second since it was made."""
    hurried: list[UUID] = []
    inserted: list[PaymentRow] = []

    async def hurry(_: object, payment_ids: Sequence[UUID]) -> None:
        hurried.extend(payment_ids)

    async def insert_strays(_: object, rows: Sequence[PaymentRow]) -> None:
        inserted.extend(rows)

    monkeypatch.setattr(store, "hurry", hurry)
    monkeypatch.setattr(store, "insert_strays", insert_strays)
    another = replace(THEIRS, gateway_id="pi_2", created=int(NOW.timestamp()))
    broken = [
        compare(OURS, replace(THEIRS, captured=750)),
        compare(OURS, another),
        compare(None, replace(THEIRS, created=int(NOW.timestamp()) - 90)),
        compare(None, replace(THEIRS, invoice_id="4242424242424242")),
    ]
    assert await run.look_at(cast(Connection, NothingChanges()), broken, NOW) == 1, (
        "no case can be opened for the last one"
    )
    assert hurried == [PAYMENT]
    cases = [(row.payment.payment_id, row.payment.version) for row in inserted]
    assert cases == [(another.stray_id, 1), (PAYMENT, 91)]


@pytest.mark.parametrize(
    ("answer", "verdicts"),
    [
        (port.MadeFor(PAYMENT), []),
        (port.MadeFor(UUID(int=8)), [Verdict.UNKNOWN_THERE]),
        (port.MadeFor(None), [Verdict.UNKNOWN_THERE]),
        (port.NotFound("404"), [Verdict.UNKNOWN_THERE]),
    ],
    ids=["ours", "of another payment", "of somebody else", "not there"],
)
async def test_what_the_books_lack_is_asked_about(
    answer: port.MadeFor | port.NotFound, verdicts: list[Verdict]
) -> None:
    gateway = Mock(owner=AsyncMock(return_value=answer))
    assert [found.verdict for found in await run._asked(gateway, OURS)] == verdicts


# -- the gateway's books -----------------------------------------------------------------------------------------------------------------


async def test_a_page_that_comes_again_and_again_is_told_and_not_read_for_ever() -> None:
    page = Page([{"id": "re_1"}], has_more=True)
    gateway = Mock(page=AsyncMock(side_effect=[page, page]))
    pages = fetch._pages(gateway, "refunds", 0, None, AsyncMock())
    with pytest.raises(ReconcileError, match="a page of refunds comes again"):
        [read async for read in pages]


def a_refund(id_: str, amount: int, status: str) -> BookedRefund:
    return BookedRefund(id_, "pi_1", amount, "eur", status, created=1, metadata={})


def test_books_take_a_thing_once_and_count_as_given_back_what_was(tmp_path: Path) -> None:
    intent = BookedIntent("pi_1", 1_250, "eur", {"payment_id": str(PAYMENT)}, "succeeded", created=1, disputed=False)
    with new_books(tmp_path / "books") as books:
        for _ in range(2):  # pages overlap when something is created while they are read
            books.add([intent], refunds=[a_refund("re_1", 250, "succeeded"), a_refund("re_2", 100, "failed")])
        books.touch(["pi_1", "pi_of_last_month"])
        (page,) = books.pages()
        assert [(one.payment_id, one.refunded) for one in page] == [(PAYMENT, 250)]
        assert books.touched() == ["pi_of_last_month"], "the others are compared anyway"
    with pytest.raises(FileExistsError), new_books(tmp_path / "books"):
        raise AssertionError


NOW = datetime(2026, 12, 1, tzinfo=UTC)
