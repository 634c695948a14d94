"""The audit on real databases: consistent books hold; each planted fault breaks exactly the checks that it must break."""

import asyncio
import base64
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import asyncpg
import orjson
import pytest
import pytest_asyncio

from services.audit import resources, run
from services.audit.baseline import take_baseline, write
from services.audit.checks import CHECKS
from services.audit.errors import StoreAwayError
from services.audit.evidence import Baseline
from services.audit.finding import BREACHES_SHOWN_MAX, Breach, CheckResult, Finding, Source
from services.audit.queues import QueueState, Waiting, read_queues
from services.audit.run import AuditReport, audit
from services.audit.stores import AuditError, Sources, Stores, open_stores
from shared.messaging.topology import UNREADABLE_DEAD_LETTERS
from tests.service.audit.books import (
    HISTORY,
    LOGS,
    Connections,
    FinishedBooks,
    command,
    open_books,
    open_connections,
    payment,
    refund,
    sources,
    write_books,
)
from tests.service.audit.falsifications import FALSIFICATIONS
from tests.support.databases import execute
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def written(environment_urls: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Consistent books in all databases; returns the folder with the ledger and the history."""
    folder = tmp_path_factory.mktemp("books")

    asyncio.run(write_books(environment_urls.databases, folder))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connections(environment_urls: Environment, written: Path) -> AsyncIterator[Connections]:
    """The same for all tests: to prepare the audit's statements takes longer than to run them."""
    async with open_connections(environment_urls.databases) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def books(connections: Connections, written: Path, tmp_path: Path) -> AsyncIterator[FinishedBooks]:
    """The same books, to be changed; every change is rolled back."""
    folder = Path(shutil.copytree(written, tmp_path / "books"))
    async with open_books(connections, folder) as opened:
        yield opened


OF_ONE_STORE = {"streams_fold_to_state", "senders_kept_apart"}
"""Checks that need no store but that of the invoice service."""


def broken(findings: Sequence[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.result is CheckResult.BROKEN}


async def found(name: str, stores: Stores) -> Finding:
    """The finding of the check of that name."""
    return await next(check for check in CHECKS if check.name == name).run(stores)


async def all_findings(books: FinishedBooks) -> list[Finding]:
    stores = books.stores()
    return [await check.run(stores) for check in CHECKS]


def explained(findings: Sequence[Finding]) -> list[str]:
    """The breaches as text, for the message of a failing test."""
    return [f"{f.check}: {b.about}: {b.why}" for f in findings for b in f.breaches] + [
        f"{f.check}: {missing}" for f in findings for missing in f.missing
    ]


@pytest.mark.parametrize("drained", [True, False])
async def test_consistent_books_hold(environment_urls: Environment, written: Path, *, drained: bool) -> None:
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.purge()
    base = written / "baseline.json"
    async with open_stores(sources(environment_urls.databases, None, written), NOW) as stores:
        write(await take_baseline(stores, digest=True), base)
    given = sources(
        environment_urls.databases, environment_urls.rabbitmq_url, written, drained=drained, baselines=(base,)
    )
    report = await audit(given, NOW, complete=True, waived=[] if drained else [Source.TAP, Source.BASELINE])
    unseen = set() if drained else {"deliveries_accounted_for", "repeating_changes_nothing"}
    """A listener's records have no times, and a digest can be compared only if nothing is under way."""
    assert {f.check: f.result for f in report.findings} == {
        check.name: CheckResult.NOT_CHECKED if check.name in unseen else CheckResult.HOLDS for check in CHECKS
    }, explained(report.findings)
    assert report.ok
    not_sealed = {"books_sealed"}  # books that a test wrote
    assert {finding.check for finding in report.findings if not finding.looked_at} == not_sealed | (
        unseen - {"deliveries_accounted_for"}
    )


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


async def more_given_back_than_captured(books: FinishedBooks) -> None:
    books.refund("ch_parted", "pi_parted", amount=751)


async def one_refund_made_twice(books: FinishedBooks) -> None:
    books.refund("ch_parted", "pi_parted", amount=499, of=refund("parted"))


async def disputed_unseen(books: FinishedBooks) -> None:
    books.dispute("ch_paid", "pi_paid")


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


async def answered_and_dead_lettered(books: FinishedBooks) -> None:
    await books.dead_letter("again", command("pay paid"))


async def dead_lettered_twice(books: FinishedBooks) -> None:
    await books.dead_letter("again", command("poison"), body=b"[")


async def step_out_of_terminal_state(books: FinishedBooks) -> None:
    saga = books.databases["saga"]
    await saga.execute(
        """INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id)
           SELECT payment_id, 4, 'completed', 'failed', 'Declined', cause_id, 'c' FROM transitions
           WHERE payment_id = $1 AND version = 2""",
        payment("paid"),
    )
    await saga.execute("UPDATE sagas SET status = 'failed', version = 4 WHERE payment_id = $1", payment("paid"))


async def answered_twice(books: FinishedBooks) -> None:
    """The sender got a name, and the command that it sent again was handled again."""
    invoices = books.databases["invoice"]
    row = await invoices.fetchrow("SELECT * FROM answers WHERE invoice_id = 'INV-paid' LIMIT 1")
    assert row is not None
    again = dict(row) | {"command_id": uuid5(row["command_id"], "sender:"), "sent_id": row["command_id"]}
    await books.insert("invoice", "answers", **again)


async def paid_by_another(books: FinishedBooks) -> None:
    """Both senders have names: one issued the invoice, and another one was allowed to pay it."""
    await books.databases["invoice"].execute(
        "UPDATE events SET owner = 'shop' WHERE stream_id = 'INV-paid' AND version = 1"
    )
    await books.databases["invoice"].execute("UPDATE invoices SET owner = 'shop' WHERE invoice_id = 'INV-paid'")
    row = await books.databases["invoice"].fetchrow(
        "SELECT * FROM answers WHERE invoice_id = 'INV-paid' AND command_type LIKE '%PayInvoice%'"
    )
    assert row is not None
    sent_id = uuid4()
    others = {"command_id": uuid5(sent_id, "sender:billing"), "sender": "billing", "sent_id": sent_id}
    await books.insert("invoice", "answers", **dict(row) | others)


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
    """Messages in the saga's outbox."""
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


async def quarantined_message(books: FinishedBooks) -> None:
    """A message that is not tried any more, however young it is."""
    await outbox_batch(b"{}")(books)
    await sql("saga", "UPDATE outbox SET sweep_after = 'infinity', losses = 6")(books)


WAITING = tuple(
    b'{"id":"%s","time":"2026-11-23T10:00:00Z","amount_minor":%d}' % (str(uuid5(UUID(int=n), "")).encode(), 1000 + n)
    for n in range(200)
)
"""Bodies without a secret, but full of digits in hexadecimal."""


def without(database: str, name: UUID) -> Plant:
    """A message that the service never received."""

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


async def other_bytes_delivered(books: FinishedBooks) -> None:
    books.record_delivery("payment_gateway.requests", uuid5(command("pay paid"), "0"), b"other bytes")


async def other_bytes_than_stored(books: FinishedBooks) -> None:
    spaced = f"UPDATE outcomes SET body = body || ' ' {ROW} AND version = 3"
    await sql("payment_gateway", spaced, payment("paid"))(books)


async def settlement_unseen(books: FinishedBooks) -> None:
    await without("invoice", uuid5(uuid5(payment("declined"), "4"), "0"))(books)


async def decision_unseen(books: FinishedBooks) -> None:
    await without("payment_gateway", uuid5(command("entry decided"), "0"))(books)


async def decision_only_journalled(books: FinishedBooks) -> None:
    decision = await books.act("ghost", "resolve", payment("waiting"), resolution="captured")
    await books.deliver("payment_gateway.commands", decision)


def of_run(name: str, state: int, entry: str | None) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        await books.of_run(2, name, state=state, entry_id=command(f"entry {entry}") if entry else None)

    return plant


async def decision_not_journalled(books: FinishedBooks) -> None:
    await books.insert(
        "payment_gateway",
        "decisions",
        message_id=uuid4(),
        payment_id=payment("waiting"),
        resolution="captured",
        expected_version=4,
        evidence="none",
        decided_by="nobody",
        reason="none",
        refusal="version_differs",
    )


def journal(statement: str) -> Plant:
    """As the owner of the table can, who takes the guard away first."""

    async def plant(books: FinishedBooks) -> None:
        await books.databases["staff"].execute("ALTER TABLE journal DISABLE TRIGGER USER")
        assert await books.databases["staff"].execute(statement) not in {"UPDATE 0", "DELETE 0"}

    return plant


CHAINED_AGAIN = """
    DO $$
    DECLARE
        entry record;
        before bytea := '';
    BEGIN
        FOR entry IN SELECT * FROM journal ORDER BY position LOOP
            IF entry.salt IS NOT NULL THEN
                UPDATE journal SET digest = journal_digest(salt, who, details) WHERE id = entry.id RETURNING * INTO entry;
            END IF;
            before := journal_hash(
                before, entry.position, entry.id, entry.at, entry.action, entry.subject, entry.digest);
            UPDATE journal SET hash = before WHERE id = entry.id;
        END LOOP;
    END $$"""
"""All that the chain itself says is right then, so only heads that are known from elsewhere can tell."""


def forged(change: str, *, with_heads: bool = False) -> Plant:
    """A change of the journal by its owner, who chains it anew. `with_heads`: and who owns the decisions as well, with their heads."""

    async def plant(books: FinishedBooks) -> None:
        await journal(change)(books)
        await books.databases["staff"].execute(CHAINED_AGAIN)
        if with_heads:
            head = await books.databases["staff"].fetchval(
                "SELECT position || ':' || encode(hash, 'hex') FROM journal WHERE action = 'resolve'"
            )
            await books.databases["payment_gateway"].execute("UPDATE decisions SET journal_head = $1", head)

    return plant


def purged(*, left: str | None = None, told: bool = True) -> Plant:
    """An entry is purged. `left`: what stands there afterwards, in place of what the purge left."""

    async def plant(books: FinishedBooks) -> None:
        staff = books.databases["staff"]
        id_, content = await staff.fetchrow(
            "SELECT id, jsonb_build_array('[card number]', details)::text FROM journal WHERE action = 'discard'"
        ) or (None, "")
        row = {"table": "journal", "key": str(id_), "left_sha256": sha256(content.encode()).hexdigest()}
        if told:
            await books.act("purge", "purge", uuid4(), rows=[row])
        await staff.execute("ALTER TABLE journal DISABLE TRIGGER USER")
        await staff.execute(
            "UPDATE journal SET salt = NULL, who = $2 WHERE id = $1", id_, "[card number]" if left is None else left
        )

    return plant


async def purged_before_it_was_written(books: FinishedBooks) -> None:
    """Somebody who may purge once has an entry ready for what may be written later."""
    later = command("entry later")
    row = {"table": "journal", "key": str(later), "left_sha256": sha256(b'["[card number]", {}]').hexdigest()}
    await books.act("purge", "purge", uuid4(), rows=[row])
    await books.act("later", "release", uuid4())
    await journal(f"UPDATE journal SET salt = NULL, who = '[card number]' WHERE id = '{later}'")(books)


def head_line(head: str, *, time: str = "2026-11-22T12:00:00.5Z") -> str:
    """As the staff service logs it."""
    who = {"service": "staff", "logger": "services.staff.journal"}
    return orjson.dumps({"time": time, "level": "info", **who, "event": "journal_head", "head": head}).decode()


async def cut_off_behind_a_logged_head(books: FinishedBooks) -> None:
    """Entries that somebody put in for a reason of their own, and took out again."""
    await books.act("odd", "ask", payment("waiting"))
    head = await books.databases["staff"].fetchval(
        "SELECT position || ':' || encode(hash, 'hex') FROM journal ORDER BY position DESC LIMIT 1"
    )
    await logged(head_line(head))(books)
    await journal("DELETE FROM journal WHERE position = (SELECT max(position) FROM journal)")(books)


async def delivered_and_gone(books: FinishedBooks) -> None:
    books.record_delivery("payment_gateway.commands", uuid4(), b"{}")


async def command_delivered_and_gone(books: FinishedBooks) -> None:
    books.record_delivery("invoice.commands", uuid4(), b"gone")


async def dead_letter_without_record(books: FinishedBooks) -> None:
    books.record_delivery("dead-letters", uuid4(), b"gone")


async def settled_without_journal_entry(books: FinishedBooks) -> None:
    settled = {"status": "discarded", "settled_by": "Ada", "settled_at": books.now}
    await books.dead_letter("again", uuid4(), queue="saga.events", **settled)


async def replayed_and_gone(books: FinishedBooks) -> None:
    settled = {"status": "replayed", "settled_by": "Ada", "settled_at": books.now, "event_id": uuid4()}
    await books.dead_letter("again", uuid4(), queue="saga.events", **settled)
    await books.act("again", "replay", command("dead letter again"))


def dead_letter(**changes: object) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        await books.dead_letter("planted", uuid4(), **{"queue": "saga.events"} | changes)

    return plant


async def recorded_twice(books: FinishedBooks) -> None:
    message_id = uuid4()
    for name in ("one", "two"):
        await books.dead_letter(name, message_id, queue="saga.events")


async def lease_ran_out(books: FinishedBooks) -> None:
    statement = f"UPDATE payments SET leased_by = $2, due_at = now() - interval '9 s' {ROW}"
    await sql("payment_gateway", statement, payment("paid"), uuid4())(books)


async def unacknowledged(books: FinishedBooks) -> None:
    books.unacked = {"saga.events": 3}


async def stuck(books: FinishedBooks) -> None:
    books.stuck = {"saga.events": 0, "invoice.commands": 1}


async def ready_and_consumed(books: FinishedBooks) -> None:
    books.queues["staff.cases"] = QueueState(2, 1)
    books.unacked = dict.fromkeys(books.queues, 0)


async def connections_left(books: FinishedBooks) -> None:
    books.baselines = (Baseline(connections={"invoice": -99, "payment_gateway": 5, "saga": 5, "staff": 5}),)


def run_report(**changes: object) -> Plant:
    async def plant(books: FinishedBooks) -> None:
        books.run |= changes

    return plant


async def paid_twice_over(books: FinishedBooks) -> None:
    """A second payment of the same invoice, recorded like the first."""
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
    """A refunded payment counts as paid, and a paid one as refunded."""
    assert books.ledger.execute("DELETE FROM refunds WHERE payment_intent = 'pi_late'").rowcount == 1
    books.refund("ch_paid", "pi_paid")


async def aged(books: FinishedBooks, name: str, days: int) -> None:
    """All that is known of a payment was written so many days earlier."""
    earlier = f"- interval '{days} days'"
    events = f"UPDATE events SET recorded_at = recorded_at {earlier} WHERE stream_id = $1"
    await books.databases["invoice"].execute(events, f"INV-{name}")
    gateway = books.databases["payment_gateway"]
    await gateway.execute(f"UPDATE outcomes SET recorded_at = recorded_at {earlier} {ROW}", payment(name))
    await gateway.execute(f"UPDATE payments SET created_at = created_at {earlier} {ROW}", payment(name))


async def journal_deleted(books: FinishedBooks, name: str, *, until_version: int, days: int = 401) -> None:
    """The saga has had its state for so many days, and its journal up to that version is deleted."""
    saga, about = books.databases["saga"], payment(name)
    await saga.execute(f"DELETE FROM transitions {ROW} AND version <= $2", about, until_version)
    await saga.execute(f"UPDATE sagas SET journal_from = $2 {ROW}", about, until_version + 1)
    await saga.execute(f"UPDATE sagas SET updated_at = now() - interval '{days} days' {ROW}", about)
    await aged(books, name, days)


async def attempts_deleted(books: FinishedBooks, name: str, *, days: int = 401) -> None:
    """The payment has had its state for so many days, and its attempts are deleted."""
    gateway, about = books.databases["payment_gateway"], payment(name)
    await gateway.execute(f"DELETE FROM attempts {ROW}", about)
    await gateway.execute(
        f"UPDATE payments SET attempts_forgotten_at = now(), updated_at = now() - interval '{days} days' {ROW}", about
    )
    await aged(books, name, days)


async def journal_with_a_gap_after_the_deleted_part(books: FinishedBooks) -> None:
    await journal_deleted(books, "late", until_version=2)
    await sql("saga", f"DELETE FROM transitions {ROW} AND version = 3", payment("late"))(books)


async def paid_by_nobodys_word_beside_a_deleted_journal(books: FinishedBooks) -> None:
    await journal_deleted(books, "late", until_version=4)
    await sql("invoice", f"UPDATE events SET cause_id = $3 {EVENT}", "INV-paid", 3, uuid4())(books)


async def moved_by_nothing_after_its_journal_was_deleted(books: FinishedBooks) -> None:
    await journal_deleted(books, "late", until_version=2)
    await sql("saga", f"UPDATE transitions SET cause_id = $2 {ROW} AND version = 3", payment("late"), uuid4())(books)


PLANTED: dict[str, tuple[Plant, set[str]]] = {
    "captured twice": (captured_twice_and_one_given_back, {"captured_once", "settled_agrees"}),
    "partly refunded": (partly_given_back, {"captured_once", "books_balance", "settled_agrees"}),
    "disputed, and nobody saw it": (disputed_unseen, {"settled_agrees"}),
    "more refunded than captured": (
        more_given_back_than_captured,
        {"captured_once", "books_balance", "settled_agrees"},
    ),
    "one refund made twice": (one_refund_made_twice, {"captured_once", "books_balance", "settled_agrees"}),
    "a refund of another amount here than there": (
        sql("payment_gateway", f"UPDATE refunds SET amount_minor = 400 {ROW}", payment("parted")),
        {"captured_once", "paid_when_captured", "settled_agrees", "outcomes_agree"},
    ),
    "a refund made there and unknown here": (
        sql("payment_gateway", f"DELETE FROM refunds {ROW}", payment("parted")),
        {"captured_once", "paid_when_captured", "settled_agrees", "outcomes_agree"},
    ),
    "a refund made here and not there": (
        ledger("DELETE FROM refund_details WHERE refund = 're_ch_parted_500'"),
        {"captured_once"},
    ),
    "a refund requested by a person whom the journal does not know": (
        sql(
            "invoice",
            """UPDATE events SET data = data || '{"requested_by": "Eve"}' WHERE stream_id = $1 AND version = 4""",
            "INV-parted",
        ),
        {"caused_by_commands"},
    ),
    "charge without payment": (charge_without_payment, {"charges_accounted_for"}),
    "charge without our id": (charge_without_our_id, {"charges_accounted_for", "books_balance"}),
    "charge of an id that is not recorded": (charge_of_another_id, {"charges_accounted_for"}),
    "payment without next step": (payment_without_next_step, {"charges_accounted_for"}),
    "case gone": (sql("staff", f"DELETE FROM cases {ROW}", payment("waiting")), {"sagas_step_legally"}),
    "case gone, attempt overdue": (
        lambda books: _both(
            sql("staff", f"DELETE FROM cases {ROW}", payment("waiting"))(books),
            sql("payment_gateway", f"UPDATE payments SET due_at = $2 {ROW}", payment("waiting"), books.now)(books),
        ),
        {"charges_accounted_for", "sagas_step_legally"},
    ),
    "declined here, captured there": (declined_and_captured, {"captured_here_and_there"}),
    "two gateway ids confirmed": (two_ids_confirmed, {"confirmed_once"}),
    "key of two requests": (key_of_two_requests, {"confirmed_once"}),
    "key refused for other parameters": (
        ledger("UPDATE idempotency_keys SET mismatches = 1 WHERE seq = 1"),
        {"confirmed_once"},
    ),
    "requested here, closed there as never requested": (
        sql("payment_gateway", f"UPDATE payments SET reason = 'never_requested' {ROW}", payment("declined")),
        {"paid_when_captured", "outcomes_agree"},
    ),
    "answered and dead-lettered": (answered_and_dead_lettered, {"answered_once"}),
    "dead-lettered twice": (dead_lettered_twice, {"answered_once", "deliveries_accounted_for"}),
    "event of a rejected command": (
        sql("invoice", "UPDATE answers SET answer = 'rejected' WHERE command_id = $1", command("void void")),
        {"caused_by_commands"},
    ),
    "paid without a cause": (
        sql("invoice", f"UPDATE events SET cause_id = $3 {EVENT}", "INV-paid", 3, uuid4()),
        {"caused_by_commands", "events_delivered"},
    ),
    "saga step without a cause": (
        sql("saga", f"UPDATE transitions SET cause_id = $2 {ROW} AND version = 2", payment("paid"), uuid4()),
        {"caused_by_commands"},
    ),
    "outcome without a cause": (
        sql("payment_gateway", f"UPDATE outcomes SET body = '{{}}' {ROW}", payment("declined")),
        {"bodies_readable", "caused_by_commands", "events_delivered", "outcomes_agree"},
    ),
    "decision that staff never made": (
        sql("payment_gateway", f"UPDATE payments SET cause_id = $2 {ROW}", payment("decided"), uuid4()),
        {"caused_by_commands"},
    ),
    "stream with a gap": (
        sql("invoice", f"DELETE FROM events {EVENT}", "INV-void", 1),
        {"streams_fold_to_state", "caused_by_commands"},
    ),
    "stream without state": (
        sql("invoice", "DELETE FROM invoices WHERE invoice_id = 'INV-void'"),
        {"streams_fold_to_state"},
    ),
    "paid twice": (paid_twice_over, {"paid_when_captured", "caused_by_commands", "streams_fold_to_state"}),
    "paid while void": (
        sql("invoice", f"UPDATE events SET type = 'Voided.1' {EVENT}", "INV-late", 2),
        {"bodies_readable", "caused_by_commands", "streams_fold_to_state"},
    ),
    "requested another amount than issued": (
        sql("invoice", f"UPDATE events SET data = data || '{{\"amount_minor\": 99}}' {EVENT}", "INV-late", 1),
        {"captured_once", "streams_fold_to_state"},
    ),
    "two wrong sums that balance each other": (amounts_swapped, {"books_balance", "settled_agrees"}),
    "one message, two steps of a saga": (
        sql(
            "saga",
            f"UPDATE transitions SET cause_id = $2 {ROW} AND version = 2",
            payment("late"),
            uuid5(payment("late"), "3"),
        ),
        {"caused_by_commands"},
    ),
    "a quarantined message": (quarantined_message, {"events_delivered"}),
    "outbox not empty": (outbox_batch(*WAITING), {"events_delivered"}),
    "card number in an outbox batch": (outbox_batch(*WAITING, PAN.encode()), {"events_delivered", "no_secrets_leaked"}),
    "event unseen": (event_unseen, {"events_delivered", "deliveries_accounted_for"}),
    "request unseen": (request_unseen, {"events_delivered", "deliveries_accounted_for"}),
    "other bytes under one id": (other_bytes_delivered, {"events_delivered"}),
    "other bytes than were stored": (other_bytes_than_stored, {"events_delivered"}),
    "command of a saga unseen": (settlement_unseen, {"deliveries_accounted_for"}),
    "decision of a person unseen": (decision_unseen, {"deliveries_accounted_for"}),
    "decision that only the journal knows": (decision_only_journalled, {"decisions_journalled"}),
    "decision that the journal does not know": (decision_not_journalled, {"decisions_journalled"}),
    "journal entry of somebody else": (
        journal("UPDATE journal SET who = 'nobody' WHERE action = 'discard'"),
        {"journal_unbroken", "deliveries_accounted_for"},
    ),
    "journal entry of another time": (
        journal("UPDATE journal SET at = at + interval '1 second' WHERE action = 'discard'"),
        {"journal_unbroken"},
    ),
    "journal entry taken out": (
        journal("DELETE FROM journal WHERE action = 'discard'"),
        {"journal_unbroken", "deliveries_accounted_for"},
    ),
    "journal forged from its beginning": (
        forged("UPDATE journal SET who = 'nobody' WHERE position = 1"),
        {"journal_unbroken", "decisions_journalled"},
    ),
    "journal forged, and the heads with it: another person": (
        forged("UPDATE journal SET who = 'Eve' WHERE action = 'resolve'", with_heads=True),
        {"decisions_journalled"},
    ),
    "journal forged, and the heads with it: other evidence": (
        forged(
            """UPDATE journal SET details = details || '{"evidence": "seen"}' WHERE action = 'resolve'""",
            with_heads=True,
        ),
        {"decisions_journalled"},
    ),
    "journal forged, and the heads with it: another version": (
        forged(
            """UPDATE journal SET details = details || '{"expected_version": 3}' WHERE action = 'resolve'""",
            with_heads=True,
        ),
        {"decisions_journalled"},
    ),
    "journal shorter than a log knows": (
        cut_off_behind_a_logged_head,
        {"journal_unbroken"},
    ),
    "journal purged without an entry": (purged(told=False), {"journal_unbroken"}),
    "journal changed after a purge": (purged(left="Eve"), {"journal_unbroken"}),
    "journal purged, and told only before": (purged_before_it_was_written, {"journal_unbroken"}),
    "a run sent what nobody journalled": (of_run("discarded", 1, None), {"runs_sent_once"}),
    "a run sent what another entry sent": (of_run("discarded", 2, "replayed"), {"runs_sent_once"}),
    "a run sent one message twice": (of_run("replayed", 6, "replayed"), {"runs_sent_once"}),
    "a run left out what was replayed": (of_run("discarded", 7, "discarded"), {"runs_sent_once"}),
    "delivered and gone": (delivered_and_gone, {"deliveries_accounted_for"}),
    "command delivered and gone": (command_delivered_and_gone, {"deliveries_accounted_for"}),
    "dead letter without record": (dead_letter_without_record, {"deliveries_accounted_for"}),
    "settled without a journal entry": (settled_without_journal_entry, {"deliveries_accounted_for"}),
    "replayed and gone": (replayed_and_gone, {"deliveries_accounted_for"}),
    "dead letter with two records": (recorded_twice, {"dead_letters_explained"}),
    "healthy dead letter": (
        dead_letter(body=HEALTHY, reason="handler_failed", error_type="TimeoutError"),
        {"dead_letters_explained"},
    ),
    "healthy dead letter of the broker": (
        dead_letter(body=HEALTHY, reason="broker_delivery_limit", origin="broker"),
        {"dead_letters_explained"},
    ),
    "lease that ran out": (lease_ran_out, {"resources_given_back"}),
    "delivery not acknowledged": (unacknowledged, {"resources_given_back"}),
    "message stuck in a queue": (stuck, {"queues_drain"}),
    "messages ready, and consumers get none": (ready_and_consumed, {"queues_drain", "events_delivered"}),
    "connections left": (connections_left, {"resources_given_back"}),
    "card number in a text": (
        sql("invoice", "UPDATE answers SET detail = $2 WHERE command_id = $1", command("pay void"), f"card {PAN}"),
        {"no_secrets_leaked"},
    ),
    "card number in base64 in a body": (
        dead_letter(body=b"not json " + base64.b64encode(PAN.encode())),
        {"no_secrets_leaked"},
    ),
    "card number URL-encoded in jsonb": (
        sql(
            "staff",
            "UPDATE cases SET details = details || $1",
            {"evidence": "n%3D" + "".join(f"%{ord(c):x}" for c in PAN)},
        ),
        {"no_secrets_leaked"},
    ),
    "card number in a column of a new table": (
        sql("saga", f"CREATE TABLE notes AS SELECT {PAN.replace(' ', '')} AS number"),
        {"no_secrets_leaked"},
    ),
    "hash of a refused card left behind": (
        sql(
            "invoice",
            "UPDATE answers SET reason = 'clear_card_number', content_hash = sha256('x') WHERE command_id = $1",
            command("pay void"),
        ),
        {"no_secrets_leaked"},
    ),
    "headers of a refused card left behind": (
        sql(
            "staff",
            "UPDATE dead_letters SET withheld = 'card_data', body = NULL, headers = '{\"a\": 1}' WHERE body IS NOT NULL",
        ),
        {"no_secrets_leaked"},
    ),
    "security code in evidence": (
        sql("payment_gateway", "UPDATE attempts SET evidence = 'cvc: 123' WHERE payment_id = $1", payment("paid")),
        {"no_secrets_leaked"},
    ),
    "key in evidence": (
        sql(
            "payment_gateway",
            "UPDATE attempts SET evidence = 'key sk_live_51abcdefgh' WHERE payment_id = $1",
            payment("paid"),
        ),
        {"no_secrets_leaked"},
    ),
    "card number at the gateway": (
        ledger("UPDATE idempotency_keys SET body = ? WHERE seq = 1", PAN),
        {"no_secrets_leaked"},
    ),
    "card number in a log": (logged(f'{{"event": "odd", "number": "{PAN}"}}'), {"no_secrets_leaked"}),
    "private key in a log, in base64": (
        logged(base64.b64encode(b"-----BEGIN EC PRIVATE KEY-----").decode()),
        {"no_secrets_leaked"},
    ),
    "card number in a queue": (waiting_in_queue(PAN.encode()), {"events_delivered", "no_secrets_leaked"}),
    "card number in a property": (waiting_in_queue(b"{}", f"x-card: {PAN}"), {"events_delivered", "no_secrets_leaked"}),
    "fault that never fired": (
        run_report(planned=[{"name": "exit", "fired": 1}, {"name": "stop", "fired": 0}]),
        {"planned_faults_fired"},
    ),
    "nothing planned": (run_report(planned=[]), {"planned_faults_fired"}),
    "no conflict seen": (
        run_report(seen={"duplicates": 1, "redeliveries": 1, "in_doubt": 1}),
        {"planned_faults_fired"},
    ),
    "planted fault not noticed": (
        run_report(planted=[{"name": "inbox off", "expected": "events_delivered", "red": ["sagas_step_legally"]}]),
        {"planted_faults_found"},
    ),
    "step out of a terminal state": (
        step_out_of_terminal_state,
        {"caused_by_commands", "sagas_step_legally", "outcomes_agree"},
    ),
    "journal deleted without a record": (
        sql("saga", f"DELETE FROM transitions {ROW}", payment("paid")),
        {"caused_by_commands", "sagas_step_legally"},
    ),
    "journal deleted too early": (
        lambda books: journal_deleted(books, "paid", until_version=2, days=399),
        {"sagas_step_legally"},
    ),
    "journal deleted of a saga that has not ended": (
        lambda books: journal_deleted(books, "waiting", until_version=2),
        {"sagas_step_legally"},
    ),
    "journal deleted up to a state that had not ended": (
        lambda books: journal_deleted(books, "paid", until_version=1),
        {"sagas_step_legally"},
    ),
    "journal with a gap after the deleted part": (journal_with_a_gap_after_the_deleted_part, {"sagas_step_legally"}),
    "paid without a cause beside a deleted journal": (
        paid_by_nobodys_word_beside_a_deleted_journal,
        {"caused_by_commands", "events_delivered"},
    ),
    "step without a cause after a deleted journal": (
        moved_by_nothing_after_its_journal_was_deleted,
        {"caused_by_commands", "deliveries_accounted_for"},
    ),
    "attempts deleted too early": (lambda books: attempts_deleted(books, "paid", days=399), {"confirmed_once"}),
    "attempts deleted of an open case": (lambda books: attempts_deleted(books, "waiting"), {"confirmed_once"}),
    "an answer under nobody's id": (
        sql(
            "invoice",
            "UPDATE answers SET sender = 'billing', sent_id = $1 WHERE invoice_id = 'INV-paid' AND command_type LIKE '%PayInvoice%'",
            uuid4(),
        ),
        {"senders_kept_apart"},
    ),
    "a command answered twice": (answered_twice, {"senders_kept_apart", "caused_by_commands"}),
    "an invoice paid by another sender": (paid_by_another, {"senders_kept_apart", "caused_by_commands"}),
    "recorded another amount": (
        sql("invoice", f"UPDATE events SET data = data || '{{\"amount_minor\": 1}}' {EVENT}", "INV-paid", 3),
        {"books_balance"},
    ),
    "deadline overdue": (deadline_overdue, {"sagas_step_legally"}),
}


async def _both(first: Awaitable[object], second: Awaitable[object]) -> None:
    await first
    await second


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_fault_breaks_exactly_its_checks(books: FinishedBooks, name: str) -> None:
    plant, checks = PLANTED[name]
    await plant(books)
    findings = await all_findings(books)
    assert broken(findings) == checks, explained(findings)
    assert not AuditReport(tuple(findings), complete=False).ok


async def test_every_check_is_broken_by_a_fault_of_its_own() -> None:
    breaks = [*(checks for _, checks in PLANTED.values()), *(one.red for one in FALSIFICATIONS)]
    alone = {next(iter(checks)) for checks in breaks if len(checks) == 1}
    assert alone == {check.name for check in CHECKS} - {"repeating_changes_nothing"}


@pytest.mark.parametrize(
    ("shown", "broken_checks"), [({"disputed": True}, set()), ({"disputed": False}, {"settled_agrees"})]
)
async def test_a_person_who_decided_on_what_the_gateway_says_knows_of_it(
    books: FinishedBooks, shown: dict[str, object], broken_checks: set[str]
) -> None:
    """The decision was made on a disputed capture; if the case did not show the dispute, nobody knows of it yet."""
    side = {"answer": "captured", "captured_minor": 1250, "refunded_minor": 0, "currency": "EUR", **shown}
    books.dispute("ch_decided", "pi_decided")
    await books.outcome("decided", 3, "PaymentCaptured", uuid5(command("pay decided"), "0"))
    await books.databases["payment_gateway"].execute(
        "UPDATE payments SET settled_as = 'captured', gateway_side = $2, due_at = NULL WHERE payment_id = $1",
        payment("decided"),
        side,
    )
    findings = await all_findings(books)
    assert broken(findings) == broken_checks, explained(findings)


@pytest.mark.parametrize(("status", "broken_checks"), [("won", set()), ("lost", {"books_balance", "settled_agrees"})])
async def test_a_dispute_counts_as_the_bank_has_judged_it(
    books: FinishedBooks, status: str, broken_checks: set[str]
) -> None:
    books.dispute("ch_paid", "pi_paid")
    books.write("UPDATE disputes SET status = ? WHERE payment_intent = 'pi_paid'", status)
    findings = await all_findings(books)
    assert broken(findings) == broken_checks, explained(findings)


async def test_what_others_gave_back_and_was_told_has_none_of_our_ids_there(books: FinishedBooks) -> None:
    await ledger("DELETE FROM refund_details WHERE refund = 're_ch_parted_500'")(books)
    told = f"UPDATE refunds SET reason = 'the money was given back at the gateway' {ROW}"
    await sql("payment_gateway", told, payment("parted"))(books)
    findings = await all_findings(books)
    assert not broken(findings), explained(findings)


async def test_what_is_looked_at_again_is_under_way(books: FinishedBooks) -> None:
    await disputed_unseen(books)
    soon = "UPDATE payments SET due_at = now() + interval '1 hour' WHERE payment_id = $1"
    await books.databases["payment_gateway"].execute(soon, payment("paid"))
    finding = await found("settled_agrees", books.stores())
    assert (finding.result, finding.in_flight) == (CheckResult.HOLDS, 1)


async def test_a_purge_that_the_journal_tells_of_breaks_no_chain(books: FinishedBooks) -> None:
    await purged()(books)
    findings = await all_findings(books)
    assert not broken(findings), explained(findings)


async def test_a_log_that_is_younger_than_the_snapshot_may_know_more(books: FinishedBooks) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await logged(head_line(f"99:{'0' * 64}", time=later))(books)
    assert (await found("journal_unbroken", books.stores())).result is CheckResult.HOLDS


async def test_a_message_left_in_a_queue_is_not_delivered(environment_urls: Environment, written: Path) -> None:
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.send_raw(b"{}")
        report = await audit(sources(environment_urls.databases, environment_urls.rabbitmq_url, written), NOW)
        await upstream.purge()
    assert broken(report.findings) == {"events_delivered"}, explained(report.findings)


async def test_books_with_deleted_journals_and_attempts_hold(books: FinishedBooks) -> None:
    """Three payments: one has ended, one moved after its journal was deleted, and one was settled by a person."""
    for name, version in (("paid", 2), ("late", 2), ("declined", 2), ("decided", 3)):
        await journal_deleted(books, name, until_version=version)
        await attempts_deleted(books, name)
    findings = await all_findings(books)
    assert broken(findings) == set(), explained(findings)


async def test_a_change_by_recovery_is_found(books: FinishedBooks) -> None:
    books.baselines = (Baseline.model_validate(await take_baseline(books.stores(), digest=True)),)
    await books.databases["saga"].execute("UPDATE sagas SET repeats = 9, updated_at = now()")  # what time alone moves
    assert (await found("repeating_changes_nothing", books.stores())).result is CheckResult.HOLDS
    await books.event("INV-paid", 4, "SettlementRejected", uuid4(), payment_id=str(payment("paid")), reason="again")
    books.charge("ch_again", "pi_paid")
    finding = await found("repeating_changes_nothing", books.stores())
    assert {breach.about for breach in finding.breaches} == {"invoice.events", "ledger.charges"}


async def test_a_saga_that_has_ended_may_say_again_what_it_knows(books: FinishedBooks) -> None:
    """A reminder of the invoice came twice, because the inbox forgot it, and was answered twice."""
    books.baselines = (Baseline.model_validate(await take_baseline(books.stores(), digest=True)),)
    request = await books.databases["invoice"].fetchrow(
        "SELECT cause_id, cause_position FROM events WHERE stream_id = 'INV-paid' AND version = 2"
    )
    assert request is not None
    await books.databases["saga"].executemany(
        """INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id)
           VALUES ($1, $2, 'completed', 'completed', 'PaymentRequested', $3, 'c')""",
        [
            (payment("paid"), version, uuid5(request["cause_id"], f"overdue:{request['cause_position']}:1"))
            for version in (3, 4)
        ],
    )
    await books.databases["saga"].execute("UPDATE sagas SET version = 4 WHERE payment_id = $1", payment("paid"))
    findings = await all_findings(books)
    assert broken(findings) == {"deliveries_accounted_for"}, explained(findings)  # nobody delivered what it says


async def test_the_clock_of_an_instance_may_be_wrong(books: FinishedBooks) -> None:
    await books.databases["payment_gateway"].execute("UPDATE attempts SET at = at + interval '1 hour'")
    assert (await found("confirmed_once", books.stores())).result is CheckResult.HOLDS


async def test_messages_of_a_lost_queue_are_not_missed(books: FinishedBooks) -> None:
    await event_unseen(books)
    books.lost = frozenset({"saga.events"})
    finding = await found("events_delivered", books.stores())
    assert (finding.result, finding.in_flight) == (CheckResult.HOLDS, 1)


async def test_a_queue_excuses_only_as_many_messages_as_it_has(books: FinishedBooks) -> None:
    """In a live system one command may still wait in the queue; two missing ones cannot be the same message."""
    for name in ("gone", "gone as well"):
        books.record(name)
    books.queues["invoice.commands"] = QueueState(1, 0)
    finding = await found("answered_once", books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert (finding.broken, finding.in_flight) == (1, 1)


async def test_a_dead_letter_that_could_not_be_delivered_is_found_in_a_live_system_too(books: FinishedBooks) -> None:
    books.queues[UNREADABLE_DEAD_LETTERS] = QueueState(1, 0)
    finding = await found("events_delivered", books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert [breach.about for breach in finding.breaches] == [UNREADABLE_DEAD_LETTERS]


async def test_a_young_event_is_under_way(books: FinishedBooks) -> None:
    await event_unseen(books)
    await sql("invoice", f"UPDATE events SET recorded_at = now() {EVENT}", "INV-paid", 3)(books)
    live = await found("events_delivered", books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert (live.result, live.in_flight) == (CheckResult.HOLDS, 1)
    assert (await found("events_delivered", books.stores())).broken == 1


async def test_an_open_transaction_is_found(
    environment_urls: Environment, books: FinishedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "OPEN_S", 0.0)
    left_open = await asyncpg.connect(environment_urls.databases["saga"], timeout=10)
    try:
        await left_open.execute("BEGIN; SELECT 1")
        finding = await found("resources_given_back", books.stores())
        assert (finding.broken, finding.breaches[0].why.partition(" since ")[0]) == (1, "a transaction is open")
    finally:
        await left_open.close()


async def test_with_consumers_unacknowledged_deliveries_are_not_checked(books: FinishedBooks) -> None:
    books.queues["saga.events"] = QueueState(0, 2)
    finding = await found("resources_given_back", books.stores())
    assert (finding.result, finding.unseen) == (CheckResult.NOT_CHECKED, frozenset({Source.UNACKED}))
    assert finding.is_complete([Source.UNACKED])
    books.unacked = {"saga.events": 0}
    assert (await found("resources_given_back", books.stores())).result is CheckResult.HOLDS


async def test_a_missing_queue_is_not_called_empty(books: FinishedBooks) -> None:
    books.queues["saga.events"] = None
    finding = await found("events_delivered", books.stores())
    assert finding.missing == ("the queue saga.events does not exist: see `remit topology check`",)


async def test_messages_in_a_queue_are_read_and_stay_unchanged(environment_urls: Environment) -> None:
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


async def test_a_breach_that_a_moment_heals_is_not_broken(
    environment_urls: Environment, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reminder that is in the outbox at the first look has left it at the second."""
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


async def test_young_work_is_under_way_in_a_live_system(books: FinishedBooks) -> None:
    """The invoice has not recorded a capture yet: that is excused for a while, but not if the system is drained."""
    await books.databases["invoice"].execute("DELETE FROM events WHERE stream_id = 'INV-paid' AND version = 3")
    await books.databases["payment_gateway"].execute("UPDATE payments SET updated_at = now()")
    live = await found("paid_when_captured", books.stores(settled_before=NOW - timedelta(minutes=10)))
    assert (live.result, live.in_flight) == (CheckResult.HOLDS, 1)
    drained = await found("paid_when_captured", books.stores())
    assert (drained.result, drained.in_flight, drained.broken) == (CheckResult.BROKEN, 0, 1)
    assert drained.breaches == (Breach(str(payment("paid")), "captured, and INV-paid is not paid by it"),)


async def test_public_copies_that_wait_for_others_are_under_way_in_a_live_system(books: FinishedBooks) -> None:
    """The build before kept them on the outside lane."""
    for _ in range(2):
        await outbox_batch(b"{}")(books)
    await sql("saga", "UPDATE outbox SET exchanges = '{invoice.events}', lane = 'outside'")(books)
    await sql("saga", "UPDATE outbox SET lane = 'public' WHERE id = (SELECT max(id::text) FROM outbox)::uuid")(books)
    live = await found("events_delivered", books.stores(settled_before=NOW))
    assert (live.broken, live.in_flight) == (0, 2)
    assert (await found("events_delivered", books.stores())).broken == 2


async def test_a_store_that_was_not_given_is_not_checked(environment_urls: Environment, written: Path) -> None:
    report = await audit(Sources({"invoice": environment_urls.databases["invoice"]}, drained=True), NOW, complete=True)
    results = {finding.check: finding.result for finding in report.findings}
    assert {check for check, result in results.items() if result is CheckResult.HOLDS} == OF_ONE_STORE
    assert set(results.values()) == {CheckResult.HOLDS, CheckResult.NOT_CHECKED}
    assert not report.ok
    assert all(finding.missing for finding in report.findings if finding.check not in OF_ONE_STORE)


async def test_breaches_are_counted_and_only_the_first_are_shown(books: FinishedBooks) -> None:
    for number in range(30):
        await books.state(f"INV-{number}", "open", 1)
    finding = await found("streams_fold_to_state", books.stores())
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
        (lambda folder: Sources({}, ledger=folder / HISTORY), "holds no books of a gateway"),
        (lambda folder: Sources({}, history=folder / "nowhere"), "there is no history file"),
        (lambda _: Sources({"saga": "postgresql://127.0.0.1:1/x"}), "SAGA_DATABASE_URL: the database does not answer"),
        (lambda _: Sources({}, "amqp://127.0.0.1:1/"), "RABBITMQ_URL: the broker does not answer"),
    ],
)
async def test_an_unreadable_store_is_named(written: Path, wrong: Callable[[Path], Sources], sentence: str) -> None:
    with pytest.raises(AuditError, match=sentence) as told:
        await audit(wrong(written), NOW)
    assert isinstance(told.value, StoreAwayError) is ("does not answer" in sentence)


async def test_an_unreadable_history_is_named_with_its_line(environment_urls: Environment, tmp_path: Path) -> None:
    (tmp_path / HISTORY).write_text('{"command_id": "x", "confirmed": true}\nnot json\n')
    with pytest.raises(AuditError, match=r"history\.jsonl, line 2, is not of the form"):
        await audit(Sources(environment_urls.databases, history=tmp_path / HISTORY), NOW)


async def test_messages_that_are_stuck_are_not_checked_without_the_brokers_counts(books: FinishedBooks) -> None:
    books.stuck = None
    finding = await found("queues_drain", books.stores())
    assert (finding.result, finding.unseen) == (CheckResult.NOT_CHECKED, frozenset({Source.UNACKED}))
