"""The writes of one transaction in one statement."""

from collections.abc import AsyncIterator
from types import MappingProxyType
from uuid import UUID

import asyncpg
import pytest

from shared.persistence.database import Database, MovedOnError, Trouble, trouble
from shared.persistence.writes import WriteBatch, _joined
from tests.support.databases import rows
from tests.support.environment import Environment

ONE, TWO = UUID(int=1), UUID(int=2)
INBOX = "INSERT INTO inbox (message_id) SELECT unnest($1::uuid[])"
ANSWERS = "INSERT INTO answers (command_id, command_type, answer, correlation_id) SELECT u, $2, $3, 'c' FROM unnest($1::uuid[]) u"
UPDATE = "UPDATE answers SET detail = 'seen' WHERE command_id = ANY($1::uuid[]) RETURNING command_id"


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("uuid", [ONE, TWO, None]),
        ("text", ["a", "", None, "{x,y}"]),
        ("bigint", [1, None, -(2**40)]),
        ("boolean", [True, False, None]),
        ("bytea", [b"", b"\x00\xff", None]),
        ("jsonb", [{"a": [1, {"b": None}]}, {}, None]),
        ("float8", []),
    ],
)
async def test_an_array_arrives_as_it_was_sent(database: Database, kind: str, array: list[object]) -> None:
    """`shared.persistence.database` changes how the driver recognises arrays."""
    async with database.connection() as connection:
        assert await connection.fetchval(f"SELECT $1::{kind}[]", array) == array


async def test_recreated_types_are_looked_up_again(database: Database) -> None:
    """A schema was restored under a running service: the connection that knows the old types is closed."""
    make, drop = "CREATE TYPE scratch_row AS (a uuid, b text)", "DROP TYPE IF EXISTS scratch_row"
    query = "SELECT b FROM unnest($1::scratch_row[])"
    async with database.connection() as connection:
        await connection.execute(make)
        assert await connection.fetchval(query, [(ONE, "x")]) == "x"
        await connection.execute(drop)
        await connection.execute(make)
    try:
        with pytest.raises(asyncpg.InternalServerError):
            async with database.connection() as connection:
                await connection.fetchval(query, [(ONE, "x")])
        async with database.connection() as connection:
            assert await connection.fetchval(query, [(ONE, "y")]) == "y"
    finally:
        async with database.connection() as connection:
            await connection.execute(drop)


async def test_only_a_list_is_accepted_as_an_array(database: Database) -> None:
    """If the driver accepted it, our replacement of its check would have no effect."""
    async with database.connection() as connection:
        with pytest.raises(asyncpg.DataError, match="sized iterable"):
            await connection.fetchval("SELECT $1::uuid[]", (ONE, TWO))


async def test_a_row_is_a_tuple_or_a_dict_and_no_other_mapping(database: Database) -> None:
    """The same: without our replacement the driver takes any mapping, and asks each row whether it is one."""
    query = "SELECT (unnest($1::payment_row[])).invoice_id"
    async with database.connection() as connection:
        assert await connection.fetchval(query, [(ONE, "a", 1, None)]) == "a"
        assert await connection.fetchval(query, [{"payment_id": ONE, "invoice_id": "b"}]) == "b"
        with pytest.raises(asyncpg.DataError):
            await connection.fetchval(query, [MappingProxyType({"payment_id": ONE, "invoice_id": "c"})])


async def test_writes_to_several_tables_arrive_together(database: Database, environment: Environment) -> None:
    async with database.transaction() as tx:
        writes = WriteBatch(tx)
        await writes.execute(INBOX, [ONE])
        await writes.execute(ANSWERS, [ONE, TWO], "t", "accepted")
        assert await writes.fetch("SELECT message_id FROM inbox") == [], "not sent before flush"
        await writes.flush()
        await writes.flush()  # nothing is sent twice
    url = environment.databases["invoice"]
    assert await rows(url, "SELECT message_id FROM inbox") == [{"message_id": ONE}]
    assert await rows(url, "SELECT command_id, command_type, answer FROM answers ORDER BY command_id") == [
        {"command_id": ONE, "command_type": "t", "answer": "accepted"},
        {"command_id": TWO, "command_type": "t", "answer": "accepted"},
    ]


async def test_writes_to_one_table_keep_their_order(database: Database, environment: Environment) -> None:
    async with database.transaction() as tx:
        writes = WriteBatch(tx)
        await writes.execute(INBOX, [ONE])
        await writes.execute("DELETE FROM inbox WHERE message_id = $1", ONE)
        await writes.execute(INBOX, [TWO])
        await writes.flush()
    assert await rows(environment.databases["invoice"], "SELECT message_id FROM inbox") == [{"message_id": TWO}]


async def test_writes_to_other_rows_of_a_table_are_still_one_statement(
    database: Database, environment: Environment
) -> None:
    async with database.connection() as connection:
        writes = WriteBatch(connection, one_statement=True)
        await writes.execute(ANSWERS, [ONE], "t", "accepted")
        await writes.flush()
        await writes.execute(ANSWERS, [TWO], "t", "accepted")
        await writes.execute(UPDATE, [ONE], rows=1, apart=True)
        assert writes.fits_one_statement
        await writes.flush()
        details = "SELECT command_id, detail FROM answers ORDER BY command_id"
        assert await rows(environment.databases["invoice"], details) == [
            {"command_id": ONE, "detail": "seen"},
            {"command_id": TWO, "detail": None},
        ]
        await writes.execute(ANSWERS, [TWO], "t", "accepted")
        await writes.execute(UPDATE, [TWO])
        assert not writes.fits_one_statement, "the rows may be the same"


async def _twice_the_same_answer(database: Database) -> None:
    async with database.transaction() as tx:
        writes = WriteBatch(tx)
        await writes.execute(INBOX, [ONE])
        await writes.execute(ANSWERS, [ONE, ONE], "t", "accepted")
        await writes.flush()


async def test_a_violation_in_one_part_undoes_all(database: Database, environment: Environment) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await _twice_the_same_answer(database)
    assert await rows(environment.databases["invoice"], "SELECT * FROM inbox") == []


async def test_only_writes_are_collected(database: Database) -> None:
    async with database.transaction() as tx:
        with pytest.raises(ValueError, match="only INSERT, UPDATE and DELETE"):
            await WriteBatch(tx).execute("SELECT 1")


async def test_all_expected_rows_are_written_or_none(database: Database, environment: Environment) -> None:
    """One of two rows is gone: the write beside it is not stored either."""
    url = environment.databases["invoice"]
    async with database.connection() as connection:
        writes = WriteBatch(connection)
        await writes.execute(ANSWERS, [ONE], "t", "accepted")
        await writes.flush()
        await writes.execute(INBOX, [ONE])
        await writes.execute(UPDATE, [ONE, TWO], rows=2)
        with pytest.raises(MovedOnError):
            await writes.flush()
        assert await rows(url, "SELECT message_id FROM inbox") == []
        assert await rows(url, "SELECT detail FROM answers") == [{"detail": None}]
        await writes.execute(INBOX, [ONE])
        await writes.execute(UPDATE, [ONE], rows=1)
        await writes.flush()
    assert await rows(url, "SELECT message_id FROM inbox") == [{"message_id": ONE}]
    assert await rows(url, "SELECT detail FROM answers") == [{"detail": "seen"}]


async def test_a_row_with_a_newer_version_is_a_conflict() -> None:
    assert trouble(MovedOnError()) is Trouble.CONFLICT


def test_a_joined_statement_never_selects_an_empty_row() -> None:
    """asyncpg 0.32 writes beyond the end of a record without columns when it frees one."""
    joined = _joined((INBOX, ANSWERS), (1, 3), ())
    assert joined.endswith("SELECT 1 WHERE false")
    assert "($2::uuid[])" in joined, "placeholders are numbered across the parts"
