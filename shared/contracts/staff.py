"""The messages that the staff service owns: what it tells whoever wants to keep proof elsewhere."""

from typing import Annotated, ClassVar

from pydantic import Field

from shared.contracts.base import Contract, Kind, Sha256

Position = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]


class StaffEvent(Contract):
    kind: ClassVar[Kind] = "event"
    exchange: ClassVar[str] = "staff.events"


class JournalSealed(StaffEvent):
    """The journal of what people did had this last entry. Whoever keeps that can tell later whether an entry up to it was changed.

    A chain of hashes does not show that its end was cut off, nor that it was made anew as a whole. A seal that stands elsewhere does.
    """

    wire_name: ClassVar[str] = "remit.staff.JournalSealed.v1"
    position: Position = Field(description="the number of the entry; the first one is 1")
    hash: Sha256 = Field(description="of this entry, which holds the hash of the entry before, and so of all up to it")

    def subject(self) -> str:
        return "journal"
