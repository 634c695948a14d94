"""Messages that end the connection at each try: they are isolated, given up or quarantined, and hold up no neighbour."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from services.invoice.__main__ import assemble
from shared.amqp.broker_link import BrokerLink
from shared.contracts import invoice
from shared.messaging import dead_letter_headers, dead_letters
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.publisher import IN_FLIGHT_MAX, Publisher
from shared.messaging.relay import Relay
from shared.messaging.topology import COMMAND_ENTRY
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.metrics import READY
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import ANSWER_LOSSES_MAX, LOSSES_MAX
from tests.support.databases import execute, rows
from tests.support.deadly_broker import DeadlyBroker, deadly_broker
from tests.support.environment import Environment
from tests.support.publishing_lanes import PublishingLanes
from tests.support.upstream_client import Subscription, UpstreamClient
from tests.support.waiting import until

DEADLY = b"it ends connections"
DATABASE = "saga"
STOPPED_S = 60.0


@pytest.fixture
async def broker(environment: Environment) -> AsyncIterator[DeadlyBroker]:
    async with deadly_broker(environment.rabbitmq_url) as opened:
        opened.deadly = {DEADLY}
        yield opened


@pytest.fixture
async def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def publisher(broker: DeadlyBroker, readiness: Readiness) -> AsyncIterator[Publisher]:
    opened = Publisher(BrokerLink(broker.url, name="test publisher"), readiness)
    await opened.keep_open()
    yield opened
    await opened.close()


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases[DATABASE], name="test", connections_max=2)
    yield opened
    await opened.close()


@pytest.fixture
async def answers(upstream: UpstreamClient) -> Subscription:
    return await upstream.inbox()


def answer(to: Subscription, body: bytes = b"{}") -> Outgoing:
    return Outgoing(uuid4(), "", to.name, "t", "c", body, droppable=True)


def command(body: bytes = b"{}") -> Outgoing:
    return Outgoing(uuid4(), COMMAND_ENTRY, "k", "t", "c", body)


# -- the publisher -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 130, 254, 255])
async def test_one_message_that_ends_connections_is_found_among_others(
    publisher: Publisher, readiness: Readiness, upstream: UpstreamClient, place: int
) -> None:
    messages = [command() for _ in range(IN_FLIGHT_MAX)]
    messages[place] = poison = command(DEADLY)
    published = await publisher.publish(messages)
    assert published.poison == [poison.id]
    assert set(published.confirmed) == {message.id for message in messages if message is not poison}
    assert (published.failed, published.refused, published.unroutable) == ([], [], [])
    assert readiness.ready, "the broker takes messages: the service is as ready as before"


async def test_several_are_found_with_few_connections(publisher: Publisher, broker: DeadlyBroker) -> None:
    messages = [command(DEADLY if number % 16 == 0 else b"{}") for number in range(64)]
    published = await publisher.publish(messages)
    assert published.poison == [message.id for message in messages if message.body == DEADLY]
    assert len(published.confirmed) == 60
    assert broker.deaths <= 4 * 7, "each costs one connection more than it can be halved"


async def test_after_poison_the_waves_grow_again(publisher: Publisher, broker: DeadlyBroker) -> None:
    await publisher.publish([command(), command(DEADLY), command()])
    deaths = broker.deaths
    published = await publisher.publish([command() for _ in range(1_000)])
    assert (len(published.confirmed), broker.deaths) == (1_000, deaths)
    assert publisher._wave_size.at_most == IN_FLIGHT_MAX


@pytest.mark.parametrize("lane", [Lane.INSIDE, Lane.OUTSIDE])
async def test_a_process_that_stood_still_blames_no_message(broker: DeadlyBroker, lane: Lane) -> None:
    """While it was stopped, the broker gave its connection up. This looks like a message that ends the connection, each time again."""
    publisher = Publisher(
        BrokerLink(broker.url, name="test publisher"),
        lane=lane,
        clock=lambda: time.monotonic() + STOPPED_S * broker.deaths,
    )
    publisher._losses_max = 3
    await publisher.keep_open()
    published = await publisher.publish([cut_off := command(DEADLY)])
    assert (published.failed, published.poison) == ([cut_off.id], []), "left to the sweeper"
    broker.deadly.clear()
    assert (await publisher.publish([cut_off])).confirmed == [cut_off.id]
    await publisher.close()


async def test_what_a_restart_of_the_broker_cuts_off_is_not_to_blame(
    publisher: Publisher, broker: DeadlyBroker, readiness: Readiness
) -> None:
    """The connection is gone when the message is written, and the broker is back at once."""
    for _ in range(20):
        one = command()
        broker.cut_all()
        published = await publisher.publish([one])
        assert (published.poison, published.confirmed) == ([], [one.id])
    assert readiness.ready


async def test_a_broker_that_does_not_come_back_blames_nobody(publisher: Publisher, broker: DeadlyBroker) -> None:
    broker.away = True
    messages = [command(DEADLY), command()]
    published = await publisher.publish(messages)
    assert (published.failed, published.poison) == ([message.id for message in messages], [])


# -- what becomes of it ------------------------------------------------------------------------------------------------------------------


async def store(database: Database, *messages: Outgoing) -> list[outbox.OutboxBatch]:
    async with database.transaction() as tx:
        return await outbox.insert(tx, messages)


async def due(environment: Environment) -> None:
    """Make everything due that is ever tried again."""
    await execute(
        environment.databases[DATABASE], "UPDATE outbox SET sweep_after = now() WHERE sweep_after < 'infinity'"
    )


async def kept(environment: Environment) -> list[tuple[str, list[UUID], int, bool]]:
    found = await rows(
        environment.databases[DATABASE],
        "SELECT lane, ids, losses, sweep_after = 'infinity' AS quarantined FROM outbox ORDER BY losses, ids",
    )
    return [(row["lane"], row["ids"], row["losses"], row["quarantined"]) for row in found]


async def test_an_answer_that_ends_connections_is_given_up(
    environment: Environment, database: Database, broker: DeadlyBroker, answers: Subscription
) -> None:
    lanes = PublishingLanes(broker.url, database)
    poison, healthy = answer(answers, DEADLY), [answer(answers) for _ in range(5)]
    await lanes.say(*healthy[:2], poison, *healthy[2:])
    assert [one.id for one in await answers.take(5)] == [str(message.id) for message in healthy]
    for losses in range(1, ANSWER_LOSSES_MAX):
        assert await kept(environment) == [("retry", [poison.id], losses, False)]
        await lanes.sweep(Lane.RETRY)
    assert await kept(environment) == [], "its stored answer is the truth"
    await lanes.close()


async def test_a_message_of_ours_that_ends_connections_is_quarantined_and_can_be_released(
    environment: Environment, database: Database, broker: DeadlyBroker, publisher: Publisher, upstream: UpstreamClient
) -> None:
    commands = await upstream.queue("invoice.commands")
    relay = Relay(database, publisher)
    sweeper = OutboxSweeper(database, relay)
    poison, healthy = command(DEADLY), [command() for _ in range(3)]
    await relay.publish(await store(database, healthy[0], poison, *healthy[1:]))
    assert [one.id for one in await commands.take(3)] == [str(message.id) for message in healthy]
    for losses in range(1, LOSSES_MAX):
        assert await kept(environment) == [("inside", [poison.id], losses, False)]
        await due(environment)
        await sweeper.sweep()
    assert await kept(environment) == [("inside", [poison.id], LOSSES_MAX, True)]
    await due(environment)
    deaths = broker.deaths
    await sweeper.sweep()
    assert broker.deaths == deaths, "it is not tried any more"
    async with database.connection() as connection:
        (row,) = await outbox.quarantined(connection, at_most=10)
        assert (row.id, row.type, row.exchange) == (poison.id, "t", COMMAND_ENTRY)
        broker.deadly = set()  # the broker is repaired
        assert await outbox.release(connection, [poison.id]) == [poison.id]
    await sweeper.sweep()
    assert await kept(environment) == []


# -- beside healthy work -----------------------------------------------------------------------------------------------------------------

POISONED = "poisoned-address"
HEALTHY = 60


def issue(number: int) -> invoice.IssueInvoice:
    return invoice.IssueInvoice(invoice_id=f"INV-{number}", customer_id="C-1", amount_minor=500, currency="EUR")


async def test_beside_poison_every_healthy_command_is_answered_without_a_sweep(
    environment: Environment, broker: DeadlyBroker, upstream: UpstreamClient, answers: Subscription
) -> None:
    """Each poison answer ends a connection of the outside lane. No healthy answer waits until it is swept, and no event waits at all."""
    broker.deadly = {POISONED.encode()}
    events = await upstream.tap("invoice.events", "remit.invoice.InvoiceIssued.v1")
    swept = metrics.OUTBOX_SWEPT._value.get()
    async with replace(environment, rabbitmq_url=broker.url).running("invoice", assemble):
        for number in range(HEALTHY):
            await upstream.send(issue(1_000 + number), reply_to=f"{POISONED}-{number}")
            id_ = await upstream.send(issue(number), reply_to=answers.name)
            assert (await answers.next()).data["command_id"] == str(id_)
        assert len(await events.take(2 * HEALTHY)) == 2 * HEALTHY
        assert metrics.OUTBOX_SWEPT._value.get() == swept
        assert READY.labels("publisher")._value.get() == 1
        await until(lambda: _nothing_waits_inside(environment), what="the end of all events in the outbox")
    assert broker.deaths >= HEALTHY


async def _nothing_waits_inside(environment: Environment) -> bool:
    return not await rows(environment.databases["invoice"], "SELECT 1 FROM outbox WHERE lane = 'inside'")


async def test_a_dead_letter_that_small_frames_cannot_hold_is_published_without_its_headers(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator of the broker may have lowered the size of a frame."""
    letters = await upstream.queue("dead-letters")
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test outside"), lane=Lane.OUTSIDE)
    channel = await publisher._open_channel()
    monkeypatch.setattr(channel, "max_content_size", 4_088)
    names = dead_letter_headers
    kept: dict[str, str | int] = dict.fromkeys(
        (names.REASON, names.QUEUE, names.TRIES, names.FAILED_AT, names.REPLAYS), "saga.events"
    )
    large: dict[str, str | int] = {f"ce-{number}": "x" * 250 for number in range(24)}
    letter = Outgoing(uuid4(), "dead-letters", "saga.events", dead_letters.TYPE, "c", b"{}", headers=kept | large)
    assert (await publisher.publish([letter])).confirmed == [letter.id]
    await publisher.close()
    received = await letters.next()
    assert kept.items() <= received.message.headers.items()
    assert not large.keys() & received.message.headers.keys()


async def test_poison_among_dead_letters_holds_up_no_message(
    environment: Environment, broker: DeadlyBroker, upstream: UpstreamClient, answers: Subscription
) -> None:
    """What cannot be handled is safe in the outbox, so its neighbours are acknowledged although the broker does not take it."""
    broker.deadly = {DEADLY}
    async with replace(environment, rabbitmq_url=broker.url).running("invoice", assemble):
        await upstream.send_raw(DEADLY, message_id="no uuid")
        for number in range(5):
            await upstream.send(issue(number), reply_to=answers.name)
        await answers.take(5)

        async def acknowledged() -> bool:
            found = await rows(environment.databases["invoice"], "SELECT losses FROM outbox WHERE lane = 'retry'")
            return found == [{"losses": 1}]

        await until(acknowledged, what="the loss of one connection")
    assert await upstream.depth("invoice.commands") == 0
    assert await upstream.depth("dead-letters") == 0
