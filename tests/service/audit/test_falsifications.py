"""Books that real services wrote, and that somebody falsified: each falsification breaks the checks that it names, and no others."""

import functools
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import orjson
import pytest
import pytest_asyncio

from deploy.local.snapshot import path_of
from deploy.local.stack import SERVICES
from services.audit.bodies import COLUMNS, BodyColumn, bodies_readable
from services.audit.checks import CHECKS
from services.audit.evidence import Evidence
from services.audit.finding import BREACHES_SHOWN_MAX
from services.audit.stores import Stores, read_json
from tests.service.audit.books import Connections, FinishedBooks, open_books, open_connections
from tests.service.audit.falsifications import (
    FALSIFICATIONS,
    NO_TRUTH_ELSEWHERE,
    NOT_SEEN,
    RESOURCES,
    SEALED,
    SECRETS,
    SIDE,
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


# -- bodies of another form ------------------------------------------------------------------------------------------------------------

HUGE = 10**30
UNREAD = re.compile(r"(specversion|source|subject|datacontenttype|traceparent)$|(decision|refusals|refunds)(\.|$)")
"""Members into which no check looks. The details of the journal are compared as a whole."""


def members(body: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every member that a stored body has; of a list those of its first entry."""
    inside = body.items() if isinstance(body, dict) else enumerate(body[:1]) if isinstance(body, list) else ()
    for name, value in inside:
        yield (*path, name)
        yield from members(value, (*path, name))


def altered(body: Any, path: Sequence[str | int]) -> Iterator[tuple[str, Any]]:
    """The body with one member removed, null, of another type, and of its type but without sense."""
    for how in ("removed", "null", "of another type", "without sense"):
        copy = deepcopy(body)
        *above, last = path
        parent = functools.reduce(lambda part, name: part[name], above, copy)
        value = parent[last]
        if how == "removed":
            del parent[last]
        elif how == "null":
            parent[last] = None
        elif how == "of another type":
            parent[last] = 7 if isinstance(value, str | list | dict) else {"x": "x"}
        elif isinstance(value, str | int) and not isinstance(value, bool):
            parent[last] = "no sense" if isinstance(value, str) else HUGE
        else:
            continue
        yield f"{'.'.join(map(str, path))} {how}", copy


Altered = tuple[str, str, bytes | str, str | None]
"""What was done to a row, where the row is, what it holds then, and what is wrong with that."""


async def alterations(books: FinishedBooks, column: BodyColumn) -> AsyncIterator[Altered]:
    """Everything that can be done to one member of a body of each kind, each time to another row of that kind."""
    side = f"UPDATE payments SET gateway_side = {SIDE} WHERE status = 'needs_decision'"  # no story has one
    assert await books.databases["payment_gateway"].execute(side) != "UPDATE 0"
    rows = await books.databases[column.service].fetch(column.query.replace("SELECT ", "SELECT ctid::text, ", 1))
    alike: dict[str, list[tuple[str, Any]]] = {}
    for row in rows:
        body = orjson.loads(row["body"]) if isinstance(row["body"], bytes) else row["body"]
        alike.setdefault(row["kind"], []).append((row["ctid"], body))
    for kind, bodies in alike.items():
        for number, path in enumerate(dict.fromkeys(path for _, body in bodies for path in members(body))):
            here = [one for one in bodies if path in members(one[1])]
            place, body = here[number % len(here)]
            for how, changed in altered(body, path):
                text = json.dumps(changed)
                stored = text.encode() if column.name == "body" else text
                told = stored if isinstance(stored, bytes) else read_json(stored)
                yield f"{kind} {how}", place, stored, column.mistake(kind, told)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda one: f"{one.table}.{one.name}")
async def test_a_member_of_another_type_is_a_mistake(books: FinishedBooks, column: BodyColumn) -> None:
    done = [(how, why) async for how, _, _, why in alterations(books, column)]
    unseen = [how for how, why in done if why is None and how.endswith("of another type")]
    assert [how for how in unseen if not UNREAD.match(how.split(" ")[1])] == [] or column.table == "journal"


@pytest.mark.parametrize("column", COLUMNS, ids=lambda one: f"{one.table}.{one.name}")
async def test_the_audit_tells_of_bodies_of_another_form_and_goes_on(books: FinishedBooks, column: BodyColumn) -> None:
    """Of those that have a mistake one for each row: they are read in one place. Each of the others is tried, some rows at once."""
    done = [one async for one in alterations(books, column)]
    await _go_on(books, column, list({one[1]: one for one in done if one[3] is not None}.values()))
    read = [one for one in done if one[3] is None and not one[0].endswith("without sense")]
    removed = {one[0].removesuffix("removed") for one in read}
    left = [one for one in read if one[0].removesuffix("null") not in removed]  # null reads as absent
    while left:
        at_once = {one[1]: one for one in reversed(left)}
        left = [one for one in left if at_once[one[1]] is not one]
        await _go_on(books, column, list(at_once.values()))


async def _go_on(books: FinishedBooks, column: BodyColumn, at_once: Sequence[Altered]) -> None:
    """Alter so many rows, and look at all lines."""
    connection = books.databases[column.service]
    await connection.execute("SAVEPOINT whole; SET LOCAL session_replication_role = replica")
    cast = "bytea" if column.name == "body" else "text::jsonb"
    update = f"UPDATE {column.table} SET {column.name} = $1::{cast} WHERE ctid = $2::text::tid"
    wrong = []
    for _, place, stored, why in at_once:
        await connection.execute("SAVEPOINT before")
        try:
            await connection.execute(update, stored, place)
        except asyncpg.DataError:  # an index of the table needs the member
            await connection.execute("ROLLBACK TO before")
        else:
            wrong += [why] if why is not None else []
    findings = [await check.run(books.stores()) for check in CHECKS if check.name not in SLOW]
    await connection.execute("ROLLBACK TO whole")
    told = next(finding for finding in findings if finding.check == bodies_readable.__name__)
    assert told.broken == len(wrong), explained(findings)
    shown = [breach.why.partition(": ")[2] for breach in told.breaches]
    assert sorted(shown) == sorted(wrong) or (len(shown) == BREACHES_SHOWN_MAX and set(shown) <= set(wrong))


# -- every column ----------------------------------------------------------------------------------------------------------------------


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
