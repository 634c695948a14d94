"""What people do with payments: look, ask the gateway, decide, refund."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from services.staff import domain, store
from services.staff.actions import proposing
from services.staff.actions.results import (
    ActionRefusal,
    ActionResult,
    decision_entry,
    done_before,
    done_or_undone,
    journals_refusals,
    message_of,
    moment_text,
    unfit,
    words,
)
from services.staff.domain import Case, DecisionRefusal, Resolution, SentDecision
from services.staff.people import Actor
from services.staff.proposals import ProposedAct, WantedRefund, refund_stake, stakes_of
from services.staff.store import JournalEntry, KeptCase
from shared import crash_points
from shared.clock import Clock, system_clock
from shared.contracts.invoice import RequestRefund
from shared.contracts.mistakes import mistakes
from shared.contracts.payment_gateway import InquirePayment, ResolvePayment
from shared.ids import derived_id
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.records import dataclass, replace

# -- queries -----------------------------------------------------------------------------------------------------------------


async def list_cases(database: Database, *, open_only: bool = True, at_most: int) -> list[KeptCase]:
    """Cases, oldest first, at most `at_most`."""
    async with database.connection() as connection:
        return await store.select_cases(connection, open_only=open_only, at_most=at_most)


async def show_case(database: Database, payment_id: UUID) -> tuple[KeptCase, list[JournalEntry]] | None:
    """The case of a payment, and the actions of people on it. None if there is no such case."""
    async with database.connection() as connection:
        kept = await store.find_case(connection, payment_id)
        return (kept, await store.entries_about(connection, payment_id)) if kept else None


# -- actions -----------------------------------------------------------------------------------------------------------------


@journals_refusals("ask")
async def ask(
    database: Database, payment_id: UUID, *, who: Actor, invoice_id: str | None = None, clock: Clock = system_clock
) -> ActionResult:
    """Make the payment-gateway service ask the gateway about a payment now, in every status.

    `invoice_id` is needed if the payment has no case. It gets one: from then on staff hear what the gateway answers about it.
    """
    if (refused := unfit(who=who.name, invoice_id=invoice_id)) is not None:
        return refused
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        if (before := await done_before(tx, who, "ask", payment_id)) is not None:
            return ActionResult(payment_id, _ASKED, entry=before)
        about = kept.case.invoice_id if kept else invoice_id
        if about is None:
            return _no_case(payment_id)
        entry = JournalEntry.of(who, clock(), "ask", payment_id, {"version": kept.case.version if kept else 0})
        try:
            inquiry = InquirePayment(invoice_id=about, payment_id=payment_id, look=True)
        except ValidationError as error:
            return ActionResult(payment_id, mistakes(error), ActionRefusal.INVALID)
        await store.append_entries(tx, [entry])
        correlation_id = kept.correlation_id if kept else str(payment_id)
        await outbox.insert(tx, [message_of(inquiry, entry, correlation_id)], sweep_after_s=0)
        crash_points.reach("staff.ask.before_commit")
    crash_points.reach("staff.ask.after_commit")
    return ActionResult(payment_id, _ASKED, entry=entry.id)


_ASKED = "the gateway is asked; what it answers shows on the case"


@journals_refusals("resolve", or_else="propose")
async def resolve(
    database: Database,
    payment_id: UUID,
    *,
    resolution: Resolution,
    expected_version: int,
    evidence: str,
    reason: str,
    who: Actor,
    receipt_number: str | None = None,
    clock: Clock = system_clock,
) -> ActionResult:
    """Send a person's decision about a payment in doubt. `expected_version` is the version that `who` saw.

    Above the limit it is not sent: it becomes a proposal, with which a second person must agree.

    The payment-gateway service finally decides whether the decision is in time.
    """
    if (refused := unfit(who=who.name, reason=reason, evidence=evidence, receipt_number=receipt_number)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept, now = await store.find_case(tx, payment_id, lock=True), clock()
        if kept is None:
            return _no_case(payment_id)
        wanted = domain.Resolve(resolution, expected_version, receipt_number)
        if (refused := refusal_of(kept, wanted, now) or proposing.barred(kept, who)) is not None:
            return refused
        try:
            command = ResolvePayment(
                invoice_id=kept.case.invoice_id,
                payment_id=payment_id,
                resolution=resolution,
                expected_version=expected_version,
                evidence=evidence,
                decided_by=who.name,
                reason=reason,
                receipt_number=receipt_number,
            )
        except ValidationError as error:
            return ActionResult(payment_id, mistakes(error), ActionRefusal.INVALID)
        if (await proposing.limits_of(tx)).need_second(stakes_of(kept.case)):
            asks = command.model_dump(mode="json", exclude={"payment_id", "decided_by", "journal_head"})
            result = await proposing.propose(tx, kept, ProposedAct.DECIDE, asks, who, now)
        else:
            result = await send_decision(tx, kept, command, who, now)
        crash_points.reach("staff.resolve.before_commit")
    crash_points.reach("staff.resolve.after_commit")
    return result


def refusal_of(kept: KeptCase, wanted: domain.Resolve, now: datetime) -> ActionResult | None:
    """Why a decision about a case is not sent, or None if it may be."""
    refusal = domain.refusal_of(wanted, kept.case, now)
    if refusal is None:
        return None
    coming = kept.case.decision_on_its_way if refusal is DecisionRefusal.DECISION_ON_ITS_WAY else None
    name = None if coming is None else coming.by
    return ActionResult(kept.case.payment_id, _why_not(refusal, wanted, kept, now), refusal, name=name)


def wanted_by(command: ResolvePayment) -> domain.Resolve:
    """What a decision wants, as the case is asked about it."""
    return domain.Resolve(command.resolution, command.expected_version, command.receipt_number)


async def send_decision(
    tx: Connection, kept: KeptCase, command: ResolvePayment, who: Actor, now: datetime
) -> ActionResult:
    """Journal a decision and have it sent, in the name of `who`. The case is locked, and nothing speaks against it."""
    payment_id = kept.case.payment_id
    entry = decision_entry(command, who, now)
    decision = SentDecision(
        derived_id(entry.id, 0),  # the id of its message
        command.expected_version,
        command.resolution,
        who.name,
        entry.at,
        repeat_at=entry.at + domain.REPEAT_AFTER,
    )
    decided = replace(kept.case, decision=decision)
    entry = entry.changing(kept.stands, replace(kept, case=decided).stands)
    await store.append_entries(tx, [entry])
    told = command.model_copy(update={"journal_head": await store.journal_head(tx)})
    await outbox.insert(tx, [message_of(told, entry, kept.correlation_id)], sweep_after_s=0)
    await store.save_cases(tx, [(decided, kept.correlation_id)], entry.at, locked={payment_id})
    text = f"decided: {words(command.resolution)}; the staff service sends it now"
    return ActionResult(payment_id, text, entry=entry.id)


@journals_refusals("refund", or_else="propose")
async def refund(
    database: Database,
    payment_id: UUID,
    *,
    refund_id: UUID,
    reason: str,
    who: Actor,
    amount_minor: int | None = None,
    currency: str | None = None,
    invoice_id: str | None = None,
    clock: Clock = system_clock,
) -> ActionResult:
    """Ask for a refund of what paid an invoice: `amount_minor`, or all that is left. The same `refund_id` again asks for nothing more.

    Invoice and currency are those of the payment's case. Where there is none, both must be given. The invoice service decides whether the
    refund fits the invoice; what it says shows with the payment. Above the limit, counted with what people asked for before, it becomes a
    proposal, with which a second person must agree.
    """
    if (refused := unfit(who=who.name, reason=reason, invoice_id=invoice_id, currency=currency)) is not None:
        return replace(refused, subject=payment_id)
    told = _ToldOfRefund(refund_id, amount_minor, currency, invoice_id, reason)
    result = await done_or_undone(database, lambda tx: _refund(tx, payment_id, told, who, clock))
    crash_points.reach("staff.refund.after_commit")
    return result


@dataclass(frozen=True, slots=True)
class _ToldOfRefund:
    """What somebody said of a refund that they want."""

    refund_id: UUID
    amount_minor: int | None
    currency: str | None
    invoice_id: str | None
    reason: str


async def _refund(tx: Connection, payment_id: UUID, told: _ToldOfRefund, who: Actor, clock: Clock) -> ActionResult:
    kept, now = await store.find_case(tx, payment_id, lock=True), clock()
    invoice_id = told.invoice_id or (kept.case.invoice_id if kept else None)
    currency = told.currency or (kept.case.currency if kept else None)
    if invoice_id is None or currency is None:
        text = "nothing is known here of this payment: say of which invoice it is, and the currency"
        return ActionResult(payment_id, text, ActionRefusal.UNKNOWN)
    try:
        command = RequestRefund(
            invoice_id=invoice_id,
            payment_id=payment_id,
            refund_id=told.refund_id,
            amount_minor=told.amount_minor,
            currency=currency,
            reason=told.reason,
            requested_by=who.name,
        )
    except ValidationError as error:
        return ActionResult(payment_id, mistakes(error), ActionRefusal.INVALID)
    kept = kept or await store.lock_or_open_case(tx, Case(payment_id, invoice_id), str(payment_id), now)
    if (before := await done_before(tx, who, "refund", payment_id)) is not None:
        return ActionResult(payment_id, f"asked for refund {told.refund_id} before", entry=before)
    if (refused := _not_of_this_payment(kept, command) or proposing.barred(kept, who)) is not None:
        return refused
    wanted = WantedRefund(told.refund_id, told.amount_minor, currency)
    stake = refund_stake(kept.case, wanted, _asked(await store.refunds_asked(tx, payment_id)))
    if (await proposing.limits_of(tx)).need_second([stake]):
        asks = command.model_dump(mode="json", exclude={"payment_id", "requested_by"})
        result = await proposing.propose(tx, kept, ProposedAct.REFUND, asks, who, now)
    else:
        result = await send_refund(tx, command, who, kept.correlation_id, now)
    crash_points.reach("staff.refund.before_commit")
    return result


def _not_of_this_payment(kept: KeptCase, command: RequestRefund) -> ActionResult | None:
    """The refusal of a refund in another currency than that of the payment, whose limit may be another one."""
    known = kept.case.currency
    if known is None or command.currency == known:
        return None
    return ActionResult(command.payment_id, f"this payment is in {known}", ActionRefusal.INVALID)


async def send_refund(
    tx: Connection, command: RequestRefund, who: Actor, correlation_id: str, now: datetime
) -> ActionResult:
    """Journal a request for a refund and have it sent, in the name of `who`."""
    details = command.model_dump(mode="json", exclude={"payment_id", "requested_by"})
    entry = JournalEntry.of(who, now, "refund", command.payment_id, details)
    await store.append_entries(tx, [entry])
    await outbox.insert(tx, [message_of(command, entry, correlation_id)], sweep_after_s=0)
    text = f"asked for refund {command.refund_id}; what comes of it shows with the payment"
    return ActionResult(command.payment_id, text, entry=entry.id)


def _asked(entries: Sequence[Mapping[str, Any]]) -> list[WantedRefund]:
    """The refunds of the journal's entries. A purge may have taken texts out, but no ids and no amounts."""
    return [WantedRefund(UUID(one["refund_id"]), one.get("amount_minor"), one["currency"]) for one in entries]


def decision_text(kept: KeptCase, now: datetime) -> str | None:
    """What became of the last decision about a case, in words. None if it has had its effect, or if there is none."""
    coming = kept.case.decision_on_its_way
    if coming is None:
        return None
    where = "it waits for the staff service, which sends it" if kept.decision_waits else "it is on its way"
    again = f", sent {coming.times} times" if coming.times > 1 else ""
    anew = "" if domain.is_decided(kept.case, now) else "; it has no effect yet, and may be made anew"
    return f"{coming.by} decided {words(coming.resolution)} at {moment_text(coming.at)}: {where}{again}{anew}"


def _no_case(payment_id: UUID) -> ActionResult:
    return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)


def _why_not(refusal: DecisionRefusal, wanted: domain.Resolve, kept: KeptCase, now: datetime) -> str:
    case = kept.case
    match refusal:
        case DecisionRefusal.NOTHING_TO_DECIDE:
            by = f" (decided by {case.decided_by})" if case.decided_by else ""
            return f"there is nothing to decide: its state is {words(case.status)}{by}"
        case DecisionRefusal.VERSION_DIFFERS:
            return (
                f"it changed since you looked: it stands at version {case.version} ({words(case.status)}), "
                f"not {wanted.expected_version}; look again"
            )
        case DecisionRefusal.DOES_NOT_FIT:
            if wanted.resolution == "not_charged" and case.settled_as == domain.CAPTURED:
                return (
                    "the invoice was told that it is paid, so this cannot become not charged: if the money is not there, "
                    "resolve it as refunded, and the invoice gives it back in its books"
                )
            fitting = " or ".join(words(resolution) for resolution in sorted(domain.decisions_for(case)))
            return f"its state is {words(case.status)}: it can be decided as {fitting}"
        case DecisionRefusal.RECEIPT_NUMBER_REQUIRED:
            return "a captured payment needs the gateway's receipt number"
        case DecisionRefusal.DECISION_ON_ITS_WAY:
            anew = f"it can be decided anew {domain.DECIDE_ANEW_MINUTES} minutes after that"
            return f"{decision_text(kept, now)}; without an effect, {anew}"
