"""A peer under load: its processes, its virtual host, its databases, and the cost of its bursts."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Self

import asyncpg
import orjson
from aiormq.exceptions import ChannelNotFoundEntity

from deploy.local.fleet import Fleet
from deploy.local.stack import Stack
from shared.amqp.broker_link import RPC_TIMEOUT_S, BrokerLink
from shared.messaging.publisher import Publisher
from tests.bench.load import Burst, EventListener, TimedPayment, burst, prepare
from tests.bench.measure import Meter, Spent, cores
from tests.bench.system import SETTLE_TIMEOUT_S, START_TIMEOUT_S, NotReadyError, until

WARM_UP: Final = 50
"""Payments before the measurement. A peer needs seconds for the 200 of ours."""
MODULES: Final = "tests.bench.peers"


@dataclass(frozen=True, slots=True)
class Round:
    """What one burst took, until all of it was settled."""

    load: Burst
    spent: Spent

    @property
    def cpu_ms(self) -> float:
        """CPU per payment: the system's processes, broker and database."""
        return self.spent.system_s / self.load.paid * 1e3 if self.load.paid else 0.0

    def part_ms(self, name: str) -> float:
        """CPU of one process per payment, in ms."""
        return self.spent.cpu_s[name] / self.load.paid * 1e3 if self.load.paid else 0.0

    @property
    def machine_percent(self) -> float:
        """The benchmark's part of the machine's CPU: well below 100 if other programs run, or if something waits."""
        return sum(self.spent.cpu_s.values()) / (cores() * self.spent.elapsed_s) * 100


@dataclass(frozen=True, slots=True)
class Peer:
    """One implementation. Its processes by name, each with module arguments and database; the queues that must be consumed before it is
    ready; for each database SQL that counts what was paid, paid twice, and is not yet done."""

    name: str
    module: str
    processes: Mapping[str, tuple[str, str]]
    queues: Sequence[str]
    consumers: int
    """The number of consumers of each queue."""
    invoices_in: str
    unsettled: Mapping[str, str]

    @property
    def slug(self) -> str:
        return f"peer_{self.module}"


_OUTBOX: Final = "SELECT count(*) FROM outbox"

PEERS: Final = (
    Peer(
        name="FastStream with an outbox",
        module="faststream_outbox",
        processes={service: (service, service) for service in ("invoice", "payment_gateway", "saga")},
        queues=(
            "invoice.PayInvoice",
            "invoice.RecordPayment",
            "payment_gateway.InvoicePaymentRequested",
            "saga.PaymentCaptured",
            "saga.InvoicePaid",
        ),
        consumers=1,
        invoices_in="invoice",
        unsettled={
            "invoice": f"SELECT ({_OUTBOX}) + (SELECT count(*) FROM invoices WHERE status = 'payment_pending')",
            "payment_gateway": f"SELECT ({_OUTBOX}) + (SELECT count(*) FROM payments WHERE status <> 'captured')",
            "saga": f"SELECT ({_OUTBOX}) + (SELECT count(*) FROM sagas WHERE status <> 'completed')",
        },
    ),
    Peer(
        name="DBOS",
        module="dbos_workflow",
        processes={"one": ("one", "app"), "two": ("two", "app")},
        queues=("invoice.PayInvoice",),
        consumers=2,
        invoices_in="app",
        unsettled={
            "app": """SELECT (SELECT count(*) FROM invoices WHERE status = 'payment_pending')
                + (SELECT count(*) FROM payments WHERE status <> 'captured')
                + (SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS')"""
        },
    ),
)


@dataclass(slots=True)
class Running:
    """A peer with its virtual host, its databases and its invoices; between rounds it is stopped."""

    peer: Peer
    stack: Stack
    fleet: Fleet
    meter: Meter
    urls: dict[str, str]
    rabbitmq_url: str
    payments: list[TimedPayment]
    publisher: Publisher
    listener: EventListener | None = None
    sent: int = 0
    lost: int = 0
    rounds: list[Round] = field(default_factory=list)

    @classmethod
    async def prepared(cls, peer: Peer, stack: Stack, fleet: Fleet, meter: Meter, invoices: int) -> Self:
        """Create its databases and virtual host. The peer itself creates its tables when it first starts."""
        databases = sorted({database for _, database in peer.processes.values()})
        urls = {name: stack.create_database(f"{peer.slug}_{name}") for name in databases}
        rabbitmq_url = stack.create_vhost(peer.slug)
        publisher = Publisher(BrokerLink(rabbitmq_url, name="bench publisher"))
        return cls(peer, stack, fleet, meter, urls, rabbitmq_url, prepare(invoices), publisher)

    async def start(self) -> dict[str, int]:
        """Start its processes; returns their ids. Executors that share a database start one after the other, because the first one creates
        the tables. Raises NotReadyError."""
        pids: dict[str, int] = {}
        for started, (name, (arguments, database)) in enumerate(self.peer.processes.items(), start=1):
            pids[f"{self.peer.module} {name}"] = self.fleet.start(
                f"{self.peer.module}-{name}",
                program=f"{MODULES}.{self.peer.module} {arguments}",
                RABBITMQ_URL=self.rabbitmq_url,
                DATABASE_URL=self.urls[database],
            )
            if self.peer.consumers > 1:
                await self._ready(started)
        await self._ready(self.peer.consumers)
        return pids

    async def _ready(self, consumers: int) -> None:
        async def is_consumed() -> bool:
            return await self._is_consumed(consumers)

        if not await until(is_consumed, START_TIMEOUT_S):
            raise NotReadyError(f"{self.peer.name} is not ready; the end of its logs:\n{self.fleet.logs()[-3_000:]}")

    async def _is_consumed(self, consumers: int) -> bool:
        link = BrokerLink(self.rabbitmq_url, name="bench watch")
        try:
            channel = await link.channel(confirms=False)
            for queue in self.peer.queues:
                found = await channel.queue_declare(queue, passive=True, timeout=RPC_TIMEOUT_S)
                if (found.consumer_count or 0) < consumers:
                    return False
        except ChannelNotFoundEntity:
            return False
        finally:
            await link.close()
        return True

    async def insert_invoices(self) -> None:
        """Insert the invoices by SQL: issuing them is not measured."""
        connection = await asyncpg.connect(self.urls[self.peer.invoices_in], timeout=10)
        try:
            issued = [(payment.issue.id, orjson.loads(payment.issue.body)["data"]) for payment in self.payments]
            rows = [(data["invoice_id"], data["amount_minor"], data["currency"]) for _, data in issued]
            await connection.executemany(_INVOICE, rows)
            await connection.executemany(
                _ISSUED, [(data["invoice_id"], orjson.dumps(data).decode(), id_) for id_, data in issued]
            )
        finally:
            await connection.close()

    async def play(self, payments: int, stack: AsyncExitStack) -> None:
        """Play one round. Raises NotReadyError, LoadError."""
        pids = await self.start()
        if self.listener is None:
            await self.insert_invoices()
            self.listener = await stack.enter_async_context(EventListener.open(self.rabbitmq_url))
        meter = self.meter.watching(pids)
        await self._pay(WARM_UP)
        begun = meter.read()
        load = await self._pay(payments)
        self.rounds.append(Round(load, meter.read().since(begun)))
        await asyncio.to_thread(self.fleet.stop_all)

    async def _pay(self, count: int) -> Burst:
        assert self.listener is not None
        batch = self.payments[self.sent : self.sent + count]
        load = await burst(self.publisher, self.listener, batch)
        self.sent += count
        self.lost += load.lost
        if not await until(self._is_settled, SETTLE_TIMEOUT_S):
            raise NotReadyError(f"{self.peer.name} did not settle; the end of its logs:\n{self.fleet.logs()[-3_000:]}")
        return load

    async def _is_settled(self) -> bool:
        left = [await _number(self.urls[database], query) for database, query in self.peer.unsettled.items()]
        return not any(left)

    async def problems(self) -> list[str]:
        """Reasons why its figures do not count."""
        url = self.urls[self.peer.invoices_in]
        paid = await _number(url, "SELECT count(*) FROM events WHERE type = 'Paid.1'")
        invoices = await _number(url, "SELECT count(*) FROM invoices WHERE status = 'paid'")
        doubled = 0 if self.listener is None else self.listener.doubled
        found = {
            f"{self.peer.name}: {self.lost} payments lost": self.lost,
            f"{self.peer.name}: {doubled} payments doubled": doubled,
            f"{self.peer.name}: {self.sent} payments sent, {invoices} invoices paid": self.sent - invoices,
            f"{self.peer.name}: {self.sent} payments sent, {paid} events of it": self.sent - paid,
        }
        return [sentence for sentence, wrong in found.items() if wrong]


_INVOICE: Final = (
    """INSERT INTO invoices (invoice_id, status, version, amount_minor, currency) VALUES ($1, 'open', 1, $2, $3)"""
)
_ISSUED: Final = "INSERT INTO events (stream_id, version, type, data, cause_id) VALUES ($1, 1, 'Issued.1', $2, $3)"


async def _number(url: str, query: str) -> int:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()
