"""Commands that this service set aside as dead letters, so that their senders can be told: no answer yet, staff look at it.

Only what this service sets aside by itself stands here, in the transaction that stores the dead letter. What the broker sets aside (a
message that ends the process again and again) only staff know.
"""

from collections.abc import Mapping
from uuid import UUID

from shared.persistence.database import Tx
from shared.persistence.retention import RetentionRule

RETENTION = RetentionRule(
    "commands set aside that have their answer",
    1,
    """DELETE FROM set_aside WHERE command_id IN (
           SELECT s.command_id FROM set_aside s JOIN answers a ON a.command_id = s.command_id
           WHERE s.set_aside_at < now() - make_interval(days => $1) ORDER BY s.set_aside_at LIMIT $2)""",
)


async def note(tx: Tx, reasons: Mapping[UUID, str]) -> None:
    """Note why these commands are set aside, by the ids under which their answers will be kept."""
    if not reasons:
        return
    await tx.execute(
        """INSERT INTO set_aside (command_id, reason) SELECT u.* FROM unnest($1::uuid[], $2::text[]) u
           ON CONFLICT (command_id) DO UPDATE SET reason = excluded.reason, set_aside_at = now()""",
        ids := sorted(reasons),
        [reasons[id_] for id_ in ids],
    )
