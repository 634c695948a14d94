"""Keeps the rows of the outbox batches that this process has in hand: reserved while they are published, deleted once they are confirmed.

A batch is reserved for two seconds when it is written, and when a sweeper takes it. A confirm takes milliseconds. But a batch may wait its
turn, and a broker may be slow. Without a longer reservation a sweeper, of this process or another, would publish the batch as well.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from shared import crash_points
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.outbox import RESERVED_S, OutboxBatch

RENEW_AFTER_S = 0.5
"""A quarter of a reservation: before one is over, there is time for three renewals."""


class OutboxKeeper:
    """Holds outbox batches, renews their reservations, and deletes those that the broker has confirmed, so that no message waits for it.

    All lanes of a service share it. `clock` gives seconds that never go back.
    """

    name = "outbox_keeper"
    interval_s = 0.25
    """Far below the two seconds after which a sweeper would take an outbox batch."""
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._held: dict[UUID, float] = {}
        """The batches in hand, and when each was reserved."""
        self._confirmed: list[UUID] = []
        self._deleting = asyncio.Lock()

    def hold(self, outbox_batches: Iterable[OutboxBatch]) -> list[OutboxBatch]:
        """Hold batches that were just reserved. Returns those that are not in hand already: whoever has the others publishes them."""
        now = self._clock()
        new = [outbox_batch for outbox_batch in outbox_batches if outbox_batch.id not in self._held]
        self._held.update((outbox_batch.id, now) for outbox_batch in new)
        return new

    def still_reserved(self, held: Sequence[OutboxBatch]) -> list[OutboxBatch]:
        """Those of these batches in hand that are still reserved.

        The others are released: after an outage of the database, or a stop of this process, somebody else may have published them.
        """
        since = self._clock() - RESERVED_S
        lost = {outbox_batch.id for outbox_batch in held if self._held.get(outbox_batch.id, since) <= since}
        self.release(outbox_batch for outbox_batch in held if outbox_batch.id in lost)
        return [outbox_batch for outbox_batch in held if outbox_batch.id not in lost]

    def release(self, outbox_batches: Iterable[OutboxBatch]) -> None:
        """Leave these batches to the sweepers."""
        for outbox_batch in outbox_batches:
            self._held.pop(outbox_batch.id, None)

    def delete_soon(self, outbox_batches: Iterable[OutboxBatch]) -> None:
        """The broker has confirmed these batches completely. They stay in hand until they are deleted."""
        self._confirmed += (outbox_batch.id for outbox_batch in outbox_batches)

    async def run_once(self) -> float:
        """Delete what was confirmed since the last run, and renew what has been in hand for long. Raises one of `AWAY_ERRORS`."""
        await self.delete_confirmed()
        now = self._clock()
        if old := [id_ for id_, reserved_at in self._held.items() if now >= reserved_at + RENEW_AFTER_S]:
            await self._renew(old)
        return self.interval_s

    async def delete_confirmed(self) -> None:
        """Delete what was confirmed so far. Raises one of `AWAY_ERRORS`; then the batches are deleted later.

        It waits for a deletion that is under way. A service that stops would cancel that one next, and publish again at its next start.
        """
        async with self._deleting:
            confirmed, self._confirmed = self._confirmed, []
            if not confirmed:
                return
            try:
                async with self._database.connection() as connection:
                    crash_points.reach("outbox.before_delete")
                    await outbox.delete(connection, confirmed)
                    crash_points.reach("outbox.after_delete")
            except AWAY_ERRORS:
                self._confirmed += confirmed
                raise
            for id_ in confirmed:
                self._held.pop(id_, None)

    async def _renew(self, ids: Sequence[UUID]) -> None:
        now = self._clock()
        async with self._database.connection() as connection:
            await outbox.renew(connection, ids)
        self._held.update((id_, now) for id_ in ids if id_ in self._held)
