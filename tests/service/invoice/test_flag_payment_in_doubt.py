"""FlagPaymentInDoubt from the saga: it gets no answer, and its outcome is an event."""

from uuid import uuid4

from shared.contracts.invoice import InvoicePaymentInDoubt
from shared.ids import derived_id
from tests.service.invoice.conftest import FLAG, ISSUE, PAID, PAY, RECORD, THIS, InvoiceConversation, stands
from tests.support.conversation import contents
from tests.support.environment import Environment


async def test_doubt_is_published_once_and_ends_with_the_payment(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    await invoice.given(ISSUE, PAY)
    id_ = uuid4()
    left = await invoice.when(FLAG, message_id=id_)
    assert contents(left) == [InvoicePaymentInDoubt(invoice_id="INV-1", payment_id=THIS)]
    assert left[0].id == str(derived_id(id_, 0))
    assert await invoice.when(FLAG) == []
    assert await stands(environment) == [("in_doubt", 3)]
    assert contents(await invoice.when(RECORD)) == [PAID]
