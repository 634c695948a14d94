"""`remit invoice list|show`, `remit command show`, `remit audit`, `remit rebuild`: what an operator sees of known stores."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from deploy.permissions.databases import AUDIT
from services.audit.baseline import DIGESTED, LEDGER_DIGESTED
from services.audit.checks import CHECKS
from shared.ids import id_of_command
from tests.service.audit.books import COUNTS, HISTORY, LEDGER, LOGS, RUN, TAP, command, payment, write_books
from tests.service.cli.remit import remit
from tests.support.databases import execute
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

WITHOUT = tuple(word for evidence in ("tap", "run", "baseline", "unacked") for word in ("--without", evidence))


@pytest.fixture(scope="module")
def written(environment_urls: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Consistent stores in all databases."""
    folder = tmp_path_factory.mktemp("books")

    async def write() -> None:
        await write_books(environment_urls.databases, folder)
        async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
            await upstream.purge()

    asyncio.run(write())
    return folder


async def test_show_prints_every_step_of_a_paid_invoice(environment_urls: Environment, written: Path) -> None:
    story = (await remit("invoice", "show", "INV-paid", "--json", environment=environment_urls)).json
    assert story["invoice"]["status"] == "paid"
    assert [(step["where"], step["what"], step["because_of"]) for step in story["timeline"]] == [
        ("invoice", "IssueInvoice: accepted", None),
        ("invoice", "Issued 12.50 EUR", 1),
        ("invoice", "PayInvoice: accepted", None),
        ("invoice", "PaymentRequested 12.50 EUR", 3),
        ("gateway", f"payment {payment('paid')} taken in", 4),
        ("gateway", "prepare: prepared", 5),
        ("gateway", "execute: captured", 5),
        ("gateway", "PaymentCaptured, version 3", 4),
        ("saga", "absent → settling on Captured", 8),
        ("invoice", "Paid 12.50 EUR, ch_paid", 9),
        ("saga", "settling → completed on Paid", 10),
    ]
    assert story["unseen"] == []


async def test_a_decision_shows_who_made_it_and_the_evidence(environment_urls: Environment, written: Path) -> None:
    story = (await remit("invoice", "show", "INV-decided", "--json", environment=environment_urls)).json
    steps = {step["what"]: step for step in story["timeline"]}
    decided = steps["decision of Ada, captured: taken"]
    assert decided["detail"] == "seen in the gateway's books"
    assert story["timeline"][decided["because_of"] - 1]["what"] == "Ada decided: charged"
    assert story["timeline"][steps["PaymentCaptured, version 5"]["because_of"] - 1]["what"] == "Ada decided: charged"


@pytest.mark.parametrize("columns", ["80", "140"])
async def test_the_story_is_a_table_for_people(environment_urls: Environment, written: Path, columns: str) -> None:
    shown = await remit("invoice", "show", "INV-paid", environment=environment_urls, COLUMNS=columns)
    assert shown.code == 0
    assert shown.out.startswith("INV-paid: paid, 12.50 EUR, customer C-1\n")
    assert "settling → completed on Paid" in shown.out
    assert all(len(line) <= int(columns) for line in shown.out.splitlines())
    assert (str(command("pay paid")) in shown.out) == (columns == "140")


async def test_a_service_without_a_database_url_is_named(environment_urls: Environment, written: Path) -> None:
    shown = await remit("invoice", "show", "INV-paid", INVOICE_DATABASE_URL=environment_urls.databases["invoice"])
    assert shown.code == 0
    assert "Not shown: SAGA_DATABASE_URL is not set." in shown.out
    assert "Paid 12.50 EUR" in shown.out


async def test_deleted_steps_are_named(environment_urls: Environment, written: Path) -> None:
    gateway, saga = (environment_urls.databases[name] for name in ("payment_gateway", "saga"))
    about = payment("decided")
    await execute(gateway, "UPDATE payments SET attempts_forgotten_at = '2026-03-01Z' WHERE payment_id = $1", about)
    await execute(saga, "UPDATE sagas SET journal_from = 4 WHERE payment_id = $1", about)
    try:
        told = (await remit("invoice", "show", "INV-decided", "--json", environment=environment_urls)).json
        shown = await remit("invoice", "show", "INV-decided", environment=environment_urls, COLUMNS="200")
        other = (await remit("invoice", "show", "INV-paid", "--json", environment=environment_urls)).json
    finally:
        await execute(gateway, "UPDATE payments SET attempts_forgotten_at = NULL")
        await execute(saga, "UPDATE sagas SET journal_from = 1")
    deleted = [
        f"calls to the gateway about {about}, deleted on 2026-03-01: it had been at rest for 400 days",
        f"steps 1 to 3 of the saga of {about}, deleted: it had ended 400 days before",
    ]
    assert told["unseen"] == deleted
    assert all(f"Not shown: {one}." in shown.out for one in deleted)
    assert other["unseen"] == []


async def test_no_step_comes_before_its_cause(environment_urls: Environment, written: Path) -> None:
    for name in ("waiting", "late"):
        story = (await remit("invoice", "show", f"INV-{name}", "--json", environment=environment_urls)).json
        assert all((step["because_of"] or 0) < step["number"] for step in story["timeline"])


async def test_invoices_are_listed(environment_urls: Environment, written: Path) -> None:
    everything = (await remit("invoice", "list", "--json", environment=environment_urls)).json
    paid = await remit("invoice", "list", "--status", "paid", environment=environment_urls)
    assert len(everything) == 7
    assert {line.split()[0] for line in paid.out.splitlines()} == {"invoice", "INV-paid", "INV-decided", "INV-parted"}


async def test_an_answer_or_a_dead_letter_is_found(environment_urls: Environment, written: Path) -> None:
    answered = (await remit("command", "show", str(command("pay void")), "--json", environment=environment_urls)).json
    dead = (await remit("command", "show", str(command("poison")), "--json", environment=environment_urls)).json
    nothing = await remit("command", "show", str(command("lost")), environment=environment_urls)
    shown = await remit("command", "show", str(command("pay void")), environment=environment_urls)
    assert (answered["answer"]["answer"], answered["answer"]["reason"]) == ("rejected", "invoice_void")
    assert (dead["dead_letter"]["status"], dead["dead_letter"]["reason"]) == ("open", "not_json")
    assert nothing.code == 1
    assert "has no answer and is no dead letter" in nothing.err
    assert "invoice_void" in shown.out


async def test_two_commands_of_one_id_are_told_apart_by_their_senders(
    environment_urls: Environment, written: Path
) -> None:
    sent = command("pay void")
    for sender in ("billing", "shop"):
        await execute(
            environment_urls.databases["invoice"],
            """INSERT INTO answers (command_id, command_type, answer, correlation_id, sender, sent_id)
               VALUES ($1, 'remit.invoice.VoidInvoice.v1', 'accepted', 'c', $2, $3)""",
            *(id_of_command(sender, UUID(int=5)), sender, UUID(int=5)),
        )
    id_ = str(UUID(int=5))
    unclear = await remit("command", "show", id_, environment=environment_urls)
    clear = (await remit("command", "show", id_, "--sender", "shop", "--json", environment=environment_urls)).json
    other = await remit("command", "show", str(sent), "--sender", "shop", environment=environment_urls)
    await execute(environment_urls.databases["invoice"], "DELETE FROM answers WHERE sender IN ('billing', 'shop')")
    assert (unclear.code, "billing, shop" in unclear.err) == (2, True)
    assert (clear["answer"]["sender"], clear["answer"]["command_id"]) == ("shop", id_)
    assert other.code == 1, "that command is not one of this sender"


async def test_an_unknown_invoice_is_an_error(environment_urls: Environment, written: Path) -> None:
    shown = await remit("invoice", "show", "INV-nowhere", environment=environment_urls)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == "remit: there is no invoice INV-nowhere, and no command about it was answered.\n"


async def test_the_audit_holds_until_a_row_is_changed(environment_urls: Environment, written: Path) -> None:
    stores = ("--ledger", str(written / LEDGER), "--history", str(written / HISTORY), "--logs", str(written / LOGS))
    base = await remit(
        "audit", "baseline", str(written / "base.json"), "--ledger", str(written / LEDGER), environment=environment_urls
    )
    tables = sum(map(len, DIGESTED.values())) + len(LEDGER_DIGESTED)
    assert (base.code, base.err) == (0, f"{written / 'base.json'}: connections of 4 databases, {tables} tables\n")
    evidence = ("--tap", str(written / TAP), "--run", str(written / RUN), "--baseline", str(written / "base.json"))
    given = ("--drained", "--complete", *stores, *evidence, "--unacked", str(written / COUNTS))
    holding = await remit("audit", *given, environment=environment_urls)
    assert (holding.code, holding.err) == (0, ""), holding.out
    assert holding.out.rstrip().endswith(f"{len(CHECKS)} holds.")
    url = environment_urls.databases["invoice"]
    await execute(url, "UPDATE invoices SET status = 'open' WHERE invoice_id = 'INV-void'")
    try:
        broken = await remit("audit", *given, environment=environment_urls)
        as_json = await remit("audit", *given, "--json", environment=environment_urls)
    finally:
        await execute(url, "UPDATE invoices SET status = 'void' WHERE invoice_id = 'INV-void'")
    assert broken.code == as_json.code == 1
    assert "INV-void: status stored differs from folded: open is not void" in broken.out
    assert f"{len(CHECKS) - 2} holds, 2 broken." in broken.out
    assert [one["check"] for one in as_json.json["checks"] if one["verdict"] == "broken"] == [
        "streams_fold_to_state",
        "repeating_changes_nothing",
    ]
    assert not as_json.json["ok"]
    fewer = await remit("audit", "--drained", "--complete", *stores, environment=environment_urls)
    waived = await remit("audit", "--drained", "--complete", *stores, *WITHOUT, environment=environment_urls)
    unknown = await remit("audit", "--without", "luck", environment=environment_urls)
    assert (fewer.code, waived.code, unknown.code) == (1, 0, 2)
    assert "no --tap given" in waived.out


async def test_an_audit_without_a_database_is_misused() -> None:
    nothing = await remit("audit", "--complete")
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err.startswith("remit: none of INVOICE_DATABASE_URL, PAYMENT_GATEWAY_DATABASE_URL, ")


async def test_a_line_that_was_not_checked_is_named_and_may_be_required(
    environment_urls: Environment, written: Path
) -> None:
    only = {"SAGA_DATABASE_URL": environment_urls.databases["saga"]}
    without = await remit("audit", environment=None, **only)
    partly = await remit("audit", environment=environment_urls)
    wanted = await remit("audit", "--require", "answered_once,books_balance", environment=environment_urls)
    met = await remit("audit", "--require", "journal_unbroken", environment=environment_urls)
    strange = await remit("audit", "--require", "luck", environment=environment_urls)
    lost = await remit("audit", "--lost", "saga.evnts", environment=environment_urls)
    assert (without.code, partly.code, wanted.code, met.code) == (1, 0, 1, 0)
    last = " ".join(wanted.out.partition("Not checked: ")[2].split())
    assert last.startswith("captured_once, ")
    assert last.endswith("Required of these: answered_once, books_balance.")
    assert "Required" not in partly.out
    assert (strange.code, "--require luck: there is no such line. There are: captured_once, " in strange.err) == (
        2,
        True,
    )
    assert (lost.code, "there is no such queue. There are: dead-letters, " in lost.err) == (2, True)


async def test_a_rebuild_finds_a_differing_state_and_repairs_it(environment_urls: Environment, written: Path) -> None:
    await execute(
        environment_urls.databases["invoice"], "UPDATE invoices SET status = 'open' WHERE invoice_id = 'INV-void'"
    )
    reads_only = environment_urls.stack.database_url_of("invoice", AUDIT)
    refused = await remit("rebuild", environment=environment_urls, INVOICE_DATABASE_URL=reads_only)
    if environment_urls.stack.passwords:
        assert (refused.code, refused.out) == (2, "")
        assert "INVOICE_DATABASE_URL: permission denied for table invoices" in refused.err
        assert "`remit permissions` shows" in refused.err
    differing = await remit("rebuild", environment=environment_urls)
    assert (differing.code, differing.out) == (1, "7 streams folded, 1 differ\nINV-void\n")
    repaired = await remit("rebuild", "--repair", "--json", environment=environment_urls)
    same = await remit("rebuild", "--json", environment=environment_urls)
    assert (same.code, same.json) == (0, {"streams": 7, "differing": [], "repaired": False})
    assert (repaired.code, repaired.json["differing"]) == (0, ["INV-void"])


async def test_staff_commands_are_mounted(environment_urls: Environment, written: Path) -> None:
    letters = await remit("dead-letters", "list", "--json", environment=environment_urls)
    waiting = await remit("payments", "in-doubt", "--json", environment=environment_urls)
    assert (letters.code, len(letters.json)) == (0, 1)
    assert (waiting.code, len(waiting.json)) == (0, 1)
