"""Spans, by the libraries of OpenTelemetry. Only a process with traces imports this (see `traces`)."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.build import this_build
from shared.observability.traces import Sampler, SpanIds, derived_span_id, derived_trace_id, read_traceparent

log = structlog.get_logger(__name__)

CLOSE_WITHIN_S = 2.0
"""How long a stopping service waits until its last spans are sent. What a collector that is away does not take by then is lost."""

Attributes = Mapping[str, str | int]


class Tracer:
    """Records spans that have ended, and sends them from a thread of its own. It holds a bounded number of them, and loses the rest.

    It is for one thread: that of the event loop.
    """

    def __init__(self, endpoint: str, *, service: str, sampler: Sampler, ratio: float) -> None:
        self._exporter = _TellingExporter(OTLPSpanExporter(endpoint))
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=_sampler(sampler, ratio),
            resource=Resource.create({"service.name": service, "service.version": this_build().version}),
            id_generator=self._ids,
            shutdown_on_exit=False,  # `close` does it, and does not wait for long
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("remit")
        self._follows_parents = sampler.startswith("parentbased_")

    def ids_of(self, name: str, kind: SpanKind, message_id: UUID, place: str, traceparent: str | None) -> SpanIds:
        """The ids of the span in which `place` deals with a message that came with this `traceparent`.

        The sampler decides on what it is given here alone, so it decides the same again. One that goes by the parent is not asked if there
        is one: the libraries would make three objects of each message. A parent of which nothing is recorded goes on as it is, as W3C
        Trace Context has it for whoever records nothing.
        """
        parent = read_traceparent(traceparent)
        if parent is not None and self._follows_parents:
            if not parent.is_sampled:
                return parent
            return SpanIds(parent.trace_id, derived_span_id(message_id, place), is_sampled=True)
        trace_id = parent.trace_id if parent is not None else derived_trace_id(message_id)
        decided = self._provider.sampler.should_sample(_context_of(parent), trace_id, name, kind, {}, ())
        is_sampled = decided.decision is sampling.Decision.RECORD_AND_SAMPLE
        return SpanIds(trace_id, derived_span_id(message_id, place), is_sampled)

    def record(
        self,
        name: str,
        kind: SpanKind,
        ids: SpanIds,
        *,
        traceparent: str | None,
        seconds: float,
        attributes: Attributes,
        error: str | None = None,
    ) -> None:
        """Record a span that took `seconds` and ended just now. `error` is a code, and not None if what it did has failed."""
        if not ids.is_sampled:
            return
        ended = time.time_ns()
        self._ids.next = ids
        span = self._tracer.start_span(
            name,
            _context_of(read_traceparent(traceparent)),
            kind,
            attributes if error is None else {**attributes, "error.type": error},
            start_time=ended - int(seconds * 1e9),
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    async def close(self) -> None:
        """Send what is left, within `CLOSE_WITHIN_S` seconds."""
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_WITHIN_S)
        if closing.is_alive():
            log.info("spans_left", waited_s=CLOSE_WITHIN_S)
            self._exporter.shutdown()


class _GivenIds(IdGenerator):
    """Gives the next span the ids that it was derived."""

    next = SpanIds(1, 1, is_sampled=True)

    def generate_span_id(self) -> int:
        return self.next.span_id

    def generate_trace_id(self) -> int:
        return self.next.trace_id


class _TellingExporter(SpanExporter):
    """Tells when the collector goes away and when it is back. The libraries would tell at each try."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            log.warning("traces_not_taken", detail="the collector at OTEL_EXPORTER_OTLP_ENDPOINT takes no spans")
        elif self._is_away and not is_away:
            log.info("traces_taken_again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


_NO_PARENT: Final = Context()


def _context_of(parent: SpanIds | None) -> Context:
    if parent is None:
        return _NO_PARENT
    flags = TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT)
    known = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(known), _NO_PARENT)


def _sampler(name: Sampler, ratio: float) -> sampling.Sampler:
    samplers: dict[Sampler, sampling.Sampler] = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "traceidratio": sampling.TraceIdRatioBased(ratio),
        "parentbased_always_on": sampling.DEFAULT_ON,
        "parentbased_always_off": sampling.DEFAULT_OFF,
        "parentbased_traceidratio": sampling.ParentBasedTraceIdRatio(ratio),
    }
    return samplers[name]
