"""Seals keep the head of the journal elsewhere, and the look at the chain compares it with them, step by step."""

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs

from services.staff import journal, journal_store, seals_file, store
from services.staff.journal import ENTRIES_A_SEAL, SEALED_EVERY
from services.staff.journal_check import (
    LOOK_EVERY,
    NO_SUCH_ENTRY,
    PAUSE_S,
    SEALED_OTHERWISE,
    SEEN_OTHERWISE,
    WORDS,
    JournalCheck,
)
from services.staff.journal_store import ChainResult, Difference, Seal
from services.staff.store import JournalEntry
from shared.contracts.staff import JournalSealed
from shared.persistence.database import Database
from tests.service.staff.conftest import Passing, Sealing
from tests.support.databases import execute, rows, unguarded
from tests.support.environment import Environment


@pytest.fixture
def url(environment: Environment) -> str:
    return environment.databases["staff"]


async def act(database: Database, count: int = 1, **details: object) -> list[UUID]:
    """Entries of the journal. Returns their ids."""
    entries = [
        JournalEntry(uuid4(), Passing().now, "ann", "ask", uuid4(), {**details, "n": number}) for number in range(count)
    ]
    async with database.transaction() as tx:
        await store.append_entries(tx, entries)
    return [entry.id for entry in entries]


async def as_owner(url: str, *statements: str) -> None:
    """What only the owner of the tables can do."""
    async with unguarded(url, "journal", "seals"):
        for statement in statements:
            await execute(url, statement)


async def looked(check: JournalCheck) -> ChainResult:
    """Let the look that is due come to its end."""
    async with asyncio.timeout(10):
        while await check.run_once() == PAUSE_S:
            pass
    return await result(check)


async def result(check: JournalCheck) -> ChainResult:
    async with check._database.connection() as connection:
        return (await journal_store.chain_result(connection))[1]


async def sealed(url: str) -> list[int]:
    return [row["position"] for row in await rows(url, "SELECT position FROM seals ORDER BY position")]


# -- when a seal is made -----------------------------------------------------------------------------------------------------------------


async def test_a_journal_is_sealed_at_once_then_each_hour_in_which_it_grew(
    database: Database, url: str, sealing: Sealing, passing: Passing
) -> None:
    task = sealing()
    await task.run_once()
    assert await sealed(url) == []
    await act(database, 2)
    await task.run_once()
    await act(database)
    await task.run_once()
    assert await sealed(url) == [2]
    passing.now += SEALED_EVERY
    for _ in range(2):
        await task.run_once()
        passing.now += SEALED_EVERY
    assert await sealed(url) == [2, 3]


async def test_a_thousand_entries_are_sealed_before_the_hour_is_over(
    database: Database, url: str, sealing: Sealing
) -> None:
    task = sealing()
    await act(database)
    await task.run_once()
    await act(database, ENTRIES_A_SEAL - 1)
    await task.run_once()
    assert await sealed(url) == [1]
    await act(database)
    await task.run_once()
    assert await sealed(url) == [1, ENTRIES_A_SEAL + 1]


async def test_a_clock_that_is_set_back_delays_no_seal(
    database: Database, url: str, sealing: Sealing, passing: Passing
) -> None:
    task = sealing()
    await act(database)
    await task.run_once()
    await act(database)
    passing.pass_(days=-1)
    await task.run_once()
    assert await sealed(url) == [1, 2]


async def test_two_instances_make_one_seal_and_one_event_of_a_head(
    database: Database, url: str, sealing: Sealing
) -> None:
    await act(database, 3)
    await asyncio.gather(sealing().run_once(), sealing().run_once())
    assert await sealed(url) == [3]
    (event,) = await rows(url, "SELECT exchange, routing_key, body FROM outbox_messages")
    head = (await rows(url, "SELECT encode(hash, 'hex') AS hash FROM journal WHERE position = 3"))[0]["hash"]
    assert (event["exchange"], event["routing_key"]) == (JournalSealed.exchange, JournalSealed.wire_name)
    assert orjson.loads(event["body"])["data"] == {"position": 3, "hash": head}


async def test_a_seal_is_never_changed_or_deleted(database: Database, url: str, sealing: Sealing) -> None:
    await act(database)
    await sealing().run_once()
    for statement in ("DELETE FROM seals", "UPDATE seals SET position = 2"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await execute(url, statement)


# -- the file ----------------------------------------------------------------------------------------------------------------------------


async def test_the_file_gets_every_seal_once_also_those_made_while_it_was_away(
    database: Database, url: str, sealing: Sealing, passing: Passing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEALS_A_WRITE", 1)
    file = tmp_path / "away" / "seals"
    task = sealing(file)
    await act(database)
    with pytest.raises(OSError, match="No such file"):
        await task.run_once()
    file.parent.mkdir()
    await act(database)
    passing.now += SEALED_EVERY
    await task.run_once()
    assert len(file.read_text().splitlines()) == 2
    await task.run_once()
    seals = await rows(url, "SELECT position || ':' || encode(hash, 'hex') AS head FROM seals ORDER BY position")
    heads = [row["head"] for row in seals]
    lines = file.read_text().splitlines()
    assert [line.split()[1] for line in lines] == heads
    assert [line.split()[0] for line in lines] == ["2026-11-22T12:30:00.000000Z", "2026-11-22T13:30:00.000000Z"]


async def test_there_is_a_file_before_there_is_a_seal(sealing: Sealing, tmp_path: Path) -> None:
    await sealing(tmp_path / "seals").run_once()
    assert (tmp_path / "seals").read_bytes() == b""


def test_a_line_that_a_crash_left_unfinished_is_written_again(tmp_path: Path, passing: Passing) -> None:
    file = tmp_path / "seals"
    one, two = (Seal(position, bytes(32), passing()) for position in (1, 2))
    seals_file.add(file, [one, two])
    file.write_bytes(file.read_bytes()[:-3])
    assert seals_file.last_position(file) == 1
    seals_file.add(file, [two])
    assert seals_file.last_position(file) == 2
    assert seals_file.between(file, 0, 9) == {1: {bytes(32)}, 2: {bytes(32)}}
    assert seals_file.between(file, 1, 1) == {}


# -- the look at the chain ---------------------------------------------------------------------------------------------------------------


async def test_nothing_was_checked_before_the_first_look(database: Database, passing: Passing) -> None:
    assert (await result(JournalCheck(database, passing))).checked_at is None


async def test_a_whole_chain_is_told_with_its_entries_and_seals(
    database: Database, sealing: Sealing, passing: Passing, tmp_path: Path
) -> None:
    task = sealing(tmp_path / "seals")
    for _ in range(3):
        await act(database, 4)
        await task.run_once()
        passing.now += SEALED_EVERY
    await act(database)
    whole = await looked(JournalCheck(database, passing, tmp_path / "seals", entries_a_step=5))
    assert (whole.checked_at, whole.entries, whole.broken_at) == (passing(), 13, None)
    assert (whole.sealed, whole.sealed_outside) == (3, 3)


@pytest.mark.parametrize("entries_a_step", [3, 5, 6, 100])
async def test_a_look_of_any_step_comes_to_the_same_end(
    database: Database, passing: Passing, entries_a_step: int
) -> None:
    await act(database, 6)
    assert (await looked(JournalCheck(database, passing, entries_a_step=entries_a_step))).entries == 6


async def test_another_process_goes_on_where_one_died(database: Database, url: str, passing: Passing) -> None:
    await act(database, 6)
    assert await JournalCheck(database, passing, entries_a_step=4).run_once() == PAUSE_S
    await as_owner(url, "UPDATE journal SET who = 'eve' WHERE position = 2")  # behind the look's back
    assert (await looked(JournalCheck(database, passing, entries_a_step=4))).entries == 6
    passing.now += LOOK_EVERY
    assert (await looked(JournalCheck(database, passing, entries_a_step=4))).broken_at == 2


@pytest.mark.parametrize(
    ("change", "broken_at", "why"),
    [
        ("UPDATE journal SET who = 'eve' WHERE position = 4", 4, WORDS[Difference.CONTENT]),
        ("UPDATE journal SET details = '{}' WHERE position = 1", 1, WORDS[Difference.CONTENT]),
        ("UPDATE journal SET at = now() WHERE position = 3", 3, WORDS[Difference.CHAIN]),
        ("UPDATE journal SET hash = sha256('') WHERE position = 3", 3, WORDS[Difference.CHAIN]),
        ("UPDATE journal SET salt = NULL WHERE position = 5", 5, WORDS[Difference.PURGE]),
        ("DELETE FROM journal WHERE position = 2", 3, WORDS[Difference.GAP]),
        ("DELETE FROM journal WHERE position = 1", 2, WORDS[Difference.GAP]),
        ("UPDATE journal SET position = -1 WHERE position = 1", -1, WORDS[Difference.GAP]),
        ("DELETE FROM journal WHERE position > 5", 6, NO_SUCH_ENTRY),
        ("DELETE FROM journal", 6, NO_SUCH_ENTRY),
    ],
)
async def test_what_somebody_changed_is_found_with_the_entry(
    database: Database, url: str, sealing: Sealing, passing: Passing, change: str, broken_at: int, why: str
) -> None:
    await act(database, 6)
    await sealing().run_once()
    await as_owner(url, change)
    with capture_logs() as logged:
        broken = await looked(JournalCheck(database, passing, entries_a_step=4))
    assert (broken.broken_at, broken.broken_why) == (broken_at, why)
    assert [line["entry"] for line in logged if line["event"] == "journal_differs"] == [broken_at]


async def test_who_rewrites_the_seals_as_well_is_found_by_the_file(
    database: Database, url: str, sealing: Sealing, passing: Passing, tmp_path: Path
) -> None:
    file = tmp_path / "seals"
    await act(database, 6)
    await sealing(file).run_once()
    await as_owner(url, "DELETE FROM seals", "DELETE FROM journal WHERE position > 3")
    assert (await looked(JournalCheck(database, passing))).broken_at is None
    passing.now += LOOK_EVERY
    broken = await looked(JournalCheck(database, passing, file))
    assert (broken.broken_at, broken.broken_why) == (6, NO_SUCH_ENTRY)


async def test_a_journal_that_was_chained_anew_has_other_hashes_than_its_seals(
    database: Database, url: str, sealing: Sealing, passing: Passing
) -> None:
    await act(database, 3)
    await sealing().run_once()
    await as_owner(url, "DELETE FROM journal")
    await act(database, 3)
    assert (await looked(JournalCheck(database, passing))).broken_why == SEALED_OTHERWISE


async def test_an_end_that_no_seal_has_seen_is_missed_by_the_next_look_and_every_one_after_it(
    database: Database, url: str, passing: Passing
) -> None:
    await act(database, 6)
    check = JournalCheck(database, passing)
    await looked(check)
    await as_owner(url, "DELETE FROM journal WHERE position = 6")
    for _ in range(2):
        passing.now += LOOK_EVERY
        broken = await looked(check)
        assert (broken.broken_at, broken.broken_why, broken.entries) == (6, NO_SUCH_ENTRY, 6)
    await act(database)
    passing.now += LOOK_EVERY
    assert (await looked(check)).broken_why == SEEN_OTHERWISE


async def test_a_purge_that_is_told_of_breaks_nothing(database: Database, url: str, passing: Passing) -> None:
    ids = await act(database, 3, note="4242")
    async with database.transaction() as tx:
        row = {"table": "journal", "key": str(ids[1])}
        await store.append_entries(tx, [JournalEntry(uuid4(), passing(), "ann", "purge", uuid4(), {"rows": [row]})])
    await as_owner(url, "UPDATE journal SET salt = NULL, details = '{}' WHERE position = 2")
    assert (await looked(JournalCheck(database, passing))).broken_at is None


async def test_a_purge_that_was_told_of_before_excuses_nothing(database: Database, url: str, passing: Passing) -> None:
    """Whoever knows the id of an entry to come could prepare its falsification."""
    to_come = uuid4()
    named = {"rows": [{"table": "journal", "key": str(to_come)}]}
    for id_, action, details in ((uuid4(), "purge", named), (to_come, "ask", {"n": 1})):
        async with database.transaction() as tx:
            await store.append_entries(tx, [JournalEntry(id_, passing(), "ann", action, uuid4(), details)])
    await as_owner(url, "UPDATE journal SET salt = NULL, details = '{}' WHERE position = 2")
    found = await looked(JournalCheck(database, passing))
    assert (found.broken_at, found.broken_why) == (2, WORDS[Difference.PURGE])


async def test_a_look_waits_for_its_hour_unless_somebody_asks(database: Database, passing: Passing) -> None:
    await act(database)
    check = JournalCheck(database, passing)
    first = await looked(check)
    passing.pass_(minutes=5)
    assert (await looked(check)).checked_at == first.checked_at
    async with database.transaction() as tx:
        await journal_store.ask_for_look(tx, passing())
    assert (await looked(check)).checked_at == passing()
    passing.now -= timedelta(days=3)
    assert (await looked(check)).checked_at == passing(), "a clock that is set back does not end all looks"


async def test_of_two_instances_one_looks(database: Database, passing: Passing) -> None:
    check = JournalCheck(database, passing)
    await looked(check)
    await act(database, 6)
    passing.now += LOOK_EVERY
    async with database.transaction() as tx:
        assert await journal_store.lock_look(tx) is not None
        assert await check.run_once() == check.interval_s
    assert (await looked(check)).entries == 6
