"""The queues that receive a message by the topology (which is data), and the services that consume them."""

from functools import lru_cache
from uuid import UUID, uuid5

from shared.messaging.topology import ANY_KEY, EXCHANGES, WORK_QUEUES, Binding, bound_exchange

SERVICE_OF = {queue.name: queue.name.partition(".")[0] for queue in WORK_QUEUES}
"""A queue begins with the name of the service that consumes it."""
_FANOUTS = frozenset(exchange.name for exchange in EXCHANGES if exchange.type == "fanout")


@lru_cache(maxsize=1_000)
def queues_for(exchange: str, routing_key: str) -> tuple[str, ...]:
    """The work queues that the broker copies such a message to: by exact key, or through an exchange that ignores keys.

    Without those that may be unbound, and drop what they have no room for.
    """
    entered = bound_exchange(exchange)
    bound = Binding(entered, ANY_KEY if entered in _FANOUTS else routing_key)
    return tuple(queue.name for queue in WORK_QUEUES if bound in queue.bindings and not queue.is_optional)


def kept_as(command_id: UUID, *senders: str | None) -> tuple[UUID, ...]:
    """Under which ids the answer to a sender's command may be stored.

    Where senders must have a name, the name is part of the id. A command with card data does not spend the id, so its answer has another.
    """
    ids = (command_id, *(uuid5(command_id, f"sender:{sender or ''}") for sender in senders))
    return (*ids, *(uuid5(id_, "card_data") for id_ in ids))
