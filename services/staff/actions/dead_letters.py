"""What people do with dead letters: look, replay, discard."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import structlog
from pydantic import ValidationError

from services.staff import charges, dead_letters, store
from services.staff.actions import proposing
from services.staff.actions.results import (
    ActionRefusal,
    ActionResult,
    decision_entry,
    done_or_undone,
    journals_refusals,
    message_of,
    moment_text,
    unfit,
)
from services.staff.charges import OLD_AFTER, REQUESTS, ReplayedCharge
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus, Disposition
from services.staff.domain import Case
from services.staff.people import Actor, Via
from services.staff.proposals import ProposalRefusal, ProposedAct, SecondPersonLimits, Stake
from services.staff.runs import ListedCharge
from services.staff.store import JournalEntry, Selection
from shared import crash_points
from shared.clock import Clock, system_clock
from shared.contracts.invoice import CloseCommand, InvoicePaymentRequested
from shared.contracts.mistakes import mistakes
from shared.contracts.payment_gateway import ResolvePayment
from shared.ids import derived_id
from shared.messaging import dead_letter_headers, reply_address
from shared.messaging.envelope import Inbound, Outgoing
from shared.messaging.failures import fits, of_the_sender
from shared.messaging.failures import text as text_of
from shared.messaging.topology import COMMANDS, WORK_QUEUE_NAMES
from shared.persistence import outbox
from shared.persistence.database import Connection, Database, Trouble, trouble
from shared.records import dataclass, field, replace

log = structlog.get_logger(__name__)

CHUNK_MAX = 100
"""Dead letters in one transaction. Their bodies have at most 6 MiB together, and locks stay short."""
ROUTING_HEADERS = frozenset({"CC", "BCC"})
"""Headers by which RabbitMQ routes a message to further queues. If one holds anything but a list, the broker closes the channel."""


# -- queries -------------------------------------------------------------------------------------------------------------


async def list_dead_letters(
    database: Database, selection: Selection, *, at_most: int
) -> tuple[list[DeadLetterRecord], int]:
    """The selected dead letters, latest first, at most `at_most`, and the number of all that are selected."""
    async with database.connection() as connection:
        return await store.select(connection, selection, at_most=at_most), await store.count(connection, selection)


async def show_dead_letter(database: Database, letter_id: UUID) -> tuple[DeadLetterRecord, list[JournalEntry]] | None:
    """The record of a dead letter, and the actions of people on it. None if there is no such dead letter."""
    async with database.connection() as connection:
        found = await store.find_letter(connection, letter_id)
        return (found, await store.entries_about(connection, letter_id)) if found is not None else None


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


# -- actions -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Act:
    """An action on one record: the record afterwards, its journal entry, the messages to publish, and the sentence for the person."""

    record: DeadLetterRecord
    entry: JournalEntry
    says: tuple[Outgoing, ...]
    text: str
    decision: JournalEntry | None = None
    """What the same person decides about a payment with it."""

    def changing(self, before: DeadLetterRecord) -> "_Act":
        """The act with an entry that tells what it changed."""
        return replace(self, entry=self.entry.changing(before.stands, self.record.stands))


_Decide = Callable[[DeadLetterRecord, datetime], _Act | ActionResult]
AsShown = Callable[[DeadLetterRecord], bool]
"""Whether a dead letter still is as whoever acts on it saw it."""


def any_version(record: DeadLetterRecord) -> bool:  # noqa: ARG001 - whatever it is
    """Nobody saw these one by one: all that were selected are meant, as they are now."""
    return True


@journals_refusals("replay")
async def replay(
    database: Database,
    selection: Selection,
    *,
    who: Actor,
    reason: str | None = None,
    old_after: timedelta | None = OLD_AFTER,
    undo_s: int = 0,
    is_told: bool = True,
    as_shown: AsShown = any_version,
    clock: Clock = system_clock,
) -> list[ActionResult]:
    """Send the selected messages again to the queues they came from, each with its own id, properties and body.

    If the selection has neither a status nor ids, only open dead letters are replayed. There is one result for each dead letter. What may
    charge a card and is older than `old_after` is refused. None: `who` has said that it still shall charge.

    For `undo_s` seconds it can be undone: it leaves only then. `is_told`: the service that handles it tells what became of it.
    What is not `as_shown` any more is refused.
    """
    if (refused := unfit(who=who.name, reason=reason)) is not None:
        return [refused]
    replaying = _Replaying(who, reason, old_after, is_told=is_told, undo_s=undo_s)
    return await _on_each(database, _open_only(selection), who, clock, _if_as_shown(as_shown, replaying.decide), undo_s)


@journals_refusals("discard")
async def discard(
    database: Database,
    selection: Selection,
    *,
    who: Actor,
    reason: str,
    undo_s: int = 0,
    as_shown: AsShown = any_version,
    clock: Clock = system_clock,
) -> list[ActionResult]:
    """Discard the selected messages. The sender of a discarded command is answered `rejected: discarded`, after `undo_s` seconds.

    A request of a payment above the limit is not discarded yet: that is proposed, and a second person must agree.

    If the selection has neither a status nor ids, only open dead letters are discarded. There is one result for each dead letter. What is
    not `as_shown` any more is refused.
    """
    if (refused := unfit(who=who.name, reason=reason)) is not None:
        return [refused]
    async with database.connection() as connection:
        limits = await proposing.limits_of(connection)
    found = await _on_each(
        database,
        _open_only(selection),
        who,
        clock,
        _if_as_shown(as_shown, lambda record, now: _discard_or_wait(record, who, reason, now, limits, undo_s)),
        undo_s,
    )
    return [
        await _propose_discard(database, one, who, reason, clock()) if isinstance(one, _Waits) else one for one in found
    ]


@dataclass(frozen=True, slots=True)
class _Waits(ActionResult):
    """One person may not discard this request alone: it decides that a payment above the limit was not charged."""

    request: Inbound | None = None
    payment: InvoicePaymentRequested | None = None


def _discard_or_wait(
    record: DeadLetterRecord, who: Actor, reason: str, now: datetime, limits: SecondPersonLimits, undo_s: int
) -> _Act | ActionResult:
    request = _request_of(record)
    if request is None or record.status is not DeadLetterStatus.OPEN:
        return _discard(record, who, reason, now, undo_s)
    read, payment = request
    if not limits.need_second([Stake(payment.amount_minor, payment.currency)]):
        return _discard(record, who, reason, now, undo_s)
    return _Waits(record.id, "a second person must agree", ProposalRefusal.PROPOSAL_OPEN, request=read, payment=payment)


async def _propose_discard(database: Database, waits: _Waits, who: Actor, reason: str, now: datetime) -> ActionResult:
    """Propose to discard a request, on the case of its payment."""
    request, payment, letter_id = waits.request, waits.payment, waits.subject
    if request is None or payment is None or letter_id is None:
        return waits
    blank = Case(payment.payment_id, payment.invoice_id, amount_minor=payment.amount_minor, currency=payment.currency)

    async def write(tx: Connection) -> ActionResult:
        kept = await store.lock_or_open_case(tx, blank, request.correlation_id, now)
        letters = await store.lock_letters(tx, [letter_id])  # after the case, as whoever agrees locks both
        asks = {"letter_id": str(letter_id), "reason": reason}
        return (
            already_settled(letters[letter_id])
            or proposing.barred(kept, who)
            or await proposing.propose(tx, kept, ProposedAct.DISCARD, asks, who, now)
        )

    return replace(await done_or_undone(database, write), subject=letter_id)


async def discard_agreed(tx: Connection, letter_id: UUID, *, who: Actor, reason: str, now: datetime) -> ActionResult:
    """Discard a request, in the names of the two people who agreed."""
    results, messages = await _act_on(tx, [letter_id], who, now, lambda record, at: _discard(record, who, reason, at))
    await outbox.insert(tx, messages, sweep_after_s=0)
    return results[0] if results else unknown(letter_id)


def _if_as_shown(as_shown: AsShown, decide: _Decide) -> _Decide:
    """`decide`, for what is as it was shown. What is settled goes there, too: that says who was first."""

    def decided(record: DeadLetterRecord, now: datetime) -> _Act | ActionResult:
        return already_settled(record) or changed_since(record, as_shown) or decide(record, now)

    return decided


def changed_since(record: DeadLetterRecord, as_shown: AsShown) -> ActionResult | None:
    """The refusal if a dead letter is not as it was shown any more."""
    if as_shown(record):
        return None
    return ActionResult(record.id, "it changed since it was shown: look at it again", ActionRefusal.CHANGED)


def _open_only(selection: Selection) -> Selection:
    return (
        selection if selection.status or selection.ids is not None else replace(selection, status=DeadLetterStatus.OPEN)
    )


async def _on_each(
    database: Database, selection: Selection, who: Actor, clock: Clock, decide: _Decide, undo_s: int = 0
) -> list[ActionResult]:
    async with database.connection() as connection:
        found = await store.select_ids(connection, selection)
    known = set(found)
    results = [unknown(id_) for id_ in _in_order(selection.ids or ()) if id_ not in known]
    for start in range(0, len(found), CHUNK_MAX):
        results += await _on_chunk_or_each(database, found[start : start + CHUNK_MAX], who, clock, decide, undo_s)
    return results


async def _on_chunk_or_each(
    database: Database, ids: Sequence[UUID], who: Actor, clock: Clock, decide: _Decide, undo_s: int
) -> list[ActionResult]:
    """Act on all of them at once. If the database refuses what one of them would store, act on each alone: the others are done."""
    try:
        return await _on_chunk(database, ids, who, clock, decide, undo_s)
    except Exception as error:
        if trouble(error) is not Trouble.DATA:
            raise
        log.error("action_unstorable", dead_letters=len(ids), exc_info=error)  # noqa: TRY400 - the error is redacted there
        if len(ids) == 1:
            text = f"the database refuses it ({type(error).__name__}): nothing was done"
            return [ActionResult(ids[0], text, ActionRefusal.INVALID)]
    return [result for id_ in ids for result in await _on_chunk_or_each(database, [id_], who, clock, decide, undo_s)]


async def _on_chunk(
    database: Database, ids: Sequence[UUID], who: Actor, clock: Clock, decide: _Decide, undo_s: int
) -> list[ActionResult]:
    async with database.transaction() as tx:
        results, messages = await _act_on(tx, ids, who, clock(), decide)
        if undo_s:
            await outbox.insert_revocable(tx, messages, sweep_after_s=undo_s)
        else:
            await outbox.insert(tx, messages, sweep_after_s=0)
        crash_points.reach("staff.replay.before_commit")
    crash_points.reach("staff.replay.after_commit")
    return results


async def _act_on(
    tx: Connection, ids: Sequence[UUID], who: Actor, now: datetime, decide: _Decide
) -> tuple[list[ActionResult], list[Outgoing]]:
    """Act on those of these dead letters that exist. The messages are to be stored in the same transaction."""
    records = await store.lock_letters(tx, ids)
    is_open = [record.letter for record in records.values() if record.status is DeadLetterStatus.OPEN]
    barred = await proposing.barred_letters(tx, is_open, who)
    decided = [barred.get(id_) or _decided(decide, records[id_], now) for id_ in ids if id_ in records]
    acts = [act.changing(records[act.record.id]) for act in decided if isinstance(act, _Act)]
    await store.append_entries(tx, [entry for act in acts for entry in (act.entry, act.decision) if entry is not None])
    crash_points.reach("staff.replay.after_journal")
    await store.save_letters(tx, [act.record for act in acts], locked=records)
    results = [
        ActionResult(act.record.id, act.text, entry=act.entry.id) if isinstance(act, _Act) else act for act in decided
    ]
    return results, [message for act in acts for message in act.says]


async def replay_within(
    tx: Connection,
    ids: Sequence[UUID],
    *,
    who: Actor,
    reason: str | None,
    old_after: timedelta,
    now: datetime,
    is_told: bool,
    run: int,
    listed: Mapping[UUID, ListedCharge],
) -> tuple[list[ActionResult], list[Outgoing]]:
    """Replay these dead letters for a run, in its transaction, which stores the messages as well.

    `listed` is what the run's list says of them: one that would charge something else is refused.

    `is_told`: the service that handles a message tells what became of it.
    """
    replaying = _Replaying(who, reason, old_after, is_told=is_told, run=run, listed=listed)
    return await _act_on(tx, ids, who, now, replaying.decide)


def _decided(decide: _Decide, record: DeadLetterRecord, now: datetime) -> _Act | ActionResult:
    """The decision about one record. If a contract refuses what it would say, only this record is refused, not the rest of a selection."""
    try:
        return decide(record, now)
    except ValidationError as error:
        return ActionResult(record.id, f"it cannot be said: {mistakes(error)}", ActionRefusal.INVALID)


@dataclass(frozen=True, slots=True)
class _Replaying:
    """A replay by this person. What may charge and is older than `old_after` is refused; None: it still shall charge."""

    who: Actor
    reason: str | None
    old_after: timedelta | None
    is_told: bool = True
    run: int | None = None
    undo_s: int = 0
    listed: Mapping[UUID, ListedCharge] = field(default_factory=dict)

    def decide(self, record: DeadLetterRecord, now: datetime) -> _Act | ActionResult:
        """What replaying this dead letter does, or why it is not replayed."""
        letter = record.letter
        if (refused := not_replayable(record) or self._not_to_be_charged(record, now)) is not None:
            return refused
        details: dict[str, object] = {
            "queue": letter.queue,
            "message_id": letter.message_id,
            "replays": record.replays + 1,
            "reason": self.reason,
        }
        details |= {"run": self.run} if self.run is not None else {}
        details |= {"undo_s": self.undo_s} if self.undo_s else {}
        entry = JournalEntry.of(self.who, now, "replay", record.id, details)
        after = dead_letters.replayed(record, Disposition(self.who.name, now, self.reason), entry.id)
        message = replayed_message(after, entry.id, is_told=self.is_told)
        return _Act(after, entry, (message,), f"replayed to {letter.queue}")

    def _not_to_be_charged(self, record: DeadLetterRecord, now: datetime) -> ActionResult | None:
        charge = charges.charge_of(record) if self.old_after is not None else None
        if charge is None or self.old_after is None:
            return None
        amount = charge.amount_text
        listed = self.listed.get(record.id)
        if listed is not None and not (listed.may_charge and _is_as_listed(charge, listed)):
            text = f"it would charge {amount}, which the list does not show: it came anew since"
            return ActionResult(record.id, text, ActionRefusal.CHANGED)
        if (listed is not None and listed.is_taken_in) or not charge.is_old(now, self.old_after):
            return None
        text = f"it would charge {amount} and was sent at {moment_text(charge.since)}: {self._what_then()}"
        return ActionResult(record.id, text, ActionRefusal.OLD_CHARGE)

    def _what_then(self) -> str:
        if self.who.via is Via.TERMINAL:
            return "say that it still shall (--charge-old)"
        return "discard it and ask the sender, or have a second person take it into a run"


def _is_as_listed(charge: ReplayedCharge, listed: ListedCharge) -> bool:
    return (charge.currency, charge.amount_minor) == (listed.currency, listed.amount_minor)


def not_replayable(record: DeadLetterRecord) -> ActionResult | None:
    """Why a dead letter cannot be replayed by anybody; None if it can."""
    letter = record.letter
    if (settled := already_settled(record)) is not None:
        return settled
    if letter.body is None:
        text = f"its body was not kept ({_WITHHELD_WORDS[letter.withheld]}): it cannot be replayed, only discarded"
        return ActionResult(record.id, text, ActionRefusal.BODY_WITHHELD)
    if letter.queue not in WORK_QUEUE_NAMES:
        text = f"it came from {letter.queue}, which is no work queue of Remit: it cannot be replayed, only discarded"
        return ActionResult(record.id, text, ActionRefusal.NO_SUCH_QUEUE)
    return None


def replayed_message(record: DeadLetterRecord, entry_id: UUID, *, is_told: bool = True) -> Outgoing:
    """The message as it first came, with a header that counts its replays, and one with the name of its sender.

    A message without an id gets the id of its record, so that its next failure is recognised. In the outbox each replay has its own id,
    because the same message may wait there for two queues at once.
    """
    letter = record.letter
    headers: dict[str, str | int] = {
        name: value
        for name, value in of_the_sender(letter.headers).items()
        if isinstance(value, str | int) and name not in ROUTING_HEADERS and fits(name)  # redaction can make it longer
    }
    headers[dead_letter_headers.REPLAYS] = record.replays
    if is_told:
        headers[dead_letter_headers.REPLAY_ID] = str(entry_id)
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


def _discard(record: DeadLetterRecord, who: Actor, reason: str, now: datetime, undo_s: int = 0) -> _Act | ActionResult:
    if (settled := already_settled(record)) is not None:
        return settled
    letter = record.letter
    after = dead_letters.discarded(record, Disposition(who.name, now, reason))
    command_id = letter.event_id if letter.queue == COMMANDS else None
    details: dict[str, object] = {"queue": letter.queue, "message_id": letter.message_id, "reason": reason}
    closes = {"closes": str(command_id) if command_id else None} | ({"undo_s": undo_s} if undo_s else {})
    entry = JournalEntry.of(who, now, "discard", record.id, details | closes)
    if (request := _request_of(record)) is not None:
        return _discard_request(after, entry, who, *request)
    if command_id is None:
        text = "discarded; no id of a command can be read, so nobody is answered"
        return _Act(after, entry, (), text if letter.queue == COMMANDS else "discarded")
    message = closing_message(letter, command_id, entry, reason)
    return _Act(after, entry, (message,), "discarded; the command is answered `rejected: discarded`")


def closing_message(
    letter: DeadLetter, command_id: UUID, entry: JournalEntry, reason: str, replaced_by: UUID | None = None
) -> Outgoing:
    """The message that has the sender of a command answered: it was given up, or another one was sent in its place."""
    read = charges.read_body(letter)
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
        replaced_by=replaced_by,
    )
    return message_of(closing, entry, (read.correlation_id if read is not None else None) or str(command_id))


def _request_of(record: DeadLetterRecord) -> tuple[Inbound, InvoicePaymentRequested] | None:
    """The request of a payment that only the invoice service can have sent. None if the letter is something else."""
    read = charges.read_body(record.letter) if record.letter.queue == REQUESTS else None
    if isinstance(read, Inbound) and isinstance(read.data, InvoicePaymentRequested):
        return read, read.data
    return None


def _discard_request(
    after: DeadLetterRecord, entry: JournalEntry, who: Actor, read: Inbound, requested: InvoicePaymentRequested
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
    decision = decision_entry(command, who, entry.at)
    entry = replace(
        entry, details={**entry.details, "decision": str(decision.id), "payment_id": str(requested.payment_id)}
    )
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


def withheld_words(withheld: dead_letters.Withheld | None) -> str:
    """Why a body was not kept, in words."""
    return _WITHHELD_WORDS[withheld]


def already_settled(record: DeadLetterRecord) -> ActionResult | None:
    settled = record.settlement
    if record.status is DeadLetterStatus.OPEN or settled is None:
        return None
    text = f"already {record.status} by {settled.by} at {moment_text(settled.at)}: nothing was sent now"
    refusal = (
        ActionRefusal.ALREADY_REPLAYED
        if record.status is DeadLetterStatus.REPLAYED
        else ActionRefusal.ALREADY_DISCARDED
    )
    return ActionResult(record.id, text, refusal)


def unknown(letter_id: UUID) -> ActionResult:
    return ActionResult(letter_id, "there is no dead letter of this id", ActionRefusal.UNKNOWN)


def _in_order(ids: Iterable[UUID]) -> list[UUID]:
    return list(dict.fromkeys(ids))
