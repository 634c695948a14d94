"""What strangers put into messages (row 18): forged headers, hostile texts, bodies that cost too much, card data in every place."""

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Final
from uuid import UUID

import psutil

from deploy.cli.output import REFUSED
from deploy.demo.scenes import VISA
from deploy.local.stack import LISTENER, SERVICES, Service
from shared.contracts.invoice import IssueInvoice, PayInvoice
from shared.ids import new_id
from shared.messaging.codec import BODY_BYTES_MAX, MalformedReason
from shared.messaging.topology import DEAD_LETTERS, WORK_QUEUES
from tests.cards.caught import kinds
from tests.cards.numbers import USUAL
from tests.faults.crash import make_dead_letter
from tests.faults.deadly import PAID, as_fast_as_without, fastest
from tests.faults.network import Line
from tests.faults.payments import Payments, answers_of, invoice
from tests.faults.proxy import BlackHole
from tests.faults.ready import until_not_ready, until_ready
from tests.faults.stranger import Stranger, event_of, take_all
from tests.faults.tap import copy_of
from tests.faults.testbed import POLL_S, Testbed
from tests.faults.trial import Note
from tests.support.databases import rows
from tests.support.hostile import HOSTILE

COMMANDS: Final = "invoice.commands"
PAID_BESIDE: Final = 20
FUTURE: Final = "remit.invoice.IssueInvoice.v9"
"""A type of a version that nobody knows yet: such a command is a dead letter and gets no answer before a person settles it."""
EVENTUALLY_S: Final = 120.0

# -- forged deaths ---------------------------------------------------------------------------------------------------------------------

_DIED: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
_EXPIRED: Final[dict[str, Any]] = {
    "queue": DEAD_LETTERS,
    "exchange": DEAD_LETTERS,
    "reason": "expired",
    "count": 1,
    "routing-keys": [COMMANDS],
    "time": _DIED,
}
FORGED_DEATHS: Final[tuple[dict[str, Any], ...]] = (
    {"x-death": [_EXPIRED]},
    {"x-death": [_EXPIRED | {"count": 2**62}]},
    {"x-death": [_EXPIRED, _EXPIRED | {"queue": COMMANDS}]},
    {"x-death": [_EXPIRED | {"reason": "maxlen"}], "x-first-death-queue": DEAD_LETTERS, "x-first-death-reason": "expired"},
    {"x-death": [_EXPIRED], "x-delivery-count": 99},
    {"x-death": "dead-letters"},
    {"x-death": []},
    {"x-death": [{}]},
    {"x-death": [{"queue": 5, "reason": None, "count": "many"}]},
    {"x-first-death-queue": DEAD_LETTERS, "x-last-death-queue": DEAD_LETTERS},
)  # fmt: skip
"""The first five make RabbitMQ 3.10 keep an expired message for ever: it sees a cycle, and cannot dead-letter the message (measured). Of
others it cannot read `x-death`, and dead-letters nothing more on the whole node."""
AT_ONCE_S: Final = 0.001
LONG_S: Final = 300.0
"""When messages expire: before anybody takes them, and long after."""


async def forged_deaths(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Commands say that they died on `dead-letters`. Each is a dead letter; and one that has expired before is not kept by the broker."""
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        ids = [await _send_future(testbed, stranger, headers=headers, expiration=LONG_S) for headers in FORGED_DEATHS]
        await payments.pay(PAID_BESIDE)
        await _until_set_aside(testbed, ids)
        await testbed.stop("invoice")
        for headers in FORGED_DEATHS:
            body = event_of(invoice(testbed), new_id(), type=FUTURE)
            await stranger.publish(
                body, message_id=f"expired {new_id()}", headers=headers, expiration=AT_ONCE_S
            )  # no UUID: its sender wants no answer after that time
    await testbed.start("invoice")
    await payments.pay(PAID_BESIDE)
    await testbed.until_drained()
    note.fired(2 * len(FORGED_DEATHS))
    note.mended()

    async def none_is_kept() -> bool:  # one that is on its way, such as a heartbeat, is there for a moment only
        return not await kept_by_the_broker(testbed)

    await testbed.until(none_is_kept, what="the broker to keep no message that it gives to nobody")
    letter = await make_dead_letter(testbed)  # the broker itself still dead-letters
    await _staff(testbed, "replay", [letter], "--yes")


async def kept_by_the_broker(testbed: Testbed) -> int:
    """How many messages are in quorum queues, with those that are neither ready nor given to anybody."""
    told = await asyncio.to_thread(testbed.system.stack.broker.ctl, "--silent", "eval", _MESSAGES % testbed.vhost)
    return int(told)


_MESSAGES: Final = """lists:sum([element(2, element(2, ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1)))
    || Q <- rabbit_amqqueue:list(<<"%s">>), amqqueue:is_quorum(Q)])."""


async def cycle_inside(testbed: Testbed, payments: Payments, note: Note) -> None:
    """An administrator puts such a message right into our queue, where it stays for ever. We are told, and nobody else waits for it."""
    stack = testbed.system.stack
    await testbed.stop("invoice")
    async with Stranger.open(stack.rabbitmq_url) as administrator:
        await stuck_message(testbed, administrator)
        await testbed.start("invoice")
        await payments.pay(PAID_BESIDE)
        note.fired()
        testbed.thorough = True  # only the broker's own tool tells of such a message
        await _until_told(testbed)
        gone = await (await administrator.queue(COMMANDS)).delete(if_unused=False, if_empty=False)
    testbed.lost.add(COMMANDS)
    note.remark(f"{gone.message_count} messages were deleted with the queue")
    await until_not_ready(testbed, "invoice", (f"consumer {COMMANDS}",))
    await testbed.apply_topology()
    note.mended()
    await until_ready(testbed, "invoice")


async def stuck_message(testbed: Testbed, administrator: Stranger) -> None:
    """Put a message right into our queue that the broker never gives out, and never drops."""
    body = event_of(invoice(testbed), new_id(), type=FUTURE)
    await administrator.publish(body, exchange="", key=COMMANDS, headers=FORGED_DEATHS[0], expiration=AT_ONCE_S)


async def _until_told(testbed: Testbed) -> None:
    """Wait until the audit says that the queue never drains."""

    async def told() -> bool:
        return any(
            COMMANDS in f"{breach['about']} {breach['why']}"
            for found in await testbed.audit()
            for breach in found["breaches"]
        )

    await testbed.until(told, what=f"the audit to name {COMMANDS}", within_s=EVENTUALLY_S)


async def _send_future(testbed: Testbed, stranger: Stranger, **properties: Any) -> UUID:
    """Send a command of a later version, which becomes a dead letter; returns its id."""
    command_id = new_id()
    body = event_of(invoice(testbed), command_id, type=FUTURE)
    await stranger.publish(body, **({"message_id": str(command_id), "type": FUTURE} | properties))
    testbed.note_sent(command_id, FUTURE)
    return command_id


async def _until_set_aside(testbed: Testbed, ids: Sequence[UUID], *, within_s: float = EVENTUALLY_S) -> list[UUID]:
    """Wait until each of these commands is an open dead letter; returns the ids of those dead letters."""
    query = "SELECT id, event_id FROM dead_letters WHERE event_id = ANY($1::uuid[]) AND status = 'open'"
    found: list[dict[str, Any]] = []

    async def all_there() -> bool:
        nonlocal found
        found = await testbed.ask_database(lambda: rows(testbed.database("staff"), query, list(ids))) or []
        return {row["event_id"] for row in found} == set(ids)

    await testbed.until(all_there, what=f"{len(ids)} dead letters", within_s=within_s)
    return [row["id"] for row in found]


# -- a stranger's full queue -----------------------------------------------------------------------------------------------------------


WHO_SAYS: Final[dict[str, Service]] = {"invoice.events": "invoice", "payment.events": "payment_gateway"}
"""The services by the public exchanges that they publish to."""


async def full_queue(testbed: Testbed, payments: Payments, note: Note, *, exchange: str) -> None:
    """A queue that somebody bound refuses all events. Our own queues get each once or twice; that one does when it has room."""
    before = testbed.tap.counts()
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        full = await stranger.full_queue(exchange)
        await payments.pay(PAID_BESIDE)
        await _until_ours_are_out(testbed)
        note.fired(PAID_BESIDE)
        often = [id_ for (_, id_), count in (testbed.tap.counts() - before).items() if count > 2]
        assert not often, f"{len(often)} messages reached our own queues more than twice: {often[:5]}"
        own = await stranger.hear(exchange, "#")
        taken = [message.message_id for message in await take_all(full)]
        note.mended()

        async def drained() -> bool:
            taken.extend(message.message_id for message in await take_all(full))
            return not await _waiting(testbed)

        await testbed.until(drained, what="the public copies to arrive", within_s=2 * EVENTUALLY_S)
        taken.extend(message.message_id for message in await take_all(full))
        late = {message.message_id for message in await take_all(own)}
        assert late, "no public copy came late, so nothing was refused"
        assert late <= set(taken), f"{len(late - set(taken))} public copies never reached the queue that was full"


COPIES_WITHIN_S: Final = 300.0
"""The longest time that the public lane leaves the broker alone, and some more."""


async def costly_binding(testbed: Testbed, payments: Payments, note: Note, *, exchange: str) -> None:
    """The broker computes for minutes over each public copy. Payments go on as before; all listeners hear of them once it is unbound."""
    service = WHO_SAYS[exchange]
    log = testbed.log_of(service)
    before, _ = await payments.settle(PAID)
    async with Stranger.open(testbed.system.stack.rabbitmq_url_of(LISTENER)) as stranger:
        costly = await stranger.costly_binding(exchange)
        paid: list[PayInvoice] = []

        async def settle() -> list[float]:
            answered_s, commands = await payments.settle(PAID)
            paid.extend(commands)
            return answered_s

        beside = await fastest(settle, before)
        await testbed.until_logged(log, "public_copies_slow")
        later = await fastest(settle, before)
        note.fired(len(paid))
        await costly.unbind(exchange, "#")
    note.mended()

    async def heard() -> bool:
        return not await _waiting(testbed)

    await testbed.until(heard, what="the public copies to be published", within_s=COPIES_WITHIN_S)
    for command in paid:
        await payments.until_paid(command)
    after, _ = await payments.settle(PAID)
    as_fast_as_without(note, [*before, *after], [*beside, *later])


async def _waiting(testbed: Testbed, lane: str = "") -> int:
    """How many outbox batches wait, by default on any lane."""
    query = f"SELECT 1 FROM outbox WHERE lane = '{lane}'" if lane else "SELECT 1 FROM outbox"
    return sum([len(await rows(testbed.database(service), query)) for service in SERVICES])


async def _until_ours_are_out(testbed: Testbed) -> None:
    async def out() -> bool:
        return not await _waiting(testbed, "inside")

    await testbed.until(out, what="what services say to each other to be published")


# -- bodies that cost too much ---------------------------------------------------------------------------------------------------------

WORST: Final = 800
UNNAMED: Final = 21
"""One in so many has no id, so that nobody can be answered: if it cannot be read, it is a dead letter."""
LIVE_WITHIN_S: Final = 1.0
ROOM: Final = BODY_BYTES_MAX - 600


def _note(text: bytes) -> bytes:
    """A command as large as allowed, whose note is this text, again and again."""
    return event_of(_ANY, _ANY_ID, note="@").replace(b'"@"', text * (ROOM // len(text)) + b'""')


def _text(text: bytes) -> bytes:
    return event_of(_ANY, _ANY_ID, note="@").replace(b"@", text * (ROOM // len(text)))


_ANY_ID: Final = new_id()
_ANY: Final = IssueInvoice(invoice_id="worst", customer_id="C-1", amount_minor=1, currency="EUR")
WORST_BODIES: Final[tuple[bytes, ...]] = (
    _text(rb"\u200b"),
    _text("\u200b".encode()),
    _text("4\u200b".encode()),
    _text(rb"\\u0034"),
    _text(rb"\""),
    _text(rb"\\\\\\\""),
    _text(b"4 - 2 / "),
    _text(b"1234-5678-"),
    _text(b"cvv: cvc: "),
    _text(b"QUJD"),
    _text(b"34323432"),
    _text(b"%34%32"),
    _text(b"%2534"),
    _text(b"&#52;&#x34;"),
    _text("\u0664\u2463".encode()),
    _text("\U0001d7d2\ufe0f\u20e3".encode()),
    _note(b'"\\u200b",'),
    b"[" * ROOM,
    b'{"a":' * (ROOM // 5),
    b'{"cvv":"",' * (ROOM // 10),
    b"9" * ROOM,
    b"\xf3\xa0\x80\xa0" * (ROOM // 4),
)


async def worst_bodies(testbed: Testbed, payments: Payments, note: Note) -> None:
    """As many messages as two batches of each consumer could hold, each as slow to read as can be. `/livez` answers all the time."""
    await testbed.stop("invoice")
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        for number in range(WORST):
            command_id = new_id()
            body = WORST_BODIES[number % len(WORST_BODIES)].replace(str(_ANY_ID).encode(), str(command_id).encode())
            name = f"worst {command_id}" if number % UNNAMED == 0 else str(command_id)
            await stranger.publish(body, message_id=name)
            testbed.note_sent(command_id, _ANY.wire_name, is_looked_for=name == str(command_id))
    await testbed.start("invoice")
    async with _asking_live(testbed, "invoice", "staff", "saga") as slowest:
        await until_ready(testbed, "invoice")
        await payments.pay(PAID_BESIDE)
        await testbed.until_drained()
    note.fired(WORST)
    note.mended()
    took_s, beside_s = max(slowest["invoice"], slowest["staff"]), slowest["saga"]
    note.remark(f"/livez took {took_s:.2f} s at most; that of an idle service beside it {beside_s:.2f} s")
    assert took_s < LIVE_WITHIN_S + beside_s, f"/livez took {took_s:.1f} s; of an idle service {beside_s:.1f} s"


@asynccontextmanager
async def _asking_live(testbed: Testbed, *names: str) -> AsyncIterator[dict[str, float]]:
    """Asks for `/livez` again and again until the block ends. Yields the longest time that each answer took, in seconds."""
    slowest = dict.fromkeys(names, 0.0)

    async def ask(name: str) -> None:
        while True:
            began = time.monotonic()
            if await asyncio.to_thread(_is_live, testbed.ports[name]):
                slowest[name] = max(slowest[name], time.monotonic() - began)
            await asyncio.sleep(POLL_S)

    asking = [asyncio.create_task(ask(name)) for name in names]
    try:
        yield slowest
        assert not any(one.done() for one in asking), "nobody asked any more"
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def _is_live(port: int) -> bool:
    """Whether the service answers; False while it does not listen yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=EVENTUALLY_S):
            return True
    except ConnectionError:
        return False
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError):
            return False
        raise


HUGE: Final = 60
HUGE_BYTES: Final = 16 * 1024**2 - 64 * 1024
"""As large as RabbitMQ 4 takes a message."""
RESIDENT_MIB_MAX: Final = 150


async def huge_bodies(testbed: Testbed, payments: Payments, note: Note) -> None:
    """The database is away, and messages of several MiB wait for it. The service does not hold them."""
    line = await Line.lay(testbed, "invoice", "database")
    body = event_of(_ANY, new_id(), note="x" * HUGE_BYTES)
    ids = [new_id() for _ in range(HUGE)]
    try:
        line.proxy.become(to_client=BlackHole())
        async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
            for command_id in ids:
                await stranger.publish(body, message_id=str(command_id))
                testbed.note_sent(command_id, _ANY.wire_name)

            async def all_delivered() -> bool:
                return not await stranger.depth(COMMANDS)

            await testbed.until(all_delivered, what="all messages to be delivered")
        await until_not_ready(testbed, "invoice", ("database",))
        resident_mib = psutil.Process(testbed.system.fleet.pid("invoice")).memory_info().rss / 1024**2
        note.fired(HUGE)
    finally:
        line.proxy.heal()
    note.mended()
    note.remark(f"{HUGE} messages of {HUGE_BYTES / 1024**2:.0f} MiB: {resident_mib:.0f} MiB resident")
    await payments.pay(PAID_BESIDE)
    assert await _reasons(testbed, ids) == {"too_large": HUGE}
    assert resident_mib < RESIDENT_MIB_MAX, f"{resident_mib:.0f} MiB were resident"


async def _reasons(testbed: Testbed, ids: Sequence[UUID]) -> Mapping[str | None, int]:
    """How often each reason was answered to these commands."""
    return Counter((await answers_of(testbed, ids)).values())


# -- hostile texts ---------------------------------------------------------------------------------------------------------------------

HOSTILE_TEXTS: Final = (
    *(
        text
        for name, text in HOSTILE.items()
        if name not in {"empty", "lone surrogate", "10 000 characters", "card number"}
    ),
    "\0",
    "\t\n",
    "x" * 255,
    "\u00e9" * 127,
)
"""Texts that AMQP can carry in a property."""
PROPERTIES: Final = ("type", "message_id", "correlation_id", "reply_to", "content_type", "content_encoding", "app_id")


async def hostile_texts(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Hostile texts in every property and header of messages that become dead letters. Staff replay all of them, then discard all."""
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        sent = [await _send_future(testbed, stranger, **{name: text}) for text in HOSTILE_TEXTS for name in PROPERTIES]
        for text in HOSTILE_TEXTS:
            headers = dict.fromkeys(("ce-subject", "x-remit-reason", "x-remit-type", text[:100]), text)
            sent.append(await _send_future(testbed, stranger, headers=headers))
        await payments.pay(PAID_BESIDE)
    answered = await answers_of(testbed, sent)
    left = [id_ for id_ in sent if id_ not in answered]
    letters = await _until_set_aside(testbed, left)
    assert len(letters) > len(sent) / 2, f"only {len(letters)} of {len(sent)} became dead letters"
    note.fired(len(sent))
    await _staff(testbed, "replay", letters, "--yes")
    letters = await _until_set_aside(testbed, left)
    await _staff(testbed, "discard", letters, "--reason", "fault run")
    note.mended()

    async def all_answered() -> bool:
        return (await answers_of(testbed, sent)).keys() == set(sent)

    await testbed.until(all_answered, what="an answer for each of them")
    note.remark(
        f"{len(sent)} messages: {len(letters)} were replayed and discarded, {len(answered)} refused at the border"
    )


async def _staff(testbed: Testbed, action: str, letters: Sequence[UUID], *options: str) -> None:
    words = ("dead-letters", action, *map(str, letters), "--who", "faults", *options)
    done = await (await testbed.remit(*words)).result()
    assert done.code == 0, f"{action} of {len(letters)} dead letters ended with {done.code}: {done.stderr[-500:]}"


# -- moved by hand ---------------------------------------------------------------------------------------------------------------------


async def moved_by_hand(testbed: Testbed, payments: Payments, note: Note) -> None:
    """An operator moves dead letters to work queues with the broker's own tools. Each is set aside again, whole, under its first reason."""
    await testbed.stop("staff")
    queues = [DEAD_LETTERS, *(queue.name for queue in WORK_QUEUES)]
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        ids = [await _send_future(testbed, stranger) for _ in queues]

        async def all_wait() -> bool:
            return await stranger.depth(DEAD_LETTERS) >= len(ids)

        await testbed.until(all_wait, what="the dead letters to wait")
        moved = await take_all(await stranger.queue(DEAD_LETTERS))
        for queue, message in zip(queues, moved, strict=True):
            await stranger.put_back(copy_of(message), queue)
        note.fired(len(moved))
        await payments.pay(PAID_BESIDE)
    await testbed.start("staff")
    note.mended()
    await _until_set_aside(testbed, ids)
    query = "SELECT event_id, queue, reason, tries, body FROM dead_letters WHERE event_id = ANY($1::uuid[])"
    found = await rows(testbed.database("staff"), query, ids)
    bodies = {message.body for message in moved}
    assert len(found) == len(ids), f"{len(found)} records of {len(ids)} dead letters"
    assert {(row["queue"], row["reason"]) for row in found} == {(COMMANDS, "unknown_version")}
    assert {row["body"] for row in found} == bodies, "a body has changed"
    assert not await answers_of(testbed, ids), "a dead letter was answered as if it were a command"


# -- card data -------------------------------------------------------------------------------------------------------------------------

SEED: Final = 18
NUMBER_LENGTHS: Final = range(12, 20)


@dataclass(frozen=True, slots=True)
class CardMessage:
    """A command with a card number somewhere, in a text that is `written`."""

    command_id: UUID
    written: str
    body: bytes
    properties: dict[str, Any] = field(default_factory=dict)


def card_messages(command: IssueInvoice) -> Iterator[CardMessage]:
    """A message for each way to write a card number in a body, and for each place outside of it."""
    source = Random(SEED)

    def made(written: str, properties: Mapping[str, Any] | None = None, **members: Any) -> CardMessage:
        command_id = new_id()
        return CardMessage(command_id, written, event_of(command, command_id, **members), dict(properties or {}))

    for make in kinds().values():
        text = make(source)
        yield made(text, note=text)
    for brand in dict.fromkeys(one.brand for one in USUAL):
        text = kinds()[f"{brand}: printed"](source)
        (number,) = _digits([text])
        yield made(text, None, **{number: 1})
        for headers in ({"note": text}, {"note": {"deep": [bytearray(text.encode())]}}, {number: "note"}):
            yield made(text, {"headers": headers})
        for name in ("correlation_id", "type", "reply_to", "content_type", "content_encoding"):
            yield made(text, {name: text})


async def card_data(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Card numbers in every place of a command, written in every way. All are refused, and nothing of them is kept anywhere."""
    command = invoice(testbed)
    messages = list(card_messages(command))
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        for message in messages:
            await stranger.publish(message.body, **({"message_id": str(message.command_id)} | message.properties))
            testbed.note_sent(message.command_id, command.wire_name)
        unnamed = event_of(command, new_id())
        await stranger.publish(unnamed, message_id=VISA)  # nobody can be answered, so it is a dead letter
        await payments.pay(PAID_BESIDE)
        await testbed.until_drained()
        refused, letters = await _refused_for_card_data(testbed, [message.command_id for message in messages])
        left = [message for message in messages if message.command_id not in refused]
        assert not left, f"{len(left)} of {len(messages)} were not refused: {left[:3]}"
        first = messages[0]
        await stranger.send(command, command_id=first.command_id)  # what was refused did not spend its id

    async def accepted() -> bool:
        return await _reasons(testbed, [first.command_id]) == {None: 1}

    await testbed.until(accepted, what="the command without a card number to be accepted")
    words = ("dead-letters", "discard", str(letters[0]), "--who", "faults", "--reason", first.written)
    done = await (await testbed.remit(*words)).result()
    assert done.code == REFUSED, f"a reason with a card number was taken: {done}"
    await _staff(testbed, "discard", letters, "--reason", "fault run")
    found = await _kept(testbed, _digits(message.written for message in messages))
    assert not found, f"card numbers are in {found}"
    note.fired(len(messages))
    note.mended()


CARD_REASONS: Final = [reason.value for reason in MalformedReason if reason.is_card_data]


async def _refused_for_card_data(testbed: Testbed, ids: Sequence[UUID]) -> tuple[set[UUID], list[UUID]]:
    """Those of these commands that were answered so, or are dead letters for that reason; and the ids of all such dead letters."""
    answered = await answers_of(testbed, ids)
    query = "SELECT id, message_id FROM dead_letters WHERE reason = ANY($1) AND status = 'open'"
    letters = await rows(testbed.database("staff"), query, CARD_REASONS)
    named = {str(id_): id_ for id_ in ids}
    refused = {id_ for id_, reason in answered.items() if reason in CARD_REASONS}
    refused |= {named[row["message_id"]] for row in letters if row["message_id"] in named}
    return refused, [row["id"] for row in letters]


def _digits(texts: Iterable[str]) -> list[str]:
    """The card numbers in those texts that show them as plain digits, whatever is between."""
    found = ("".join(re.findall("[0-9]", text)) for text in texts)
    return [digits for digits in found if len(digits) in NUMBER_LENGTHS]


async def _kept(testbed: Testbed, numbers: Sequence[str]) -> list[str]:
    """The tables, queues and logs in which one of these numbers stands, plain or as the bytes of a bytea."""
    patterns = [f"%{form}%" for number in numbers for form in (number, number.encode().hex())]
    found = []
    for service in SERVICES:
        database = testbed.database(service)
        for (table,) in [row.values() for row in await rows(database, _TABLES)]:
            query = f'SELECT 1 FROM "{table}" t WHERE t::text LIKE ANY($1::text[]) LIMIT 1'
            if await rows(database, query, patterns):
                found.append(f"{service}.{table}")
    logs = {path.name: path.read_text(errors="replace") for path in testbed.system.folder.glob("*.log")}
    return found + [name for name, text in logs.items() if any(number in text for number in numbers)]


_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
