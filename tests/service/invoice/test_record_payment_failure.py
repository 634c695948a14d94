"""RecordPaymentFailure from the saga: it gets no answer, and its outcome is an event."""

from uuid import uuid4

from services.invoice.domain import reference_code
from shared.contracts.invoice import InvoicePaymentFailed, RecordPaymentFailure
from shared.ids import derived_id
from tests.service.invoice.conftest import (
    ISSUE,
    OTHER,
    PAY,
    REQUESTED,
    THIS,
    InvoiceConversation,
    accepted,
    stands,
)
from tests.support.conversation import contents
from tests.support.databases import rows
from tests.support.environment import Environment

FAIL = RecordPaymentFailure(invoice_id="INV-1", payment_id=THIS, outcome="declined", reason="no_funds")
FAILED = InvoicePaymentFailed(
    invoice_id="INV-1", payment_id=THIS, outcome="declined", reason="no_funds", reference_code=reference_code(THIS)
)


async def test_the_invoice_is_open_again(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY)
    id_ = uuid4()
    left = await invoice.when(FAIL, message_id=id_)
    assert contents(left) == [FAILED]
    assert left[0].id == str(derived_id(id_, 0))
    assert await stands(environment) == [("open", 3)]
    over = {"pending": False, "method": None}
    assert await rows(environment.databases["invoice"], "SELECT pending, method FROM payments") == [over]
    again, pay_otherwise = uuid4(), PAY.model_copy(update={"payment_id": OTHER})
    assert contents(await invoice.when(pay_otherwise, message_id=again)) == [
        accepted(again),
        REQUESTED.model_copy(update={"payment_id": OTHER}),
    ]


async def test_asked_again_it_publishes_the_same_event_with_the_same_id_and_bytes(invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY)
    (first,) = await invoice.when(FAIL)
    (second,) = await invoice.when(FAIL)
    assert (second.id, second.message.body) == (first.id, first.message.body)


async def test_a_stale_failure_publishes_nothing(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY)
    assert await invoice.when(FAIL.model_copy(update={"payment_id": OTHER})) == []
    assert await stands(environment) == [("payment_pending", 2)]
