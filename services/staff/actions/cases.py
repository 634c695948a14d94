"""What people do with a case besides deciding: say that they are on it, write notes, and take note of what contradicts a decision."""

from datetime import datetime
from uuid import UUID

from services.staff import store
from services.staff.actions.results import (
    ActionRefusal,
    ActionResult,
    done_before,
    journals_refusals,
    moment_text,
    unfit,
)
from services.staff.people import Actor
from services.staff.proposals import ProposalRefusal, is_same_person
from services.staff.store import JournalEntry, KeptCase
from shared.clock import Clock, system_clock
from shared.persistence.database import Connection, Database
from shared.records import replace


@journals_refusals("claim")
async def claim(database: Database, payment_id: UUID, *, who: Actor, clock: Clock = system_clock) -> ActionResult:
    """Say that `who` is on a case. It keeps nobody from acting on it: it only tells others."""
    if (refused := unfit(who=who.name)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept, now = await store.find_case(tx, payment_id, lock=True), clock()
        if kept is None:
            return _no_case(payment_id)
        if (before := await done_before(tx, who, "claim", payment_id)) is not None:
            return ActionResult(payment_id, "you are on it; others see that", entry=before)
        if (refused := _claimed_by_another(kept, who)) is not None:
            return refused
        await store.claim_case(tx, payment_id, who.name, now)
        entry = await _note(tx, who, now, "claim", kept, {})
    return ActionResult(payment_id, "you are on it; others see that", entry=entry)


@journals_refusals("unclaim")
async def unclaim(database: Database, payment_id: UUID, *, who: Actor, clock: Clock = system_clock) -> ActionResult:
    """Say that nobody is on a case any more. Anybody may: who went home cannot."""
    if (refused := unfit(who=who.name)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept, now = await store.find_case(tx, payment_id, lock=True), clock()
        if kept is None:
            return _no_case(payment_id)
        if (before := await done_before(tx, who, "unclaim", payment_id)) is not None:
            return ActionResult(payment_id, "nobody is on it now", entry=before)
        await store.claim_case(tx, payment_id, None, now)
        entry = await _note(tx, who, now, "unclaim", kept, {"was": kept.claimed_by})
    return ActionResult(payment_id, "nobody is on it now", entry=entry)


@journals_refusals("note")
async def note(
    database: Database, payment_id: UUID, *, text: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Keep a note on a case."""
    if (refused := unfit(who=who.name, note=text)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        if kept is None:
            return _no_case(payment_id)
        if (before := await done_before(tx, who, "note", payment_id)) is not None:
            return ActionResult(payment_id, "the note is kept", entry=before)
        entry = await _note(tx, who, clock(), "note", kept, {"note": text})
    return ActionResult(payment_id, "the note is kept", entry=entry)


@journals_refusals("take_note")
async def take_note(
    database: Database, payment_id: UUID, *, text: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Take note of a contradiction: the gateway says otherwise than a person decided. `text` says what was learned."""
    if (refused := unfit(who=who.name, note=text)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept, now = await store.find_case(tx, payment_id, lock=True), clock()
        if kept is None:
            return _no_case(payment_id)
        case, version = kept.case, kept.case.contradicted_version
        if version is None or not case.is_contradicted:
            return _nothing_to_note(kept)
        await store.note_contradiction(tx, replace(case, noted_version=version), now)
        entry = await _note(tx, who, now, "take_note", kept, {"note": text, "contradicted": version})
    return ActionResult(payment_id, "kept: you took note of it", entry=entry)


async def _note(
    tx: Connection, who: Actor, now: datetime, action: str, kept: KeptCase, details: dict[str, object]
) -> UUID:
    entry = JournalEntry.of(who, now, action, kept.case.payment_id, {"version": kept.case.version, **details})
    await store.append_entries(tx, [entry])
    return entry.id


def _claimed_by_another(kept: KeptCase, who: Actor) -> ActionResult | None:
    if kept.claimed_by is None or kept.claimed_at is None or is_same_person(kept.claimed_by, who.name):
        return None
    text = f"{kept.claimed_by} is on it since {moment_text(kept.claimed_at)}"
    return ActionResult(kept.case.payment_id, text, ProposalRefusal.CLAIMED, name=kept.claimed_by)


def _nothing_to_note(kept: KeptCase) -> ActionResult:
    noted = f": somebody took note of it at {moment_text(kept.noted_at)}" if kept.noted_at else ""
    text = f"nothing contradicts the last decision about this payment{noted}"
    return ActionResult(kept.case.payment_id, text, ProposalRefusal.NOTHING_TO_NOTE)


def _no_case(payment_id: UUID) -> ActionResult:
    return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)
