"""The door over real broker and database: it tells what messages told, with the same bytes, and to nobody else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from services.invoice.__main__ import assemble
from services.staff.actions.dead_letters import discard, replay
from services.staff.people import at_terminal
from services.staff.store import Selection
from shared.contracts import invoice as messages
from shared.ids import id_of_command
from shared.observability import metrics
from shared.tokens import new_token
from shared.web.strangers import WRONG_BURST
from tests.faults.frames import Postgres
from tests.faults.proxy import Network
from tests.service.invoice.conftest import FLAG, ISSUE, MONEY, OTHER, PAY, RECORD, THIS, VOID, Two, letters, staffed
from tests.service.invoice.test_refund_invoice import REFUND
from tests.support.asked_door import AskedDoor, DoorReply, open_door
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

LATER = "remit.invoice.IssueInvoice.v9"
LONG_S = 30.0
"""A wait that ends because something happened: the test would notice if it lasted so long."""


@pytest.fixture
async def door(environment: Environment, named: None) -> AsyncIterator[AskedDoor]:
    async with open_door(environment) as opened:
        yield opened


def data_of(message: Received) -> bytes:
    """The bytes of a message's `data`, which come last in it."""
    return bytes(message.message.body.split(b'"data":', 1)[1][:-1])


async def settled(door: AskedDoor, sender: str, path: str) -> DoorReply:
    """What is told once nothing is under way."""
    told = await door.ask(sender, path, wait=LONG_S)
    assert (told.status, told.json["under_way"], told.seconds < LONG_S / 2) == (200, False, True)
    return told


# -- what is told ------------------------------------------------------------------------------------------------------------------------


async def test_a_command_has_the_one_answer_that_the_message_told(
    environment: Environment, door: AskedDoor, senders: Two
) -> None:
    billing, _ = senders
    first, wrong = uuid4(), uuid4()
    async with environment.running("invoice", assemble):
        accepted = await billing.sends(ISSUE, first)
        rejected = await billing.sends(ISSUE, wrong)
        asked = {id_: await door.ask(billing.name, f"/commands/{id_}") for id_ in (first, wrong)}
        assert (await billing.sends(ISSUE, first)).id == accepted.id
        reused = await billing.sends(VOID, first)
        assert [await door.ask(billing.name, f"/commands/{id_}") for id_ in asked] == list(asked.values()), (
            "neither a repetition nor another command under its id changes what is told"
        )
    assert data_of(accepted) in asked[first].content
    assert data_of(rejected) in asked[wrong].content
    assert data_of(reused) not in asked[first].content
    assert asked[wrong].json == {
        "id": str(wrong),
        "type": ISSUE.wire_name,
        "state": "rejected",
        "under_way": False,
        "invoice_id": "INV-1",
        "answer": rejected.data,
        "set_aside_because": None,
        "set_aside_at": None,
    }


async def test_a_command_refused_for_card_data_is_told_until_it_comes_without_them(
    environment: Environment, door: AskedDoor, senders: Two
) -> None:
    billing, _ = senders
    id_ = uuid4()
    async with environment.running("invoice", assemble):
        refused = await billing.sends(ISSUE.model_copy(update={"customer_id": "4111111111111111"}), id_)
        assert data_of(refused) in (await door.ask(billing.name, f"/commands/{id_}")).content
        accepted = await billing.sends(ISSUE, id_)
        assert data_of(accepted) in (await door.ask(billing.name, f"/commands/{id_}")).content


class Story:
    """What the saga says of a payment, and what everybody hears."""

    def __init__(self, upstream: UpstreamClient, events: Subscription, door: AskedDoor, sender: str) -> None:
        self._upstream, self._events, self._door, self._sender = upstream, events, door, sender
        self.heard: list[Received] = []

    async def goes_on(self, message: Any, *, paid_by: UUID, events: int = 1) -> DoorReply:
        """The message is handled, so many events are heard, and the door tells the whole story so far, byte for byte."""
        await self._upstream.send(message)
        self.heard += await self._events.take(events)
        told = await self._door.ask(self._sender, f"/payments/{paid_by}")
        about = [one for one in self.heard if one.data.get("payment_id") == str(paid_by)]
        assert b",".join(bytes(one.message.body) for one in about) in told.content
        assert [one["id"] for one in told.json["events"]] == [one.id for one in about]
        invoice = await self._door.ask(self._sender, "/invoices/INV-1")
        assert b",".join(bytes(one.message.body) for one in self.heard) in invoice.content
        return told


def stands(told: DoorReply) -> tuple[str, bool, int]:
    return told.json["state"], told.json["under_way"], told.json["refunded_minor"]


async def test_a_payment_and_its_invoice_are_told_with_every_event(
    environment: Environment, upstream: UpstreamClient, door: AskedDoor, senders: Two
) -> None:
    billing, _ = senders
    events = await upstream.tap("invoice.events", "#")
    story = Story(upstream, events, door, billing.name)
    declined = messages.RecordPaymentFailure(
        invoice_id="INV-1", payment_id=OTHER, outcome="declined", reason="card_declined"
    )
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE) == ("accepted", None)
        story.heard += await events.take(1)
        assert await billing.hears(PAY.model_copy(update={"payment_id": OTHER})) == ("accepted", None)
        assert stands(await door.ask(billing.name, f"/payments/{OTHER}")) == ("pending", True, 0)
        assert stands(await story.goes_on(declined, paid_by=OTHER)) == ("declined", False, 0)
        assert await billing.hears(PAY) == ("accepted", None)
        assert stands(await door.ask(billing.name, f"/payments/{THIS}")) == ("pending", True, 0)
        assert (await door.ask(billing.name, "/invoices/INV-1")).json["state"] == "payment_pending"
        assert stands(await story.goes_on(FLAG, paid_by=THIS)) == ("in_doubt", True, 0)
        assert stands(await story.goes_on(RECORD, paid_by=THIS)) == ("paid", False, 0)
        asked = REFUND.model_copy(update={"amount_minor": 200})
        assert await billing.hears(asked) == ("accepted", None)
        story.heard += await events.take(1)
        assert stands(await door.ask(billing.name, "/invoices/INV-1")) == ("paid", True, 0)
        made = messages.RecordRefund(
            invoice_id="INV-1", payment_id=THIS, refund_id=asked.refund_id, version=7, **MONEY | {"amount_minor": 200}
        )
        assert stands(await story.goes_on(made, paid_by=THIS)) == ("paid", False, 200)
        invoice = (await door.ask(billing.name, "/invoices/INV-1")).json
        assert stands(await door.ask(billing.name, f"/payments/{OTHER}")) == ("declined", False, 0)
    del invoice["events"]
    assert invoice == {
        "id": "INV-1",
        "state": "paid",
        "under_way": False,
        "customer_id": "C-1",
        **MONEY,
        "payment_id": str(THIS),
        "receipt_number": "ch_1",
        "refunded_minor": 200,
        "earlier_events": False,
    }


async def test_what_is_set_aside_is_told_so_until_staff_replay_or_discard_it(
    environment: Environment, door: AskedDoor, senders: Two
) -> None:
    billing, _ = senders
    replayed, discarded = uuid4(), uuid4()
    async with staffed(environment) as database:
        for id_, command in ((replayed, ISSUE), (discarded, VOID)):
            await billing.client.send(command, message_id=id_, reply_to=billing.inbox.name, type=LATER)
        kept = {row["event_id"]: row["id"] for row in await letters(environment, 2)}
        for id_ in (replayed, discarded):
            told = (await door.ask(billing.name, f"/commands/{id_}")).json
            assert (told["state"], told["under_way"], told["answer"]) == ("set_aside", True, None)
            assert told["set_aside_because"] == "unknown_version"
        waiting = [
            asyncio.create_task(settled(door, billing.name, f"/commands/{id_}")) for id_ in (replayed, discarded)
        ]
        await execute(
            environment.databases["staff"],
            "UPDATE dead_letters SET body = convert_to(replace(convert_from(body, 'UTF8'), '.v9', '.v1'), 'UTF8')",
        )
        by_id = {id_: Selection(ids=(kept[id_],)) for id_ in (replayed, discarded)}  # type: ignore[arg-type]
        assert (await replay(database, by_id[replayed], who=at_terminal("kim")))[0].ok
        accepted = await billing.inbox.next()
        assert (await discard(database, by_id[discarded], who=at_terminal("kim"), reason="it came twice"))[0].ok
        rejected = await billing.inbox.next()
        told_replayed, told_discarded = await asyncio.gather(*waiting)
    assert data_of(accepted) in told_replayed.content
    assert data_of(rejected) in told_discarded.content
    assert told_discarded.json["answer"]["reason"] == "discarded"


# -- waiting -----------------------------------------------------------------------------------------------------------------------------


async def test_waiting_ends_when_it_happens(
    environment: Environment, upstream: UpstreamClient, door: AskedDoor, senders: Two
) -> None:
    """What is not known yet is waited for as well."""
    billing, _ = senders
    command = uuid4()
    async with environment.running("invoice", assemble):
        waiting = [
            asyncio.create_task(settled(door, billing.name, path))
            for path in (f"/commands/{command}", "/invoices/INV-1")
        ]
        await until_waiting(2)
        await billing.sends(ISSUE, command)
        answer, invoice = await asyncio.gather(*waiting)
        assert (answer.json["state"], invoice.json["state"]) == ("accepted", "open")
        await billing.sends(PAY)
        waiting = [
            asyncio.create_task(settled(door, billing.name, path)) for path in (f"/payments/{THIS}", "/invoices/INV-1")
        ]
        await until_waiting(2)
        await upstream.send(FLAG)
        await until(lambda: _is_in_doubt(environment), what="the doubt")
        doubtful = await door.ask(billing.name, f"/payments/{THIS}", wait=0.3)
        assert (doubtful.json["state"], doubtful.seconds >= 0.3) == ("in_doubt", True), "a doubt is no outcome"
        await upstream.send(RECORD)
        payment, invoice = await asyncio.gather(*waiting)
    assert (payment.json["state"], invoice.json["state"]) == ("paid", "paid")


async def _is_in_doubt(environment: Environment) -> bool:
    return bool(await rows(environment.databases["invoice"], "SELECT 1 FROM invoices WHERE status = 'in_doubt'"))


async def until_waiting(count: int) -> None:
    async def so_many() -> bool:
        return bool(metrics.DOOR_WAITING._value.get() == count)

    await until(so_many, what=f"{count} requests to wait")


async def test_a_thousand_wait_at_one_process(environment: Environment, door: AskedDoor) -> None:
    ids = [uuid4() for _ in range(1_000)]
    await door.token("shop")
    waiting = [asyncio.create_task(door.ask("shop", f"/commands/{id_}", wait=LONG_S)) for id_ in ids]
    await until_waiting(1_000)
    await execute(
        environment.databases["invoice"],
        """INSERT INTO answers (command_id, command_type, answer, correlation_id, sender, sent_id)
           SELECT id, 'x', 'accepted', 'x', 'shop', sent FROM unnest($1::uuid[], $2::uuid[]) AS u (id, sent)""",
        [id_of_command("shop", id_) for id_ in ids],
        ids,
    )
    told = await asyncio.gather(*waiting)
    assert [one.json["answer"]["command_id"] for one in told] == [str(id_) for id_ in ids]
    assert max(one.seconds for one in told) < LONG_S
    assert metrics.DOOR_WAITING._value.get() == 0


async def test_whoever_goes_away_waits_no_longer(door: AskedDoor) -> None:
    waiting = asyncio.create_task(door.ask("shop", f"/commands/{uuid4()}", wait=LONG_S))
    await until_waiting(1)
    waiting.cancel()
    await until_waiting(0)


async def test_no_wait_outlives_the_process_and_the_next_one_tells_the_same(
    environment: Environment, named: None, senders: Two
) -> None:
    billing, _ = senders
    command, never = uuid4(), uuid4()
    async with environment.running("invoice", assemble):
        answer = await billing.sends(ISSUE, command)
    async with open_door(environment) as first:
        before = await first.ask(billing.name, f"/commands/{command}")
        waiting = asyncio.create_task(first.ask(billing.name, f"/commands/{never}", wait=LONG_S))
        await until_waiting(1)
        first.stop()
        told = await waiting
    assert (told.status, told.seconds < LONG_S / 2) == (404, True)
    async with open_door(environment) as second:
        second.tokens.update(first.tokens)
        assert await second.ask(billing.name, f"/commands/{command}") == before
    assert data_of(answer) in before.content


# -- whose it is -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [None, 0.3])
async def test_a_thing_of_another_sender_looks_like_one_that_does_not_exist(
    wait: float | None, environment: Environment, door: AskedDoor, senders: Two
) -> None:
    billing, shop = senders
    command = uuid4()
    async with environment.running("invoice", assemble):
        await billing.sends(ISSUE, command)
        await billing.sends(PAY)
    for of_billing, nobodys in (
        (f"/commands/{command}", f"/commands/{uuid4()}"),
        (f"/payments/{THIS}", f"/payments/{uuid4()}"),
        ("/invoices/INV-1", "/invoices/INV-9"),
    ):
        assert (await door.ask(billing.name, of_billing)).status == 200
        others, never = [await door.ask(shop.name, path, wait=wait) for path in (of_billing, nobodys)]
        assert others == never
        assert (others.status, others.json["code"]) == (404, "unknown")
        assert min(others.seconds, never.seconds) >= (wait or 0)


async def test_a_group_shares_invoices_and_not_commands(
    environment: Environment, named: None, senders: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing, shop = senders
    monkeypatch.setenv("SENDER_GROUPS", f"{billing.name},{shop.name}")
    command = uuid4()
    async with environment.running("invoice", assemble), open_door(environment) as door:
        await billing.sends(ISSUE, command)
        await billing.sends(PAY)
        asked = [
            await door.ask(shop.name, path) for path in ("/invoices/INV-1", f"/payments/{THIS}", f"/commands/{command}")
        ]
    assert [one.status for one in asked] == [200, 200, 404]


async def test_trusted_senders_may_ask_for_everything(environment: Environment, senders: Two) -> None:
    billing, shop = senders
    command = uuid4()
    async with environment.running("invoice", assemble), open_door(environment) as door:
        await billing.sends(ISSUE, command)
        await billing.sends(PAY)
        asked = [
            await door.ask(shop.name, path) for path in ("/invoices/INV-1", f"/payments/{THIS}", f"/commands/{command}")
        ]
    assert [one.status for one in asked] == [200, 200, 200]


async def test_what_came_before_senders_had_names_is_told_to_whoever_may_use_it(
    environment: Environment, senders: Two, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing, shop = senders
    of_billing, nobodys = uuid4(), uuid4()
    async with environment.running("invoice", assemble):
        await billing.sends(ISSUE, of_billing)
        await billing.client.send(VOID, message_id=nobodys, reply_to=billing.inbox.name, named=False)
        await billing.inbox.next()
    monkeypatch.setenv("SENDERS", "named")
    paths = [f"/commands/{of_billing}", f"/commands/{nobodys}"]
    async with open_door(environment) as door:
        found = [[(await door.ask(one.name, path)).status for path in paths] for one in senders]
    assert found == [[200, 404], [404, 404]]
    monkeypatch.setenv("UNOWNED_INVOICES", shop.name)
    async with open_door(environment) as door:
        found = [[(await door.ask(one.name, path)).status for path in paths] for one in senders]
    assert found == [[200, 404], [404, 200]]


# -- tokens ------------------------------------------------------------------------------------------------------------------------------


async def test_without_a_token_that_holds_nothing_is_told(door: AskedDoor) -> None:
    path, secret = f"/commands/{uuid4()}", await door.token("shop")
    refused = [
        await door.get(path, header) for header in (None, f"Basic {secret}", f"Bearer {secret}x", "Bearer é", secret)
    ]
    assert {(one.status, one.headers.get("www-authenticate"), one.content) for one in refused} == {
        (401, "Bearer", refused[0].content)
    }
    assert (await door.get(path, f"Bearer {secret}")).status == 404
    waiting = asyncio.create_task(door.ask("shop", path, wait=LONG_S))
    await until_waiting(1)
    await door.revoke("shop")
    assert (await door.ask("shop", path)).status == 401
    waiting.cancel()


async def test_a_token_that_is_revoked_meanwhile_is_told_nothing(environment: Environment, door: AskedDoor) -> None:
    command = uuid4()
    waiting = asyncio.create_task(door.ask("shop", f"/commands/{command}", wait=LONG_S))
    await until_waiting(1)
    await door.revoke("shop")
    await execute(
        environment.databases["invoice"],
        "INSERT INTO answers (command_id, command_type, answer, correlation_id) VALUES ($1, 'x', 'accepted', 'x')",
        id_of_command("shop", command),
    )
    await execute(environment.databases["invoice"], "UPDATE answers SET sender = 'shop'")
    assert (await waiting).status == 401


async def test_many_wrong_tokens_are_slowed_down_and_keep_no_right_one_out(door: AskedDoor) -> None:
    path = f"/commands/{uuid4()}"
    wrong = [await door.get(path, f"Bearer {new_token()}") for _ in range(WRONG_BURST)]
    assert {one.status for one in wrong} == {401}
    while wrong[-1].status == 401 and len(wrong) < 3 * WRONG_BURST:  # on a slow machine a few more are let in meanwhile
        wrong.append(await door.get(path, f"Bearer {new_token()}"))
    assert (wrong[-1].status, int(wrong[-1].headers["retry-after"]) >= 1) == (429, True)
    assert (await door.ask("shop", path)).status == 404


# -- trouble -----------------------------------------------------------------------------------------------------------------------------


async def test_while_the_database_is_away_nothing_is_guessed(
    network: Network, environment: Environment, named: None, senders: Two
) -> None:
    billing, _ = senders
    command = uuid4()
    async with environment.running("invoice", assemble):
        await billing.sends(ISSUE, command)
    proxy = network.stand_before(environment.stack.database_url_of("invoice", "door"), speaks=Postgres)
    async with open_door(environment, database_url=proxy.url) as door:
        before = await door.ask(billing.name, f"/commands/{command}")
        waiting = asyncio.create_task(door.ask(billing.name, f"/commands/{uuid4()}", wait=5.0))
        await until_waiting(1)
        proxy.refuse()
        proxy.reset()
        for path in (f"/commands/{command}", f"/commands/{uuid4()}", "/invoices/INV-1"):
            away = await door.ask(billing.name, path)
            assert (away.status, away.headers["retry-after"], away.json["code"]) == (503, "5", "away")
        assert (await waiting).status == 503
        proxy.heal()
        assert await door.ask(billing.name, f"/commands/{command}") == before


async def test_an_event_of_a_newer_build_is_not_guessed_at(
    environment: Environment, door: AskedDoor, senders: Two
) -> None:
    billing, _ = senders
    async with environment.running("invoice", assemble):
        await billing.sends(ISSUE)
    await execute(environment.databases["invoice"], "UPDATE events SET type = 'Issued.9'")
    told = await door.ask(billing.name, "/invoices/INV-1")
    assert (told.status, told.json["code"], told.headers["retry-after"]) == (503, "away", "5")


PAN = "4111111111111111"


async def test_what_can_never_be_an_id_is_told_at_once(door: AskedDoor) -> None:
    """And whoever mixed up the ids is told which one it is."""
    for path, words in (
        ("/commands/INV-1", "id of the event"),
        ("/payments/INV-1", "payment_id of your PayInvoice"),
        (f"/payments/{UUID(int=7).hex}", "with hyphens"),
        (f"/invoices/{'x' * 256}", "No invoice can have this id"),
        ("/invoices/a%07b", "No invoice can have this id"),
    ):
        told = await door.ask("shop", path, wait=LONG_S)
        assert (told.status, told.json["code"], told.seconds < LONG_S / 2) == (404, "no_such_id", True)
        assert words in told.json["detail"]


@pytest.mark.parametrize(
    "path",
    [
        f"/invoices/{PAN}",
        f"/commands/{PAN}",
        f"/payments/4111-1111-1111-1111?x={PAN}",
        f"/invoices/INV%00{PAN}",
        f"/invoices/INV%0d%0aSet-Cookie:%20{PAN}",
        f"/invoices/%ff%fe{PAN}",
        f"/invoices/%ed%a0%80{PAN}",
        f"/invoices/../../{PAN}",
        f"/invoices/{'x' * 300}{PAN}",
        f"/{PAN}",
        f"/invoices/{PAN}/",
        f"/commands/%7B{UUID(int=7)}%7D",
    ],
)  # fmt: skip
async def test_what_reads_as_a_card_number_is_neither_logged_nor_echoed(path: str, door: AskedDoor) -> None:
    with capture_logs() as lines:
        told = await door.ask("shop", path)
        wrong = await door.ask("shop", f"{path}{'&' if '?' in path else '?'}wait={PAN}")
    assert (told.status, wrong.status in {404, 422}) == (404, True)
    for answer in (told, wrong):
        assert PAN not in f"{answer.headers}{answer.content!r}".replace("-", "")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    assert lines
    assert PAN not in str(lines).replace("-", "")


async def test_bytes_that_are_no_request_are_refused_without_an_echo(door: AskedDoor) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    with capture_logs() as lines:
        for line in (
            b"GET /commands/%s\xff HTTP/1.1",
            b"\x16\x03\x01%s",
            b"GET http://%s:99999999/ HTTP/1.1",
            b"GET %s",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(line % PAN.encode() + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(10):
                said = await reader.read()
            writer.close()
            assert PAN.encode() not in said, line
            assert not said or said.split()[1] in {b"400", b"404", b"405"}, (line, said)
    assert PAN not in str(lines)
    assert (await door.ask("shop", f"/commands/{uuid4()}")).status == 404


async def test_an_invoice_number_with_a_slash_is_found_however_it_is_written(
    environment: Environment, door: AskedDoor, senders: Two
) -> None:
    billing, _ = senders
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE.model_copy(update={"invoice_id": "INV/2026 #1"})) == ("accepted", None)
    for path in ("/invoices/INV/2026%20%231", "/invoices/INV%2F2026%20%231"):
        assert (await door.ask(billing.name, path)).json["id"] == "INV/2026 #1"
