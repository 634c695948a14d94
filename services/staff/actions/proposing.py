"""What keeps one person from moving money above the limit alone: their act becomes a proposal, and an open one bars other acts."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from uuid import UUID

from services.staff import store
from services.staff.actions.results import ActionResult, moment_text, words
from services.staff.charges import payment_of
from services.staff.dead_letters import DeadLetter
from services.staff.people import Actor
from services.staff.proposals import (
    Proposal,
    ProposalRefusal,
    ProposedAct,
    SecondPersonLimits,
    Stake,
    is_same_person,
)
from services.staff.store import JournalEntry, KeptCase
from shared.persistence.database import Connection
from shared.records import replace


async def limits_of(connection: Connection) -> SecondPersonLimits:
    """The limits that the staff service set."""
    return SecondPersonLimits(await store.second_person_limits(connection))


def barred(kept: KeptCase, who: Actor) -> ActionResult | None:
    """The refusal if a proposal about this payment is open: first somebody has to answer it, or to take it back."""
    open_one = kept.proposal
    if open_one is None or open_one.version != kept.case.version:
        return None
    return _barred_by(open_one, who, kept.case.payment_id)


async def barred_letters(tx: Connection, letters: Collection[DeadLetter], who: Actor) -> dict[UUID, ActionResult]:
    """The refusals of what anybody would do with those of these letters about whose payments a proposal is open. They are locked.

    A replay could charge what is proposed as not charged, and a discard could decide alone what two people have before them.
    """
    payments = {letter.id: payment_id for letter in letters if (payment_id := payment_of(letter)) is not None}
    if not payments:
        return {}
    open_ones = {one.payment_id: one for one in await store.open_proposals(tx, set(payments.values()))}
    return {
        letter_id: _barred_by(open_ones[payment_id], who, letter_id)
        for letter_id, payment_id in payments.items()
        if payment_id in open_ones
    }


def _barred_by(open_one: Proposal, who: Actor, subject: UUID) -> ActionResult:
    is_own = is_same_person(open_one.by, who.name)
    what = "take it back first" if is_own else "agree or do not agree"
    text = f"{proposed_text(open_one)}: {what}"
    return ActionResult(subject, text, ProposalRefusal.PROPOSAL_OPEN, name=open_one.by)


def proposed_text(proposal: Proposal) -> str:
    """Who proposed what, and when, in words."""
    return f"{proposal.by} proposed {words(proposal.resolution)} at {moment_text(proposal.at)}"


async def propose(
    tx: Connection, kept: KeptCase, act: ProposedAct, asks: Mapping[str, object], who: Actor, now: datetime
) -> ActionResult:
    """Keep what `who` asks for until another person agrees. The case is locked, and no proposal about it is open.

    A program proposes nothing: nobody knows who has its token, so one person could be both.
    """
    case = kept.case
    if who.is_program:
        text = "above the limit two people must agree, and a program is neither: propose it signed in at the desk"
        return ActionResult(case.payment_id, text, ProposalRefusal.NOT_ALLOWED)
    if kept.proposal is not None:  # it is about an earlier version
        await store.outdate_proposals(tx, {case.payment_id: case.version}, now)
    entry = JournalEntry.of(who, now, "propose", case.payment_id, {"act": act.value, "version": case.version, **asks})
    proposal = Proposal(entry.id, case.payment_id, case.version, act, asks, who.name, who.via, now)
    before = replace(kept, proposal=None)
    await store.append_entries(tx, [entry.changing(before.stands, replace(kept, proposal=proposal).stands)])
    await store.keep_proposal(tx, proposal)
    return ActionResult(
        case.payment_id,
        f"proposed: {words(proposal.resolution)}; a second person must agree, and nothing is sent before",
        entry=entry.id,
        proposal=proposal.id,
    )


def doubtful_text(names: Collection[str]) -> str:
    """Why these are not two people: an admin could be both."""
    return (
        f"{' and '.join(names)} got a password at the desk, from somebody who could be both of you: whoever runs Remit has to "
        "make sure who it is, and give another one (remit desk accounts password)"
    )


def why_second(limits: SecondPersonLimits, stakes: Iterable[Stake]) -> str:
    """Why a second person must agree, in words: `above 500.00 EUR`."""
    above = (stake for stake in stakes if limits.need_second([stake]))
    return limits.in_words(next((stake.currency for stake in above), None))
