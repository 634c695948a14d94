"""Which way a batch takes to the database. Only what was certainly never handled is stored without asking the inbox first."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from services.invoice.handlers import InvoiceHandler
from shared.batch.inbox import Inbox, Item
from shared.batch.transaction import UnitOfWork
from shared.clock import system_clock
from shared.messaging.consumer import Delivery
from shared.persistence.database import Database
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
