"""`remit payments` with REMIT_DESK_URL: the desk is asked with a token, and no database. The desk is a real one, behind real HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from uuid import UUID, uuid4

import pytest
import uvicorn

from deploy.cli.desk_client import DeskClient
from deploy.cli.output import CliError
from services.staff.domain import CaseStatus, DecisionRefusal
from services.staff.people import Role
from services.staff.proposals import ProposalRefusal
from tests.service.cli.remit import Typed, remit
from tests.support.databases import rows
from tests.support.desk_browser import DeskUnderTest, open_desk
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, keep_case

WHY = ("--evidence", "its books show no charge", "--reason", "none")


class DeskByHttp:
    """A desk that listens, and `remit` as it asks it."""

    def __init__(self, desk: DeskUnderTest, url: str, token: str) -> None:
        self.desk, self.url, self.token = desk, url, token

    async def remit(self, *arguments: str, **variables: str) -> Typed:
        """Run `remit payments` beside the desk, without any database."""
        asked = {"REMIT_DESK_URL": self.url, "REMIT_DESK_TOKEN": self.token, **variables}
        return await remit("payments", *arguments, environment=None, **asked)


@asynccontextmanager
async def _listening(desk: DeskUnderTest) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(desk.app, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving


@pytest.fixture
async def at_desk(environment: Environment) -> AsyncIterator[DeskByHttp]:
    async with open_desk(environment.databases["staff"]) as desk, _listening(desk) as url:
        token = await desk.token("robot", Role.RESOLVER, Role.VIEWER)
        secret = token.headers["authorization"].removeprefix("Bearer ")
        yield DeskByHttp(desk, url, secret)


async def outbox(environment: Environment) -> int:
    return len(await rows(environment.databases["staff"], "SELECT unnest(ids) FROM outbox"))


async def test_a_case_is_listed_shown_and_decided(environment: Environment, at_desk: DeskByHttp) -> None:
    payment_id = await keep_case(at_desk.desk.desk.database, LIMIT)
    listed = await at_desk.remit("in-doubt")
    assert (listed.code, "INV-1" in listed.out, "500.00 EUR" in listed.out) == (0, True, True), listed
    assert [row["invoice_id"] for row in json.loads((await at_desk.remit("in-doubt", "--json")).out)] == ["INV-1"]
    shown = await at_desk.remit("show", str(payment_id)[-8:])
    assert (shown.code, "needs a decision" in shown.out, "HTTP 503" in shown.out) == (0, True, True), shown
    assert (await at_desk.remit("ask", str(payment_id))).code == 0
    early = await at_desk.remit("resolve", str(payment_id), "not_charged", "--version", "3", *WHY, "--json")
    (refused,) = json.loads(early.out)
    assert (early.code, refused["refusal"]) == (1, DecisionRefusal.VERSION_DIFFERS)
    done = await at_desk.remit("resolve", str(payment_id), "not_charged", "--version", "4", *WHY)
    assert (done.code, "Decided: not charged" in done.out) == (0, True), done
    assert await outbox(environment) == 2
    journal = await rows(environment.databases["staff"], "SELECT who, details FROM journal WHERE action = 'resolve'")
    assert [(entry["who"], entry["details"]["via"]) for entry in journal] == [("robot", "api")]


async def test_above_the_limit_a_program_proposes_nothing(environment: Environment, at_desk: DeskByHttp) -> None:
    payment_id = await keep_case(at_desk.desk.desk.database)
    done = await at_desk.remit("resolve", str(payment_id), "not_charged", "--version", "4", *WHY, "--json")
    (refused,) = json.loads(done.out)
    assert (done.code, refused["refusal"]) == (1, ProposalRefusal.NOT_ALLOWED), done
    assert (await at_desk.remit("withdraw", str(payment_id))).code == 1
    assert await outbox(environment) == 0


async def test_money_is_given_back_and_a_decision_taken_back(environment: Environment, at_desk: DeskByHttp) -> None:
    database = at_desk.desk.desk.database
    settled = await keep_case(database, LIMIT, status=CaseStatus.NOT_CHARGED, decided_by="ben")
    done = await at_desk.remit("reopen", str(settled), "--version", "4", "--reason", "a wrong line")
    assert done.code == 0, done
    refund = await at_desk.remit(
        "refund", str(uuid4()), "--invoice", "INV-1", "--currency", "EUR", "--amount-minor", "9", "--reason", "r"
    )
    assert refund.code == 0, refund
    assert await outbox(environment) == 2


async def test_what_is_wrong_with_desk_or_token_is_a_sentence(at_desk: DeskByHttp) -> None:
    none = await at_desk.remit("show", str(uuid4()))
    assert (none.code, none.err.strip()) == (1, "remit: There is no case of this payment.")
    assert (await at_desk.remit("show", "not-an-id")).code == 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for variables, sentence in (
        ({"REMIT_DESK_TOKEN": "wrong"}, "REMIT_DESK_TOKEN: "),
        ({"REMIT_DESK_TOKEN": ""}, "REMIT_DESK_TOKEN is not set"),
        ({"REMIT_DESK_URL": "http://desk.example.com"}, "REMIT_DESK_URL must begin with https://"),
        ({"REMIT_DESK_URL": f"http://127.0.0.1:{port}"}, "The desk at REMIT_DESK_URL does not answer"),
    ):
        told = await at_desk.remit("in-doubt", **variables)
        assert (told.code, told.err.startswith(f"remit: {sentence}")) == (2, True), told


async def test_an_act_whose_answer_is_lost_is_sent_again_and_done_once(
    environment: Environment, at_desk: DeskByHttp
) -> None:
    payment_id = await keep_case(at_desk.desk.desk.database, LIMIT)
    asked: list[str] = []

    class Losing(DeskClient):
        def _once(self, method: str, path: str, body: Mapping[str, object] | None) -> object:
            answer = super()._once(method, path, body)
            asked.append(path)
            if len(asked) == 1:
                raise ConnectionResetError
            return answer

    client = Losing(at_desk.url, at_desk.token)
    result = await asyncio.to_thread(client.act, payment_id, f"/cases/{payment_id}/ask")
    assert (result.ok, len(asked), isinstance(result.entry, UUID)) == (True, 2, True)
    assert await outbox(environment) == 1


async def test_what_is_no_desk_is_told(at_desk: DeskByHttp) -> None:
    client = DeskClient(f"{at_desk.url}/sign-in?x=", at_desk.token)
    with pytest.raises(CliError, match="is no staff desk of Remit"):
        await asyncio.to_thread(client.get, "/cases")
