"""What people do with the log itself: download it, and have its chain looked at."""

from collections.abc import Mapping
from uuid import UUID

from services.staff import journal_store, store
from services.staff.actions.results import ActionResult
from services.staff.people import Actor
from services.staff.store import JournalEntry
from shared.clock import Clock, system_clock
from shared.persistence.database import Database

SUBJECT_OF_LOG = UUID("1f0c9a57-4c1f-4a35-8e52-7a1b7f0f5a10")
"""What entries about the log are about: all of them have this subject."""


async def note_export(
    database: Database, kind: str, filter_: Mapping[str, str], *, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Note that somebody downloads the log, as which kind of file and which part of it."""
    entry = JournalEntry.of(who, clock(), "export", SUBJECT_OF_LOG, {"kind": kind, **filter_})
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry])
    return ActionResult(SUBJECT_OF_LOG, "the download is in the log", entry=entry.id)


async def ask_for_check(database: Database, *, who: Actor, clock: Clock = system_clock) -> ActionResult:
    """Have the staff service look through the whole chain now."""
    now = clock()
    entry = JournalEntry.of(who, now, "check_journal", SUBJECT_OF_LOG)
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry])
        await journal_store.ask_for_look(tx, now)
    return ActionResult(SUBJECT_OF_LOG, "The log is being checked: open this page again in a moment.", entry=entry.id)
