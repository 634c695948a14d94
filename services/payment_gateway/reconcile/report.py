"""Reads the gateway's balance report, a CSV file: what money moved for which payment.

It is Stripe's report `balance_change_from_activity.itemized` or `payout_reconciliation.itemized`, made with the column
`payment_metadata[payment_id]`. Its amounts are of one period, and may be in the currency of the account. So a payment that agrees by the
report agrees, and any other is asked about at the gateway. Source: https://docs.stripe.com/reports/report-types.
"""

import csv
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final
from uuid import UUID

from services.payment_gateway.gateways.stripe_events import payment_id_in
from services.payment_gateway.reconcile.compare import OurPayment
from services.payment_gateway.reconcile.fetch import ReconcileError
from shared.contracts.currencies import ISO_4217
from shared.records import dataclass

CATEGORY, INTENT, PAYMENT = "reporting_category", "payment_intent_id", "payment_metadata[payment_id]"
GROSS, CURRENCY = "gross", "currency"
NEEDED: Final = (CATEGORY, INTENT, PAYMENT, GROSS, CURRENCY)
CHARGED_AMOUNT, CHARGED_CURRENCY = "customer_facing_amount", "customer_facing_currency"
"""Optional columns: what the customer paid, if the account has another currency."""
BYTES_MAX: Final = 512 * 1024 * 1024
PAYMENTS_MAX: Final = 1_000_000
"""Payments of one report: they are kept in memory, about a kilobyte each."""
DIGITS_MAX: Final = 15
"""Digits of an amount before the point. What has more is none, and may be too large to count with."""
CHARGE: Final = "charge"


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report says about one payment. `amount_minor` is what it was charged, in the minor unit of `currency`; None if that is not all
    that happened to it, or is unreadable."""

    gateway_id: str
    payment_id: UUID | None
    amount_minor: int | None
    currency: str

    def agrees_with(self, ours: OurPayment) -> bool:
        """Whether our books say that it was charged, that amount, and nothing since."""
        mine = (ours.gateway_id, ours.status, ours.amount_minor, ours.currency, ours.refunded_minor)
        return self.amount_minor is not None and mine == (
            self.gateway_id,
            "captured",
            self.amount_minor,
            self.currency,
            0,
        )


def read_report(path: Path) -> list[Reported]:
    """The payments of a report, each once. Raises ReconcileError, whose text is one sentence."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise ReconcileError(
                f"{path} is larger than {BYTES_MAX // 1024 // 1024} MiB: make a report of a shorter time."
            )
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_payments(path, csv.DictReader(file, strict=True)).values())
    except OSError as error:
        raise ReconcileError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ReconcileError(f"{path} is no CSV file in UTF-8.") from None
    except csv.Error:
        raise ReconcileError(f"{path} is no whole CSV file: download the report again.") from None


def _payments(path: Path, lines: "csv.DictReader[str]") -> dict[str, Reported]:
    missing = [column for column in NEEDED if column not in (lines.fieldnames or ())]
    if missing:
        raise ReconcileError(f"{path} lacks the columns {', '.join(missing)}: make the report with them.")
    found: dict[str, Reported] = {}
    for line in _of_payments(lines):
        gateway_id = line[INTENT]
        once = _reported(line)
        found[gateway_id] = (
            once if gateway_id not in found else Reported(gateway_id, once.payment_id, None, once.currency)
        )
        if len(found) > PAYMENTS_MAX:
            raise ReconcileError(f"{path} has more than {PAYMENTS_MAX:,} payments: make a report of a shorter time.")
    return found


def _of_payments(lines: "csv.DictReader[str]") -> Iterator[dict[str, str]]:
    """The lines that are about a payment. Fees and payouts are not."""
    for line in lines:
        if line.get(INTENT):
            yield {name: value for name, value in line.items() if isinstance(name, str) and isinstance(value, str)}


def _reported(line: Mapping[str, str]) -> Reported:
    theirs = (line.get(CHARGED_AMOUNT), line.get(CHARGED_CURRENCY))
    amount, currency = theirs if all(theirs) else (line.get(GROSS), line.get(CURRENCY))
    currency = (currency or "").upper()
    amount_minor = _minor(amount or "", currency) if line.get(CATEGORY) == CHARGE else None
    payment_id = payment_id_in({"metadata": {"payment_id": line.get(PAYMENT)}})
    return Reported(line[INTENT], payment_id, amount_minor, currency)


def _minor(text: str, currency: str) -> int | None:
    """An amount in major units as one in the minor unit of ISO 4217, or None if it cannot be one."""
    decimals = ISO_4217.get(currency)
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    if decimals is None or not amount.is_finite() or amount.adjusted() >= DIGITS_MAX:
        return None
    counted = amount.scaleb(decimals)
    return int(counted) if counted == counted.to_integral_value() and counted > 0 else None
