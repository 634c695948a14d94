"""CloseCommand from staff: a dead-lettered command was discarded, and its sender gets the final answer."""

from hashlib import sha256
from uuid import uuid4

import orjson

from shared.contracts.invoice import AnswerReason, CloseCommand, CommandAnswered, InvoiceCommandRejected
from tests.service.invoice.conftest import ISSUE, PAY, InvoiceConversation, accepted
from tests.support.conversation import contents
from tests.support.databases import rows
from tests.support.environment import Environment


async def test_the_sender_is_answered(environment: Environment, invoice: InvoiceConversation) -> None:
    command_id = uuid4()
    close = CloseCommand(
        command_id=command_id,
        command_type="remit.invoice.PayInvoice.v9",
        reply_to=invoice.answers_to,
        reply_correlation_id="mine",
        reason="a test",
        content_hash=sha256(
            orjson.dumps([PAY.wire_name, PAY.model_dump(mode="json")], option=orjson.OPT_SORT_KEYS)
        ).hexdigest(),
    )
    answer, rejected = await invoice.when(close)
    discarded = AnswerReason.DISCARDED.value
    assert answer.content == CommandAnswered(
        command_id=command_id, answer="rejected", reason=discarded, detail="a test"
    )
    assert answer.message.correlation_id == "mine"
    assert rejected.content == InvoiceCommandRejected(
        command_id=command_id, command_type="remit.invoice.PayInvoice.v9", invoice_id=None, reason=discarded
    )
    stored = await rows(
        environment.databases["invoice"],
        "SELECT command_id, answer, reason FROM answers WHERE command_id = $1",
        command_id,
    )
    assert stored == [{"command_id": command_id, "answer": "rejected", "reason": "discarded"}]
    (again,) = await invoice.when(PAY, message_id=command_id)
    assert again.content == answer.content, "if the command still arrives, it gets the answer of the discarded one"
    (other,) = await invoice.when(ISSUE, message_id=command_id)
    assert other.data["reason"] == AnswerReason.COMMAND_ID_REUSED.value


async def test_the_sender_of_a_command_that_was_replaced_reads_by_which(invoice: InvoiceConversation) -> None:
    """Not that it was discarded: a sender that reads so would send it again, beside the one that replaced it."""
    command_id, replaced_by = uuid4(), uuid4()
    close = CloseCommand(
        command_id=command_id,
        command_type=PAY.wire_name,
        reply_to=invoice.answers_to,
        reason="a test",
        replaced_by=replaced_by,
    )
    answer, rejected = await invoice.when(close)
    replaced = AnswerReason.REPLACED.value
    assert answer.content == CommandAnswered(
        command_id=command_id, answer="rejected", reason=replaced, detail=f"staff sent {replaced_by} in its place"
    )
    assert rejected.content == InvoiceCommandRejected(
        command_id=command_id, command_type=PAY.wire_name, invoice_id=None, reason=replaced
    )


async def test_a_command_that_nobody_could_read_is_another_one_if_it_comes_again(invoice: InvoiceConversation) -> None:
    command_id = uuid4()
    await invoice.when(CloseCommand(command_id=command_id, command_type="unread", reason="a test"))
    (answer,) = await invoice.when(ISSUE, message_id=command_id)
    assert answer.data["reason"] == AnswerReason.COMMAND_ID_REUSED.value


async def test_an_answered_command_keeps_its_answer(invoice: InvoiceConversation) -> None:
    command_id = uuid4()
    await invoice.when(ISSUE, message_id=command_id)
    close = CloseCommand(
        command_id=command_id, command_type=ISSUE.wire_name, reply_to=invoice.answers_to, reason="a test"
    )
    assert await invoice.when(close) == []
    assert contents(await invoice.when(ISSUE, message_id=command_id)) == [accepted(command_id)]
