"""Exchanges, queues and bindings as data: the one registry. `remit topology apply` creates it; services only verify it.

A topic exchange matches its patterns word by word, anew for every message: a sixth of what RabbitMQ 3.10 spent on a payment. So what our
own queues take is bound by exact key: commands to a fanout or a direct exchange, and events to the direct exchange where they enter. From
there all events flow on to the topic exchange of their name, where anybody binds what they like: what one of our queues takes by a binding,
anything else, also what a later version says, because that is the alternate exchange.

Queue settings are arguments of the queue, not policies: they are created in one step with the queue and cannot be forgotten on a broker
without the management plugin. All queues are quorum queues (durable, replicated where there are more nodes), dead-lettering is
at-least-once, which needs `reject-publish` and a dead-letter exchange that routes (RabbitMQ documentation, "Dead Lettering").
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES

DEAD_LETTERS = "dead-letters"
ANY_KEY = ""
"""A fanout exchange does not look at it."""

DELIVERY_LIMIT = 100
"""Deliveries before the broker itself dead-letters. A crash counts against every unacked neighbour, so the limit is generous; our own
tries end far below it (`shared.messaging.shell.TRIES_MAX`)."""
DEAD_LETTER_DELIVERY_LIMIT = 1_000_000
"""Beyond its limit this queue would have nowhere to put a message but to drop it: practically never."""
QUEUE_BYTES_MAX = 4 * 1024**3
"""A bound on disk; publishers are refused beyond it (`reject-publish`) and keep their messages in the outbox."""

RoutingSuffix = Literal["", "case", "overdue"]
"""The last word of a routing key, behind the type, for receivers that want only some messages of a type."""
CASE: Final[RoutingSuffix] = "case"
"""An outcome that ends a case: staff hear of those, and not of every healthy payment."""
OVERDUE: Final[RoutingSuffix] = "overdue"
"""A request that is announced again because its payment is pending longer than it should be: the saga watches those. Of a healthy payment
it hears the outcome first, for until then there is nothing that it would do."""


def routing_key(wire_name: str, routing_suffix: RoutingSuffix = "") -> str:
    """Under which a message of this type is published."""
    return f"{wire_name}.{routing_suffix}" if routing_suffix else wire_name


_INGRESS = {name: f"{name}.direct" for name in ("invoice.events", "payment.events")}


def ingress_exchange(exchange: str) -> str:
    """The exchange to which our own messages for `exchange` are published."""
    return _INGRESS.get(exchange, exchange)


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    routing_key: str


def _bind(
    *messages: type[Contract], routing_suffixes: Sequence[RoutingSuffix] = get_args(RoutingSuffix)
) -> tuple[Binding, ...]:
    """By every exact key; commands have no routing_suffix."""
    return tuple(
        Binding(ingress_exchange(message.exchange), routing_key(message.wire_name, routing_suffix))
        for message in messages
        for routing_suffix in (routing_suffixes if message.exchange in _INGRESS else ("",))
    )


@dataclass(frozen=True, slots=True)
class Exchange:
    """`bindings`: what flows into it from another exchange. `alternate`: where what nothing is bound for goes instead."""

    name: str
    type: str
    bindings: tuple[Binding, ...] = ()
    alternate: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        return {"alternate-exchange": self.alternate} if self.alternate is not None else {}


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    bindings: tuple[Binding, ...]
    dead_letters: bool = True
    delivery_limit: int = DELIVERY_LIMIT
    arguments: dict[str, str | int] = field(init=False)

    def __post_init__(self) -> None:
        arguments: dict[str, str | int] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": self.delivery_limit,
            "x-overflow": "reject-publish",
            "x-max-length-bytes": QUEUE_BYTES_MAX,
        }
        if self.dead_letters:
            arguments |= {
                "x-dead-letter-exchange": DEAD_LETTERS,
                "x-dead-letter-routing-key": self.name,
                "x-dead-letter-strategy": "at-least-once",
            }
        object.__setattr__(self, "arguments", arguments)

    @property
    def retired(self) -> tuple[Binding, ...]:
        """What was bound before direct exchanges: to the topic exchanges, a type with whatever is behind it, or with one word of it. Beside
        ours they bring nothing twice."""
        keys = {binding.routing_key for binding in self.bindings}
        found: list[Binding] = []
        for topic, direct in _INGRESS.items():
            for key in (binding.routing_key for binding in self.bindings if binding.exchange == direct):
                wire_name, _, last = key.rpartition(".")
                if last not in get_args(RoutingSuffix):
                    found.append(Binding(topic, f"{key}.#"))
                elif wire_name not in keys:
                    found.append(Binding(topic, key))
        return tuple(found)


_OUTCOMES = (
    payment_gateway.PaymentCaptured,
    payment_gateway.PaymentDeclined,
    payment_gateway.PaymentNotCharged,
    payment_gateway.PaymentRefunded,
)
_DOUBTS = (
    payment_gateway.PaymentInDoubt,
    payment_gateway.PaymentNeedsDecision,
    payment_gateway.PaymentRefundInDoubt,
    payment_gateway.PaymentRefundFailed,
)

WORK_QUEUES = (
    Queue("invoice.commands", (Binding("invoice.commands", ANY_KEY),)),
    Queue(
        "invoice.settlement",
        _bind(invoice.RecordPayment, invoice.RecordPaymentFailure, invoice.FlagPaymentInDoubt, invoice.CloseCommand),
    ),
    Queue(
        "saga.events",
        _bind(invoice.InvoicePaymentRequested, routing_suffixes=[OVERDUE])
        + _bind(
            invoice.InvoicePaid,
            invoice.InvoicePaymentFailed,
            invoice.InvoiceSettlementRejected,
            *_OUTCOMES,
            *_DOUBTS,
        ),
    ),
    Queue("payment_gateway.requests", _bind(invoice.InvoicePaymentRequested)),
    Queue(
        "payment_gateway.commands",
        _bind(payment_gateway.InquirePayment, payment_gateway.RefundPayment, payment_gateway.ResolvePayment),
    ),
    Queue(
        "staff.cases",
        _bind(*_DOUBTS, payment_gateway.PaymentResolutionRefused) + _bind(*_OUTCOMES, routing_suffixes=[CASE]),
    ),
)

QUEUES = (
    *WORK_QUEUES,
    Queue(
        DEAD_LETTERS,
        tuple(Binding(DEAD_LETTERS, queue.name) for queue in WORK_QUEUES),
        dead_letters=False,
        delivery_limit=DEAD_LETTER_DELIVERY_LIMIT,
    ),
)

QUEUE_NAMES: frozenset[str] = frozenset(queue.name for queue in QUEUES)

_BOUND = dict.fromkeys(binding for queue in QUEUES for binding in queue.bindings)

EXCHANGES = (
    Exchange("invoice.commands", type="fanout"),
    Exchange("settlement.commands", type="direct"),
    *(Exchange(direct, type="direct", alternate=topic) for topic, direct in _INGRESS.items()),
    *(
        Exchange(topic, type="topic", bindings=tuple(one for one in _BOUND if one.exchange == direct))
        for topic, direct in _INGRESS.items()
    ),
    Exchange(DEAD_LETTERS, type="direct"),
)

MUST_ROUTE: frozenset[str] = frozenset(
    message.wire_name
    for message in MESSAGES
    if _BOUND.keys() & {Binding(ingress_exchange(message.exchange), key) for key in (message.wire_name, ANY_KEY)}
)
"""Types that a queue of ours takes. Others are for whoever binds a queue: that nobody did is no fault."""
