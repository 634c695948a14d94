"""The one final answer of every command, stored by command id.

A command that has an answer was handled. The stored answer counts, even if the message with the answer was lost or dropped. It is kept as
long as the invoice.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Literal
from uuid import UUID

from shared.persistence.database import Tx
from shared.records import dataclass

_COLUMNS = "command_id, command_type, answer, correlation_id, reason, detail, invoice_id, content_hash"
_ROW = attrgetter(*_COLUMNS.split(", "))


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command: accepted (`reason` is None), or rejected with a reason code. `detail` is a sentence for people."""

    reason: str | None = None
    detail: str | None = None


ACCEPTED = CommandResult()


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A stored answer. `content_hash` is None if nothing of the command may be stored (card data), or if it was discarded unread."""

    command_id: UUID
    command_type: str
    answer: Literal["accepted", "rejected"]
    correlation_id: str
    reason: str | None = None
    detail: str | None = None
    invoice_id: str | None = None
    content_hash: bytes | None = None


async def load(tx: Tx, command_ids: Iterable[UUID]) -> dict[UUID, StoredAnswer]:
    """The stored answers of those commands that have one."""
    rows = await tx.fetch(
        f"SELECT {_COLUMNS} FROM answers WHERE command_id = ANY($1::uuid[])",  # noqa: S608 - our names
        list(command_ids),
    )
    return {row["command_id"]: StoredAnswer(**row) for row in rows}


async def insert(tx: Tx, answers: Sequence[StoredAnswer]) -> None:
    """Store answers. If a command id has one already, that is a unique violation, which is a conflict: the batch is repeated."""
    if not answers:
        return
    await tx.execute(
        f"INSERT INTO answers ({_COLUMNS}) SELECT * FROM unnest($1::answer_row[])",  # noqa: S608 - our names
        list(map(_ROW, answers)),
    )
