"""The inbox of commands: it recognises a repeated command by its stored answer. Every command gets exactly one answer.

The answer is stored in the transaction that handles the command, and sent to `reply_to` if there is one. If the command comes again, the
same answer is sent again. If another command comes with the same id, its sender is told so, and the stored answer stays. A command that can
never be read, or that upstream may not send, is answered here and reaches no handler.
"""

from collections.abc import Sequence
from uuid import UUID

from services.invoice import answers
from services.invoice.answers import CommandResult, StoredAnswer
from shared.batch.inbox import DeadLettered, DecidedBatch, Item
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.contracts.invoice import AnswerReason, CloseCommand, CommandAnswered, InvoiceCommandRejected
from shared.ids import derived_id, id_of_card_refusal, read_uuid
from shared.messaging.codec import Malformed, encode
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.messaging.reply_address import problem_of
from shared.persistence.database import Tx
from shared.records import dataclass, replace

SOURCE = "invoice"


@dataclass(frozen=True, slots=True)
class RefusedCommand(Item):
    """A command that is rejected at the border, with its answer.

    `command_id` is the id that the sender gave it. The answer to a command with card data is stored under another id, so that the command
    can come again under its own.
    """

    answer: StoredAnswer
    command_id: UUID


class CommandInbox:
    """The inbox of `invoice.commands`."""

    def admit(self, delivery: Delivery, read: Inbound | Malformed) -> Item | DeadLettered:
        """Decide whether a delivery is a command for the handler, a command that is rejected here, or a dead letter."""
        if isinstance(read, Malformed):
            return _refuse_malformed(delivery, read)
        if read.type not in PUBLIC_COMMANDS:
            return _refuse(delivery, read, AnswerReason.NOT_PUBLIC, "this type is not a public command")
        if delivery.reply_to and (problem := problem_of(delivery.reply_to)) is not None:
            return _refuse(delivery, read, AnswerReason.REPLY_TO_NOT_ALLOWED, problem)
        return Item(read.id, delivery, read)

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:
        return set(await answers.load(tx, {item.id for item in items}))

    async def record(self, writes: Tx, decided: DecidedBatch) -> Sequence[Outgoing]:
        """Collect the answers of fresh commands. Returns the messages with them, and with the stored answers of repeated commands."""
        new, outgoing = answer_fresh(decided)
        await answers.insert(writes, list(new.values()))
        if decided.repeated:
            stored = await answers.load(writes, {item.id for item in decided.repeated}) | new
            for item in decided.repeated:
                outgoing += _answer_again(item, stored[item.id], decided)
        return outgoing


def answer_fresh(decided: DecidedBatch) -> tuple[dict[UUID, StoredAnswer], list[Outgoing]]:
    """The answers of the fresh commands, by command id, and the messages that announce them. Pure."""
    new: dict[UUID, StoredAnswer] = {}
    outgoing: list[Outgoing] = []
    for item in decided.fresh:
        answer, cause = _answer(item, decided)
        new[item.id] = answer
        told = _as_told(item, answer)
        outgoing += announce_answer(
            told,
            cause,
            reply_to=_reply_to(item.delivery.reply_to),
            correlation_id=_correlation(item),
            causation_id=told.command_id,
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
    """The messages about a new answer: an event if the command is rejected, and the answer itself if there is a `reply_to`."""
    outgoing = []
    if answer.answer == "rejected":
        rejected = InvoiceCommandRejected(
            command_id=answer.command_id,
            command_type=answer.command_type,
            invoice_id=answer.invoice_id,
            reason=answer.reason or "unknown",
        )
        outgoing.append(encode(Draft(rejected), cause, 0, source=SOURCE, causation_id=causation_id))
    if reply_to is not None:
        outgoing.append(_to_sender(answer, cause, reply_to, correlation_id))
    return outgoing


async def close_answers(writes: Tx, closed: Sequence[tuple[Cause, CloseCommand]]) -> list[Outgoing]:
    """Store the final answers of discarded commands, and return the messages with them. A command that has an answer keeps it."""
    if not closed:
        return []
    answered = set(await answers.load(writes, {close.command_id for _, close in closed}))
    new: list[StoredAnswer] = []
    outgoing: list[Outgoing] = []
    for cause, close in closed:
        if close.command_id in answered:
            continue
        answered.add(close.command_id)
        answer = StoredAnswer(
            close.command_id,
            close.command_type,
            "rejected",
            cause.correlation_id,
            reason=AnswerReason.DISCARDED.value,
        )
        new.append(answer)
        outgoing += announce_answer(
            answer, cause, reply_to=_reply_to(close.reply_to), correlation_id=close.reply_correlation_id
        )
    await answers.insert(writes, new)
    return outgoing


def _answer(item: Item, decided: DecidedBatch) -> tuple[StoredAnswer, Cause]:
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
    )
    return answer, change.cause


def _as_told(item: Item, answer: StoredAnswer) -> StoredAnswer:
    """The answer under the id by which its sender knows the command."""
    return replace(answer, command_id=item.command_id) if isinstance(item, RefusedCommand) else answer


def _answer_again(item: Item, stored: StoredAnswer, decided: DecidedBatch) -> list[Outgoing]:
    stored = _as_told(item, stored)
    reply_to = _reply_to(item.delivery.reply_to)
    if reply_to is None:
        return []
    if _is_another_command(item, stored):
        detail = "another command came under this id before"
        stored = replace(stored, answer="rejected", reason=AnswerReason.COMMAND_ID_REUSED.value, detail=detail)
    cause = Cause(stored.command_id, stored.correlation_id, decided.now)
    return [_to_sender(stored, cause, reply_to, _correlation(item))]


def _is_another_command(item: Item, stored: StoredAnswer) -> bool:
    """Whether type or data of a repeated command differ from those of the first. False if the content of one is unknown."""
    new_hash = (
        item.answer.content_hash if isinstance(item, RefusedCommand) else item.message and item.message.content_hash
    )
    return new_hash is not None and stored.content_hash is not None and new_hash != stored.content_hash


def _to_sender(answer: StoredAnswer, cause: Cause, reply_to: str, correlation_id: str | None) -> Outgoing:
    """The message with the answer for one sender.

    The queue of the sender is part of the message's id, so that each sender gets a copy of its own. The reason is part of it too, because
    the answer to a reused id differs from the first one.
    """
    position = f"answer:{reply_to}:{answer.reason}"
    draft = Draft(
        CommandAnswered(command_id=answer.command_id, answer=answer.answer, reason=answer.reason, detail=answer.detail),
        message_id=derived_id(answer.command_id, position),
        reply_to=reply_to,
        reply_correlation_id=correlation_id,
    )
    return encode(draft, cause, position, source=SOURCE, causation_id=answer.command_id)


# -- refused at the border ---------------------------------------------------------------------------------------------------------------


def _refuse(delivery: Delivery, read: Inbound, reason: AnswerReason, detail: str) -> RefusedCommand:
    answer = StoredAnswer(
        command_id=read.id,
        command_type=read.type,
        answer="rejected",
        correlation_id=read.correlation_id,
        reason=reason.value,
        detail=detail,
        content_hash=read.content_hash,
    )
    return RefusedCommand(read.id, delivery, None, answer, read.id)


def _refuse_malformed(delivery: Delivery, malformed: Malformed) -> RefusedCommand | DeadLettered:
    """Reject a command that can never be read, if its id is known: its own id, or that of AMQP.

    As a dead letter it would wait for a person who can only discard it, because the same bytes fail again. A message is a dead letter if a
    later version may be able to read it, or if its id is unknown, since then nobody can be answered.
    """
    command_id = read_uuid(delivery.message_id)
    if malformed.id is not None and not malformed.reason.is_card_data:
        command_id = malformed.id  # nothing of a body with card data is used, not even its id
    if command_id is None or not malformed.reason.is_permanent:
        return DeadLettered(delivery, str(malformed.reason), malformed.detail)
    kept_as = id_of_card_refusal(command_id) if malformed.reason.is_card_data else command_id
    answer = StoredAnswer(
        command_id=kept_as,
        command_type=malformed.type if malformed.type in BY_WIRE_NAME else "unread",
        answer="rejected",
        correlation_id=malformed.correlation_id or str(command_id),
        reason=str(malformed.reason),
        detail=malformed.detail,
        content_hash=malformed.content_hash,
    )
    return RefusedCommand(kept_as, delivery, None, answer, command_id)


def _reply_to(asked: str | None) -> str | None:
    """The queue to answer to, or None. Queues of Remit, and addresses that the broker cannot carry, are never answered."""
    return asked if asked and problem_of(asked) is None else None


def _correlation(item: Item) -> str | None:
    """The correlation id by which the sender recognises its answer."""
    return item.delivery.correlation_id or (item.message.correlation_id if item.message is not None else None)
