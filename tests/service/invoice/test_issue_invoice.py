"""IssueInvoice on the public queue: the answer to its sender, and the published events."""

import shlex
from uuid import uuid4

from shared.contracts.invoice import AnswerReason
from shared.ids import derived_id
from tests.service.cli.remit import remit
from tests.service.invoice.conftest import ISSUE, ISSUED, InvoiceConversation, accepted, rejected, stands
from tests.support.conversation import causes, contents
from tests.support.environment import Environment


async def test_accepted(environment: Environment, invoice: InvoiceConversation) -> None:
    id_ = uuid4()
    left = await invoice.when(ISSUE, message_id=id_, correlationid="flow-1")
    assert contents(left) == [accepted(id_), ISSUED]
    assert causes(left) == {(id_, "flow-1")}
    assert left[1].id == str(derived_id(id_, 0))
    assert await stands(environment) == [("open", 1)]


async def test_rejected_if_it_was_issued_before(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    id_ = uuid4()
    left = await invoice.when(ISSUE, message_id=id_)
    assert contents(left) == rejected(ISSUE, id_, AnswerReason.ALREADY_ISSUED)
    assert await stands(environment) == [("open", 1)]


async def test_a_repeated_command_is_answered_again(environment: Environment, invoice: InvoiceConversation) -> None:
    id_ = uuid4()
    answer, _ = await invoice.when(ISSUE, message_id=id_)
    (again,) = await invoice.when(ISSUE, message_id=id_)
    assert (again.id, again.content) == (answer.id, answer.content)
    assert await stands(environment) == [("open", 1)]


async def test_numbers_of_invoices_as_people_write_them_are_shown_and_found(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    """What `remit find` says to type next works as it stands, in a shell, too."""
    for number in ("2026/0001", "#1001", "RE 7; rm -rf '$HOME'", "-1"):
        id_ = uuid4()
        issue = ISSUE.model_copy(update={"invoice_id": number, "customer_id": "ann@example.com"})
        left = await invoice.when(issue, message_id=id_)
        assert contents(left)[0] == accepted(id_)
        found = await remit("find", "--json", "--", number, environment=environment)
        (next_,) = {match["look"] for match in found.json["found"]}
        shown = await remit(*shlex.split(next_)[1:], environment=environment)
        assert (shown.code, f"{number}: open" in shown.out) == (0, True)
