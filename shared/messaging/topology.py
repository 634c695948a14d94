"""Exchanges, queues and bindings as data: the one registry. `remit topology apply` creates it; services only verify it.

Our own queues are bound by exact key. A topic exchange compares words for every message, which was a sixth of what RabbitMQ 3.10 spent on a
payment. So commands go to a fanout or a direct exchange, and an event enters through a direct exchange of its own (`entry_exchange`).

What pays goes by a private exchange (`invoice.requests`), to which only the queue of the payment-gateway service is bound.

Every other event is published twice: to its own exchange (`own_exchange`), which only our queues are bound to, and as a public copy to the
topic exchange of its name, where anybody may bind any pattern (`shared.messaging.relay`). One publish would do for both, but a full queue
that somebody bound makes the broker refuse all of it, and a pattern with many `#` makes it take minutes.

Some queues only feed views of staff (`Queue.is_optional`). They get what others of ours get, or public copies, so nothing is published for
them, and they never refuse a message: when they are full, they drop the oldest.

The build before published to a third exchange (`ingress_exchange`), which gives an event to our queues and on to the topic exchange: by a
binding, or as its alternate exchange.

Commands of others pass a headers exchange on the way from their fanout exchange to the work queue. What carries `x-death` goes to another
queue: see `SUSPECT_COMMANDS`. Anything else takes the way of the alternate exchange. The fanout exchange stays in front, because messages
take that way only while no other binding takes them: a queue that somebody bound to a headers exchange in front would keep our commands.

RabbitMQ's permissions are on names, and whoever may write to a queue may bind it to an exchange of its own. So no exchange that somebody
publishes to has the name of a queue: commands enter by `COMMAND_ENTRY`, and dead letters by the ingress exchange of `dead-letters`.

Queue settings are arguments of the queue, not policies. They are set in one step with the queue, and cannot be forgotten on a broker
without the management plugin. All queues are quorum queues: durable, and replicated where there are more nodes. Dead-lettering is
at-least-once; that needs `reject-publish` and a dead-letter exchange that routes (RabbitMQ documentation, "Dead Lettering").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from shared.contracts import invoice, operations, payment_gateway
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES

DEAD_LETTERS = "dead-letters"
DEFAULT_EXCHANGE = "amq.default"
"""The name of the default exchange, which has none, in permissions. Whoever may write it reaches every queue by its name."""
COMMANDS = "invoice.commands"
"""The queue of the commands of others."""
COMMAND_ENTRY = invoice.UpstreamCommand.exchange
"""The exchange that others publish commands to."""
FORMER_COMMAND_ENTRY = "invoice.commands"
"""The exchange that others published commands to until this build. As long as it is there, it leads to `COMMAND_ENTRY`."""
SCREENED_COMMANDS = "invoice.commands.screened"
"""The headers exchange behind `COMMAND_ENTRY`."""
ACCEPTED_COMMANDS = "invoice.commands.accepted"
"""The alternate exchange of `SCREENED_COMMANDS`, which gets every command that has no header of the broker's own."""
SUSPECT_COMMANDS = "invoice.commands.suspect"
"""The queue of commands that carry `x-death`, as only the broker should write it. RabbitMQ reads that header when it dead-letters a
message. If the header names the queue `dead-letters`, the broker takes that for a cycle, and keeps the message in its queue for ever. If it
has an unexpected form, RabbitMQ 3.10 stops dead-lettering for all queues of the node until it is restarted (measured).

So this queue has no dead-letter exchange: nothing can get stuck in it. The invoice service sets aside what it finds here, for staff to see.
"""
BROKERS_HEADERS = ("x-death",)
"""Headers that the broker obeys, whoever wrote them. It also writes `x-first-death-*`, `x-last-death-*`, `x-delivery-count` and
`x-acquired-count`, but never reads them (measured)."""
REPLAYS = "staff.replays"
"""The queue on which staff hear what became of messages that they replayed."""
REPLAYS_BYTES_MAX = 256 * 1024**2
"""About half a million reports. Beyond them the oldest are dropped: a run then sees no sign of those messages, and no payment waits."""
UNREADABLE_DEAD_LETTERS = "dead-letters.unreadable"
"""The way out of `dead-letters`: what ends the staff service's connection again and again waits here for a person. Nobody consumes it."""
ANY_KEY = ""
"""The routing key for an exchange that does not look at it: fanout, headers."""

DELIVERY_LIMIT = 100
"""Deliveries before the broker itself dead-letters a message. A crash counts against every unacknowledged neighbour, so the limit is
generous. Our own tries end far below it (`shared.batch.retry.TRIES_MAX`)."""
DEAD_LETTER_DELIVERY_LIMIT = 300
"""Deliveries before the broker moves a dead letter to `dead-letters.unreadable`. Staff's consumer begins with one message at a time, so a
service that crashes at each start counts against one dead letter only, and would have to do so 300 times before it handles that one. A
message that ends connections is gone after a minute or two."""
SUSPECT_DELIVERY_LIMIT = 1_000
"""Beyond this limit the broker drops a suspect command. It comes that far only if it also ends connections: then nobody can read it, and
the broker must not dead-letter it."""
JOURNAL = "staff.journal"
"""The queue from which staff hear what happened, for the stories of invoices. What pays never comes here: neither commands of others nor
the requests of payments."""
JOURNAL_BYTES_MAX = 1024**3
"""About a million messages. Beyond them the oldest are dropped: a story is a copy, and no payment may wait for it."""
HEARTBEATS = "staff.heartbeats"
"""The queue from which staff hear which instances run."""
HEARTBEATS_BYTES_MAX = 4 * 1024**2
"""About four thousand heartbeats. Beyond them the oldest are dropped: only the newest of an instance is of use."""
LAST_DELIVERY_LIMIT = 1_000_000
"""Beyond this limit the broker drops a message, since its queue has no dead-letter exchange. It is for a queue that nobody consumes, and a
person who looks into it never reaches the limit."""
QUEUE_BYTES_MAX = 4 * 1024**3
"""A bound on disk. Beyond it publishers are refused (`reject-publish`) and keep their messages in the outbox."""

RoutingSuffix = Literal["", "case"]
"""The last word of a routing key, behind the type: for queues that want only some messages of a type."""
CASE: Final[RoutingSuffix] = "case"
"""The outcome of a payment that was a case. Staff hear of these outcomes, and not of those of healthy payments."""


def routing_key(wire_name: str, routing_suffix: RoutingSuffix = "") -> str:
    """The routing key under which a message of this type is published."""
    return f"{wire_name}.{routing_suffix}" if routing_suffix else wire_name


PUBLIC_EXCHANGES: Final = ("invoice.events", "payment.events", "staff.events")
"""The topic exchanges: anybody may bind queues to them."""
_INGRESS = {name: f"{name}.direct" for name in PUBLIC_EXCHANGES}
_OWN = {name: f"{name}.own" for name in PUBLIC_EXCHANGES}
_ENTRIES = _INGRESS | {DEAD_LETTERS: f"{DEAD_LETTERS}.direct"}
"""Only the broker publishes to the exchange `dead-letters` itself, which the arguments of our queues name."""


def ingress_exchange(exchange: str) -> str:
    """Where our own messages for `exchange` enter: its direct exchange if it has one, else the exchange itself."""
    return _ENTRIES.get(exchange, exchange)


def entry_exchange(exchange: str) -> str:
    """Where a message for our own queues enters: an event goes to them alone, whatever others have bound to its public exchange."""
    return _OWN.get(exchange) or ingress_exchange(exchange)


def is_public(exchange: str) -> bool:
    """Whether anybody may bind queues to this exchange."""
    return exchange in _OWN


def own_exchange(exchange: str) -> str:
    """Where a message for a public exchange reaches our own queues, and nobody else's."""
    return _OWN[exchange]


@dataclass(frozen=True, slots=True)
class Binding:
    """An exchange gives messages with this routing key to a queue, or to another exchange."""

    exchange: str
    routing_key: str
    headers: tuple[str, ...] = ()
    """For a headers exchange: it gives those messages that have at least one of these headers, with whatever value."""

    @property
    def arguments(self) -> dict[str, str | None]:
        """`any-with-x`: without it the exchange ignores headers that begin with `x-`. None stands for any value."""
        return {"x-match": "any-with-x", **dict.fromkeys(self.headers)} if self.headers else {}


def bound_exchange(exchange: str) -> str:
    """The exchange that our queues are bound to for messages that are published to `exchange`."""
    return ACCEPTED_COMMANDS if exchange == COMMAND_ENTRY else ingress_exchange(exchange)


def _bind(
    *messages: type[Contract], routing_suffixes: Sequence[RoutingSuffix] = get_args(RoutingSuffix)
) -> tuple[Binding, ...]:
    """The bindings for `messages`, by exact key: an event has a key for each suffix, a command has one key without a suffix.

    An event is bound twice: where it enters, and where it reaches our queues alone.
    """
    return tuple(
        Binding(exchange, routing_key(message.wire_name, routing_suffix))
        for message in messages
        for exchange in (bound_exchange(message.exchange), *_own_exchanges(message.exchange))
        for routing_suffix in (routing_suffixes if is_public(message.exchange) else ("",))
    )


def _own_exchanges(exchange: str) -> tuple[str, ...]:
    return (_OWN[exchange],) if is_public(exchange) else ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange. `bindings` say what other exchanges give it. `alternate` names the exchange that gets what no binding takes."""

    name: str
    type: str
    bindings: tuple[Binding, ...] = ()
    alternate: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        return {"alternate-exchange": self.alternate} if self.alternate is not None else {}

    @property
    def retired(self) -> tuple[Binding, ...]:
        """The bindings that the build before made. `remit topology prune` removes them."""
        return _RETIRED.get(self.name, ())


@dataclass(frozen=True, slots=True)
class Queue:
    """A quorum queue.

    The broker moves a message beyond `delivery_limit` deliveries to the exchange `dead_letters_to`, under the name of the queue where the
    message comes from a work queue. If that is None, it drops the message. The arguments of a queue cannot be changed: a queue that an
    earlier build made with the limit `former_delivery_limit` and no dead-letter exchange is left as it is, and gets both by a policy.
    """

    name: str
    bindings: tuple[Binding, ...]
    dead_letters_to: str | None = DEAD_LETTERS
    delivery_limit: int = DELIVERY_LIMIT
    former_delivery_limit: int | None = None
    overflow: Literal["reject-publish", "drop-head"] = "reject-publish"
    """What the broker does beyond `bytes_max`: it refuses what is published, or drops the oldest message. It drops only where nothing but
    a view of staff is lost."""
    bytes_max: int = QUEUE_BYTES_MAX

    @property
    def is_optional(self) -> bool:
        """Whether everything works without its bindings, because only views of staff need it. No sender minds if it is not bound."""
        return self.overflow == "drop-head"

    @property
    def arguments(self) -> dict[str, str | int]:
        arguments = self._arguments(self.delivery_limit)
        if self.dead_letters_to is not None:
            arguments["x-dead-letter-exchange"] = self.dead_letters_to
            arguments["x-dead-letter-strategy"] = "at-least-once"
        if self.dead_letters_to == DEAD_LETTERS:
            arguments["x-dead-letter-routing-key"] = self.name
        return arguments

    def _arguments(self, delivery_limit: int) -> dict[str, str | int]:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": delivery_limit,
            "x-overflow": self.overflow,
            "x-max-length-bytes": self.bytes_max,
        }

    @property
    def former_arguments(self) -> dict[str, str | int] | None:
        """The arguments with which an earlier build made this queue, if they were others."""
        return None if self.former_delivery_limit is None else self._arguments(self.former_delivery_limit)

    @property
    def policy(self) -> dict[str, str | int]:
        """The policy that gives a queue of an earlier build what its arguments lack. Of two delivery limits the lower one counts."""
        return {
            "delivery-limit": self.delivery_limit,
            "dead-letter-exchange": self.dead_letters_to or "",
            "dead-letter-strategy": "at-least-once",
        }

    def policy_of(self, *, bytes_max: int | None, delivery_limit: int | None) -> dict[str, str | int]:
        """The policy that lowers limits of this queue; empty if it lowers none, and the queue needs none.

        A queue of an earlier build goes on needing what `policy` gives it, since only one policy counts for a queue. Raises ValueError for
        a limit above the queue's own, which would have no effect.
        """
        for wanted, own, what in (
            (bytes_max, self.bytes_max, "bytes"),
            (delivery_limit, self.delivery_limit, "deliveries"),
        ):
            if wanted is not None and wanted > own:
                raise ValueError(f"{self.name} was made for at most {own} {what}, and a policy can only set fewer")
        policy = dict(self.policy) if self.former_delivery_limit is not None else {}
        if bytes_max is not None:
            policy["max-length-bytes"] = bytes_max
        if delivery_limit is not None:
            policy["delivery-limit"] = delivery_limit
        return policy

    @property
    def retired(self) -> tuple[Binding, ...]:
        """The bindings to topic exchanges that the builds before direct exchanges made. `remit topology prune` removes them.

        Those builds bound a type with any suffix (`type.#`), or a type with one suffix. A queue that has both bindings still gets every
        message once. The requests of payments came by the exchange of all events."""
        found = list(_RETIRED.get(self.name, ()))
        if self.is_optional:
            return tuple(found)
        keys = {binding.routing_key for binding in self.bindings}
        for topic, direct in _INGRESS.items():
            for key in (binding.routing_key for binding in self.bindings if binding.exchange == direct):
                wire_name, _, last = key.rpartition(".")
                if last not in get_args(RoutingSuffix):
                    found.append(Binding(topic, f"{key}.#"))
                elif wire_name not in keys:
                    found.append(Binding(topic, key))
        return tuple(found)


_REQUESTED = invoice.InvoicePaymentRequested
MOVED: Mapping[tuple[str, str], str] = {("invoice.events", _REQUESTED.wire_name): _REQUESTED.exchange}
"""Exchanges by which the build before sent messages, with their types, and those by which they go now. Some may wait in the outbox."""
_PUBLIC_REQUESTS = tuple(
    Binding(ingress_exchange("invoice.events"), f"{_REQUESTED.wire_name}{suffix}")
    for suffix in ("", ".case", ".overdue")
)
PASSED_ON: Final = (
    invoice.RecordPayment,
    invoice.RecordPaymentFailure,
    invoice.FlagPaymentInDoubt,
    invoice.RecordRefund,
    invoice.RecordRefundFailure,
)
"""By these the saga passes on to the invoice what the payment gateway told. They say nothing that the message before them or the event of
the invoice after them does not say, and would be a third of what staff hear of a healthy payment."""
_RETIRED: Mapping[str, tuple[Binding, ...]] = {
    JOURNAL: _bind(*PASSED_ON),
    "payment_gateway.requests": (*_PUBLIC_REQUESTS, Binding("invoice.events", f"{_REQUESTED.wire_name}.#")),
    "saga.events": (_PUBLIC_REQUESTS[-1], Binding("invoice.events", f"{_REQUESTED.wire_name}.overdue")),
    "invoice.events": _PUBLIC_REQUESTS,
}
"""Bindings of the build before, by the name of the queue or exchange that was bound: it sent the requests of payments to everybody, and
staff what the saga passes on."""

_OUTCOMES = (
    payment_gateway.PaymentCaptured,
    payment_gateway.PaymentDeclined,
    payment_gateway.PaymentNotCharged,
    payment_gateway.PaymentRefunded,
)
_REFUNDS = (invoice.InvoiceRefundRequested, invoice.InvoiceRefunded, invoice.InvoiceRefundFailed)
_DOUBTS = (
    payment_gateway.PaymentInDoubt,
    payment_gateway.PaymentNeedsDecision,
    payment_gateway.PaymentRefundInDoubt,
    payment_gateway.PaymentRefundFailed,
)

_OF_SERVICES = (
    Queue(COMMANDS, (Binding(ACCEPTED_COMMANDS, ANY_KEY),)),
    Queue(
        "invoice.settlement",
        _bind(
            invoice.RecordPayment,
            invoice.RecordPaymentFailure,
            invoice.FlagPaymentInDoubt,
            invoice.RequestRefund,
            invoice.RecordRefund,
            invoice.RecordRefundFailure,
            invoice.CloseCommand,
        ),
    ),
    Queue(
        "saga.events",
        _bind(
            invoice.InvoicePaymentOverdue,
            invoice.InvoicePaid,
            invoice.InvoicePaymentFailed,
            invoice.InvoiceSettlementRejected,
            *_REFUNDS,
            *_OUTCOMES,
            *_DOUBTS,
        ),
    ),
    Queue("payment_gateway.requests", _bind(invoice.InvoicePaymentRequested)),
    Queue(
        "payment_gateway.commands",
        _bind(
            payment_gateway.InquirePayment,
            payment_gateway.RefundPayment,
            payment_gateway.MakeRefund,
            payment_gateway.ResolvePayment,
        ),
    ),
    Queue(
        "staff.cases",
        _bind(*_DOUBTS, payment_gateway.PaymentResolutionRefused, *_REFUNDS, invoice.InvoiceRefundRejected)
        + _bind(*_OUTCOMES, payment_gateway.PaymentInquired, routing_suffixes=[CASE]),
    ),
)
"""The queues without which no payment goes on."""
_NEEDED = frozenset(binding for queue in _OF_SERVICES for binding in queue.bindings)


def _listen(*messages: type[Contract]) -> tuple[Binding, ...]:
    """The bindings by which staff hear `messages` too: where another queue of ours gets them, else among the public copies.

    So no sender publishes anything more for the sake of it, whether these bindings are there or not.
    """
    bindings = dict.fromkeys(_bind(*messages))
    taken = [binding for binding in bindings if binding in _NEEDED]
    keys = {binding.routing_key for binding in taken}
    public = dict.fromkeys(
        Binding(message.exchange, key)
        for message in messages
        if is_public(message.exchange)
        for key in (routing_key(message.wire_name, suffix) for suffix in get_args(RoutingSuffix))
        if key not in keys
    )
    return (*taken, *public)


JOURNALLED: Final = tuple(
    message
    for message in MESSAGES
    if message.exchange in {"invoice.events", "payment.events", "settlement.commands"} and message not in PASSED_ON
)
"""What staff hear of an invoice and its payments: their public events, and those commands between services that tell something new."""
WORK_QUEUES = (
    *_OF_SERVICES,
    Queue(JOURNAL, _listen(*JOURNALLED), dead_letters_to=None, overflow="drop-head", bytes_max=JOURNAL_BYTES_MAX),
    Queue(
        HEARTBEATS,
        (Binding(operations.Heartbeat.exchange, operations.Heartbeat.wire_name),),
        dead_letters_to=None,
        overflow="drop-head",
        bytes_max=HEARTBEATS_BYTES_MAX,
    ),
    Queue(
        REPLAYS,
        _bind(operations.ReplayHandled),
        dead_letters_to=None,
        overflow="drop-head",
        bytes_max=REPLAYS_BYTES_MAX,
    ),
)

QUEUES = (
    *WORK_QUEUES,
    Queue(
        SUSPECT_COMMANDS,
        (Binding(SCREENED_COMMANDS, ANY_KEY, headers=BROKERS_HEADERS),),
        dead_letters_to=None,
        delivery_limit=SUSPECT_DELIVERY_LIMIT,
    ),
    Queue(
        DEAD_LETTERS,
        tuple(
            Binding(exchange, queue.name)
            for queue in WORK_QUEUES
            for exchange in (DEAD_LETTERS, ingress_exchange(DEAD_LETTERS))
        ),
        dead_letters_to=UNREADABLE_DEAD_LETTERS,
        delivery_limit=DEAD_LETTER_DELIVERY_LIMIT,
        former_delivery_limit=LAST_DELIVERY_LIMIT,
    ),
    Queue(
        UNREADABLE_DEAD_LETTERS,
        (Binding(UNREADABLE_DEAD_LETTERS, ANY_KEY),),
        dead_letters_to=None,
        delivery_limit=LAST_DELIVERY_LIMIT,
    ),
)

WORK_QUEUE_NAMES: frozenset[str] = frozenset(queue.name for queue in WORK_QUEUES)
QUEUE_NAMES: frozenset[str] = frozenset(queue.name for queue in QUEUES)
_WITH_WORDS_OF_OTHERS: Final = frozenset({COMMANDS, SUSPECT_COMMANDS, DEAD_LETTERS, UNREADABLE_DEAD_LETTERS})
"""Queues to which others can write, or where what they wrote may come."""


def delivery_limit_of(queue: str) -> int:
    """Deliveries of a message before the broker takes it out of this queue."""
    return next((one.delivery_limit for one in QUEUES if one.name == queue), DELIVERY_LIMIT)


def is_of_services(queue: str) -> bool:
    """Whether only services write to this queue. What they say was looked through for card data where it came in: at the border, from a
    gateway, or from staff."""
    return queue in QUEUE_NAMES and queue not in _WITH_WORDS_OF_OTHERS


def work_queue_of(queue: str) -> str:
    """The queue on which a message here counts as failed: a suspect command is one of `COMMANDS`."""
    return COMMANDS if queue == SUSPECT_COMMANDS else queue


_BOUND = dict.fromkeys(binding for queue in QUEUES if not queue.is_optional for binding in queue.bindings)

EXCHANGES = (
    Exchange(COMMAND_ENTRY, type="fanout"),
    Exchange(ACCEPTED_COMMANDS, type="fanout"),
    Exchange(
        SCREENED_COMMANDS,
        type="headers",
        bindings=(Binding(COMMAND_ENTRY, ANY_KEY),),
        alternate=ACCEPTED_COMMANDS,
    ),
    Exchange("settlement.commands", type="direct"),
    Exchange(_REQUESTED.exchange, type="direct"),
    Exchange(operations.Heartbeat.exchange, type="direct"),
    Exchange(operations.ReplayHandled.exchange, type="direct"),
    *(Exchange(direct, type="direct", alternate=topic) for topic, direct in _INGRESS.items()),
    *(Exchange(own, type="direct") for own in _OWN.values()),
    *(
        Exchange(topic, type="topic", bindings=tuple(one for one in _BOUND if one.exchange == direct))
        for topic, direct in _INGRESS.items()
    ),
    Exchange(ingress_exchange(DEAD_LETTERS), type="direct"),
    Exchange(DEAD_LETTERS, type="direct"),
    Exchange(UNREADABLE_DEAD_LETTERS, type="fanout"),
)

FORMER_EXCHANGES = {Exchange(FORMER_COMMAND_ENTRY, type="fanout"): COMMAND_ENTRY}
"""Exchanges of earlier builds, and those that took their places. Senders of such a build still publish there. As long as one is there,
`remit topology apply` binds it to its successor; `remit topology prune` deletes it."""
PAST_THE_SCREEN = {COMMANDS: (Binding(FORMER_COMMAND_ENTRY, ANY_KEY),)}
"""Bindings of earlier builds, by queue, that lead around `SCREENED_COMMANDS`. `remit topology apply` removes them. The builds that made
them do without: they only consume the queue."""

MUST_ROUTE: frozenset[str] = frozenset(
    message.wire_name
    for message in MESSAGES
    if _BOUND.keys() & {Binding(bound_exchange(message.exchange), key) for key in (message.wire_name, ANY_KEY)}
)
"""Types that one of our queues takes. Other types are for systems that bind queues of their own: it is no error if no queue takes them."""
_FOR_OWN_QUEUES: frozenset[tuple[str, str]] = frozenset(
    (topic, binding.routing_key) for topic, own in _OWN.items() for binding in _BOUND if binding.exchange == own
)


def is_for_own_queues(exchange: str, routing_key: str) -> bool:
    """Whether one of our queues takes events of this public exchange with this key. Of some types it takes only those with a suffix."""
    return (exchange, routing_key) in _FOR_OWN_QUEUES
