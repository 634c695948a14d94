"""The spans of calls to the gateway: one for each step, as a child of the span in which its message was handled."""

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from services.payment_gateway.domain import GatewayAnswer, GatewayStep
from services.payment_gateway.gateways import port
from services.payment_gateway.store import PaymentRow
from shared.messaging.facts import shown_id
from shared.observability.traces import never_raising

if TYPE_CHECKING:
    from shared.observability.spans import Tracer

_PORTS: Final = {"http": 80, "https": 443}


class GatewayTracing:
    """Makes the spans of calls to the gateway at this URL.

    A step may take the adapter several HTTP requests; their methods and status codes are the adapter's own. So a span says what the step
    came to, and where.
    """

    def __init__(self, tracer: "Tracer", gateway_url: str) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - only a process with traces imports it

        self._tracer = tracer
        self._kind = SpanKind.CLIENT
        parts = urlsplit(gateway_url)
        self._server: dict[str, str | int] = {}
        if parts.hostname is not None:
            self._server["server.address"] = parts.hostname
            self._server["server.port"] = parts.port or _PORTS.get(parts.scheme, 0)

    def record(self, step: GatewayStep, row: PaymentRow, seq: int, answer: GatewayAnswer, *, seconds: float) -> None:
        """Record a call that took `seconds` and ended just now. `seq` is its number among the calls under the fence of the row.

        It never raises: the answer has to be recorded.
        """
        with never_raising():
            self._record(step, row, seq, answer, seconds)

    def _record(self, step: GatewayStep, row: PaymentRow, seq: int, answer: GatewayAnswer, seconds: float) -> None:
        name, origin = f"gateway {step}", row.origin
        place = f"{name} {row.payment.payment_id} {row.fence} {seq}"
        ids = self._tracer.ids_of(name, self._kind, origin.message_id, place, origin.traceparent)
        if not ids.is_sampled:
            return
        word = type(answer).__name__
        self._tracer.record(
            name,
            self._kind,
            ids,
            traceparent=origin.traceparent,
            seconds=seconds,
            attributes={
                **self._server,
                "remit.gateway.step": str(step),
                "remit.gateway.answer": word,
                "remit.invoice.id": shown_id(row.payment.invoice_id),
                "remit.payment.id": str(row.payment.payment_id),
            },
            error=word if isinstance(answer, _TROUBLE) else None,
        )


_TROUBLE: Final = (port.NotSent, port.Unknown, port.Limited, port.Misconfigured)
"""Answers that say nothing about the payment. That a bank declines it is no error of the call."""
