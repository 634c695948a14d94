"""An instance recalls what it stored last; what another one stored meanwhile is found out before anything is answered."""

from uuid import UUID, uuid4

from services.invoice.__main__ import assemble
from services.invoice.handlers import InvoiceWork
from services.invoice.store import Loaded
from shared.contracts import invoice as messages
from shared.remembered import Remembered
from shared.service import Runtime
from tests.support.bus import Bus, Heard, Tap
from tests.support.databases import execute, rows
from tests.support.world import World

PAYMENT = UUID(int=77)
AMOUNT = {"amount_minor": 500, "currency": "EUR"}
ISSUE = messages.IssueInvoice(invoice_id="INV-1", customer_id="C-1", **AMOUNT)
VOID = messages.VoidInvoice(invoice_id="INV-1", reason="a mistake")
EVENT = """INSERT INTO events (stream_id, version, type, data, cause_id, cause_position, correlation_id, recorded_at)
           VALUES ('INV-1', $1, $2, $3, $4, 0, 'c', now())"""


def pay(payment_id: UUID = PAYMENT) -> messages.PayInvoice:
    return messages.PayInvoice(
        invoice_id="INV-1", payment_id=payment_id, method=messages.TokenMethod(token="pm_card_visa"), **AMOUNT
    )


async def answer(bus: Bus, answers: Tap, command: messages.UpstreamCommand) -> tuple[str, str | None]:
    await bus.send(command, reply_to=answers.name)
    heard: Heard = await answers.next()
    return heard.data["answer"], heard.data["reason"]


async def versions(world: World) -> list[int]:
    found = await rows(world.databases["invoice"], "SELECT version FROM events ORDER BY version")
    return [row["version"] for row in found]


async def test_what_another_instance_stored_cannot_be_overwritten(world: World, bus: Bus) -> None:
    answers, url = await bus.inbox(), world.databases["invoice"]
    async with world.running("invoice", assemble):
        assert await answer(bus, answers, ISSUE) == ("accepted", None)
        await execute(url, EVENT, 2, "Voided.1", '{"reason": "elsewhere"}', uuid4())
        await execute(url, "UPDATE invoices SET status = 'void', version = 2")
        assert await answer(bus, answers, pay()) == ("rejected", "invoice_void")
    assert await versions(world) == [1, 2]


async def test_nothing_is_refused_on_what_was_only_recalled(world: World, bus: Bus) -> None:
    answers, url = await bus.inbox(), world.databases["invoice"]
    async with world.running("invoice", assemble):
        assert await answer(bus, answers, ISSUE) == ("accepted", None)
        assert await answer(bus, answers, pay()) == ("accepted", None)
        failed = f'{{"payment_id": "{PAYMENT}", "outcome": "declined", "reason": "no_money"}}'
        await execute(url, EVENT, 3, "PaymentFailed.1", failed, uuid4())
        await execute(url, "UPDATE invoices SET status = 'open', version = 3, payment_id = NULL")
        assert await answer(bus, answers, pay(uuid4())) == ("accepted", None)
    assert await versions(world) == [1, 2, 3, 4]


async def test_what_was_stored_by_this_instance_is_not_read_again(world: World, bus: Bus) -> None:
    """Both queues of the process know of it."""
    read: list[set[str]] = []

    class Watched(InvoiceWork):
        async def peek(self, connection, messages_, recalled):  # type: ignore[no-untyped-def]
            read.append({self.key(message) for message in messages_} - recalled.keys())
            return await InvoiceWork.peek(self, connection, messages_, recalled)

    async def watched(runtime: Runtime) -> None:
        memory: Remembered[str, Loaded] = Remembered()
        runtime.consume("invoice.commands", Watched(answers_commands=True, remembered=memory))
        runtime.consume("invoice.settlement", Watched(answers_commands=False, remembered=memory))

    answers, events = await bus.inbox(), await bus.tap("invoice.events", messages.InvoicePaid.wire_name)
    async with world.running("invoice", watched):
        assert await answer(bus, answers, ISSUE) == ("accepted", None)
        assert await answer(bus, answers, pay()) == ("accepted", None)
        await bus.send(messages.RecordPayment(invoice_id="INV-1", payment_id=PAYMENT, receipt_number="ch_1", **AMOUNT))
        await events.next()
        assert await answer(bus, answers, VOID) == ("rejected", "already_paid")
    assert read == [{"INV-1"}, set(), set(), set(), {"INV-1"}], "the refusal was decided on what is stored"
    assert await versions(world) == [1, 2, 3]
