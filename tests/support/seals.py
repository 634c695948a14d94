"""Seals the books of the services, as they do themselves."""

from collections.abc import Mapping
from functools import partial

from services.invoice.books import BOOKS as INVOICE_BOOKS
from services.payment_gateway.books import BOOKS as PAYMENT_GATEWAY_BOOKS
from shared.persistence.database import Database
from shared.persistence.seals import Book, Sealer
from tests.support.waiting import until

WITHIN_S = 60.0
UNSEALED = """
    SELECT count(*) FROM {table} WHERE written_in >= (SELECT coalesce(max(until_tx), 0) FROM seals WHERE book = '{table}')"""


async def seal(databases: Mapping[str, str]) -> None:
    """Seal all books. Services have sealed what they wrote last, unless somebody else on this server had a transaction open."""
    for service, books in (("invoice", INVOICE_BOOKS), ("payment_gateway", PAYMENT_GATEWAY_BOOKS)):
        database = await Database.open(databases[service], name="workload", connections_max=1)
        try:
            for book in books:
                await until(partial(_is_sealed, database, book), within_s=WITHIN_S)
        finally:
            await database.close()


async def _is_sealed(database: Database, book: Book) -> bool:
    await Sealer(database, [book]).run_once()
    async with database.connection() as connection:
        return not await connection.fetchval(UNSEALED.format(table=book.table))
