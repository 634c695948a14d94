"""One trace has the whole way of a payment: from its sender through every service and the calls to the gateway to the answer."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from aio_pika.abc import AbstractIncomingMessage

from deploy.demo.upstream import Upstream
from deploy.local.stack import SERVICES, UPSTREAM
from deploy.local.system import System
from shared.contracts.invoice import IssueInvoice, PayInvoice, TokenMethod
from shared.ids import new_id
from tests.support.collector import CollectedSpan, Collector, collecting
from tests.support.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

OUTCOME_WITHIN_S = 60.0
SENDER = "00f067aa0ba902b7"
TOKEN = "pm_card_visa"


class TracedUpstream(Upstream):
    """A sender that keeps the contexts of the answers and events it gets."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.contexts: dict[str, str | None] = {}

    async def _on_answer(self, message: AbstractIncomingMessage) -> None:
        self._keep(message)
        await super()._on_answer(message)

    async def _on_event(self, message: AbstractIncomingMessage) -> None:
        self._keep(message)
        await super()._on_event(message)

    def _keep(self, message: AbstractIncomingMessage) -> None:
        event = json.loads(message.body)
        about = event["data"].get("command_id") or event["type"].split(".")[-2]
        self.contexts[about] = event.get("traceparent")


@pytest.fixture
def fleet_with(system: System) -> Iterator[Any]:
    """Starts all services again with further variables. At the end they are stopped, so that no other test has them so."""

    def start(**environment: str) -> None:
        for service in SERVICES:
            system.fleet.stop(service)
        for service in SERVICES:
            system.fleet.start(service, instance=1, program="", **environment)

    yield start
    for service in {*SERVICES} & {*system.fleet.names}:
        system.fleet.stop(service)


async def pay(system: System, collector: Collector, trace_id: str) -> tuple[UUID, UUID, dict[str, str | None]]:
    """Pay an invoice within this trace. Returns the ids of the payment and of the command, and what contexts the sender has got."""
    url, invoice_id, payment_id = system.stack.rabbitmq_url_of(UPSTREAM), f"TRACE-{new_id()}", new_id()
    async with TracedUpstream.open(url, name="traces", history=system.history) as upstream:
        await upstream.ask(IssueInvoice(invoice_id=invoice_id, customer_id="C-1", amount_minor=1_250, currency="EUR"))
        command = PayInvoice(
            invoice_id=invoice_id,
            payment_id=payment_id,
            amount_minor=1_250,
            currency="EUR",
            method=TokenMethod(token=TOKEN),
        )
        command_id = await upstream.send(command, traceparent=f"00-{trace_id}-{SENDER}-01")
        await upstream.answer(command_id)
        assert await upstream.outcome(payment_id, within_s=OUTCOME_WITHIN_S) == "paid"

        async def whole() -> bool:
            names = {span.name for span in collector.spans if span.trace_id == trace_id}
            return {"process invoice.commands", "process invoice.settlement", "gateway execute"} <= names

        await until(whole, what="the last span")
        return payment_id, command_id, upstream.contexts


def test_one_trace_has_the_whole_way_of_a_payment(system: System, fleet_with: Any) -> None:
    trace_id = new_id().hex

    async def paid() -> tuple[list[CollectedSpan], UUID, UUID, dict[str, str | None]]:
        async with collecting() as collector:
            await asyncio.to_thread(
                fleet_with, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="100"
            )
            payment_id, command_id, contexts = await pay(system, collector, trace_id)
            for service in SERVICES:  # the last spans are sent as a service stops
                await asyncio.to_thread(system.fleet.stop, service)
            return collector.spans, payment_id, command_id, contexts

    everything, payment_id, command_id, contexts = asyncio.run(paid())
    spans = [span for span in everything if span.trace_id == trace_id]
    assert len({span.span_id for span in spans}) == len(spans)

    def only(name: str, *, parent: str) -> CollectedSpan:
        (found,) = [span for span in spans if span.name == name and span.parent_id == parent]
        return found

    command = only("process invoice.commands", parent=SENDER)
    request = only("process payment_gateway.requests", parent=command.span_id)
    calls = [only(f"gateway {step}", parent=request.span_id) for step in ("prepare", "execute")]
    captured = only("process saga.events", parent=request.span_id)
    settlement = only("process invoice.settlement", parent=captured.span_id)
    known = {SENDER} | {span.span_id for span in spans}
    assert {span.parent_id for span in spans} <= known, "no span hangs in the air"

    assert contexts[str(command_id)] == command.traceparent, "the answer"
    assert contexts["InvoicePaid"] == settlement.traceparent, "the outcome"

    assert [span.service for span in (command, request, captured, settlement, *calls)] == [
        "invoice", "payment_gateway", "saga", "invoice", "payment_gateway", "payment_gateway"
    ]  # fmt: skip
    assert {span.kind for span in calls} == {"CLIENT"}
    assert {span.kind for span in spans if span.name.startswith("process")} == {"CONSUMER"}
    assert not any(span.failed for span in spans)
    assert all(0 <= span.seconds < OUTCOME_WITHIN_S for span in spans)
    assert {span.attributes["remit.payment.id"] for span in (command, request, *calls)} == {str(payment_id)}
    assert calls[1].attributes["remit.gateway.answer"] == "Captured"
    assert command.attributes["messaging.destination.name"] == "invoice.commands"
    shown = " ".join(str(value) for span in everything for value in (span.name, *span.attributes.values()))
    assert TOKEN not in shown
    assert str(payment_id) not in " ".join(span.name for span in everything)
    outside = {span.trace_id for span in everything if span.name == "process invoice.commands"} - {trace_id}
    assert outside, "a command without a context begins a trace of its own"


def test_a_collector_that_takes_nothing_is_told_once_and_disturbs_nothing(system: System, fleet_with: Any) -> None:
    log = system.folder / "invoice.log"

    async def issued() -> int:
        async with collecting() as collector:
            collector.refusal = 400
            before = log.stat().st_size
            await asyncio.to_thread(fleet_with, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="50")
            url = system.stack.rabbitmq_url_of(UPSTREAM)
            async with Upstream.open(url, name="traces", history=system.history) as upstream:
                for refused in (1, 2):
                    invoice = IssueInvoice(
                        invoice_id=f"TRACE-{new_id()}", customer_id="C-1", amount_minor=1_250, currency="EUR"
                    )
                    _, answer = await upstream.ask(invoice)
                    assert answer.answer == "accepted"

                    async def refused_so_often(refused: int = refused) -> bool:
                        return collector.requests >= refused

                    await until(refused_so_often, what="another refusal")
            await asyncio.to_thread(system.fleet.stop, "invoice")
            return before

    before = asyncio.run(issued())
    lines = [json.loads(line) for line in log.read_bytes()[before:].splitlines()]
    told = [line["event"] for line in lines if line["logger"].startswith(("opentelemetry", "urllib3", "shared.obs"))]
    assert told == ["traces_not_taken"]
    assert lines[-1]["event"] == "stopped"
