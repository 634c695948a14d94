"""What people do with a case besides deciding: say that they are on it, write notes, and take note of what contradicts a decision."""

from collections.abc import Awaitable, Callable, Mapping
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
from services.staff.domain import DecisionRefusal
from services.staff.people import Actor
from services.staff.proposals import ProposalRefusal, is_same_person
from services.staff.store import JournalEntry, KeptCase
from shared.clock import Clock, system_clock
from shared.persistence.database import Connection, Database
from shared.records import replace

Change = Callable[[Connection, KeptCase, datetime], Awaitable[Mapping[str, object] | ActionResult]]
"""What an act changes of a case, which is locked. It returns what its journal entry says besides, or why nothing is changed."""


@journals_refusals("claim")
async def claim(database: Database, payment_id: UUID, *, who: Actor, clock: Clock = system_clock) -> ActionResult:
    """Say that `who` is on a case. It keeps nobody from acting on it: it only tells others."""

    async def change(tx: Connection, kept: KeptCase, now: datetime) -> Mapping[str, object] | ActionResult:
        if (refused := _claimed_by_another(kept, who)) is not None:
            return refused
        await store.claim_case(tx, payment_id, who.name, now)
        return {}

    return await _act(database, payment_id, "claim", change, who, clock, says="you are on it; others see that")


@journals_refusals("unclaim")
async def unclaim(database: Database, payment_id: UUID, *, who: Actor, clock: Clock = system_clock) -> ActionResult:
    """Say that nobody is on a case any more. Anybody may: who went home cannot."""

    async def change(tx: Connection, kept: KeptCase, now: datetime) -> Mapping[str, object]:  # noqa: ARG001 - whoever was on it
        await store.claim_case(tx, payment_id, None, now)
        return {}

    return await _act(database, payment_id, "unclaim", change, who, clock, says="nobody is on it now")


@journals_refusals("note")
async def note(
    database: Database, payment_id: UUID, *, text: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Keep a note on a case."""

    async def change(tx: Connection, kept: KeptCase, now: datetime) -> Mapping[str, object]:  # noqa: ARG001 - the case stays as it is
        return {"note": text}

    return await _act(database, payment_id, "note", change, who, clock, says="the note is kept", note=text)


@journals_refusals("take_note")
async def take_note(
    database: Database, payment_id: UUID, *, text: str, seen: int, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Take note of a contradiction: the gateway says otherwise than a person decided. `text` says what was learned.

    `seen` is the version at which the gateway said what `who` saw. If it contradicted another decision since, that is not noted.
    """

    async def change(tx: Connection, kept: KeptCase, now: datetime) -> Mapping[str, object] | ActionResult:
        case, version = kept.case, kept.case.contradicted_version
        if version is None or not case.is_contradicted:
            return _nothing_to_note(kept)
        if version != seen:
            changed = f"the gateway contradicts another decision since, at version {version}, not {seen}: look again"
            return ActionResult(payment_id, changed, DecisionRefusal.VERSION_DIFFERS)
        await store.note_contradiction(tx, replace(case, noted_version=version), now)
        return {"note": text, "contradicted": version}

    return await _act(
        database, payment_id, "take_note", change, who, clock, says="kept: you took note of it", note=text
    )


async def _act(
    database: Database,
    payment_id: UUID,
    action: str,
    change: Change,
    who: Actor,
    clock: Clock,
    *,
    says: str,
    **texts: str,
) -> ActionResult:
    """Change a case, and journal it. `says` is what the person reads then, `texts` what they wrote."""
    if (refused := unfit(who=who.name, **texts)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept, now = await store.find_case(tx, payment_id, lock=True), clock()
        if kept is None:
            return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)
        if (before := await done_before(tx, who, action, payment_id)) is not None:
            return ActionResult(payment_id, says, entry=before)
        changed = await change(tx, kept, now)
        if isinstance(changed, ActionResult):
            return changed
        after = await store.find_case(tx, payment_id) or kept
        entry = JournalEntry.of(who, now, action, payment_id, {"version": kept.case.version, **changed})
        await store.append_entries(tx, [entry.changing(kept.stands, after.stands)])
    return ActionResult(payment_id, says, entry=entry.id)


def _claimed_by_another(kept: KeptCase, who: Actor) -> ActionResult | None:
    if kept.claimed_by is None or kept.claimed_at is None or is_same_person(kept.claimed_by, who.name):
        return None
    text = f"{kept.claimed_by} is on it since {moment_text(kept.claimed_at)}"
    return ActionResult(kept.case.payment_id, text, ProposalRefusal.CLAIMED, name=kept.claimed_by)


def _nothing_to_note(kept: KeptCase) -> ActionResult:
    noted = f": somebody took note of it at {moment_text(kept.noted_at)}" if kept.noted_at else ""
    text = f"nothing contradicts the last decision about this payment{noted}"
    return ActionResult(kept.case.payment_id, text, ProposalRefusal.NOTHING_TO_NOTE)
