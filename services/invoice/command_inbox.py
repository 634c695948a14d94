"""The inbox of commands: it recognises a repeated command by its stored answer. Every command gets exactly one answer.

The answer is stored in the transaction that handles the command, and sent to `reply_to` if there is one. If the command comes again, the
same answer is sent again. If another command comes with the same id, its sender is told so, and the stored answer stays. A command that can
never be read, or that its sender may not send, is answered here and reaches no handler.

Where senders are named, each has its own ids: a command is kept under an id that is derived from its own and the sender's name. This id is
also the cause of what follows from it.
"""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from services.invoice import answers, set_aside
from services.invoice.answers import CommandResult, StoredAnswer
from services.invoice.senders import Senders
from shared.batch.inbox import DeadLettered, DecidedBatch, Item
from shared.contracts.catalogue import BY_WIRE_NAME, EVENTS, PUBLIC_COMMANDS
from shared.contracts.invoice import AnswerReason, CloseCommand, CommandAnswered, InvoiceCommandRejected
from shared.ids import derived_id, id_of_card_refusal, id_of_unidentified, read_uuid
from shared.messaging.codec import Malformed, MalformedReason, encode
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.persistence.database import Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

SOURCE = "invoice"
TRUSTED = Senders()


@dataclass(frozen=True, slots=True)
class ReceivedCommand(Item):
    """A command of a sender: `command_id` is the id that the sender gave it, `reply_to` where it is answered, if anywhere.

    `id` is the one under which it is kept. `other_id` is the one under which it may be kept if it came before `SENDERS` was changed.
    """

    command_id: UUID
    sender: str | None
    other_id: UUID | None
    reply_to: str | None


@dataclass(frozen=True, slots=True)
class RefusedCommand(ReceivedCommand):
    """A command that is rejected at the border, with its answer.

    The answer to a command with card data is stored under an id that is not the command's, so that the command can come again under its
    own.
    """

    answer: StoredAnswer


@dataclass(frozen=True, slots=True)
class CommandInbox:
    """The inbox of `invoice.commands`."""

    senders: Senders = TRUSTED

    def admit(self, delivery: Delivery, read: Inbound | Malformed) -> Item | DeadLettered:
        """Decide whether a delivery is a command for the handler, a command that is rejected here, or a dead letter."""
        sender = self.senders.name_of(delivery)
        reply_to = self.senders.answers_to(delivery.reply_to, sender)
        if isinstance(read, Malformed):
            return self._refuse_malformed(delivery, read, sender, reply_to)
        if (refusal := self._refusal(delivery, read, sender)) is not None:
            return self._refuse(delivery, read, sender, reply_to, *refusal)
        kept_as, other_id = self.senders.ids_of(read.id, sender)
        message = read if sender is None else replace(read, id=kept_as, sender=sender)
        return ReceivedCommand(kept_as, delivery, message, read.id, sender, other_id, reply_to)

    def _refusal(self, delivery: Delivery, read: Inbound, sender: str | None) -> tuple[AnswerReason, str] | None:
        """Why the sender may not send this, as a reason and a sentence."""
        if sender is None and self.senders.are_named:
            return AnswerReason.SENDER_UNKNOWN, "user_id does not say who sent this"
        if read.type not in PUBLIC_COMMANDS:
            return AnswerReason.NOT_PUBLIC, NOT_A_COMMAND
        if (problem := self.senders.problem_of(delivery.reply_to, sender)) is not None:
            return AnswerReason.REPLY_TO_NOT_ALLOWED, problem
        return None

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:
        return set(await _stored(tx, items))

    async def record(self, writes: WriteBatch, decided: DecidedBatch) -> Sequence[Outgoing]:
        """Collect the answers of fresh commands. Returns the messages with them, and with the stored answers of repeated commands."""
        new, outgoing = answer_fresh(decided)
        others = {other: item.sender for item in _commands(decided.fresh) if (other := item.other_id) is not None}
        await answers.insert(writes, list(new.values()), others)
        if decided.repeated:
            stored = await _stored(writes, decided.repeated) | new
            for item in _commands(decided.repeated):
                outgoing += _answer_again(item, stored[item.id], decided)
        return outgoing

    async def note_set_aside(self, tx: Tx, dead_lettered: Sequence[DeadLettered]) -> None:
        """Note it for senders who ask. One that has an answer keeps it, whatever became of a repetition."""
        await set_aside.note(tx, {entry.id: entry.reason for entry in dead_lettered if entry.id is not None})

    def refused(self, decided: DecidedBatch) -> Mapping[UUID, str]:
        """The fresh commands that are rejected, and why."""
        answers_ = {item.id: _answer(item, decided)[0] for item in _commands(decided.fresh)}
        return {id_: answer.reason or "unknown" for id_, answer in answers_.items() if answer.answer == "rejected"}

    # -- refused at the border -------------------------------------------------------------------------------------------------------

    def _refuse(
        self,
        delivery: Delivery,
        read: Inbound,
        sender: str | None,
        reply_to: str | None,
        reason: AnswerReason,
        detail: str,
    ) -> RefusedCommand:
        kept_as, other_id = self.senders.ids_of(read.id, sender)
        answer = StoredAnswer(
            command_id=kept_as,
            command_type=read.type,
            answer="rejected",
            correlation_id=read.correlation_id,
            reason=reason.value,
            detail=detail,
            content_hash=read.content_hash,
            outline_hash=read.outline_hash,
            sender=sender,
            sent_id=_if_other(read.id, kept_as),
        )
        return RefusedCommand(kept_as, delivery, None, read.id, sender, other_id, reply_to, answer)

    def _refuse_malformed(
        self, delivery: Delivery, malformed: Malformed, sender: str | None, reply_to: str | None
    ) -> RefusedCommand | DeadLettered:
        """Reject a command that can never be read, if there is anybody to tell.

        As a dead letter it would wait for a person who can only discard it, because the same bytes fail again. A message is a dead letter
        if a later version may be able to read it, or if it has neither an id nor an address for the answer.
        """
        command_id = _id_of_malformed(delivery, malformed, sender, reply_to)
        if command_id is None:
            return DeadLettered(delivery, str(malformed.reason), malformed.detail)
        kept_as, other_id = self.senders.ids_of(command_id, sender)
        if not malformed.reason.is_permanent:
            return DeadLettered(delivery, str(malformed.reason), malformed.detail, id=kept_as)
        if malformed.reason.is_card_data:
            kept_as, other_id = id_of_card_refusal(kept_as), id_of_card_refusal(other_id) if other_id else None
        reason, detail = _told_of(malformed)
        answer = StoredAnswer(
            command_id=kept_as,
            command_type=malformed.type if malformed.type in BY_WIRE_NAME else "unread",
            answer="rejected",
            correlation_id=malformed.correlation_id or str(command_id),
            reason=reason,
            detail=detail,
            content_hash=malformed.content_hash,
            outline_hash=malformed.outline_hash,
            sender=sender,
            sent_id=_if_other(command_id, kept_as),
        )
        return RefusedCommand(kept_as, delivery, None, command_id, sender, other_id, reply_to, answer)


def _id_of_malformed(delivery: Delivery, malformed: Malformed, sender: str | None, reply_to: str | None) -> UUID | None:
    """The command's own id, or that of AMQP, or one of ours if there is an address for the answer. None if nobody can be told.

    Nothing of a body with card data is used, not even its id.
    """
    if malformed.id is not None and not malformed.reason.is_card_data:
        return malformed.id
    said = read_uuid(delivery.message_id)
    if said is not None or reply_to is None:
        return said
    content = malformed.content_hash or malformed.outline_hash
    return id_of_unidentified(
        sender, reply_to, delivery.correlation_id, delivery.message_id, content.hex() if content else None
    )


def _told_of(malformed: Malformed) -> tuple[str, str]:
    """The reason and the detail of the answer. A message of a service is refused for its type: corrected it would be refused again."""
    match malformed.reason:
        case MalformedReason.UNKNOWN_TYPE:
            return malformed.reason, COMMANDS_KNOWN
        case MalformedReason.INVALID_DATA if malformed.type not in PUBLIC_COMMANDS:
            return AnswerReason.NOT_PUBLIC, NOT_A_COMMAND
        case reason:
            return reason, malformed.detail


_THE_COMMANDS = f"the commands are {', '.join(sorted(PUBLIC_COMMANDS))}"
COMMANDS_KNOWN = f"no message of this type is known here; {_THE_COMMANDS}"
NOT_A_COMMAND = f"this type is not for senders; {_THE_COMMANDS}"
_CARD_DATA = {reason.value for reason in MalformedReason if reason.is_card_data}


def _commands(items: Iterable[Item]) -> Iterable[ReceivedCommand]:
    return (item for item in items if isinstance(item, ReceivedCommand))


def _if_other(sent_id: UUID, kept_as: UUID) -> UUID | None:
    return None if sent_id == kept_as else sent_id


async def _stored(tx: Tx, items: Iterable[Item]) -> dict[UUID, StoredAnswer]:
    """The stored answers of those commands that have one, by the ids under which the commands are kept now."""
    commands = list(_commands(items))
    found = await answers.load(tx, {id_ for item in commands for id_ in (item.id, item.other_id) if id_ is not None})
    stored: dict[UUID, StoredAnswer] = {}
    for item in commands:
        if (answer := _answer_of(found, item.id, item.other_id, item.sender)) is not None:
            stored[item.id] = answer
    return stored


def _answer_of(
    found: Mapping[UUID, StoredAnswer], kept_as: UUID, other_id: UUID | None, sender: str | None
) -> StoredAnswer | None:
    """The stored answer of a command: under its own id, else under the other one, if it may be of this sender."""
    if (answer := found.get(kept_as)) is not None:
        return answer
    other = found.get(other_id) if other_id is not None else None
    return other if other is not None and other.is_of(sender) else None


def answer_fresh(decided: DecidedBatch) -> tuple[dict[UUID, StoredAnswer], list[Outgoing]]:
    """The answers of the fresh commands, by the ids under which they are kept, and the messages that announce them. Pure."""
    new: dict[UUID, StoredAnswer] = {}
    outgoing: list[Outgoing] = []
    for item in _commands(decided.fresh):
        answer, cause = _answer(item, decided)
        new[item.id] = answer
        outgoing += announce_answer(
            answer,
            cause,
            reply_to=item.reply_to,
            correlation_id=_correlation(item),
            causation_id=item.command_id,
        )
    return new, outgoing


def announce_answer(
    answer: StoredAnswer,
    cause: Cause,
    *,
    reply_to: str | None,
    correlation_id: str | None,
    causation_id: UUID | None = None,
) -> list[Outgoing]:
    """The messages about a new answer: an event if the command is rejected, and the answer itself if there is a `reply_to`.

    No event tells of the rejection of an event: if somebody bound the exchange of our events to that of commands, this would never end.
    """
    outgoing = []
    if answer.answer == "rejected" and answer.command_type not in EVENTS:
        rejected = InvoiceCommandRejected(
            command_id=answer.told_id,
            command_type=answer.command_type,
            invoice_id=answer.invoice_id,
            reason=answer.reason or "unknown",
        )
        outgoing.append(encode(Draft(rejected), cause, 0, source=SOURCE, causation_id=causation_id))
    if reply_to is not None:
        outgoing.append(_to_sender(answer, cause, reply_to, correlation_id))
    return outgoing


async def close_answers(
    writes: WriteBatch, closed: Sequence[tuple[Cause, CloseCommand]], senders: Senders
) -> list[Outgoing]:
    """Store the final answers of discarded commands, and return the messages with them. A command that has an answer keeps it."""
    if not closed:
        return []
    ids = [senders.ids_of(close.command_id, close.sender) for _, close in closed]
    found = await answers.load(writes, {id_ for pair in ids for id_ in pair if id_ is not None})
    new: dict[UUID, StoredAnswer] = {}
    outgoing: list[Outgoing] = []
    for (cause, close), (kept_as, other_id) in zip(closed, ids, strict=True):
        if kept_as in new or _answer_of(found, kept_as, other_id, close.sender) is not None:
            continue
        new[kept_as] = answer = StoredAnswer(
            kept_as,
            close.command_type,
            "rejected",
            cause.correlation_id,
            reason=(AnswerReason.REPLACED if close.replaced_by else AnswerReason.DISCARDED).value,
            detail=f"staff sent {close.replaced_by} in its place" if close.replaced_by else close.reason,
            content_hash=bytes.fromhex(close.content_hash) if close.content_hash else None,
            outline_hash=bytes.fromhex(close.outline_hash) if close.outline_hash else None,
            sender=close.sender,
            sent_id=_if_other(close.command_id, kept_as),
        )
        outgoing += announce_answer(
            answer,
            cause,
            reply_to=senders.answers_to(close.reply_to, close.sender),
            correlation_id=close.reply_correlation_id,
        )
    await answers.insert(writes, list(new.values()))
    return outgoing


def _answer(item: ReceivedCommand, decided: DecidedBatch) -> tuple[StoredAnswer, Cause]:
    if isinstance(item, RefusedCommand):
        return item.answer, Cause(item.id, item.answer.correlation_id, decided.now)
    change = decided.changes[item.id]
    message = change.message
    result = next(effect for effect in change.reaction.effects if isinstance(effect, CommandResult))
    answer = StoredAnswer(
        command_id=message.id,
        command_type=message.type,
        answer="accepted" if result.reason is None else "rejected",
        correlation_id=message.correlation_id,
        reason=result.reason,
        detail=result.detail,
        invoice_id=message.data.subject(),
        content_hash=message.content_hash,
        outline_hash=message.outline_hash,
        sender=item.sender,
        sent_id=_if_other(item.command_id, message.id),
    )
    return answer, change.cause


def _answer_again(item: ReceivedCommand, stored: StoredAnswer, decided: DecidedBatch) -> list[Outgoing]:
    if item.reply_to is None:
        return []
    stored = replace(stored, sent_id=item.command_id)
    if isinstance(item, RefusedCommand) and item.answer.reason in _CARD_DATA:
        stored = (
            item.answer
        )  # nothing tells whether it is the same command, and no id is spent: it hears of this refusal
    elif _is_another_command(item, stored):
        detail = "another command came under this id before"
        stored = replace(stored, answer="rejected", reason=AnswerReason.COMMAND_ID_REUSED.value, detail=detail)
    cause = Cause(stored.command_id, stored.correlation_id, decided.now)
    return [_to_sender(stored, cause, item.reply_to, _correlation(item))]


def _is_another_command(item: ReceivedCommand, stored: StoredAnswer) -> bool:
    """Whether type or data of a repeated command differ from those of the first.

    Where no content hash is kept, outlines are compared: then the two may differ in long numbers.

    If nothing is known of one of them, nobody can say, so it counts as another: except if it is refused here and now in the very words in
    which the first one was, since then the stored answer tells its sender nothing new.
    """
    refused = item.answer if isinstance(item, RefusedCommand) else None
    new = refused or item.message
    if new is not None:
        for one, other in ((new.content_hash, stored.content_hash), (new.outline_hash, stored.outline_hash)):
            if one is not None and other is not None:
                return one != other
    return refused is None or (refused.reason, refused.detail) != (stored.reason, stored.detail)


def _to_sender(answer: StoredAnswer, cause: Cause, reply_to: str, correlation_id: str | None) -> Outgoing:
    """The message with the answer for one sender.

    The queue of the sender is part of the message's id, so that each sender gets a copy of its own. The reason is part of it too, because
    the answer to a reused id differs from the first one.
    """
    position = f"answer:{reply_to}:{answer.reason}"
    draft = Draft(
        CommandAnswered(command_id=answer.told_id, answer=answer.answer, reason=answer.reason, detail=answer.detail),
        message_id=derived_id(answer.command_id, position),
        reply_to=reply_to,
        reply_correlation_id=correlation_id,
    )
    return encode(draft, cause, position, source=SOURCE, causation_id=answer.told_id)


def _correlation(item: Item) -> str | None:
    """The correlation id by which the sender knows its answer: its own, else that of the event, else the id of a message without one."""
    delivery = item.delivery
    if delivery.correlation_id or item.message is not None:
        return delivery.correlation_id or (item.message.correlation_id if item.message is not None else None)
    return delivery.message_id if read_uuid(delivery.message_id) is None else None
