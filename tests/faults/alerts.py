"""Every alert fires because of a real fault, and ends when the fault is over: a Prometheus evaluates our rules on the real processes, where
an hour is a minute (row 20)."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from deploy.local.desk import DESK
from deploy.local.door import DOOR
from deploy.local.stack import SERVICES
from shared.contracts.invoice import IssueInvoice, PayInvoice, TokenMethod
from shared.ids import new_id
from shared.messaging.topology import UNREADABLE_DEAD_LETTERS
from tests.faults import afterwards
from tests.faults.border import COMMANDS, stuck_message
from tests.faults.crash import make_dead_letter
from tests.faults.deadly import publishing, release, until_quarantined
from tests.faults.desk import changed_entry
from tests.faults.payments import Payments
from tests.faults.prometheus import watching
from tests.faults.ready import until_not_ready, until_ready
from tests.faults.servers import MEMORY_ALARM, NO_ALARM
from tests.faults.stranger import Stranger
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.support.databases import execute, rows
from tests.support.ports import free_port

FAMILY: Final = "alerts"
FIRED_WITHIN_S: Final = 240.0
CLEAR_WITHIN_S: Final = 180.0
"""The longest that an alert may need: an hour is a minute here, and the machine may be busy."""
PAID: Final = 20
"""More payments than messages may wait in a queue here."""
EUR_MINOR: Final = 1_500_000
"""A payment above the limit of money in doubt."""
UNANSWERED: Final = 3
"""So many payments without an answer in a row, and the gateway counts as silent."""
SLOW_LADDER_S: Final = "0.2,20,20,20,20,20"
"""With this ladder a payment is in doubt for half an hour, here: the saga has it asked meanwhile, and each time is a rung."""
AGAIN_S: Final = 1.0
SCRAPED_S: Final = 8.0
"""Prometheus hears of a new instance within five seconds, and has then seen a counter of it before it rises."""
SECRET: Final = "whsec_fault_run"
ANOTHER_BUILD: Final[dict[str, Any]] = {"REMIT_REVISION": "f" * 40}

Fault = Callable[[Testbed], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class AlertingFault:
    """A fault, the alerts that it must raise, and how it is injected: it lasts as long as the block of `fault`, or is over by itself."""

    name: str
    alerts: tuple[str, ...]
    injects: str
    fault: Fault
    estimate_s: float = 45.0
    alone: bool = False


def often(service: str) -> dict[str, Any]:
    """The settings by which a service reads its gauges twice a second."""
    return {"program": f"tests.faults.watched {service}"}


# -- money and the gateway ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def unanswered(testbed: Testbed) -> AsyncIterator[None]:
    """The gateway never answers about large payments: they are in doubt, and in the end wait for a person, who has it asked."""
    await testbed.restart("payment_gateway", GATEWAY_LADDER_S=SLOW_LADDER_S, **often("payment_gateway"))
    payments = [await _pay_much(testbed) for _ in range(UNANSWERED)]
    yield
    for payment in payments:
        await asyncio.to_thread(afterwards.answer_again, testbed, payment)
        asked = await testbed.remit("payments", "ask", str(payment.payment_id), "--who", "faults")
        assert (await asked.result()).code == 0


async def _pay_much(testbed: Testbed) -> PayInvoice:
    invoice_id = f"{testbed.name}-much-{testbed.number()}"
    issued = IssueInvoice(invoice_id=invoice_id, customer_id="C-1", amount_minor=EUR_MINOR, currency="EUR")
    command = PayInvoice(
        invoice_id=invoice_id,
        payment_id=new_id(),
        amount_minor=EUR_MINOR,
        currency="EUR",
        method=TokenMethod(token="pm_remit_never_answers"),
    )
    for asked in (issued, command):
        await testbed.upstream.ask(asked)
    return command


@asynccontextmanager
async def refusing(testbed: Testbed) -> AsyncIterator[None]:
    """The gateway refuses our key, so what is due is not claimed."""
    await asyncio.to_thread(testbed.system.sandbox.mode, "unauthorised")
    testbed.play()
    yield
    await asyncio.to_thread(testbed.system.sandbox.mode, "normal")


@asynccontextmanager
async def limited(testbed: Testbed) -> AsyncIterator[None]:
    """The gateway says 429 about one payment after the other."""

    async def go_on() -> None:
        while True:
            testbed.play(*("pm_remit_rate_limited",) * UNANSWERED)
            await asyncio.sleep(AGAIN_S)

    playing = asyncio.create_task(go_on())
    try:
        yield
    finally:
        playing.cancel()


@asynccontextmanager
async def forged(testbed: Testbed) -> AsyncIterator[None]:
    """Somebody who does not know the secret sends an event to the webhook."""
    port = free_port()
    settings: dict[str, Any] = {"GATEWAY_WEBHOOK_PORT": str(port), "GATEWAY_WEBHOOK_SECRETS": SECRET}
    await testbed.restart("payment_gateway", **settings, **often("payment_gateway"))
    await until_ready(testbed, "payment_gateway")
    await asyncio.sleep(SCRAPED_S)
    status = await asyncio.to_thread(_forge, f"http://127.0.0.1:{port}/webhooks")
    assert status == 400, f"a forged event was answered {status}"
    yield


def _forge(url: str) -> int:
    forged_event = urllib.request.Request(url, data=b"{}", headers={"Stripe-Signature": "t=1,v1=00"})  # noqa: S310 - our own loopback address
    try:
        with urllib.request.urlopen(forged_event, timeout=10) as answer:  # noqa: S310 - as above
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@asynccontextmanager
async def contradicting(testbed: Testbed) -> AsyncIterator[None]:
    """The gateway captures what was declined, and disputes what was paid. A person settles both."""
    await testbed.restart("payment_gateway", **afterwards.LOOKS, **often("payment_gateway"))
    await until_ready(testbed, "payment_gateway")
    await asyncio.sleep(SCRAPED_S)
    unnoticed = Note()
    await afterwards.captured_after_a_cancel(testbed, unnoticed)
    await afterwards.contradicted(testbed, unnoticed)
    yield


# -- messages ----------------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def full_listener(testbed: Testbed) -> AsyncIterator[None]:
    """Somebody's queue refuses public copies."""
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        await stranger.full_queue("invoice.events")
        testbed.play(rounds=2)
        yield


@asynccontextmanager
async def costly_listener(testbed: Testbed) -> AsyncIterator[None]:
    """Somebody's binding costs the broker minutes for each public copy."""
    log = testbed.log_of("invoice")
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as stranger:
        costly = await stranger.costly_binding("invoice.events")
        await Payments(testbed).settle(1)
        await testbed.until_logged(log, "public_copies_slow")
        await costly.unbind("invoice.events", "#")
        yield


@asynccontextmanager
async def quarantined(testbed: Testbed) -> AsyncIterator[None]:
    """What the saga says about one payment ends its connection at each try, until a person releases it."""
    payments, payment_id = Payments(testbed), new_id()
    async with publishing(testbed, "saga", str(payment_id)):
        command = await payments.begin(payment_id)
        await until_quarantined(testbed, "saga")
        yield
    await release(testbed, "saga")
    await payments.until_paid(command)


@asynccontextmanager
async def dead_letters(testbed: Testbed) -> AsyncIterator[None]:
    """A command becomes a dead letter, and another message cannot even be read."""
    letter = await make_dead_letter(testbed)
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as administrator:
        await administrator.publish(b"nobody can read this", exchange=UNREADABLE_DEAD_LETTERS)
        yield
        await (await administrator.queue(UNREADABLE_DEAD_LETTERS)).purge()
    done = await testbed.remit("dead-letters", "replay", str(letter), "--yes", "--who", "faults")
    assert (await done.result()).code == 0


@asynccontextmanager
async def stuck(testbed: Testbed) -> AsyncIterator[None]:
    """A message that says it died stays in its queue for ever, until the queue is made anew."""
    await testbed.played()
    await testbed.stop("invoice")
    async with Stranger.open(testbed.system.stack.rabbitmq_url) as administrator:
        await stuck_message(testbed, administrator)
        await testbed.start("invoice", **often("invoice"))
        yield
        await (await administrator.queue(COMMANDS)).delete(if_unused=False, if_empty=False)
    testbed.lost.add(COMMANDS)
    await until_not_ready(testbed, "invoice", (f"consumer {COMMANDS}",))
    await testbed.apply_topology()
    await until_ready(testbed, "invoice")


@asynccontextmanager
async def alarm(testbed: Testbed) -> AsyncIterator[None]:
    """The broker has no memory left, and takes nothing from anybody."""
    ctl = testbed.system.stack.broker.ctl
    testbed.play()
    await testbed.until_under_load()
    await asyncio.to_thread(ctl, *MEMORY_ALARM)
    try:
        testbed.play()
        yield
    finally:
        await asyncio.to_thread(ctl, *NO_ALARM[MEMORY_ALARM])


# -- services and their databases --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def away(testbed: Testbed) -> AsyncIterator[None]:
    """No instance of payment_gateway runs, and payments are asked for."""
    await testbed.kill("payment_gateway")
    testbed.play(*("paid by token",) * PAID)
    yield
    await testbed.start("payment_gateway", **often("payment_gateway"))


@asynccontextmanager
async def web_away(testbed: Testbed, *, name: str, program: str) -> AsyncIterator[None]:
    """A web process ran, and does not any more."""
    settings: dict[str, Any] = {"program": program, f"{name.upper()}_PORT": str(free_port())}
    await testbed.start(name, **settings)
    await until_ready(testbed, name)
    await asyncio.sleep(SCRAPED_S)
    await testbed.kill(name)
    yield
    await testbed.start(name, **settings)


@asynccontextmanager
async def without_a_right(testbed: Testbed) -> AsyncIterator[None]:
    """Somebody has taken a right away from the saga's role."""
    await execute(testbed.database("saga"), "REVOKE SELECT ON outbox FROM saga")
    try:
        yield
    finally:
        await execute(testbed.database("saga"), "GRANT SELECT ON outbox TO saga")


@asynccontextmanager
async def two_builds(testbed: Testbed) -> AsyncIterator[None]:
    """An instance of another build runs beside ours, as in an upgrade that stands still."""
    await testbed.start("saga", instance=2, **ANOTHER_BUILD, **often("saga"))
    yield
    await testbed.stop("saga-2")


@asynccontextmanager
async def changed_journal(testbed: Testbed) -> AsyncIterator[None]:
    """The owner of the journal changes its last entry, and puts it right again."""
    log = testbed.log_of("staff")
    letter = await make_dead_letter(testbed)
    done = await testbed.remit("dead-letters", "replay", str(letter), "--yes", "--who", "faults")
    assert (await done.result()).code == 0
    await testbed.until_logged(log, "journal_head")
    url = testbed.database("staff")
    (last,) = await rows(url, "SELECT position, hash FROM journal ORDER BY position DESC LIMIT 1")
    async with changed_entry(url, last["position"], hash_=bytes(len(last["hash"]))):
        yield


# -- the faults --------------------------------------------------------------------------------------------------------------------------


FAULTS: Final = (
    AlertingFault(
        "unanswered",
        ("MoneyInDoubtTooLong", "MoneyInDoubtTooMuch", "GatewaySilent", "CasesWaiting"),
        "the gateway never answers about payments of 15 000 EUR, until a person has it asked",
        unanswered,
        150.0,
    ),
    AlertingFault(
        "refusing", ("GatewayRefusesAccess", "PaymentsNotClaimed"), "the gateway answers 401 to everything", refusing
    ),
    AlertingFault("limited", ("GatewayLimits",), "the gateway answers 429 again and again", limited, 90.0),
    AlertingFault("forged", ("WebhookForged",), "an event comes whose signature is not Stripe's", forged),
    AlertingFault(
        "contradicting",
        ("LateCapture", "Contradiction"),
        "the gateway captures what was declined, and disputes what was paid",
        contradicting,
        90.0,
    ),
    AlertingFault("full-listener", ("ListenerRefuses",), "a queue of somebody is full", full_listener, 90.0),
    AlertingFault("costly-listener", ("ListenerSlows",), "a binding of somebody costs minutes", costly_listener, 90.0),
    AlertingFault(
        "quarantined", ("OutboxQuarantined",), "a message ends the connection that publishes it", quarantined, 90.0
    ),
    AlertingFault(
        "dead-letters", ("DeadLetters", "DeadLettersUnreadable"), "a dead letter, and a message that is unreadable",
        dead_letters, alone=True,  # the scenes of other trials leave dead letters
    ),
    AlertingFault(
        "stuck", ("QueueStuck", "QueueStandsStill"), "a message that the broker keeps for ever", stuck, 120.0
    ),
    AlertingFault(
        "alarm", ("BrokerAlarm", "NotReady", "OutboxLag"), "the broker has no memory left", alarm, 60.0, alone=True
    ),
    AlertingFault(
        "away",
        ("ServiceAway", "MoneyInDoubtUnknown", "NobodyConsumes", "QueueGrows", "SagasOverdue"),
        f"no payment_gateway runs, and {PAID} payments are asked for",
        away,
    ),
    AlertingFault(
        "desk-away",
        ("DeskAway",),
        "the staff desk is killed",
        partial(web_away, name=DESK, program="services.staff.desk"),
    ),
    AlertingFault(
        "door-away", ("DoorAway",), "the door is killed", partial(web_away, name=DOOR, program="services.invoice.door")
    ),
    AlertingFault("without-a-right", ("BackgroundFails",), "the saga may not read its outbox", without_a_right),
    AlertingFault("two-builds", ("DifferentBuilds",), "instances of two builds run side by side", two_builds, 120.0),
    AlertingFault("changed-journal", ("JournalBroken",), "an entry of the journal is changed", changed_journal),
)  # fmt: skip


def trials() -> Sequence[Trial]:
    """Each fault. Its alerts are silent before it, fire, and are silent again when it is over."""
    return [
        Trial(
            f"{FAMILY}/{fault.name}",
            FAMILY,
            f"{fault.injects}: {', '.join(fault.alerts)}",
            partial(_raised, fault=fault),
            estimate_s=fault.estimate_s,
            touches=frozenset(SERVICES),
            alone=fault.alone,
            short=fault.name == "away",
        )
        for fault in FAULTS
    ]


async def _raised(testbed: Testbed, note: Note, *, fault: AlertingFault) -> None:
    for service in SERVICES:
        await testbed.restart(service, **often(service))
    await until_ready(testbed)
    async with watching(testbed) as alerts:
        await alerts.until_silent(fault.alerts, within_s=CLEAR_WITHIN_S)
        alerts.fired.clear()
        async with fault.fault(testbed):
            await alerts.until_fired(fault.alerts, within_s=FIRED_WITHIN_S)
            note.fired(len(fault.alerts))
        note.mended()
        await alerts.until_clear(fault.alerts, within_s=CLEAR_WITHIN_S)
        note.remark(f"fired: {', '.join(sorted(alerts.fired))}; ended: {', '.join(fault.alerts)}")
