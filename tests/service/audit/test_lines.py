"""The checker on real databases: books that balance hold; each planted fault turns red exactly the lines it breaks."""

import asyncio
import base64
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import asyncpg
import orjson
import pytest

from services.audit import resources, run
from services.audit.answers import line_6
from services.audit.baseline import base_line, write
from services.audit.deliveries import line_9
from services.audit.evidence import Baseline
from services.audit.finding import BREACHES_SHOWN_MAX, Breach, CheckResult, Finding, Source
from services.audit.idempotence import line_14
from services.audit.money import line_4, line_5
from services.audit.queues import QueueState, Waiting, read_queues
from services.audit.resources import line_15
from services.audit.run import LINES, AuditReport, audit
from services.audit.stores import AuditError, Sources, open_stores
from services.audit.streams import line_8
from tests.service.audit.books import HISTORY, LOGS, FinishedBooks, command, open_books, payment, sources, write_books
from tests.support.databases import execute, truncate
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def written(environment_urls: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books that balance, in all databases; the folder with the ledger and the history."""
    folder = tmp_path_factory.mktemp("books")

    async def write() -> None:
        for url in environment_urls.databases.values():
            await truncate(url)
        await write_books(environment_urls.databases, folder)

    asyncio.run(write())
    return folder


@pytest.fixture
async def books(environment_urls: Environment, written: Path, tmp_path: Path) -> AsyncIterator[FinishedBooks]:
    """The same, to be changed: nothing of it stays."""
    folder = Path(shutil.copytree(written, tmp_path / "books"))
    async with open_books(environment_urls.databases, folder) as opened:
        yield opened


def broken(findings: Sequence[Finding]) -> set[int]:
    return {finding.line for finding in findings if finding.verdict is CheckResult.BROKEN}


def explained(findings: Sequence[Finding]) -> list[str]:
    """For the message of a failing test."""
    return [f"{f.line}: {b.about}: {b.why}" for f in findings for b in f.breaches] + [
        f"{f.line}: {missing}" for f in findings for missing in f.missing
    ]


@pytest.mark.parametrize("drained", [True, False])
async def test_books_that_balance_hold(environment_urls: Environment, written: Path, *, drained: bool) -> None:
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.purge()
    base = written / "baseline.json"
    async with open_stores(sources(environment_urls.databases, None, written), NOW) as stores:
        write(await base_line(stores, digest=True), base)
    given = sources(
        environment_urls.databases, environment_urls.rabbitmq_url, written, drained=drained, baselines=(base,)
    )
    report = await audit(given, NOW, complete=True, waived=[] if drained else [Source.TAP, Source.BASELINE])
    unseen = set() if drained else {10, 14}
    """What a listener heard says nothing of when, and a digest of what moves nothing at all."""
    assert {f.line: f.verdict for f in report.findings} == {
        line: CheckResult.NOT_CHECKED if line in unseen else CheckResult.HOLDS for line in range(1, 19)
    }, explained(report.findings)
    assert report.ok
    assert {finding.line for finding in report.findings if not finding.looked_at} == unseen - {10}


Plant = Callable[[FinishedBooks], Awaitable[object]]


def sql(database: str, statement: str, *arguments: object) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        assert await books.databases[database].execute(statement, *arguments) not in {"UPDATE 0", "DELETE 0"}

    return plant


def ledger(statement: str, *arguments: object) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        assert books.ledger.execute(statement, arguments).rowcount > 0

    return plant


async def captured_twice_and_one_given_back(books: FinishedBooks) -> None:
    books.charge("ch_again", "pi_paid")
    books.refund("ch_again", "pi_paid")


async def partly_given_back(books: FinishedBooks) -> None:
    books.refund("ch_paid", "pi_paid", amount=500)


async def charge_without_payment(books: FinishedBooks) -> None:
    books.intent("pi_nobody", {"payment_id": str(uuid4())})
    books.charge("ch_nobody", "pi_nobody")
    books.refund("ch_nobody", "pi_nobody")


async def charge_without_our_id(books: FinishedBooks) -> None:
    books.intent("pi_nobody", {})
    books.charge("ch_nobody", "pi_nobody")


async def charge_of_another_id(books: FinishedBooks) -> None:
    books.intent("pi_orphan", {"payment_id": str(payment("paid"))})
    assert books.ledger.execute("UPDATE charges SET payment_intent = 'pi_orphan' WHERE id = 'ch_paid'").rowcount


async def declined_and_captured(books: FinishedBooks) -> None:
    books.charge("ch_declined", "pi_declined")
    books.refund("ch_declined", "pi_declined")


async def two_ids_confirmed(books: FinishedBooks) -> None:
    books.intent("pi_second", {"payment_id": str(payment("paid"))})
    books.write(
        "INSERT INTO confirms (at, kind, payment_intent, result) VALUES (?, 'confirm', 'pi_second', '200')",
        books.now.timestamp(),
    )


async def key_of_two_requests(books: FinishedBooks) -> None:
    books.key(f"{payment('paid')}:execute:1", "other")


async def payment_without_next_step(books: FinishedBooks) -> None:
    await books.request("idle")
    requested = await books.databases["invoice"].fetchval(
        "SELECT cause_id FROM events WHERE stream_id = 'INV-idle' AND version = 2"
    )
    await books.databases["invoice"].execute("UPDATE payments SET pending = true WHERE invoice_id = 'INV-idle'")
    await books.state("INV-idle", "payment_pending", 2, payment_id=payment("idle"))
    await books.row("idle", "prepared", 2, uuid5(requested, "0"))


async def payment_row_lost(books: FinishedBooks) -> None:
    await books.databases["payment_gateway"].execute("DELETE FROM payments WHERE payment_id = $1", payment("declined"))


async def answered_and_set_aside(books: FinishedBooks) -> None:
    await books.letter("again", command("pay paid"))


async def set_aside_twice(books: FinishedBooks) -> None:
    await books.letter("again", command("poison"), body=b"[")


async def step_out_of_terminal_state(books: FinishedBooks) -> None:
    saga = books.databases["saga"]
    await saga.execute(
        """INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id)
           SELECT payment_id, 4, 'completed', 'failed', 'Declined', cause_id, 'c' FROM transitions
           WHERE payment_id = $1 AND version = 2""",
        payment("paid"),
    )
    await saga.execute("UPDATE sagas SET status = 'failed', version = 4 WHERE payment_id = $1", payment("paid"))


async def deadline_overdue(books: FinishedBooks) -> None:
    await books.insert(
        "saga",
        "deadlines",
        id=uuid4(),
        payment_id=payment("paid"),
        number=2,
        correlation_id="c",
        due_at=books.now - timedelta(hours=1),
    )


def outbox_batch(*bodies: bytes) -> Plant:
    """Messages that wait in the saga's outbox."""
    of_each = len(bodies)

    async def plant(books: FinishedBooks) -> None:
        await books.insert(
            "saga",
            "outbox",
            id=uuid4(),
            ids=[uuid4() for _ in bodies],
            exchanges=["e"] * of_each,
            routing_keys=["k"] * of_each,
            types=["t"] * of_each,
            correlation_ids=["c"] * of_each,
            content_types=["c"] * of_each,
            headers=[{}] * of_each,
            droppable=[False] * of_each,
            bodies=list(bodies),
            message_ids=[None] * of_each,
            reply_tos=[None] * of_each,
            created_at=books.now,
            sweep_after=books.now,
            refusals=0,
        )

    return plant


WAITING = tuple(
    b'{"id":"%s","time":"2026-11-23T10:00:00Z","amount_minor":%d}' % (str(uuid5(UUID(int=n), "")).encode(), 1000 + n)
    for n in range(200)
)
"""Bodies without a secret; in hexadecimal they are full of digits."""


def without(database: str, name: UUID) -> Plant:
    """A message that the service never saw."""

    async def plant(books: FinishedBooks) -> None:
        removed = await books.databases[database].execute("DELETE FROM inbox WHERE message_id = $1", name)
        assert removed == "DELETE 1"

    return plant


async def event_unseen(books: FinishedBooks) -> None:
    cause = await books.databases["invoice"].fetchval(
        "SELECT cause_id FROM events WHERE stream_id = 'INV-paid' AND version = 3"
    )
    await without("saga", uuid5(cause, "0"))(books)


async def request_unseen(books: FinishedBooks) -> None:
    await without("payment_gateway", uuid5(command("pay paid"), "0"))(books)


async def other_bytes_heard(books: FinishedBooks) -> None:
    books.hear("payment_gateway.requests", uuid5(command("pay paid"), "0"), b"other bytes")


async def other_bytes_than_stored(books: FinishedBooks) -> None:
    spaced = f"UPDATE outcomes SET body = body || ' ' {ROW} AND version = 3"
    await sql("payment_gateway", spaced, payment("paid"))(books)


async def settlement_unseen(books: FinishedBooks) -> None:
    await without("invoice", uuid5(uuid5(payment("declined"), "4"), "0"))(books)


async def decision_unseen(books: FinishedBooks) -> None:
    await without("payment_gateway", uuid5(command("entry decided"), "0"))(books)


async def heard_and_gone(books: FinishedBooks) -> None:
    books.hear("payment_gateway.commands", uuid4(), b"{}")


async def command_heard_and_gone(books: FinishedBooks) -> None:
    books.hear("invoice.commands", uuid4(), b"{}")


async def dead_letter_without_record(books: FinishedBooks) -> None:
    books.hear("dead-letters", uuid4(), b"gone")


async def settled_by_nobody_knows_whom(books: FinishedBooks) -> None:
    settled = {"status": "discarded", "settled_by": "Ada", "settled_at": books.now}
    await books.letter("again", uuid4(), queue="saga.events", **settled)


async def replayed_and_gone(books: FinishedBooks) -> None:
    settled = {"status": "replayed", "settled_by": "Ada", "settled_at": books.now, "event_id": uuid4()}
    await books.letter("again", uuid4(), queue="saga.events", **settled)
    await books.act("again", "replay", command("letter again"))


def letter(**changes: object) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        await books.letter("planted", uuid4(), **{"queue": "saga.events"} | changes)

    return plant


async def recorded_twice(books: FinishedBooks) -> None:
    message_id = uuid4()
    for name in ("one", "two"):
        await books.letter(name, message_id, queue="saga.events")


async def lease_forgotten(books: FinishedBooks) -> None:
    await sql("payment_gateway", f"UPDATE payments SET leased_by = $2 {ROW}", payment("paid"), uuid4())(books)


async def lease_ran_out(books: FinishedBooks) -> None:
    statement = f"UPDATE payments SET leased_by = $2, due_at = now() - interval '9 s' {ROW}"
    await sql("payment_gateway", statement, payment("paid"), uuid4())(books)


async def unacknowledged(books: FinishedBooks) -> None:
    books.unacked = {"saga.events": 3}


async def connections_left(books: FinishedBooks) -> None:
    books.baselines = (Baseline(connections={"invoice": -99, "payment_gateway": 5, "saga": 5, "staff": 5}),)


def said(**changes: object) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        books.run |= changes

    return plant


async def paid_twice_over(books: FinishedBooks) -> None:
    """A second payment of the same invoice, booked like the first."""
    moved = "UPDATE events SET stream_id = 'INV-paid', version = version + 2 WHERE stream_id = 'INV-decided' AND version > 1"
    await sql("invoice", moved)(books)
    await sql("invoice", "DELETE FROM events WHERE stream_id = 'INV-decided'")(books)


PAN = "4242 4242 4242 4242"
EVENT = "WHERE stream_id = $1 AND version = $2"
ROW = "WHERE payment_id = $1"

HEALTHY = orjson.dumps(
    {
        "specversion": "1.0",
        "id": "0197b1c4-0000-7000-8000-000000000001",
        "type": "remit.invoice.InvoicePaid.v1",
        "source": "/remit/invoice",
        "time": "2026-11-22T12:00:00Z",
        "correlationid": "0197b1c4-0000-7000-8000-000000000002",
        "data": {
            "invoice_id": "INV-1",
            "payment_id": "0197b1c4-0000-7000-8000-000000000003",
            "amount_minor": 1250,
            "currency": "EUR",
            "receipt_number": "ch_1",
        },
    }
)


def logged(line: str) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        with (books.folder / LOGS / "invoice.log").open("a") as file:
            file.write(f"{line}\n")

    return plant


def waiting_in_queue(body: bytes, *texts: str) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        books.queues["saga.events"] = QueueState(1, 0, (Waiting(1, str(uuid4()), body, texts),))

    return plant


async def amounts_swapped(books: FinishedBooks) -> None:
    """Paid where it was given back, and given back where it was paid."""
    assert books.ledger.execute("DELETE FROM refunds WHERE payment_intent = 'pi_late'").rowcount == 1
    books.refund("ch_paid", "pi_paid")


async def journal_deleted(books: FinishedBooks, name: str, *, until_version: int, days: int = 401) -> None:
    """The saga stands as it does for so long, and its journal up to that version is gone."""
    saga, about = books.databases["saga"], payment(name)
    await saga.execute(f"DELETE FROM transitions {ROW} AND version <= $2", about, until_version)
    await saga.execute(f"UPDATE sagas SET journal_from = $2 {ROW}", about, until_version + 1)
    await saga.execute(f"UPDATE sagas SET updated_at = now() - interval '{days} days' {ROW}", about)


async def attempts_deleted(books: FinishedBooks, name: str, *, days: int = 401) -> None:
    """The payment stands as it does for so long, and what the gateway answered is gone."""
    gateway, about = books.databases["payment_gateway"], payment(name)
    await gateway.execute(f"DELETE FROM attempts {ROW}", about)
    await gateway.execute(
        f"UPDATE payments SET attempts_forgotten_at = now(), updated_at = now() - interval '{days} days' {ROW}", about
    )


async def journal_with_a_gap_after_what_was_deleted(books: FinishedBooks) -> None:
    await journal_deleted(books, "late", until_version=2)
    await sql("saga", f"DELETE FROM transitions {ROW} AND version = 3", payment("late"))(books)


async def paid_by_nobodys_word_beside_a_deleted_journal(books: FinishedBooks) -> None:
    await journal_deleted(books, "late", until_version=4)
    await sql("invoice", f"UPDATE events SET cause_id = $3 {EVENT}", "INV-paid", 3, uuid4())(books)


async def moved_by_nothing_after_its_journal_was_deleted(books: FinishedBooks) -> None:
    await journal_deleted(books, "late", until_version=2)
    await sql("saga", f"UPDATE transitions SET cause_id = $2 {ROW} AND version = 3", payment("late"), uuid4())(books)


PLANTED: dict[str, tuple[Plant, set[int]]] = {
    "captured twice": (captured_twice_and_one_given_back, {1}),
    "partly refunded": (partly_given_back, {1, 13}),
    "another method charged": (ledger("UPDATE charges SET payment_method = 'pm_other' WHERE id = 'ch_paid'"), {1}),
    "another amount charged": (ledger("UPDATE charges SET amount = 99 WHERE id = 'ch_paid'"), {1, 13}),
    "another currency charged": (ledger("UPDATE charges SET currency = 'usd' WHERE id = 'ch_paid'"), {1, 13}),
    "another amount in the row": (
        sql("payment_gateway", f"UPDATE payments SET amount_minor = 7 {ROW}", payment("declined")),
        {1},
    ),
    "another token in the row": (
        sql("payment_gateway", f"UPDATE payments SET method_token = 'pm_x' {ROW}", payment("declined")),
        {1},
    ),
    "charge without payment": (charge_without_payment, {2}),
    "charge without our id": (charge_without_our_id, {2, 13}),
    "charge of an id that is not recorded": (charge_of_another_id, {2}),
    "case open on a settled payment": (
        sql("staff", f"UPDATE cases SET status = 'in_doubt' {ROW}", payment("decided")),
        {2},
    ),
    "payment without next step": (payment_without_next_step, {2}),
    "case gone": (sql("staff", f"DELETE FROM cases {ROW}", payment("waiting")), {12}),
    "case gone, attempt overdue": (
        lambda books: _both(
            sql("staff", f"DELETE FROM cases {ROW}", payment("waiting"))(books),
            sql("payment_gateway", f"UPDATE payments SET due_at = $2 {ROW}", payment("waiting"), books.now)(books),
        ),
        {2, 12},
    ),
    "declined here, captured there": (declined_and_captured, {3}),
    "captured here, not there": (ledger("DELETE FROM charges WHERE id = 'ch_paid'"), {3, 13}),
    "two gateway ids confirmed": (two_ids_confirmed, {4}),
    "another id recorded": (
        sql("payment_gateway", f"UPDATE payments SET gateway_id = 'pi_other' {ROW}", payment("declined")),
        {4},
    ),
    "confirmed before recorded": (
        sql(
            "payment_gateway",
            f"UPDATE attempts SET recorded_at = recorded_at + interval '1 hour' {ROW}",
            payment("paid"),
        ),
        {4},
    ),
    "key of two requests": (key_of_two_requests, {4}),
    "key refused for other parameters": (ledger("UPDATE idempotency_keys SET mismatches = 1 WHERE seq = 1"), {4}),
    "key of two payments": (sql("payment_gateway", "UPDATE attempts SET idempotency_key = 'k' WHERE seq = 0"), {4}),
    "decision without evidence": (sql("payment_gateway", "UPDATE decisions SET evidence = ' '"), {5}),
    "decision that was refused": (sql("payment_gateway", "UPDATE decisions SET refusal = 'version_differs'"), {5}),
    "another receipt": (
        sql("payment_gateway", f"UPDATE payments SET receipt_number = 'r' {ROW}", payment("paid")),
        {5},
    ),
    "requested and no row": (payment_row_lost, {4, 5}),
    "answer lost": (sql("invoice", "DELETE FROM answers WHERE command_id = $1", command("pay void")), {6, 10}),
    "dead letter discarded unanswered": (sql("staff", "UPDATE dead_letters SET status = 'discarded'"), {6, 10, 11}),
    "answered and set aside": (answered_and_set_aside, {6}),
    "set aside twice": (set_aside_twice, {6}),
    "event of no command": (
        sql("invoice", f"UPDATE events SET cause_id = $3 {EVENT}", "INV-void", 1, uuid4()),
        {7},
    ),
    "event of a rejected command": (
        sql("invoice", "UPDATE answers SET answer = 'rejected' WHERE command_id = $1", command("void void")),
        {7},
    ),
    "paid by nobody's word": (
        sql("invoice", f"UPDATE events SET cause_id = $3 {EVENT}", "INV-paid", 3, uuid4()),
        {7, 9},
    ),
    "saga moved by nothing": (
        sql("saga", f"UPDATE transitions SET cause_id = $2 {ROW} AND version = 2", payment("paid"), uuid4()),
        {7},
    ),
    "payment moved by nobody": (
        sql("payment_gateway", f"UPDATE payments SET cause_id = $2 {ROW}", payment("paid"), uuid4()),
        {7},
    ),
    "outcome asked for by nobody": (
        sql("payment_gateway", f"UPDATE outcomes SET body = '{{}}' {ROW}", payment("declined")),
        {7, 9},
    ),
    "decision that staff never made": (
        sql("payment_gateway", f"UPDATE payments SET cause_id = $2 {ROW}", payment("decided"), uuid4()),
        {7},
    ),
    "stored state differs": (sql("invoice", "UPDATE invoices SET status = 'open' WHERE invoice_id = 'INV-void'"), {8}),
    "stream with a gap": (sql("invoice", f"DELETE FROM events {EVENT}", "INV-void", 1), {8}),
    "stream without state": (sql("invoice", "DELETE FROM invoices WHERE invoice_id = 'INV-void'"), {8}),
    "unknown event": (sql("invoice", f"UPDATE events SET type = 'Shrunk.1' {EVENT}", "INV-void", 2), {8}),
    "payment id says pending": (sql("invoice", f"UPDATE payments SET pending = true {ROW}", payment("paid")), {8}),
    "paid twice": (paid_twice_over, {5, 7, 8}),
    "paid while void": (
        sql("invoice", f"UPDATE events SET type = 'Voided.1' {EVENT}", "INV-late", 2),
        {7, 8},
    ),
    "requested another amount than issued": (
        sql("invoice", f"UPDATE events SET data = data || '{{\"amount_minor\": 99}}' {EVENT}", "INV-late", 1),
        {1, 8},
    ),
    "told as failed on a guess": (
        sql(
            "payment_gateway",
            f"UPDATE outcomes SET type = 'remit.payment_gateway.PaymentInDoubt.v1' {ROW}",
            payment("declined"),
        ),
        {5},
    ),
    "wrong sums that make up for each other": (amounts_swapped, {13}),
    "one message, two steps of a saga": (
        sql(
            "saga",
            f"UPDATE transitions SET cause_id = $2 {ROW} AND version = 2",
            payment("late"),
            uuid5(payment("late"), "3"),
        ),
        {7},
    ),
    "outbox not empty": (outbox_batch(*WAITING), {9}),
    "card number in a parcel": (outbox_batch(*WAITING, PAN.encode()), {9, 16}),
    "event unseen": (event_unseen, {9, 10}),
    "request unseen": (request_unseen, {9, 10}),
    "other bytes under one id": (other_bytes_heard, {9}),
    "other bytes than were stored": (other_bytes_than_stored, {9}),
    "what a saga said unseen": (settlement_unseen, {10}),
    "what a person decided unseen": (decision_unseen, {10}),
    "heard and gone": (heard_and_gone, {10}),
    "command heard and gone": (command_heard_and_gone, {10}),
    "dead letter without record": (dead_letter_without_record, {10}),
    "settled by nobody knows whom": (settled_by_nobody_knows_whom, {10}),
    "replayed and gone": (replayed_and_gone, {10}),
    "dead letter without reason": (letter(reason="unknown"), {11}),
    "dead letter without tries": (letter(tries=0), {11}),
    "dead letter with two records": (recorded_twice, {11}),
    "dead letter settled by nobody": (
        sql("staff", "UPDATE dead_letters SET settled_by = NULL WHERE status = 'discarded'"),
        {11},
    ),
    "healthy dead letter": (letter(body=HEALTHY, reason="handler_failed", error_type="TimeoutError"), {11}),
    "healthy dead letter of the broker": (letter(body=HEALTHY, reason="broker_delivery_limit", origin="broker"), {11}),
    "lease without an end": (lease_forgotten, {15}),
    "lease that ran out": (lease_ran_out, {15}),
    "delivery not acknowledged": (unacknowledged, {15}),
    "connections left": (connections_left, {15}),
    "card number in a text": (
        sql("invoice", "UPDATE answers SET detail = $2 WHERE command_id = $1", command("pay void"), f"card {PAN}"),
        {16},
    ),
    "card number in base64 in a body": (
        letter(body=b"not json " + base64.b64encode(PAN.encode())),
        {16},
    ),
    "card number URL-encoded in jsonb": (
        sql("staff", "UPDATE cases SET details = $1", {"evidence": "n%3D" + "".join(f"%{ord(c):x}" for c in PAN)}),
        {16},
    ),
    "card number in a column of a new table": (
        sql("saga", f"CREATE TABLE notes AS SELECT {PAN.replace(' ', '')} AS number"),
        {16},
    ),
    "security code in evidence": (
        sql("payment_gateway", "UPDATE attempts SET evidence = 'cvc: 123' WHERE payment_id = $1", payment("paid")),
        {16},
    ),
    "key in evidence": (
        sql(
            "payment_gateway",
            "UPDATE attempts SET evidence = 'key sk_live_51abcdefgh' WHERE payment_id = $1",
            payment("paid"),
        ),
        {16},
    ),
    "card number at the gateway": (ledger("UPDATE idempotency_keys SET body = ? WHERE seq = 1", PAN), {16}),
    "card number in a log": (logged(f'{{"event": "odd", "number": "{PAN}"}}'), {16}),
    "private key in a log, in base64": (
        logged(base64.b64encode(b"-----BEGIN EC PRIVATE KEY-----").decode()),
        {16},
    ),
    "card number in a queue": (waiting_in_queue(PAN.encode()), {9, 16}),
    "card number in a property": (waiting_in_queue(b"{}", f"x-card: {PAN}"), {9, 16}),
    "fault that never fired": (said(planned=[{"name": "exit", "fired": 1}, {"name": "stop", "fired": 0}]), {17}),
    "nothing planned": (said(planned=[]), {17}),
    "no conflict seen": (said(seen={"duplicates": 1, "redeliveries": 1, "in_doubt": 1}), {17}),
    "planted fault not noticed": (said(planted=[{"name": "inbox off", "expected": 9, "red": [12]}]), {18}),
    "step out of a terminal state": (step_out_of_terminal_state, {7, 12}),
    "saga ahead of its journal": (sql("saga", f"UPDATE sagas SET version = 9 {ROW}", payment("paid")), {12}),
    "saga without journal": (sql("saga", f"UPDATE sagas SET status = 'failed' {ROW}", payment("paid")), {12}),
    "journal deleted in silence": (sql("saga", f"DELETE FROM transitions {ROW}", payment("paid")), {7, 12}),
    "journal deleted too early": (lambda books: journal_deleted(books, "paid", until_version=2, days=399), {12}),
    "journal deleted of what has not ended": (lambda books: journal_deleted(books, "waiting", until_version=2), {12}),
    "journal deleted up to what had not ended": (lambda books: journal_deleted(books, "paid", until_version=1), {12}),
    "journal with a gap after what was deleted": (journal_with_a_gap_after_what_was_deleted, {12}),
    "paid by nobody's word beside a deleted journal": (paid_by_nobodys_word_beside_a_deleted_journal, {7, 9}),
    "moved by nothing after its journal was deleted": (moved_by_nothing_after_its_journal_was_deleted, {7, 10}),
    "attempts deleted in silence": (sql("payment_gateway", f"DELETE FROM attempts {ROW}", payment("paid")), {4}),
    "attempts deleted too early": (lambda books: attempts_deleted(books, "paid", days=399), {4}),
    "attempts deleted of an open case": (lambda books: attempts_deleted(books, "waiting"), {4}),
    "deadline overdue": (deadline_overdue, {12}),
    "saga without deadline": (sql("saga", f"DELETE FROM deadlines {ROW}", payment("waiting")), {12}),
    "booked another amount": (
        sql("invoice", f"UPDATE events SET data = data || '{{\"amount_minor\": 1}}' {EVENT}", "INV-paid", 3),
        {13},
    ),
}


async def _both(first: Awaitable[object], second: Awaitable[object]) -> None:
    await first
    await second


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_fault_turns_its_line_red(books: FinishedBooks, name: str) -> None:
    plant, lines = PLANTED[name]
    await plant(books)
    findings = [await line(books.stores()) for line in LINES]
    assert broken(findings) == lines, explained(findings)
    assert not AuditReport(tuple(findings), complete=False).ok


def test_every_line_is_turned_red_by_a_fault_of_its_own() -> None:
    alone = {next(iter(lines)) for _, lines in PLANTED.values() if len(lines) == 1}
    assert alone == set(range(1, 19)) - {14}


async def test_a_message_left_in_a_queue_breaks_line_9(environment_urls: Environment, written: Path) -> None:
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.send_raw(b"{}")
        report = await audit(sources(environment_urls.databases, environment_urls.rabbitmq_url, written), NOW)
        await upstream.purge()
    assert broken(report.findings) == {9}, explained(report.findings)


async def test_books_whose_old_traces_are_deleted_hold(books: FinishedBooks) -> None:
    """One that ended, one that moved after its journal was deleted, one whose payment a person settled."""
    for name, version in (("paid", 2), ("late", 2), ("declined", 2), ("decided", 3)):
        await journal_deleted(books, name, until_version=version)
        await attempts_deleted(books, name)
    findings = [await line(books.stores()) for line in LINES]
    assert broken(findings) == set(), explained(findings)


async def test_recovery_that_changes_something_breaks_line_14(books: FinishedBooks) -> None:
    books.baselines = (Baseline.model_validate(await base_line(books.stores(), digest=True)),)
    await books.databases["saga"].execute("UPDATE sagas SET repeats = 9, updated_at = now()")  # what time alone moves
    assert (await line_14(books.stores())).verdict is CheckResult.HOLDS
    await books.event("INV-paid", 4, "SettlementRejected", uuid4(), payment_id=str(payment("paid")), reason="again")
    books.charge("ch_again", "pi_paid")
    found = await line_14(books.stores())
    assert {breach.about for breach in found.breaches} == {"invoice.events", "ledger.charges"}


async def test_the_clock_of_an_instance_may_be_off(books: FinishedBooks) -> None:
    await books.databases["payment_gateway"].execute("UPDATE attempts SET at = at + interval '1 hour'")
    assert (await line_4(books.stores())).verdict is CheckResult.HOLDS


async def test_a_lost_queue_is_not_judged_by_id(books: FinishedBooks) -> None:
    await event_unseen(books)
    books.lost = frozenset({"saga.events"})
    found = await line_9(books.stores())
    assert (found.verdict, found.in_flight) == (CheckResult.HOLDS, 1)


async def test_a_queue_excuses_no_more_than_it_can_hold(books: FinishedBooks) -> None:
    """In a live system a command may wait still; two cannot be one message."""
    for name in ("gone", "gone as well"):
        books.record(name)
    books.queues["invoice.commands"] = QueueState(1, 0)
    found = await line_6(books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert (found.broken, found.in_flight) == (1, 1)


async def test_a_young_event_may_be_on_its_way(books: FinishedBooks) -> None:
    await event_unseen(books)
    await sql("invoice", f"UPDATE events SET recorded_at = now() {EVENT}", "INV-paid", 3)(books)
    live = await line_9(books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert (live.verdict, live.in_flight) == (CheckResult.HOLDS, 1)
    assert (await line_9(books.stores())).broken == 1


async def test_an_open_transaction_breaks_line_15(
    environment_urls: Environment, books: FinishedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "OPEN_S", 0.0)
    forgetful = await asyncpg.connect(environment_urls.databases["saga"], timeout=10)
    try:
        await forgetful.execute("BEGIN; SELECT 1")
        found = await line_15(books.stores())
        assert (found.broken, found.breaches[0].why.partition(" since ")[0]) == (1, "a transaction is open")
    finally:
        await forgetful.close()


async def test_deliveries_in_the_hands_of_a_consumer_are_not_called_acknowledged(books: FinishedBooks) -> None:
    books.queues["saga.events"] = QueueState(0, 2)
    found = await line_15(books.stores())
    assert (found.verdict, found.unseen) == (CheckResult.NOT_CHECKED, frozenset({Source.UNACKED}))
    assert found.is_complete([Source.UNACKED])
    books.unacked = {"saga.events": 0}
    assert (await line_15(books.stores())).verdict is CheckResult.HOLDS


async def test_a_queue_that_is_gone_is_not_called_empty(books: FinishedBooks) -> None:
    books.queues["saga.events"] = None
    found = await line_9(books.stores())
    assert found.missing == ("the queue saga.events does not exist: see `remit topology check`",)


async def test_messages_in_a_real_queue_are_looked_into_and_stay_as_they_were(environment_urls: Environment) -> None:
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.purge()
        for number in range(3):
            await upstream.send_raw(b"%d" % number, message_id=f"m{number}", headers={"note": "n"})
        queue = (await read_queues(environment_urls.rabbitmq_url, look_into=True))["invoice.commands"]
        assert queue is not None
        assert [(one.body, one.message_id) for one in queue.waiting] == [(b"0", "m0"), (b"1", "m1"), (b"2", "m2")]
        assert (queue.ready, queue.consumers, queue.whole) == (3, 0, True)
        assert "note: n" in queue.waiting[0].texts
        tap = await upstream.queue("invoice.commands")
        assert [received.message.body for received in await tap.take(3)] == [b"0", b"1", b"2"]


async def test_what_a_moment_heals_is_not_broken(
    environment_urls: Environment, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reminder that is in the outbox while we look has left it when we look again."""
    url, looks = environment_urls.databases["saga"], list[int]()

    async def heal(_: float) -> None:
        looks.append(1)
        await execute(url, "DELETE FROM outbox")

    monkeypatch.setattr(run, "sleep", heal)
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.purge()
    await execute(
        url,
        """INSERT INTO outbox VALUES (gen_random_uuid(), ARRAY[gen_random_uuid()], '{e}', '{k}', '{t}', '{c}', '{c}', ARRAY['{}'::jsonb],
               '{false}', '{""}', '{NULL}', '{NULL}', now(), now(), 0)""",
    )
    report = await audit(sources(environment_urls.databases, environment_urls.rabbitmq_url, written), NOW)
    assert (broken(report.findings), looks) == (set(), [1])


async def test_what_is_young_is_under_way_in_a_live_system(books: FinishedBooks) -> None:
    """The invoice has not heard of a capture yet: excused for a while, and not when all work is said to be done."""
    await books.databases["invoice"].execute("DELETE FROM events WHERE stream_id = 'INV-paid' AND version = 3")
    await books.databases["payment_gateway"].execute("UPDATE payments SET updated_at = now()")
    live = await line_5(books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert (live.verdict, live.in_flight) == (CheckResult.HOLDS, 1)
    drained = await line_5(books.stores())
    assert (drained.verdict, drained.in_flight, drained.broken) == (CheckResult.BROKEN, 0, 1)
    assert drained.breaches == (Breach(str(payment("paid")), "captured, and INV-paid is not paid by it"),)


async def test_what_was_not_given_is_not_called_good(environment_urls: Environment, written: Path) -> None:
    report = await audit(Sources({"invoice": environment_urls.databases["invoice"]}, drained=True), NOW, complete=True)
    verdicts = {finding.line: finding.verdict for finding in report.findings}
    assert verdicts.pop(8) is CheckResult.HOLDS
    assert set(verdicts.values()) == {CheckResult.NOT_CHECKED}
    assert not report.ok
    assert all(finding.missing for finding in report.findings if finding.line != 8)


async def test_breaches_are_counted_and_only_the_first_are_shown(books: FinishedBooks) -> None:
    for number in range(30):
        await books.state(f"INV-{number}", "open", 1)
    finding = await line_8(books.stores())
    assert (finding.broken, len(finding.breaches)) == (30, BREACHES_SHOWN_MAX)


async def test_the_stores_are_opened_to_be_read_only(environment_urls: Environment, written: Path) -> None:
    async with open_stores(sources(environment_urls.databases, None, written), NOW) as stores:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await stores.databases["invoice"].value("DELETE FROM answers")
        assert stores.ledger is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            list(stores.ledger.rows("DELETE FROM charges"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda folder: Sources({}, ledger=folder / "nowhere"), "there is no ledger file"),
        (lambda folder: Sources({}, ledger=folder / HISTORY), "is not the ledger of a sandbox gateway"),
        (lambda folder: Sources({}, history=folder / "nowhere"), "there is no history file"),
        (lambda _: Sources({"saga": "postgresql://127.0.0.1:1/x"}), "SAGA_DATABASE_URL: the database does not answer"),
        (lambda _: Sources({}, "amqp://127.0.0.1:1/"), "RABBITMQ_URL: the broker does not answer"),
    ],
)
async def test_a_store_that_cannot_be_read_is_named(
    written: Path, wrong: Callable[[Path], Sources], sentence: str
) -> None:
    with pytest.raises(AuditError, match=sentence):
        await audit(wrong(written), NOW)


async def test_a_history_that_cannot_be_read_is_named_by_its_line(
    environment_urls: Environment, tmp_path: Path
) -> None:
    (tmp_path / HISTORY).write_text('{"command_id": "x", "confirmed": true}\nnot json\n')
    with pytest.raises(AuditError, match=r"history\.jsonl, line 2, is not of the form"):
        await audit(Sources(environment_urls.databases, history=tmp_path / HISTORY), NOW)
