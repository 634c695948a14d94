"""The services under load: started and stopped as a whole, and their books read afterwards."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from deploy.local.fleet import ROOT, Fleet
from deploy.local.stack import SERVICES, Stack
from shared.messaging.apply import apply_topology
from shared.messaging.broker import RPC_TIMEOUT_S, BrokerLink
from shared.messaging.topology import QUEUES
from shared.persistence.migrate import migrate

START_TIMEOUT_S: Final = 60.0
SETTLE_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05


class NotReadyError(Exception):
    """The services did not come up, or did not settle."""


class Services:
    """All of them, one instance each, with the settings of production."""

    def __init__(self, stack: Stack, fleet: Fleet) -> None:
        self._stack = stack
        self._fleet = fleet

    async def prepare(self) -> None:
        """Topology and migrations."""
        await apply_topology(self._stack.rabbitmq_url)
        for service in SERVICES:
            await migrate(self._stack.service_database_url(service), ROOT / "services" / service / "migrations")

    async def start(self, gateway: Mapping[str, str]) -> float:
        """Start them at once; seconds until every work queue has its consumer. Raises NotReadyError."""
        started = time.perf_counter()
        self._fleet.add_to_environment(gateway)
        for service in SERVICES:
            self._fleet.start(service)
        link = BrokerLink(self._stack.rabbitmq_url, name="bench watch")
        try:
            channel = await link.channel(confirms=False)

            async def are_consumed() -> bool:
                declared = [
                    await channel.queue_declare(queue.name, passive=True, timeout=RPC_TIMEOUT_S) for queue in QUEUES
                ]
                return all(queue.consumer_count for queue in declared)

            if not await until(are_consumed, START_TIMEOUT_S):
                raise NotReadyError(f"the services are not ready; their last words:\n{self._fleet.logs()[-3_000:]}")
        finally:
            await link.close()
        return time.perf_counter() - started

    async def stop(self) -> float:
        """SIGTERM to all; seconds until the last has drained."""
        started = time.perf_counter()
        await asyncio.to_thread(self._fleet.stop_all)
        return time.perf_counter() - started

    @property
    def pids(self) -> dict[str, int]:
        return {name: self._fleet.pid(name) for name in self._fleet.names}

    async def issued(self, invoices: int) -> None:
        """Wait until so many invoices stand in the books. Raises NotReadyError."""

        async def are_there() -> bool:
            books = await read_books(self._stack)
            return books.invoices >= invoices and not books.waiting

        if not await until(are_there, SETTLE_TIMEOUT_S):
            raise NotReadyError(f"the invoices were not issued; last words:\n{self._fleet.logs()[-3_000:]}")

    async def settled(self, payments: int) -> bool:
        """Wait until so many payments are completed and nothing waits in an outbox; False if that does not come about."""

        async def are_completed() -> bool:
            books = await read_books(self._stack)
            return books.completed >= payments and not books.waiting

        return await until(are_completed, SETTLE_TIMEOUT_S)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    """Wait for a condition; False if it does not come about in time."""
    give_up_at = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(POLL_S)
    return True


@dataclass(frozen=True, slots=True)
class Books:
    """What the services have written down, all told."""

    invoices: int
    paid: int
    """Events that say so."""
    paid_twice: int
    """Invoices with more than one of them."""
    captured: int
    completed: int
    inbox: Mapping[str, int]
    outbox: Mapping[str, int]

    @property
    def waiting(self) -> int:
        return sum(self.outbox.values())


async def read_books(stack: Stack) -> Books:
    """By SQL, from outside."""
    invoice = await _row(stack.service_database_url("invoice"), _INVOICE)
    gateway = await _row(stack.service_database_url("payment_gateway"), _GATEWAY)
    saga = await _row(stack.service_database_url("saga"), _SAGA)
    by_service = {"invoice": invoice, "payment_gateway": gateway, "saga": saga}
    return Books(
        invoices=invoice["invoices"],
        paid=invoice["paid"],
        paid_twice=invoice["paid_twice"],
        captured=gateway["captured"],
        completed=saga["completed"],
        inbox={service: row["inbox"] for service, row in by_service.items()},
        outbox={service: row["outbox"] for service, row in by_service.items()},
    )


_BOXES: Final = "(SELECT count(*) FROM inbox) AS inbox, (SELECT count(*) FROM outbox) AS outbox"
# A condition on the primary key that is always true lets the planner read by index, see `_row`.
_PAID: Final = "SELECT 1 FROM events WHERE stream_id >= '' AND type = 'Paid.1'"
_ANY: Final = "payment_id >= '00000000-0000-0000-0000-000000000000'"
_INVOICE: Final = f"""SELECT {_BOXES}, (SELECT count(*) FROM invoices) AS invoices, (SELECT count(*) FROM ({_PAID}) paid) AS paid,
    (SELECT count(*) FROM ({_PAID} GROUP BY stream_id HAVING count(*) > 1) twice) AS paid_twice"""
_GATEWAY: Final = f"SELECT {_BOXES}, (SELECT count(*) FROM payments WHERE {_ANY} AND status = 'captured') AS captured"
_SAGA: Final = f"SELECT {_BOXES}, (SELECT count(*) FROM sagas WHERE {_ANY} AND status = 'completed') AS completed"


async def _row(url: str, query: str) -> asyncpg.Record:
    # Not by sequential scan, which PostgreSQL would count among those of the services.
    connection = await asyncpg.connect(url, timeout=10, server_settings={"enable_seqscan": "off"})
    try:
        row = await connection.fetchrow(query)
    finally:
        await connection.close()
    assert row is not None
    return row
