"""Every command that the service has a route for is handled. What each one does is specified in a module of its own."""

import pytest

from services.invoice.handlers import ROUTES
from shared.contracts import schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import PUBLIC_COMMANDS
from tests.service.invoice.conftest import InvoiceConversation


@pytest.mark.parametrize("command", ROUTES, ids=lambda command: command.__name__)
async def test_a_command_is_handled_and_a_senders_command_is_answered(
    invoice: InvoiceConversation, command: type[Contract]
) -> None:
    left = await invoice.when(command.model_validate(schemas.examples_of(command)[0]))
    answers = [received for received in left if received.type == "remit.invoice.CommandAnswered.v1"]
    assert len(answers) == (command.wire_name in PUBLIC_COMMANDS)
