"""An index on a table that is there is made with `make_indexes`: made otherwise, it stops all writes to the table until it is whole."""

import re
from pathlib import Path

import pytest

from tests.support.environment import ROOT

INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)(\w+)\s+ON (\w+)")
TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
CALLED = re.compile(r"^    make_indexes\(", re.MULTILINE)
EARLIER = {
    "0002_pre_outbox_lanes": "the outbox is nearly empty: its rows go once they are confirmed",
    "0003_pre_journal_chain": "it rewrites the journal, which only people write to",
}
"""Why older migrations need not do so."""
MIGRATIONS = sorted(ROOT.glob("services/*/migrations/[0-9]*.py"))


def indexes_on_tables_that_were_there(source: str) -> set[str]:
    """The names of the indexes that this migration makes on tables that it does not make itself."""
    made = set(TABLE.findall(source))
    return {name for name, table in INDEX.findall(source) if table not in made}


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_indexes_on_tables_that_were_there_are_made_beside_writers(path: Path) -> None:
    source = path.read_text()
    late = indexes_on_tables_that_were_there(source)
    if late and path.stem not in EARLIER:
        assert CALLED.search(source), f"{path.relative_to(ROOT)}: make {sorted(late)} with `make_indexes`"


def test_the_guard_sees_such_indexes() -> None:
    assert len(MIGRATIONS) > 20
    assert indexes_on_tables_that_were_there("CREATE TABLE a (b int);\nCREATE INDEX a_b ON a (b);") == set()
    assert indexes_on_tables_that_were_there(
        "CREATE UNIQUE INDEX a_b\n    ON a (b);\nCREATE INDEX CONCURRENTLY c ON d (e);"
    ) == {"a_b"}
    seen = {path.stem for path in MIGRATIONS if indexes_on_tables_that_were_there(path.read_text())}
    assert seen > EARLIER.keys()
