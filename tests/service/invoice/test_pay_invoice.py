"""PayInvoice on the public queue: the answer to its sender, and the published events."""

from uuid import uuid4

from shared.contracts.invoice import AnswerReason, CommandAnswered
from shared.ids import derived_id
from tests.service.invoice.conftest import (
    ISSUE,
    JWE,
    PAY,
    RECORD,
    REQUESTED,
    InvoiceConversation,
    accepted,
    rejected,
    stands,
)
from tests.support.conversation import causes, contents
from tests.support.databases import rows
from tests.support.environment import Environment


async def test_accepted(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    id_ = uuid4()
    left = await invoice.when(PAY, message_id=id_, correlationid="flow-1")
    assert contents(left) == [accepted(id_), REQUESTED]
    assert causes(left) == {(id_, "flow-1")}
    assert left[1].id == str(derived_id(id_, 0))
    assert await stands(environment) == [("payment_pending", 2)]


async def test_accepted_without_an_address_for_the_answer(invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    assert contents(await invoice.when(PAY, reply_to=None)) == [REQUESTED]


async def test_rejected(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    id_, wrong = uuid4(), PAY.model_copy(update={"amount_minor": 1})
    left = await invoice.when(wrong, message_id=id_, correlationid="flow-1")
    assert contents(left) == rejected(wrong, id_, AnswerReason.AMOUNT_DIFFERS)
    assert causes(left) == {(id_, "flow-1")}
    assert await stands(environment) == [("open", 1)]


async def test_rejected_for_an_invoice_that_was_never_issued(invoice: InvoiceConversation) -> None:
    id_ = uuid4()
    left = await invoice.when(PAY, message_id=id_)
    assert contents(left) == rejected(PAY, id_, AnswerReason.UNKNOWN_INVOICE)


async def test_rejected_under_a_payment_id_that_another_invoice_used(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    """The id is looked up over all invoices: `domain.Pay.payment_id_used`."""
    await invoice.given(ISSUE, PAY, ISSUE.model_copy(update={"invoice_id": "INV-2"}))
    id_, other = uuid4(), PAY.model_copy(update={"invoice_id": "INV-2"})
    left = await invoice.when(other, message_id=id_)
    assert contents(left) == rejected(other, id_, AnswerReason.PAYMENT_ID_USED)
    assert await stands(environment) == [("payment_pending", 2), ("open", 1)]


async def test_a_repeated_command_is_answered_again_and_requests_nothing(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    await invoice.given(ISSUE)
    id_ = uuid4()
    answer, _ = await invoice.when(PAY, message_id=id_)
    (again,) = await invoice.when(PAY, message_id=id_)
    assert (again.id, again.content) == (answer.id, answer.content)
    assert await stands(environment) == [("payment_pending", 2)]


async def test_a_repeated_command_is_rejected_again_whatever_has_happened_since(invoice: InvoiceConversation) -> None:
    id_ = uuid4()
    answer, _ = await invoice.when(PAY, message_id=id_)
    await invoice.given(ISSUE)
    (again,) = await invoice.when(PAY, message_id=id_)
    assert (again.id, again.content) == (answer.id, answer.content)


async def test_a_used_id_with_other_data_is_rejected_and_changes_nothing(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    await invoice.given(ISSUE)
    id_ = uuid4()
    answer, _ = await invoice.when(PAY, message_id=id_)
    other = await invoice.when(PAY.model_copy(update={"amount_minor": 1}), message_id=id_)
    assert contents(other) == [
        CommandAnswered(
            command_id=id_,
            answer="rejected",
            reason=AnswerReason.COMMAND_ID_REUSED.value,
            detail="another command came under this id before",
        )
    ]
    (again,) = await invoice.when(PAY, message_id=id_)
    assert again.content == answer.content
    assert await stands(environment) == [("payment_pending", 2)]


async def test_events_keep_only_a_fingerprint_of_an_encrypted_card(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    with_card, url = PAY.model_copy(update={"method": JWE}), environment.databases["invoice"]
    await invoice.given(ISSUE)
    _, requested = await invoice.when(with_card)
    assert requested.content == REQUESTED.model_copy(update={"method": JWE})
    stored = str(await rows(url, "SELECT data FROM events"))
    assert JWE.jwe not in stored
    assert "encrypted_card" in stored
    kept = await rows(url, "SELECT method FROM payments")
    assert kept == [{"method": {"kind": "encrypted_card", "jwe": JWE.jwe}}], "a pending payment may be requested again"
    await invoice.given(RECORD)
    assert await rows(url, "SELECT method FROM payments") == [{"method": None}], "erased when the payment has ended"
