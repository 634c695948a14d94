"""Builds without one guarantee: each must break its check of the audit, and the same trial with our own build must not."""

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import aio_pika

from deploy.demo.scenes import AMOUNT_MINOR, CURRENCY, Stage
from deploy.local.stack import Service
from deploy.local.system import SANDBOX_KEY
from shared.contracts.invoice import IssueInvoice
from shared.ids import new_id
from shared.messaging.topology import QUEUES
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import case_version
from tests.support.databases import rows

FAMILY: Final = "planted"
REMIT_FAULT: Final = "REMIT_FAULT"
SETTLEMENT: Final = "invoice.settlement"

# -- steps that provoke it: each waits until it has happened ---------------------------------------------------------------------------

Provoke = Callable[[Testbed, Note], Awaitable[None]]


def _stage(testbed: Testbed) -> Stage:
    keys = testbed.system.public_keys["keys"]
    assert isinstance(keys, list)
    return Stage(testbed.upstream, keys[0])


async def _requested(testbed: Testbed, token: str) -> UUID:
    """Begin a payment; returns its id."""
    stage, invoice_id = _stage(testbed), f"{testbed.name}-{new_id()}"
    await stage.issue(invoice_id)
    command = stage.pay(invoice_id, token)
    await testbed.upstream.ask(command)
    return command.payment_id


async def _until_status(testbed: Testbed, payment_id: UUID, *statuses: str) -> None:
    async def there() -> bool:
        query = "SELECT 1 FROM payments WHERE payment_id = $1 AND status = ANY($2::text[])"
        return bool(await rows(testbed.database("payment_gateway"), query, payment_id, list(statuses)))

    await testbed.until(there, what=f"payment {payment_id} is {' or '.join(statuses)}")


async def a_command_twice(testbed: Testbed, note: Note) -> None:
    command = IssueInvoice(
        invoice_id=f"twice-{new_id()}", customer_id="C-1", amount_minor=AMOUNT_MINOR, currency=CURRENCY
    )
    id_, _ = await testbed.upstream.ask(command)
    await testbed.upstream.send(command, command_id=id_)

    async def answered_twice() -> bool:
        return len(testbed.upstream.answers[id_]) > 1

    await testbed.until(answered_twice, what="a second answer")
    note.fired()


async def a_crash_before_the_commit(testbed: Testbed, note: Note) -> None:
    log = testbed.log_of("invoice")
    command = IssueInvoice(
        invoice_id=f"lost-{new_id()}", customer_id="C-1", amount_minor=AMOUNT_MINOR, currency=CURRENCY
    )
    await testbed.upstream.send(command)
    await testbed.until_logged(log, "fault_fired")
    note.fired()


async def a_crash_before_publishing(testbed: Testbed, note: Note) -> None:
    log = testbed.log_of("saga")
    await _requested(testbed, "pm_card_visa")
    await testbed.until_logged(log, "fault_fired")
    note.fired()


async def a_command_that_is_returned(testbed: Testbed, note: Note) -> None:
    """For a while no queue takes the saga's commands. No queue of ours loses messages, so the audit excuses no missing one."""
    await unbind(testbed, SETTLEMENT)
    log = testbed.log_of("saga")
    payment_id = await _requested(testbed, "pm_card_visa")
    query = "SELECT 1 FROM transitions WHERE payment_id = $1 AND to_status = 'settling'"

    async def told() -> bool:
        return bool(await rows(testbed.database("saga"), query, payment_id))

    await testbed.until(told, what="the saga settles")

    async def noticed() -> bool:
        return log.has("message_unroutable") or not await rows(testbed.database("saga"), "SELECT 1 FROM outbox")

    await testbed.until(noticed, what="the saga service sees the return")
    note.fired()
    await testbed.apply_topology()


async def unbind(testbed: Testbed, queue: str) -> None:
    await testbed.tap.ignore(queue)
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        taken = await channel.get_queue(queue, ensure=False)
        for binding in next(one for one in QUEUES if one.name == queue).bindings:
            await taken.unbind(binding.exchange, binding.routing_key)


async def a_payment(testbed: Testbed, note: Note) -> None:
    await _until_status(testbed, await _requested(testbed, "pm_card_visa"), "captured")
    note.fired()


async def a_late_confirm(testbed: Testbed, note: Note) -> None:
    """The gateway limits our rate until we give the payment up. Then a confirm that was on its way arrives."""
    payment_id = await _requested(testbed, "pm_remit_rate_limited")
    await _until_status(testbed, payment_id, "not_charged")
    (row,) = await rows(
        testbed.database("payment_gateway"), "SELECT gateway_id FROM payments WHERE payment_id = $1", payment_id
    )
    note.remark(await asyncio.to_thread(_confirm, testbed, row["gateway_id"]))
    note.fired()


def _confirm(testbed: Testbed, gateway_id: str) -> str:
    """The gateway's answer to a confirm now."""
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        f"{testbed.system.sandbox.url}/v1/payment_intents/{gateway_id}/confirm",
        data=b"off_session=true",
        headers={"Authorization": f"Bearer {SANDBOX_KEY}", "Idempotency-Key": f"late {gateway_id}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - see above
            return f"the late confirm: {json.load(answer)['status']}"
    except urllib.error.HTTPError as refused:
        return f"the late confirm: HTTP {refused.code}"


async def a_timeout(testbed: Testbed, note: Note) -> None:
    payment_id = await _requested(testbed, "pm_remit_charged_then_timeout")
    await _until_status(testbed, payment_id, "captured", "declined")
    note.fired()


async def a_dispute(testbed: Testbed, note: Note) -> None:
    """The customer disputes a charge, and the gateway says so when the capture is looked at."""
    payment_id = await _requested(testbed, "pm_remit_disputed")
    query = "SELECT 1 FROM attempts WHERE payment_id = $1 AND step = 'inquire'"

    async def looked() -> bool:
        return bool(await rows(testbed.database("payment_gateway"), query, payment_id))

    await testbed.until(looked, what="a look at the capture")
    note.fired()


async def a_zombie(testbed: Testbed, note: Note) -> None:
    """An instance stops with an answer in hand, another takes over, and a person decides. Then the first one goes on."""
    log = testbed.log_of("payment_gateway")
    payment_id = await _requested(testbed, "pm_remit_never_answers")
    await testbed.until_logged(log, "fault_fired")

    async def stopped() -> bool:
        return testbed.is_stopped("payment_gateway")

    await testbed.until(stopped, what="payment_gateway is stopped")
    await testbed.start("payment_gateway", instance=2)
    version = await case_version(testbed, payment_id)
    charge = (await asyncio.to_thread(testbed.system.sandbox.show, str(payment_id)))["charges"][0]["id"]
    words = ("--receipt", charge, "--evidence", "its books show the charge", "--reason", "fault run", "--who", "faults")
    done = await testbed.remit("payments", "resolve", str(payment_id), "captured", "--version", str(version), *words)
    assert (await done.result()).code == 0
    await _until_status(testbed, payment_id, "captured")
    woken = testbed.log_of("payment_gateway")
    testbed.signal("payment_gateway", signal.SIGCONT)

    async def awake() -> bool:
        query = "SELECT 1 FROM payments WHERE payment_id = $1 AND status = 'needs_decision'"
        return woken.has("lease_lost") or bool(await rows(testbed.database("payment_gateway"), query, payment_id))

    await testbed.until(awake, what="the zombie has written, or was told that it may not")
    note.fired()


# -- the faults ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlantedBuild:
    """A build, the service that runs it, the step that provokes it, and the check of the audit that it must break."""

    build: str
    service: Service
    check: str
    injects: str
    provoke: Provoke
    settings: dict[str, str] = field(default_factory=dict)
    estimate_s: float = 15.0


PLANTED: Final = (
    PlantedBuild("inbox-off", "invoice", "caused_by_commands", "a command comes twice", a_command_twice),
    PlantedBuild(
        "ack-before-commit", "invoice", "answered_once", "a crash before the commit", a_crash_before_the_commit,
        {REMIT_FAULT: "shell.at_once.before_commit:1:exit"},
    ),
    PlantedBuild(
        "outbox-row-deleted-before-the-confirm", "saga", "deliveries_accounted_for", "a crash before publishing", a_crash_before_publishing,
        {REMIT_FAULT: "relay.before_publish:1:exit"}, 25,
    ),
    PlantedBuild(
        "returned-message-ignored", "saga", "deliveries_accounted_for", "a command is returned", a_command_that_is_returned,
        estimate_s=25,
    ),
    PlantedBuild("confirmed-before-the-id-is-recorded", "payment_gateway", "confirmed_once", "a payment", a_payment),
    PlantedBuild(
        "not-charged-without-a-cancel", "payment_gateway", "captured_here_and_there", "a confirm arrives late", a_late_confirm,
        {"GATEWAY_LADDER_S": "0.2"},
    ),
    PlantedBuild("timeout-recorded-as-declined", "payment_gateway", "captured_here_and_there", "charged, then no answer", a_timeout),
    PlantedBuild(
        "fencing-off", "payment_gateway", "paid_when_captured", "a zombie writes after a person decided", a_zombie,
        {REMIT_FAULT: "charging.after_inquire:1:stop"}, 60,
    ),
    PlantedBuild(
        "differences-not-seen", "payment_gateway", "settled_agrees", "a customer disputes a charge", a_dispute,
        {"GATEWAY_CAPTURE_LOOKS_S": "0.5"},
    ),
)  # fmt: skip


SHORT: Final = {"timeout-recorded-as-declined"}
"""The builds that prove at every commit that the audit can fail."""


def trials() -> Sequence[Trial]:
    """Each build, and its control: the same with our own build."""
    return [trial for planted in PLANTED for trial in (_trial(planted), _control(planted))]


def _trial(planted: PlantedBuild) -> Trial:
    program = f"tests.faults.builds {planted.build} {planted.service}"
    return Trial(
        name=f"{FAMILY}/{planted.build}",
        family=FAMILY,
        injects=f"{planted.service} without this guarantee: {planted.injects}",
        run=_run(planted, program=program),
        estimate_s=planted.estimate_s,
        touches=frozenset({planted.service}),
        check=planted.check,
        short=planted.build in SHORT,
    )


def _control(planted: PlantedBuild) -> Trial:
    return Trial(
        name=f"{FAMILY}/{planted.build}:control",
        family=FAMILY,
        injects=f"{planted.injects}; every guarantee is kept",
        run=_run(planted),
        estimate_s=planted.estimate_s,
        touches=frozenset({planted.service}),
    )


def _run(planted: PlantedBuild, **program: str) -> Callable[[Testbed, Note], Awaitable[None]]:
    async def run(testbed: Testbed, note: Note) -> None:
        await testbed.restart(planted.service, **(planted.settings | program))  # type: ignore[arg-type] # names of variables are upper case
        await planted.provoke(testbed, note)
        note.mended()

    return run
