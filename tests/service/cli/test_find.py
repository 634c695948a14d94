"""`remit find`: everything that a person may have in hand is found, by indexes only."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from deploy.cli import lookups
from services.invoice.domain import reference_code
from tests.service.audit.books import command, payment, write_books
from tests.service.cli.remit import remit
from tests.service.cli.test_operating import quarantine
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.plans import forget_statistics


@pytest.fixture(scope="module")
def written(environment_urls: Environment, tmp_path_factory: pytest.TempPathFactory) -> None:
    asyncio.run(write_books(environment_urls.databases, tmp_path_factory.mktemp("books")))


def kinds(found: Any) -> set[tuple[str, str]]:
    return {(match["kind"], match["service"]) for match in found["found"]}


PAYMENT_EVERYWHERE = {("payment", "invoice"), ("payment", "payment_gateway"), ("payment", "saga")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("INV-paid", {("invoice", "invoice")}),
        (str(payment("paid")), PAYMENT_EVERYWHERE),
        (str(payment("paid")).upper(), PAYMENT_EVERYWHERE),
        (str(payment("waiting")), {*PAYMENT_EVERYWHERE, ("case", "staff")}),
        (str(payment("waiting"))[-10:], {("case", "staff")}),
        (str(command("pay paid")), {("command", "invoice")}),
        (str(command("poison")), {("dead letter", "staff")}),
        ("ch_paid", {("receipt", "invoice")}),
        (reference_code(payment("declined")).lower(), {("reference code", "invoice")}),
        ("a correlation", {("command", "invoice"), ("case", "staff"), ("dead letter", "staff")}),
        ("pi_of_a_case", {("case", "staff")}),
    ],
    ids=[
        "invoice",
        "payment",
        "in capitals",
        "case",
        "end",
        "command",
        "dead letter",
        "receipt",
        "code",
        "correlation",
        "gateway id",
    ],
)
async def test_whatever_a_person_holds_is_found(
    environment_urls: Environment, written: None, text: str, expected: set[tuple[str, str]]
) -> None:
    staff, invoices = environment_urls.databases["staff"], environment_urls.databases["invoice"]
    await execute(staff, "UPDATE cases SET correlation_id = 'a correlation', gateway_id = 'pi_of_a_case'")
    await execute(staff, "UPDATE dead_letters SET correlation_id = 'a correlation'")
    pay = command("pay paid")
    await execute(invoices, "UPDATE answers SET correlation_id = 'a correlation' WHERE command_id = $1", pay)
    found = await remit("find", text, "--json", environment=environment_urls)
    assert (found.code, kinds(found.json), found.json["unseen"]) == (0, expected, []), found.err


async def test_refunds_journal_entries_and_names_of_senders_are_found(
    environment_urls: Environment, written: None
) -> None:
    (entry,) = await rows(environment_urls.databases["staff"], "SELECT id FROM journal LIMIT 1")
    (sent,) = await rows(
        environment_urls.databases["invoice"],
        "UPDATE answers SET sent_id = gen_random_uuid(), sender = 'shop' WHERE command_id = $1 RETURNING sent_id",
        command("pay parted"),
    )
    (kept,) = await rows(
        environment_urls.databases["invoice"],
        """INSERT INTO refunds (invoice_id, refund_id, payment_id, version, pending, announced_at)
           VALUES ('INV-1', gen_random_uuid(), gen_random_uuid(), 2, true, now()) RETURNING refund_id""",
    )
    for id_, kind in ((entry["id"], "journal entry"), (sent["sent_id"], "command"), (kept["refund_id"], "refund")):
        found = (await remit("find", str(id_), "--json", environment=environment_urls)).json["found"]
        assert [match["kind"] for match in found] == [kind]


async def test_each_match_says_what_to_type_and_the_pages_fit(environment_urls: Environment, written: None) -> None:
    shown = await remit("find", str(payment("waiting")), environment=environment_urls, COLUMNS="80")
    assert shown.code == 0
    assert f"    remit payments show {payment('waiting')}" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


async def test_what_is_nowhere_is_said_with_what_was_not_looked_at(
    environment_urls: Environment, written: None
) -> None:
    only_staff = {"STAFF_DATABASE_URL": environment_urls.databases["staff"]}
    nowhere = await remit("find", "pi_nowhere", environment=None, **only_staff)
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "Not looked at: INVOICE_DATABASE_URL is not set." in nowhere.err
    assert "GATEWAY_URL is not set: the gateway was not asked" in nowhere.err
    assert nowhere.err.endswith("remit: nothing that was looked at has pi_nowhere as its id, number or code.\n")
    assert (await remit("find", "INV-1")).code == 2


async def test_a_database_that_is_away_hides_nothing_of_the_others(
    environment_urls: Environment, written: None
) -> None:
    away = {"STAFF_DATABASE_URL": "postgresql://staff@127.0.0.1:1/staff"}
    found = await remit("find", "INV-paid", "--json", environment=environment_urls, **away)
    said = "STAFF_DATABASE_URL: the database does not answer (ConnectionRefusedError)"
    assert (found.code, kinds(found.json), found.json["unseen"]) == (0, {("invoice", "invoice")}, [said])
    nothing = await remit("find", "INV-nowhere", environment=environment_urls, **away)
    assert (nothing.code, f"Not looked at: {said}." in nothing.err) == (1, True)
    shown = await remit("invoice", "show", "INV-paid", environment=environment_urls, **away)
    assert (shown.code, f"Not shown: {said}." in shown.out) == (0, True), shown.err
    listed = await remit("invoice", "list", "--json", environment=environment_urls, **away)
    assert listed.code == 0
    alone = await remit("find", "INV-paid", environment=None, **away)
    assert (alone.code, alone.err) == (1, f"remit: {said}.\n")


async def test_a_quarantined_message_is_found_by_the_end_that_its_list_shows(environment: Environment) -> None:
    id_ = await quarantine(environment)
    for text in (str(id_), str(id_)[-8:]):
        (match,) = (await remit("find", text, "--json", environment=environment)).json["found"]
        assert (match["kind"], match["service"], match["id"]) == ("quarantined message", "saga", str(id_))


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Scan" in plan["Node Type"] and plan["Node Type"] not in {"Function Scan", "Bitmap Heap Scan", "Subquery Scan"}:
        yield plan
    for inner in plan.get("Plans", ()):
        yield from scans(inner)


@pytest.mark.parametrize(
    ("service", "number"), [(name, n) for name, all_ in lookups.STATEMENTS.items() for n in range(len(all_))]
)
async def test_every_statement_finds_its_rows_by_an_index(
    environment_urls: Environment, service: str, number: int
) -> None:
    connection = await asyncpg.connect(environment_urls.databases[service], timeout=10)
    statement = lookups.STATEMENTS[service][number]
    try:
        await connection.execute("BEGIN; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        await forget_statistics(connection)
        await connection.execute(f"PREPARE tried AS {statement}")
        plan = await connection.fetchval("EXPLAIN (FORMAT JSON) EXECUTE tried (NULL, 1)")
    finally:
        await connection.close()
    (found,) = json.loads(plan)
    looked = list(scans(found["Plan"]))
    assert looked
    assert all("Index Cond" in scan for scan in looked), json.dumps(found["Plan"], indent=1)
