"""The tokens by which senders ask at the door: made and revoked at a terminal, and looked up by their digests."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.invoice.senders import unfit_name
from shared.card_data.scan import has_card_data
from shared.clock import Clock, system_clock
from shared.ids import new_id
from shared.persistence.database import Connection, Database
from shared.records import dataclass, field
from shared.tokens import DAYS_MAX, hash_of, new_token

LISTED_MAX: Final = 10_000
_LIST: Final = """SELECT id, sender, made_at, ends_at, revoked_at FROM sender_tokens
    WHERE $1::text IS NULL OR sender = $1 ORDER BY sender, made_at LIMIT $2"""


class UnfitTokenError(Exception):
    """No such token can be made. The text is a sentence for whoever asked for it."""


@dataclass(frozen=True, slots=True)
class SenderToken:
    """A token of a sender. Nobody can read the token itself from it."""

    id: UUID
    sender: str
    made_at: datetime
    ends_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewSenderToken:
    """A token that was made. `secret` is shown once and kept nowhere."""

    token: SenderToken
    secret: str = field(repr=False)


async def make(
    database: Database, sender: str, *, days: int, clock: Clock = system_clock, ids: Callable[[], UUID] = new_id
) -> NewSenderToken:
    """Make a token for this sender, beside those that it has, so that it can be exchanged. Raises `UnfitTokenError`."""
    if (problem := unfit_name(sender)) is not None:
        raise UnfitTokenError(f"the sender's name {problem}")
    if has_card_data(sender):
        raise UnfitTokenError("the sender's name holds card data: it cannot be that of a user of the broker")
    if not 1 <= days <= DAYS_MAX:
        raise UnfitTokenError(f"a token holds for 1 to {DAYS_MAX} days")
    now, secret = clock(), new_token()
    made = SenderToken(ids(), sender, now, now + timedelta(days=days))
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO sender_tokens (id, sender, hash, made_at, ends_at) VALUES ($1, $2, $3, $4, $5)",
            made.id,
            made.sender,
            hash_of(secret),
            made.made_at,
            made.ends_at,
        )
    return NewSenderToken(made, secret)


async def revoke(database: Database, token_id: UUID, clock: Clock = system_clock) -> SenderToken | None:
    """Make a token worth nothing, at once. None if there is none of this id. One that is worth nothing stays so."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """UPDATE sender_tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1
               RETURNING id, sender, made_at, ends_at, revoked_at""",
            token_id,
            clock(),
        )
    return SenderToken(**rows[0]) if rows else None


async def tokens(database: Database, sender: str | None = None) -> list[SenderToken]:
    """All tokens, or those of one sender; also those that are worth nothing any more."""
    async with database.connection() as connection:
        return [SenderToken(**row) for row in await connection.fetch(_LIST, sender, LISTED_MAX)]


async def sender_of(connection: Connection, secret: str) -> str | None:
    """The sender whose token this is. None if it is not known, was revoked, or has ended."""
    sender: str | None = await connection.fetchval(
        "SELECT sender FROM sender_tokens WHERE hash = $1 AND revoked_at IS NULL AND ends_at > now()", hash_of(secret)
    )
    return sender
