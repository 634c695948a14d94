"""What every service says of itself, for those who operate it. None of it is about an invoice or a payment."""

from typing import Annotated, ClassVar

from pydantic import Field

from shared.contracts.base import Contract, Kind, Name, Text

REASONS_SHOWN_MAX = 20


class Heartbeat(Contract):
    """An instance of a service runs. It says so every ten seconds; nobody needs every heartbeat."""

    wire_name: ClassVar[str] = "remit.operations.Heartbeat.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "operations.heartbeats"
    service: Name
    instance: Annotated[Text, Field(description="its machine, process and start; another after each start")]
    version: Text
    not_ready: Annotated[
        dict[Text, Text], Field(max_length=REASONS_SHOWN_MAX, description="what is wrong, by part; empty: it is ready")
    ] = Field(default_factory=dict)
    outbox_oldest_s: Annotated[
        float | None, Field(ge=0, description="age of the oldest message that waits to be sent; absent: not known")
    ] = None
    overdue: Annotated[
        int | None, Field(strict=True, ge=0, description="what is due and not done; absent: not known")
    ] = None
    leases_held: Annotated[int, Field(strict=True, ge=0, description="what it works on just now")] = 0

    def subject(self) -> str:
        return self.service
