"""RecordPayment from the saga: it gets no answer, and its outcome is an event."""

from uuid import uuid4

from shared.contracts.invoice import InvoiceSettlementRejected
from shared.ids import derived_id
from tests.service.invoice.conftest import ISSUE, PAID, PAY, RECORD, THIS, InvoiceConversation, stands
from tests.support.conversation import causes, contents
from tests.support.environment import Environment


async def test_the_invoice_is_paid(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY)
    id_ = uuid4()
    left = await invoice.when(RECORD, message_id=id_, correlationid="flow-1")
    assert contents(left) == [PAID]
    assert causes(left) == {(id_, "flow-1")}
    assert left[0].id == str(derived_id(id_, 0))
    assert await stands(environment) == [("paid", 3)]


async def test_asked_again_it_publishes_the_same_event_with_the_same_id_and_bytes(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    """The saga may have missed the event: a queue was deleted, or a disk was lost."""
    await invoice.given(ISSUE, PAY)
    (first,) = await invoice.when(RECORD)
    (second,) = await invoice.when(RECORD)
    assert (second.id, second.message.body) == (first.id, first.message.body)
    assert await stands(environment) == [("paid", 3)]


async def test_a_repeated_command_publishes_nothing(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY)
    id_ = uuid4()
    await invoice.when(RECORD, message_id=id_)
    assert await invoice.when(RECORD, message_id=id_) == []
    assert await stands(environment) == [("paid", 3)]


async def test_money_that_no_invoice_waits_for_is_rejected(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    await invoice.given(ISSUE)
    left = await invoice.when(RECORD)
    assert contents(left) == [
        InvoiceSettlementRejected(invoice_id="INV-1", payment_id=THIS, reason="payment_not_awaited")
    ]
    assert await stands(environment) == [("open", 2)]
