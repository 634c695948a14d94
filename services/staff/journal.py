"""Seals the journal: keeps its head where the role of this service cannot change it. A chain alone does not show that its end was cut off.

A new head is logged within a minute. A seal is a head that is kept: as a row, in an event for whoever wants to keep it, and in a file
elsewhere, if one is named. It is made once an hour if there are new entries, and within a minute of every thousand of them.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from services.staff import journal_store, seals_file, store
from services.staff.journal_store import Seal
from shared.clock import Clock
from shared.contracts.staff import JournalSealed
from shared.ids import derived_id
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.relay import Relay
from shared.observability import metrics
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

INTERVAL_S = 60.0
"""An entry that is taken out sooner, before its head stands in a log, leaves no trace there. Decisions take their head along at once."""
SEALED_EVERY = timedelta(hours=1)
ENTRIES_A_SEAL: Final = 1_000
SEALS_A_WRITE: Final = 1_000
"""Seals that are added to the file at a time, if it was away or is new."""
_SEALS = UUID("5ea1ed00-0000-4000-8000-000000000000")
"""The ids of the events derive from it, so that a seal has one id, whoever tells of it."""


class JournalSeals:
    """Logs each new head of the journal, and seals the journal. The audit compares the journal with the heads and seals it is given."""

    name = "journal_seals"
    interval_s = INTERVAL_S
    retry_on = (*AWAY_ERRORS, OSError)

    def __init__(self, database: Database, relay: Relay, clock: Clock, file: Path | None = None) -> None:
        self._database = database
        self._relay = relay
        self._clock = clock
        self._file = file
        self._logged: str | None = None

    async def run_once(self) -> float:
        """Log the head if it is a new one, and seal it if that is due.

        If the head before is gone, or the last look at the chain found it broken, that is an error until it is as it was.
        """
        try:
            async with self._database.connection() as connection:
                is_kept = self._logged is None or await store.has_journal_head(connection, self._logged)
                _, looked = await journal_store.chain_result(connection)
                head = await journal_store.head_now(connection, self._clock())
        except AWAY_ERRORS:
            metrics.JOURNAL_INTACT.hide()
            raise
        metrics.JOURNAL_INTACT.show({(): int(is_kept and looked.broken_at is None)})
        if not is_kept:
            log.error(
                "journal_broken", head=self._logged, advice="run `remit journal verify` with heads that you trust"
            )
        elif head is not None:
            self._log(head)
            await self._seal(head)
        if self._file is not None:
            await self._copy(self._file)
        return self.interval_s

    def _log(self, head: Seal) -> None:
        if head.head != self._logged:
            log.info("journal_head", head=head.head)
            self._logged = head.head

    async def _seal(self, head: Seal) -> None:
        """Seal the head if that is due. Its event waits in the outbox from the same transaction on."""
        async with self._database.transaction() as tx:
            if not is_due(head, await journal_store.last_seal(tx)) or not await journal_store.add_seal(tx, head):
                return
            batches = await outbox.insert(tx, [_event(head)])
        await self._relay.publish(batches)

    async def _copy(self, file: Path) -> None:
        """Add to the file what it lacks. Of two instances with one file both may add a seal: it says the same twice."""
        position = await asyncio.to_thread(seals_file.last_position, file)
        while True:
            async with self._database.connection() as connection:
                seals = await journal_store.seals_after(connection, position, at_most=SEALS_A_WRITE)
            await asyncio.to_thread(seals_file.add, file, seals)
            if len(seals) < SEALS_A_WRITE:
                return
            position = seals[-1].position


def is_due(head: Seal, last: Seal | None) -> bool:
    """Whether this head is to be sealed. One that is not beyond the last seal is not: the journal has lost its end, or has nothing new."""
    if last is None:
        return True
    new = head.position - last.position
    return new >= ENTRIES_A_SEAL or (new > 0 and abs(head.at - last.at) >= SEALED_EVERY)


def _event(seal: Seal) -> Outgoing:
    id_ = derived_id(_SEALS, seal.head)
    return encode(
        Draft(JournalSealed(position=seal.position, hash=seal.hash.hex())),
        Cause(id_, str(id_), seal.at),
        0,
        source="staff",
    )
