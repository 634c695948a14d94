"""A command that becomes a dead letter is noted for its sender, in the transaction that stores the dead letter."""

from uuid import UUID, uuid4

import pytest

from services.invoice import set_aside
from services.invoice.__main__ import assemble
from services.invoice.handlers import InvoiceHandler
from shared.ids import id_of_command
from shared.messaging.failures import HANDLER_FAILED
from shared.persistence.database import Database
from shared.persistence.retention import delete_page
from tests.service.invoice.conftest import ISSUE, VOID
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

LATER = "remit.invoice.IssueInvoice.v9"


async def noted(environment: Environment) -> dict[UUID, str]:
    found = await rows(environment.databases["invoice"], "SELECT command_id, reason FROM set_aside")
    return {row["command_id"]: row["reason"] for row in found}


async def until_set_aside(upstream: UpstreamClient, count: int) -> None:
    async def there() -> bool:
        return await upstream.depth("dead-letters") >= count

    await until(there, what=f"{count} dead letters")


async def test_a_command_of_a_later_version_and_one_that_fails_here_are_noted_under_their_ids(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a bug")

    later, failing, accepted = uuid4(), uuid4(), uuid4()
    async with environment.running("invoice", assemble):
        answers = await upstream.inbox()
        await upstream.send(ISSUE, message_id=accepted, reply_to=answers.name)
        await answers.next()
        await upstream.send(ISSUE, message_id=later, type=LATER)
        await until_set_aside(upstream, 1)
        monkeypatch.setattr(InvoiceHandler, "react", fails)
        await upstream.send(VOID, message_id=failing)
        await until_set_aside(upstream, 2)
    assert await noted(environment) == {later: "unknown_version", failing: HANDLER_FAILED}


async def test_with_named_senders_it_is_noted_under_the_id_of_its_answer(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDERS", "named")
    id_ = uuid4()
    async with environment.running("invoice", assemble):
        for _ in range(2):  # the second one is the same command, in one batch with the first, or set aside again
            await upstream.send(ISSUE, message_id=id_, type=LATER)
        await until_set_aside(upstream, 1)
    assert await noted(environment) == {id_of_command(upstream.user, id_): "unknown_version"}


async def test_of_a_command_that_is_set_aside_again_the_last_reason_counts(environment: Environment) -> None:
    id_, database = uuid4(), await Database.open(environment.databases["invoice"], name="test", connections_max=1)
    try:
        async with database.connection() as connection:
            for reason in ("unknown_version", HANDLER_FAILED):
                await set_aside.note(connection, {id_: reason})
    finally:
        await database.close()
    assert await noted(environment) == {id_: HANDLER_FAILED}


async def test_notes_are_forgotten_once_their_commands_have_answers(environment: Environment) -> None:
    url = environment.databases["invoice"]
    await execute(
        url,
        """INSERT INTO set_aside (command_id, reason, set_aside_at)
           SELECT md5(n::text)::uuid, 'unknown_version', now() - interval '2 days' FROM generate_series(1, 3) n""",
    )
    await execute(
        url,
        """INSERT INTO answers (command_id, command_type, answer, correlation_id)
           SELECT md5(n::text)::uuid, 'x', 'accepted', 'x' FROM generate_series(1, 2) n""",
    )
    await execute(url, "UPDATE set_aside SET set_aside_at = now() WHERE command_id = md5('2')::uuid")
    database = await Database.open(
        environment.stack.database_url_of("invoice", "invoice"), name="test", connections_max=1
    )
    try:
        async with database.connection() as connection:
            assert await delete_page(connection, set_aside.RETENTION) == 1
    finally:
        await database.close()
    assert len(await noted(environment)) == 2
