"""The spans of one queue: one for each message that a batch has handled.

OpenTelemetry's conventions for messaging would allow one span for the batch, with links to the messages. But then no trace would go on
behind a batch: each message is of another payment, and what it causes belongs to the trace of that payment. So each message has a span of
its own, as long as its batch, and what the messages that it causes bring about are children of that span.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from shared.batch.inbox import DeadLettered, Item
from shared.messaging.envelope import Inbound
from shared.messaging.facts import shown_id
from shared.observability.traces import never_raising
from shared.records import replace

if TYPE_CHECKING:
    from shared.observability.spans import Tracer
    from shared.observability.traces import SpanIds

_IDS: Final = ("invoice_id", "payment_id", "refund_id")


class QueueTracing:
    """Makes the spans of the messages of one queue."""

    def __init__(self, tracer: "Tracer", queue: str) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - only a process with traces imports it

        self._tracer = tracer
        self._name = f"process {queue}"
        self._kind = SpanKind.CONSUMER
        self._queue = queue
        self._entered: dict[UUID, tuple[SpanIds, Inbound]] = {}
        """The spans that the present batch will have, by the ids of its messages; with each the message as it came."""
        self._handled: set[UUID] = set()

    def enter(self, admitted: Sequence[Item | DeadLettered]) -> Sequence[Item | DeadLettered]:
        """Begin a batch. Returns it with messages whose context is a span of their own, so that what they cause is a child of that."""
        self._entered.clear()
        self._handled.clear()
        entered: Sequence[Item | DeadLettered] = admitted
        with never_raising():
            entered = self._enter(admitted)
        return entered  # noqa: RET504 - the block may have ended before

    def _enter(self, admitted: Sequence[Item | DeadLettered]) -> list[Item | DeadLettered]:
        entered: list[Item | DeadLettered] = []
        for entry in admitted:
            message = entry.message
            if message is None or isinstance(entry, DeadLettered):
                entered.append(entry)
                continue
            ids = self._tracer.ids_of(self._name, self._kind, message.id, self._queue, message.traceparent)
            if ids.is_sampled:
                self._entered[message.id] = (ids, message)
            goes_on = ids.traceparent
            is_same = goes_on == message.traceparent
            entered.append(entry if is_same else replace(entry, message=replace(message, traceparent=goes_on)))
        return entered

    def handled(self, items: Iterable[Item]) -> None:
        """Note which messages were handled for the first time. Another span of a repeated one would have the id of its first."""
        self._handled.update(item.id for item in items)

    def record(self, failed: Iterable[DeadLettered], *, size: int, seconds: float) -> None:
        """Record the spans of the batch, which took `seconds`: those of messages that were handled, and of those that `failed`."""
        with never_raising():
            self._record(failed, size, seconds)

    def _record(self, failed: Iterable[DeadLettered], size: int, seconds: float) -> None:
        errors: Mapping[UUID, str] = {entry.message.id: entry.reason for entry in failed if entry.message is not None}
        for id_, (ids, message) in self._entered.items():
            if id_ in self._handled or id_ in errors:
                self._tracer.record(
                    self._name,
                    self._kind,
                    ids,
                    traceparent=message.traceparent,
                    seconds=seconds,
                    attributes=self._attributes(message, size),
                    error=errors.get(id_),
                )

    def _attributes(self, message: Inbound, size: int) -> dict[str, str | int]:
        """Ids, names and numbers of ours. Nothing that anybody wrote, and no amount."""
        attributes: dict[str, str | int] = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._queue,
            "messaging.message.id": str(message.id),
            "messaging.message.conversation_id": shown_id(message.correlation_id),
            "remit.message.type": message.type,
            "remit.batch.size": size,
        }
        for name in _IDS:
            if (id_ := getattr(message.data, name, None)) is not None:
                attributes[f"remit.{name.removesuffix('_id')}.id"] = shown_id(str(id_))
        return attributes
