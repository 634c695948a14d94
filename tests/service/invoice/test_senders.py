"""Senders with names, on the real broker: each has its own commands, answers and invoices, and learns of no other's."""

import asyncio
from uuid import UUID, uuid4

import pytest

from services.invoice.__main__ import assemble
from services.invoice.rebuild import rebuild
from services.staff.actions.dead_letters import discard, replay
from services.staff.people import at_terminal
from services.staff.store import Selection
from shared.clock import system_clock
from shared.contracts import invoice as messages
from shared.contracts.invoice import AnswerReason
from shared.ids import id_of_command
from shared.persistence.database import Database
from tests.service.invoice.conftest import ISSUE, OTHER, PAY, VOID, Two, letters, staffed
from tests.service.invoice.test_refund_invoice import REFUND
from tests.support.databases import execute, outbox_is_empty, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, UpstreamClient
from tests.support.waiting import until

UNKNOWN, TAKEN = AnswerReason.UNKNOWN_INVOICE.value, AnswerReason.ALREADY_ISSUED.value
ISSUE_2 = ISSUE.model_copy(update={"invoice_id": "INV-2"})


async def answers_of(environment: Environment, count: int) -> list[tuple[str | None, UUID | None, str | None]]:
    """Sender, id and reason of all answers, once there are so many."""

    async def stored() -> list[tuple[str | None, UUID | None, str | None]] | None:
        found = await rows(
            environment.databases["invoice"], "SELECT sender, sent_id, reason FROM answers ORDER BY answered_at"
        )
        return [(row["sender"], row["sent_id"], row["reason"]) for row in found] if len(found) >= count else None

    return await until(stored, what=f"{count} answers") or []


@pytest.mark.usefixtures("named")
async def test_an_invoice_belongs_to_who_issued_it(environment: Environment, senders: Two) -> None:
    billing, shop = senders
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE) == ("accepted", None)
        never = await shop.sends(PAY.model_copy(update={"invoice_id": "INV-never"}))
        others = await shop.sends(PAY)
        assert await shop.hears(VOID) == ("rejected", UNKNOWN)
        assert await shop.hears(REFUND) == ("rejected", UNKNOWN)
        assert await shop.hears(ISSUE) == ("rejected", TAKEN), "ids of invoices are of all senders together"
        assert await billing.hears(PAY) == ("accepted", None)
        assert await shop.hears(PAY) == ("rejected", UNKNOWN), "whatever became of it"
    assert _without_id(never) == _without_id(others), "nothing tells an invoice of another from one that does not exist"
    url = environment.databases["invoice"]
    assert await rows(url, "SELECT owner FROM invoices") == [{"owner": billing.name}]
    assert await rows(url, "SELECT type, owner FROM events ORDER BY version") == [
        {"type": "Issued.1", "owner": billing.name},
        {"type": "PaymentRequested.1", "owner": None},
    ]


@pytest.mark.usefixtures("named")
async def test_an_invoice_that_staff_asked_about_before_belongs_to_who_issued_it(
    environment: Environment, upstream: UpstreamClient, senders: Two
) -> None:
    billing, _ = senders
    asked = messages.RequestRefund(
        invoice_id="INV-1", payment_id=uuid4(), refund_id=uuid4(), currency="EUR", reason="a typo", requested_by="ann"
    )
    url = environment.databases["invoice"]
    async with environment.running("invoice", assemble):
        await upstream.send(asked)

        async def rejected() -> bool:
            return bool(await rows(url, "SELECT 1 FROM events"))

        await until(rejected, what="the refusal")
        assert await billing.hears(ISSUE) == ("accepted", None)
        assert await billing.hears(PAY) == ("accepted", None)
    assert await rows(url, "SELECT owner FROM invoices") == [{"owner": billing.name}]
    database = await Database.open(url, name="test", connections_max=4)
    try:
        assert (await rebuild(database, system_clock, repair=False)).differing == ()
    finally:
        await database.close()


def _without_id(answer: Received) -> dict[str, object]:
    return {name: value for name, value in answer.data.items() if name != "command_id"}


@pytest.mark.usefixtures("named")
async def test_a_group_shares_its_invoices(
    environment: Environment, senders: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing, shop = senders
    monkeypatch.setenv("SENDER_GROUPS", f"{billing.name},{shop.name}")
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE) == ("accepted", None)
        assert await shop.hears(PAY) == ("accepted", None)


@pytest.mark.usefixtures("named")
async def test_the_same_id_from_another_sender_is_another_command(
    environment: Environment, upstream: UpstreamClient, senders: Two
) -> None:
    billing, shop = senders
    events = await upstream.tap("invoice.events", "#")
    id_ = uuid4()
    async with environment.running("invoice", assemble):
        first = await billing.sends(ISSUE, id_)
        other = await shop.sends(ISSUE_2, id_)
        again = await billing.sends(ISSUE, id_)
        assert await billing.hears(ISSUE_2, id_) == ("rejected", AnswerReason.COMMAND_ID_REUSED.value)
        assert await shop.hears(VOID, id_) == ("rejected", AnswerReason.COMMAND_ID_REUSED.value)
        # in one batch as well
        shared = uuid4()
        pay = [PAY, PAY.model_copy(update={"invoice_id": "INV-2", "payment_id": OTHER})]
        both = await asyncio.gather(billing.sends(pay[0], shared), shop.sends(pay[1], shared))
        await outbox_is_empty(environment.databases["invoice"])
    assert [one.data["answer"] for one in (first, other, again, *both)] == ["accepted"] * 5
    assert {one.data["command_id"] for one in (first, other, again)} == {str(id_)}
    assert again.id == first.id != other.id
    issued = await events.waiting()
    assert len({one.id for one in issued}) == len(issued)
    assert {UUID(one.event["causationid"]) for one in issued} == {id_of_command(sender.name, id_) for sender in senders}
    assert {one.event["correlationid"] for one in issued} == {str(id_)}


@pytest.mark.usefixtures("named")
async def test_a_command_of_nobody_is_refused(environment: Environment, upstream: UpstreamClient, senders: Two) -> None:
    """It is answered in the store and by an event. Nobody knows whose queue its `reply_to` is, so nothing goes there."""
    billing, _ = senders
    events, id_ = await upstream.tap("invoice.events", "#"), uuid4()
    async with environment.running("invoice", assemble):
        await billing.client.send(ISSUE, message_id=id_, reply_to=billing.inbox.name, named=False)
        rejected = await events.next()
        assert await billing.hears(ISSUE, id_) == ("accepted", None), "it did not spend the id of somebody with a name"
    assert (rejected.data["command_id"], rejected.data["reason"]) == (str(id_), "sender_unknown")
    assert (await answers_of(environment, 2))[0] == (None, id_, "sender_unknown")


@pytest.mark.usefixtures("named")
async def test_no_answer_goes_to_another_sender(
    environment: Environment, upstream: UpstreamClient, senders: Two
) -> None:
    billing, shop = senders
    events = await upstream.tap("invoice.events", "#")
    async with environment.running("invoice", assemble):
        await billing.client.send(ISSUE, reply_to=shop.inbox.name)
        assert (await events.next()).data["reason"] == "reply_to_not_allowed"
        await billing.client.send_raw(b"PAY ME", message_id=str(uuid4()), reply_to=shop.inbox.name)
        assert (await events.next()).data["reason"] == "not_json"
        assert await billing.hears(ISSUE) == ("accepted", None)
    assert await shop.inbox.waiting() == []


@pytest.mark.usefixtures("named")
async def test_a_replayed_command_is_still_that_of_its_sender(environment: Environment, senders: Two) -> None:
    """Two senders send the same unknown message under one id: two dead letters, each of its own sender, replayed and discarded apart."""
    billing, shop = senders
    id_ = uuid4()
    async with staffed(environment) as database:
        for sender in senders:
            unknown = "remit.invoice.IssueInvoice.v9"
            await sender.client.send(ISSUE, message_id=id_, reply_to=sender.inbox.name, type=unknown)
        kept = await letters(environment, 2)
        assert {row["sender"] for row in kept} == {billing.name, shop.name}
        assert all(result.ok for result in await replay(database, Selection(), who=at_terminal("kim")))
        again = await letters(environment, 2, seen=2)
        assert [row["sender"] for row in again] == [row["sender"] for row in kept], (
            "it failed again, as the same dead letter"
        )
        # a later build can read it: so does this one once the row says so
        await execute(
            environment.databases["staff"],
            "UPDATE dead_letters SET body = convert_to(replace(convert_from(body, 'UTF8'), '.v9', '.v1'), 'UTF8') WHERE sender = $1",
            billing.name,
        )
        first, second = (Selection(ids=(row["id"],)) for row in kept)  # type: ignore[arg-type]
        of_billing, of_shop = (first, second) if kept[0]["sender"] == billing.name else (second, first)
        assert (await replay(database, of_billing, who=at_terminal("kim")))[0].ok
        answer = await billing.inbox.next()
        assert (await discard(database, of_shop, who=at_terminal("kim"), reason="a test"))[0].ok
        discarded = await shop.inbox.next()
        assert await billing.hears(PAY) == ("accepted", None), "the invoice is that of the sender, not of staff"
        assert await shop.hears(ISSUE_2, id_) == ("rejected", AnswerReason.COMMAND_ID_REUSED.value)
    assert (answer.data["answer"], answer.data["command_id"]) == ("accepted", str(id_))
    assert (discarded.data["reason"], discarded.data["command_id"]) == ("discarded", str(id_))


@pytest.mark.usefixtures("named")
async def test_a_sender_cannot_pass_for_another(environment: Environment, senders: Two) -> None:
    billing, shop = senders
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE) == ("accepted", None)
        body = PAY.model_dump_json().encode()
        await shop.client.send_raw(
            body,
            content_type="application/json",
            message_id=str(uuid4()),
            reply_to=shop.inbox.name,
            headers={
                "ce-specversion": "1.0",
                "ce-id": str(uuid4()),
                "ce-type": PAY.wire_name,
                "ce-source": "/shop",
                "x-remit-sender": billing.name,
                "x-remit-replays": 1,
            },
        )
        assert (await shop.inbox.next()).data["reason"] == UNKNOWN


async def test_a_command_keeps_its_answer_when_senders_get_names(
    environment: Environment, senders: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when they lose them again. Invoices of which nobody knows the owner are nobody's, until a setting says whose."""
    billing, shop = senders
    trusted, named, nameless = uuid4(), uuid4(), uuid4()
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE, trusted) == ("accepted", None)
        await billing.client.send(ISSUE_2, message_id=nameless, reply_to=billing.inbox.name, named=False)
        assert (await billing.inbox.next()).data["answer"] == "accepted"
    monkeypatch.setenv("SENDERS", "named")
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE, trusted) == ("accepted", None)
        assert await shop.hears(ISSUE, trusted) == ("rejected", TAKEN), "that one is another command"
        assert await billing.hears(ISSUE_2, nameless) == ("accepted", None), (
            "nobody knows whose it was, and it is the same"
        )
        assert await billing.hears(VOID, named) == ("accepted", None)
        pay_2 = PAY.model_copy(update={"invoice_id": "INV-2"})
        assert await billing.hears(pay_2) == ("rejected", UNKNOWN)
    monkeypatch.setenv("UNOWNED_INVOICES", billing.name)
    async with environment.running("invoice", assemble):
        assert await shop.hears(pay_2) == ("rejected", UNKNOWN)
        assert await billing.hears(pay_2) == ("accepted", None)
    monkeypatch.setenv("SENDERS", "trusted")
    async with environment.running("invoice", assemble):
        assert await billing.hears(VOID, named) == ("accepted", None)
    found = await rows(environment.databases["invoice"], "SELECT 1 FROM answers")
    assert len(found) == 7


@pytest.mark.usefixtures("named")
async def test_owners_are_rebuilt_from_the_events(environment: Environment, senders: Two) -> None:
    billing, _ = senders
    url = environment.databases["invoice"]
    async with environment.running("invoice", assemble):
        assert await billing.hears(ISSUE) == ("accepted", None)
    await execute(url, "UPDATE invoices SET owner = 'somebody else'")
    database = await Database.open(url, name="test", connections_max=4)
    try:
        assert (await rebuild(database, system_clock, repair=True)).differing == ("INV-1",)
        assert (await rebuild(database, system_clock, repair=False)).differing == ()
    finally:
        await database.close()
    assert await rows(url, "SELECT owner FROM invoices") == [{"owner": billing.name}]
