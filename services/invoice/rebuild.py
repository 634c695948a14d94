"""Folds all events again, and compares the results with the stored states. They must be the same."""

from uuid import UUID

from services.invoice import store, stored_events
from services.invoice.domain import Invoice, replay
from shared.clock import Clock
from shared.messaging.envelope import Cause
from shared.persistence import event_store
from shared.persistence.database import Database
from shared.records import dataclass

PAGE = 1_000
"""Invoices that are compared with one query."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many streams were folded, and the invoices whose stored state differed."""

    streams: int
    differing: tuple[str, ...]


async def rebuild(database: Database, clock: Clock, *, repair: bool) -> Rebuilt:
    """Fold every stream and compare it with the stored state. With `repair`, replace stored states that differ."""
    streams, differing, page = 0, [], []
    async with database.connection() as reading:
        async for invoice_id, events in event_store.all_streams(reading):
            page.append(replay(invoice_id, (stored_events.load(e.type, e.data, e.owner) for e in events)))
            streams += 1
            if len(page) == PAGE:
                differing += await _compare(database, clock, page, repair=repair)
                page = []
    differing += await _compare(database, clock, page, repair=repair)
    return Rebuilt(streams, tuple(differing))


async def _compare(database: Database, clock: Clock, page: list[Invoice], *, repair: bool) -> list[str]:
    async with database.connection() as connection:
        suspects = await store.differing(connection, page)
    if not suspects:
        return []
    # The service may have changed these invoices since they were folded. So compare again, with their rows locked.
    async with database.transaction() as tx:
        await store.load(tx, suspects, ())
        streams = await event_store.load(tx, suspects)
        folded = [
            replay(id_, (stored_events.load(e.type, e.data, e.owner) for e in streams.get(id_, ())))
            for id_ in sorted(suspects)
        ]
        differing = await store.differing(tx, folded)
        if repair and differing:
            cause = Cause(UUID(int=0), "rebuild", clock())
            await store.overwrite(tx, [invoice for invoice in folded if invoice.invoice_id in differing], cause)
    return differing
