"""The ids of messages that were handled: a second delivery is recognised and changes nothing."""

from collections.abc import Collection, Sequence
from uuid import UUID

from shared.persistence.database import Tx
from shared.persistence.retention import RetentionRule

RETENTION_DAYS = 30
"""Longer than a dead letter waits for a person. After that the domain itself recognises a repeated message, and decides nothing."""
RETENTION = RetentionRule(
    "inbox",
    RETENTION_DAYS,
    """DELETE FROM inbox WHERE message_id = ANY(ARRAY(
           SELECT message_id FROM inbox WHERE handled_at < now() - make_interval(days => $1) ORDER BY handled_at LIMIT $2))""",
)


async def load(tx: Tx, ids: Collection[UUID]) -> set[UUID]:
    """Those of `ids` that were handled before."""
    rows = await tx.fetch("SELECT message_id FROM inbox WHERE message_id = ANY($1::uuid[])", list(ids))
    return {row["message_id"] for row in rows}


async def insert(tx: Tx, ids: Sequence[UUID]) -> None:
    """Mark `ids` as handled. An id that was handled before is a unique violation.

    The ids are sorted, so that two transactions with the same ids never deadlock.
    """
    await tx.execute("INSERT INTO inbox (message_id) SELECT unnest($1::uuid[])", sorted(ids))
