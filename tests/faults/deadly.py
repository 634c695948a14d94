"""Messages that end a connection of ours (row 18): an answer's address, a body that we publish, a body that is delivered to us.

A broker that crashes over one message is imitated by a proxy: it resets the connection whenever a text passes that only this message has.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from deploy.local.stack import Service, database_variable
from shared.ids import new_id
from shared.messaging.topology import DEAD_LETTERS, QUEUES, SUSPECT_COMMANDS
from tests.faults.crash import make_dead_letter
from tests.faults.frames import FrameEvent
from tests.faults.network import Line
from tests.faults.payments import Payments, answers_of, invoice
from tests.faults.proxy import ALWAYS, Rule
from tests.faults.ready import until_ready
from tests.faults.recovery import QUEUES_OF
from tests.faults.stranger import Stranger, take_all
from tests.faults.testbed import Testbed
from tests.faults.trial import Note
from tests.faults.workload import LATE_SUCCESS, MIX
from tests.support.databases import execute, rows

CONSUMED_BY: Final = {queue: service for service, queues in QUEUES_OF.items() for queue in queues}
EVERY_S: Final = 0.02
PAID: Final = 60
PAID_BESIDE: Final = 20
LATER_AT_MOST_S: Final = 1.0
"""How much later than twice the time without poison the last answer may come: less than the wait for a sweep, more than a busy machine
needs for the broker's reports of the connections that it ends."""
ROUNDS: Final = 3
RESETS_MIN: Final = 3
"""So often must a message have ended the connection before the healthy payments begin."""
DELIVERY_LIMIT: Final = 20
"""A policy lowers the broker's limit of 100, so that the trial is short. Healthy neighbours may reach two."""
LIMIT_MAX: Final = 1_000
"""Deliveries that a queue may allow: a message that ends connections is gone after minutes."""
LONGER_LIMIT: Final = 100
"""For a dead letter, so that cases come while it ends one connection after the other. The broker's own limit takes minutes."""
OUT_OF_THE_WAY_S: Final = 180.0
"""How long a message may stay that ends connections."""
UNREADABLE: Final = "dead-letters.unreadable"

_DIRECT: Final = "amq.rabbitmq.reply-to."
MALFORMED: Final = (
    f"{_DIRECT}AAAA.BBBB",
    f"{_DIRECT}!!!.x",
    f"{_DIRECT}g2dkAAA=.abc",  # a term of Erlang, cut off
    f"{_DIRECT}g20AAAADYWJj.key",  # a term of Erlang, and no process
    f"{_DIRECT}g2gC.AAAA",
    f"{_DIRECT}AAAA.BBBB.CCCC",
    f"{_DIRECT}.",
    _DIRECT,
    f"{_DIRECT}{'A' * 120}.{'B' * 110}",
    f"{_DIRECT}\u202e.\u200b",
    f"{_DIRECT}\0.\0",
    "amq.",
    "amq.gen-nobody",
    "invoice.commands",
    "dead-letters",
    " ",
    "\0",
    "\x1b[2J",
    "\u2028",
    "x" * 255,
)
"""Addresses for answers. Of the first five each ends the connection that publishes to it (RabbitMQ 3.10.8, measured)."""


# -- addresses of answers --------------------------------------------------------------------------------------------------------------


async def malformed_addresses(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Every 20 ms a command asks for its answer at another address that nobody can publish to. No connection of ours ends."""
    gone = await _beside(testbed, payments, note, lambda number: MALFORMED[number % len(MALFORMED)])
    assert not gone, f"connections of ours were closed: {gone}"


async def forged_addresses(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Every 20 ms a command asks for its answer at an address that only the broker can tell from a true one: each is of a node of its own.

    RabbitMQ 3.10 ends the connection that publishes there. No other answer is on it.
    """
    gone = await _beside(testbed, payments, note, of_unknown_node)
    shared = {name for name in gone if "publisher retry" not in name}
    assert not shared, f"connections of ours were closed: {shared}"


def of_unknown_node(number: int) -> str:
    """An address of direct reply-to in the form that RabbitMQ writes, of a node that does not exist."""
    node = b"reply@%d" % (number + 1)
    process_id = b"\x83Xw" + bytes([len(node)]) + node + bytes(12)
    return f"{_DIRECT}{b64encode(process_id).decode()}.{b64encode(bytes(16)).decode()}"


async def _beside(testbed: Testbed, payments: Payments, note: Note, address: Callable[[int], str]) -> set[str]:
    """All payments beside commands with these addresses are answered as fast as without. Returns the connections of ours that ended."""
    before = await payments.pay(PAID)
    ours = await connections(testbed)
    async with (
        Stranger.open(testbed.system.stack.rabbitmq_url) as stranger,
        _sending(testbed, stranger, address) as sent,
    ):
        beside = await payments.pay(PAID)
        while len(sent) < 2 * len(
            MALFORMED
        ):  # on a fast machine the payments are over before every form was sent twice
            await asyncio.sleep(EVERY_S)
    note.fired(len(sent))
    note.mended()
    await testbed.until_drained()
    note.remark(f"{len(sent)} commands beside {PAID} payments")
    gone = ours - await connections(testbed)
    as_fast_as_without(note, [*before, *await payments.pay(PAID)], beside)
    return gone


async def full_answers(testbed: Testbed, payments: Payments, note: Note) -> None:
    """A sender's queue for answers is full. Its answers are given up, and no other waits for them."""
    before = await payments.pay(PAID)
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        full = await stranger.full_queue()
        for _ in range(PAID):
            command = invoice(testbed)
            testbed.note_sent(await stranger.send(command, reply_to=full.name), command.wire_name)
        beside = await fastest(lambda: payments.pay(PAID), before)
        await testbed.until_drained()
        note.fired(PAID - len(await take_all(full)))
    note.mended()
    as_fast_as_without(note, [*before, *await payments.pay(PAID)], beside)


async def fastest(pay: Callable[[], Awaitable[list[float]]], before: Sequence[float]) -> list[float]:
    """Pay beside a fault, again if that took much longer than before. Returns the seconds of the fastest of at most `ROUNDS` rounds.

    A fault that holds answers back holds them in each round. A machine whose disk stands still for some seconds does so once.
    """
    rounds = [await pay()]
    while max(rounds[-1]) >= _latest_s(before) and len(rounds) < ROUNDS:
        rounds.append(await pay())
    return min(rounds, key=max)


def _latest_s(without: Sequence[float]) -> float:
    return 2 * max(without) + LATER_AT_MOST_S


def as_fast_as_without(note: Note, without: Sequence[float], beside: Sequence[float]) -> None:
    """Raises AssertionError if an answer beside the fault took much longer than the slowest one before and after it."""
    slowest, usual = max(beside), max(without)
    note.remark(f"the slowest answer took {slowest:.2f} s, and {usual:.2f} s before and after")
    assert slowest < _latest_s(without), f"an answer took {slowest:.1f} s, and {usual:.1f} s without the fault"


@asynccontextmanager
async def _sending(testbed: Testbed, stranger: Stranger, address: Callable[[int], str]) -> AsyncIterator[list[UUID]]:
    """Sends commands with these addresses until the block ends. Yields the ids of those sent."""
    sent: list[UUID] = []
    is_over = (
        asyncio.Event()
    )  # nothing is cancelled: a command that was published and not noted would be one that nobody sent

    async def send() -> None:
        while not is_over.is_set():
            command = invoice(testbed)
            command_id = await stranger.send(command, reply_to=address(len(sent)))
            testbed.note_sent(command_id, command.wire_name)
            sent.append(command_id)
            await asyncio.sleep(EVERY_S)

    sending = asyncio.create_task(send())
    try:
        yield sent
        assert not sending.done(), f"the sender ended: {sending.exception()}"
    finally:
        is_over.set()
        await asyncio.gather(sending, return_exceptions=True)


async def connections(testbed: Testbed) -> set[str]:
    """The connections of our services to this testbed's virtual host, by their ports and names."""
    vhost = testbed.vhost
    told = await asyncio.to_thread(
        testbed.system.stack.broker.ctl, "--silent", "list_connections", "vhost", "name", "client_properties"
    )
    listed = [line.split("\t") for line in told.splitlines()]
    named = [(name, _NAMED.search(properties)) for where, name, properties in listed if where == vhost]
    return {f"{found[1]} {name}" for name, found in named if found}


_NAMED: Final = re.compile(r'\{"connection_name","([^"]*)"\}')


# -- what we publish -------------------------------------------------------------------------------------------------------------------


async def deadly_answer(testbed: Testbed, payments: Payments, note: Note) -> None:
    """An answer that ends the connection at each try. It is given up, and nothing waits for it."""
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        address = stranger.own_name()
        async with publishing(testbed, "invoice", address) as rule:
            command = invoice(testbed)
            testbed.note_sent(await stranger.send(command, reply_to=address), command.wire_name)
            await _until_reset(testbed, rule)
            await payments.pay(PAID_BESIDE)
            await _until_given_up(testbed, address)
            note.fired(rule.fired)
    note.mended()


async def deadly_event(testbed: Testbed, payments: Payments, note: Note) -> None:
    """An event that ends the connection at each try. It is kept for a person, who releases it when the broker is mended."""
    customer = f"deadly-{new_id()}"
    async with publishing(testbed, "invoice", customer) as rule:
        await testbed.upstream.ask(invoice(testbed, customer_id=customer))
        await _until_reset(testbed, rule)
        await payments.pay(PAID_BESIDE)
        await until_quarantined(testbed, "invoice")
        note.fired(rule.fired)
    await release(testbed, "invoice")
    note.mended()


async def deadly_outcome(testbed: Testbed, payments: Payments, note: Note, *, service: Service) -> None:
    """What a service says about one payment ends its connection at each try. All others are paid meanwhile, and this one afterwards."""
    payment_id = new_id()
    async with publishing(testbed, service, str(payment_id)) as rule:
        command = await payments.begin(payment_id)
        await _until_reset(testbed, rule)
        await payments.pay(PAID_BESIDE)
        await until_quarantined(testbed, service)
        note.fired(rule.fired)
    await release(testbed, service)
    note.mended()
    await payments.until_paid(command)


async def deadly_replay(testbed: Testbed, payments: Payments, note: Note) -> None:
    """A replay that ends the connection at each try, chosen together with another. That one goes out, and so do decisions."""
    letters = [await make_dead_letter(testbed) for _ in range(2)]
    query = "SELECT message_id FROM dead_letters WHERE id = $1"
    deadly, other = [
        UUID((await rows(testbed.database("staff"), query, letter))[0]["message_id"]) for letter in letters
    ]
    async with publishing(testbed, "staff", str(deadly)) as rule:
        words = ("dead-letters", "replay", *map(str, letters), "--yes", "--who", "faults")
        done = await (await testbed.remit(*words)).result()
        assert done.code == 0, done
        await _until_reset(testbed, rule)
        testbed.play(LATE_SUCCESS)
        await _until_answered(testbed, other)
        await payments.pay(PAID_BESIDE)
        await until_quarantined(testbed, "staff")
        await testbed.played()
        note.fired(rule.fired)
    await release(testbed, "staff")
    note.mended()
    await _until_answered(testbed, deadly)


async def _until_answered(testbed: Testbed, command_id: UUID) -> None:
    async def answered() -> bool:
        return bool(await answers_of(testbed, [command_id]))

    await testbed.until(answered, what=f"an answer to {command_id}")


@asynccontextmanager
async def publishing(testbed: Testbed, service: Service, text: str) -> AsyncIterator[Rule]:
    """Reset the service's connection whenever it publishes this text, until the block ends."""
    line = await Line.lay(testbed, service, "broker")
    try:
        yield line.proxy.drop(FrameEvent.PUBLISHED, times=ALWAYS, about=text)
    finally:
        line.proxy.heal()


async def _until_reset(testbed: Testbed, rule: Rule) -> None:
    async def often() -> bool:
        return rule.fired >= RESETS_MIN

    await testbed.until(often, what=f"the connection to be reset {RESETS_MIN} times")


async def _until_given_up(testbed: Testbed, address: str) -> None:
    """Wait until the invoice service has no answer to this address to send any more."""

    async def given_up() -> bool:
        query = "SELECT 1 FROM outbox WHERE $1 = ANY(routing_keys)"
        return not await rows(testbed.database("invoice"), query, address)

    await testbed.until(given_up, what="the answer to be given up")


async def until_quarantined(testbed: Testbed, service: Service) -> None:
    """Wait until a message of this service is kept for a person, and logged. Its next try comes at once, and not after minutes."""
    log = testbed.log_of(service)

    async def quarantined() -> bool:
        await execute(testbed.database(service), _TRY_NOW)
        return bool(await rows(testbed.database(service), _QUARANTINED))

    await testbed.until(quarantined, what=f"a message of {service} to be quarantined")
    await testbed.until_logged(log, "message_quarantined")


_QUARANTINED: Final = "SELECT unnest(ids) AS id FROM outbox WHERE sweep_after = 'infinity'"
_TRY_NOW: Final = """UPDATE outbox SET sweep_after = now()
    WHERE sweep_after > now() + interval '2 seconds' AND sweep_after < 'infinity'"""


async def release(testbed: Testbed, service: Service) -> None:
    """Release the quarantined messages, as a person with the role of this service does when the broker is mended."""
    role = {database_variable(service): testbed.system.stack.database_url_of(service, service)}
    for row in await rows(testbed.database(service), _QUARANTINED):
        words = ("outbox", "release", service, str(row["id"]), "--reason", "the broker is mended", "--who", "faults")
        done = await (await testbed.remit(*words, **role)).result()
        assert done.code == 0, done


# -- what is delivered to us -----------------------------------------------------------------------------------------------------------


async def deadly_delivery(testbed: Testbed, payments: Payments, note: Note, *, queue: str) -> None:
    """Two messages that end the connection of whoever receives them, among healthy ones: the broker dead-letters just these two."""
    service = CONSUMED_BY[queue]
    texts = [f"deadly {new_id()}" for _ in range(2)]
    line = await Line.lay(testbed, service, "broker")
    await _fill_the_tap(testbed, payments)
    await testbed.stop(service)
    rules = [line.proxy.drop(FrameEvent.BODY, times=ALWAYS, about=text) for text in texts]
    try:
        async with _lower_limit(testbed, queue), Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
            await _put_among_healthy_ones(testbed, stranger, queue, texts)
            await testbed.start(service, RABBITMQ_URL=line.proxy.url)
            await payments.pay(PAID_BESIDE)
            letters = await dead_letters(testbed, texts)
            note.fired(sum(rule.fired for rule in rules))
            await until_ready(testbed, service)
    finally:
        line.proxy.heal()
    note.mended()
    assert letters == [(text, queue, "broker_delivery_limit") for text in sorted(texts)], letters


async def _fill_the_tap(testbed: Testbed, payments: Payments) -> None:
    """Let every queue get messages, which can then be delivered again."""
    testbed.play(*MIX, LATE_SUCCESS)
    await payments.pay(PAID_BESIDE)
    await testbed.until_drained()


async def _put_among_healthy_ones(testbed: Testbed, stranger: Stranger, queue: str, texts: Sequence[str]) -> None:
    """Publish each of these texts to the queue, with messages before and behind it that the queue had before. All of those are duplicates,
    but healthy: as dead letters they would be a finding of the audit."""
    neighbours = await testbed.tap.echo(queue, count=PAID_BESIDE)
    assert neighbours, f"{queue} had no message before"
    for text in texts:
        await stranger.publish(text.encode(), exchange="", key=queue, message_id=text)
        await testbed.tap.echo(queue, count=PAID_BESIDE)


async def deadly_dead_letter(testbed: Testbed, payments: Payments, note: Note) -> None:
    """A dead letter that ends the connection of the staff service. It gets out of the way, whole; others, and cases, arrive meanwhile."""
    text = f"deadly {new_id()}"
    neighbours = [f"neighbour {new_id()}" for _ in range(PAID_BESIDE)]
    line = await Line.lay(testbed, "staff", "broker")
    rule = line.proxy.drop(FrameEvent.BODY, times=ALWAYS, about=text)
    try:
        async with (
            _lower_limit(testbed, DEAD_LETTERS, limit=LONGER_LIMIT),
            Stranger.open(testbed.system.stack.rabbitmq_url) as stranger,
        ):
            consuming = await _consuming(testbed, "staff.cases")
            await stranger.publish(text.encode(), message_id=text)
            for name in neighbours:
                await stranger.publish(name.encode(), message_id=name)
            await _until_reset(testbed, rule)
            testbed.play()
            await payments.pay(PAID_BESIDE)
            await dead_letters(testbed, neighbours)
            await _until_unreadable(testbed, stranger, [text])
            assert await _consuming(testbed, "staff.cases") == consuming, "the connection for cases was lost"
        note.fired(rule.fired)
    finally:
        line.proxy.heal()
    note.mended()


async def deadly_case(testbed: Testbed, payments: Payments, note: Note) -> None:
    """A message on `staff.cases` that ends the connection. As a dead letter it does so again, and waits for a person in the end."""
    text = f"deadly {new_id()}"
    line = await Line.lay(testbed, "staff", "broker")
    rule = line.proxy.drop(FrameEvent.BODY, times=ALWAYS, about=text)
    await _fill_the_tap(testbed, payments)
    await testbed.stop("staff")
    try:
        async with (
            _lower_limit(testbed, "staff.cases", DEAD_LETTERS),
            Stranger.open(testbed.system.stack.rabbitmq_url) as stranger,
        ):
            await _put_among_healthy_ones(testbed, stranger, "staff.cases", [text])
            await testbed.start("staff", RABBITMQ_URL=line.proxy.url)
            await payments.pay(PAID_BESIDE)
            await _until_unreadable(testbed, stranger, [text])
        note.fired(rule.fired)
    finally:
        line.proxy.heal()
    note.mended()


async def deadly_suspect(testbed: Testbed, payments: Payments, note: Note) -> None:
    """A command with a forged death that also ends the connection: its queue has no dead-letter exchange. It goes nevertheless."""
    limit = next(queue.delivery_limit for queue in QUEUES if queue.name == SUSPECT_COMMANDS)
    assert limit <= LIMIT_MAX, f"{limit} deliveries, each of which ends a connection, before {SUSPECT_COMMANDS} goes on"
    text = f"deadly {new_id()}"
    neighbours = [f"neighbour {new_id()}" for _ in range(PAID_BESIDE)]
    line = await Line.lay(testbed, "invoice", "broker")
    rule = line.proxy.drop(FrameEvent.BODY, times=ALWAYS, about=text)
    try:
        async with (
            _lower_limit(testbed, SUSPECT_COMMANDS),
            Stranger.open(testbed.system.stack.rabbitmq_url) as stranger,
        ):
            for name in (text, *neighbours):
                await stranger.publish(name.encode(), message_id=name, headers={"x-death": [{"queue": DEAD_LETTERS}]})
            await payments.pay(PAID_BESIDE)
            await dead_letters(testbed, neighbours)
            await until_ready(testbed, "invoice")
        note.fired(rule.fired)
    finally:
        line.proxy.heal()
    note.mended()


@asynccontextmanager
async def _lower_limit(testbed: Testbed, *queues: str, limit: int = DELIVERY_LIMIT) -> AsyncIterator[None]:
    """A policy lowers the delivery limit of these queues until the block ends."""
    ctl, policy = testbed.system.stack.broker.ctl, ("--vhost", testbed.vhost, "deadly")
    pattern = "|".join(map(re.escape, queues))
    definition = (f"^({pattern})$", f'{{"delivery-limit": {limit}}}', "--apply-to", "queues")
    await asyncio.to_thread(ctl, "set_policy", *policy, *definition)
    try:
        yield
    finally:
        await asyncio.to_thread(ctl, "clear_policy", *policy)


async def dead_letters(testbed: Testbed, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The dead letters of these messages, once there is one for each: message id, queue, and reason."""
    query = "SELECT message_id, queue, reason FROM dead_letters WHERE message_id = ANY($1::text[]) ORDER BY 1"
    found: list[tuple[str, str, str]] = []

    async def all_there() -> bool:
        nonlocal found
        there = await testbed.ask_database(lambda: rows(testbed.database("staff"), query, list(names))) or []
        found = [(row["message_id"], row["queue"], row["reason"]) for row in there]
        return len(found) >= len(names)

    await testbed.until(all_there, what=f"{len(names)} dead letters", within_s=OUT_OF_THE_WAY_S)
    return found


async def _until_unreadable(testbed: Testbed, stranger: Stranger, texts: Sequence[str]) -> None:
    """Wait until just these messages are in the queue for those that staff cannot receive, and take them out, as a person would."""

    async def there() -> bool:
        return await stranger.depth(UNREADABLE) >= len(texts)

    await testbed.until(there, what=f"{UNREADABLE} to be filled", within_s=OUT_OF_THE_WAY_S)
    taken = await take_all(await stranger.queue(UNREADABLE))
    assert [message.body.decode() for message in taken] == list(texts), f"{len(taken)} messages got out of the way"


async def _consuming(testbed: Testbed, queue: str) -> set[str]:
    """The connections that consume this queue, once there is one.

    Not the channels: a consumer without work takes a new one every 15 s (`shared.messaging.consumer`), which on a busy machine is sooner
    than a dead letter is out of the way, and it has none for a moment.
    """
    ctl, vhost = testbed.system.stack.broker.ctl, testbed.vhost
    found: set[str] = set()

    async def somebody_does() -> bool:
        told = await asyncio.to_thread(ctl, "--silent", "list_channels", "--vhost", vhost, "pid", "connection")
        connection_of = dict(line.split("\t") for line in told.splitlines())
        told = await asyncio.to_thread(ctl, "--silent", "list_consumers", "--vhost", vhost, "queue_name", "channel_pid")
        channels = [channel for name, channel in (line.split("\t") for line in told.splitlines()) if name == queue]
        found.update(connection_of[channel] for channel in channels if channel in connection_of)
        return bool(found)

    await testbed.until(somebody_does, what=f"a consumer of {queue}")
    return found
