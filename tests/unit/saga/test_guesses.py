"""When the saga guesses that a payment is new, and does not read it from the database."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from services.saga.domain import ReminderSchedule, Saga, SagaStatus
from services.saga.handlers import SagaHandler
from shared.contracts.base import Contract
from shared.contracts.invoice import InvoicePaid
from shared.contracts.payment_gateway import PaymentCaptured, PaymentDeclined, PaymentInDoubt, PaymentNotCharged
from shared.ids import new_id
from shared.messaging.envelope import Inbound
from shared.persistence.database import Connection

KNOWN, UNKNOWN = UUID(int=1), UUID(int=2)


class NoRows:
    """A database without sagas, which records the ids that were read."""

    def __init__(self) -> None:
        self.asked: list[UUID] = []

    async def fetch(self, _query: str, payment_ids: Collection[UUID]) -> list[object]:
        self.asked += payment_ids
        return []


def captured(payment_id: UUID = UNKNOWN, **more: object) -> PaymentCaptured:
    about: dict[str, Any] = {"payment_id": payment_id, "invoice_id": "INV-1", "version": 3, "receipt_number": "ch_1"}
    return PaymentCaptured.model_validate(about | {"amount_minor": 1_999, "currency": "EUR"} | more)


def inbound(data: Contract) -> Inbound:
    return Inbound(new_id(), data, "flow", datetime(2026, 1, 1, tzinfo=UTC))


async def asked_about(work: SagaHandler, *messages: Contract) -> list[UUID]:
    rows = NoRows()
    arrived = [inbound(message) for message in messages]
    recalled = work.state_cache.get(map(work.key, arrived), epoch=0)
    states = await work.load_unlocked(cast("Connection", rows), arrived, recalled)
    assert set(states) == {work.key(one) for one in arrived}
    return rows.asked


@pytest.fixture
def work() -> SagaHandler:
    work = SagaHandler(ReminderSchedule((10.0,)))
    work.state_cache.put({KNOWN: Saga(KNOWN, "INV-0", SagaStatus.AWAITING_OUTCOME, version=1)})
    return work


async def test_a_capture_as_the_first_fact_is_not_read(work: SagaHandler) -> None:
    assert await asked_about(work, captured()) == []


async def test_a_cached_saga_is_not_read(work: SagaHandler) -> None:
    assert await asked_about(work, captured(KNOWN)) == []


ABOUT: dict[str, Any] = {"payment_id": UNKNOWN, "invoice_id": "INV-1", "version": 3}


@pytest.mark.parametrize(
    "message",
    [
        captured(late=True),
        captured(decided_by="anna"),
        PaymentDeclined(**ABOUT, reason="no_money"),
        PaymentNotCharged(**ABOUT, reason="cancelled"),
        PaymentInDoubt(**ABOUT, amount_minor=1_999, currency="EUR", reason="timeout"),
        InvoicePaid(invoice_id="INV-1", payment_id=UNKNOWN, amount_minor=1_999, currency="EUR", receipt_number="ch_1"),
    ],
    ids=lambda message: type(message).__name__ + (" late" if getattr(message, "late", False) else ""),
)
async def test_after_any_other_fact_the_saga_is_read(work: SagaHandler, message: Contract) -> None:
    assert await asked_about(work, message) == [UNKNOWN]


async def test_a_stored_saga_is_read_if_the_cache_is_invalid(work: SagaHandler) -> None:
    rows = NoRows()
    await work.load_unlocked(cast("Connection", rows), [inbound(captured(KNOWN))], {})
    assert rows.asked == [KNOWN]


async def test_after_a_wrong_guess_every_saga_is_read_for_a_while(work: SagaHandler) -> None:
    work.state_cache.invalidate()
    assert await asked_about(work, captured()) == [UNKNOWN]
