"""What the statements over payments, their refunds and their outcomes keep, and what they leave out."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.payment_gateway import ledger, refund_store, store
from services.payment_gateway.domain import Payment, PaymentStatus
from services.payment_gateway.ledger import PublishedOutcome
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus, Refunds
from services.payment_gateway.store import Lease
from shared.messaging.envelope import Outgoing
from shared.persistence.database import Connection, Database
from shared.persistence.unreadable import UnreadableRowsError
from shared.records import replace
from tests.service.payment_gateway.conftest import PaymentGatewayFixture
from tests.support.databases import execute

ID, OTHER = UUID(int=1), UUID(int=2)
LEASE = Lease(UUID(int=9), 60.0, 30.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PART = PaymentRefund(
    UUID(int=11), "a test", 500, PaymentRefundStatus.REFUNDED, 500, version=4, gateway_id="re_1", asked_by="ann"
)
NEXT = PaymentRefund(UUID(int=12), "a test")


@pytest.fixture
async def connection(payments: PaymentGatewayFixture) -> AsyncIterator[Connection]:
    database = await Database.open(payments.url, name="rows", connections_max=1)
    async with database.connection() as connection:
        yield connection
    await database.close()


async def keep(payments: PaymentGatewayFixture, payment_id: UUID = ID, status: str = "captured") -> None:
    """A payment that is due."""
    await execute(
        payments.url,
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, gateway_id, receipt_number, was_case,
               rung, key_number, cause_id, correlation_id, fence, due_at)
           VALUES ($1, 'INV-1', 1250, 'EUR', $2, 4, 'pi_1', 'ch_1', false, 0, 1, $1, 'C-1', 1, now())""",
        payment_id,
        status,
    )


def captured(*refunds: PaymentRefund) -> Payment:
    return Payment(ID, "INV-1", PaymentStatus.CAPTURED, version=4, refunds=refunds)


async def refunds_of(connection: Connection, payment: Payment) -> Refunds:
    return (await refund_store.attach(connection, {ID: replace(payment, refunds=())}))[ID].refunds


# -- refunds ---------------------------------------------------------------------------------------------------------------------------


async def test_refunds_come_back_as_they_were_stored_last_and_in_their_order(connection: Connection) -> None:
    """A person called one made elsewhere. Then it stood at the gateway after all."""
    at_first = captured(replace(PART, made_elsewhere=True, gateway_id=None), NEXT)
    await refund_store.save(connection, [(captured(), at_first)])
    assert await refunds_of(connection, at_first) == at_first.refunds
    now = captured(PART, replace(NEXT, status=PaymentRefundStatus.AT_WORK))
    await refund_store.save(connection, [(at_first, now)])
    assert await refunds_of(connection, now) == now.refunds


async def test_parts_that_make_up_the_whole_are_all_that_was_given_back(connection: Connection) -> None:
    """A build before knew one refund of the whole, and kept it in the payment's row. This is none of its rows."""
    whole = replace(captured(PART, replace(PART, refund_id=NEXT.refund_id)), status=PaymentStatus.REFUNDED)
    await refund_store.save(connection, [(captured(), whole)])
    assert await refunds_of(connection, whole) == whole.refunds


async def test_a_payment_that_was_captured_before_it_became_a_case_has_its_refunds(
    payments: PaymentGatewayFixture, connection: Connection
) -> None:
    await keep(payments, status="needs_decision")
    await execute(payments.url, "UPDATE payments SET settled_as = 'captured'")
    await refund_store.save(connection, [(captured(), captured(PART))])
    assert (await store.load(connection, [ID]))[ID].payment.refunds == (PART,)


async def test_a_payment_whose_refunds_cannot_be_read_is_left_alone_and_holds_up_no_other(
    payments: PaymentGatewayFixture, connection: Connection
) -> None:
    """A newer build wrote them. To decide without them could give the money back twice."""
    for payment_id in (ID, OTHER):
        await keep(payments, payment_id)
    await refund_store.save(connection, [(captured(), captured(PART))])
    await execute(payments.url, "UPDATE refunds SET status = 'of_tomorrow'")
    with pytest.raises(UnreadableRowsError) as unreadable:
        await store.load(connection, [ID, OTHER])
    assert list(unreadable.value.keys) == [ID]
    claimed = await store.claim(connection, LEASE, at_most=10)
    assert [row.payment.payment_id for row in claimed] == [OTHER]


# -- outcomes --------------------------------------------------------------------------------------------------------------------------


async def test_an_outcome_that_is_stored_already_is_said_again_as_it_was(connection: Connection) -> None:
    """The reply to a commit was lost, and its transaction is repeated: perhaps by another build."""
    first, again = (Outgoing(ID, "e", "k", "t", "c", body) for body in (b'{"a":1}', b'{"a":2}'))
    for message in (first, again):
        (published,) = await ledger.save_outcomes(connection, [PublishedOutcome(ID, 4, message)])
        assert published.body == first.body
