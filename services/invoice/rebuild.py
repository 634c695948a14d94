"""Fold all events again: they must give the state that is stored."""

from dataclasses import dataclass
from uuid import UUID

from services.invoice import store, stored_events
from services.invoice.domain import Invoice, replay
from shared.clock import Clock
from shared.messaging.envelope import Cause
from shared.persistence import event_store
from shared.persistence.database import Database

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many streams were folded, and the invoices whose stored state differed."""

    streams: int
    differing: tuple[str, ...]


async def rebuild(database: Database, clock: Clock, *, repair: bool) -> Rebuilt:
    """Fold every stream, compare with the stored state and, if `repair`, put the folded state in its place."""
    streams, differing, page = 0, [], []
    async with database.connection() as reading:
        async for invoice_id, events in event_store.all_streams(reading):
            page.append(replay(invoice_id, tuple(stored_events.load(e.type, e.data) for e in events)))
            streams += 1
            if len(page) == PAGE:
                differing += await _compare(database, clock, page, repair=repair)
                page = []
    differing += await _compare(database, clock, page, repair=repair)
    return Rebuilt(streams, tuple(differing))


async def _compare(database: Database, clock: Clock, page: list[Invoice], *, repair: bool) -> list[str]:
    async with database.transaction() as tx:
        differing = await store.differing(tx, page)
        if repair and differing:
            cause = Cause(UUID(int=0), "rebuild", clock())
            await store.overwrite(tx, [invoice for invoice in page if invoice.invoice_id in differing], cause)
    return differing
