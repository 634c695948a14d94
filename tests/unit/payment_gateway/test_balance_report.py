"""The gateway's balance report: what it says about each payment, and what is told of a file that is none."""

from pathlib import Path
from uuid import UUID

import pytest

from services.payment_gateway.reconcile import report
from services.payment_gateway.reconcile.compare import OurPayment
from services.payment_gateway.reconcile.fetch import ReconcileError
from services.payment_gateway.reconcile.report import Reported, read_report
from shared.records import replace

ID = UUID(int=7)
HEAD = "balance_transaction_id,reporting_category,gross,currency,payment_intent_id,payment_metadata[payment_id]"
CHARGE = f"txn_1,charge,12.50,eur,pi_1,{ID}"
REPORTED = Reported("pi_1", ID, 1_250, "EUR")
OURS = OurPayment(ID, "INV-1", "captured", 1_250, "EUR", "pi_1", None)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "report.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("lines", "reported"),
    [
        ([CHARGE], [REPORTED]),
        ([], []),
        (["txn_2,fee,-0.10,eur,,", "txn_3,payout,-5.00,eur,,"], []),
        ([f"txn_1,charge,500,jpy,pi_1,{ID}"], [replace(REPORTED, amount_minor=500, currency="JPY")]),
        ([f"txn_1,charge,1.250,kwd,pi_1,{ID}"], [replace(REPORTED, currency="KWD")]),
        ([CHARGE, f"txn_2,refund,-2.50,eur,pi_1,{ID}"], [replace(REPORTED, amount_minor=None)]),
        ([CHARGE, f"txn_2,dispute,-12.50,eur,pi_1,{ID}"], [replace(REPORTED, amount_minor=None)]),
        ([f"txn_2,refund,-2.50,eur,pi_1,{ID}"], [replace(REPORTED, amount_minor=None)]),
        ([f"txn_1,charge,12.505,eur,pi_1,{ID}"], [replace(REPORTED, amount_minor=None)]),
        ([f'txn_1,charge,"12,50",eur,pi_1,{ID}'], [replace(REPORTED, amount_minor=None)]),
        ([f"txn_1,charge,1e999999,eur,pi_1,{ID}"], [replace(REPORTED, amount_minor=None)]),
        ([f"txn_1,charge,NaN,eur,pi_1,{ID}"], [replace(REPORTED, amount_minor=None)]),
        ([f"txn_1,charge,12.50,???,pi_1,{ID}"], [replace(REPORTED, amount_minor=None, currency="???")]),
        (["txn_1,charge,12.50,eur,pi_1,"], [replace(REPORTED, payment_id=None)]),
        (["txn_1,charge,12.50,eur,pi_1,=HYPERLINK(1)"], [replace(REPORTED, payment_id=None)]),
        (["txn_1,charge,12.50,eur,pi_1"], [replace(REPORTED, payment_id=None)]),
    ],
)
def test_what_a_report_says_about_a_payment(tmp_path: Path, lines: list[str], reported: list[Reported]) -> None:
    assert read_report(written(tmp_path, "\ufeff" + "\n".join([HEAD, *lines]))) == reported


def test_what_the_customer_paid_counts_before_what_the_account_got(tmp_path: Path) -> None:
    head, line = f"{HEAD},customer_facing_amount,customer_facing_currency", f"{CHARGE},14.00,usd"
    assert read_report(written(tmp_path, f"{head}\n{line}")) == [replace(REPORTED, amount_minor=1_400, currency="USD")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a,b\n1,2",
            "lacks the columns reporting_category, payment_intent_id, payment_metadata[payment_id], gross, currency",
        ),
        ("", "lacks the columns"),
        (HEAD.replace(",gross", ""), "lacks the columns gross: make the report with them."),
        (b"\xff\xfe" * 9, "is no CSV file in UTF-8."),
        (f'{HEAD}\n"txn', "is no whole CSV file: download the report again."),
        (
            f"{HEAD}\n{CHARGE}\n{CHARGE.replace('pi_1', 'pi_2')}",
            "has more than 1 payments: make a report of a shorter time.",
        ),
    ],
)
def test_a_file_that_is_no_report_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, sentence: str
) -> None:
    monkeypatch.setattr(report, "PAYMENTS_MAX", 1)
    with pytest.raises(ReconcileError) as told:
        read_report(written(tmp_path, text))
    assert sentence in str(told.value)


def test_a_file_that_is_too_large_or_not_there_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BYTES_MAX", 10)
    with pytest.raises(ReconcileError, match="is larger than"):
        read_report(written(tmp_path, HEAD))
    with pytest.raises(ReconcileError, match="cannot be read: No such file"):
        read_report(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("ours", "agrees"),
    [
        (OURS, True),
        (replace(OURS, status="declined"), False),
        (replace(OURS, refunded_minor=1), False),
        (replace(OURS, amount_minor=1), False),
        (replace(OURS, currency="USD"), False),
        (replace(OURS, gateway_id="pi_2"), False),
    ],
)
def test_only_a_charge_of_the_same_amount_agrees_by_the_report(ours: OurPayment, agrees: bool) -> None:
    assert REPORTED.agrees_with(ours) is agrees
    assert not replace(REPORTED, amount_minor=None).agrees_with(ours)
