"""Every command that the service has a route for is handled. What each one does is specified in a module of its own."""

import json

import pytest

from services.invoice.handlers import ROUTES
from shared.contracts import schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from tests.service.invoice.conftest import InvoiceConversation
from tests.support.upstream_client import UpstreamClient


@pytest.mark.parametrize("command", ROUTES, ids=lambda command: command.__name__)
async def test_a_command_is_handled_and_a_senders_command_is_answered(
    invoice: InvoiceConversation, command: type[Contract]
) -> None:
    left = await invoice.when(command.model_validate(schemas.examples_of(command)[0]))
    answers = [received for received in left if received.type == "remit.invoice.CommandAnswered.v1"]
    assert len(answers) == (command.wire_name in PUBLIC_COMMANDS)


@pytest.mark.usefixtures("invoice")
async def test_the_golden_commands_are_understood_as_they_stand(upstream: UpstreamClient) -> None:
    """Each is answered under its ids; what is refused is refused for the invoice, which nobody issued."""
    inbox = await upstream.inbox()
    for name in sorted(PUBLIC_COMMANDS, reverse=True):  # the invoice is issued last
        for golden in schemas.golden_of(BY_WIRE_NAME[name]):
            properties = golden["properties"]
            await upstream.send_raw(
                json.dumps(golden["body"]).encode(),
                exchange=golden["exchange"],
                key=golden["routing_key"],
                content_type=properties["content_type"],
                message_id=properties["message_id"],
                correlation_id=properties["correlation_id"],
                reply_to=inbox.name,
                headers=golden["headers"],
            )
            answer = await inbox.next()
            expected = (properties["message_id"], properties["correlation_id"])
            assert (answer.data["command_id"], answer.message.correlation_id) == expected
            assert answer.data["reason"] == (None if "IssueInvoice" in name else "unknown_invoice")
