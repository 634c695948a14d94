"""VoidInvoice on the public queue: the answer to its sender, and the published events."""

from uuid import uuid4

from shared.contracts.invoice import AnswerReason, InvoiceVoided
from shared.ids import derived_id
from tests.service.invoice.conftest import ISSUE, PAY, VOID, InvoiceConversation, accepted, rejected, stands
from tests.support.conversation import contents
from tests.support.environment import Environment


async def test_accepted(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    id_ = uuid4()
    left = await invoice.when(VOID, message_id=id_)
    assert contents(left) == [accepted(id_), InvoiceVoided(invoice_id="INV-1", reason="a mistake")]
    assert left[1].id == str(derived_id(id_, 0))
    assert await stands(environment) == [("void", 2)]


async def test_rejected_while_a_payment_is_under_way(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY)
    id_ = uuid4()
    left = await invoice.when(VOID, message_id=id_)
    assert contents(left) == rejected(VOID, id_, AnswerReason.PAYMENT_UNDER_WAY)
    assert await stands(environment) == [("payment_pending", 2)]


async def test_a_repeated_command_is_answered_again(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    id_ = uuid4()
    answer, _ = await invoice.when(VOID, message_id=id_)
    (again,) = await invoice.when(VOID, message_id=id_)
    assert (again.id, again.content) == (answer.id, answer.content)
    assert await stands(environment) == [("void", 2)]
