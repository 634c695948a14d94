"""What finds due rows reads few pages, although a snapshot that somebody holds open keeps the dead rows of a whole hour."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from services.invoice import store as invoices
from services.invoice.handlers import announce
from services.payment_gateway import store as payments
from services.saga import store as sagas
from shared.messaging.envelope import Lane
from shared.persistence import outbox
from shared.persistence.database import Connection, Database, Record
from shared.persistence.due_rows import WALK_INTERVAL_S, DueRows, DueWindow
from shared.persistence.store_sampler import Reading
from shared.records import dataclass
from tests.support.databases import connect, execute, rows
from tests.support.environment import Environment

DEAD_ROWS = 20_000
ALL_PAGES, FEW_PAGES = 200, 50
"""Who reads all dead rows reads more pages than the one, and who reads those of some seconds fewer than the other."""
HOLDER = UUID(int=1)
_DUE = "now() - make_interval(secs => $1::float8 * (1 - n / $2::float8))"


class CountsPages:
    """A connection that counts the pages which its statements read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pages = 0

    def pages(self) -> int:
        """Those since the last call."""
        pages, self._pages = self._pages, 0
        return pages

    async def fetch(self, statement: str, *arguments: Any) -> list[Record]:
        undo = self._connection.transaction()
        await undo.start()
        (row,) = await self._connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        await undo.rollback()
        plan = json.loads(row[0])[0]["Plan"]
        self._pages += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return await self._connection.fetch(statement, *arguments)


async def _sweep(connection: Connection, window: DueWindow) -> int:
    return len(await outbox.take_overdue(connection, Lane.INSIDE, window))


async def _claim(connection: Connection, window: DueWindow) -> int:
    return len(await payments.claim(connection, payments.Lease(HOLDER, 30.0, 20.0), at_most=200, window=window))


async def _fire(connection: Connection, window: DueWindow) -> int:
    return len(await sagas.fire_due(connection, at_most=200, window=window))


async def _remind(connection: Connection, window: DueWindow) -> int:
    """There is no event to announce again, so this only counts and logs."""
    with capture_logs():
        return (await invoices.overdue_requests(connection, older_than_s=30.0, window=window, announce=announce))[0]


async def _remind_of_refunds(connection: Connection, window: DueWindow) -> int:
    with capture_logs():
        return (await invoices.overdue_refunds(connection, older_than_s=30.0, window=window, announce=announce))[0]


@dataclass(frozen=True, slots=True)
class DueKind:
    """A table of due rows. `insert` makes $2 of them whose due times fill the last $1 seconds, and `end` deals with them all."""

    service: str
    table: str
    insert: str
    end: str
    due_rows: Callable[[], DueRows]
    take: Callable[[Connection, DueWindow], Awaitable[int]]
    reading: Callable[[DueRows], Reading] | None = None


KINDS = [
    DueKind(
        "saga",
        "outbox",
        f"""INSERT INTO outbox (id, lane, refusals, losses, created_at, sweep_after, ids, exchanges, routing_keys, types, correlation_ids,
                content_types, headers, droppable, bodies, message_ids, reply_tos)
            SELECT gen_random_uuid(), 'inside', 0, 0, now(), {_DUE}, ARRAY[gen_random_uuid()], '{{remit}}', '{{k}}', '{{t}}', '{{c}}',
                '{{a/b}}', ARRAY['{{}}'::jsonb], '{{false}}', ARRAY[convert_to(repeat('x', 700), 'UTF8')], '{{NULL}}', '{{NULL}}'
            FROM generate_series(0, $2::int - 1) n""",
        "DELETE FROM outbox",
        lambda: outbox.overdue_rows(Lane.INSIDE),
        _sweep,
        lambda due: outbox.reading(dict.fromkeys(Lane, due)),
    ),
    DueKind(
        "payment_gateway",
        "payments",
        f"""INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, method_token, was_case, rung, key_number,
                cause_id, correlation_id, fence, due_at)
            SELECT gen_random_uuid(), 'INV-1', 5, 'EUR', 'requested', 1, 'pm_1', false, 0, 1, gen_random_uuid(), 'C-1', 1, {_DUE}
            FROM generate_series(0, $2::int - 1) n""",
        "UPDATE payments SET due_at = NULL WHERE due_at IS NOT NULL",
        payments.due_rows,
        _claim,
        payments.due_reading,
    ),
    DueKind(
        "saga",
        "deadlines",
        f"""INSERT INTO deadlines (id, payment_id, number, correlation_id, due_at)
            SELECT gen_random_uuid(), gen_random_uuid(), 1, 'C-1', {_DUE} FROM generate_series(0, $2::int - 1) n""",
        "UPDATE deadlines SET fired_at = now() WHERE fired_at IS NULL",
        sagas.due_rows,
        _fire,
    ),
    DueKind(
        "invoice",
        "payments",
        f"""INSERT INTO payments (payment_id, invoice_id, version, pending, announced_at, announced)
            SELECT gen_random_uuid(), 'INV-1', 1, true, {_DUE} - interval '30 s', 1 FROM generate_series(0, $2::int - 1) n""",
        "UPDATE payments SET pending = false WHERE pending",
        lambda: invoices.overdue_rows(30.0)[0],
        _remind,
    ),
    DueKind(
        "invoice",
        "refunds",
        f"""INSERT INTO refunds (invoice_id, refund_id, payment_id, version, pending, announced_at, announced)
            SELECT 'INV-1', gen_random_uuid(), gen_random_uuid(), 1, true, {_DUE} - interval '30 s', 1
            FROM generate_series(0, $2::int - 1) n""",
        "UPDATE refunds SET pending = false WHERE pending",
        lambda: invoices.overdue_rows(30.0)[1],
        _remind_of_refunds,
    ),
]


@asynccontextmanager
async def snapshot_held(url: str) -> AsyncIterator[None]:
    """A transaction that somebody forgot, or a backup."""
    connection = await connect(url)
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        yield
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.service}-{kind.table}")
async def test_dead_rows_that_a_snapshot_holds_are_not_read_again(kind: DueKind, environment: Environment) -> None:
    url, elapsed_s = environment.databases[kind.service], [0.0]
    made = kind.due_rows()
    due = DueRows(made._first, *made._arguments, clock=lambda: elapsed_s[0])
    database = await Database.open(url, name="test", connections_max=1)
    try:
        async with snapshot_held(url), database.connection() as connection:
            await connection.execute(kind.insert, 3_600.0, DEAD_ROWS)
            await connection.execute(kind.end)
            counting = CountsPages(connection)
            asking = cast("Connection", counting)

            assert await due.look(asking) is None
            assert counting.pages() > ALL_PAGES, "the first walk reads everything, so this test tests something"
            assert await due.look(asking) is None
            assert counting.pages() < FEW_PAGES
            if kind.reading is not None:
                await kind.reading(due).read(asking)
                assert counting.pages() < FEW_PAGES

            await connection.execute(kind.insert, 0.0, 1)
            assert await _taken(kind, due, asking) == 1
            assert counting.pages() < FEW_PAGES

            await connection.execute(kind.insert, 1_800.0, 1)
            assert await _taken(kind, due, asking) == 0, "it became visible too late for anybody but the walk"
            counting.pages()
            elapsed_s[0] += WALK_INTERVAL_S
            window = await due.look(asking)
            assert window is not None
            walked = counting.pages()
            assert walked > ALL_PAGES / 2
            assert await kind.take(asking, window) == 1
            assert counting.pages() < walked / 4, "of all dead rows those of one minute"
    finally:
        await database.close()
        await execute(url, f"TRUNCATE {kind.table}")  # the next test must not read these dead rows
    assert await rows(url, f"SELECT pg_relation_size('{kind.table}') AS bytes") == [{"bytes": 0}]


async def _taken(kind: DueKind, due: DueRows, connection: Connection) -> int:
    window = await due.look(connection)
    return 0 if window is None else await kind.take(connection, window)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.service}-{kind.table}")
async def test_a_row_that_somebody_has_locked_hides_no_other(kind: DueKind, environment: Environment) -> None:
    url = environment.databases[kind.service]
    database, due = await Database.open(url, name="test", connections_max=1), kind.due_rows()
    holder = await connect(url)
    try:
        async with database.connection() as connection:
            await connection.execute(kind.insert, 3_600.0, 1)
            await holder.execute(f"BEGIN; SELECT 1 FROM {kind.table} FOR UPDATE")
            assert await due.look(connection) is None
            await connection.execute(kind.insert, 0.0, 1)
            assert await _taken(kind, due, connection) == 1
            assert await due.look(connection) is None
    finally:
        await holder.close()
        await database.close()
