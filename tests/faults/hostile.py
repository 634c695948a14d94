"""Strangers at the broker (row 18): poison beside healthy traffic. Nothing they choose stops us, and nothing that pays is overheard."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from deploy.local.stack import LISTENER, SERVICES
from tests.faults import border, deadly, foreign
from tests.faults.payments import Payments
from tests.faults.stranger import PublicListener
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial

FAMILY: Final = "hostile"

Run = Callable[[Testbed, Payments, Note], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HostileFault:
    """What a stranger does, and the services that it could reach."""

    name: str
    injects: str
    run: Run
    touches: tuple[str, ...] = ("invoice",)
    estimate_s: float = 25.0
    short: bool = False
    alone: bool = False
    """On a broker of its own, because it could harm every queue of the broker."""


FAULTS: Final[tuple[HostileFault, ...]] = (
    HostileFault(
        "address",
        f"every {deadly.EVERY_S * 1000:.0f} ms a command whose answer nobody can send, beside {deadly.PAID} payments",
        deadly.malformed_addresses,
        short=True,
    ),
    HostileFault(
        "address:forged",
        f"the same with addresses that the broker itself could have written, beside {deadly.PAID} payments",
        deadly.forged_addresses,
    ),
    HostileFault("sent:answer", "an answer that ends the connection that publishes it", deadly.deadly_answer),
    HostileFault("sent:event", "an event that ends the connection that publishes it", deadly.deadly_event),
    *(
        HostileFault(
            f"sent:{service}",
            f"what {service} says about one payment ends the connection that publishes it",
            partial(deadly.deadly_outcome, service=service),
            (service,),
        )
        for service in ("payment_gateway", "saga")
    ),
    HostileFault(
        "sent:staff",
        "a replay that ends the connection that publishes it, chosen together with another",
        deadly.deadly_replay,
        ("invoice", "staff"),
        estimate_s=40.0,
    ),
    *(
        HostileFault(
            f"received:{queue}",
            f"two messages on {queue} that end the connection of whoever receives them",
            partial(deadly.deadly_delivery, queue=queue),
            (service,),
            short=queue == "invoice.commands",
        )
        for queue, service in deadly.CONSUMED_BY.items()
        if service != "staff"
    ),
    HostileFault(
        "received:invoice.commands.suspect",
        "a message that ends the connection of whoever receives it, with a forged death",
        deadly.deadly_suspect,
    ),
    HostileFault(
        "received:staff.cases",
        "a message that ends the connection of the staff service, as a case and as a dead letter",
        deadly.deadly_case,
        ("staff",),
    ),
    HostileFault(
        "received:dead-letters",
        f"a dead letter that ends the connection of the staff service, beside {deadly.PAID_BESIDE} others",
        deadly.deadly_dead_letter,
        ("staff",),
        estimate_s=45.0,
    ),
    HostileFault(
        "death:forged",
        f"{len(border.FORGED_DEATHS)} ways to forge the headers of a dead letter, on commands that expire at once",
        border.forged_deaths,
        short=True,
        alone=True,
    ),
    HostileFault(
        "death:cycle", "such a message right in our queue, where the broker keeps it for ever", border.cycle_inside
    ),
    *(
        HostileFault(
            f"full:{exchange}",
            f"a queue that somebody bound to {exchange} is full, and refuses all events",
            partial(border.full_queue, exchange=exchange),
            SERVICES,
            estimate_s=40.0,
        )
        for exchange in border.WHO_SAYS
    ),
    *(
        HostileFault(
            f"costly:{exchange}",
            f"over a binding behind {exchange} the broker computes for minutes, for each event, beside {deadly.PAID} payments",
            partial(border.costly_binding, exchange=exchange),
            SERVICES,
            estimate_s=70.0,
        )
        for exchange in border.WHO_SAYS
    ),
    HostileFault("full:answers", "a sender's queue for answers is full", deadly.full_answers),
    HostileFault(
        "bodies:worst",
        f"{border.WORST} bodies that are as slow to read as can be",
        border.worst_bodies,
        estimate_s=60.0,
    ),
    HostileFault(
        "bodies:huge",
        f"{border.HUGE} messages of {border.HUGE_BYTES / 1024**2:.0f} MiB while the database is away",
        border.huge_bodies,
        estimate_s=60.0,
    ),
    HostileFault(
        "texts",
        "hostile texts in every property and header of messages that become dead letters",
        border.hostile_texts,
        ("invoice", "staff"),
        estimate_s=40.0,
    ),
    HostileFault(
        "moved",
        "dead letters that an operator moves to work queues with the broker's own tools",
        border.moved_by_hand,
        SERVICES,
    ),
    HostileFault(
        "cards", "card numbers in every place of a command, written in every way", border.card_data, short=True
    ),
    HostileFault("senders:ids", "a sender uses the ids of another one's commands", foreign.foreign_ids),
    HostileFault(
        "senders:invoices", "a sender pays, voids and refunds another one's invoice", foreign.foreign_invoices
    ),
    HostileFault("senders:queue", "a sender has its answers sent to another one's queue", foreign.foreign_queue),
    HostileFault("senders:nameless", "a command that does not say who sends it", foreign.nameless),
)


def trials() -> Sequence[Trial]:
    """Each fault, with somebody who listens to all that is public meanwhile."""
    return [
        Trial(
            f"{FAMILY}/{fault.name}",
            FAMILY,
            fault.injects,
            _overheard(fault.run),
            estimate_s=fault.estimate_s,
            touches=frozenset(fault.touches),
            short=fault.short,
            alone=fault.alone,
        )
        for fault in FAULTS
    ]


def _overheard(run: Run) -> Callable[[Testbed, Note], Awaitable[None]]:
    async def listen(testbed: Testbed, note: Note) -> None:
        payments = Payments(testbed)
        async with PublicListener.open(testbed.system.stack.rabbitmq_url_of(LISTENER)) as listener:
            await run(testbed, payments, note)
            await testbed.until_drained()
        heard = listener.overheard(payments.secrets)
        assert not heard, f"{len(heard)} parts of what pays were overheard: {heard[:5]}"
        assert listener.messages, "the listener heard nothing at all"

    return listen
