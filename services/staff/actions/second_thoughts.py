"""What people do about what was done with a dead letter: undo it before it leaves, bring it back, send an edited one in its place,
keep a note."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from services.staff import dead_letters, editing, people_store, store
from services.staff.actions import proposing
from services.staff.actions.dead_letters import (
    AsShown,
    already_settled,
    any_version,
    changed_since,
    closing_message,
    not_replayable,
    replayed_message,
    unknown,
)
from services.staff.actions.results import (
    ActionRefusal,
    ActionResult,
    done_before,
    journals_refusals,
    moment_text,
    unfit,
)
from services.staff.charges import OLD_AFTER, charge_of
from services.staff.dead_letters import DeadLetterRecord, DeadLetterStatus, Disposition
from services.staff.editing import EditableMessage
from services.staff.people import Actor
from services.staff.store import JournalEntry
from shared import crash_points
from shared.clock import Clock, system_clock
from shared.ids import derived_id
from shared.messaging.codec import STRUCTURED
from shared.messaging.topology import COMMANDS
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.records import replace

EDIT_AND_REPLAY = "edit_and_replay"
"""The setting by which admins let replayers edit messages."""
_SETTLING = {
    "replay": DeadLetterStatus.REPLAYED,
    "discard": DeadLetterStatus.DISCARDED,
    "edit": DeadLetterStatus.DISCARDED,
}


# -- undo --------------------------------------------------------------------------------------------------------------------------------


@journals_refusals("undo")
async def undo(
    database: Database, letter_id: UUID, *, of: UUID | None = None, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Undo the last replay or discard of a dead letter, as long as nothing of it has left. Both stay in the journal.

    `of` is the entry of the journal that shall be undone. None: whichever was the last.
    """
    async with database.transaction() as tx:
        record = (await store.lock_letters(tx, {letter_id})).get(letter_id)
        if record is None:
            return unknown(letter_id)
        now = clock()
        last = settling_entry(record, await store.entries_about(tx, record.id))
        undo_s = 0 if last is None else _whole(last.details.get("undo_s"))
        if last is None or not undo_s:
            return ActionResult(letter_id, "there is nothing that could be undone", ActionRefusal.TOO_LATE_TO_UNDO)
        if of not in (None, last.id):
            text = f"{last.who} did something else with it since: look at it again"
            return ActionResult(letter_id, text, ActionRefusal.CHANGED, name=last.who)
        leaves_at = last.at + timedelta(seconds=undo_s)
        message_ids = _messages_of(last)
        is_back = await outbox.revoke(tx, message_ids, sweep_after_s=undo_s) if message_ids else now < leaves_at
        if not is_back:
            return ActionResult(letter_id, f"it went out at {moment_text(leaves_at)}", ActionRefusal.TOO_LATE_TO_UNDO)
        after = dead_letters.reopened(record)
        entry = JournalEntry.of(who, now, "undo", letter_id, {"of": str(last.id), "action": last.action})
        entry = entry.changing(record.stands, after.stands)
        await store.append_entries(tx, [entry, *_undone_decision(last, who, entry)])
        await store.save_letters(tx, [after], locked={letter_id})
        crash_points.reach("staff.undo.before_commit")
    crash_points.reach("staff.undo.after_commit")
    return ActionResult(letter_id, f"the {last.action} is undone: nothing was sent", entry=entry.id)


def settling_entry(record: DeadLetterRecord, entries: Sequence[JournalEntry]) -> JournalEntry | None:
    """Of the entries about a dead letter the one that settled it as it stands now."""
    settled = record.settlement
    found = [
        entry
        for entry in entries
        if settled is not None
        and _SETTLING.get(entry.action) is record.status
        and (entry.at, entry.who) == (settled.at, settled.by)
    ]
    return found[-1] if found else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _messages_of(entry: JournalEntry) -> list[UUID]:
    """The message by which others would hear of it: the replayed one, the answer to a command, or the decision about a payment."""
    if entry.action == "replay" or entry.details.get("closes"):
        return [derived_id(entry.id, 0)]
    decision = entry.details.get("decision")
    return [derived_id(UUID(str(decision)), 0)] if decision else []


def _undone_decision(last: JournalEntry, who: Actor, undone: JournalEntry) -> list[JournalEntry]:
    """The entry about the payment whose decision is undone as well."""
    decision, payment_id = last.details.get("decision"), last.details.get("payment_id")
    if not decision or not payment_id:
        return []
    return [JournalEntry.of(who, undone.at, "undo", UUID(str(payment_id)), {"of": str(decision), "action": "resolve"})]


@journals_refusals("restore")
async def restore(
    database: Database,
    letter_id: UUID,
    *,
    who: Actor,
    reason: str,
    as_shown: AsShown = any_version,
    clock: Clock = system_clock,
) -> ActionResult:
    """Bring a discarded message back, where nobody was told that it was discarded. What is not `as_shown` any more is refused."""
    if (refused := unfit(who=who.name, reason=reason)) is not None:
        return replace(refused, subject=letter_id)
    async with database.transaction() as tx:
        record = (await store.lock_letters(tx, {letter_id})).get(letter_id)
        if record is None:
            return unknown(letter_id)
        last = settling_entry(record, await store.entries_about(tx, record.id))
        if record.status is not DeadLetterStatus.DISCARDED:
            return ActionResult(letter_id, "it was not discarded", ActionRefusal.INVALID)
        if (changed := changed_since(record, as_shown)) is not None:
            return changed
        if (told := why_told(record, last)) is not None:
            return told
        if (barred := (await proposing.barred_letters(tx, [record.letter], who)).get(letter_id)) is not None:
            return barred
        after, details = dead_letters.reopened(record), {"reason": reason, "of": str(last.id) if last else None}
        entry = JournalEntry.of(who, clock(), "restore", letter_id, details).changing(record.stands, after.stands)
        await store.append_entries(tx, [entry])
        await store.save_letters(tx, [after], locked={letter_id})
        crash_points.reach("staff.restore.before_commit")
    crash_points.reach("staff.restore.after_commit")
    return ActionResult(letter_id, "brought back: it is open again", entry=entry.id)


def why_told(record: DeadLetterRecord, last: JournalEntry | None) -> ActionResult | None:
    """Why a discarded message cannot be brought back any more; None if it can. `last` is the entry that settled it."""
    if last is not None and last.action == "edit":
        text = "an edited message was sent in its place: it cannot be brought back"
        return ActionResult(record.id, text, ActionRefusal.TOLD_ALREADY)
    if last is not None and not _messages_of(last):
        return None
    at = moment_text(record.settlement.at) if record.settlement is not None else "an unknown time"
    text = f"others were told at {at} that it was given up: it cannot be brought back; ask for a new message"
    return ActionResult(record.id, text, ActionRefusal.TOLD_ALREADY)


@journals_refusals("note")
async def note(
    database: Database, letter_id: UUID, *, who: Actor, text: str, clock: Clock = system_clock
) -> ActionResult:
    """Keep a note about a dead letter. It changes nothing else."""
    if (refused := unfit(who=who.name, note=text)) is not None:
        return replace(refused, subject=letter_id)
    async with database.transaction() as tx:
        if letter_id not in await store.lock_letters(tx, {letter_id}):
            return unknown(letter_id)
        if (before := await done_before(tx, who, "note", letter_id)) is not None:
            return ActionResult(letter_id, "the note is kept", entry=before)
        entry = JournalEntry.of(who, clock(), "note", letter_id, {"note": text})
        await store.append_entries(tx, [entry])
        crash_points.reach("staff.letter_note.before_commit")
    crash_points.reach("staff.letter_note.after_commit")
    return ActionResult(letter_id, "the note is kept", entry=entry.id)


# -- edit and replay ----------------------------------------------------------------------------------------------------------------------


async def may_edit(connection: Connection) -> bool:
    """Whether admins let replayers edit messages."""
    return bool(await people_store.setting(connection, EDIT_AND_REPLAY, default=False))


@journals_refusals("edit")
async def edit(
    database: Database,
    letter_id: UUID,
    *,
    who: Actor,
    reason: str,
    drop: Sequence[str] = (),
    changes: Mapping[str, str] | None = None,
    old_after: timedelta | None = OLD_AFTER,
    is_told: bool = True,
    as_shown: AsShown = any_version,
    clock: Clock = system_clock,
) -> ActionResult:
    """Send an edited message in the place of this one, under an id of its own, to the queue on which it failed.

    `drop` are fields that are left out, `changes` new values. A command is answered `rejected: replaced` with the new id, in the same
    transaction: the old one and the new one are never both carried out. What is not `as_shown` any more is refused.
    """
    changes = changes or {}
    if (refused := unfit(who=who.name, reason=reason, **{f"field {k}": v for k, v in changes.items()})) is not None:
        return replace(refused, subject=letter_id)
    async with database.transaction() as tx:
        record = (await store.lock_letters(tx, {letter_id})).get(letter_id)
        if record is None:
            return unknown(letter_id)
        now = clock()
        if (refused := await _why_no_edit(tx, record, who, now, old_after, as_shown)) is not None:
            return refused
        details = {"queue": record.letter.queue, "reason": reason, "drop": list(drop), "set": dict(changes)}
        entry = JournalEntry.of(who, now, "edit", letter_id, details)
        new_id = derived_id(entry.id, "edited")
        built = edited_body(record, new_id, drop=drop, changes=changes)
        if isinstance(built, ActionResult):
            return built
        command_id = record.letter.event_id if record.letter.queue == COMMANDS else None
        closes = {"closes": str(command_id)} if command_id is not None else {}
        entry = replace(entry, details={**entry.details, "replaced_by": str(new_id), **closes})
        after = dead_letters.discarded(record, Disposition(who.name, now, f"replaced by {new_id}: {reason}"))
        sent = replace(record.letter, body=built, message_id=str(new_id), content_type=STRUCTURED, headers={})
        message = replayed_message(replace(record, letter=sent, replays=1), entry.id, is_told=is_told)
        messages = [replace(message, id=derived_id(entry.id, 1))]
        if command_id is not None:
            messages.append(closing_message(record.letter, command_id, entry, reason, replaced_by=new_id))
        await store.append_entries(tx, [entry.changing(record.stands, after.stands)])
        await store.save_letters(tx, [after], locked={letter_id})
        await outbox.insert(tx, messages, sweep_after_s=0)
        crash_points.reach("staff.edit.before_commit")
    crash_points.reach("staff.edit.after_commit")
    return ActionResult(letter_id, f"an edited message was sent in its place, as {new_id}", entry=entry.id)


async def _why_no_edit(
    tx: Connection, record: DeadLetterRecord, who: Actor, now: datetime, old_after: timedelta | None, as_shown: AsShown
) -> ActionResult | None:
    """Why no edited message is sent in the place of this one, whatever is edited."""
    if not await may_edit(tx):
        return ActionResult(record.id, "editing is off: an admin can turn it on", ActionRefusal.NOT_EDITABLE)
    if (refused := already_settled(record) or changed_since(record, as_shown) or not_replayable(record)) is not None:
        return refused
    if (barred := (await proposing.barred_letters(tx, [record.letter], who)).get(record.id)) is not None:
        return barred
    if old_after is not None and (charge := charge_of(record)) is not None and charge.is_old(now, old_after):
        return ActionResult(record.id, "it was asked for too long ago: discard it", ActionRefusal.OLD_CHARGE)
    return None


def edited_body(
    record: DeadLetterRecord, new_id: UUID, *, drop: Sequence[str], changes: Mapping[str, str]
) -> bytes | ActionResult:
    """The body of the edited message, or why there is none."""
    try:
        message: EditableMessage = editing.editable(record.letter)
        return editing.edited(message, new_id, record.letter.event_id, drop=drop, changes=changes)
    except editing.NotEditableError:
        return ActionResult(record.id, "it cannot be read, so it cannot be edited", ActionRefusal.NOT_EDITABLE)
    except editing.LockedFieldError as error:
        return ActionResult(record.id, f"{error.field} is locked: ask the sender", ActionRefusal.FIELD_LOCKED)
    except editing.UnfitEditError as error:
        return ActionResult(record.id, f"{error}", ActionRefusal.SCHEMA)
