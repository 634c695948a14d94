"""What people do with quarantined messages in any service's outbox."""

from typing import Literal
from uuid import UUID

from services.staff import store
from services.staff.actions.results import ActionResult, unfit
from services.staff.people import Actor
from services.staff.store import JournalEntry
from shared.clock import Clock, system_clock
from shared.persistence.database import Database
from shared.records import replace

OutboxAction = Literal["release", "drop"]


async def note_outbox_action(
    database: Database,
    message_id: UUID,
    action: OutboxAction,
    *,
    service: str,
    who: Actor,
    reason: str,
    clock: Clock = system_clock,
) -> ActionResult:
    """Note in the journal what a person does with a quarantined message of any service, before it is done there."""
    if (refused := unfit(who=who.name, reason=reason)) is not None:
        return replace(refused, subject=message_id)
    entry = JournalEntry.of(who, clock(), action, message_id, {"service": service, "reason": reason})
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry])
    return ActionResult(message_id, f"{action} noted", entry=entry.id)
