"""What people can do, as plain functions over the database: the command line uses them, and so will the web desk.

An action is one transaction: the row is locked and looked at, the journal entry, the new state and what is to be said (in the outbox) are
stored together. So a crash does all or nothing, and of two people one comes second and is told. The running staff service publishes what
is in its outbox within a second; nothing here speaks to the broker.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import ValidationError

from services.staff import dead_letters, domain, store
from services.staff.dead_letters import DeadLetterRecord, DeadLetterStatus, Disposition
from services.staff.domain import Case, DecisionRefusal, Resolution, SentDecision
from services.staff.store import SELECTED_MAX, JournalEntry, KeptCase, Selection
from shared import crash_points
from shared.card_data.scan import find_card_number_deep, mask_cvv
from shared.clock import Clock, system_clock
from shared.contracts.base import EVIDENCE_LENGTH_MAX, TEXT_LENGTH_MAX, Contract
from shared.contracts.invoice import CloseCommand
from shared.contracts.payment_gateway import InquirePayment, ResolvePayment
from shared.ids import derived_id, new_id
from shared.messaging import dead_letter_headers
from shared.messaging.codec import decode, encode, field_errors
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.topology import WORK_QUEUES
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.records import dataclass, replace

__all__ = ["SELECTED_MAX", "ActionRefusal", "ActionResult", "DeadLetterStatus", "JournalEntry", "KeptCase", "Selection"]

SOURCE = "staff"
CHUNK_MAX = 100
"""Dead letters of one transaction: their bodies are at most 6 MiB together, and locks stay short."""
COMMANDS_QUEUE = "invoice.commands"
REPLAYABLE_QUEUES = frozenset(queue.name for queue in WORK_QUEUES)


class ActionRefusal(StrEnum):
    """Why nothing was done, beside what the case itself refuses (DecisionRefusal). For programs; the sentence beside it is for people."""

    UNKNOWN = "unknown"
    ALREADY_REPLAYED = "already_replayed"
    ALREADY_DISCARDED = "already_discarded"
    BODY_WITHHELD = "body_withheld"
    NO_SUCH_QUEUE = "no_such_queue"
    INVALID = "invalid"
    CARD_DATA = "card_data"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of one action. `text` is a sentence; `refusal` is None if it was done, `entry` is then its line in the journal."""

    subject: UUID | None
    text: str
    refusal: ActionRefusal | DecisionRefusal | None = None
    entry: UUID | None = None

    @property
    def ok(self) -> bool:
        return self.refusal is None


# -- dead letters: looking -------------------------------------------------------------------------------------------------------------


async def list_dead_letters(
    database: Database, selection: Selection, *, at_most: int
) -> tuple[list[DeadLetterRecord], int]:
    """The selected, latest first, at most so many; and how many there are in all."""
    async with database.connection() as connection:
        return await store.select(connection, selection, at_most=at_most), await store.count(connection, selection)


async def show_dead_letter(database: Database, letter_id: UUID) -> tuple[DeadLetterRecord, list[JournalEntry]] | None:
    """One record with what people did about it; None if there is none."""
    async with database.connection() as connection:
        found = await store.select(connection, Selection(ids=(letter_id,)), at_most=1)
        return (found[0], await store.entries_about(connection, letter_id)) if found else None


async def ids_like(database: Database, table: Literal["dead_letters", "cases"], prefix: str) -> list[UUID]:
    """Ids that begin so; two are given if there are more."""
    async with database.connection() as connection:
        return await store.ids_like(connection, table, prefix.lower())


# -- dead letters: acting --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Act:
    """What is to happen to one record."""

    record: DeadLetterRecord
    entry: JournalEntry
    says: tuple[Outgoing, ...]
    text: str


_Decide = Callable[[DeadLetterRecord, datetime], _Act | ActionResult]


async def replay(
    database: Database, selection: Selection, *, who: str, reason: str | None = None, clock: Clock = system_clock
) -> list[ActionResult]:
    """Send the selected messages again to the queues they came from, each with its own id, properties and body. Without a status or ids
    in the selection only those that are open."""
    if (unfit := _unfit(who=who, reason=reason)) is not None:
        return [unfit]
    return await _on_each(database, _open_only(selection), clock, lambda record, now: _replay(record, who, reason, now))


async def discard(
    database: Database, selection: Selection, *, who: str, reason: str, clock: Clock = system_clock
) -> list[ActionResult]:
    """Give the selected messages up. The sender of a command is answered `rejected: discarded`."""
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
    results = [_unknown(id_) for id_ in _in_order(selection.ids or ()) if id_ not in set(found)]
    for at in range(0, len(found), CHUNK_MAX):
        results += await _on_chunk(database, found[at : at + CHUNK_MAX], clock, decide)
    return results


async def _on_chunk(database: Database, ids: Sequence[UUID], clock: Clock, decide: _Decide) -> list[ActionResult]:
    async with database.transaction() as tx:
        records = await store.lock_letters(tx, ids)
        now = clock()
        decided = [decide(records[id_], now) for id_ in ids if id_ in records]
        acts = [one for one in decided if isinstance(one, _Act)]
        await store.append_entries(tx, [act.entry for act in acts])
        crash_points.reach("staff.replay.after_journal")
        await store.save_letters(tx, [act.record for act in acts])
        await outbox.insert(tx, [message for act in acts for message in act.says], sweep_after_s=0)
        crash_points.reach("staff.replay.before_commit")
    crash_points.reach("staff.replay.after_commit")
    return [
        ActionResult(one.record.id, one.text, entry=one.entry.id) if isinstance(one, _Act) else one for one in decided
    ]


def _replay(record: DeadLetterRecord, who: str, reason: str | None, now: datetime) -> _Act | ActionResult:
    letter = record.letter
    if (settled := _already_settled(record)) is not None:
        return settled
    if letter.body is None:
        text = f"its body was not kept ({_WITHHELD_WORDS[letter.withheld]}): it cannot be replayed, only discarded"
        return ActionResult(record.id, text, ActionRefusal.BODY_WITHHELD)
    if letter.queue not in REPLAYABLE_QUEUES:
        text = f"it came from {letter.queue}, which is no work queue of Remit: it cannot be replayed, only discarded"
        return ActionResult(record.id, text, ActionRefusal.NO_SUCH_QUEUE)
    after = dead_letters.settle(record, DeadLetterStatus.REPLAYED, Disposition(who, now, reason))
    details = {"queue": letter.queue, "message_id": letter.message_id, "replays": after.replays, "reason": reason}
    entry = JournalEntry(new_id(), now, who, "replay", record.id, details)
    return _Act(after, entry, (_again(after, entry.id),), f"replayed to {letter.queue}")


def _again(record: DeadLetterRecord, entry_id: UUID) -> Outgoing:
    """The message as it first came, and how often we sent it. One that came without an id gets the record's, by which its next failure is
    recognised. In the outbox it has an id of its own: the same message may wait for two queues at once."""
    letter = record.letter
    scalars = {name: value for name, value in letter.headers.items() if isinstance(value, str | int)}
    return Outgoing(
        id=derived_id(entry_id, 0),
        exchange="",
        routing_key=letter.queue,
        type=letter.type or "",
        correlation_id=letter.correlation_id or "",
        body=letter.body or b"",
        headers=scalars | {dead_letter_headers.REPLAYS: record.replays},
        content_type=letter.content_type or "",
        message_id=letter.message_id or str(record.id),
        reply_to=letter.reply_to,
    )


def _discard(record: DeadLetterRecord, who: str, reason: str, now: datetime) -> _Act | ActionResult:
    if (settled := _already_settled(record)) is not None:
        return settled
    letter = record.letter
    after = dead_letters.settle(record, DeadLetterStatus.DISCARDED, Disposition(who, now, reason))
    command_id = letter.event_id if letter.queue == COMMANDS_QUEUE else None
    details: dict[str, object] = {"queue": letter.queue, "message_id": letter.message_id, "reason": reason}
    entry = JournalEntry(
        new_id(), now, who, "discard", record.id, details | {"closes": str(command_id) if command_id else None}
    )
    if command_id is None:
        text = "discarded; no id of a command can be read, so nobody is answered"
        return _Act(after, entry, (), text if letter.queue == COMMANDS_QUEUE else "discarded")
    closing = CloseCommand(
        command_id=command_id,
        command_type=letter.type or "unread",
        reply_to=letter.reply_to,
        reply_correlation_id=letter.correlation_id,
        reason=reason,
    )
    says = _say(closing, entry, _correlation(record) or str(command_id))
    return _Act(after, entry, (says,), "discarded; the command is answered `rejected: discarded`")


def _correlation(record: DeadLetterRecord) -> str | None:
    """That of the event itself, if it can be read."""
    letter = record.letter
    if letter.body is None:
        return None
    return decode(letter.body, content_type=letter.content_type, headers=letter.headers).correlation_id


_WITHHELD_WORDS = {
    None: "unknown why",
    dead_letters.Withheld.CARD_DATA: "it held card data",
    dead_letters.Withheld.TOO_LARGE: "it was too large",
    dead_letters.Withheld.HEADERS_TOO_LARGE: "its headers were too large",
    dead_letters.Withheld.UNSTORABLE: "the database could not take it",
    dead_letters.Withheld.UNREADABLE: "reading it failed",
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


# -- payments: looking -----------------------------------------------------------------------------------------------------------------


async def list_cases(database: Database, *, open_only: bool = True, at_most: int) -> list[KeptCase]:
    """Cases, the oldest first."""
    async with database.connection() as connection:
        return await store.select_cases(connection, open_only=open_only, at_most=at_most)


async def show_case(database: Database, payment_id: UUID) -> tuple[KeptCase, list[JournalEntry]] | None:
    """One case with what people did about it; None if there is none."""
    async with database.connection() as connection:
        kept = await store.find_case(connection, payment_id)
        return (kept, await store.entries_about(connection, payment_id)) if kept else None


# -- payments: acting ------------------------------------------------------------------------------------------------------------------


async def ask(database: Database, payment_id: UUID, *, who: str, clock: Clock = system_clock) -> ActionResult:
    """Have the payment-gateway service ask the gateway now. Only of a payment that has a case: asked about a payment it never saw, that
    service would close it for ever."""
    if (unfit := _unfit(who=who)) is not None:
        return unfit
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        if kept is None:
            return _no_case(payment_id)
        entry = JournalEntry(new_id(), clock(), who, "ask", payment_id, {"version": kept.case.version})
        question = InquirePayment(invoice_id=kept.case.invoice_id, payment_id=payment_id)
        await _record(tx, entry, _say(question, entry, kept.correlation_id))
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
    """Settle a payment in doubt, on the version that `who` saw. The payment-gateway service decides whether it is still in time."""
    if (unfit := _unfit(who=who, reason=reason, evidence=evidence, receipt_number=receipt_number)) is not None:
        return replace(unfit, subject=payment_id)
    wanted = domain.Resolve(resolution, expected_version, receipt_number)
    async with database.transaction() as tx:
        kept = await store.find_case(tx, payment_id, lock=True)
        if kept is None:
            return _no_case(payment_id)
        case = kept.case
        if (refusal := domain.refusal_of(wanted, case)) is not None:
            return ActionResult(payment_id, _why_not(refusal, wanted, case), refusal)
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
        details = command.model_dump(mode="json", exclude={"payment_id", "decided_by"})
        entry = JournalEntry(new_id(), clock(), who, "resolve", payment_id, details)
        message = _say(command, entry, kept.correlation_id)
        decision = SentDecision(message.id, expected_version, resolution, who, entry.at)
        await _record(tx, entry, message)
        await store.save_cases(tx, [(replace(case, decision=decision), kept.correlation_id)], entry.at)
        crash_points.reach("staff.resolve.before_commit")
    crash_points.reach("staff.resolve.after_commit")
    return ActionResult(
        payment_id, f"decided: {resolution.replace('_', ' ')}; the decision is on its way", entry=entry.id
    )


async def _record(tx: Connection, entry: JournalEntry, message: Outgoing) -> None:
    await store.append_entries(tx, [entry])
    await outbox.insert(tx, [message], sweep_after_s=0)


def _say(data: Contract, entry: JournalEntry, correlation_id: str) -> Outgoing:
    return encode(Draft(data), Cause(entry.id, correlation_id, entry.at), 0, source=SOURCE)


def _on_its_way(decision: SentDecision | None) -> str:
    if decision is None:
        return "a decision is on its way"
    return f"{decision.by} decided {_words(decision.resolution)} at {_shown(decision.at)}: it is on its way"


def _no_case(payment_id: UUID) -> ActionResult:
    return ActionResult(payment_id, "there is no case of this payment", ActionRefusal.UNKNOWN)


def _why_not(refusal: DecisionRefusal, wanted: domain.Resolve, case: Case) -> str:
    match refusal:
        case DecisionRefusal.NOTHING_TO_DECIDE:
            by = f" (decided by {case.decided_by})" if case.decided_by else ""
            return f"there is nothing to decide: its state is {_words(case.status)}{by}"
        case DecisionRefusal.VERSION_DIFFERS:
            return f"it stands at version {case.version} ({_words(case.status)}), not {wanted.expected_version}: look again"
        case DecisionRefusal.DOES_NOT_FIT:
            fitting = " or ".join(_words(one) for one in sorted(domain.decisions_for(case.status)))
            return f"its state is {_words(case.status)}: it can be decided as {fitting}"
        case DecisionRefusal.RECEIPT_NUMBER_REQUIRED:
            return "a captured payment needs the gateway's receipt number"
        case DecisionRefusal.DECISION_ON_ITS_WAY:
            return _on_its_way(case.decision)


# -- words of people -------------------------------------------------------------------------------------------------------------------


def _unfit(**texts: str | None) -> ActionResult | None:
    """Whether one of these must not be stored: empty, too long, or with card data in it."""
    for name, text in texts.items():
        if text is None:
            continue
        label = "name of who acts" if name == "who" else _words(name)
        if find_card_number_deep(text) or mask_cvv(text) != text:
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
