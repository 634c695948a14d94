"""Reads dead letters that were stored without what their bodies say: by the build before, which knew nothing of it."""

import structlog

from services.staff import charges, store
from services.staff.dead_letters import DeadLetter
from shared.batch.turns import in_turns
from shared.persistence.database import AWAY_ERRORS, Database, Tx
from shared.records import replace

log = structlog.get_logger(__name__)

READ_MAX = 100
"""Dead letters in one transaction. Their bodies have at most 6 MiB together, and locks stay short."""


class LetterReader:
    """Reads what nobody has read yet, the newest first."""

    name = "letter_reader"
    interval_s = 60.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> float:
        """Read some. The next ones follow at once."""
        async with self._database.transaction() as tx:
            count = await read_unread(tx, at_most=READ_MAX)
        if count:
            log.info("dead_letters_read", dead_letters=count)
        return 0.0 if count == READ_MAX else self.interval_s


async def read_unread(tx: Tx, *, at_most: int) -> int:
    """Note what the bodies of unread dead letters say. Returns how many those are. What others have locked is left to them."""
    letters = await store.lock_unread(tx, at_most=at_most)
    await store.note_facts(tx, await in_turns(_read, letters))
    return len(letters)


def _read(letter: DeadLetter) -> DeadLetter:
    """The letter with what its body says. If reading it fails because of a bug, it counts as one that charges: that takes more care."""
    try:
        return charges.with_facts(letter, charges.read_body(letter))
    except Exception:
        log.exception("dead_letter_unreadable", queue=letter.queue, letter=str(letter.id))
        return replace(letter, may_charge=letter.queue in charges.CHARGING)
