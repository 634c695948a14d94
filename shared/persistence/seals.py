"""Seals the books of a service: what was written once and should never change again.

A seal is a digest over the rows of one table that were written in a span of transactions, chained to the seal before. Spans follow each
other without a gap, so a row that is changed, added or taken out later shows at once (`remit audit`: `books_sealed`). Whoever may write
everything in a database can seal it anew. Therefore each seal's hash is logged, and logs are kept elsewhere.

A span ends before the oldest transaction that is still open: whatever comes later belongs to a later span. So the services that write take
no part in it, and pay for one column and its index.

Only a purge may change sealed rows. It seals the span again, beside the old digest, and tells of it in staff's journal.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from shared.persistence.database import AWAY_ERRORS, Connection, Database
from shared.records import dataclass

log = structlog.get_logger(__name__)

INTERVAL_S = 10.0
"""A row that is changed sooner leaves no trace in a seal."""
ROWS_MAX = 20_000
"""Rows of one seal, but for those of one transaction. A seal takes the database some 100 ms then."""
_IS_AHEAD = """
    SELECT until_tx > pg_snapshot_xmax(pg_current_snapshot())::text::bigint + coalesce((SELECT ahead FROM seal_numbering), 0) FROM seals
    ORDER BY number DESC LIMIT 1"""
"""Whether the last seal ends beyond all transactions of this server."""
CONTINUE_NUMBERING = """
DO $$
DECLARE
    book    regclass;
    books   regclass[];
    highest bigint;
    one     bigint;
    further bigint;
BEGIN
    IF to_regclass('public.seal_numbering') IS NULL THEN
        RETURN;
    END IF;
    books := ARRAY(SELECT attrelid::regclass FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE attname = 'written_in' AND relkind = 'r' AND relnamespace = 'public'::regnamespace);
    SELECT coalesce(max(until_tx), 0) INTO highest FROM public.seals;
    FOREACH book IN ARRAY books LOOP
        EXECUTE format('SELECT coalesce(max(written_in), 0) FROM %s', book) INTO one;
        highest := greatest(highest, one);
    END LOOP;
    SELECT coalesce(max(ahead), 0) INTO one FROM public.seal_numbering;
    IF highest < pg_snapshot_xmax(pg_current_snapshot())::text::bigint + one THEN
        RETURN;
    END IF;
    further := highest + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    INSERT INTO public.seal_numbering (ahead) VALUES (further) ON CONFLICT (only_row) DO UPDATE SET ahead = further;
    FOREACH book IN ARRAY books LOOP
        EXECUTE format('ALTER TABLE %s ALTER written_in SET DEFAULT pg_current_xact_id()::text::bigint + %s', book, further);
    END LOOP;
END $$"""
"""Has the numbers of a database that was restored into another server go on rising. Changes nothing in any other database."""
_SALT = "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"
_KEY = "hashtextextended('remit.seals', 0)"
_LOCK = f"SELECT pg_advisory_xact_lock({_KEY})"
_TRY_LOCK = f"SELECT pg_try_advisory_xact_lock({_KEY})"


@dataclass(frozen=True, slots=True)
class Book:
    """A table that is sealed. `key` names a row. `content` is what a seal covers of it, as an expression of SQL a value.

    It never changes, since seals that were made with it are checked with it. Every value is spelt independently of a session's settings. A
    hash that a purge may forget is no content.
    """

    table: str
    key: tuple[str, ...]
    content: tuple[str, ...]

    @property
    def statements(self) -> Sequence[str]:
        """What a service runs on this book. The rest is a purge's."""
        return self.count_before, self.seal

    def digest(self, salt: str) -> str:
        """The digest over some rows as an aggregate of SQL: of the salt, and of the hashes of the rows, sorted."""
        row = f"sha256(convert_to(ROW({', '.join(self.content)})::text, 'UTF8'))"
        return f"sha256({salt} || coalesce(string_agg({row}, '' ORDER BY {row}), ''))"

    @property
    def seal(self) -> str:
        """Seals the next span of at most `$1` rows, or more of one transaction. Returns the seal, and whether rows are left; or nothing."""
        rows = f"SELECT written_in FROM {self.table} WHERE written_in >= begun.tx ORDER BY written_in"  # noqa: S608 - our tables
        return f"""
            WITH begun AS (
                SELECT coalesce((SELECT until_tx FROM seals WHERE book = '{self.table}' ORDER BY until_tx DESC LIMIT 1), 1) AS tx
            ), ended AS (
                SELECT ({rows} LIMIT 1) AS first, ({rows} OFFSET $1 LIMIT 1) AS beyond,
                    pg_snapshot_xmin(pg_current_snapshot())::text::bigint + coalesce((SELECT ahead FROM seal_numbering), 0) AS oldest_open
                FROM begun
            ), span AS MATERIALIZED (
                SELECT begun.tx AS from_tx, beyond IS NOT NULL AS has_more,
                    least(oldest_open, CASE WHEN beyond IS NOT NULL THEN greatest(beyond, first + 1) END) AS until_tx,
                    {_SALT} AS salt
                FROM begun, ended
            ), made AS (
                INSERT INTO seals (book, from_tx, until_tx, row_count, salt, digest, at)
                SELECT '{self.table}', from_tx, until_tx, count(*), salt, {self.digest("salt")}, clock_timestamp()
                FROM span JOIN {self.table} ON written_in >= from_tx AND written_in < until_tx
                GROUP BY from_tx, until_tx, salt
                RETURNING number, row_count, hash
            )
            SELECT number, row_count, encode(hash, 'hex') AS hash, has_more FROM made, span"""  # noqa: S608 - our tables

    @property
    def count_before(self) -> str:
        """Seals how many rows there were before there were seals, once."""
        return f"""
            INSERT INTO seals (book, from_tx, until_tx, row_count, salt, digest, at)
            SELECT '{self.table}', 0, 1, (SELECT count(*) FROM {self.table} WHERE written_in = 0), '', '', clock_timestamp()
            WHERE NOT EXISTS (SELECT FROM seals WHERE book = '{self.table}')"""  # noqa: S608 - our tables

    @property
    def sealed_by(self) -> str:
        """The number of the seal over the row with this key, if it has one with a digest."""
        where = " AND ".join(f"{name} = ${at}" for at, name in enumerate(self.key, start=1))
        return f"""
            SELECT number FROM seals JOIN {self.table} ON written_in >= from_tx AND written_in < until_tx
            WHERE book = '{self.table}' AND digest <> '' AND {where} ORDER BY until_tx LIMIT 1"""  # noqa: S608 - our tables

    @property
    def seal_again(self) -> str:
        """Seals the span of the seal `$1` beside the old digest, which is worth nothing then. Returns the digest of what is left."""
        return f"""
            UPDATE seals SET salt = NULL, left_salt = fresh.salt, left_digest = (
                SELECT {self.digest("fresh.salt")} FROM {self.table} WHERE written_in >= from_tx AND written_in < until_tx)
            FROM (SELECT {_SALT} AS salt) AS fresh
            WHERE number = $1 RETURNING encode(left_digest, 'hex')"""  # noqa: S608 - our tables


def time_of(column: str) -> str:
    """A time as a number of microseconds, for a book's content."""
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


class Sealer:
    """Seals what was written since the last seal. One instance at a time does it, and each seal is a transaction."""

    name = "sealer"
    interval_s = INTERVAL_S
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, books: Sequence[Book], *, rows_max: int = ROWS_MAX) -> None:
        self._database = database
        self._books = books
        self._rows_max = rows_max
        self._statements = [(book.count_before, book.seal) for book in books]

    async def run_once(self) -> float:
        """Seal up to `rows_max` rows of each book."""
        async with self._database.connection() as connection:
            if await connection.fetchval(_IS_AHEAD):
                log.error(
                    "books_not_sealed", why="this database came from another server", advice="run `remit migrate`"
                )
                return self.interval_s
        has_more = False
        for count_before, seal in self._statements:
            async with self._database.transaction() as tx:
                if not await tx.fetchval(_TRY_LOCK):
                    return self.interval_s
                await tx.execute(count_before)
                made = await tx.fetchrow(seal, self._rows_max)
            if made is not None:
                log.info("books_sealed", head=f"{made['number']}:{made['hash']}", rows=made["row_count"])
                has_more |= made["has_more"]
        return 0.0 if has_more else self.interval_s

    async def finish(self) -> None:
        """Seal what the service wrote last, as far as the database lets it."""
        try:
            await self.run_once()
        except AWAY_ERRORS as error:
            log.info("last_rows_not_sealed", error=type(error).__name__)


async def seals_of(tx: Connection, book: Book, keys: Iterable[Sequence[Any]]) -> list[int]:
    """The numbers of the seals over the rows with these keys. Until `tx` ends, no other seal is made.

    Rows that have no seal yet get theirs later. Those of before there were seals have none.
    """
    await tx.execute(_LOCK)
    return sorted({number for key in keys if (number := await tx.fetchval(book.sealed_by, *key)) is not None})


async def seal_again(tx: Connection, book: Book, numbers: Iterable[int]) -> dict[int, str]:
    """Seal the spans of these seals again, after rows were changed in `tx`. Returns the digests of what is left, by number."""
    return {number: await tx.fetchval(book.seal_again, number) for number in numbers}
