"""Which queues take a message, by the topology (data, read here); and whose they are."""

from collections.abc import Sequence
from functools import lru_cache

from shared.messaging.topology import WORK_QUEUES

COMMANDS = "invoice.commands"
"""The public queue: its ids are the senders', and its inbox are the answers."""
SERVICE_OF = {
    COMMANDS: "invoice",
    "invoice.settlement": "invoice",
    "saga.events": "saga",
    "payment_gateway.requests": "payment_gateway",
    "payment_gateway.commands": "payment_gateway",
    "staff.cases": "staff",
}


@lru_cache(maxsize=1_000)
def queues_for(exchange: str, routing_key: str) -> tuple[str, ...]:
    """The work queues to which the broker copies what is published so."""
    words = routing_key.split(".")
    return tuple(
        queue.name
        for queue in WORK_QUEUES
        if any(bound.exchange == exchange and _matches(bound.routing_key.split("."), words) for bound in queue.bindings)
    )


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Topic exchanges (AMQP 0-9-1, 3.1.3.3): `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and _matches(pattern[1:], words[1:])
