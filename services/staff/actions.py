"""The actions of people, as plain functions on the database. The command line uses them.

An action is one transaction. It locks and checks the row, and stores the journal entry, the new state and the messages (in the outbox)
together. So a crash leaves all or nothing. If two people act at once, the second one is told what the first one did. Nothing here speaks to
the broker: the running staff service publishes its outbox within a second.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal
from uuid import UUID

import structlog
from pydantic import ValidationError

from services.staff import charges, dead_letters, domain, store
from services.staff.charges import OLD_AFTER
from services.staff.dead_letters import DeadLetterRecord, DeadLetterStatus, Disposition
from services.staff.domain import DecisionRefusal, Resolution, SentDecision
from services.staff.store import JournalEntry, KeptCase, Selection
from shared import crash_points
from shared.card_data.scan import has_card_data
from shared.clock import Clock, system_clock
from shared.contracts.base import EVIDENCE_LENGTH_MAX, TEXT_LENGTH_MAX, Contract
from shared.contracts.currencies import in_major_units
from shared.contracts.invoice import CloseCommand, InvoicePaymentRequested, RequestRefund
from shared.contracts.payment_gateway import InquirePayment, ResolvePayment
from shared.ids import derived_id, new_id
from shared.messaging import dead_letter_headers, reply_address
from shared.messaging.codec import encode, field_errors
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.messaging.failures import SHORT_TEXT_BYTES_MAX, of_the_sender
from shared.messaging.failures import text as text_of
from shared.messaging.topology import COMMANDS, WORK_QUEUE_NAMES
from shared.persistence import outbox
from shared.persistence.database import Database, Trouble, trouble
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

__all__ = ["ActionRefusal", "ActionResult", "DeadLetterStatus", "JournalEntry", "KeptCase", "Selection"]

SOURCE = "staff"
CHUNK_MAX = 100
"""Dead letters in one transaction. Their bodies have at most 6 MiB together, and locks stay short."""
OutboxAction = Literal["release", "drop"]
REQUESTS = "payment_gateway.requests"
"""The queue to which only the invoice service writes. What claims to be a request elsewhere may be anybody's."""
ROUTING_HEADERS = frozenset({"CC", "BCC"})
"""Headers by which RabbitMQ routes a message to further queues. If one holds anything but a list, the broker closes the channel."""


class ActionRefusal(StrEnum):
    """Why an action was not done: a code for programs. `DecisionRefusal` has the reasons that come from the case itself."""

    UNKNOWN = "unknown"
    ALREADY_REPLAYED = "already_replayed"
    ALREADY_DISCARDED = "already_discarded"
    BODY_WITHHELD = "body_withheld"
    NO_SUCH_QUEUE = "no_such_queue"
    INVALID = "invalid"
    CARD_DATA = "card_data"
    OLD_CHARGE = "old_charge"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The result of an action. `text` is a sentence for people. If the action was done, `refusal` is None and `entry` its journal entry."""

    subject: UUID | None
    text: str
    refusal: ActionRefusal | DecisionRefusal | None = None
    entry: UUID | None = None

    @property
    def ok(self) -> bool:
        return self.refusal is None


# -- dead letters: queries -------------------------------------------------------------------------------------------------------------


async def list_dead_letters(
    database: Database, selection: Selection, *, at_most: int
) -> tuple[list[DeadLetterRecord], int]:
    """The selected dead letters, latest first, at most `at_most`, and the number of all that are selected."""
    async with database.connection() as connection:
        return await store.select(connection, selection, at_most=at_most), await store.count(connection, selection)


async def show_dead_letter(database: Database, letter_id: UUID) -> tuple[DeadLetterRecord, list[JournalEntry]] | None:
    """The record of a dead letter, and the actions of people on it. None if there is no such dead letter."""
    async with database.connection() as connection:
        found = await store.select(connection, Selection(ids=(letter_id,)), at_most=1)
        return (found[0], await store.entries_about(connection, letter_id)) if found else None


async def ids_ending(
    database: Database, table: Literal["dead_letters", "cases"], end: str, *, at_most: int
) -> list[UUID]:
    """The ids that end with `end`, at most `at_most`."""
    async with database.connection() as connection:
        return await store.ids_ending(connection, table, end.lower(), at_most=at_most)


async def values_of(database: Database, column: Literal["queue", "reason", "type"]) -> list[str]:
    """Every value that dead letters have in this column."""
    async with database.connection() as connection:
        return await store.values_of(connection, column)


# -- dead letters: actions -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Act:
    """An action on one record: the record afterwards, its journal entry, the messages to publish, and the sentence for the person."""

    record: DeadLetterRecord
    entry: JournalEntry
    says: tuple[Outgoing, ...]
    text: str
    decision: JournalEntry | None = None
    """What the same person decides about a payment with it."""


_Decide = Callable[[DeadLetterRecord, datetime], _Act | ActionResult]


async def replay(
    database: Database,
    selection: Selection,
    *,
    who: str,
    reason: str | None = None,
    old_after: timedelta | None = OLD_AFTER,
    clock: Clock = system_clock,
) -> list[ActionResult]:
    """Send the selected messages again to the queues they came from, each with its own id, properties and body.

    If the selection has neither a status nor ids, only open dead letters are replayed. There is one result for each dead letter. What may
    charge a card and is older than `old_after` is refused. None: `who` has said that it still shall charge.
    """
    if (unfit := _unfit(who=who, reason=reason)) is not None:
        return [unfit]
    return await _on_each(
        database, _open_only(selection), clock, lambda record, now: _replay(record, who, reason, old_after, now)
    )


async def discard(
    database: Database, selection: Selection, *, who: str, reason: str, clock: Clock = system_clock
) -> list[ActionResult]:
    """Discard the selected messages. The sender of a discarded command is answered `rejected: discarded`.

    If the selection has neither a status nor ids, only open dead letters are discarded. There is one result for each dead letter.
    """
    if (unfit := _unfit(who=who, reason=reason)) is not None:
        return [unfit]
    return await _on_each(
        database, _open_only(selection), clock, lambda record, now: _discard(record, who, reason, now)
    )


def _open_only(selection: Selection) -> Selection:
    return (
        selection if selection.status or selection.ids is not None else replace(selection, status=DeadLetterStatus.OPEN)
    )


async def _on_each(database: Database, selection: Selection, clock: Clock, decide: _Decide) -> list[ActionResult]:
    async with database.connection() as connection:
        found = await store.select_ids(connection, selection)
    known = set(found)
    results = [_unknown(id_) for id_ in _in_order(selection.ids or ()) if id_ not in known]
    for start in range(0, len(found), CHUNK_MAX):
        results += await _on_chunk_or_each(database, found[start : start + CHUNK_MAX], clock, decide)
    return results


async def _on_chunk_or_each(
    database: Database, ids: Sequence[UUID], clock: Clock, decide: _Decide
) -> list[ActionResult]:
    """Act on all of them at once. If the database refuses what one of them would store, act on each alone: the others are done."""
    try:
        return await _on_chunk(database, ids, clock, decide)
    except Exception as error:
        if trouble(error) is not Trouble.DATA:
            raise
        log.error("action_unstorable", dead_letters=len(ids), exc_info=error)  # noqa: TRY400 - the error is redacted there
        if len(ids) == 1:
            text = f"the database refuses it ({type(error).__name__}): nothing was done"
            return [ActionResult(ids[0], text, ActionRefusal.INVALID)]
    return [result for id_ in ids for result in await _on_chunk_or_each(database, [id_], clock, decide)]


async def _on_chunk(database: Database, ids: Sequence[UUID], clock: Clock, decide: _Decide) -> list[ActionResult]:
    async with database.transaction() as tx:
        records = await store.lock_letters(tx, ids)
        now = clock()
        decided = [_decided(decide, records[id_], now) for id_ in ids if id_ in records]
        acts = [act for act in decided if isinstance(act, _Act)]
        await store.append_entries(
            tx, [entry for act in acts for entry in (act.entry, act.decision) if entry is not None]
        )
        crash_points.reach("staff.replay.after_journal")
        await store.save_letters(tx, [act.record for act in acts], locked=records)
        await outbox.insert(tx, [message for act in acts for message in act.says], sweep_after_s=0)
        crash_points.reach("staff.replay.before_commit")
    crash_points.reach("staff.replay.after_commit")
    return [
        ActionResult(act.record.id, act.text, entry=act.entry.id) if isinstance(act, _Act) else act for act in decided
    ]


def _decided(decide: _Decide, record: DeadLetterRecord, now: datetime) -> _Act | ActionResult:
    """The decision about one record. If a contract refuses what it would say, only this record is refused, not the rest of a selection."""
    try:
        return decide(record, now)
    except ValidationError as error:
        return ActionResult(record.id, f"it cannot be said: {field_errors(error)}", ActionRefusal.INVALID)


def _replay(
    record: DeadLetterRecord, who: str, reason: str | None, old_after: timedelta | None, now: datetime
) -> _Act | ActionResult:
    letter = record.letter
    if (settled := _already_settled(record)) is not None:
        return settled
    if letter.body is None:
        text = f"its body was not kept ({_WITHHELD_WORDS[letter.withheld]}): it cannot be replayed, only discarded"
        return ActionResult(record.id, text, ActionRefusal.BODY_WITHHELD)
    if letter.queue not in WORK_QUEUE_NAMES:
        text = f"it came from {letter.queue}, which is no work queue of Remit: it cannot be replayed, only discarded"
        return ActionResult(record.id, text, ActionRefusal.NO_SUCH_QUEUE)
    if old_after is not None and (charge := charges.charge_of(record)) is not None and charge.is_old(now, old_after):
        amount = in_major_units(charge.amount_minor, charge.currency)
        text = (
            f"it would charge {amount} and was sent at {_shown(charge.since)}: say that it still shall (--charge-old)"
        )
        return ActionResult(record.id, text, ActionRefusal.OLD_CHARGE)
    after = dead_letters.settle(record, DeadLetterStatus.REPLAYED, Disposition(who, now, reason))
    details = {"queue": letter.queue, "message_id": letter.message_id, "replays": after.replays, "reason": reason}
    entry = JournalEntry(new_id(), now, who, "replay", record.id, details)
    return _Act(after, entry, (_replayed(after, entry.id),), f"replayed to {letter.queue}")


def _replayed(record: DeadLetterRecord, entry_id: UUID) -> Outgoing:
    """The message as it first came, with a header that counts its replays, and one with the name of its sender.

    A message without an id gets the id of its record, so that its next failure is recognised. In the outbox each replay has its own id,
    because the same message may wait there for two queues at once.
    """
    letter = record.letter
    headers: dict[str, str | int] = {
        name: value
        for name, value in of_the_sender(letter.headers).items()
        if isinstance(value, str | int)
        and name not in ROUTING_HEADERS
        and len(name.encode()) <= SHORT_TEXT_BYTES_MAX  # redaction can make it longer
    }
    headers[dead_letter_headers.REPLAYS] = record.replays
    if letter.sender is not None:
        headers[dead_letter_headers.SENDER] = letter.sender
    return Outgoing(
        id=derived_id(entry_id, 0),
        exchange="",
        routing_key=letter.queue,
        type=letter.type or "",
        correlation_id=letter.correlation_id or "",
        body=letter.body or b"",
        headers=headers,
        content_type=letter.content_type or "",
        message_id=letter.message_id or str(record.id),
        reply_to=None if letter.reply_to == reply_address.DIRECT else letter.reply_to,
    )


def _discard(record: DeadLetterRecord, who: str, reason: str, now: datetime) -> _Act | ActionResult:
    if (settled := _already_settled(record)) is not None:
        return settled
    letter = record.letter
    after = dead_letters.settle(record, DeadLetterStatus.DISCARDED, Disposition(who, now, reason))
    command_id = letter.event_id if letter.queue == COMMANDS else None
    details: dict[str, object] = {"queue": letter.queue, "message_id": letter.message_id, "reason": reason}
    entry = JournalEntry(
        new_id(), now, who, "discard", record.id, details | {"closes": str(command_id) if command_id else None}
    )
    read = charges.read(record)
    if letter.queue == REQUESTS and isinstance(read, Inbound) and isinstance(read.data, InvoicePaymentRequested):
        return _discard_request(after, entry, read, read.data)
    if command_id is None:
        text = "discarded; no id of a command can be read, so nobody is answered"
        return _Act(after, entry, (), text if letter.queue == COMMANDS else "discarded")
    whole, outline = (read.content_hash, read.outline_hash) if read is not None else (None, None)
    closing = CloseCommand(
        command_id=command_id,
        command_type=text_of(letter.type) or "unread",
        reply_to=text_of(letter.reply_to),
        reply_correlation_id=text_of(letter.correlation_id),
        reason=reason,
        sender=letter.sender,
        content_hash=whole.hex() if whole and outline is None else None,
        outline_hash=outline.hex() if outline else None,
    )
    message = message_of(closing, entry, (read.correlation_id if read is not None else None) or str(command_id))
    return _Act(after, entry, (message,), "discarded; the command is answered `rejected: discarded`")


def _discard_request(
    after: DeadLetterRecord, entry: JournalEntry, read: Inbound, requested: InvoicePaymentRequested
) -> _Act:
    """Discard the request of a payment: it will never be charged, and its invoice must not wait for it.

    If the payment-gateway service has seen the payment after all, it refuses the decision.
    """
    command = ResolvePayment(
        invoice_id=requested.invoice_id,
        payment_id=requested.payment_id,
        resolution="not_charged",
        expected_version=1,
        evidence=f"its request was discarded as dead letter {after.id}",
        decided_by=entry.who,
        reason=str(entry.details["reason"]),
    )
    decision = _decision_entry(command, entry.at)
    text = "discarded; the payment is decided as not charged, unless it was seen already"
    return _Act(after, entry, (message_of(command, decision, read.correlation_id),), text, decision)


_WITHHELD_WORDS = {
    None: "unknown why",
    dead_letters.Withheld.CARD_DATA: "it held card data",
    dead_letters.Withheld.TOO_LARGE: "it was too large",
    dead_letters.Withheld.HEADERS_TOO_LARGE: "its headers were too large",
    dead_letters.Withheld.UNSTORABLE: "the database could not take it",
    dead_letters.Withheld.UNREADABLE: "reading it failed",
    dead_letters.Withheld.NOT_TEXT: "it was compressed or no UTF-8 text",
    dead_letters.Withheld.ERASED: "it was erased, long after it was settled",
}


def _already_settled(record: DeadLetterRecord) -> ActionResult | None:
    settled = record.settlement
    if record.status is DeadLetterStatus.OPEN or settled is None:
        return None
    text = f"already {record.status} by {settled.by} at {_shown(settled.at)}"
    refusal = (
        ActionRefusal.ALREADY_REPLAYED
        if record.status is DeadLetterStatus.REPLAYED
        else ActionRefusal.ALREADY_DISCARDED
    )
    return ActionResult(record.id, text, refusal)


def _unknown(letter_id: UUID) -> ActionResult:
    return ActionResult(letter_id, "there is no dead letter of this id", ActionRefusal.UNKNOWN)


def _in_order(ids: Iterable[UUID]) -> list[UUID]:
    return list(dict.fromkeys(ids))


# -- payments: queries -----------------------------------------------------------------------------------------------------------------


async def list_cases(database: Database, *, open_only: bool = True, at_most: int) -> list[KeptCase]:
    """Cases, oldest first, at most `at_most`."""
    async with database.connection() as connection:
        return await store.select_cases(connection, open_only=open_only, at_most=at_most)


async def show_case(database: Database, payment_id: UUID) -> tuple[KeptCase, list[JournalEntry]] | None:
    """The case of a payment, and the actions of people on it. None if there is no such case."""
    async with database.connection() as connection:
        kept = await store.find_case(connection, payment_id)
        return (kept, await store.entries_about(connection, payment_id)) if kept else None


# -- payments: actions -----------------------------------------------------------------------------------------------------------------


async def ask(
    database: Database, payment_id: UUID, *, who: str, invoice_id: str | None = None, clock: Clock = system_clock
) -> ActionResult:
    """Make the payment-gateway service ask the gateway about a payment now, in every status.

    `invoice_id` is needed if the payment has no case. It gets one: from then on staff hear what the gateway answers about it.
    """
    if (unfit := _unfit(who=who, invoice_id=invoice_id)) is not None:
        return unfit
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        about = kept.case.invoice_id if kept else invoice_id
        if about is None:
            return _no_case(payment_id)
        entry = JournalEntry(new_id(), clock(), who, "ask", payment_id, {"version": kept.case.version if kept else 0})
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


async def resolve(
    database: Database,
    payment_id: UUID,
    *,
    resolution: Resolution,
    expected_version: int,
    evidence: str,
    reason: str,
    who: str,
    receipt_number: str | None = None,
    clock: Clock = system_clock,
) -> ActionResult:
    """Send a person's decision about a payment in doubt. `expected_version` is the version that `who` saw.

    The payment-gateway service finally decides whether the decision is in time.
    """
    if (unfit := _unfit(who=who, reason=reason, evidence=evidence, receipt_number=receipt_number)) is not None:
        return replace(unfit, subject=payment_id)
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
                decided_by=who,
                reason=reason,
                receipt_number=receipt_number,
            )
        except ValidationError as error:
            return ActionResult(payment_id, field_errors(error), ActionRefusal.INVALID)
        entry = _decision_entry(command, now)
        await store.append_entries(tx, [entry])
        told = command.model_copy(update={"journal_head": await store.journal_head(tx)})
        message = message_of(told, entry, kept.correlation_id)
        decision = SentDecision(
            message.id, expected_version, resolution, who, entry.at, repeat_at=entry.at + domain.REPEAT_AFTER
        )
        await outbox.insert(tx, [message], sweep_after_s=0)
        decided = replace(case, decision=decision)
        await store.save_cases(tx, [(decided, kept.correlation_id)], entry.at, locked={payment_id})
        crash_points.reach("staff.resolve.before_commit")
    crash_points.reach("staff.resolve.after_commit")
    return ActionResult(payment_id, f"decided: {_words(resolution)}; the staff service sends it now", entry=entry.id)


async def refund(
    database: Database,
    payment_id: UUID,
    *,
    refund_id: UUID,
    reason: str,
    who: str,
    amount_minor: int | None = None,
    currency: str | None = None,
    invoice_id: str | None = None,
    clock: Clock = system_clock,
) -> ActionResult:
    """Ask for a refund of what paid an invoice: `amount_minor`, or all that is left. The same `refund_id` again asks for nothing more.

    Invoice and currency are those of the payment's case. Where there is none, both must be given. The invoice service decides whether the
    refund fits the invoice; what it says shows with the payment.
    """
    if (unfit := _unfit(who=who, reason=reason, invoice_id=invoice_id, currency=currency)) is not None:
        return replace(unfit, subject=payment_id)
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
                requested_by=who,
            )
        except ValidationError as error:
            return ActionResult(payment_id, field_errors(error), ActionRefusal.INVALID)
        details = command.model_dump(mode="json", exclude={"payment_id", "requested_by"})
        entry = JournalEntry(new_id(), clock(), command.requested_by, "refund", payment_id, details)
        await store.append_entries(tx, [entry])
        message = message_of(command, entry, kept.correlation_id if kept else str(entry.id))
        await outbox.insert(tx, [message], sweep_after_s=0)
        crash_points.reach("staff.refund.before_commit")
    crash_points.reach("staff.refund.after_commit")
    return ActionResult(
        payment_id, f"asked for refund {refund_id}; what comes of it shows with the payment", entry=entry.id
    )


def _decision_entry(command: ResolvePayment, now: datetime) -> JournalEntry:
    """The journal entry that holds what the decision says, so that the decision can be said again from it (`decisions`)."""
    details = command.model_dump(mode="json", exclude={"payment_id", "decided_by", "journal_head"})
    return JournalEntry(new_id(), now, command.decided_by, "resolve", command.payment_id, details)


def message_of(data: Contract, entry: JournalEntry, correlation_id: str, position: int | str = 0) -> Outgoing:
    """The message that a journal entry caused. It is the same each time, byte for byte."""
    return encode(Draft(data), Cause(entry.id, correlation_id, entry.at), position, source=SOURCE)


def decision_text(kept: KeptCase) -> str | None:
    """What became of the last decision about a case, in words. None if it has had its effect, or if there is none."""
    coming = kept.case.decision_on_its_way
    if coming is None:
        return None
    where = "it waits for the staff service, which sends it" if kept.decision_waits else "it is on its way"
    again = f", sent {coming.times} times" if coming.times > 1 else ""
    return f"{coming.by} decided {_words(coming.resolution)} at {_shown(coming.at)}: {where}{again}"


def _no_case(payment_id: UUID) -> ActionResult:
    return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)


def _why_not(refusal: DecisionRefusal, wanted: domain.Resolve, kept: KeptCase) -> str:
    case = kept.case
    match refusal:
        case DecisionRefusal.NOTHING_TO_DECIDE:
            by = f" (decided by {case.decided_by})" if case.decided_by else ""
            return f"there is nothing to decide: its state is {_words(case.status)}{by}"
        case DecisionRefusal.VERSION_DIFFERS:
            return f"it stands at version {case.version} ({_words(case.status)}), not {wanted.expected_version}: look again"
        case DecisionRefusal.DOES_NOT_FIT:
            if wanted.resolution == "not_charged" and case.settled_as == domain.CAPTURED:
                return (
                    "the invoice was told that it is paid, so this cannot become not charged: if the money is not there, "
                    "resolve it as refunded, and the invoice gives it back in its books"
                )
            fitting = " or ".join(_words(resolution) for resolution in sorted(domain.decisions_for(case)))
            return f"its state is {_words(case.status)}: it can be decided as {fitting}"
        case DecisionRefusal.RECEIPT_NUMBER_REQUIRED:
            return "a captured payment needs the gateway's receipt number"
        case DecisionRefusal.DECISION_ON_ITS_WAY:
            minutes = domain.DECIDE_ANEW_AFTER // timedelta(minutes=1)
            return f"{decision_text(kept)}; without an effect, it can be decided anew {minutes} minutes after that"


# -- outboxes --------------------------------------------------------------------------------------------------------------------------


async def note_outbox_action(
    database: Database,
    message_id: UUID,
    action: OutboxAction,
    *,
    service: str,
    who: str,
    reason: str,
    clock: Clock = system_clock,
) -> ActionResult:
    """Note in the journal what a person does with a quarantined message of any service, before it is done there."""
    if (unfit := _unfit(who=who, reason=reason)) is not None:
        return replace(unfit, subject=message_id)
    entry = JournalEntry(new_id(), clock(), who, action, message_id, {"service": service, "reason": reason})
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry])
    return ActionResult(message_id, f"{action} noted", entry=entry.id)


# -- texts of people -------------------------------------------------------------------------------------------------------------------


def _unfit(**texts: str | None) -> ActionResult | None:
    """The refusal if one of these texts must not be stored, because it is empty or too long, or has card data or control characters."""
    for name, text in texts.items():
        if text is None:
            continue
        label = "name of who acts" if name == "who" else _words(name)
        if has_card_data(text):
            return ActionResult(None, f"the {label} holds card data: leave it out", ActionRefusal.CARD_DATA)
        if not text.strip():
            return ActionResult(None, f"the {label} must not be empty", ActionRefusal.INVALID)
        if len(text) > (longest := EVIDENCE_LENGTH_MAX if name == "evidence" else TEXT_LENGTH_MAX):
            return ActionResult(None, f"the {label} is longer than {longest} characters", ActionRefusal.INVALID)
        if any(unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\r\t" for c in text):
            return ActionResult(None, f"the {label} holds control characters", ActionRefusal.INVALID)
    return None


def _words(code: str) -> str:
    return code.replace("_", " ")


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
