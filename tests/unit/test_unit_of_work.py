"""Which way a batch takes to the database. Only what was certainly never handled is stored without asking the inbox first."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from services.invoice.handlers import InvoiceHandler
from services.invoice.store import Loaded
from shared.batch.inbox import Inbox, Item
from shared.batch.transaction import UnitOfWork
from shared.clock import system_clock
from shared.contracts.invoice import InvoicePaymentOverdue
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Inbound
from shared.persistence.database import Connection, Database, MovedOnError
from shared.persistence.outbox import OutboxBatch


class Ways(UnitOfWork[Any, Any, Any]):
    """Notes how a batch is stored."""

    way = ""

    async def _commit_at_once(self, _: object, items: Sequence[Item]) -> list[OutboxBatch]:
        self.way = "at once"
        return []

    async def _commit_in_transaction(self, items: Sequence[Item]) -> tuple[list[OutboxBatch], Sequence[Item]]:
        self.way = "asked"
        return [], items


def item(number: int, *, tries: int = 0) -> Item:
    return Item(
        UUID(int=number), Delivery(b"", number, 1, "q", "", "", None, None, None, None, None, tries=tries), None
    )


@pytest.mark.parametrize(
    ("items", "carefully", "way"),
    [
        ([item(1), item(2)], False, "at once"),
        ([item(1), item(2, tries=1)], False, "asked"),
        ([item(1), item(2), item(1)], False, "asked"),
        ([item(1)], True, "asked"),
    ],
    ids=["fresh", "redelivered", "twice in one batch", "failed before"],
)
async def test_the_inbox_is_asked_about_whatever_may_have_been_handled(
    items: list[Item], carefully: bool, way: str
) -> None:
    unit_of_work = Ways(InvoiceHandler(), cast(Inbox, None), database=cast(Database, None), clock=system_clock)
    await unit_of_work.commit(items, carefully=carefully)
    assert unit_of_work.way == way


class Refusing(Ways):
    """The database refuses whatever is stored at once."""

    async def _commit_at_once(self, _: object, items: Sequence[Item]) -> list[OutboxBatch]:
        raise MovedOnError


async def test_a_batch_that_failed_empties_the_cache() -> None:
    """Whatever was wrong with one cached state may be wrong with others. Who decides on them fails, batch after batch."""
    handler = InvoiceHandler()
    handler.state_cache.put({"INV-1": cast(Loaded, None)})
    unit_of_work = Refusing(handler, cast(Inbox, None), database=cast(Database, None), clock=system_clock)
    with pytest.raises(MovedOnError):
        await unit_of_work.commit([item(1)], carefully=False)
    assert (handler.state_cache.holds("INV-1"), handler.state_cache.is_resting) == (False, True)


async def test_after_a_lost_connection_no_cached_state_decides() -> None:
    """The server may have been restored to an older state, in which a decision on a newer one leaves a gap in the stream."""
    about = InvoicePaymentOverdue(invoice_id="INV-1", payment_id=UUID(int=1))
    decided_on: list[set[str]] = []

    class NotesWhatIsCached(InvoiceHandler):
        async def load_unlocked(self, _: object, __: object, cached: Mapping[str, Loaded]) -> None:
            decided_on.append(set(cached))

    handler, database = NotesWhatIsCached(), SimpleNamespace(epoch=0)
    handler.state_cache.put({"INV-1": cast(Loaded, None)})
    unit_of_work = UnitOfWork(handler, cast(Inbox, None), database=cast(Database, database), clock=system_clock)
    received = [Item(UUID(int=1), item(1).delivery, cast(Inbound, SimpleNamespace(data=about)))]
    for epoch in (0, 1):
        database.epoch = epoch
        await unit_of_work._decide_unlocked(handler, cast(Connection, None), received, system_clock())
    assert decided_on == [{"INV-1"}, set()]
