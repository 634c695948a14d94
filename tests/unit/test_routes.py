"""Every message that a queue receives has a route in the service that consumes it."""

from typing import get_args

import pytest

from services.invoice import handlers as invoice
from services.payment_gateway import handlers as payment_gateway
from services.saga import handlers as saga
from services.staff import handlers as staff
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES, PUBLIC_COMMANDS
from shared.contracts.invoice import CloseCommand
from shared.messaging.topology import ANY_KEY, WORK_QUEUES, Binding, Queue, RoutingSuffix, bound_exchange, routing_key

ROUTES: dict[str, set[type[Contract]]] = {
    "invoice.commands": set(invoice.ROUTES),
    "invoice.settlement": {*invoice.ROUTES, CloseCommand},  # CloseCommand closes a command, and changes no invoice
    "saga.events": set(saga.ROUTES),
    "payment_gateway.requests": set(payment_gateway.ROUTES),
    "payment_gateway.commands": set(payment_gateway.ROUTES),
    "staff.cases": set(staff.ROUTES),
}


def given_to(queue: Queue) -> set[type[Contract]]:
    """The messages that the queue's bindings select; for the public queue, those that upstream may send."""
    if queue.name == "invoice.commands":
        return {message for message in MESSAGES if message.wire_name in PUBLIC_COMMANDS}
    keys = [
        (message, routing_key(message.wire_name, suffix)) for message in MESSAGES for suffix in get_args(RoutingSuffix)
    ]
    return {
        message
        for message, key in keys
        if {Binding(bound_exchange(message.exchange), key), Binding(bound_exchange(message.exchange), ANY_KEY)}
        & {*queue.bindings}
    }


def test_every_queue_is_consumed_by_a_service() -> None:
    lacking = sorted({queue.name for queue in WORK_QUEUES} - ROUTES.keys())
    assert not lacking, f"which service consumes {', '.join(lacking)}? Add it to ROUTES of tests/unit/test_routes.py"


@pytest.mark.parametrize("queue", WORK_QUEUES, ids=lambda queue: queue.name)
def test_every_message_of_a_queue_has_a_route(queue: Queue) -> None:
    service = queue.name.partition(".")[0]
    lacking = sorted(message.__name__ for message in given_to(queue) - ROUTES[queue.name])
    assert not lacking, f"services/{service}/handlers.py: ROUTES must say what {', '.join(lacking)} means"


@pytest.mark.parametrize("service", ["invoice", "payment_gateway", "saga", "staff"])
def test_every_route_has_a_queue(service: str) -> None:
    queues = [queue for queue in WORK_QUEUES if queue.name.startswith(f"{service}.")]
    given = {message for queue in queues for message in given_to(queue)}
    given |= {  # by a service of the build before
        message
        for queue in queues
        for binding in queue.retired
        for message in MESSAGES
        if binding.routing_key.startswith(message.wire_name)
    }
    routes = {message for queue, messages in ROUTES.items() if queue.startswith(f"{service}.") for message in messages}
    idle = sorted(message.__name__ for message in routes - given)
    assert not idle, f"shared/messaging/topology.py: no queue of {service} is given {', '.join(idle)}"
