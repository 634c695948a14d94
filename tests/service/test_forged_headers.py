"""Headers that only the broker and our services should write: what a sender writes there hurts no queue, and loses no command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from typing import Any, cast
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from deploy.local.stack import OPERATOR
from services.invoice.__main__ import assemble
from services.staff.__main__ import assemble as assemble_staff
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.people import at_terminal
from services.staff.store import Selection
from shared.amqp.broker_link import user_in
from shared.contracts.invoice import IssueInvoice
from shared.messaging.apply import apply_topology, check_topology, leftovers, prune_topology
from shared.messaging.codec import STRUCTURED
from shared.messaging.topology import (
    ACCEPTED_COMMANDS,
    COMMAND_ENTRY,
    COMMANDS,
    DEAD_LETTERS,
    FORMER_COMMAND_ENTRY,
    SUSPECT_COMMANDS,
    WORK_QUEUES,
)
from shared.persistence.database import Database
from tests.service.test_batch import cloud_event
from tests.support.databases import outbox_is_empty, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

CYCLE = [{"queue": DEAD_LETTERS, "reason": "expired", "count": 1, "exchange": "", "routing-keys": ["x"]}]
FORGED: dict[str, Any] = {
    "cycle": CYCLE,
    "text": "no list",
    "not-a-table": ["text"],
    "count": [{"queue": COMMANDS, "reason": "expired", "count": "many"}],
    "nothing": None,
    "number": 7,
    "truth": True,
    "bytes": bytearray(b"\x00\xff"),
    "moment": datetime(2026, 1, 1, tzinfo=UTC),
    "fraction": Decimal("1.25"),
    "empty": [],
    "table": CYCLE[0],
    "long": CYCLE * 500,
    "deep": reduce(lambda within, _: [within], range(100), cast("Any", CYCLE)),
}
"""Values of `x-death`. In a queue with dead-lettering the first stays for ever, and some others end dead-lettering for all queues."""


def issue(invoice_id: str) -> IssueInvoice:
    return IssueInvoice(invoice_id=invoice_id, customer_id="C-1", amount_minor=500, currency="EUR")


async def send(
    environment: Environment,
    body: bytes,
    *,
    headers: dict[str, Any] | None = None,
    expires_s: float | None = None,
    to: str = COMMAND_ENTRY,
) -> None:
    """Publish to the exchange for commands as a sender can, with a confirm."""
    async with await aio_pika.connect(environment.rabbitmq_url, timeout=10) as connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange(to, ensure=False)
        message = aio_pika.Message(
            body, content_type=STRUCTURED, headers=headers, expiration=expires_s, delivery_mode=2, message_id="m"
        )
        await exchange.publish(message, "any", timeout=10)


async def depths(upstream: UpstreamClient) -> tuple[int, int, int]:
    return (
        await upstream.depth(COMMANDS),
        await upstream.depth(SUSPECT_COMMANDS),
        await upstream.depth(DEAD_LETTERS),
    )


class OutsideSender:
    """A user with the permissions of a sender, and exchanges of its own that lead to the one for commands."""

    def __init__(self, channel: AbstractChannel, name: str) -> None:
        self._channel = channel
        self._name = name
        self.fed = f"{name}.feeds"
        self.alternate = f"{name}.passes-on"
        self.dying = f"{name}.dies"

    @classmethod
    @asynccontextmanager
    async def open(cls, environment: Environment) -> "AsyncIterator[OutsideSender]":
        url = environment.stack.rabbitmq_url_of(OPERATOR)
        async with await aio_pika.connect(url, timeout=10) as connection:
            sender = cls(await connection.channel(on_return_raises=True), user_in(url))
            await sender._declare()
            try:
                yield sender
            finally:
                for exchange in (sender.fed, sender.alternate, sender.dying):
                    await sender._channel.exchange_delete(exchange)

    async def _declare(self) -> None:
        below = await self._channel.get_underlay_channel()
        await below.exchange_declare(self.fed, exchange_type="fanout")
        await below.exchange_bind(COMMAND_ENTRY, self.fed)
        await below.exchange_declare(self.alternate, arguments={"alternate-exchange": COMMAND_ENTRY})
        await below.exchange_declare(self.dying, exchange_type="fanout")
        at_once: dict[str, Any] = {"x-message-ttl": 0, "x-dead-letter-exchange": COMMAND_ENTRY}
        await below.queue_declare(f"{self.dying}.queue", exclusive=True, arguments=at_once)
        await below.queue_bind(f"{self.dying}.queue", self.dying)

    async def send(self, exchange: str, headers: dict[str, Any], *, expires_s: float | None = None) -> None:
        """Publish something to an exchange, and wait for the confirm."""
        to = await self._channel.get_exchange(exchange, ensure=False)
        message = aio_pika.Message(b"{}", headers=headers, expiration=expires_s, user_id=self._name, delivery_mode=2)
        await to.publish(message, "any", timeout=10)


async def test_a_forged_death_stops_neither_the_queue_nor_the_broker_whatever_way_it_comes(
    environment: Environment, upstream: UpstreamClient
) -> None:
    async with OutsideSender.open(environment) as sender:
        for exchange in (COMMAND_ENTRY, sender.fed, sender.alternate):
            for value in FORGED.values():
                await sender.send(exchange, {"x-death": value}, expires_s=0.05)
        await sender.send(COMMAND_ENTRY, {}, expires_s=0.05)

        async def only_the_honest_one_is_dead_lettered() -> bool:
            return await depths(upstream) == (0, 0, 1)

        await until(only_the_honest_one_is_dead_lettered, what="the end of all of them")


async def test_what_died_in_a_senders_own_queue_is_suspect(environment: Environment, upstream: UpstreamClient) -> None:
    async with OutsideSender.open(environment) as sender:
        for headers in ({}, *({"x-death": value} for value in ([], CYCLE))):
            await sender.send(sender.dying, headers)

        async def all_are_suspect() -> bool:
            return await depths(upstream) == (0, 3, 0)

        await until(all_are_suspect, what="what died")


@pytest.mark.parametrize("header", ["CC", "BCC"])
async def test_a_sender_cannot_name_more_queues_for_a_command(
    header: str, environment: Environment, upstream: UpstreamClient
) -> None:
    """RabbitMQ adds what these headers name to the routing key, also when it dead-letters a message."""
    named = [DEAD_LETTERS, *(queue.name for queue in WORK_QUEUES), "remit.invoice.RecordPayment.v1"]
    async with OutsideSender.open(environment) as sender:
        await sender.send(COMMAND_ENTRY, {header: named}, expires_s=0.05)
        await until(lambda: upstream.depth(DEAD_LETTERS), what="the end of one of them")
        for exchange in (COMMAND_ENTRY, sender.fed, sender.alternate):
            await sender.send(exchange, {header: named})
        assert await depths(upstream) == (3, 0, 1)
        others = [queue.name for queue in WORK_QUEUES if queue.name != COMMANDS]
        assert [await upstream.depth(name) for name in others] == [0] * len(others)


async def test_a_command_with_a_forged_death_is_set_aside_and_its_replay_is_handled(
    environment: Environment, upstream: UpstreamClient
) -> None:
    for name, value in FORGED.items():
        await send(environment, cloud_event(issue(f"INV-{name}"), id=str(uuid4())), headers={"x-death": value})
    await upstream.send(issue("INV-1"))
    assert await depths(upstream) == (1, len(FORGED), 0)
    staff = await Database.open(environment.databases["staff"], name="test", connections_max=1)
    async with environment.running("invoice", assemble), environment.running("staff", assemble_staff):

        async def set_aside() -> list[dict[str, Any]]:
            found = await rows(environment.databases["staff"], "SELECT queue, tries FROM dead_letters")
            return found if len(found) == len(FORGED) else []

        letters = await until(set_aside, what="the dead letters")
        results = await dead_letter_actions.replay(staff, Selection(), who=at_terminal("ann"))

        async def issued() -> bool:
            return len(await rows(environment.databases["invoice"], "SELECT 1 FROM invoices")) == 1 + len(FORGED)

        await until(issued, what="the invoices")
    await staff.close()
    assert all(letter == {"queue": COMMANDS, "tries": 1} for letter in letters)
    assert all(result.ok for result in results)


async def test_a_stranger_who_binds_to_the_exchange_gets_copies_only(
    environment: Environment, upstream: UpstreamClient
) -> None:
    stranger = await upstream.tap(COMMAND_ENTRY, "")
    await upstream.send(issue("INV-1"))
    await stranger.next()
    assert await upstream.depth(COMMANDS) == 1


async def test_the_exchange_of_earlier_builds_leads_through_the_screen_until_it_is_pruned(
    environment: Environment, upstream: UpstreamClient
) -> None:
    url = environment.rabbitmq_url
    async with await aio_pika.connect(url, timeout=10) as connection:
        channel = await connection.channel()
        await channel.declare_exchange(FORMER_COMMAND_ENTRY, "fanout", durable=True)
        queue = await channel.get_queue(COMMANDS, ensure=False)
        await queue.bind(FORMER_COMMAND_ENTRY, "")
        await queue.unbind(ACCEPTED_COMMANDS, "")
    await apply_topology(url)
    for exchange in (FORMER_COMMAND_ENTRY, COMMAND_ENTRY):
        await send(environment, b"{}", headers={"x-death": CYCLE}, to=exchange)
        await send(environment, b"{}", to=exchange)
    assert await depths(upstream) == (2, 2, 0)
    assert await check_topology(url) == []
    (note,) = await leftovers(url)
    assert f"exchange {FORMER_COMMAND_ENTRY} is for senders that do not publish to {COMMAND_ENTRY} yet" in note
    await prune_topology(url)
    await apply_topology(url)
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await send(environment, b"{}", to=FORMER_COMMAND_ENTRY)
    assert await leftovers(url) == []


# -- dead letters that somebody moves ---------------------------------------------------------------------------------------------------


async def move(
    environment: Environment, message: aio_pika.abc.AbstractIncomingMessage, exchange: str, key: str
) -> None:
    """Publish a message anew as RabbitMQ's shovel does: the same body, properties and headers."""
    async with await aio_pika.connect(environment.rabbitmq_url, timeout=10) as connection:
        channel = await connection.channel(on_return_raises=True)
        to = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        moved = aio_pika.Message(
            message.body,
            headers=message.headers,
            content_type=message.content_type,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            type=message.type,
            delivery_mode=2,
        )
        await to.publish(moved, key, timeout=10)


WHERE = {
    "the exchange for commands": (COMMAND_ENTRY, "any"),
    "the queue of commands": ("", COMMANDS),
    "another work queue": ("", "invoice.settlement"),
    "the queue it was in": ("", DEAD_LETTERS),
    "the exchange it came by": (DEAD_LETTERS, COMMANDS),
}
"""Exchange and routing key by which somebody moves a dead letter."""
IDS = {place: UUID(int=number) for number, place in enumerate(WHERE, start=1)}
"""A dead letter for each place to which it is moved."""


async def letters_of_a_service(environment: Environment, upstream: UpstreamClient) -> None:
    """Commands of a later version. They have no `user_id`, which nobody vouches for once a letter came by the exchange for commands."""
    async with environment.running("invoice", assemble):
        for id_ in IDS.values():
            await upstream.send_raw(
                cloud_event(issue("INV-1"), type="remit.invoice.IssueInvoice.v9", id=str(id_)),
                message_id=str(id_),
                reply_to="nobody",
                correlation_id="C-1",
                headers={"ce-note": "n"},
                named=False,
            )
        await all_dead(upstream)
        await outbox_is_empty(environment.databases["invoice"])


async def letters_of_the_broker(environment: Environment, upstream: UpstreamClient) -> None:
    """Commands that expired before a service took them."""
    for id_ in IDS.values():
        await send(environment, cloud_event(issue("INV-1"), id=str(id_)), expires_s=0.05)
    await all_dead(upstream)


async def all_dead(upstream: UpstreamClient) -> None:
    async def there() -> bool:
        return await upstream.depth(DEAD_LETTERS) == len(IDS)

    await until(there, what="all dead letters")


@pytest.mark.parametrize("die", [letters_of_a_service, letters_of_the_broker])
async def test_a_dead_letter_that_is_moved_is_the_same_dead_letter(
    environment: Environment, upstream: UpstreamClient, die: Any
) -> None:
    await die(environment, upstream)
    taken = await (await upstream.queue(DEAD_LETTERS)).take(len(IDS))
    letters = {UUID(one.event["id"]): one.message for one in taken}
    for place, (exchange, key) in WHERE.items():
        await move(environment, letters[IDS[place]], exchange, key)
    async with environment.running("invoice", assemble):
        await all_dead(upstream)  # those that went to the invoice service are set aside again
        await outbox_is_empty(environment.databases["invoice"])
    for letter in letters.values():
        await move(environment, letter, DEAD_LETTERS, letter.routing_key or "")  # as it would have arrived

    async def both() -> list[dict[str, Any]]:
        found = await rows(environment.databases["staff"], "SELECT * FROM dead_letters WHERE seen = 2")
        return found if len(found) == len(IDS) else []

    async with environment.running("staff", assemble_staff):
        kept = await until(both, what="one record of two arrivals, for each")
    came_by_broker = die is letters_of_the_broker
    by_id = {row["event_id"]: row for row in kept}
    for place, id_ in IDS.items():
        expected = {
            "origin": "broker" if came_by_broker else "remit",
            "reason": "broker_expired" if came_by_broker else "unknown_version",
            "queue": COMMANDS,
            "exchange": COMMAND_ENTRY,
            "routing_key": "any",
            "content_type": STRUCTURED,
            "status": "open",
            "tries": 1,
            "event_id": id_,
            "body_bytes": len(by_id[id_]["body"]),
            "reply_to": None if came_by_broker else "nobody",
            "headers": {} if came_by_broker else {"ce-note": "n"},
        }
        assert {name: by_id[id_][name] for name in expected} == expected, place
    assert await rows(environment.databases["invoice"], "SELECT * FROM answers") == [], "nobody was answered"
    assert len(await rows(environment.databases["staff"], "SELECT id FROM dead_letters")) == len(IDS)


async def test_a_sender_who_forges_our_headers_cannot_have_a_person_replay_to_another_queue(
    environment: Environment, upstream: UpstreamClient
) -> None:
    forged = {"x-remit-queue": "payment_gateway.commands", "x-remit-reason": "handler_failed", "x-remit-tries": 3}
    await send(environment, b"resolve it", headers=forged)
    async with environment.running("invoice", assemble), environment.running("staff", assemble_staff):

        async def kept() -> list[dict[str, Any]]:
            return await rows(environment.databases["staff"], "SELECT queue, reason, body FROM dead_letters")

        letters = await until(kept, what="the dead letter")
    assert letters == [{"queue": COMMANDS, "reason": "moved_back", "body": b"resolve it"}]


async def test_a_moved_dead_letter_holds_up_no_neighbour(environment: Environment, upstream: UpstreamClient) -> None:
    for number in range(20):
        await send(environment, b"x", headers={"x-remit-queue": COMMANDS, "x-remit-message-id": str(number)})
        await upstream.send(issue(f"INV-{number}"))
    async with environment.running("invoice", assemble), asyncio.timeout(20):

        async def all_settled() -> bool:
            issued = await rows(environment.databases["invoice"], "SELECT 1 FROM invoices")
            return len(issued) == 20 and await upstream.depth(DEAD_LETTERS) == 20

        await until(all_settled, what="the invoices and the dead letters")
