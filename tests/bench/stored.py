"""Fills the databases with years of finished payments: the services pay a few, and SQL copies them.

Every growing table is filled from the rows of these few (`INSERT ... SELECT ... FROM the few, generate_series`). One function maps an old
id and the copy's number to a new id, the same in every table and database. So copies refer to each other as the originals do, and
`services.invoice rebuild` finds nothing wrong with them. The mapping knows columns by type and name, so a new column needs no change here.
Bodies of messages are copied unchanged. Message ids are spread evenly, like those that we derive (UUIDv5); payment ids are older than those
of the load.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from deploy.local.stack import Service, Stack
from services.saga.store import FIRED_RETENTION_DAYS
from shared.persistence.inbox import RETENTION_DAYS

HISTORY_DAYS: Final = 120
"""Days over which the copies are spread: a quarter of the inbox is within its retention."""
FILL_TIMEOUT_S: Final = 3_600.0

TABLES: Final[Mapping[Service, Sequence[str]]] = {
    "invoice": ("events", "invoices", "payments", "answers", "inbox"),
    "payment_gateway": ("payments", "attempts", "outcomes", "inbox"),
    "saga": ("sagas", "transitions", "deadlines", "inbox"),
}

_KEPT_DAYS: Final[Mapping[str, tuple[str, int]]] = {
    "inbox": ("handled_at", RETENTION_DAYS),
    "deadlines": ("due_at", FIRED_RETENTION_DAYS),
}
"""Tables with a retention: its column and its days. Older copies are left out, because they would have been deleted."""

_TEXT_IDS: Final = frozenset({"correlation_id", "gateway_id", "receipt_number", "idempotency_key", "refund_id"})
_INVOICE_IDS: Final = frozenset({"invoice_id", "stream_id"})
_PREFIX: Final = "aged"
"""Ids of copies sort before the invoices of the load (`load.INVOICE_PREFIX`)."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a table with its indexes."""

    rows: int
    mib: float


async def fill(stack: Stack, copies: int) -> None:
    """Make so many copies of the data; no work may be under way. All three databases at once, then VACUUM and CHECKPOINT."""
    await asyncio.gather(*(_fill(stack.service_database_url(service), TABLES[service], copies) for service in TABLES))
    connection = await asyncpg.connect(stack.postgres_url, timeout=10)
    try:
        await connection.execute("CHECKPOINT", timeout=FILL_TIMEOUT_S)
    finally:
        await connection.close()


async def sizes(stack: Stack) -> dict[str, Size]:
    """Sizes by service and table; the rows are those that the last ANALYZE or autovacuum estimated."""
    found: dict[str, Size] = {}
    for service, tables in TABLES.items():
        connection = await asyncpg.connect(stack.service_database_url(service), timeout=10)
        try:
            rows = await connection.fetch(_SIZES, list(tables))
        finally:
            await connection.close()
        found |= {f"{service}.{row['relname']}": Size(int(row["rows"]), row["bytes"] / 1024**2) for row in rows}
    return found


_SIZES: Final = """SELECT relname, greatest(reltuples, 0)::bigint AS rows, pg_total_relation_size(oid) AS bytes FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname = ANY($1::text[]) ORDER BY relname"""


async def _fill(url: str, tables: Sequence[str], copies: int) -> None:
    connection = await asyncpg.connect(url, timeout=10, server_settings={"maintenance_work_mem": "256MB"})
    try:
        for table in tables:
            await _copy(connection, table, copies)
            await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=FILL_TIMEOUT_S)
    finally:
        await connection.close()


async def _copy(connection: "asyncpg.Connection[asyncpg.Record]", table: str, copies: int) -> None:
    """Copy without indexes, and build these afterwards, in order and at once."""
    columns = [
        (row["column_name"], row["data_type"])
        for row in await connection.fetch(_COLUMNS, table)
        if row["is_generated"] == "NEVER" and not row["is_identity"]
    ]
    names = ", ".join(name for name, _ in columns)
    values = ", ".join(_mapped(name, type_) for name, type_ in columns)
    kept = _KEPT_DAYS.get(table)
    where = "" if kept is None else f"WHERE {kept[0]} - {_AGE} > now() - make_interval(days => {kept[1]})"
    async with connection.transaction():
        indexes = await connection.fetch(_INDEXES, f"public.{table}")
        for index in indexes:
            await connection.execute(index["take_away"])
        await connection.execute(
            f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} CROSS JOIN generate_series(1, {copies}) AS copy (n)"
            f" CROSS JOIN (SELECT {HISTORY_DAYS * 86_400 / copies}::double precision AS seconds_apart) AS history {where}",
            timeout=FILL_TIMEOUT_S,
        )
        for index in indexes:
            await connection.execute(index["put_back"], timeout=FILL_TIMEOUT_S)


_COLUMNS: Final = """SELECT column_name, data_type, is_generated, is_identity = 'YES' AS is_identity FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position"""
_INDEXES: Final = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS take_away,
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS put_back
FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('p', 'u')
UNION ALL
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid = $1::regclass
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""

_AGE: Final = "make_interval(secs => 3600 + n * seconds_apart)"


def _id(value: str) -> str:
    return f"md5({value} || '/' || n)"


def _payment_id(value: str) -> str:
    """An id that sorts before those of the load (UUIDv7 of today), as a sender's older ids would."""
    return f"('00' || substr({_id(value)}, 3))::uuid"


def _text_id(value: str) -> str:
    """A text of the same length and with the same beginning."""
    return f"left({value}, greatest(length({value}) - 32, 0)) || {_id(value)}"


def _mapped(name: str, type_: str) -> str:
    """The expression for a column of copy `n`."""
    mapped = name
    if name == "payment_id":
        mapped = _payment_id(f"{name}::text")
    elif type_ == "uuid":
        mapped = f"{_id(f'{name}::text')}::uuid"
    elif type_ == "timestamp with time zone":
        mapped = f"{'due_at' if name == 'fired_at' else name} - {_AGE}"
    elif type_ == "jsonb":
        mapped = _mapped_json(name)
    elif name in _INVOICE_IDS:
        mapped = f"'{_PREFIX}-' || {_id(name)}"
    elif name in _TEXT_IDS:
        mapped = _text_id(name)
    return mapped


def _mapped_json(name: str) -> str:
    payment_id, receipt = f"{name} ->> 'payment_id'", f"{name} ->> 'receipt_number'"
    return (
        f"{name} || CASE WHEN {name} ? 'payment_id'"
        f" THEN jsonb_build_object('payment_id', {_payment_id(f'({payment_id})')}) ELSE '{{}}' END"
        f" || CASE WHEN {name} ? 'receipt_number'"
        f" THEN jsonb_build_object('receipt_number', {_text_id(f'({receipt})')}) ELSE '{{}}' END"
    )
