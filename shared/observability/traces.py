"""Traces: whether a process sends any, by the standard variables of OpenTelemetry, and the ids of its spans.

A span has an id before it begins: the id is derived from the message that the span is about and from the place that handles it. A message
that is handled again, by whomever, so gives what it causes the same `traceparent`, and what is published again has the same bytes.

This module imports nothing of OpenTelemetry: a process without traces does without its libraries. `spans` imports them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from pydantic import AfterValidator

from shared.observability.redaction import describe_error
from shared.records import dataclass
from shared.settings import LOWER_CASE, ConfigurationError, Settings, variable

if TYPE_CHECKING:
    from shared.observability.spans import Tracer

log = structlog.get_logger(__name__)

TRACES_PATH: Final = "/v1/traces"
SAMPLED: Final = 1

Sampler = Literal[
    "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"
]  # fmt: skip


def _check_endpoint(url: str) -> str:
    if url and not _is_address(url):
        raise ValueError("must be a URL such as http://collector:4318")
    if "@" in url:
        raise ValueError("must have no user and password: give them in OTEL_EXPORTER_OTLP_HEADERS")
    return url


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


_Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
_Protocol = Annotated[Literal["http/protobuf"], LOWER_CASE]


class TraceSettings(Settings):
    """The variables of OpenTelemetry that are read here. Its libraries read others: headers, certificates, timeouts, batches, resources."""

    traces_base_endpoint: _Endpoint = variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        must="a URL such as http://collector:4318",
        unset="there are no traces",
        about=f"Where [traces](README.md#traces) go, by OTLP over HTTP; `{TRACES_PATH}` is added.",
    )
    traces_own_endpoint: _Endpoint = variable(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "",
        must="a URL such as http://collector:4318/v1/traces",
        unset="as above",
        about="The same for traces alone: a whole URL, to which nothing is added.",
    )
    otlp_protocol: _Protocol = variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "http/protobuf",
        must="http/protobuf: gRPC is not spoken here",
        about="How traces are sent.",
    )
    otlp_traces_protocol: _Protocol = variable(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "http/protobuf",
        must="http/protobuf: gRPC is not spoken here",
        about="The same for traces alone.",
    )
    traces_exporter: Annotated[Literal["otlp", "none"], LOWER_CASE] = variable(
        "OTEL_TRACES_EXPORTER", "otlp", about="`none`: there are no traces."
    )
    is_otel_disabled: Annotated[Literal["true", "false"], LOWER_CASE] = variable(
        "OTEL_SDK_DISABLED", "false", about="`true`: there are no traces."
    )
    otel_service_name: str = variable(
        "OTEL_SERVICE_NAME", "", must="a text", unset="that of the service", about="The name of the service in traces."
    )
    traces_sampler: Annotated[Sampler, LOWER_CASE] = variable(
        "OTEL_TRACES_SAMPLER", "parentbased_always_on", about="Which traces are recorded."
    )
    traces_sampler_arg: float = variable(
        "OTEL_TRACES_SAMPLER_ARG", 1.0, ge=0, le=1, about="The share of traces that a sampler by ratio records."
    )

    @property
    def traces_endpoint(self) -> str | None:
        """The URL that spans are sent to. None: there are no traces."""
        if self.is_otel_disabled == "true" or self.traces_exporter == "none":
            return None
        if self.traces_own_endpoint:
            return self.traces_own_endpoint
        return self.traces_base_endpoint.rstrip("/") + TRACES_PATH if self.traces_base_endpoint else None


def open_tracer(settings: TraceSettings, service: str) -> "Tracer | None":
    """What records the spans of this process. None if it has no traces.

    Raises `ConfigurationError` if it should have, and the libraries are missing, or refuse one of their variables.
    """
    endpoint = settings.traces_endpoint
    if endpoint is None:
        return None
    try:
        from shared.observability.spans import Tracer  # noqa: PLC0415 - see the module's docstring
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but the package of {error.name} is missing: "
            "install remit with the extra `traces`, or unset it."
        ) from None
    try:
        return Tracer(
            endpoint,
            service=settings.otel_service_name or service,
            sampler=settings.traces_sampler,
            ratio=settings.traces_sampler_arg,
        )
    except Exception as error:  # whatever the libraries say of their variables
        raise ConfigurationError(
            f"OTEL_...: traces cannot be sent with these variables ({describe_error(error)}): see OpenTelemetry's reference."
        ) from error


@contextmanager
def never_raising() -> Iterator[None]:
    """Whatever fails inside costs spans, and no more: a bug in tracing must not lose the answer of a gateway, nor stop a queue."""
    try:
        yield
    except Exception:
        log.exception("spans_lost")


# -- contexts ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpanIds:
    """A span as others name it. It travels as a `traceparent` (W3C Trace Context)."""

    trace_id: int
    span_id: int
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch


def read_traceparent(text: str | None) -> SpanIds | None:
    """The span that a `traceparent` names. None if it names none: ids of zeros are none, nor is anything of version ff."""
    if text is None or (found := _TRACEPARENT(text)) is None:
        return None
    trace_id, span_id, flags = int(found[1], 16), int(found[2], 16), int(found[3], 16)
    return SpanIds(trace_id, span_id, bool(flags & SAMPLED)) if trace_id and span_id else None


def derived_span_id(message_id: UUID, place: str) -> int:
    """The id of the span in which `place` deals with this message: not zero, and the same whenever it does."""
    return _number(f"span {place} ".encode() + message_id.bytes, 8)


def derived_trace_id(message_id: UUID) -> int:
    """The id of the trace that begins with this message."""
    return _number(b"trace " + message_id.bytes, 16)


def _number(text: bytes, length: int) -> int:
    return int.from_bytes(sha1(text, usedforsecurity=False).digest()[:length]) or 1
