"""`remit reconcile`: what both sides hold, after somebody has changed one of them."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from deploy.sandbox.server import Sandbox
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import Policy
from services.payment_gateway.settings import ChargingSettings
from shared.ids import derived_id
from shared.service import Runtime
from tests.service.cli.remit import Typed, remit
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, decision, kind, requested
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

METHODS = ("pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined")
ENDS = {"pm_card_visa": "captured", "pm_card_chargeDeclined": "declined"}
FUTURE = ("--until", "2999-01-01")


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(tmp_path / "ledger.sqlite") as running:
        yield running


@pytest.fixture
async def paid(environment: Environment, sandbox: Sandbox, upstream: UpstreamClient) -> list[UUID]:
    """Payments that have ended, on both sides alike."""
    payments = PaymentGatewayFixture(environment.databases["payment_gateway"])
    settings = ChargingSettings(sandbox.url, "sk_test_1", 20.0, 20, Policy((0.1,), 3_600.0), None)

    async def assemble(runtime: Runtime) -> None:
        assemble_with(runtime, settings, settings.open_gateway())

    asked = [requested(method=method) for method in METHODS]
    async with environment.running("payment_gateway", assemble):
        for one in asked:
            await upstream.send(one)
        for one, method in zip(asked, METHODS, strict=True):
            await payments.until(one.payment_id, ENDS[method])
    return [one.payment_id for one in asked]


async def reconcile(environment: Environment, sandbox: Sandbox, *more: str, key: str = "sk_test_1") -> Typed:
    gateway = {"GATEWAY_URL": sandbox.url, "GATEWAY_API_KEY": key}
    return await remit("reconcile", *FUTURE, *more, environment=environment, **gateway)


async def test_two_sides_that_agree(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    books = tmp_path / "books.sqlite"
    told = await reconcile(environment, sandbox, "--json", "--ledger", str(books))
    assert (told.code, told.json["counts"], told.json["found"]) == (0, {"agrees": len(paid)}, []), told.err
    assert books.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(books)) as kept:
        assert kept.execute("SELECT count(*), sum(amount) FROM charges").fetchone() == (4, 4 * 1_250)
        assert kept.execute("SELECT count(*) FROM covered").fetchone() == (1,)
    audited = await _audited(environment, books)
    assert audited["captured_here_and_there"] == ("holds", len(paid))
    assert audited["confirmed_once"][0] == "not checked", "the gateway does not tell of confirms and keys"
    await execute(
        environment.databases["payment_gateway"],
        "UPDATE payments SET status = 'captured', receipt_number = 'x' WHERE payment_id = $1",
        paid[-1],
    )
    assert (await _audited(environment, books))["captured_here_and_there"][0] == "broken"
    again = await reconcile(environment, sandbox, "--ledger", str(books))
    assert again.code == 2
    assert "exists" in again.err
    nothing = await remit("reconcile", "--until", "2020-01-01", "--since", "2020-01-02", environment=environment)
    assert (nothing.code, "--since must be before --until" in nothing.err) == (2, True)


async def test_every_way_to_disagree_is_told(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    forgotten, refunded, lost, _, declined = paid
    database = environment.databases["payment_gateway"]
    held = {
        row[0]: row[1]
        for row in _ledger(tmp_path, "SELECT json_extract(metadata, '$.payment_id'), id FROM payment_intents")
    }
    await execute(database, "DELETE FROM payments WHERE payment_id = $1", forgotten)
    await execute(
        database, "UPDATE payments SET status = 'captured', receipt_number = 'x' WHERE payment_id = $1", declined
    )
    await _refund_by_hand(sandbox, held[str(refunded)])
    _ledger(tmp_path, f"DELETE FROM payment_intents WHERE id = '{held[str(lost)]}'")
    told = await reconcile(environment, sandbox, "--json")
    assert told.code == 1
    assert told.json["counts"] == {"agrees": 1, "differs": 2, "unknown_here": 1, "unknown_there": 1}
    assert {(one["verdict"], one["payment_id"], one["here"], one["there"]) for one in told.json["found"]} == {
        ("unknown_here", str(forgotten), "unknown", "succeeded, captured 1250 of 1250 EUR"),
        ("differs", str(refunded), "captured", "succeeded, captured 1250 of 1250 EUR, refunded 1250"),
        ("differs", str(declined), "captured", "canceled"),
        ("unknown_there", str(lost), "captured", "unknown"),
    }
    page = await reconcile(environment, sandbox, "--look")
    assert page.code == 1
    assert f"differs: {refunded}" in page.out
    due = await _due(database)
    assert due == {refunded, declined, forgotten, lost}, "what differs, or one side does not know, is looked at now"


async def test_who_changes_metadata_at_the_gateway_hides_nothing(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    """Our books know the gateway's id of each payment."""
    whole, refunded, other = paid[:3]
    sql = "SELECT json_extract(metadata, '$.payment_id'), id FROM payment_intents"
    held = {UUID(row[0]): row[1] for row in _ledger(tmp_path, sql)}
    await _refund_by_hand(sandbox, held[refunded])
    for payment_id, metadata in ((whole, "{}"), (refunded, "{}"), (other, f'{{"payment_id": "{whole}"}}')):
        _ledger(tmp_path, f"UPDATE payment_intents SET metadata = '{metadata}' WHERE id = '{held[payment_id]}'")
    told = await reconcile(environment, sandbox, "--json")
    found = {(one["verdict"], one["payment_id"], one["gateway_id"], one["there"]) for one in told.json["found"]}
    captured = "succeeded, captured 1250 of 1250 EUR"
    assert found == {
        ("differs", str(refunded), held[refunded], f"{captured}, refunded 1250"),
        ("differs", str(whole), held[other], captured),
    }, "of the second capture in its name, a person has to say what it is"
    assert told.json["counts"] == {"agrees": 4, "differs": 2, "foreign": 2}


async def test_a_dispute_differs_until_it_is_won(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    sql = "SELECT json_extract(metadata, '$.payment_id'), id FROM payment_intents"
    held = {UUID(row[0]): row[1] for row in _ledger(tmp_path, sql)}
    won, lost, asked = paid[:3]
    for payment_id, deed in ((won, "dispute"), (won, "win-dispute"), (lost, "lose-dispute"), (asked, "warn")):
        await _do(sandbox, held[payment_id], deed)
    books = tmp_path / "books.sqlite"
    told = await reconcile(environment, sandbox, "--json", "--ledger", str(books))
    captured = "succeeded, captured 1250 of 1250 EUR"
    assert {(one["verdict"], one["payment_id"], one["there"]) for one in told.json["found"]} == {
        ("differs", str(lost), f"{captured}, refunded 1250"),
        ("differs", str(asked), f"{captured}, disputed"),
    }
    assert (await _audited(environment, books))["settled_agrees"][0] == "broken"
    assert (await _audited(environment, tmp_path / "ledger.sqlite"))["settled_agrees"][0] == "broken"
    await _do(sandbox, held[asked], "win-dispute")
    told = await reconcile(environment, sandbox, "--json")
    assert [one["payment_id"] for one in told.json["found"]] == [str(lost)]


async def test_what_happens_now_to_a_payment_of_last_month_is_seen(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    """A colleague gives one back in the dashboard, and the customer disputes another. Nothing is told of payments that rest."""
    sql = "SELECT json_extract(metadata, '$.payment_id'), id FROM payment_intents"
    held = {UUID(row[0]): row[1] for row in _ledger(tmp_path, sql)}
    _ledger(tmp_path, "UPDATE payment_intents SET created = created - 30 * 86400")
    database = environment.databases["payment_gateway"]
    await execute(database, "UPDATE payments SET created_at = created_at - interval '30 days'")
    refunded, disputed = paid[:2]
    await _refund_by_hand(sandbox, held[refunded])
    await _do(sandbox, held[disputed], "dispute")
    told = await reconcile(environment, sandbox, "--json")
    captured = "succeeded, captured 1250 of 1250 EUR"
    assert {(one["verdict"], one["payment_id"], one["there"]) for one in told.json["found"]} == {
        ("differs", str(refunded), f"{captured}, refunded 1250"),
        ("differs", str(disputed), f"{captured}, disputed"),
    }
    assert told.json["counts"] == {"differs": 2}
    page = await reconcile(environment, sandbox, "--look", key="rk_test_intents_refunds")
    assert (page.code, "may not read disputes" in page.err) == (1, True)
    assert await _due(database) == {refunded}, "nobody can see the dispute without the permission"
    await reconcile(environment, sandbox, "--look")
    assert await _due(database) == {refunded, disputed}


async def test_money_that_nobody_knows_becomes_a_case_and_can_be_given_back(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], upstream: UpstreamClient, tmp_path: Path
) -> None:
    """One capture whose payment was forgotten, and a second one of a payment that is known."""
    forgotten, twice = paid[:2]
    database = environment.databases["payment_gateway"]
    known = PaymentGatewayFixture(database)
    for table in ("payments", "attempts", "outcomes"):
        await execute(database, f"DELETE FROM {table} WHERE payment_id = $1", forgotten)
    second = await _charged_again(sandbox, twice)
    foreign = await _charged_again(sandbox, UUID(int=3), invoice_id="no name of an\ninvoice")
    for _ in range(2):  # the second time both are known
        page = await reconcile(environment, sandbox, "--look")
        assert "1 captures cannot become cases" in page.err + page.out, foreign
    told = await upstream.tap("payment.events")
    settings = ChargingSettings(sandbox.url, "sk_test_1", 20.0, 20, Policy((0.1,), 3_600.0), None)

    async def assemble(runtime: Runtime) -> None:
        assemble_with(runtime, settings, settings.open_gateway())

    async with environment.running("payment_gateway", assemble):
        cases: dict[str, Any] = {}
        while len(cases) < 2:  # outcomes of the instance before may come first
            one = await told.next()
            cases |= {one.data["payment_id"]: one.data} if kind(one.type) == "PaymentNeedsDecision" else {}
        stray = derived_id(twice, second)
        assert set(cases) == {str(forgotten), str(stray)}
        for case in cases.values():
            assert (case["reason"], case["amount_minor"], case["gateway"]["captured_minor"]) == (
                "unknown_here",
                1_250,
                1_250,
            )
            assert [attempt["step"] for attempt in case["attempts"]] == ["inquire"]
        await upstream.send(decision(stray, "give_back", cases[str(stray)]["version"]))
        await upstream.send(decision(forgotten, "captured", cases[str(forgotten)]["version"]))
        await known.until(stray, "refunded")
        await known.until(forgotten, "captured")
        await known.until_at_rest(forgotten)
    refunds = _ledger(tmp_path, "SELECT payment_intent, amount FROM refunds")
    assert [tuple(map(str, row)) for row in refunds] == [(second, "1250")]
    after = await reconcile(environment, sandbox, "--json")
    assert after.json["counts"] == {"agrees": len(paid) + 1, "unknown_here": 1}


async def test_a_balance_report_is_compared_and_what_differs_is_asked_about(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    """One was refunded there after the report, one was forgotten here, and one the gateway does not know."""
    agreeing, refunded, forgotten, lost, _ = paid
    held = _ledger(tmp_path, "SELECT json_extract(metadata, '$.payment_id'), id FROM payment_intents")
    charged = {row[0]: row[1] for row in held}
    await _refund_by_hand(sandbox, charged[str(refunded)])
    database = environment.databases["payment_gateway"]
    await execute(database, "DELETE FROM payments WHERE payment_id = $1", forgotten)
    lines = [f"charge,12.50,eur,{charged[str(one)]},{one}" for one in (agreeing, forgotten)]
    lines += [
        f"charge,12.50,eur,{charged[str(refunded)]},{refunded}",
        f"refund,-12.50,eur,{charged[str(refunded)]},{refunded}",
    ]
    lines += [f"charge,9.99,eur,pi_gone,{lost}", "charge,1.00,eur,pi_foreign,", "fee,-0.10,eur,,"]
    report = tmp_path / "report.csv"
    report.write_text(
        "reporting_category,gross,currency,payment_intent_id,payment_metadata[payment_id]\n" + "\n".join(lines)
    )
    gateway = {"GATEWAY_URL": sandbox.url, "GATEWAY_API_KEY": "sk_test_1"}
    told = await remit("reconcile", "--report", str(report), "--look", "--json", environment=environment, **gateway)
    assert told.json["counts"] == {"agrees": 1, "differs": 1, "foreign": 1, "unknown_here": 1, "unknown_there": 1}, (
        told.err
    )
    assert told.code == 1
    assert await _due(database) == {refunded, forgotten, lost}
    wrong = await reconcile(environment, sandbox, "--report", str(report))
    assert (wrong.code, "leave out --since, --until and --ledger" in wrong.err) == (2, True)


@pytest.mark.usefixtures("paid")
async def test_a_copy_that_was_not_finished_proves_nothing(
    environment: Environment, sandbox: Sandbox, tmp_path: Path
) -> None:
    books = tmp_path / "books.sqlite"
    await reconcile(environment, sandbox, "--ledger", str(books))
    with closing(sqlite3.connect(books)) as kept, kept:
        kept.execute("DELETE FROM covered")
    audited = await remit("audit", "--ledger", str(books), environment=environment)
    assert (audited.code, "was not finished" in audited.err) == (2, True)


async def test_a_gateway_that_refuses_is_told_in_a_sentence(environment: Environment, sandbox: Sandbox) -> None:
    await _mode(sandbox, "unauthorised")
    told = await reconcile(environment, sandbox)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("remit: The gateway does not show its books: HTTP 401")


async def test_books_of_another_time_say_nothing_about_a_payment(
    environment: Environment, sandbox: Sandbox, paid: list[UUID], tmp_path: Path
) -> None:
    books = tmp_path / "books.sqlite"
    await reconcile(environment, sandbox, "--ledger", str(books), "--since", "2998-12-31")
    assert (await _audited(environment, books))["captured_here_and_there"] == ("holds", 0)


async def _audited(environment: Environment, books: Path) -> dict[str, tuple[str, int]]:
    audited = await remit("audit", "--json", "--drained", "--ledger", str(books), environment=environment)
    return {check["check"]: (check["verdict"], check["looked_at"]) for check in audited.json["checks"]}


async def _due(database: str) -> set[UUID]:
    return {row["payment_id"] for row in await rows(database, "SELECT payment_id FROM payments WHERE due_at <= now()")}


def _ledger(folder: Path, sql: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger, ledger:
        return ledger.execute(sql).fetchall()


async def _refund_by_hand(sandbox: Sandbox, gateway_id: str) -> None:
    await _post(f"{sandbox.url}/v1/refunds", data={"payment_intent": gateway_id})


async def _do(sandbox: Sandbox, gateway_id: str, deed: str) -> None:
    await _post(f"{sandbox.url}/_sandbox/payments/{gateway_id}/{deed}", data={})


async def _charged_again(sandbox: Sandbox, payment_id: UUID, invoice_id: str = "INV-1") -> str:
    """A capture for a payment of ours that we did not make."""
    metadata = {"metadata[payment_id]": str(payment_id), "metadata[invoice_id]": invoice_id}
    order = {"amount": "1250", "currency": "eur", "payment_method": "pm_card_visa", **metadata}
    gateway_id = str((await _post(f"{sandbox.url}/v1/payment_intents", data=order))["id"])
    await _post(f"{sandbox.url}/v1/payment_intents/{gateway_id}/confirm", data={"off_session": "true"})
    return gateway_id


async def _mode(sandbox: Sandbox, mode: str) -> None:
    await _post(f"{sandbox.url}/_sandbox/mode", json={"mode": mode})


async def _post(url: str, **body: object) -> dict[str, Any]:
    headers = {"Authorization": "Bearer sk_test_1"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, **body) as answer:  # type: ignore[arg-type]
        assert answer.status == 200, await answer.text()
        told: dict[str, Any] = await answer.json()
        return told
