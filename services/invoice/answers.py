"""The one final answer of every command, stored by command id, or by its sender's name and command id (`Senders.ids_of`).

A command that has an answer was handled. The stored answer counts, even if the message with the answer was lost or dropped. It is kept as
long as the invoice.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from shared.persistence.database import Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

_COLUMNS = "command_id, command_type, answer, correlation_id, reason, detail, invoice_id, content_hash, outline_hash, sender, sent_id"
_ROW = attrgetter(*_COLUMNS.split(", "))


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command: accepted (`reason` is None), or rejected with a reason code. `detail` is a sentence for people."""

    reason: str | None = None
    detail: str | None = None


ACCEPTED = CommandResult()
NOTHING: Mapping[UUID, str | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A stored answer. The hashes are None if nothing of the command may be stored (card data), or if it was discarded unread.

    `outline_hash` is over the content without long numbers, if it has some. Where one of them may be a card number, no `content_hash` is
    stored: the number could be found from it by trying all of them.

    `command_id` is the id under which it is kept, and `sent_id` the id that its sender gave the command, if that is another one.
    """

    command_id: UUID
    command_type: str
    answer: Literal["accepted", "rejected"]
    correlation_id: str
    reason: str | None = None
    detail: str | None = None
    invoice_id: str | None = None
    content_hash: bytes | None = None
    outline_hash: bytes | None = None
    sender: str | None = None
    sent_id: UUID | None = None

    @property
    def told_id(self) -> UUID:
        """The id by which the sender knows the command."""
        return self.sent_id or self.command_id

    def as_kept(self) -> "StoredAnswer":
        """The answer as it is stored. Of a rejected command nothing else is, so a purge would find no card number there."""
        if self.answer == "accepted" or self.outline_hash is None:
            return self
        return replace(self, content_hash=None)

    def is_of(self, sender: str | None) -> bool:
        """Whether it may be an answer to a command of this sender, which came under the same id."""
        return self.sender is None or self.sender == sender


async def load(tx: Tx, command_ids: Iterable[UUID]) -> dict[UUID, StoredAnswer]:
    """The stored answers of those commands that have one."""
    rows = await tx.fetch(
        f"SELECT {_COLUMNS} FROM answers WHERE command_id = ANY($1::uuid[])",  # noqa: S608 - our names
        list(command_ids),
    )
    return {row["command_id"]: StoredAnswer(**row) for row in rows}


async def insert(
    writes: WriteBatch, answers: Sequence[StoredAnswer], also: Mapping[UUID, str | None] = NOTHING
) -> None:
    """Store answers. If a command id has one already, that is a unique violation, which is a conflict: the batch is repeated.

    `also` has the ids under which the same commands may have been answered before `SENDERS` was changed, with their senders. If one was,
    that is a conflict as well.
    """
    if not answers:
        return
    rows = [_ROW(answer.as_kept()) for answer in answers]
    if also:
        await writes.execute(_INSERT_UNLESS, rows, list(also), list(also.values()), rows=len(rows))
    else:
        await writes.execute(_INSERT, rows)


_INSERT = f"INSERT INTO answers ({_COLUMNS}) SELECT u.* FROM unnest($1::answer_row_3[]) u"  # noqa: S608 - our names
_INSERT_UNLESS = f"""{_INSERT} WHERE NOT EXISTS (
    SELECT FROM unnest($2::uuid[], $3::text[]) AS o (id, sender) JOIN answers a ON a.command_id = o.id
    WHERE a.sender IS NULL OR a.sender = o.sender) RETURNING command_id"""
