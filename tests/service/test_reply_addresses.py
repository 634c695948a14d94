"""Crafted reply addresses against the real broker: those that are answered never end the connection of whoever publishes to them."""

import random
import struct
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from shared.amqp.broker_link import BrokerLink
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.reply_address import DIRECT, kind_of, problem_of
from shared.messaging.routes import APART_MAX
from shared.persistence.database import Database
from shared.persistence.outbox import ANSWER_REFUSALS_MAX
from tests.support.environment import Environment
from tests.support.publishing_lanes import PublishingLanes
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

ADDRESSES = 400
KEY = b64encode(bytes(16)).decode()


class Answers:
    """The answers that came by direct reply-to, and the address of who awaits them."""

    def __init__(self) -> None:
        self.address = ""
        self.ids: list[str | None] = []

    async def take(self, message: AbstractIncomingMessage) -> None:
        self.ids.append(message.message_id)


@pytest.fixture
async def answers(environment: Environment) -> AsyncIterator[Answers]:
    """An asker that awaits its answers by direct reply-to. The broker writes its address."""
    connection = await aio_pika.connect(environment.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        opened = Answers()
        await (await channel.get_queue(DIRECT, ensure=False)).consume(opened.take, no_ack=True)
        questions = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"?", reply_to=DIRECT), questions.name, timeout=10)
        message = await questions.get(no_ack=True, timeout=10)
        assert message is not None
        assert message.reply_to is not None
        opened.address = message.reply_to
        yield opened


@pytest.fixture
def direct(answers: Answers) -> str:
    """The address of an asker that awaits its answer by direct reply-to."""
    return answers.address


def crafted(direct: str, chance: random.Random) -> str:
    """An address that somebody made out of a real one."""
    process_id, key = direct.removeprefix(f"{DIRECT}.").split(".")
    data = bytearray(b64decode(process_id))
    for _ in range(chance.randint(1, 3)):
        match chance.randrange(4):
            case 0:
                data[chance.randrange(len(data))] = chance.randrange(256)
            case 1:
                del data[chance.randrange(len(data))]
            case 2:
                data.insert(chance.randrange(len(data)), chance.randrange(256))
            case _:
                data[-12:] = chance.choice([b"\xff" * 12, b"\x00" * 12, chance.randbytes(12)])  # no such process
    return f"{DIRECT}.{b64encode(bytes(data)).decode()}.{chance.choice([key, KEY, 'BBBB', ''])}"


async def test_the_address_that_the_broker_writes_is_answered(direct: str) -> None:
    assert problem_of(direct) is None


def is_process_of_any_erlang(address: str) -> bool:
    """Whether every Erlang can have such a process: OTP 25 has numbers of 15 bits and serials of 13."""
    id_, serial, _ = struct.unpack(">III", b64decode(address.split(".")[3])[-12:])
    return int(id_) < 2**15 and int(serial) < 2**13


async def test_no_answered_address_of_a_process_that_can_be_ends_the_connection(
    environment: Environment, direct: str
) -> None:
    """The name of the node is kept, since only the broker knows its nodes. The publisher isolates what only the broker knows."""
    chance = random.Random(18)
    made = [crafted(direct, chance) for _ in range(ADDRESSES)]
    node = b64decode(direct.removeprefix(f"{DIRECT}.").split(".")[0])[:-12]
    names = ["amq.gen-JzTY20BRgKO-HjmUJj0wLg", "x" * 255, "ü" * 127, " ", "a b", "#", "*.*", "%00", "'; --", "日本"]
    answered = [
        address
        for address in [*made, *names]
        if problem_of(address) is None and (address in names or node in b64decode(address.split(".")[3]))
    ]
    assert len(answered) > len(names) + ADDRESSES // 40, "the generator makes enough of both kinds"
    assert len(answered) < ADDRESSES
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test answers"), lane=Lane.OUTSIDE)
    answers = [Outgoing(uuid4(), "", address, "t", "c", b"{}", droppable=True) for address in answered]
    published = await publisher.publish(answers)
    await publisher.close()
    assert (published.failed, published.unencodable) == ([], [])
    assert len(published.confirmed) + len(published.unroutable) + len(published.poison) == len(answered)
    deadly = [answer.routing_key for answer in answers if answer.id in published.poison]
    assert not any(address in names or is_process_of_any_erlang(address) for address in deadly)


def of_unknown_node(number: int) -> str:
    """An address of the right form. RabbitMQ 3.10 ends the connection over it, and later ones only drop the message."""
    node = b"reply@%d" % number
    process_id = b"\x83Xw" + bytes([len(node)]) + node + bytes(12)
    return f"{DIRECT}.{b64encode(process_id).decode()}.{KEY}"


async def test_an_address_of_an_unknown_node_is_isolated(environment: Environment, direct: str) -> None:
    unknown = of_unknown_node(123)
    assert problem_of(unknown) is None
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test answers"), lane=Lane.OUTSIDE)
    await publisher.keep_open()
    answers = [Outgoing(uuid4(), "", address, "t", "c", b"{}", droppable=True) for address in (direct, unknown, direct)]
    published = await publisher.publish(answers)
    await publisher.close()
    assert {*published.poison, *published.unroutable, *published.confirmed} == {answer.id for answer in answers}
    assert set(published.poison) <= {answers[1].id}


FORGED = 60


async def test_the_broker_tells_an_address_of_the_node_that_we_are_connected_to(
    environment: Environment, direct: str
) -> None:
    told: list[str] = []
    link = BrokerLink(environment.stack.rabbitmq_url_of("saga"), name="test answers")
    publisher = Publisher(link, lane=Lane.OUTSIDE, tell_reply_address=told.append)
    for _ in range(3):
        await publisher.keep_open()
    assert [kind_of(address) for address in told] == [kind_of(direct)], "asked once for each connection"
    link.abort()
    await publisher.publish([answer_to(direct)])
    await publisher.keep_open()
    await publisher.close()
    assert [kind_of(address) for address in told] == [kind_of(direct)] * 2


async def test_no_honest_answer_waits_behind_forged_addresses(
    environment: Environment, lanes: PublishingLanes, answers: Answers
) -> None:
    """Not even the first one. The broker could have written each of the addresses."""
    await lanes.publishers[Lane.OUTSIDE].keep_open()
    await lanes.say(*(answer_to(of_unknown_node(number)) for number in range(FORGED)), answer_to(answers.address))
    assert await lanes.waiting() == [("retry", 0)] * FORGED

    async def came() -> bool:
        return len(answers.ids) == 1

    await until(came, what="the answer by direct reply-to")


def answer_to(address: str) -> Outgoing:
    return Outgoing(uuid4(), "", address, "t", "c", b"{}", droppable=True)


async def test_forged_addresses_beside_every_answer_harm_none(
    environment: Environment, upstream: UpstreamClient, answers: Answers
) -> None:
    """What could end the connection of all answers is never sent there."""
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    lanes = PublishingLanes(environment.rabbitmq_url, database)
    asker = await upstream.inbox()

    async def came(count: int) -> None:
        async def all_there() -> bool:
            return len(answers.ids) == count

        await until(all_there, what=f"{count} answers by direct reply-to")

    await lanes.say(answer_to(answers.address))
    assert await lanes.waiting() == [("retry", 0)], "the first to this node is tried alone"
    await lanes.sweep(Lane.RETRY)
    await came(1)
    await lanes.say(answer_to(asker.name))
    channel = lanes.publishers[Lane.OUTSIDE]._channel
    for number in range(FORGED):
        await lanes.say(answer_to(asker.name), answer_to(of_unknown_node(number)), answer_to(answers.address))
    await came(1 + FORGED)
    assert len(await asker.waiting()) == 1 + FORGED
    assert lanes.publishers[Lane.OUTSIDE]._channel is channel, "it was never lost"
    assert await lanes.waiting() == [("retry", 0)] * FORGED
    for _ in range(-(-FORGED // APART_MAX)):
        await lanes.sweep(Lane.RETRY)
    assert await lanes.waiting() == [], "each is given up at its first loss"
    await lanes.close()
    await database.close()


async def test_an_answer_that_was_never_tried_is_given_up_by_nobody(environment: Environment, answers: Answers) -> None:
    """Fresh forged addresses come before it in every sweep, more than are tried at once."""
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    lanes = PublishingLanes(environment.rabbitmq_url, database)
    numbers = iter(range(1_000, 10_000))
    for _ in range(ANSWER_REFUSALS_MAX + 2):
        await lanes.keep(*(answer_to(of_unknown_node(next(numbers))) for _ in range(APART_MAX)), lane=Lane.RETRY)
    await lanes.keep(answer_to(answers.address), lane=Lane.RETRY)
    for _ in range(ANSWER_REFUSALS_MAX + 1):
        await lanes.sweep(Lane.RETRY)
        assert answers.ids == []
        assert ("retry", 0) in await lanes.waiting()
    for _ in range(2):
        await lanes.sweep(Lane.RETRY)

    async def came() -> bool:
        return len(answers.ids) == 1

    await until(came, what="the answer by direct reply-to")
    await lanes.close()
    await database.close()
