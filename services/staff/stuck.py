"""What is stuck: work that should have gone on by itself and has not. Each says what it means for money, and what to do. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.staff.story import Named, Theirs, Words
from shared.messaging.topology import QUEUES
from shared.records import dataclass, field

GONE_AFTER_S: Final = 30.0
"""An instance that says nothing for so long is gone: it speaks every ten seconds."""
OUTBOX_AFTER_S: Final = 30.0
STILL_AFTER_S: Final = 60.0
SEEN_AFTER_S: Final = 60.0
"""What the broker counted longer ago says nothing."""
RUN_AFTER_S: Final = 60.0
PROPOSAL_AFTER: Final = timedelta(hours=1)
STOPPING: Final = "stopping"
"""What an instance says last, when it is told to stop. It is not missed."""
SERVICES: Final = ("invoice", "payment_gateway", "saga", "staff")
OPTIONAL: Final = frozenset(queue.name for queue in QUEUES if queue.is_optional)
UNCONSUMED: Final = frozenset({"dead-letters.unreadable"})
"""Queues that nobody consumes: what waits there waits for a person."""


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """An instance as its newest heartbeat says. `heard_at` is by the clock of the database, `age_s` how long ago that is, in seconds."""

    instance: str
    service: str
    version: str
    not_ready: Mapping[str, str]
    outbox_oldest_s: float | None
    overdue: int | None
    leases_held: int
    heard_at: datetime
    age_s: float

    @property
    def has_left(self) -> bool:
        """Whether it was told to stop."""
        return self.not_ready.get("started") == STOPPING

    @property
    def is_gone(self) -> bool:
        """Whether it should speak and does not."""
        return self.age_s > GONE_AFTER_S and not self.has_left

    @property
    def is_there(self) -> bool:
        return self.age_s <= GONE_AFTER_S and not self.has_left


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """A queue. `messages` is None if it is not there. `still_s`: for how many seconds it has had messages, and not fewer; 0: it has not."""

    name: str
    messages: int | None
    consumers: int
    still_s: float
    age_s: float


@dataclass(frozen=True, slots=True)
class PendingPayments:
    """Payments of which nothing was heard for too long. `more`: there are more than were counted."""

    number: int = 0
    oldest_at: datetime | None = None
    example: UUID | None = None
    more: bool = False


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A replay of many messages that runs. `moved_at`: when it sent something last."""

    no: int
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class ProposalSeen:
    """A decision that waits for a second person."""

    payment_id: UUID
    invoice_id: str
    by: str
    at: datetime
    resolution: str
    amount_minor: int | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class WatchedWork:
    """What is looked at. `now` is by the same clock as the moments. `hears_instances`: whether heartbeats are on."""

    now: datetime
    instances: tuple[InstanceSeen, ...] = ()
    queues: tuple[QueueSeen, ...] = ()
    pending: PendingPayments = field(default_factory=PendingPayments)
    own_outbox_s: float = 0.0
    """Age of the oldest message in the outbox of staff themselves, in seconds."""
    runs: tuple[RunSeen, ...] = ()
    proposals: tuple[ProposalSeen, ...] = ()
    hears_instances: bool = True


@dataclass(frozen=True, slots=True)
class Stuck:
    """Something that is stuck. `key` names it, the same each time. `means` is about money, `todo` about people. `since`: None is not known.

    `how_much` counts: `2 payments`. `place` is the address of the page about it, if there is one.
    """

    key: str
    what: str
    how_much: str
    means: Words
    todo: str
    since: datetime | None
    place: str | None = None


def stuck(watched: WatchedWork) -> list[Stuck]:
    """Everything that is stuck, the longest first."""
    found = [one for look in _LOOKS for one in look(watched)]
    return sorted(found, key=lambda one: (one.since is None, one.since or watched.now, one.key))


def missing_services(watched: WatchedWork) -> list[str]:
    """The services of which no instance runs. Without heartbeats nobody can say."""
    if not watched.hears_instances:
        return []
    return [name for name in SERVICES if not any(one.service == name and one.is_there for one in watched.instances)]


def _since(watched: WatchedWork, seconds: float) -> datetime:
    return watched.now - timedelta(seconds=seconds)


def _outboxes(watched: WatchedWork) -> Iterable[Stuck]:
    ages = {"staff": watched.own_outbox_s}
    for one in watched.instances:
        if one.is_there and one.outbox_oldest_s is not None:
            ages[one.service] = max(ages.get(one.service, 0.0), one.outbox_oldest_s)
    for service, age_s in sorted(ages.items()):
        if age_s > OUTBOX_AFTER_S:
            yield Stuck(
                f"outbox:{service}",
                f"Messages of {service} do not leave",
                "its outbox",
                (
                    "What they say is decided and kept. It reaches nobody until the broker takes it; nothing is charged twice.",
                ),
                "Look whether RabbitMQ is there and takes messages: `remit doctor`.",
                _since(watched, age_s),
            )


def _pending(watched: WatchedWork) -> Iterable[Stuck]:
    pending = watched.pending
    if pending.number and pending.oldest_at is not None:
        number = f"{pending.number}{' or more' if pending.more else ''} payment{'s' if pending.number > 1 else ''}"
        example: Words = (" One of them: ", Named(str(pending.example), "payment"), ".") if pending.example else ()
        yield Stuck(
            "pending",
            f"{number} {'wait' if pending.number > 1 else 'waits'} for an outcome",
            number,
            ("Asked for again, and nothing was heard. They may be charged or not.", *example),
            "Look whether the payment gateway runs, and for failed messages of its queue.",
            pending.oldest_at,
        )


def _overdue(watched: WatchedWork) -> Iterable[Stuck]:
    for service, what, means in (
        ("saga", "sagas are past their deadline", "Nobody asks what became of these payments."),
        ("payment_gateway", "payments are due and nobody works on them", "They are neither charged nor asked about."),
    ):
        overdue = max(
            (one.overdue or 0 for one in watched.instances if one.service == service and one.is_there), default=0
        )
        if overdue:
            yield Stuck(
                f"overdue:{service}",
                f"{overdue} {what}",
                f"{overdue} payment{'s' if overdue > 1 else ''}",
                (means,),
                f"Look why {service} does not go on: its log, and `remit doctor`.",
                None,
            )


def _leases(watched: WatchedWork) -> Iterable[Stuck]:
    for one in watched.instances:
        if one.is_gone and one.leases_held:
            held = f"{one.leases_held} payment{'s' if one.leases_held > 1 else ''}"
            yield Stuck(
                f"lease:{one.instance}",
                f"{held} held by an instance that is gone",
                held,
                ("Another instance takes them over once the leases run out, and asks the gateway before it charges.",),
                f"If no other instance of {one.service} runs, start one.",
                one.heard_at,
            )


def _queues(watched: WatchedWork) -> Iterable[Stuck]:
    for queue in watched.queues:
        if queue.age_s > SEEN_AFTER_S or queue.name in UNCONSUMED:
            continue
        if queue.messages is None:
            yield Stuck(
                f"queue:{queue.name}",
                f"The queue {queue.name} is not there",
                "a queue",
                (
                    _MEANS_NO_QUEUE
                    if queue.name in OPTIONAL
                    else "What is sent to it waits in the outbox of its sender.",
                ),
                "`remit topology apply` makes it.",
                None,
            )
        elif queue.messages and (queue.consumers == 0 or queue.still_s > STILL_AFTER_S):
            why = "nobody takes them" if queue.consumers == 0 else "they do not get fewer"
            yield Stuck(
                f"queue:{queue.name}",
                f"Messages wait on {queue.name}, and {why}",
                f"{queue.messages} message{'s' if queue.messages > 1 else ''}",
                (_MEANS.get(queue.name, "What they ask for is not done meanwhile; nothing is lost."),),
                f"Look whether {queue.name.partition('.')[0].replace('dead-letters', 'staff')} runs: its log, and `remit doctor`.",
                _since(watched, queue.still_s),
            )


_MEANS_NO_QUEUE: Final = "No money depends on it: pages of this desk show less."
_MEANS: Final[Mapping[str, str]] = {
    "invoice.commands": "These invoices are neither issued nor paid meanwhile; nothing is charged.",
    "payment_gateway.requests": "These payments are not charged yet.",
    "saga.events": "Invoices are not marked as paid meanwhile, though their cards are charged.",
    "invoice.settlement": "Invoices are not marked as paid meanwhile, though their cards are charged.",
    "payment_gateway.commands": "Refunds and questions to the gateway wait.",
    "staff.cases": "Money in doubt does not show here until it is read.",
    "staff.journal": "Stories are behind. No money depends on it.",
    "staff.heartbeats": "This page is behind. No money depends on it.",
    "dead-letters": "Failed messages do not show here until they are read.",
}


def _instances(watched: WatchedWork) -> Iterable[Stuck]:
    for one in watched.instances:
        if one.is_gone and not one.leases_held:
            yield Stuck(
                f"instance:{one.instance}",
                f"An instance of {one.service} says nothing any more",
                "an instance",
                ("What it had begun is done again by another one. It is ", Theirs(one.instance), "."),
                f"Look whether it was stopped or has died. It should say something every {int(GONE_AFTER_S / 3)} s.",
                one.heard_at,
            )


def _runs(watched: WatchedWork) -> Iterable[Stuck]:
    for run in watched.runs:
        if (watched.now - run.moved_at).total_seconds() > RUN_AFTER_S:
            yield Stuck(
                f"run:{run.no}",
                f"The replay R-{run.no} runs and sends nothing",
                "a replay",
                ("What it has not sent stays failed messages; nothing is charged by it meanwhile.",),
                "Look whether the staff service runs.",
                run.moved_at,
                f"/replays/{run.no}",
            )


def _proposals(watched: WatchedWork) -> Iterable[Stuck]:
    for proposal in watched.proposals:
        if watched.now - proposal.at > PROPOSAL_AFTER:
            yield Stuck(
                f"proposal:{proposal.payment_id}",
                f"A decision about {proposal.invoice_id} waits for a second person",
                "a case",
                (Theirs(proposal.by), " decided; nothing was sent, and the money stays in doubt."),
                "Somebody else who may decide looks at it, and agrees or not.",
                proposal.at,
                f"/cases/{proposal.payment_id}",
            )


_LOOKS: Final[Sequence[Callable[[WatchedWork], Iterable[Stuck]]]] = (
    _outboxes,
    _pending,
    _overdue,
    _leases,
    _queues,
    _instances,
    _runs,
    _proposals,
)


def watched_in_words(pending_after_s: float) -> list[str]:
    """What is watched. A payment without an outcome is stuck after `pending_after_s` seconds."""
    return [
        f"messages that wait in an outbox for more than {OUTBOX_AFTER_S:.0f} s",
        f"payments without an outcome for more than {pending_after_s:g} s",
        "deadlines of sagas, and payments that are due and that nobody works on",
        "payments that are held by an instance that is gone",
        f"queues with messages and no consumer, or whose messages do not get fewer for {STILL_AFTER_S:.0f} s",
        f"instances that say nothing for {GONE_AFTER_S:.0f} s",
        f"replays that send nothing for {RUN_AFTER_S:.0f} s",
        "decisions that wait for a second person for more than an hour",
    ]
