"""Traces: the ids of spans, what switches them on, and that they cost nothing while they are off."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from opentelemetry.sdk import environment_variables
from opentelemetry.trace import SpanKind

from services.payment_gateway.domain import GatewayStep, Payment, PaymentStatus
from services.payment_gateway.gateways import port
from services.payment_gateway.store import Origin, PaymentRow
from services.payment_gateway.tracing import GatewayTracing
from shared.batch.inbox import DeadLettered, Item
from shared.batch.tracing import QueueTracing
from shared.contracts.invoice import InvoiceVoided
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Inbound
from shared.observability import traces
from shared.observability.spans import Tracer
from shared.observability.traces import (
    TraceSettings,
    derived_span_id,
    derived_trace_id,
    open_tracer,
    read_traceparent,
)
from shared.settings import ConfigurationError, EnvironmentVariables
from tests.support.collector import Collector, collecting
from tests.support.environment import ROOT

MESSAGE, OTHER = UUID(int=7), UUID(int=8)
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
NOT_SAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def settings(**variables: str) -> TraceSettings:
    return TraceSettings.read(EnvironmentVariables(variables))


# -- ids ----------------------------------------------------------------------------------------------------------------------------------


def test_the_ids_of_a_span_are_the_same_in_every_process_and_version() -> None:
    """Bytes that were published carry them, so another derivation would change what is published again."""
    assert f"{derived_span_id(MESSAGE, 'saga.events'):016x}" == "dbe09c8ff6368ffd"
    assert f"{derived_trace_id(MESSAGE):032x}" == "fc1bdb31bf363bb530d9c9f32dd1ec6c"


def test_each_message_has_a_span_at_each_place() -> None:
    places = ("saga.events", "payment_gateway.requests", "invoice.commands")
    ids = {derived_span_id(message, place) for message in (MESSAGE, OTHER) for place in places}
    assert len(ids) == 6
    assert derived_trace_id(MESSAGE) != derived_trace_id(OTHER)


@pytest.mark.parametrize(
    "text",
    [None, "", "nonsense", f"ff-{'a' * 32}-{'b' * 16}-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01"],
    ids=["none", "empty", "nonsense", "version ff", "no trace", "no span"],
)  # fmt: skip
def test_what_names_no_span_is_no_parent(text: str | None) -> None:
    assert read_traceparent(text) is None


def test_a_traceparent_is_read_as_it_is_written() -> None:
    for text in (PARENT, NOT_SAMPLED):
        read = read_traceparent(text)
        assert read is not None
        assert read.traceparent == text


# -- spans --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as opened:
        yield opened


def tracer(collector: Collector, **variables: str) -> Tracer:
    opened = open_tracer(settings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables), "saga")
    assert opened is not None
    return opened


async def recorded(tracer: Tracer, traceparent: str | None, error: str | None = None) -> str:
    """Record a span with this parent, twice the same ids. Returns the context that goes on."""
    first, second = (tracer.ids_of("process q", SpanKind.CONSUMER, MESSAGE, "q", traceparent) for _ in range(2))
    assert first == second
    tracer.record(
        "process q",
        SpanKind.CONSUMER,
        first,
        traceparent=traceparent,
        seconds=1.5,
        attributes={"remit.batch.size": 3},
        error=error,
    )
    await tracer.close()
    return first.traceparent


async def test_a_span_is_sent_with_the_ids_that_travel(collector: Collector) -> None:
    context = await recorded(tracer(collector, OTEL_SERVICE_NAME="payments"), PARENT)
    (span,) = collector.spans
    assert (span.service, span.name, span.kind, span.failed) == ("payments", "process q", "CONSUMER", False)
    assert (span.trace_id, span.parent_id, span.traceparent) == ("a" * 32, "b" * 16, context)
    assert span.seconds == pytest.approx(1.5)
    assert span.attributes == {"remit.batch.size": 3}


async def test_a_message_without_a_context_begins_a_trace(collector: Collector) -> None:
    context = await recorded(tracer(collector), None)
    (span,) = collector.spans
    assert (span.service, span.parent_id, span.traceparent) == ("saga", "", context)
    assert span.trace_id == f"{derived_trace_id(MESSAGE):032x}"


async def test_a_failure_says_why_by_a_code(collector: Collector) -> None:
    await recorded(tracer(collector), PARENT, error="handler_failed")
    (span,) = collector.spans
    assert span.failed
    assert span.attributes["error.type"] == "handler_failed"


@pytest.mark.parametrize(
    ("variables", "traceparent", "flags"),
    [
        ({}, NOT_SAMPLED, "00"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, NOT_SAMPLED, "01"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, PARENT, "00"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, None, "00"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, PARENT, "01"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, None, "01"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, None, "00"),
    ],
    ids=["parent says no", "always on", "always off", "ratio 0", "ratio 0, parent says yes", "ratio 1", "off at the root"],
)  # fmt: skip
async def test_the_sampler_decides_and_the_decision_travels(
    collector: Collector, variables: dict[str, str], traceparent: str | None, flags: str
) -> None:
    context = await recorded(tracer(collector, **variables), traceparent)
    assert context.endswith(flags)
    assert len(collector.spans) == int(flags)


async def test_closing_does_not_wait_for_a_collector_that_is_away(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the first try takes a part of it.
    monkeypatch.setattr("shared.observability.spans.CLOSE_WITHIN_S", 1.0)
    collector.refusal = 503  # the libraries try again for ten seconds
    async with asyncio.timeout(8):
        await recorded(tracer(collector), PARENT)
    assert collector.spans == []
    assert collector.requests >= 1


async def test_a_collector_that_goes_and_comes_back_makes_one_line_each(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    opened = tracer(collector)
    ids = opened.ids_of("process q", SpanKind.CONSUMER, MESSAGE, "q", PARENT)

    async def export() -> None:
        opened.record("process q", SpanKind.CONSUMER, ids, traceparent=PARENT, seconds=0.0, attributes={})
        await asyncio.to_thread(opened._provider.force_flush)

    with caplog.at_level("INFO", logger="shared.observability.spans"):
        for collector.refusal in (None, 400, 400, None, None, 400):
            await export()
    await opened.close()
    told = [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]
    assert told == ["traces_not_taken", "traces_taken_again", "traces_not_taken"]


# -- on and off ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        (ENDPOINT, "http://127.0.0.1:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/base/"}, "http://c:4318/base/v1/traces"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/own"}, "http://c:1/own"),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, None),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
    ],
    ids=["unset", "all signals", "a path", "traces alone", "disabled", "no exporter"],
)
def test_the_standard_variables_switch_traces_on(variables: dict[str, str], endpoint: str | None) -> None:
    assert settings(**variables).traces_endpoint == endpoint
    if endpoint is None:
        assert open_tracer(settings(**variables), "saga") is None


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as "),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:99999"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as "),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://u:secret@c"}, "ENDPOINT must have no user and password"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf: gRPC is not"),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER must be one of always_on, "),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1."),
    ],
    ids=["no URL", "no port", "a password", "gRPC", "no sampler", "no share"],
)
def test_a_mistake_is_told_and_nothing_secret_with_it(variables: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        settings(**variables)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_a_missing_package_is_a_mistake_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shared.observability.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match="install remit with the extra `traces`"):
        open_tracer(settings(**ENDPOINT), "saga")


def test_a_variable_that_the_libraries_refuse_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
    with pytest.raises(
        ConfigurationError,
        match=r"these variables \(ValueError: schedule_delay_millis must be",
    ):
        open_tracer(settings(**ENDPOINT), "saga")


OFF = """
import sys
import services.{service}.__main__
from shared.observability.traces import TraceSettings, open_tracer
assert open_tracer(TraceSettings.read(), "{service}") is None
assert not [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
"""


@pytest.mark.parametrize("service", ["invoice", "payment_gateway", "saga", "staff"])
def test_a_service_without_traces_imports_nothing_of_opentelemetry(service: str) -> None:
    environment = {"PATH": "", "PYTHONPATH": str(traces.__file__).partition("/shared/")[0]}
    script = OFF.format(service=service)
    ended = subprocess.run(
        (sys.executable, "-c", script), env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


# -- a batch ------------------------------------------------------------------------------------------------------------------------------


def delivery() -> Delivery:
    return Delivery(b"", 1, 1, "saga.events", "", "", None, None, None, None, None)


def item(message_id: UUID, traceparent: str | None) -> Item:
    data = InvoiceVoided(invoice_id="INV-1", reason="written by somebody")
    message = Inbound(message_id, data, "order-7", datetime(2026, 1, 1, tzinfo=UTC), traceparent=traceparent)
    return Item(message_id, delivery(), message)


async def test_each_message_of_a_batch_goes_on_with_its_own_trace(collector: Collector) -> None:
    """And a repeated batch with the same contexts: what it publishes again has the same bytes."""
    opened = tracer(collector)
    tracing = QueueTracing(opened, "saga.events")
    unread = DeadLettered(delivery(), "not_a_cloud_event", "it cannot be read")
    repeated = UUID(int=9)
    batch: list[Item | DeadLettered] = [item(MESSAGE, PARENT), unread, item(OTHER, None), item(repeated, PARENT)]
    entered = tracing.enter(batch)
    assert entered == tracing.enter(batch)
    assert entered[1] is unread
    assert [entry.delivery for entry in entered] == [entry.delivery for entry in batch]
    first, failed = entered[0], entered[2]
    assert isinstance(first, Item)
    assert failed.message is not None
    tracing.handled([first])
    tracing.record(
        [unread, DeadLettered(delivery(), "handler_failed", "", message=failed.message)], size=4, seconds=0.1
    )
    await opened.close()

    assert {span.attributes["messaging.message.id"]: span.traceparent for span in collector.spans} == {
        str(entry.message.id): entry.message.traceparent
        for entry in (first, failed)
        if entry.message is not None
    }  # fmt: skip
    begun, went_on = sorted(collector.spans, key=lambda span: span.parent_id)
    assert (went_on.parent_id, went_on.failed, begun.parent_id, begun.failed) == ("b" * 16, False, "", True)
    assert begun.attributes["error.type"] == "handler_failed"
    assert went_on.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "saga.events",
        "messaging.message.id": str(MESSAGE),
        "messaging.message.conversation_id": "order-7",
        "remit.message.type": "remit.invoice.InvoiceVoided.v1",
        "remit.batch.size": 4,
        "remit.invoice.id": "INV-1",
    }


async def test_a_message_that_nobody_traces_goes_on_as_it_came(collector: Collector) -> None:
    opened = tracer(collector)
    tracing = QueueTracing(opened, "saga.events")
    untraced = item(MESSAGE, NOT_SAMPLED)
    (entered,) = tracing.enter([untraced])
    assert entered is untraced
    tracing.handled([untraced])
    tracing.record([], size=1, seconds=0.1)
    await opened.close()
    assert collector.requests == 0


async def test_nothing_of_the_batch_before_is_recorded_again(collector: Collector) -> None:
    opened = tracer(collector)
    tracing = QueueTracing(opened, "saga.events")
    for handled in (True, False):
        entered = [entry for entry in tracing.enter([item(MESSAGE, PARENT)]) if isinstance(entry, Item)]
        tracing.handled(entered if handled else [])
        tracing.record([], size=1, seconds=0.1)
    await opened.close()
    assert len(collector.spans) == 1


async def test_a_bug_in_tracing_loses_spans_and_nothing_else(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = tracer(collector)
    tracing, calls = QueueTracing(opened, "saga.events"), GatewayTracing(opened, "https://gateway.example")
    payment = Payment(UUID(int=5), "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa")
    row = PaymentRow(payment, 1, Origin(MESSAGE, "order-7", PARENT), datetime(2026, 1, 1, tzinfo=UTC))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    for method in ("ids_of", "record"):
        with monkeypatch.context() as patched:
            patched.setattr(Tracer, method, broken)
            batch = [item(MESSAGE, PARENT)]
            entered = tracing.enter(batch)
            assert [entry.delivery for entry in entered] == [entry.delivery for entry in batch]
            tracing.handled(entry for entry in entered if isinstance(entry, Item))
            tracing.record([], size=1, seconds=0.1)
            calls.record(GatewayStep.EXECUTE, row, 1, port.Unknown("no answer"), seconds=0.1)
    told = [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]
    assert set(told) == {"spans_lost"}
    await opened.close()
    assert collector.spans == []


async def test_a_call_without_an_answer_is_an_error_and_a_refusal_of_the_bank_is_none(collector: Collector) -> None:
    opened = tracer(collector)
    calls = GatewayTracing(opened, "https://gateway.example")
    payment = Payment(UUID(int=5), "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa")
    row = PaymentRow(payment, 1, Origin(MESSAGE, "order-7", PARENT), datetime(2026, 1, 1, tzinfo=UTC))
    calls.record(GatewayStep.EXECUTE, row, 1, port.Unknown("no answer"), seconds=0.1)
    calls.record(GatewayStep.INQUIRE, row, 2, port.Processing("processing"), seconds=0.1)
    await opened.close()
    unknown, processing = collector.spans
    assert (unknown.name, unknown.failed, unknown.attributes["error.type"]) == ("gateway execute", True, "Unknown")
    assert (processing.name, processing.failed) == ("gateway inquire", False)
    assert processing.attributes == {
        "server.address": "gateway.example",
        "server.port": 443,
        "remit.gateway.step": "inquire",
        "remit.gateway.answer": "Processing",
        "remit.invoice.id": "INV-1",
        "remit.payment.id": str(UUID(int=5)),
    }
    assert unknown.span_id != processing.span_id
    assert {span.parent_id for span in collector.spans} == {"b" * 16}


def test_no_standard_variable_is_taken_for_a_slip_of_another() -> None:
    standard = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    assert len(standard) > 40
    variables = EnvironmentVariables(dict.fromkeys(standard, "1"))
    assert variables.misspelled(TraceSettings.known_variables()) is None
    slip = EnvironmentVariables({"OTEL_EXPORTER_OTLP_ENDPOIN": "http://c:4318"})
    assert "did you mean OTEL_EXPORTER_OTLP_ENDPOINT?" in str(slip.misspelled(TraceSettings.known_variables()))


@pytest.mark.parametrize("file", ["compose.yaml", "kubernetes/services/kustomization.yaml"])
def test_where_it_is_deployed_a_share_of_traces_is_recorded(file: str) -> None:
    """Every payment traced costs about 1 ms of CPU (tests/bench/README.md)."""
    text = (ROOT / "deploy" / file).read_text()
    found = re.findall(r"OTEL_TRACES_SAMPLER(?:_ARG)?(?:=|: \$\{\w+:-)([\w.]+)", text)
    assert found == ["parentbased_traceidratio", "0.05"]
