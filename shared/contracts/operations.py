"""What every service says of itself, for those who operate it. None of it is about an invoice or a payment."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import Code, Contract, Id, Kind, Name, Text, added

REASONS_SHOWN_MAX = 20
REPLAYS_MAX = 1_000_000


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
        float | None,
        Field(strict=True, ge=0, description="age of the oldest message that waits to be sent; absent: not known"),
    ] = None
    overdue: Annotated[
        int | None, Field(strict=True, ge=0, description="what is due and not done; absent: not known")
    ] = None
    leases_held: Annotated[int, Field(strict=True, ge=0, description="what it works on just now")] = 0

    def subject(self) -> str:
        return self.service


class ReplayHandled(Contract):
    """A message that staff replayed was handled. It is said by the service that did, and only about messages that were replayed.

    Staff find the replay by `replay_id`. `duplicate`: the message had been handled before, so nothing was done now. `rejected`: it is a
    command that was answered with a refusal, whose code is `reason`.
    """

    wire_name: ClassVar[str] = "remit.staff.ReplayHandled.v1"
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "staff.reports"
    replay_id: Annotated[Id, Field(description="that of the entry in the journal of staff")]
    message_id: Annotated[Id, Field(description="the id under which the message was handled")]
    queue: Name
    replays: Annotated[int, Field(strict=True, ge=1, le=REPLAYS_MAX, description="how often it was replayed by then")]
    outcome: Literal["handled", "duplicate", "rejected"]
    reason: Code | None = added("why the command was refused")

    def subject(self) -> str:
        return str(self.message_id)
