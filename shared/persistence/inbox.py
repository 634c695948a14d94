"""Messages already handled, by id: a second delivery changes nothing."""

from collections.abc import Sequence
from uuid import UUID

from shared.persistence.database import Tx
from shared.persistence.retention import RetentionRule

RETENTION_DAYS = 30
"""Longer than a dead letter is left alone; beyond it the domain itself recognises what was done (done twice decides nothing)."""
RETENTION = RetentionRule(
    "inbox",
    RETENTION_DAYS,
    """DELETE FROM inbox WHERE message_id = ANY(ARRAY(
           SELECT message_id FROM inbox WHERE handled_at < now() - make_interval(days => $1) ORDER BY handled_at LIMIT $2))""",
)


async def insert_new(tx: Tx, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that were not handled before, now marked as handled.

    Waits for a concurrent transaction that holds the same id; ids go in sorted order, so that two of them never wait for each other.
    """
    rows = await tx.fetch(
        "INSERT INTO inbox (message_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING message_id",
        sorted(set(ids)),
    )
    return {row["message_id"] for row in rows}


async def insert_all(tx: Tx, ids: Sequence[UUID]) -> None:
    """Mark as handled. One that was handled before is a unique violation."""
    await tx.execute("INSERT INTO inbox (message_id) SELECT unnest($1::uuid[])", sorted(ids))
