"""Exchanges, queues and bindings as data: the one registry. `remit topology apply` creates it; services only verify it.

Queue settings are arguments of the queue, not policies: they are created in one step with the queue and cannot be forgotten on a broker
without the management plugin. All queues are quorum queues (durable, replicated where there are more nodes), dead-lettering is
at-least-once, which needs `reject-publish` and a dead-letter exchange that routes (RabbitMQ documentation, "Dead Lettering").
"""

from dataclasses import dataclass, field

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES

DEAD_LETTERS = "dead-letters"

DELIVERY_LIMIT = 100
"""Deliveries before the broker itself dead-letters. A crash counts against every unacked neighbour, so the limit is generous; our own
tries end far below it (`shared.messaging.shell.TRIES_MAX`)."""
DEAD_LETTER_DELIVERY_LIMIT = 1_000_000
"""Beyond its limit this queue would have nowhere to put a message but to drop it: practically never."""
QUEUE_BYTES_MAX = 4 * 1024**3
"""A bound on disk; publishers are refused beyond it (`reject-publish`) and keep their messages in the outbox."""


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    type: str = "topic"


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Queue:
    """`retired`: bindings that an earlier version made and that are taken away."""

    name: str
    bindings: tuple[Binding, ...]
    retired: tuple[Binding, ...] = ()
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


def _bind(*messages: type[Contract], qualifier: str = "#") -> tuple[Binding, ...]:
    """`#` matches zero or more words: the type with or without a qualifier behind it."""
    return tuple(Binding(message.exchange, f"{message.wire_name}.{qualifier}") for message in messages)


CASE = "case"
"""Qualifier of an outcome that ends a case: staff hear of those, and not of every healthy payment."""
OVERDUE = "overdue"
"""Qualifier of a request that is announced again because its payment is pending longer than it should be: the saga watches those. Of a
healthy payment it hears the outcome first, for until then there is nothing that it would do."""

EXCHANGES = (
    Exchange("invoice.commands"),
    Exchange("invoice.events"),
    Exchange("payment.events"),
    Exchange("settlement.commands"),
    Exchange(DEAD_LETTERS, type="direct"),
)

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
    Queue("invoice.commands", (Binding("invoice.commands", "#"),)),
    Queue(
        "invoice.settlement",
        _bind(invoice.RecordPayment, invoice.RecordPaymentFailure, invoice.FlagPaymentInDoubt, invoice.CloseCommand),
    ),
    Queue(
        "saga.events",
        _bind(invoice.InvoicePaymentRequested, qualifier=OVERDUE)
        + _bind(
            invoice.InvoicePaid,
            invoice.InvoicePaymentFailed,
            invoice.InvoiceSettlementRejected,
            *_OUTCOMES,
            *_DOUBTS,
        ),
        retired=_bind(invoice.InvoicePaymentRequested),
    ),
    Queue("payment_gateway.requests", _bind(invoice.InvoicePaymentRequested)),
    Queue(
        "payment_gateway.commands",
        _bind(payment_gateway.InquirePayment, payment_gateway.RefundPayment, payment_gateway.ResolvePayment),
    ),
    Queue(
        "staff.cases",
        _bind(*_DOUBTS, payment_gateway.PaymentResolutionRefused) + _bind(*_OUTCOMES, qualifier=CASE),
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

_BOUND = frozenset((binding.exchange, binding.routing_key) for queue in QUEUES for binding in queue.bindings)

MUST_ROUTE: frozenset[str] = frozenset(
    message.wire_name
    for message in MESSAGES
    if (message.exchange, f"{message.wire_name}.#") in _BOUND or (message.exchange, "#") in _BOUND
)
"""Types that a queue of ours takes. Others are for whoever binds a queue: that nobody did is no fault."""
