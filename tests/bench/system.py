"""The services under load: they are started and stopped as a whole, and their databases are read afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from deploy.local.fleet import Fleet
from deploy.local.stack import SERVICES, Service, Stack
from deploy.local.system import prepare
from shared.amqp.broker_link import RPC_TIMEOUT_S, BrokerLink
from shared.messaging.optional_queues import OptionalQueueSettings
from shared.messaging.topology import JOURNAL, QUEUE_NAMES, UNREADABLE_DEAD_LETTERS
from shared.settings import EnvironmentVariables
from tests.bench.load import INVOICE_PREFIX

START_TIMEOUT_S: Final = 60.0
SETTLE_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05
NO_UUID: Final = UUID(int=0)


class NotReadyError(Exception):
    """The services did not start, or did not settle."""


class Services:
    """All services, with the settings of production."""

    def __init__(self, stack: Stack, fleet: Fleet) -> None:
        self._stack = stack
        self._fleet = fleet
        self.metrics_ports: list[int] = []
        """Where the services that run serve metrics."""

    async def prepare(self) -> None:
        """Create the topology, run the migrations, and give permissions."""
        await prepare(self._stack)

    async def start(
        self,
        gateway: Mapping[str, str],
        *,
        instances: int = 1,
        only: Service | None = None,
        fast_idle: bool = False,
        serves_metrics: bool = False,
    ) -> float:
        """Start so many of each at once, or just one service; returns the seconds until every work queue has its consumers. `fast_idle`:
        with short pauses (`tests.bench.fast_idle`). `serves_metrics`: each has a port for them. Raises NotReadyError."""
        started = time.perf_counter()
        self.metrics_ports = []
        for service in SERVICES if only is None else (only,):
            for instance in range(1, instances + 1):
                program = f"tests.bench.fast_idle {service}" if fast_idle else ""
                own = {**self._stack.environment_of(service), **gateway}
                if serves_metrics:
                    self.metrics_ports.append(self._fleet.claim_port())
                    own["HEALTH_PORT"] = str(self.metrics_ports[-1])
                self._fleet.start(service, instance=instance, program=program, **own)
        consumed = _CONSUMED - _optional_queues().unbound
        queues = [name for name in consumed if only is None or _consumer_of(name) == only]
        link = BrokerLink(self._stack.rabbitmq_url, name="bench watch")
        try:
            channel = await link.channel(confirms=False)

            async def are_consumed() -> bool:
                declared = [await channel.queue_declare(name, passive=True, timeout=RPC_TIMEOUT_S) for name in queues]
                return all((queue.consumer_count or 0) >= instances for queue in declared)

            if not await until(are_consumed, START_TIMEOUT_S):
                raise NotReadyError(
                    f"the services are not ready; the end of their logs:\n{self._fleet.logs()[-3_000:]}"
                )
        finally:
            await link.close()
        return time.perf_counter() - started

    async def starts_alone(self, gateway: Mapping[str, str]) -> dict[str, tuple[float, float]]:
        """Start each by itself: seconds until its queues are consumed, and from SIGTERM to its end. Raises NotReadyError."""
        found: dict[str, tuple[float, float]] = {}
        for service in SERVICES:
            start_s = await self.start(gateway, only=service)
            await asyncio.sleep(1.0)  # until it is idle: the rest of its start must not count as its drain
            found[service] = (start_s, await self.stop())
        return found

    async def stop(self) -> float:
        """SIGTERM to all; returns the seconds until the last has drained."""
        started = time.perf_counter()
        await asyncio.to_thread(self._fleet.stop_all)
        return time.perf_counter() - started

    @property
    def pids(self) -> dict[str, int]:
        return {name: self._fleet.pid(name) for name in self._fleet.names}

    async def issued(self, invoices: int) -> None:
        """Wait until so many invoices are stored. Raises NotReadyError."""

        async def are_there() -> bool:
            there = await _number(self._stack.service_database_url("invoice"), _ISSUED)
            return there >= invoices and not await self._waiting()

        if not await until(are_there, SETTLE_TIMEOUT_S):
            raise NotReadyError(f"the invoices were not issued; the end of the logs:\n{self._fleet.logs()[-3_000:]}")

    async def failed(self, payments: int) -> None:
        """Wait until so many sagas ended as failed. Raises NotReadyError."""

        async def are_failed() -> bool:
            return (
                await _number(self._stack.service_database_url("saga"), _FAILED) >= payments
                and not await self._waiting()
            )

        if not await until(are_failed, SETTLE_TIMEOUT_S):
            raise NotReadyError(f"the payments did not fail; the end of the logs:\n{self._fleet.logs()[-3_000:]}")

    async def settled(self, payment_ids: Sequence[UUID], *, lost: int) -> bool:
        """Wait until these payments are completed and the outboxes are empty; False if that takes too long. Consecutive ids (UUIDv7) are
        counted by index, however much else is stored."""
        if not payment_ids:
            return True

        async def are_completed() -> bool:
            url = self._stack.service_database_url("saga")
            completed = await _number(url, _COMPLETED, min(payment_ids), max(payment_ids))
            return completed >= len(payment_ids) - lost and not await self._waiting()

        return await until(are_completed, SETTLE_TIMEOUT_S)

    async def unheard(self, paid: int) -> int:
        """How many of the `paid` payments of this benchmark staff have not taken in from their journal. 0 if it is off."""
        if JOURNAL in _optional_queues().unbound:
            return 0
        return paid - await _number(self._stack.service_database_url("staff"), _HEARD)

    async def heard(self, paid: int) -> bool:
        """Wait until staff have taken in all that they hear of so many payments; False if that takes too long."""

        async def all_are() -> bool:
            return await self.unheard(paid) <= 0

        return await until(all_are, SETTLE_TIMEOUT_S)

    async def _waiting(self) -> int:
        return sum([await _number(self._stack.service_database_url(service), _WAITING) for service in SERVICES])


def _optional_queues() -> OptionalQueueSettings:
    return OptionalQueueSettings.read(EnvironmentVariables())


def _consumer_of(queue: str) -> Service:
    """The service that consumes the queue: queues are named after it, except the dead letters."""
    return next((service for service in SERVICES if queue.startswith(f"{service}.")), "staff")


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    """Wait for a condition; False if it is not true in time."""
    give_up_at = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(POLL_S)
    return True


@dataclass(frozen=True, slots=True)
class BenchBooks:
    """What the services have stored, all together."""

    invoices: int
    paid: int
    """Events of paid invoices."""
    paid_twice: int
    """Invoices with more than one such event."""
    captured: int
    completed: int
    dead_letters: int
    """Dead letters of any status: no message of the benchmark should become one."""
    inbox: Mapping[str, int]
    outbox: Mapping[str, int]

    @property
    def waiting(self) -> int:
        return sum(self.outbox.values())


async def read_books(stack: Stack, *, since: UUID = NO_UUID) -> BenchBooks:
    """Read the databases by SQL, from outside. Payment ids before `since` belong to other runs."""
    invoice = await _row(stack.service_database_url("invoice"), _INVOICE)
    gateway = await _row(stack.service_database_url("payment_gateway"), _GATEWAY, since)
    saga = await _row(stack.service_database_url("saga"), _SAGA, since)
    staff = await _row(stack.service_database_url("staff"), _STAFF)
    by_service = {"invoice": invoice, "payment_gateway": gateway, "saga": saga}
    return BenchBooks(
        invoices=invoice["invoices"],
        paid=invoice["paid"],
        paid_twice=invoice["paid_twice"],
        captured=gateway["captured"],
        completed=saga["completed"],
        dead_letters=staff["dead_letters"],
        inbox={service: row["inbox"] for service, row in by_service.items()},
        outbox={service: row["outbox"] for service, row in by_service.items()},
    )


_BOXES: Final = "(SELECT count(*) FROM inbox) AS inbox, (SELECT count(*) FROM outbox) AS outbox"
# Only what `load.prepare` made, not what was stored before (`tests.bench.stored`). The condition on the primary key lets the planner read
# by index, see `_opened`.
_PAID: Final = f"SELECT 1 FROM events WHERE stream_id >= '{INVOICE_PREFIX}' AND type = 'Paid.1'"
_ISSUED: Final = f"SELECT count(*) FROM invoices WHERE invoice_id >= '{INVOICE_PREFIX}'"
_OURS: Final = "payment_id >= $1::uuid"
_INVOICE: Final = f"""SELECT {_BOXES}, ({_ISSUED}) AS invoices, (SELECT count(*) FROM ({_PAID}) paid) AS paid,
    (SELECT count(*) FROM ({_PAID} GROUP BY stream_id HAVING count(*) > 1) twice) AS paid_twice"""
_GATEWAY: Final = f"SELECT {_BOXES}, (SELECT count(*) FROM payments WHERE {_OURS} AND status = 'captured') AS captured"
_SAGA: Final = f"SELECT {_BOXES}, (SELECT count(*) FROM sagas WHERE {_OURS} AND status = 'completed') AS completed"
_STAFF: Final = "SELECT count(*) AS dead_letters FROM dead_letters"
_COMPLETED: Final = "SELECT count(*) FROM sagas WHERE payment_id BETWEEN $1 AND $2 AND status = 'completed'"
_FAILED: Final = "SELECT count(*) FROM sagas WHERE status = 'failed' AND failure_recorded"
_CONSUMED: Final = QUEUE_NAMES - {UNREADABLE_DEAD_LETTERS}  # what staff look at, no service takes
_WAITING: Final = "SELECT count(*) FROM outbox"
_HEARD: Final = f"SELECT count(*) FROM invoices WHERE invoice_id >= '{INVOICE_PREFIX}' AND status = 'paid'"


@asynccontextmanager
async def _opened(url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    # No sequential scan here: PostgreSQL would count it among those of the services.
    connection = await asyncpg.connect(url, timeout=10, server_settings={"enable_seqscan": "off"})
    try:
        yield connection
    finally:
        await connection.close()


async def _row(url: str, query: str, *arguments: Any) -> asyncpg.Record:
    async with _opened(url) as connection:
        row = await connection.fetchrow(query, *arguments)
    assert row is not None
    return row


async def _number(url: str, query: str, *arguments: Any) -> int:
    async with _opened(url) as connection:
        return int(await connection.fetchval(query, *arguments))
