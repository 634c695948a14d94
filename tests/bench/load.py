"""The upstream system: it sends prepared commands and receives `InvoicePaid`. It shares the cores with what it measures, so it does little.

Commands are published by `shared.messaging.publisher` (few socket writes, real confirms). Events are received by
`shared.messaging.consumer`, with one acknowledgement for many deliveries. Of a body it reads only the payment id, by a regular expression.
"""

import asyncio
import bisect
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import orjson

from shared.amqp.broker_link import RPC_TIMEOUT_S, BrokerLink
from shared.contracts.base import Contract
from shared.contracts.invoice import InvoicePaid, IssueInvoice, PayInvoice, TokenMethod
from shared.ids import new_id
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Publisher
from shared.observability.health import Readiness

INVOICE_PREFIX: Final = "bench"
EVENTS_QUEUE: Final = "bench.invoice-paid"
PREFETCH: Final = 1_000
"""More messages than are ever unacknowledged, so that the broker never has to wait."""
SILENCE_MAX_S: Final = 30.0
"""If no event comes for so long, the missing ones are lost: longer than an outbox's sweep, shorter than a saga's deadline."""
SENT_AT: Final = "2026-01-01T00:00:00Z"
"""The time in every command; nothing depends on a sender's clock."""

_PAYMENT_ID: Final = re.compile(rb'"payment_id":"([0-9a-f-]{36})"')


class LoadError(Exception):
    """The load could not be sent: there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class TimedPayment:
    """One invoice and the command that pays it, ready to leave."""

    payment_id: UUID
    issue: Outgoing
    pay: Outgoing


def prepare(count: int) -> list[TimedPayment]:
    """Prepare so many invoices with a payment each; all ids are new."""
    return [_payment() for _ in range(count)]


def _payment() -> TimedPayment:
    payment_id, invoice_id = new_id(), f"{INVOICE_PREFIX}-{new_id()}"
    issue = IssueInvoice(invoice_id=invoice_id, customer_id="bench", amount_minor=1_999, currency="EUR")
    pay = PayInvoice(
        invoice_id=invoice_id,
        payment_id=payment_id,
        amount_minor=1_999,
        currency="EUR",
        method=TokenMethod(token="pm_card_visa"),
    )
    return TimedPayment(payment_id, _command(issue), _command(pay))


def declined(payment: TimedPayment) -> Outgoing:
    """Another payment of the same invoice, with a card that the bank declines; it comes before the one that is captured."""
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
        message_id=str(id_),  # by this the publisher says whose message it is
    )


class EventListener:
    """Receives `InvoicePaid` on a durable queue of its own, as any upstream system may."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._awaited: set[bytes] = set()
        self._none_awaited = asyncio.Event()
        self._message_ids: dict[bytes, str | None] = {}
        self._heard_at: dict[bytes, float] = {}
        self.doubled = 0
        """Payments with two different `InvoicePaid`. The same message twice is normal: delivery is at least once."""
        self.repeated = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["EventListener"]:
        link = BrokerLink(url, name="bench listener")
        try:
            channel = await link.channel(confirms=False)
            await channel.queue_declare(
                EVENTS_QUEUE, durable=True, arguments={"x-queue-type": "quorum"}, timeout=RPC_TIMEOUT_S
            )
            await channel.queue_bind(EVENTS_QUEUE, InvoicePaid.exchange, f"{InvoicePaid.wire_name}.#")
            consumer = Consumer(link, EVENTS_QUEUE, readiness=Readiness(), prefetch=PREFETCH)
            listener = cls(consumer)
            hearing = asyncio.gather(consumer.run(), listener._receive())
            try:
                yield listener
            finally:
                await consumer.stop()
                await hearing
            await channel.queue_delete(EVENTS_QUEUE, timeout=RPC_TIMEOUT_S)
        finally:
            await link.close()

    async def _receive(self) -> None:
        while deliveries := await self._consumer.take():
            at = time.perf_counter()
            for delivery in deliveries:
                self._note(delivery, at)
            await self._consumer.ack(deliveries)

    def _note(self, delivery: Delivery, at: float) -> None:
        found = _PAYMENT_ID.search(delivery.body)
        assert found is not None, "an InvoicePaid without a payment id"
        payment_id = found[1]
        if payment_id not in self._heard_at:
            self._heard_at[payment_id] = at
            self._message_ids[payment_id] = delivery.message_id
            self._awaited.discard(payment_id)
            if not self._awaited:
                self._none_awaited.set()
        elif self._message_ids[payment_id] == delivery.message_id:
            self.repeated += 1
        else:
            self.doubled += 1

    async def wait_for(self, payments: Sequence[TimedPayment]) -> int:
        """Wait until all of them are paid, or nothing has come for `SILENCE_MAX_S`; returns how many are missing."""
        self._awaited = {_key(payment) for payment in payments} - self._heard_at.keys()
        before = len(payments) + 1
        while self._awaited and len(self._awaited) < before:
            before = len(self._awaited)
            self._none_awaited.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_MAX_S):
                    await self._none_awaited.wait()
        return len(self._awaited)

    def paid_at(self, payment: TimedPayment) -> float | None:
        """When it was paid, in seconds of `time.perf_counter`."""
        return self._heard_at.get(_key(payment))


def _key(payment: TimedPayment) -> bytes:
    return str(payment.payment_id).encode()


@dataclass(frozen=True, slots=True)
class Burst:
    """Payments that were sent as fast as confirms allow."""

    paid: int
    lost: int
    published_s: float
    """From the first publish to the last confirm."""
    elapsed_s: float
    """From the first publish to the last `InvoicePaid`."""

    @property
    def per_s(self) -> float:
        return self.paid / self.elapsed_s


async def burst(publisher: Publisher, listener: EventListener, payments: Sequence[TimedPayment]) -> Burst:
    """Pay all of them at once. Raises LoadError if the broker does not take the commands."""
    started = time.perf_counter()
    await send(publisher, [payment.pay for payment in payments])
    published_s = time.perf_counter() - started
    lost = await listener.wait_for(payments)
    last = max((at for payment in payments if (at := listener.paid_at(payment)) is not None), default=started)
    return Burst(len(payments) - lost, lost, published_s, max(last - started, 1e-9))


Span = tuple[float, float]
"""Begin and end, in seconds of `time.perf_counter`, which is the same clock in all processes of a Linux machine."""


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


@dataclass(frozen=True, slots=True)
class Steady:
    """Payments that were sent at fixed times, however those before went."""

    spans: Sequence[Span]
    lost: int
    late_ms: float
    """The largest delay, in ms, of the generator behind its own timetable; it is part of the latencies."""
    stalls: Sequence[Span] = ()
    """Times during which the machine itself ran slowly."""

    @property
    def latencies_ms(self) -> list[float]:
        """Sorted."""
        return sorted((heard - due) * 1_000 for due, heard in self.spans)

    def percentile(self, percent: float) -> float:
        """The latency, in milliseconds, at the nearest rank: always one that was measured. Raises IndexError if none was."""
        latencies_ms = self.latencies_ms
        rank = math.ceil(len(latencies_ms) * percent / 100)
        return latencies_ms[max(rank, 1) - 1]

    def without_stalls(self) -> "Steady":
        """The same without the payments that were under way while the machine stalled."""
        return replace(self, spans=[span for span in self.spans if not any(_overlap(span, one) for one in self.stalls)])


async def steady(
    publisher: Publisher, listener: EventListener, payments: Sequence[TimedPayment], *, rate_per_s: float
) -> Steady:
    """Pay one invoice after the other; commands that became due while the last one was being confirmed leave together.

    A latency begins when the command was *due* to be sent, so a stall counts for all commands that it delayed (Gil Tene, "How NOT to
    Measure Latency": coordinated omission).
    """
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
    lost = await listener.wait_for(payments)
    spans = [
        (due_at, at)
        for payment, due_at in zip(payments, due, strict=True)
        if (at := listener.paid_at(payment)) is not None
    ]
    return Steady(spans, lost, late_s * 1_000)


async def send(publisher: Publisher, messages: Sequence[Outgoing]) -> None:
    """Publish and wait for every confirm. Raises LoadError."""
    published = await publisher.publish(messages)
    if len(published.confirmed) != len(messages):
        raise LoadError(f"{len(messages) - len(published.confirmed)} of {len(messages)} commands were not confirmed")
