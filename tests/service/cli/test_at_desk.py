"""`remit payments` and `remit dead-letters` with REMIT_DESK_URL: a real desk is asked by real HTTP, with a token, and no database."""

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
from shared.records import replace
from tests.service.cli.remit import Typed, remit
from tests.support.databases import rows
from tests.support.desk_browser import DeskUnderTest, open_desk
from tests.support.environment import Environment
from tests.support.hostile import HOSTILE as HOSTILE_TEXTS
from tests.support.kept_cases import LIMIT, keep_case
from tests.support.kept_letters import event, keep, payment
from tests.support.ports import free_port

HOSTILE = " ".join(HOSTILE_TEXTS[name] for name in ("escape sequences", "C1 controls", "direction overrides", "markup"))
WHY = ("--evidence", "its books show no charge", "--reason", "none")


class DeskByHttp:
    """A desk that listens, and `remit` as it asks it."""

    def __init__(self, desk: DeskUnderTest, url: str, token: str) -> None:
        self.desk, self.url, self.token = desk, url, token

    async def remit(self, *arguments: str, **variables: str) -> Typed:
        """Run `remit payments` beside the desk, without any database."""
        return await self.run("payments", *arguments, **variables)

    async def run(self, *arguments: str, stdin: str = "", **variables: str) -> Typed:
        """Run `remit` beside the desk, without any database."""
        asked = {"REMIT_DESK_URL": self.url, "REMIT_DESK_TOKEN": self.token, **variables}
        return await remit(*arguments, environment=None, stdin=stdin, **asked)


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
        token = await desk.token("robot", Role.RESOLVER, Role.REPLAYER, Role.VIEWER)
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
    unset = await at_desk.run("dead-letters", "list", REMIT_DESK_TOKEN="")
    assert (unset.code, unset.err.startswith("remit: REMIT_DESK_TOKEN is not set")) == (2, True), unset
    for variables, sentence in (
        ({"REMIT_DESK_TOKEN": "wrong"}, "REMIT_DESK_TOKEN: "),
        ({"REMIT_DESK_TOKEN": ""}, "REMIT_DESK_TOKEN is not set"),
        ({"REMIT_DESK_URL": "http://desk.example.com"}, "REMIT_DESK_URL must begin with https://"),
        ({"REMIT_DESK_URL": f"http://127.0.0.1:{free_port()}"}, "The desk at REMIT_DESK_URL does not answer"),
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


# -- dead letters ------------------------------------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_shown_replayed_and_discarded(
    environment: Environment, at_desk: DeskByHttp
) -> None:
    desk = at_desk.desk
    one, two, paying = await keep(
        desk.desk.database, event(1), event(2), payment("INV-1", 12_50, desk.clock), clock=desk.clock
    )
    listed = await at_desk.run("dead-letters", "list")
    assert (listed.code, "PayInvoice" in listed.out, "12.50 EUR" in listed.out) == (0, True, True), listed
    of_queue = await at_desk.run("dead-letters", "list", "--queue", "saga.events", "--json")
    assert {row["id"] for row in of_queue.json} == {str(one), str(two)}
    by_id = await at_desk.run("dead-letters", "list", "--id", str(one), "--json")
    assert [row["id"] for row in by_id.json] == [str(one)]
    hostile = replace(event(3), queue="saga.deadlines", type=HOSTILE, error_text=HOSTILE, headers={HOSTILE: HOSTILE})
    (strange,) = await keep(desk.desk.database, replace(hostile, body=HOSTILE.encode()), clock=desk.clock)
    for arguments in (["list"], ["show", str(strange)]):
        told = await at_desk.run("dead-letters", *arguments)
        assert (told.code, "\x1b" in told.out, "\u202e" in told.out) == (0, False, False), told
    shown = await at_desk.run("dead-letters", "show", str(paying)[-8:])
    assert (shown.code, "INV-1" in shown.out, "pm_card_visa" in shown.out) == (0, True, False), shown
    replayed = await at_desk.run("dead-letters", "replay", str(one), "nonsense", "--json")
    assert (replayed.code, [result["ok"] for result in replayed.json]) == (1, [True, False]), replayed
    again = await at_desk.run("dead-letters", "replay", str(one), "--json")
    assert [result["refusal"] for result in again.json] == ["already_replayed"], again
    refused = await at_desk.run("dead-letters", "replay", "--queue", "saga.events", stdin="n\n")
    assert (refused.code, "Replay 1 messages?" in refused.err) == (1, True), refused
    filtered = await at_desk.run("dead-letters", "replay", "--queue", "saga.events", "--yes")
    assert filtered.code == 0, filtered
    discarded = await at_desk.run("dead-letters", "discard", str(paying), "--reason", "paid otherwise")
    assert discarded.code == 0, discarded
    assert await outbox(environment) == 3
    journal = await rows(environment.databases["staff"], "SELECT DISTINCT who, details ->> 'via' AS via FROM journal")
    assert {(entry["who"], entry["via"]) for entry in journal} >= {("robot", "api")}


async def test_what_is_old_or_many_is_for_the_desk_itself(environment: Environment, at_desk: DeskByHttp) -> None:
    desk = at_desk.desk
    await keep(desk.desk.database, *(event(number) for number in range(51)), clock=desk.clock)
    many = await at_desk.run("dead-letters", "replay", "--all", "--yes")
    assert (many.code, "go as a run: preview it at the desk" in many.err) == (2, True), many
    old = await at_desk.run("dead-letters", "replay", "--all", "--charge-old")
    assert (old.code, "At the desk a second person takes in what is old" in old.err) == (2, True), old
    assert await outbox(environment) == 0
