"""What deploy/OUTGROWING.md says of shards is read from the schemas, and from the text of every statement.

A table is distributed by the first column of its primary key. A statement stays on one shard, for one message, if each table that it names
is named together with that column, and all of them are distributed by the same one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from deploy.permissions.databases import SERVICES
from tests.support.statements import statements_of
from tests.unit.books.documents import ROOT, code_spans, table

DOCUMENT: Final = ROOT / "deploy/OUTGROWING.md"
SHARDED: Final = {"invoice": {"invoice_id", "stream_id"}, "payment_gateway": {"payment_id"}, "saga": {"payment_id"}}
"""The services on whose databases the way of a payment lies, and by which columns one shard would have all of it."""
SOON_GONE: Final = {"inbox", "outbox", "set_aside"}
"""Tables whose rows are deleted after days at most."""


def tables(service: str) -> dict[str, str]:
    """The tables of a schema, with what it says of each."""
    text = (ROOT / "services" / service / "migrations/schema.txt").read_text()
    return dict(re.findall(r"^TABLE (\w+)\n((?:    .*\n)+)", text, re.MULTILINE))


def primary_key(told: str) -> str:
    (key,) = re.findall(r"PRIMARY KEY \(([^)]*)\)", told)
    return str(key)


def distributing(service: str) -> dict[str, str]:
    """The tables that would be distributed, and by which column. Seals are of one server, and every shard has all tokens."""
    rows = table(DOCUMENT, "database", "table", "primary key", "distributed by").rows
    return {row[1].strip("`"): row[3].strip("`") for row in rows if row[0] == f"`{service}`" and row[3].startswith("`")}


def asks_several_shards(text: str, keys: Mapping[str, str]) -> bool:
    """Whether a statement names a table more often than the column by which it is distributed, or tables distributed by different ones."""
    named: Counter[str] = Counter()
    for name, key in keys.items():
        named[key] += len(re.findall(rf"\b(?:FROM|JOIN|INTO|UPDATE)\s+{name}\b", text))
    needed = {key: times for key, times in named.items() if times}
    return len(needed) > 1 or any(times > _times_given(text, key) for key, times in needed.items())


def _times_given(text: str, key: str) -> int:
    """How often a statement gives this column: what it equals, what it is joined by, or what is inserted."""
    inserted = rf"INSERT INTO \w+(?: AS \w+)? \([^)]*\b{key}\b"
    return len(re.findall(rf"(?<!\w){key}\s+(?:=|IN\b)|USING \([^)]*\b{key}\b|{inserted}", text))


def joins_rows(text: str, keys: Mapping[str, str]) -> bool:
    """Whether a statement of one shard compares the column with nothing but that of rows which it is given."""
    used = {key for name, key in keys.items() if re.search(rf"\b(?:FROM|JOIN|UPDATE)\s+{name}\b", text)}
    return not asks_several_shards(text, keys) and any(
        not re.search(rf"(?<!\w){key}\s+(?:=\s+(?:ANY\()?\$|IN\b)", text) for key in used
    )


def of_which(is_true: Callable[[str, Mapping[str, str]], bool]) -> Iterator[tuple[str, str]]:
    """The file and the text of each statement of which it is true."""
    for service in SHARDED:
        keys = distributing(service)
        for statement in statements_of(service):
            if not re.search(r"\bseals\b", statement.text) and is_true(statement.text, keys):
                yield statement.where.partition(":")[0], statement.text


def test_the_document_knows_the_key_of_every_table() -> None:
    """A table that a migration adds has to say on which shard a message finds its rows."""
    told = table(DOCUMENT, "database", "table", "primary key", "distributed by")
    keys = {(row[0].strip("`"), row[1].strip("`")): row[2].replace("`", "") for row in told.rows}
    assert keys == {
        (service, name): primary_key(text) for service in SERVICES for name, text in tables(service).items()
    }


def test_every_table_can_be_distributed_as_it_is() -> None:
    """Every unique key holds the column."""
    for service in SHARDED:
        found = tables(service)
        for name, by in distributing(service).items():
            assert primary_key(found[name]).split(", ")[0] == by, (service, name)
            assert "UNIQUE" not in found[name], f"{service}.{name}: a unique key besides the primary one"


def test_what_is_kept_holds_what_its_shard_would_be_chosen_by() -> None:
    for service, wanted in SHARDED.items():
        for name in distributing(service).keys() - SOON_GONE:
            columns = set(re.findall(r"^    (\w+) ", tables(service)[name], re.MULTILINE))
            assert columns & wanted, (
                f"{service}.{name}: no column by which its rows could be moved to the shard of their payment"
            )


def test_the_document_knows_every_statement_that_asks_several_shards() -> None:
    """One that is written without the column has to say here why that is right; on the way of a payment it is not."""
    assert counted("statements over several shards") == Counter(file for file, _ in set(of_which(asks_several_shards)))


def test_the_document_knows_every_statement_of_which_citus_asks_every_shard_for_one_row() -> None:
    assert counted("statements that join rows") == Counter(file for file, _ in set(of_which(joins_rows)))


def counted(column: str) -> dict[str, int]:
    """The numbers of a table of the document, by file."""
    return {code_spans(row[0])[0]: int(row[1]) for row in table(DOCUMENT, "file", column).rows}


def test_a_statement_without_the_column_is_noticed() -> None:
    keys = {"payments": "payment_id", "refunds": "payment_id", "invoices": "invoice_id"}
    one = "SELECT status FROM payments p JOIN refunds r ON r.payment_id = p.payment_id WHERE p.payment_id = ANY($1)"
    assert not asks_several_shards(one, keys)
    for several in (
        "SELECT status FROM payments WHERE due_at < now()",
        "UPDATE payments SET due_at = NULL WHERE payment_id IN (SELECT payment_id FROM payments WHERE due_at < now())",
        "SELECT status FROM payments p JOIN refunds r ON r.payment_id = p.payment_id WHERE p.status = $1",
        "SELECT owner FROM payments p JOIN invoices i ON i.invoice_id = p.invoice_id WHERE p.payment_id = $1",
        "INSERT INTO payments (status) VALUES ($1)",
    ):
        assert asks_several_shards(several, keys), several


def test_rows_that_are_joined_are_noticed() -> None:
    keys = {"payments": "payment_id", "refunds": "payment_id"}
    joined = "UPDATE payments p SET status = u.status FROM unnest($1::p[]) u WHERE p.payment_id = u.payment_id"
    assert joins_rows(joined, keys)
    for one in (
        f"{joined} AND p.payment_id = ANY($2)",
        "SELECT status FROM payments WHERE payment_id = $1",
        "SELECT status FROM payments p JOIN refunds r ON r.payment_id = p.payment_id WHERE p.payment_id = ANY($1)",
        "INSERT INTO payments (payment_id, status) SELECT payment_id, status FROM unnest($1::p[])",
    ):
        assert not joins_rows(one, keys), one
