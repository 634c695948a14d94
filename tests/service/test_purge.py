"""`remit purge`: a card number that got in is taken out of every table, and all that the audit promises goes on holding."""

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from deploy.permissions.databases import GRANTS
from services.audit.finding import CheckResult
from services.audit.run import AuditReport, audit
from services.invoice.__main__ import assemble
from services.payment_gateway import store
from services.payment_gateway.commands import PURGED_HASH, Request, on_command
from services.payment_gateway.domain import PaymentTransition
from services.payment_gateway.store import read_details
from services.purge import run as purging
from services.purge.places import NO_TEXTS, PLACES, RESEALED
from services.purge.run import FoundRow, Purge, Purged, find, prepared, tables_of
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from shared.messaging.dead_letter_headers import BODY_WITHHELD, WITHHELD_CARD_DATA, WITHHELD_NOT_TEXT
from shared.messaging.envelope import Outgoing
from shared.messaging.topology import COMMANDS, DEAD_LETTERS
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from tests.service.audit.books import command, payment, sources, write_books
from tests.service.cli.remit import remit
from tests.support.databases import execute, rows, unguarded
from tests.support.environment import Environment
from tests.support.seals import seal
from tests.support.upstream_client import UpstreamClient

PAN = "4242 4242 4242 4242"
DIGITS = PAN.replace(" ", "")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
COLUMNS = """
    SELECT c.relname AS table, a.attname AS name, format_type(a.atttypid, NULL) AS type
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind NOT IN ('i', 'I', 'v', 'c') AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relname <> 'alembic_version' ORDER BY c.relname, a.attnum"""
CHECKED_WORDS = r"""
    SELECT c.conrelid::regclass::text AS table, a.attname AS name FROM pg_constraint c
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND ARRAY[a.attnum] = c.conkey
    WHERE c.contype = 'c' AND pg_get_constraintdef(c.oid) ~ '(= ANY \(|<@ )ARRAY\[|\^\[a-z_\]|\^\[A-Z\]'"""
IN_NEW_OUTBOX_ROW = """
    INSERT INTO outbox (id, ids, exchanges, routing_keys, types, correlation_ids, content_types, headers, droppable, bodies, message_ids,
        reply_tos, created_at, sweep_after, refusals)
    VALUES (gen_random_uuid(), ARRAY[gen_random_uuid()], '{x}', '{k}', '{t}', '{c}', '{a}', ARRAY['{}'::jsonb], '{false}', '{"{}"}', '{m}',
        '{r}', now(), now() + interval '1 day', 0)"""
BASE64, HEX = base64.b64encode(DIGITS.encode()).decode(), DIGITS.encode().hex()
PLANTED = {
    "text": f"coalesce(NAME, '') || ' {PAN} {BASE64} {HEX}'",
    "text[]": f"ARRAY['{PAN} {BASE64}']",
    "jsonb": f"""jsonb_build_object('old', NAME, 'note', 'card {PAN}', '{DIGITS}', 1, 'expected_version', 1,
        'in four', '[4242, 4242, 4242, 4242]'::jsonb)""",
    "jsonb[]": f"""ARRAY['{{"note": "{PAN}", "number": {DIGITS}, "{BASE64}": "{HEX}"}}'::jsonb]""",
    "bytea": f"""convert_to('{{"note": "card {PAN}", "note": "none", "number": {DIGITS}}}', 'UTF8')""",
    "bytea[]": f"ARRAY['\\xff'::bytea || convert_to('no UTF-8, but {PAN}', 'UTF8')]",
}
LEFT_NOWHERE = [PAN, DIGITS, BASE64, HEX, PAN.encode().hex(), "4242, 4242"]
WITHOUT_A_TEXT = {
    "uuid",
    "uuid[]",
    "smallint",
    "integer",
    "integer[]",
    "bigint",
    "double precision",
    "boolean",
    "boolean[]",
    "timestamp with time zone",
}
"""Types of columns in which no text can stand. The largest number that a contract takes for a bigint is shorter than a card number."""


@asynccontextmanager
async def opened(environment: Environment) -> AsyncIterator[dict[str, Database]]:
    async with AsyncExitStack() as stack:
        databases = {}
        for name, url in environment.databases.items():
            databases[name] = await Database.open(url, name="remit purge", connections_max=2)
            stack.push_async_callback(databases[name].close)
        yield databases


async def purge(environment: Environment, *, number: str | None = None) -> Purged:
    async with opened(environment) as databases:
        purge_ = Purge(databases, number=number, who="ann", reason="ticket 7", clock=lambda: NOW)
        return await purge_.run()


async def found(environment: Environment, *, number: str | None = None) -> list[FoundRow]:
    async with opened(environment) as databases:
        cleaner, _ = await prepared(databases, number)
        return [row async for row in find(databases, await tables_of(databases), cleaner)]


async def report(environment: Environment, folder: Path) -> AuditReport:
    """The audit without the listener's record, which knows the bytes that were published, card number and all."""
    (folder / "tap.jsonl").write_text("")
    return await audit(sources(environment.databases, None, folder), datetime.now(UTC))


def broken(audited: AuditReport) -> dict[str, list[str]]:
    return {
        finding.check: [f"{breach.about}: {breach.why}" for breach in finding.breaches]
        for finding in audited.findings
        if finding.result is CheckResult.BROKEN
    }


async def everything(environment: Environment) -> str:
    """All rows of all tables as one text."""
    texts = []
    for url in environment.databases.values():
        tables = await rows(url, "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'")
        for table in tables:
            found_ = await rows(url, f"SELECT t::text AS row FROM {table['name']} t")
            texts += [row["row"] for row in found_]
    return "\n".join(texts)


async def as_owner(url: str, *statements: str) -> None:
    """Statements on the journal as its owner can, past the trigger that guards it."""
    async with unguarded(url, "journal"):
        for statement in statements:
            await execute(url, statement)


# -- every table -------------------------------------------------------------------------------------------------------------------------


async def text_columns(url: str) -> list[dict[str, Any]]:
    """All columns in which a text can stand, whatever migration made them."""
    return [column for column in await rows(url, COLUMNS) if column["type"] not in WITHOUT_A_TEXT]


async def test_a_purge_looks_at_every_column_in_which_a_text_can_stand(environment_urls: Environment) -> None:
    async with opened(environment_urls) as databases:
        tables = await tables_of(databases)
    for service, url in environment_urls.databases.items():
        looked_at = {(table.name, column) for table in tables if table.database == service for column in table.columns}
        there = {(column["table"], column["name"]) for column in await text_columns(url)} - NO_TEXTS
        assert there == looked_at, (
            "say in services/purge/places.py where the table stands; or in this test that no text can"
        )


async def test_its_role_may_change_these_columns_and_no_others(environment_urls: Environment) -> None:
    """Except those in which the database takes only words of ours."""
    for service, grants in GRANTS.items():
        url = environment_urls.databases[service]
        granted = {
            (table, column)
            for table, grant in grants.items()
            for columns in re.findall(r"UPDATE \(([^)]*)\)", grant.purge)
            for column in columns.split(", ")
        }
        checked = {(row["table"], row["name"]) for row in await rows(url, CHECKED_WORDS)}
        there = {(column["table"], column["name"]) for column in await text_columns(url)}
        assert granted == (there - NO_TEXTS - checked) | (there & RESEALED)


async def test_the_role_for_a_purge_is_enough(environment: Environment, tmp_path: Path) -> None:
    """Beside a session of the invoice service, which belongs to another role, and which the purge ends."""
    await write_books(environment.databases, tmp_path)
    await _card_in_the_books(environment.databases)
    await seal(environment.databases)
    service = await Database.open(
        environment.stack.database_url_of("invoice", "invoice"), name="remit invoice", connections_max=1
    )
    try:
        async with service.connection() as connection:
            await connection.fetchval("SELECT 1")
        purged = await remit("purge", "--scan", "--do", "--who", "ann", "--reason", "ticket 7", environment=environment)
        assert purged.code == 0, purged.err
        async with service.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert service.epoch == 1
    finally:
        await service.close()
    assert broken(await report(environment, tmp_path)) == {}


async def _plant(url: str, column: Mapping[str, str]) -> bool:
    """Put the number into one column of all rows. False if nothing came of it: there is no row, the database refuses such a value there, or
    a trigger computes what stands there."""
    table, name = column["table"], column["name"]
    value = PLANTED[column["type"]].replace("NAME", name)
    before = await rows(url, f"SELECT {name}::text AS held FROM {table}")
    try:
        after = await rows(url, f"UPDATE {table} SET {name} = {value} RETURNING {name}::text AS held")
        return {row["held"] for row in before} != {row["held"] for row in after}
    except asyncpg.CheckViolationError:
        return False


async def test_a_number_in_any_column_of_any_table_is_found_and_purged(
    environment: Environment, tmp_path: Path
) -> None:
    await write_books(environment.databases, tmp_path)
    planted = set()
    async with unguarded(environment.databases["staff"], "journal"):
        for name, url in environment.databases.items():
            await execute(url, IN_NEW_OUTBOX_ROW)
            keys = {place.table: (*place.key, place.whole or "") for place in PLACES[name]}
            for column in await text_columns(url):
                place = (column["table"], column["name"])
                if place not in NO_TEXTS and column["name"] not in keys[column["table"]] and await _plant(url, column):
                    planted.add((name, *place))
    only_keys = {("invoice", "refunds"), ("staff", "queues"), ("staff", "second_person_limits")}
    only_words_of_ours = {("invoice", "seals"), ("payment_gateway", "seals")}
    assert {
        (name, one.table) for name, places in PLACES.items() for one in places
    } - only_keys - only_words_of_ours == {p[:2] for p in planted}

    seen = {(row.table.database, row.table.name, column) for row in await found(environment) for column in row.members}
    assert seen == planted
    purged = await purge(environment)
    assert purged.left == ()
    # A trigger moves a cleaned letter to another group, and the empty one goes.
    gone = {("staff", "dead_letter_groups")}
    assert {(row.table.database, row.table.name) for row in purged.cleaned} == {place[:2] for place in planted} - gone
    assert await found(environment) == []
    assert await found(environment, number=DIGITS) == []
    left = await everything(environment)
    assert [form for form in LEFT_NOWHERE if form in left] == []
    audited = await report(environment, tmp_path)
    leaks = next(finding for finding in audited.findings if finding.check == "no_secrets_leaked")
    assert leaks.broken == 0, leaks.breaches


async def test_what_others_wrote_leaves_an_outbox_without_its_body(environment: Environment) -> None:
    """A command that was changed would be another command, under the id of the first. Our own messages are cleaned as the states are."""
    written = {
        "dead letter": Outgoing(
            uuid4(), DEAD_LETTERS, COMMANDS, "t", "c", f'{{"note": "{PAN}"}}'.encode(), headers={"x": 1}
        ),
        "no text": Outgoing(uuid4(), DEAD_LETTERS, COMMANDS, "t", "c", PAN.encode("utf-16"), headers={"x": 1}),
        "replay": Outgoing(
            uuid4(), "", COMMANDS, "t", "c", f'{{"note": "{PAN}", "note": "x"}}'.encode(), headers={"x": 1}
        ),
        "event": Outgoing(uuid4(), "invoice.events.direct", "k", "t", "c", f'{{"note":"{PAN}","x":1}}'.encode()),
        "other": Outgoing(uuid4(), DEAD_LETTERS, COMMANDS, "t", "c", b'{"note":  "healthy"}', headers={"x": 1}),
    }
    async with opened(environment) as databases, databases["staff"].transaction() as tx:
        await outbox.insert(tx, list(written.values()), sweep_after_s=3600)
    assert (await purge(environment)).left == ()
    stored = await rows(environment.databases["staff"], "SELECT id, headers, body FROM outbox_messages")
    left = {
        name: next((row["body"], row["headers"]) for row in stored if row["id"] == one.id)
        for name, one in written.items()
    }
    assert left == {
        "dead letter": (b"", {"x": 1, BODY_WITHHELD: WITHHELD_CARD_DATA}),
        "no text": (b"", {"x": 1, BODY_WITHHELD: WITHHELD_NOT_TEXT}),
        "replay": (b"", {"x": 1}),
        "event": (b'{"note":"[card number]","x":1}', {}),
        "other": (b'{"note":  "healthy"}', {"x": 1}),
    }


async def test_two_accounts_named_by_the_number_stay_two(environment: Environment) -> None:
    """The database takes no name twice, so a purge that gave both the same would die of it each time."""
    url = environment.databases["staff"]
    ids = {uuid4(), uuid4()}
    for at, id_ in enumerate(ids):
        await execute(
            url,
            "INSERT INTO people (id, name, roles, login, made_at) VALUES ($1, $2, '{viewer}', $2, now())",
            id_,
            f"{at} {PAN}",
        )
        await execute(
            url,
            "INSERT INTO tokens (id, name, hash, roles, made_at, ends_at) VALUES ($1, $2, $3, '{viewer}', now(), now())",
            id_,
            f"{at} {PAN}",
            id_.bytes,
        )
    assert (await purge(environment)).left == ()
    people = await rows(url, "SELECT name, login FROM people")
    tokens = await rows(url, "SELECT name, hash FROM tokens")
    left = {f"purged-{id_}" for id_ in ids}
    assert (
        {row["name"] for row in people} == {row["login"] for row in people} == {row["name"] for row in tokens} == left
    )
    assert {row["hash"] for row in tokens} == {id_.bytes for id_ in ids}, "a token goes on being valid"


async def test_a_dead_letter_that_nobody_can_look_into_is_withheld(environment: Environment, tmp_path: Path) -> None:
    await write_books(environment.databases, tmp_path)
    staff = environment.databases["staff"]
    for body, why in ((PAN.encode("utf-16"), "not_text"), (f'{{"note": "{PAN}", "note": ""}}'.encode(), "card_data")):
        await execute(
            staff,
            "UPDATE dead_letters SET body = $1, withheld = NULL, headers = $2 WHERE status = 'open'",
            body,
            {"x": 1},
        )
        assert (await purge(environment)).left == ()
        (letter,) = await rows(staff, "SELECT body, headers, withheld FROM dead_letters WHERE status = 'open'")
        assert letter == {"body": None, "headers": {}, "withheld": why}


# -- the promises go on holding ----------------------------------------------------------------------------------------------------------


async def _card_in_the_books(databases: Mapping[str, str]) -> None:
    """A customer's number, a reason, an answer, evidence, a decision with its entry, an outcome, a case, a dead letter, a step."""
    invoice, gateway, saga, staff = (databases[name] for name in ("invoice", "payment_gateway", "saga", "staff"))
    customer = f'{{"customer_id": "{DIGITS}"}}'
    await execute(
        invoice, f"UPDATE events SET data = data || '{customer}' WHERE stream_id = 'INV-paid' AND version = 1"
    )
    await execute(invoice, f"UPDATE invoices SET customer_id = '{DIGITS}' WHERE invoice_id = 'INV-paid'")
    await execute(
        invoice,
        f"""UPDATE events SET data = '{{"reason": "paid by {PAN}"}}' WHERE stream_id = 'INV-void' AND version = 2""",
    )
    await execute(invoice, f"UPDATE answers SET detail = 'not {PAN}' WHERE command_id = $1", command("pay void"))
    await execute(invoice, "UPDATE answers SET content_hash = 'hash'")
    for name in ("issue paid", "pay void", "pay paid"):
        await execute(invoice, "UPDATE answers SET outline_hash = 'other' WHERE command_id = $1", command(name))
    await execute(
        gateway,
        """UPDATE payments SET details = '{"description": "cvv: 987"}' WHERE payment_id = $1""",
        payment("paid"),
    )
    await execute(gateway, f"UPDATE attempts SET evidence = 'card={DIGITS}' WHERE payment_id = $1", payment("paid"))
    await execute(
        gateway,
        """UPDATE outcomes SET body = convert_to(
            jsonb_set(convert_from(body, 'UTF8')::jsonb, '{data,receipt_number}', to_jsonb($2::text))::text, 'UTF8')
        WHERE payment_id = $1""",
        payment("paid"),
        PAN,
    )
    evidence = f"the statement says {PAN}"
    await execute(gateway, "UPDATE decisions SET evidence = $1", evidence)
    await as_owner(
        staff,
        f"""UPDATE journal SET details = details || '{{"evidence": "{evidence}"}}' WHERE action = 'resolve'""",
        "UPDATE journal SET digest = journal_digest(salt, who, details)",
        """WITH RECURSIVE chain AS (
               SELECT j.position, j.id, journal_hash('', j.position, id, at, action, subject, digest) AS hash
               FROM journal j WHERE position = 1
               UNION ALL SELECT j.position, j.id, journal_hash(c.hash, j.position, j.id, j.at, j.action, j.subject, j.digest)
               FROM chain c JOIN journal j ON j.position = c.position + 1)
           UPDATE journal j SET hash = c.hash FROM chain c WHERE c.id = j.id""",
    )
    (head,) = await rows(
        staff, "SELECT position || ':' || encode(hash, 'hex') AS head FROM journal WHERE action = 'resolve'"
    )
    await execute(gateway, "UPDATE decisions SET journal_head = $1", head["head"])
    await execute(staff, "UPDATE cases SET details = details || $1::jsonb", {"refusals": [{"evidence": PAN}]})
    await execute(staff, "UPDATE dead_letters SET error_text = $1, body = $2 WHERE status = 'open'", PAN, PAN.encode())
    await execute(saga, f"UPDATE transitions SET correlation_id = '{DIGITS}' WHERE payment_id = $1", payment("paid"))


async def test_after_a_purge_every_promise_holds(environment: Environment, tmp_path: Path) -> None:
    await write_books(environment.databases, tmp_path)
    await _card_in_the_books(environment.databases)
    await seal(environment.databases)
    staff, invoice = environment.databases["staff"], environment.databases["invoice"]
    planted = {"no_secrets_leaked", "outcomes_agree", "dead_letters_explained"}
    assert broken(await report(environment, tmp_path)).keys() == planted
    states = "SELECT invoice_id, status, version, amount_minor, payment_id, receipt_number FROM invoices ORDER BY 1"
    before = await rows(invoice, states)

    purged = await purge(environment)
    assert (purged.left, purged.under_way) == ((), 0)
    assert broken(await report(environment, tmp_path)) == {}
    rebuilt = await remit("rebuild", environment=environment)
    assert (rebuilt.code, rebuilt.out) == (0, "7 streams folded, 0 differ\n")
    assert await rows(invoice, states) == before
    (customer,) = await rows(invoice, "SELECT customer_id FROM invoices WHERE invoice_id = 'INV-paid'")
    assert customer["customer_id"] == "card-data-removed", "a name that contracts take"
    (void,) = await rows(invoice, "SELECT data FROM events WHERE stream_id = 'INV-void' AND version = 2")
    assert void["data"] == {"reason": "paid by [card number]"}
    forgotten = {
        column: {
            row["id"] for row in await rows(invoice, f"SELECT command_id AS id FROM answers WHERE {column} IS NULL")
        }
        for column in ("content_hash", "outline_hash")
    }
    held = {command(name) for name in ("issue paid", "void void", "pay paid")}
    assert forgotten["content_hash"] == held | {command("pay void")}, "a hash of a number gives it away"
    assert forgotten["outline_hash"] >= held, "a hash of a verification value as well"
    assert command("pay void") not in forgotten["outline_hash"]
    (letter,) = await rows(staff, "SELECT body, headers, withheld, error_text FROM dead_letters WHERE status = 'open'")
    assert letter == {"body": None, "headers": {}, "withheld": "card_data", "error_text": "[card number]"}

    entries = await rows(staff, "SELECT who, subject, details FROM journal WHERE action = 'purge' ORDER BY position")
    assert {(entry["who"], entry["details"]["reason"]) for entry in entries} == {("ann", "ticket 7")}
    assert len({entry["subject"] for entry in entries}) == 1, "the id of this purge"
    told = {(e["details"]["database"], row["table"], row["key"]) for e in entries for row in e["details"]["rows"]}
    contents = ("invoice", "answers", "commands with long numbers")
    resealed = {
        (service, "seals", str(row["number"]))
        for service in ("invoice", "payment_gateway")
        for row in await rows(environment.databases[service], "SELECT number FROM seals WHERE salt IS NULL")
    }
    assert len(resealed) == 4, "one of each book"
    assert {(row.table.database, row.table.name, row.key) for row in purged.cleaned} | {contents} | resealed == told
    (salted,) = await rows(staff, "SELECT salt, details FROM journal WHERE action = 'resolve'")
    assert (salted["salt"], salted["details"]["evidence"]) == (None, "the statement says [card number]")


async def test_a_purge_that_finds_nothing_changes_nothing(environment: Environment, tmp_path: Path) -> None:
    await write_books(environment.databases, tmp_path)
    await seal(environment.databases)
    before = await everything(environment)
    assert await purge(environment) == Purged([], (), 0)
    assert await everything(environment) == before


@pytest.mark.parametrize("survived", range(8))
async def test_a_purge_that_dies_is_run_again(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    await write_books(environment.databases, tmp_path)
    await _card_in_the_books(environment.databases)
    await seal(environment.databases)
    left, clean_row = survived, purging._clean_row

    async def dies(tx: Connection, row: FoundRow, cleaner: Any) -> bool:
        nonlocal left
        if not left:
            raise ConnectionError("died")
        left -= 1
        return await clean_row(tx, row, cleaner)

    with monkeypatch.context() as dying:
        dying.setattr(purging, "_clean_row", dies)
        with pytest.raises(ConnectionError):
            await purge(environment)
    assert (await purge(environment)).left == ()
    assert broken(await report(environment, tmp_path)) == {}


# -- ids of invoices ---------------------------------------------------------------------------------------------------------------------

_IDS = (
    ("invoice", "events", "stream_id"),
    ("invoice", "invoices", "invoice_id"),
    ("invoice", "payments", "invoice_id"),
    ("invoice", "answers", "invoice_id"),
    ("payment_gateway", "payments", "invoice_id"),
    ("saga", "sagas", "invoice_id"),
    ("staff", "cases", "invoice_id"),
    ("staff", "payments", "invoice_id"),
)


async def _rename(environment: Environment, old: str, new: str) -> None:
    for database, table, column in _IDS:
        await execute(
            environment.databases[database], f"UPDATE {table} SET {column} = $2 WHERE {column} = $1", old, new
        )


async def _ids(environment: Environment) -> set[str]:
    found_: set[str] = set()
    for database, table, column in _IDS:
        found_ |= {
            row["id"] for row in await rows(environment.databases[database], f"SELECT {column} AS id FROM {table}")
        }
    return found_


async def test_an_invoice_at_rest_gets_a_new_id_everywhere(environment: Environment, tmp_path: Path) -> None:
    await write_books(environment.databases, tmp_path)
    await _rename(environment, "INV-paid", DIGITS)
    staff, about = environment.databases["staff"], f"""'{{"invoice_id": "{DIGITS}"}}'"""
    await as_owner(staff, f"UPDATE journal SET details = details || {about} WHERE action = 'resolve'")
    before = await _ids(environment)
    purged = await purge(environment)
    (renamed,) = await _ids(environment) - before
    assert renamed.startswith("purged-")
    assert (await _ids(environment), purged.left) == (before - {DIGITS} | {renamed}, ())
    (entry,) = await rows(staff, "SELECT details->>'invoice_id' AS id FROM journal WHERE action = 'resolve'")
    assert entry["id"] == renamed
    assert broken(await report(environment, tmp_path)) == {}
    rebuilt = await remit("rebuild", environment=environment)
    assert rebuilt.code == 0, rebuilt.out


async def test_an_invoice_whose_payment_is_under_way_keeps_its_id_until_then(
    environment: Environment, tmp_path: Path
) -> None:
    """Its services know it by this id, and a message with it may be on its way."""
    await write_books(environment.databases, tmp_path)
    await _rename(environment, "INV-waiting", DIGITS)
    purged = await purge(environment)
    assert (purged.cleaned, purged.left, purged.under_way) == ([], (), 1)
    assert DIGITS in await _ids(environment)
    assert broken(await report(environment, tmp_path)).keys() == {"no_secrets_leaked"}


async def test_a_dead_purge_gives_the_same_new_id_again(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_books(environment.databases, tmp_path)
    await _rename(environment, "INV-paid", DIGITS)
    clean_row = purging._clean_row

    async def dies_at_the_invoice(tx: Connection, row: FoundRow, cleaner: Any) -> bool:
        if row.table.database == "invoice":
            raise ConnectionError("died")
        return await clean_row(tx, row, cleaner)

    with monkeypatch.context() as dying:
        dying.setattr(purging, "_clean_row", dies_at_the_invoice)
        with pytest.raises(ConnectionError):
            await purge(environment)
    await purge(environment)
    assert len([id_ for id_ in await _ids(environment) if id_ and id_.startswith("purged-")]) == 1
    assert broken(await report(environment, tmp_path)) == {}


# -- beside running services -------------------------------------------------------------------------------------------------------------


NUMBER = "100000000000001"
"""A number that no brand has passes the border, and a person purges it all the same."""


def hashes_over(command: Contract) -> list[str]:
    """What somebody computes who knows all of a command but the number, for one number that is tried."""
    data = command.model_dump(mode="json")
    contents = [orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in ([command.wire_name, data], data)]
    return [sha256(content).hexdigest() for content in (*contents, NUMBER.encode())]


async def test_a_running_service_writes_nothing_back_from_its_memory_and_knows_commands_again(
    environment: Environment, upstream: UpstreamClient
) -> None:
    issue = messages.IssueInvoice(invoice_id="INV-1", customer_id=NUMBER, amount_minor=500, currency="EUR")
    refused = issue.model_copy(update={"amount_minor": 501})
    details = messages.ChargeDetails(description=f"card {NUMBER}")
    pay = messages.PayInvoice(
        invoice_id="INV-1",
        payment_id=uuid4(),
        method=messages.TokenMethod(token="pm_card_visa", details=details),
        amount_minor=500,
        currency="EUR",
    )
    plain = messages.IssueInvoice(invoice_id="INV-2", customer_id="C-1", amount_minor=500, currency="EUR")
    answers, url = await upstream.inbox(), environment.databases["invoice"]
    accepted_id, refused_id, paid_id, plain_id = uuid4(), uuid4(), uuid4(), uuid4()

    async def heard(command: Contract, id_: UUID, *, correlationid: str | None = None) -> tuple[str, str | None]:
        await upstream.send(command, message_id=id_, reply_to=answers.name, correlationid=correlationid)
        answer = (await answers.next()).data
        return answer["answer"], answer["reason"]

    async with environment.running("invoice", assemble):
        assert await heard(issue, accepted_id) == ("accepted", None)
        assert await heard(refused, refused_id) == ("rejected", "already_issued")
        assert await heard(plain, plain_id, correlationid=NUMBER) == ("accepted", None)
        purged = await purge(environment, number=NUMBER)
        cleaned = {row.table.name for row in purged.cleaned} - {"outbox"}  # its rows go soon after the confirm
        assert (cleaned, purged.left) == ({"answers", "events", "invoices"}, ())
        assert await heard(pay, paid_id) == ("accepted", None)
        purged = await purge(environment, number=NUMBER)
        assert {row.table.name for row in purged.cleaned} - {"outbox"} == {"payments"}
        assert await heard(pay, paid_id) == ("accepted", None)
        assert await heard(plain, plain_id, correlationid=NUMBER) == ("accepted", None)
        assert await heard(issue, accepted_id) == ("accepted", None), "sent again, it gets the answer it had"
        assert await heard(refused, refused_id) == ("rejected", "already_issued")
        for other in ({"amount_minor": 501}, {"customer_id": "C-2"}, {"customer_id": f"{NUMBER}-A"}):
            reused = ("rejected", "command_id_reused")
            assert await heard(issue.model_copy(update=other), accepted_id) == reused
    (state,) = await rows(url, "SELECT customer_id, version FROM invoices WHERE invoice_id = 'INV-1'")
    assert state == {"customer_id": "card-data-removed", "version": 2}
    await purge(environment, number=NUMBER)  # an answer in the outbox may have its sender's correlation id
    stored = await everything(environment)
    assert not [hash_ for command in (issue, refused, pay) for hash_ in hashes_over(command) if hash_ in stored]


async def test_a_payment_at_work_is_left_to_its_instance(environment: Environment, tmp_path: Path) -> None:
    """What it holds in memory it would write back."""
    await write_books(environment.databases, tmp_path)
    gateway = environment.databases["payment_gateway"]
    lease = "leased_by = gen_random_uuid(), due_at = now() + interval '1 minute'"
    await execute(gateway, f"UPDATE payments SET reason = 'card {PAN}', {lease} WHERE payment_id = $1", payment("paid"))
    purged = await purge(environment)
    assert (purged.cleaned, [row.table.name for row in purged.left]) == ([], ["payments"])
    told = "SELECT 1 FROM journal WHERE action = 'purge'"
    assert await rows(environment.databases["staff"], told) == [], "nothing was done, so nothing is told"
    await execute(gateway, "UPDATE payments SET leased_by = NULL, due_at = NULL WHERE payment_id = $1", payment("paid"))
    assert (await purge(environment)).left == ()


# -- the command -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["customer", "mandate", "description", "statement_descriptor", "metadata"])
async def test_no_hash_over_a_number_in_the_details_of_a_payment_is_left(
    environment: Environment, tmp_path: Path, member: str
) -> None:
    await write_books(environment.databases, tmp_path)
    url = environment.databases["payment_gateway"]
    (row,) = await rows(url, "SELECT * FROM payments WHERE payment_id = $1", payment("paid"))
    text = f"card {PAN}"
    stored: dict[str, Any] = {member: {"order": text} if member == "metadata" else text}
    names = ("payment_id", "invoice_id", "amount_minor", "currency", "method_token", "card_jwe")
    request = {name: row[name] for name in names}
    before = Request(**request, details=read_details(stored)).params_hash
    await execute(
        url,
        "UPDATE payments SET details = $2::text::jsonb, params_hash = $3 WHERE payment_id = $1",
        payment("paid"),
        json.dumps(stored),
        before,
    )
    await purge(environment)
    (after,) = await rows(
        url, "SELECT details::text AS details, params_hash FROM payments WHERE payment_id = $1", payment("paid")
    )
    assert PAN not in after["details"]
    assert after["params_hash"] == PURGED_HASH
    database = await Database.open(url, name="test", connections_max=1)
    try:
        async with database.transaction() as tx:
            known = (await store.load(tx, [payment("paid")]))[payment("paid")].payment
    finally:
        await database.close()
    again = Request(**request, details=read_details(stored))
    assert on_command(known, again) == PaymentTransition(known, republish=True), "it is known when it comes again"


async def test_without_do_the_command_only_lists_what_it_would_mask(environment: Environment, tmp_path: Path) -> None:
    await write_books(environment.databases, tmp_path)
    await execute(
        environment.databases["invoice"],
        f"UPDATE answers SET detail = 'not {PAN}' WHERE command_id = $1",
        command("pay void"),
    )
    before = await everything(environment)
    for scan in (("--scan",), ("--number-from-stdin",)):
        listed = await remit("purge", *scan, environment=environment, stdin=f"{DIGITS[:4]}-{DIGITS[4:]}\n")
        assert listed.code == 1
        assert listed.out == f"holds card data: invoice.answers.detail of {command('pay void')}: not [card number]\n"
        assert DIGITS not in listed.err
    other = await remit("purge", "--number-from-stdin", environment=environment, stdin="4000056655665556\n")
    assert (other.code, other.out, other.err) == (0, "", "No card data was found.\n")
    assert await everything(environment) == before


async def test_the_command_purges_with_a_name_and_a_reason(environment: Environment, tmp_path: Path) -> None:
    await write_books(environment.databases, tmp_path)
    await execute(
        environment.databases["invoice"],
        f"UPDATE answers SET detail = 'not {PAN}' WHERE command_id = $1",
        command("pay void"),
    )
    do = ("purge", "--scan", "--do", "--who", "ann", "--json")
    for refused in (("--reason", ""), ("--reason", f"it was {PAN}")):
        result = await remit(*do, *refused, environment=environment)
        assert (result.code, DIGITS in result.err or PAN in result.err) == (2, False)
    purged = await remit(*do, "--reason", "ticket 7", environment=environment)
    assert purged.code == 0, purged.err
    assert purged.json == {
        "cleaned": [
            {"database": "invoice", "table": "answers", "key": str(command("pay void")), "members": ["detail"]}
        ],
        "left": [],
        "invoices_under_way": 0,
    }
    verified = await remit("journal", "verify", "--json", environment=environment)
    assert verified.json["broken"] == 0


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        ((), ""),
        (("--scan", "--number-from-stdin"), DIGITS),
        (("--number-from-stdin",), ""),
        (("--number-from-stdin",), "4242"),
        (("--number-from-stdin",), f"{DIGITS} 12/30"),
    ],
)
async def test_wrong_usage_shows_nothing_of_what_was_read(
    environment_urls: Environment, arguments: tuple[str, ...], stdin: str
) -> None:
    result = await remit("purge", *arguments, environment=environment_urls, stdin=stdin)
    assert (result.code, result.out) == (2, "")
    assert "4242" not in result.err
