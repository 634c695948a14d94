"""The journal is a chain of entries that nobody can change, put in or take out unseen."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from deploy.local.stack import Stack
from services.audit.finding import Finding, Tally
from services.audit.journal import check_chain
from services.audit.stores import snapshot
from services.staff import store
from services.staff.store import JournalEntry
from shared.persistence.database import Database
from shared.persistence.migrate import migrate
from shared.persistence.schema import steps
from tests.service.staff.conftest import Sealing
from tests.support.databases import execute, rows, unguarded
from tests.support.environment import ROOT, Environment
from tests.support.waiting import until

NOW = datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC)
MIGRATIONS = ROOT / "services" / "staff" / "migrations"
WAITING_FOR_THE_CHAIN = """
    SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""
AS_EARLIER_BUILDS = "INSERT INTO journal (id, at, who, action, subject, details) VALUES ($1, $2, $3, $4, $5, $6)"


@pytest.fixture
def url(environment: Environment) -> str:
    return environment.databases["staff"]


@pytest.fixture
async def role(url: str, stack: Stack) -> AsyncIterator[str]:
    """A role that may read the journal and add to it, and nothing else."""
    name = f"appender_{uuid4().hex[:8]}"
    await execute(url, f"CREATE ROLE {name} NOSUPERUSER")
    await execute(url, f"GRANT TEMPORARY ON DATABASE {urlsplit(url).path[1:]} TO {name}")
    await execute(url, f"GRANT USAGE ON SCHEMA public TO {name}")
    await execute(url, f"GRANT EXECUTE ON FUNCTION journal_digest, journal_hash TO {name}")
    await execute(url, f"GRANT SELECT, INSERT ON journal TO {name}")
    yield name
    await execute(url, f"DROP OWNED BY {name}")
    await execute(url, f"DROP ROLE {name}")


def entry(who: str = "ann", **details: object) -> JournalEntry:
    return JournalEntry(uuid4(), NOW, who, "ask", uuid4(), details)


async def checked(url: str, *heads: str) -> Finding:
    counted = Tally(settled_before=None)
    async with snapshot("staff", url) as staff:
        await check_chain(counted, staff, dict.fromkeys(heads, "this test"))
    return counted.finding("journal_unbroken", "")


async def test_entries_of_one_transaction_and_of_the_next_are_one_chain(database: Database, url: str) -> None:
    entries = [entry(n=n) for n in range(5)]
    async with database.transaction() as tx:
        assert await store.journal_head(tx) is None
        await store.append_entries(tx, entries[:3])
    async with database.transaction() as tx:
        await store.append_entries(tx, entries[3:])
        head = await store.journal_head(tx)
    chained = await rows(url, "SELECT position, id, salt, hash FROM journal ORDER BY position")
    assert [(row["position"], row["id"]) for row in chained] == list(enumerate([e.id for e in entries], start=1))
    assert head is not None
    assert head == f"5:{chained[-1]['hash'].hex()}"
    assert len({row["salt"] for row in chained}) == 5
    finding = await checked(url, head)
    assert (finding.looked_at, finding.breaches) == (5, ())


async def test_writers_at_the_same_time_make_one_chain(url: str) -> None:
    databases = [await Database.open(url, name="test", connections_max=2) for _ in range(3)]

    async def write(database: Database) -> None:
        async with database.transaction() as tx:
            await store.append_entries(tx, [entry(), entry()])

    await asyncio.gather(*(write(database) for database in databases for _ in range(8)))
    for database in databases:
        await database.close()
    finding = await checked(url)
    assert (finding.looked_at, finding.breaches) == (48, ())


async def test_a_writer_waits_for_the_one_before_and_follows_it(database: Database, url: str) -> None:
    """The second begins first, and would not see the entry of the other in a snapshot of its own."""

    async def waits_for_the_chain() -> bool:
        return bool(await rows(url, WAITING_FOR_THE_CHAIN))

    async with database.transaction() as second:
        await second.fetch("SELECT 1 FROM journal")
        async with database.transaction() as first:
            await store.append_entries(first, [entry("first")])
            waiting = asyncio.create_task(store.append_entries(second, [entry("second")]))
            await until(waits_for_the_chain, what="a writer that waits for the other")
        async with asyncio.timeout(10):
            await waiting
    assert [row["who"] for row in await rows(url, "SELECT who FROM journal ORDER BY position")] == ["first", "second"]
    assert (await checked(url)).breaches == ()


async def test_an_action_that_is_rolled_back_leaves_no_gap(database: Database, url: str) -> None:
    async def fail() -> None:
        async with database.transaction() as tx:
            await store.append_entries(tx, [entry()])
            raise LookupError

    async with database.transaction() as tx:
        await store.append_entries(tx, [entry()])
    with pytest.raises(LookupError):
        await fail()
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry()])
    finding = await checked(url)
    assert (finding.looked_at, finding.breaches) == (2, ())


async def test_what_an_entry_holds_cannot_be_found_from_its_digest_once_the_salt_is_gone(
    database: Database, url: str
) -> None:
    """A card number has few values, so whoever has a digest of it without salt tries them all."""
    one, two = entry(note="the same"), entry(note="the same")
    async with database.transaction() as tx:
        await store.append_entries(tx, [one, two])
    first, second = await rows(
        url, "SELECT digest, jsonb_build_array(who, details)::text AS content FROM journal ORDER BY position"
    )
    assert first["content"] == second["content"]
    assert len({first["digest"], second["digest"], sha256(first["content"].encode()).digest()}) == 3


# -- who may only append -----------------------------------------------------------------------------------------------------------------


async def test_a_role_that_may_read_and_add_is_enough(url: str, role: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(f"SET ROLE {role}")
        await connection.execute(AS_EARLIER_BUILDS, uuid4(), NOW, "ann", "ask", uuid4(), "{}")
        await connection.execute(AS_EARLIER_BUILDS, uuid4(), NOW, "bea", "ask", uuid4(), "{}")
        for statement in (
            "UPDATE journal SET who = 'nobody'",
            "UPDATE journal SET salt = NULL, who = 'nobody'",
            "DELETE FROM journal",
            "TRUNCATE journal",
            "ALTER TABLE journal DISABLE TRIGGER journal_chained",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
    finding = await checked(url)
    assert (finding.looked_at, finding.breaches) == (2, ())


async def test_a_place_in_the_chain_is_given_and_not_chosen(url: str, role: str) -> None:
    """Not even with a temporary table in front of the journal."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(f"SET ROLE {role}")
        await connection.execute("CREATE TEMPORARY TABLE journal (position bigint, hash bytea)")
        await connection.execute("INSERT INTO journal VALUES (41, 'forged')")
        await connection.execute(
            """INSERT INTO public.journal (id, at, who, action, subject, details, position, salt, digest, hash)
               VALUES ($1, $2, 'eve', 'ask', $1, '{}', 42, 'x', 'x', 'x')""",
            uuid4(),
            NOW,
        )
    finally:
        await connection.close()
    finding = await checked(url)
    assert (finding.looked_at, finding.breaches) == (1, ())


@pytest.mark.parametrize(
    "change",
    [
        "who = 'nobody'",
        "details = '{}', salt = 'x'",
        "salt = NULL, action = 'replay'",
        "salt = NULL, subject = id",
        "salt = NULL, at = now()",
        "salt = NULL, position = 7",
        "salt = NULL, hash = 'x'",
        "salt = NULL, digest = 'x'",
        "salt = NULL, who = 'Eve'",
        "salt = NULL, who = 'ann '",
        "salt = NULL, who = 'a__'",
        "salt = NULL, who = '%'",
        "salt = NULL, who = '[card number] Eve'",
        """salt = NULL, details = details || '{"evidence": "seen"}'""",
        """salt = NULL, details = details || '{"version": 5}'""",
        """salt = NULL, details = '{"evidence": "saw it"}'""",
    ],
)
async def test_not_even_its_owner_changes_an_entry_by_mistake(database: Database, url: str, change: str) -> None:
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry(evidence="saw 100% of it", version=4)])
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await execute(url, f"UPDATE journal SET {change}")


@pytest.mark.parametrize(
    ("who", "details"),
    [
        ("card-data-removed", {"evidence": "saw 100% of it", "version": 4}),
        ("a[card number]", {"evidence": "saw [card number] of it", "version": 4}),
        ("ann", {"evidence": "***[card data removed]", "version": "[card data removed]"}),
        ("ann", {"evidence": "[card data removed]", "version": 4}),
    ],
)
async def test_a_purge_takes_words_out(database: Database, url: str, who: str, details: dict[str, object]) -> None:
    """Whatever stood there, a card number or not: it is told by another entry, and shows."""
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry(evidence="saw 100% of it", version=4)])
    await execute(url, "UPDATE journal SET salt = NULL, who = $1, details = $2", who, details)
    (left,) = await rows(url, "SELECT who, details FROM journal")
    assert left == {"who": who, "details": details}


# -- heads that stand elsewhere ----------------------------------------------------------------------------------------------------------


async def test_a_new_head_is_logged_once(database: Database, sealing: Sealing) -> None:
    task = sealing()
    with capture_logs() as logged:
        await task.run_once()
        async with database.transaction() as tx:
            await store.append_entries(tx, [entry()])
            head = await store.journal_head(tx)
        await task.run_once()
        await task.run_once()
    assert [line["head"] for line in logged if line["event"] == "journal_head"] == [head]


async def test_a_journal_that_loses_a_head_that_was_seen_is_broken_until_it_has_it_again(
    database: Database, url: str, sealing: Sealing
) -> None:
    def intact() -> float | None:
        return REGISTRY.get_sample_value("remit_journal_intact")

    async with database.transaction() as tx:
        await store.append_entries(tx, [entry(), entry()])
    watch = sealing()
    with capture_logs() as logged:
        await watch.run_once()
        assert intact() == 1
        async with unguarded(url, "journal"):
            await execute(
                url, "UPDATE journal SET position = -position WHERE position = 2"
            )  # its owner cuts the end off
        for _ in range(2):
            await watch.run_once()
            assert intact() == 0
        async with unguarded(url, "journal"):
            await execute(url, "UPDATE journal SET position = -position WHERE position = -2")
        await watch.run_once()
        assert intact() == 1
    assert [entry_["event"] for entry_ in logged] == ["journal_head", "journal_broken", "journal_broken"]


async def test_an_end_that_was_cut_off_is_missed_by_whoever_knows_the_head(database: Database, url: str) -> None:
    async with database.transaction() as tx:
        await store.append_entries(tx, [entry(), entry()])
        head = await store.journal_head(tx)
    async with unguarded(url, "journal"):
        await execute(url, "DELETE FROM journal WHERE position = 2")
    assert (await checked(url)).breaches == (), "what is left is a chain"
    (breach,) = (await checked(url, head or "")).breaches
    assert breach.why == "entry 2 is known from this test, and there is no such entry"


# -- upgrades ----------------------------------------------------------------------------------------------------------------------------


async def test_entries_from_before_are_chained_in_their_order(stack: Stack, tmp_path: Path) -> None:
    """What earlier builds wrote, and what they write while the new one runs beside them."""
    name = f"test_journal_{uuid4().hex[:8]}"
    url = stack.create_database(name)
    try:
        ids = [UUID(int=n) for n in (3, 1, 2)]
        for step in steps(MIGRATIONS)[:2]:
            shutil.copy(MIGRATIONS / f"{step.name}.py", tmp_path)
        await migrate(url, tmp_path)
        for seconds, id_ in enumerate(ids):
            await execute(url, AS_EARLIER_BUILDS, id_, NOW.replace(second=seconds), "ann", "ask", uuid4(), {"n": 1.50})
        await migrate(url, MIGRATIONS)
        await execute(url, AS_EARLIER_BUILDS, UUID(int=0), NOW, "bea", "ask", uuid4(), {})
        chained = [row["id"] for row in await rows(url, "SELECT id FROM journal ORDER BY position")]
        assert chained == [*ids, UUID(int=0)]
        finding = await checked(url)
        assert (finding.looked_at, finding.breaches) == (4, ())
    finally:
        stack.drop_database(name)
