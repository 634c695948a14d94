"""Faults between a sender and its exchange (row 1): sending again with the same id is harmless, and an unroutable command is noticed."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelPreconditionFailed

from deploy.demo.scenes import AMOUNT_MINOR, CURRENCY, Stage
from deploy.demo.upstream import Upstream
from deploy.local.stack import UPSTREAM
from shared.contracts.base import Contract
from shared.contracts.invoice import IssueInvoice, RecordPayment
from shared.ids import new_id
from shared.messaging.codec import BODY_BYTES_MAX, STRUCTURED
from tests.faults.frames import Amqp, FrameEvent
from tests.faults.network import network
from tests.faults.planted import unbind
from tests.faults.proxy import RESET, SILENCE, Proxy, Then
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial

FAMILY: Final = "sender"
COMMANDS: Final = "invoice.commands"
SENT: Final = 6
ENDS_WITHIN_S: Final = 60.0


def _issue() -> IssueInvoice:
    return IssueInvoice(
        invoice_id=f"sender-{new_id()}", customer_id="C-1", amount_minor=AMOUNT_MINOR, currency=CURRENCY
    )


def _event(command: Contract, command_id: UUID) -> bytes:
    data = command.model_dump(mode="json")
    return json.dumps(
        {"specversion": "1.0", "id": str(command_id), "type": command.wire_name, "source": "/faults", "data": data}
    ).encode()


# -- what is lost on the way -----------------------------------------------------------------------------------------------------------


async def _over_a_line(testbed: Testbed, note: Note, *, disturb: Callable[[Proxy], Callable[[], int]]) -> None:
    """A sender behind a proxy sends unconfirmed commands again under their ids; every payment is made once."""
    proxy = network().stand_before(testbed.system.stack.rabbitmq_url_of(UPSTREAM), speaks=Amqp)
    name = f"sender-{new_id()}"
    keys = testbed.system.public_keys["keys"]
    assert isinstance(keys, list)
    async with Upstream.open(proxy.url, name=name, history=testbed.system.history) as upstream:
        stage = Stage(upstream, keys[0])
        fired = disturb(proxy)
        try:
            results = await asyncio.gather(*(_pay(stage, f"{name}-{number}") for number in range(SENT)))
        finally:
            proxy.heal()
        note.fired(fired())
    note.mended()
    assert results == ["paid"] * SENT, f"each should be paid, but the results are {results}"


async def _pay(stage: Stage, invoice_id: str) -> str:
    async with asyncio.timeout(2 * ENDS_WITHIN_S):
        await stage.issue(invoice_id)
        return await stage.pay_and_wait(stage.pay(invoice_id, "pm_card_visa"))


def _confirm_lost(proxy: Proxy, *, then: Then) -> Callable[[], int]:
    """Lose the second confirm. There may be no third: the broker may confirm all issues at once, and all payments at once."""
    rule = proxy.drop(FrameEvent.CONFIRM, nth=2, then=then)
    return lambda: rule.fired


# -- unroutable and oversized commands ------------------------------------------------------------------------------------------------


async def _returned(testbed: Testbed, note: Note) -> None:
    """No queue takes commands: the broker returns them, and the sender publishes them again until one does."""
    await unbind(testbed, COMMANDS)
    try:
        came_back = await _is_returned(testbed)
        note.fired(came_back)
        asked = asyncio.create_task(testbed.upstream.ask(_issue()))
        await asyncio.sleep(1.0)
        assert not asked.done(), "answered, though no queue took it"
    finally:
        await testbed.apply_topology()
    note.mended()
    async with asyncio.timeout(ENDS_WITHIN_S):
        _, answer = await asked
    assert answer.answer == "accepted"


async def _is_returned(testbed: Testbed) -> bool:
    command, command_id = _issue(), new_id()
    try:
        await _publish(testbed.system.stack.rabbitmq_url_of(UPSTREAM), command.exchange, command, command_id)
    except aio_pika.exceptions.PublishError:
        return True
    return False


async def _oversized(testbed: Testbed, note: Note) -> None:
    """A command that is larger than allowed is answered, and stored nowhere."""
    command = _issue()
    data = command.model_dump(mode="json") | {"customer_id": "C" * (BODY_BYTES_MAX + 1)}
    command_id = await testbed.upstream.send(command, data=data)
    answer = await testbed.upstream.answer(command_id, within_s=ENDS_WITHIN_S)
    assert (answer.answer, answer.reason) == ("rejected", "too_large"), f"{answer}"
    note.fired()
    note.mended()


# -- rights ----------------------------------------------------------------------------------------------------------------------------


async def _wrong_user(testbed: Testbed, note: Note) -> None:
    """A user with a sender's rights can neither publish as another user nor write to internal exchanges; its own command is taken."""
    url = testbed.system.stack.rabbitmq_url_of(UPSTREAM)
    forged = RecordPayment(
        invoice_id="forged", payment_id=new_id(), amount_minor=1, currency=CURRENCY, receipt_number="forged"
    )
    note.fired(await _is_refused(url, "settlement.commands", forged, because=ChannelAccessRefused))
    somebody = _issue()
    note.fired(
        await _is_refused(url, somebody.exchange, somebody, because=ChannelPreconditionFailed, user="somebody-else")
    )
    note.fired(await _is_refused(url, "", _issue(), because=ChannelAccessRefused, key="saga.events"))
    own, own_id = _issue(), new_id()
    testbed.note_sent(own_id, own.wire_name)
    await _publish(url, own.exchange, own, own_id, user=UPSTREAM)
    await _until_taken(testbed, own_id)
    note.mended()
    assert note.count == 3, f"{3 - note.count} of three attempts were not refused"


async def _until_taken(testbed: Testbed, command_id: UUID) -> None:
    async def seen() -> bool:
        return command_id in testbed.tap.seen(COMMANDS)

    await testbed.until(seen, what="the queue receives the sender's own command")


async def _is_refused(
    url: str, exchange: str, command: Contract, *, because: type[Exception], user: str | None = None, key: str = ""
) -> bool:
    try:
        await _publish(url, exchange, command, new_id(), user=user, key=key)
    except because:
        return True
    return False


async def _publish(
    url: str, exchange: str, command: Contract, command_id: UUID, *, user: str | None = None, key: str = ""
) -> None:
    """Publish once with a confirm; raises the broker's error."""
    connection = await aio_pika.connect(url, timeout=10)
    try:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        to = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        message = aio_pika.Message(
            _event(command, command_id),
            content_type=STRUCTURED,
            message_id=str(command_id),
            user_id=user,
            delivery_mode=2,
        )
        await to.publish(message, routing_key=key or command.wire_name, timeout=10)
    finally:
        await _close(connection)


async def _close(connection: AbstractConnection) -> None:
    with suppress(AMQPError, OSError, TimeoutError):
        await connection.close()


def trials() -> Sequence[Trial]:
    """Each trial on the broker that the services use."""
    runs: dict[str, tuple[str, Callable[[Testbed, Note], Awaitable[None]]]] = {
        "confirm_lost": (
            "the sender's confirm is lost, then its connection is cut",
            partial(_over_a_line, disturb=partial(_confirm_lost, then=RESET)),
        ),
        "confirm_lost_in_silence": (
            "the sender's confirm is lost, and all that follows",
            partial(_over_a_line, disturb=partial(_confirm_lost, then=SILENCE)),
        ),
        "returned": ("no queue takes commands: they are returned", _returned),
        "oversized": (f"a command of more than {BODY_BYTES_MAX} bytes", _oversized),
        "wrong_user": ("a sender writes as another user, to our internal exchange, to our queue", _wrong_user),
    }
    return [
        Trial(
            f"{FAMILY}/{name}",
            FAMILY,
            injects,
            run,
            estimate_s=20.0,
            touches=frozenset({"invoice"}),
            short=name == "wrong_user",
        )
        for name, (injects, run) in runs.items()
    ]
