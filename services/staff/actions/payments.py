"""What people do with payments: look, ask the gateway, decide, refund."""

from datetime import timedelta
from uuid import UUID

from pydantic import ValidationError

from services.staff import domain, store
from services.staff.actions.results import (
    ActionRefusal,
    ActionResult,
    decision_entry,
    journals_refusals,
    message_of,
    moment_text,
    unfit,
    words,
)
from services.staff.domain import DecisionRefusal, Resolution, SentDecision
from services.staff.people import Actor
from services.staff.store import JournalEntry, KeptCase
from shared import crash_points
from shared.clock import Clock, system_clock
from shared.contracts.invoice import RequestRefund
from shared.contracts.payment_gateway import InquirePayment, ResolvePayment
from shared.messaging.codec import field_errors
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.records import replace

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
        about = kept.case.invoice_id if kept else invoice_id
        if about is None:
            return _no_case(payment_id)
        entry = JournalEntry.of(who, clock(), "ask", payment_id, {"version": kept.case.version if kept else 0})
        try:
            inquiry = InquirePayment(invoice_id=about, payment_id=payment_id, look=True)
        except ValidationError as error:
            return ActionResult(payment_id, field_errors(error), ActionRefusal.INVALID)
        await store.append_entries(tx, [entry])
        correlation_id = kept.correlation_id if kept else str(payment_id)
        await outbox.insert(tx, [message_of(inquiry, entry, correlation_id)], sweep_after_s=0)
        crash_points.reach("staff.ask.before_commit")
    crash_points.reach("staff.ask.after_commit")
    return ActionResult(payment_id, "the gateway is asked; what it answers shows on the case", entry=entry.id)


@journals_refusals("resolve")
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

    The payment-gateway service finally decides whether the decision is in time.
    """
    if (refused := unfit(who=who.name, reason=reason, evidence=evidence, receipt_number=receipt_number)) is not None:
        return replace(refused, subject=payment_id)
    wanted = domain.Resolve(resolution, expected_version, receipt_number)
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        if kept is None:
            return _no_case(payment_id)
        case, now = kept.case, clock()
        if (refusal := domain.refusal_of(wanted, case, now)) is not None:
            return ActionResult(payment_id, _why_not(refusal, wanted, kept), refusal)
        try:
            command = ResolvePayment(
                invoice_id=case.invoice_id,
                payment_id=payment_id,
                resolution=resolution,
                expected_version=expected_version,
                evidence=evidence,
                decided_by=who.name,
                reason=reason,
                receipt_number=receipt_number,
            )
        except ValidationError as error:
            return ActionResult(payment_id, field_errors(error), ActionRefusal.INVALID)
        entry = decision_entry(command, who, now)
        await store.append_entries(tx, [entry])
        told = command.model_copy(update={"journal_head": await store.journal_head(tx)})
        message = message_of(told, entry, kept.correlation_id)
        decision = SentDecision(
            message.id, expected_version, resolution, who.name, entry.at, repeat_at=entry.at + domain.REPEAT_AFTER
        )
        await outbox.insert(tx, [message], sweep_after_s=0)
        decided = replace(case, decision=decision)
        await store.save_cases(tx, [(decided, kept.correlation_id)], entry.at, locked={payment_id})
        crash_points.reach("staff.resolve.before_commit")
    crash_points.reach("staff.resolve.after_commit")
    return ActionResult(payment_id, f"decided: {words(resolution)}; the staff service sends it now", entry=entry.id)


@journals_refusals("refund")
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
    refund fits the invoice; what it says shows with the payment.
    """
    if (refused := unfit(who=who.name, reason=reason, invoice_id=invoice_id, currency=currency)) is not None:
        return replace(refused, subject=payment_id)
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        invoice_id = invoice_id or (kept.case.invoice_id if kept else None)
        currency = currency or (kept.case.currency if kept else None)
        if invoice_id is None or currency is None:
            text = "nothing is known here of this payment: say of which invoice it is, and the currency"
            return ActionResult(payment_id, text, ActionRefusal.UNKNOWN)
        try:
            command = RequestRefund(
                invoice_id=invoice_id,
                payment_id=payment_id,
                refund_id=refund_id,
                amount_minor=amount_minor,
                currency=currency,
                reason=reason,
                requested_by=who.name,
            )
        except ValidationError as error:
            return ActionResult(payment_id, field_errors(error), ActionRefusal.INVALID)
        details = command.model_dump(mode="json", exclude={"payment_id", "requested_by"})
        entry = JournalEntry.of(who, clock(), "refund", payment_id, details)
        await store.append_entries(tx, [entry])
        message = message_of(command, entry, kept.correlation_id if kept else str(entry.id))
        await outbox.insert(tx, [message], sweep_after_s=0)
        crash_points.reach("staff.refund.before_commit")
    crash_points.reach("staff.refund.after_commit")
    return ActionResult(
        payment_id, f"asked for refund {refund_id}; what comes of it shows with the payment", entry=entry.id
    )


def decision_text(kept: KeptCase) -> str | None:
    """What became of the last decision about a case, in words. None if it has had its effect, or if there is none."""
    coming = kept.case.decision_on_its_way
    if coming is None:
        return None
    where = "it waits for the staff service, which sends it" if kept.decision_waits else "it is on its way"
    again = f", sent {coming.times} times" if coming.times > 1 else ""
    return f"{coming.by} decided {words(coming.resolution)} at {moment_text(coming.at)}: {where}{again}"


def _no_case(payment_id: UUID) -> ActionResult:
    return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)


def _why_not(refusal: DecisionRefusal, wanted: domain.Resolve, kept: KeptCase) -> str:
    case = kept.case
    match refusal:
        case DecisionRefusal.NOTHING_TO_DECIDE:
            by = f" (decided by {case.decided_by})" if case.decided_by else ""
            return f"there is nothing to decide: its state is {words(case.status)}{by}"
        case DecisionRefusal.VERSION_DIFFERS:
            return (
                f"it stands at version {case.version} ({words(case.status)}), not {wanted.expected_version}: look again"
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
            minutes = domain.DECIDE_ANEW_AFTER // timedelta(minutes=1)
            return f"{decision_text(kept)}; without an effect, it can be decided anew {minutes} minutes after that"
