"""Books that real services wrote, and that somebody falsified: each falsification breaks the checks that it names, and no others."""

import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from uuid import UUID, uuid5

import pytest
import pytest_asyncio

from deploy.local.snapshot import path_of
from deploy.local.stack import SERVICES
from services.audit.checks import CHECKS
from services.audit.evidence import Evidence
from services.audit.stores import Stores
from tests.service.audit.books import Connections, FinishedBooks, open_books, open_connections
from tests.service.audit.falsifications import (
    FALSIFICATIONS,
    NO_TRUTH_ELSEWHERE,
    NOT_SEEN,
    RESOURCES,
    SEALED,
    SECRETS,
    Falsification,
)
from tests.service.audit.test_checks import broken, explained, found
from tests.service.audit.workload import command, finish_workload, invoice, payment, refund
from tests.support.environment import Environment

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENDER = "upstream"
SLOW = frozenset({SECRETS, RESOURCES})
"""Checks that read every text or ask about every session. They are made where they are named, since they cost as much as all others."""
_NAMED = re.compile(r"\$(\w+)\(([^)]*)\)")


@pytest.fixture(scope="module")
def finished(environment_urls: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished books in all databases; returns the folder with the ledger and the rest."""
    folder = tmp_path_factory.mktemp("finished")
    finish_workload(environment_urls, folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connections(environment_urls: Environment, finished: Path) -> AsyncIterator[Connections]:
    """The same for all tests: to prepare the audit's statements takes longer than to run them."""
    async with open_connections(environment_urls.databases) as opened:
        yield opened


@pytest.fixture(scope="module")
def gateway_ids(finished: Path) -> Mapping[str, Mapping[UUID, str]]:
    """The gateway's ids by the payments that they are of."""
    with sqlite3.connect(finished / "ledger.sqlite") as ledger:
        of_payments = "json_extract(i.metadata, '$.payment_id') AS payment_id FROM payment_intents i"
        intents = ledger.execute(f"SELECT i.id, {of_payments}").fetchall()
        charges = ledger.execute(f"SELECT c.id, {of_payments} JOIN charges c ON c.payment_intent = i.id").fetchall()
    return {name: {UUID(about): id_ for id_, about in ids} for name, ids in (("intent", intents), ("charge", charges))}


@pytest_asyncio.fixture(loop_scope="module")
async def books(connections: Connections, finished: Path) -> AsyncIterator[FinishedBooks]:
    """The same books, to be falsified; every change is rolled back."""
    async with open_books(connections, finished) as opened:
        yield opened


def named(statement: str, gateway_ids: Mapping[str, Mapping[UUID, str]]) -> str:
    """The statement with ids in place of the stories that it names."""

    def id_of(match: re.Match[str]) -> str:
        kind, name = match.groups()
        ids: dict[str, Callable[[str], object]] = {
            "payment": payment,
            "refund": refund,
            "invoice": invoice,
            "sent": command,
            "kept": lambda sent: uuid5(command(sent), f"sender:{SENDER}"),
        }
        return f"'{ids[kind](name) if kind in ids else gateway_ids[kind][payment(name)]}'"

    return _NAMED.sub(id_of, statement)


async def falsify(books: FinishedBooks, one: Falsification, gateway_ids: Mapping[str, Mapping[UUID, str]]) -> None:
    """Do what somebody does who may write everywhere, and whom no trigger stops."""
    for connection in books.databases.values():
        await connection.execute("SET LOCAL session_replication_role = replica")
    for store, statement in one.statements:
        if store == "ledger":
            assert books.ledger.execute(named(statement, gateway_ids)).rowcount > 0, statement
        else:
            done = await books.databases[store].execute(named(statement, gateway_ids))
            assert done not in {"UPDATE 0", "DELETE 0"} or statement.count("$payment(void)"), statement


def in_production(stores: Stores) -> Stores:
    """The same stores as an audit of production has them: the databases and the broker."""
    return replace(stores, ledger=None, history=None, evidence=Evidence())


async def test_the_books_hold(books: FinishedBooks) -> None:
    for stores in (books.stores(), in_production(books.stores())):
        findings = [await check.run(stores) for check in CHECKS]
        assert broken(findings) == set(), explained(findings)


@pytest.mark.parametrize("one", FALSIFICATIONS, ids=lambda one: one.name)
async def test_a_falsification_breaks_the_checks_that_it_names(
    books: FinishedBooks, gateway_ids: Mapping[str, Mapping[UUID, str]], one: Falsification
) -> None:
    await falsify(books, one, gateway_ids)
    stores = books.stores()
    findings = [await check.run(stores) for check in CHECKS if check.name not in SLOW - one.red]
    red = one.red | ({SEALED} if one.breaks_seals else set())
    assert broken(findings) == red, explained(findings)
    assert (len(one.red) > 1) == bool(one.why), "why more than one check breaks must be said, and only then"
    production = in_production(stores)
    seen = broken([await found(name, production) for name in sorted(red)])
    assert bool(seen) == (one.seen_in_production or (one.breaks_seals and SEALED not in one.red)), seen


@pytest.mark.parametrize("one", NOT_SEEN, ids=lambda one: one.name)
async def test_what_is_not_seen_is_known(
    books: FinishedBooks, gateway_ids: Mapping[str, Mapping[UUID, str]], one: Falsification
) -> None:
    await falsify(books, one, gateway_ids)
    stores = books.stores()
    findings = [await check.run(stores) for check in CHECKS if check.name not in SLOW]
    assert broken(findings) == set(), explained(findings)


def columns() -> Iterator[str]:
    """Every column of every table, as `database.table.column`."""
    for service in SERVICES:
        for table, lines in re.findall(r"^TABLE (\w+)\n((?: {4}.*\n)*)", path_of(service).read_text(), re.MULTILINE):
            yield from (f"{service}.{table}.{column}" for column in re.findall(r"^ {4}([a-z_]+) ", lines, re.MULTILINE))


async def test_every_column_is_falsified_or_has_no_truth_elsewhere() -> None:
    falsified = {one.of for one in FALSIFICATIONS}
    left = {column for column in columns() if column not in falsified}
    unexplained = [one for one in left if not any(fnmatchcase(one, pattern) for pattern in NO_TRUTH_ELSEWHERE)]
    assert unexplained == [], "falsify these columns, or say in NO_TRUTH_ELSEWHERE why nothing else tells of them"
    needless = [pattern for pattern in NO_TRUTH_ELSEWHERE if not any(fnmatchcase(one, pattern) for one in left)]
    assert needless == [], "these are falsified, or there is no such column"
