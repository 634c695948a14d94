"""The upstream system: prepared commands in, `InvoicePaid` out. It shares the cores with what it measures, so it does little.

Commands leave through `shared.messaging.publisher` (few socket writes, real confirms). Of what comes back only two ids are read, by
regular expressions on the raw body, and one acknowledgement covers many deliveries.
"""

import asyncio
import bisect
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from shared.contracts.base import Contract
from shared.contracts.invoice import InvoicePaid, IssueInvoice, PayInvoice, TokenMethod
from shared.ids import new_id
from shared.messaging import frames
from shared.messaging.broker import RPC_TIMEOUT_S, BrokerLink
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.wire import Wire

if TYPE_CHECKING:
    from aiormq.channel import Channel

INVOICE_PREFIX: Final = "bench"
EVENTS_QUEUE: Final = "bench.invoice-paid"
ACK_EVERY: Final = 100
PREFETCH: Final = 10 * ACK_EVERY
"""More than are ever left unacknowledged, so the broker is never kept waiting."""
SILENCE_MAX_S: Final = 30.0
"""After so long without any news, what has not come yet is lost: beyond an outbox's sweep and short of a saga's deadline."""
SENT_AT: Final = "2026-01-01T00:00:00Z"
"""Nothing depends on a sender's clock."""

_PAYMENT_ID: Final = re.compile(rb'"payment_id":"([0-9a-f-]{36})"')
_MESSAGE_ID: Final = re.compile(rb'"id":"([0-9a-f-]{36})"')


class LoadError(Exception):
    """The load could not be sent: there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Payment:
    """One invoice and the command that pays it, ready to leave."""

    payment_id: UUID
    issue: Outgoing
    pay: Outgoing


def prepare(count: int) -> list[Payment]:
    """Invoices with a payment each; ids are new every time."""
    return [_payment() for _ in range(count)]


def _payment() -> Payment:
    payment_id, invoice_id = new_id(), f"{INVOICE_PREFIX}-{new_id()}"
    issue = IssueInvoice(invoice_id=invoice_id, customer_id="bench", amount_minor=1_999, currency="EUR")
    pay = PayInvoice(
        invoice_id=invoice_id,
        payment_id=payment_id,
        amount_minor=1_999,
        currency="EUR",
        method=TokenMethod(token="pm_card_visa"),
    )
    return Payment(payment_id, _command(issue), _command(pay))


def declined(payment: Payment) -> Outgoing:
    """Another payment of the same invoice, by a card that the bank declines: before it is paid for good."""
    data = orjson.loads(payment.pay.body)["data"] | {
        "payment_id": str(new_id()),
        "method": {"kind": "token", "token": "pm_card_chargeDeclined"},
    }
    return _command(PayInvoice.model_validate(data))


def _command(data: Contract) -> Outgoing:
    id_ = new_id()
    event = {
        "specversion": "1.0",
        "id": str(id_),
        "type": data.wire_name,
        "source": "/bench",
        "time": SENT_AT,
        "data": data.model_dump(mode="json"),
    }
    return Outgoing(
        id=id_,
        exchange=data.exchange,
        routing_key=data.wire_name,
        type=data.wire_name,
        correlation_id=str(id_),
        body=orjson.dumps(event),
    )


class Listener:
    """Hears `InvoicePaid` as anyone may, on a durable queue of its own."""

    def __init__(self, channel: "Channel", wire: Wire) -> None:
        self._channel = channel
        self._wire = wire
        self._unacknowledged = 0
        self._awaited: set[bytes] = set()
        self._none_awaited = asyncio.Event()
        self._message_ids: dict[bytes, bytes] = {}
        self._heard_at: dict[bytes, float] = {}
        self.doubled = 0
        """Payments of which two different `InvoicePaid` came. The same message twice is at-least-once delivery."""
        self.repeated = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["Listener"]:
        link = BrokerLink(url, name="bench listener")
        try:
            channel, wire = await link.open(confirms=False)
            await channel.queue_declare(
                EVENTS_QUEUE, durable=True, arguments={"x-queue-type": "quorum"}, timeout=RPC_TIMEOUT_S
            )
            await channel.queue_bind(EVENTS_QUEUE, InvoicePaid.exchange, f"{InvoicePaid.wire_name}.#")
            await channel.basic_qos(prefetch_count=PREFETCH, timeout=RPC_TIMEOUT_S)
            listener = cls(channel, wire)
            wire.listen(channel, listener)
            await channel.basic_consume(EVENTS_QUEUE, _never, timeout=RPC_TIMEOUT_S)
            yield listener
            await channel.queue_delete(EVENTS_QUEUE, timeout=RPC_TIMEOUT_S)
        finally:
            await link.close()

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """One `InvoicePaid`."""
        payment_id, message_id = _found(_PAYMENT_ID, body), _found(_MESSAGE_ID, body)
        if payment_id not in self._heard_at:
            self._heard_at[payment_id] = time.perf_counter()
            self._message_ids[payment_id] = message_id
            self._awaited.discard(payment_id)
            if not self._awaited:
                self._none_awaited.set()
        elif self._message_ids[payment_id] == message_id:
            self.repeated += 1
        else:
            self.doubled += 1
        self._unacknowledged += 1
        if self._unacknowledged >= ACK_EVERY:
            self._unacknowledged = 0
            self._wire.write(frames.ack_up_to(self._channel.number, frames.read_deliver(method).tag))

    def on_confirm(self, method: bytes) -> None:
        """Nothing is published here."""

    async def hear_of(self, payments: Sequence[Payment]) -> int:
        """Wait until all of them are paid, or nothing has come for `SILENCE_MAX_S`; how many are missing."""
        self._awaited = {_key(payment) for payment in payments} - self._heard_at.keys()
        before = len(payments) + 1
        while self._awaited and len(self._awaited) < before:
            before = len(self._awaited)
            self._none_awaited.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_MAX_S):
                    await self._none_awaited.wait()
        return len(self._awaited)

    def heard_of(self, payment: Payment) -> float | None:
        """When it was paid, in seconds of `time.perf_counter`."""
        return self._heard_at.get(_key(payment))


async def _never(_message: object) -> None:
    """aiormq's callback: it sees no delivery."""


def _found(pattern: re.Pattern[bytes], body: bytes) -> bytes:
    found = pattern.search(body)
    assert found is not None, "an InvoicePaid without its ids"
    return found[1]


def _key(payment: Payment) -> bytes:
    return str(payment.payment_id).encode()


@dataclass(frozen=True, slots=True)
class Burst:
    """Payments sent as fast as confirms allow."""

    paid: int
    lost: int
    published_s: float
    """From the first publish to the last confirm."""
    elapsed_s: float
    """From the first publish to the last `InvoicePaid`."""

    @property
    def per_s(self) -> float:
        return self.paid / self.elapsed_s


async def burst(publisher: Publisher, listener: Listener, payments: Sequence[Payment]) -> Burst:
    """Pay all of them at once. Raises LoadError if the broker does not take the commands."""
    started = time.perf_counter()
    await send(publisher, [payment.pay for payment in payments])
    published_s = time.perf_counter() - started
    lost = await listener.hear_of(payments)
    last = max((at for payment in payments if (at := listener.heard_of(payment)) is not None), default=started)
    return Burst(len(payments) - lost, lost, published_s, max(last - started, 1e-9))


@dataclass(frozen=True, slots=True)
class Steady:
    """Payments sent at fixed times, whatever becomes of those before. In milliseconds, sorted."""

    latencies_ms: Sequence[float]
    lost: int
    late_ms: float
    """How far behind its timetable the generator itself was, at worst; it is part of the latencies."""

    def percentile(self, percent: float) -> float:
        """Nearest rank: a latency that was measured. Raises IndexError if none was."""
        rank = math.ceil(len(self.latencies_ms) * percent / 100)
        return self.latencies_ms[max(rank, 1) - 1]


async def steady(publisher: Publisher, listener: Listener, payments: Sequence[Payment], *, rate_per_s: float) -> Steady:
    """Pay one after the other; what became due while the last was being confirmed leaves together. A latency begins when the command was
    *due* to be sent, so a stall is charged to all that it held up (Gil Tene, "How NOT to Measure Latency": coordinated omission)."""
    first = time.perf_counter() + 0.1
    due = [first + position / rate_per_s for position in range(len(payments))]
    late_s, sent = 0.0, 0
    while sent < len(payments):
        await asyncio.sleep(max(0.0, due[sent] - time.perf_counter()))
        now = time.perf_counter()
        late_s = max(late_s, now - due[sent])
        ready = max(sent + 1, bisect.bisect_right(due, now))
        await send(publisher, [payment.pay for payment in payments[sent:ready]])
        sent = ready
    lost = await listener.hear_of(payments)
    latencies = [
        (at - due_at) * 1_000
        for payment, due_at in zip(payments, due, strict=True)
        if (at := listener.heard_of(payment)) is not None
    ]
    return Steady(sorted(latencies), lost, late_s * 1_000)


async def send(publisher: Publisher, messages: Sequence[Outgoing]) -> None:
    """Publish and wait for every confirm. Raises LoadError."""
    published = await publisher.publish(messages)
    if len(published.confirmed) != len(messages):
        raise LoadError(f"{len(messages) - len(published.confirmed)} of {len(messages)} commands were not confirmed")
