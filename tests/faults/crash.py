"""Every crash point with every action: the process ends; stops for longer than its lease and heartbeat, and goes on as a zombie; raises an
error; is cancelled.

A `CrashStory` tells how a point is reached. Most are reached by the demo's mix of scenes; some need settings, other scenes, or a step that
provokes them.
"""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import aio_pika

from deploy.demo.scenes import AMOUNT_MINOR, CURRENCY, reject_one
from services.staff.actions import runs as run_actions
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Via
from services.staff.runs import RunAct
from shared.contracts.invoice import IssueInvoice
from shared.crash_points import ACTIONS, EXIT_CODE, INVOICE, PAYMENT_GATEWAY, POINTS, REMIT, SAGA, STAFF
from shared.ids import derived_id, new_id
from shared.messaging.codec import STRUCTURED
from shared.messaging.topology import PUBLIC_EXCHANGES
from shared.persistence.database import Database
from tests.faults.recovery import SERVICE_WITHIN_S, recovery_s
from tests.faults.testbed import HEARTBEAT_S, LEASE_S, LogMark, Remit, Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import LATE_SUCCESS, MIX, REFUNDED, case_version
from tests.support.databases import rows

FAMILY: Final = "crash"

HOLD_S: Final = max(3 * HEARTBEAT_S, LEASE_S) + 2.0
"""How long a process stays stopped, in seconds: longer than its lease and its heartbeat."""
HOLD_IN_TRANSACTION_S: Final = 18.0
"""The same inside a transaction: also longer than PostgreSQL lets it be idle (`shared.persistence.database`)."""
IN_TRANSACTION: Final = frozenset(
    {"before_commit", "before_record_commit", "before_record", "before_sweep_commit", "after_journal"}
)

Provoke = Callable[[Testbed, str], Awaitable[None]]


async def _nothing(_bed: Testbed, _service: str) -> None:
    """No step: the workload alone reaches the point."""


@dataclass(frozen=True, slots=True)
class CrashStory:
    """How a point is reached. `settings`: of the instance with the fault. `before`: a step before that instance starts. `provoke`: a step
    while the workload plays. `after`: a step that undoes these once the fault fired."""

    scenes: tuple[str, ...] = MIX
    settings: dict[str, str] = field(default_factory=dict)
    nth: int = 1
    before: Provoke = _nothing
    provoke: Provoke = _nothing
    after: Provoke = _nothing
    hold_s: float = HOLD_S
    estimate_s: float = 12.0


# -- steps that provoke ----------------------------------------------------------------------------------------------------------------


async def echoes(testbed: Testbed, service: str) -> None:
    """Deliver messages of the service's queue twice."""
    queue = {
        INVOICE: "invoice.settlement",
        PAYMENT_GATEWAY: "payment_gateway.requests",
        SAGA: "saga.events",
        STAFF: "staff.cases",
    }[service]

    async def echoed() -> bool:
        return await testbed.tap.echo(queue, count=3) > 0

    await testbed.until(echoed, what=f"a message on {queue} to repeat")


async def junk(testbed: Testbed, service: str) -> None:
    """Publish an unreadable message to the service's queue."""
    queue = {
        INVOICE: "invoice.commands",
        PAYMENT_GATEWAY: "payment_gateway.requests",
        SAGA: "saga.events",
        STAFF: "staff.cases",
    }[service]
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        name = f"junk {new_id()}"  # no UUID: a command with a readable id would be answered, not dead-lettered
        message = aio_pika.Message(b"<junk/>", content_type=STRUCTURED, message_id=name, delivery_mode=2)
        await channel.default_exchange.publish(message, routing_key=queue, timeout=10)


async def committed_and_unpublished(testbed: Testbed, service: str) -> None:
    """Let the process before the one under test die with a full outbox, for the sweeper to find."""
    log = testbed.log_of(service)
    await testbed.restart(service, REMIT_FAULT="relay.before_publish:1:exit")
    testbed.play(*MIX[:3])
    await testbed.until_logged(log, "fault_fired")
    await testbed.stop(service)  # before it sweeps


async def no_settlement_queue(testbed: Testbed, _service: str) -> None:
    """Delete the queue for the saga's commands, and ours beside it, so that these commands are returned."""
    await testbed.tap.ignore("invoice.settlement")
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        await channel.queue_delete("invoice.settlement", timeout=10)
    testbed.lost.add("invoice.settlement")


async def a_full_queue_of_others(testbed: Testbed, _service: str) -> None:
    """Bind a queue that takes nothing to every public exchange, as a system that is not ours may do."""
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        arguments: dict[str, int | str] = {"x-max-length": 0, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(FULL_QUEUE_OF_OTHERS, durable=True, arguments={**arguments})
        for exchange in PUBLIC_EXCHANGES:
            await queue.bind(exchange, "#")


async def no_queue_of_others(testbed: Testbed, _service: str) -> None:
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        await (await connection.channel()).queue_delete(FULL_QUEUE_OF_OTHERS, timeout=10)


async def topology_again(testbed: Testbed, _service: str) -> None:
    await testbed.apply_topology()


async def stopped_with_a_call_in_hand(testbed: Testbed, service: str) -> None:
    """SIGTERM while a payment waits for the gateway, for longer than the drain lasts."""

    async def in_hand() -> bool:
        query = "SELECT 1 FROM payments WHERE status = 'prepared' AND leased_by IS NOT NULL"
        return bool(await rows(testbed.database("payment_gateway"), query))

    await testbed.until(in_hand, what="a call to the gateway")
    testbed.signal(service, signal.SIGTERM)


async def a_dead_letter_waits(testbed: Testbed, _service: str) -> None:
    """Dead-letter a good command, as an old build of a consumer would. It comes first, because that consumer takes any message."""
    testbed.dead_letters.append(await make_dead_letter(testbed))


async def a_dead_letter_replayed(testbed: Testbed, _service: str) -> None:
    """Replay the dead letter, so that the staff service has a message to publish."""
    letter = testbed.dead_letters.pop()
    done = await (await testbed.remit("dead-letters", "replay", str(letter), "--yes", "--who", "faults")).result()
    if done.code != 0:
        raise AssertionError(f"replay failed: {done.stderr}")


async def a_dead_letter_discarded(testbed: Testbed, _service: str) -> None:
    """Discard the dead letter, so that the staff service has a command of ours to publish."""
    letter = testbed.dead_letters.pop()
    words = ("discard", str(letter), "--who", "faults", "--reason", "a trial")
    done = await (await testbed.remit("dead-letters", *words)).result()
    if done.code != 0:
        raise AssertionError(f"discard failed: {done.stderr}")


async def a_dead_letter_in_a_run(testbed: Testbed, _service: str) -> None:
    """Begin a run of the dead letter. The staff service sends it."""
    letter, who = testbed.dead_letters.pop(), Actor("faults", Via.DESK)
    database = await Database.open(testbed.database("staff"), name="fault run", connections_max=1)
    try:
        previewed = await run_actions.preview(database, LetterFilter(ids=(letter,)), who=who, title="a trial")
        begun = await run_actions.act(database, previewed.no or 0, RunAct.TRY, who=who, sure=True)
    finally:
        await database.close()
    if not begun.ok:
        raise AssertionError(f"the run did not begin: {begun.text}")


async def make_dead_letter(testbed: Testbed) -> UUID:
    """Make a dead letter of a good command; returns its id."""
    command = IssueInvoice(
        invoice_id=f"spoiled-{new_id()}", customer_id="C-1", amount_minor=AMOUNT_MINOR, currency=CURRENCY
    )
    await testbed.stop(INVOICE)
    command_id = await _reject(testbed, command)
    await testbed.start(INVOICE)

    async def stored() -> bool:
        return bool(await _dead_letters_of(testbed, command_id))

    await testbed.until(stored, what="the dead letter")
    (letter,) = await _dead_letters_of(testbed, command_id)
    return letter


async def _reject(testbed: Testbed, command: IssueInvoice) -> UUID:
    command_id = new_id()
    event = {
        "specversion": "1.0",
        "id": str(command_id),
        "type": command.wire_name,
        "source": "/faults",
        "data": command.model_dump(mode="json"),
    }
    testbed.note_sent(command_id, command.wire_name)
    await reject_one(testbed.system.stack.rabbitmq_url, command, json.dumps(event).encode(), command_id)
    return command_id


async def _dead_letters_of(testbed: Testbed, command_id: UUID) -> list[UUID]:
    found = await rows(testbed.database("staff"), "SELECT id FROM dead_letters WHERE message_id = $1", str(command_id))
    return [row["id"] for row in found]


NEVER: Final = "pm_remit_never_answers"
FULL_QUEUE_OF_OTHERS: Final = "others.full"
STORIES: Final[dict[str, CrashStory]] = {
    "shell.before_dead_letter": CrashStory(provoke=junk),
    "shell.after_dead_letter": CrashStory(provoke=junk),
    "outbox.before_postpone": CrashStory(before=no_settlement_queue, after=topology_again, estimate_s=25),
    "outbox.after_postpone": CrashStory(before=no_settlement_queue, after=topology_again, estimate_s=25),
    "relay.before_public": CrashStory(before=a_full_queue_of_others, after=no_queue_of_others, estimate_s=25),
    "relay.after_public": CrashStory(before=a_full_queue_of_others, after=no_queue_of_others, estimate_s=25),
    "relay.before_sweep_commit": CrashStory(before=committed_and_unpublished),
    "relay.after_sweep_commit": CrashStory(before=committed_and_unpublished),
    "invoice.reminder.before_commit": CrashStory((*MIX[:3], NEVER), {"INVOICE_REMIND_AFTER_S": "0.3"}, estimate_s=20),
    "invoice.reminder.after_commit": CrashStory((*MIX[:3], NEVER), {"INVOICE_REMIND_AFTER_S": "0.3"}, estimate_s=20),
    "charging.before_claim": CrashStory(nth=10),
    "charging.before_find": CrashStory(settings={"GATEWAY_FIND_AFTER_S": "0"}),
    "charging.after_find": CrashStory(settings={"GATEWAY_FIND_AFTER_S": "0"}),
    "charging.before_release": CrashStory(
        ("pm_remit_charged_then_timeout",), {"GATEWAY_TIMEOUT_S": "13"}, provoke=stopped_with_a_call_in_hand,
        hold_s=45.0, estimate_s=75,
    ),
    "charging.after_release": CrashStory(
        ("pm_remit_charged_then_timeout",), {"GATEWAY_TIMEOUT_S": "13"}, provoke=stopped_with_a_call_in_hand,
        hold_s=45.0, estimate_s=60,
    ),
    **{
        f"charging.{when}_{call}": CrashStory((*MIX[:4], REFUNDED, LATE_SUCCESS), estimate_s=20)
        for when in ("before", "after")
        for call in ("refund", "inquire_refund")
    },
    "saga.deadlines.before_commit": CrashStory((*MIX[:3], NEVER), {"SAGA_DEADLINE_S": "0.3,0.6,1.2"}),
    "saga.deadlines.after_commit": CrashStory((*MIX[:3], NEVER), {"SAGA_DEADLINE_S": "0.3,0.6,1.2"}),
}  # fmt: skip
_OF_OURS: Final = frozenset({"relay.before_publish", "relay.after_confirm"})
"""The inside lane: staff's replays do not pass it."""
_OF_OTHERS: Final = frozenset({"relay.before_outside", "relay.after_outside"})
"""The outside lane: of services that answer nobody, only dead letters pass it."""
_FROM_STAFF: Final = ("relay.", "outbox.before_delete", "outbox.after_delete", "publisher.")


_RETENTION_ROUNDS: Final = {INVOICE: 1, PAYMENT_GATEWAY: 2, SAGA: 3, STAFF: 2}
"""Retention runs of a round, by service; the last one fails, which is the service's own if it has one. No row has to be old: a page is
looked for anyway, as soon as the service has started."""


def story_of(point: str, service: str) -> CrashStory:
    """How `service` reaches `point`."""
    if point.startswith("retention."):
        return CrashStory(nth=_RETENTION_ROUNDS[service])
    if service == STAFF and point in _OF_OURS:
        return CrashStory(before=a_dead_letter_waits, provoke=a_dead_letter_discarded)
    if service in {PAYMENT_GATEWAY, SAGA} and point in _OF_OTHERS:
        return CrashStory(provoke=junk)
    if point.startswith("staff.run."):
        return CrashStory(before=a_dead_letter_waits, provoke=a_dead_letter_in_a_run)
    if service == STAFF and point.startswith(_FROM_STAFF):
        return CrashStory(before=a_dead_letter_waits, provoke=a_dead_letter_replayed)
    if service in {PAYMENT_GATEWAY, SAGA} and point in {"shell.before_commit", "shell.after_commit"}:
        return CrashStory(provoke=echoes)
    return STORIES.get(point, CrashStory())


# -- a service ---------------------------------------------------------------------------------------------------------------------------


def _service_trial(point: str, service: str, action: str) -> Callable[[Testbed, Note], Awaitable[None]]:
    story = story_of(point, service)

    async def run(testbed: Testbed, note: Note) -> None:
        await story.before(testbed, service)
        try:
            await fail(testbed, note)
        finally:
            await story.after(testbed, service)
        note.mended()
        if action == "exit":
            note.recovered(await recovery_s(testbed, service), within_s=SERVICE_WITHIN_S)  # type: ignore[arg-type] # the name of a service

    async def fail(testbed: Testbed, note: Note) -> None:
        log, began = testbed.log_of(service), time.time()
        fault = {"REMIT_FAULT": f"{point}:{story.nth}:{action}"}
        await testbed.restart(service, **(fault | story.settings))  # type: ignore[arg-type] # names of variables are upper case
        testbed.play(*story.scenes)
        await story.provoke(testbed, service)
        await _until_fired(testbed, log, story)
        note.fired()
        if action == "stop":
            await _as_zombie(testbed, service, story, point)
        elif action == "exit":
            await testbed.until_restarted(service, since=began)

    return run


async def _until_fired(testbed: Testbed, log: LogMark, story: CrashStory) -> None:
    """Play the workload until the point is reached. An instance that starts late finds each request twice, since requests were announced
    again meanwhile. Then it does not pass a point that only a batch of new requests passes."""

    async def fired() -> bool:
        if not testbed.playing:
            testbed.play(*story.scenes)
        return log.has("fault_fired")

    await testbed.until(fired, what=f"fault_fired in {log.path.name}")


async def _as_zombie(testbed: Testbed, service: str, story: CrashStory, point: str) -> None:
    """Let another instance take over while this one is stopped. Then this one goes on, and both are at work."""

    async def stopped() -> bool:
        return testbed.is_stopped(service)

    await testbed.until(stopped, what=f"{service} is stopped")
    await testbed.start(service, instance=2)
    await asyncio.sleep(_hold_s(point, story))
    testbed.signal(service, signal.SIGCONT)


# -- a person ----------------------------------------------------------------------------------------------------------------------------


def _person_trial(point: str, action: str) -> Callable[[Testbed, Note], Awaitable[None]]:
    arguments_of = {"replay": _replay, "ask": _ask, "resolve": _resolve, "refund": _refund}[point.split(".")[1]]

    async def run(testbed: Testbed, note: Note) -> None:
        arguments = await arguments_of(testbed)
        testbed.play(*MIX[:6])
        first = await testbed.remit(*arguments, REMIT_FAULT=f"{point}:1:{action}")
        if action == "stop":
            await _stop_and_go(testbed, first, note)
        else:
            done = await first.result()
            note.fired("fault_fired" in done.stderr and (done.code == EXIT_CODE) is (action == "exit"))
        again = await (await testbed.remit(*arguments)).result()
        note.remark(f"done again: exit code {again.code}")
        note.mended()

    return run


async def _stop_and_go(testbed: Testbed, first: Remit, note: Note) -> None:
    async def stopped() -> bool:
        return first.is_stopped

    await testbed.until(stopped, what="remit is stopped")
    note.fired()
    await asyncio.sleep(HOLD_IN_TRANSACTION_S)
    with suppress(ProcessLookupError):
        first.process.send_signal(signal.SIGCONT)
    await first.result()


async def _replay(testbed: Testbed) -> tuple[str, ...]:
    return "dead-letters", "replay", str(await make_dead_letter(testbed)), "--yes", "--who", "faults"


async def _ask(testbed: Testbed) -> tuple[str, ...]:
    payment_id, _ = await a_case(testbed)
    return "payments", "ask", str(payment_id), "--who", "faults"


async def _resolve(testbed: Testbed) -> tuple[str, ...]:
    payment_id, version = await a_case(testbed)
    words = ("--evidence", "its books show no charge", "--reason", "fault run", "--who", "faults")
    return "payments", "resolve", str(payment_id), "not_charged", "--version", str(version), *words


async def _refund(testbed: Testbed) -> tuple[str, ...]:
    """A part of a paid invoice is given back. Asked for again under the same id, it is the same refund."""
    payment_id, invoice_id = await a_paid_invoice(testbed)
    words = (
        "--invoice",
        invoice_id,
        "--currency",
        "EUR",
        "--amount-minor",
        "100",
        "--id",
        str(derived_id(payment_id, "refund")),
    )
    return "payments", "refund", str(payment_id), *words, "--reason", "fault run", "--who", "faults"


async def a_paid_invoice(testbed: Testbed) -> tuple[UUID, str]:
    """A payment that is captured, and its invoice."""
    testbed.play("paid by token")
    query = "SELECT payment_id, invoice_id FROM invoices WHERE status = 'paid' AND refunds IS NULL LIMIT 1"

    async def paid() -> bool:
        return bool(await rows(testbed.database("invoice"), query))

    await testbed.until(paid, what="an invoice that is paid")
    (found,) = await rows(testbed.database("invoice"), query)
    return found["payment_id"], found["invoice_id"]


async def a_case(testbed: Testbed) -> tuple[UUID, int]:
    """A payment whose outcome the gateway never tells: it has not charged, and answers every request with 500."""
    testbed.play("pm_remit_broken_for_good")
    query = "SELECT payment_id FROM cases WHERE status = 'needs_decision' AND opened_at > to_timestamp($1)"
    began = time.time()

    async def opened() -> bool:
        return bool(await rows(testbed.database("staff"), query, began))

    await testbed.until(opened, what="a case that waits for a decision")
    payment_id: UUID = (await rows(testbed.database("staff"), query, began))[0]["payment_id"]
    return payment_id, await case_version(testbed, payment_id)


# -- all of them -------------------------------------------------------------------------------------------------------------------------

FIRST: Final = {
    "shell.before_commit": STAFF,
    "shell.after_commit": STAFF,
    "outbox.before_postpone": SAGA,
    "outbox.after_postpone": SAGA,
}
"""The service in which every action is tried, if it is not the first one of the table: one that always passes the point."""
ONLY_THERE: Final = frozenset({"outbox.before_postpone", "outbox.after_postpone"})
"""These points need returned messages. Only the saga's commands can be returned, since our listener's queues take every other message."""
SHORT: Final = {
    "shell.at_once.after_commit:invoice:exit",
    "saga.deadlines.after_commit:saga:cancel",
    "charging.after_execute:payment_gateway:exit",
    "charging.before_record_commit:payment_gateway:raise",
    "charging.after_prepare:payment_gateway:stop",
    "staff.intake.before_ack:staff:exit",
    "staff.resolve.after_commit:remit:exit",
}


def trials() -> Sequence[Trial]:
    """Every action at every point in the first service that passes it; in the other services the hardest action, the end of the process."""
    return [
        _trial(point.name, point.boundary, service, action)
        for point in POINTS
        if point.passed_by
        for service, actions in _services(point.name, point.passed_by)
        for action in actions
    ]


def _services(point: str, passed_by: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    first = FIRST.get(point, passed_by[0])
    others = () if point in ONLY_THERE else tuple(service for service in passed_by if service != first)
    return [(first, ACTIONS), *((service, ("exit",)) for service in others)]


def _trial(point: str, boundary: str, service: str, action: str) -> Trial:
    person = service == REMIT
    story = story_of(point, service)
    run = _person_trial(point, action) if person else _service_trial(point, service, action)
    held_s = 0.0 if action != "stop" else _hold_s(point, story)
    name = f"{point}:{service}:{action}"
    return Trial(
        name=f"{FAMILY}/{name}",
        family=FAMILY,
        injects=f"{action} of {service}: {boundary}",
        run=run,
        estimate_s=story.estimate_s + held_s,
        touches=frozenset({STAFF, INVOICE} if person else {service}),
        short=name in SHORT,
        random=not person and story == CrashStory() and not point.endswith("_forget"),
    )


def _hold_s(point: str, story: CrashStory) -> float:
    return HOLD_IN_TRANSACTION_S if point.rpartition(".")[2] in IN_TRANSACTION else story.hold_s
