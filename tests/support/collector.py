"""A collector of OpenTelemetry on loopback: it keeps the spans that it is sent by OTLP over HTTP."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """A span as it was sent. Ids are in hexadecimal digits; that of the parent is empty for the first span of a trace."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    seconds: float
    failed: bool
    attributes: dict[str, str | int]

    @property
    def traceparent(self) -> str:
        """What a message carries that this span, which is recorded, has caused."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector:
    """What was collected, in the order of arrival. With a `refusal`, which is a status of HTTP, it says that and keeps nothing."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.url = ""
        self.refusal: int | None = None
        self.requests = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.refusal is not None:
            return web.Response(status=self.refusal)
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            service = str(_values(resource.resource.attributes)["service.name"])
            self.spans += [_collected(service, span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens on a port of its own."""
    collector = Collector()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", collector.handle)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        collector.url = f"http://{host}:{port}"
        yield collector
    finally:
        await runner.cleanup()


def _collected(service: str, span: Span) -> CollectedSpan:
    return CollectedSpan(
        service=service,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, str | int]:
    return {one.key: _value(one) for one in attributes}


def _value(attribute: KeyValue) -> str | int:
    kind = attribute.value.WhichOneof("value")
    value: str | int = getattr(attribute.value, str(kind))
    return value
