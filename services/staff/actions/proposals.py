"""What people do with proposals: another person agrees or does not, or the first one takes it back."""

from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from services.staff import people_store, store
from services.staff.actions import dead_letters, payments
from services.staff.actions.proposing import doubtful_text, proposed_text
from services.staff.actions.results import (
    ActionRefusal,
    ActionResult,
    NotDone,
    done_or_given_up,
    journals_refusals,
    moment_text,
    unfit,
)
from services.staff.dead_letters import DeadLetterStatus
from services.staff.people import Actor
from services.staff.proposals import (
    Proposal,
    ProposalRefusal,
    ProposalState,
    ProposedAct,
    is_same_person,
    refusal_of_answer,
    together,
)
from services.staff.store import JournalEntry, KeptCase
from shared.clock import Clock, system_clock
from shared.contracts.invoice import RequestRefund
from shared.contracts.mistakes import mistakes
from shared.contracts.payment_gateway import ResolvePayment
from shared.persistence.database import Connection, Database
from shared.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class _Answered:
    """A proposal that may be answered, and its case."""

    kept: KeptCase
    proposal: Proposal


@journals_refusals("agree")
async def agree(
    database: Database, payment_id: UUID, *, proposal_id: UUID, saw: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Agree with a proposal, as its second person. What was proposed is done at once, in the names of both.

    `proposal_id` is the proposal that `who` looked at, `saw` what they saw themselves.
    """
    if (refused := unfit(who=who.name, saw=saw)) is not None:
        return replace(refused, subject=payment_id)
    try:
        async with database.transaction() as tx:
            now = clock()
            found = await _find(tx, payment_id, proposal_id, who, now)
            if isinstance(found, ActionResult):
                return found
            if (refused := await _why_not_now(tx, found, now)) is not None:
                return refused
            await _end(tx, found.proposal, ProposalState.AGREED, "agree", saw, who, now)
            return done_or_given_up(await _done(tx, found, together(found.proposal, who), now))
    except NotDone as undone:  # so nobody has agreed, and the proposal stays open
        return undone.why
    except ValidationError as error:
        text = f"what was proposed cannot be said: {mistakes(error)}; do not agree, and propose it anew"
        return ActionResult(payment_id, text, ActionRefusal.INVALID)


@journals_refusals("disagree")
async def disagree(
    database: Database, payment_id: UUID, *, proposal_id: UUID, saw: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Do not agree with a proposal. It ends, and nothing is sent; why stays in the journal."""
    if (refused := unfit(who=who.name, saw=saw)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        now = clock()
        found = await _find(tx, payment_id, proposal_id, who, now)
        if isinstance(found, ActionResult):
            return found
        entry = await _end(tx, found.proposal, ProposalState.DISAGREED, "disagree", saw, who, now)
    return ActionResult(payment_id, f"kept: you do not agree with {found.proposal.by}; nothing is sent", entry=entry)


@journals_refusals("withdraw")
async def withdraw(
    database: Database, payment_id: UUID, *, proposal_id: UUID | None = None, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Take one's own proposal back. `proposal_id` None: the one that is open."""
    if (refused := unfit(who=who.name)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        now = clock()
        kept = await store.find_case(tx, payment_id, lock=True)
        if kept is None:
            return _no_case(payment_id)
        open_one = kept.proposal
        if open_one is None or proposal_id not in {None, open_one.id}:
            return await _is_over(tx, payment_id, proposal_id)
        if not is_same_person(open_one.by, who.name):
            text = f"{proposed_text(open_one)}: only they can take it back; you can disagree"
            return ActionResult(payment_id, text, ProposalRefusal.NOT_ALLOWED, name=open_one.by)
        entry = await _end(tx, open_one, ProposalState.WITHDRAWN, "withdraw", None, who, now)
    return ActionResult(payment_id, "taken back; nothing was sent", entry=entry)


# -- may it be answered ----------------------------------------------------------------------------------------------------------------


async def _find(
    tx: Connection, payment_id: UUID, proposal_id: UUID, who: Actor, now: datetime
) -> _Answered | ActionResult:
    """The proposal that `who` looked at, its case locked, or why they may not answer it."""
    kept = await store.find_case(tx, payment_id, lock=True)
    if kept is None:
        return _no_case(payment_id)
    proposal = kept.proposal
    if proposal is None or proposal.id != proposal_id:
        return await _is_over(tx, payment_id, proposal_id)
    refusal = refusal_of_answer(proposal, kept.case.version, who)
    if refusal is None and (doubtful := await people_store.let_in_by_clicks(tx, proposal.by, who.name)):
        text = doubtful_text(doubtful)
        return ActionResult(payment_id, text, ProposalRefusal.NOT_ALLOWED, name=doubtful[0])
    if refusal is None:
        return _Answered(kept, proposal)
    if refusal is ProposalRefusal.PROPOSAL_OUTDATED:
        return await _outdated(tx, proposal, now)
    text = {
        ProposalRefusal.SAME_PERSON: "you proposed it: another person must agree",
        ProposalRefusal.NOT_ALLOWED: "only a person with the role of a resolver can be the second one, signed in at the desk",
    }[refusal]
    return ActionResult(payment_id, text, refusal)


async def _why_not_now(tx: Connection, found: _Answered, now: datetime) -> ActionResult | None:
    """Why what was proposed cannot be done any more, though the payment stands where it stood."""
    kept, proposal = found.kept, found.proposal
    match proposal.act:
        case ProposedAct.DECIDE:
            return payments.refusal_of(
                kept, payments.wanted_by(ResolvePayment.model_validate(_said(proposal, "?"))), now
            )
        case ProposedAct.DISCARD:
            letters = await store.lock_letters(tx, [_letter_of(proposal)])
            is_open = any(letter.status is DeadLetterStatus.OPEN for letter in letters.values())
            return None if is_open else await _outdated(tx, proposal, now)
        case ProposedAct.REFUND:
            return None


async def _outdated(tx: Connection, proposal: Proposal, now: datetime) -> ActionResult:
    await store.end_proposal(tx, replace(proposal, state=ProposalState.OUTDATED, answered_at=now))
    return ActionResult(proposal.payment_id, _OUTDATED, ProposalRefusal.PROPOSAL_OUTDATED)


async def _is_over(tx: Connection, payment_id: UUID, proposal_id: UUID | None) -> ActionResult:
    """Says how the proposal that somebody looked at ended, and by whom."""
    about = await store.proposals_about(tx, payment_id)
    looked_at = next((one for one in reversed(about) if proposal_id in {None, one.id}), None)
    if looked_at is None or looked_at.state is ProposalState.OPEN:
        return ActionResult(payment_id, "nothing is proposed about this payment", ProposalRefusal.NO_PROPOSAL)
    if looked_at.state is ProposalState.OUTDATED:
        return ActionResult(payment_id, _OUTDATED, ProposalRefusal.PROPOSAL_OUTDATED)
    did = {
        ProposalState.AGREED: "agreed",
        ProposalState.DISAGREED: "did not agree",
        ProposalState.WITHDRAWN: "took it back",
    }[looked_at.state]
    when = moment_text(looked_at.answered_at) if looked_at.answered_at else "an unknown time"
    text = f"the proposal is over: {looked_at.answered_by} {did} at {when}"
    return ActionResult(payment_id, text, ProposalRefusal.NO_PROPOSAL)


_OUTDATED = "the payment moved on meanwhile, so the proposal no longer counts: look again"


def _no_case(payment_id: UUID) -> ActionResult:
    return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)


# -- it is answered --------------------------------------------------------------------------------------------------------------------


async def _end(
    tx: Connection, proposal: Proposal, state: ProposalState, action: str, saw: str | None, who: Actor, now: datetime
) -> UUID:
    """Keep how a proposal ended, with its entry in the journal. Returns the entry's id."""
    details = {"proposal": str(proposal.id), "proposed_by": proposal.by, "version": proposal.version, "saw": saw}
    entry = JournalEntry.of(who, now, action, proposal.payment_id, details)
    entry = entry.changing({"proposal": proposal.state.value}, {"proposal": state.value})
    await store.append_entries(tx, [entry])
    await store.end_proposal(tx, replace(proposal, state=state, answered_by=who.name, answered_at=now, answer=saw))
    return entry.id


async def _done(tx: Connection, found: _Answered, both: Actor, now: datetime) -> ActionResult:
    """Do what was proposed, in the names of both."""
    kept, proposal = replace(found.kept, proposal=None), found.proposal
    match proposal.act:
        case ProposedAct.DECIDE:
            decision = ResolvePayment.model_validate(_said(proposal, both.name))
            return await payments.send_decision(tx, kept, decision, both, now)
        case ProposedAct.REFUND:
            refund = RequestRefund.model_validate(
                {**proposal.asks, "payment_id": proposal.payment_id, "requested_by": both.name}
            )
            return await payments.send_refund(tx, refund, both, kept.correlation_id, now)
        case ProposedAct.DISCARD:
            return await dead_letters.discard_agreed(
                tx, _letter_of(proposal), who=both, reason=str(proposal.asks["reason"]), now=now
            )


def _said(proposal: Proposal, by: str) -> dict[str, object]:
    return {**proposal.asks, "payment_id": proposal.payment_id, "decided_by": by}


def _letter_of(proposal: Proposal) -> UUID:
    return UUID(str(proposal.asks["letter_id"]))
