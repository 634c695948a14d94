"""How long payments take is measured from the commit of their request to that of their outcome."""

from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from services.invoice import stopwatch
from services.invoice.domain import MethodSummary, Paid, PaymentFailed, PaymentRequested
from services.invoice.stopwatch import PaymentStopwatch

ONE, TWO, THREE = (UUID(int=number) for number in range(1, 4))


def requested(payment_id: UUID) -> PaymentRequested:
    return PaymentRequested(payment_id, 500, "EUR", MethodSummary("token", "pm_1"))


def measured(outcome: str) -> tuple[float, float]:
    """How many payments with this outcome were measured, and how long they took together."""
    count, total = (
        REGISTRY.get_sample_value(f"remit_payment_seconds_{what}", {"outcome": outcome}) or 0.0
        for what in ("count", "sum")
    )
    return count, total


def test_payments_are_measured_by_their_outcome() -> None:
    now_s = 100.0
    watch = PaymentStopwatch(lambda: now_s)
    before = {outcome: measured(outcome) for outcome in ("paid", "declined", "not_charged")}
    watch.happened([requested(ONE), requested(TWO)])
    now_s += 3.0
    watch.happened([Paid(ONE, 500, "EUR", "ch_1")])
    now_s += 4.0
    watch.happened([PaymentFailed(TWO, "declined", "card_declined")])
    watch.happened([Paid(ONE, 500, "EUR", "ch_1"), Paid(THREE, 500, "EUR", "ch_3")])  # told twice; begun elsewhere
    took = {
        outcome: tuple(a - b for a, b in zip(measured(outcome), before[outcome], strict=True)) for outcome in before
    }
    for outcome, expected in {"paid": (1, 3.0), "declined": (1, 7.0), "not_charged": (0, 0)}.items():
        assert took[outcome] == pytest.approx(expected), "sums of floats to which other tests have added"


def test_the_oldest_is_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "BEGUN_MAX", 2)
    watch = PaymentStopwatch(lambda: 0.0)
    before = measured("paid")[0]
    watch.happened([requested(ONE), requested(TWO), requested(THREE)])
    watch.happened([Paid(payment_id, 500, "EUR", "ch") for payment_id in (ONE, TWO, THREE)])
    assert measured("paid")[0] - before == 2
