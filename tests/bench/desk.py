"""`make desk-load`: fills the staff database with years of work, and asks every page of the desk how long it takes.

1 000 000 entries of the log, each chained to the one before, as many messages that staff heard, with their invoices, payments and commands,
100 000 failed messages, 20 000 cases and 20 runs by default. The rows are made by the database itself. Pages are asked one after the other,
without a browser and without a network: what is measured is the work of the desk and of PostgreSQL. Then twenty browsers look at numbers
that change each second.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import md5
from http import HTTPStatus
from statistics import median, quantiles
from typing import Final
from uuid import UUID

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import KIND_VARIABLE, Stack, open_stack
from deploy.local.system import prepare
from services.staff import people_store
from services.staff.actions.second_thoughts import EDIT_AND_REPLAY
from services.staff.desk.app import rooms_of_pages
from services.staff.people import Role
from shared.observability.logs import configure_logs
from tests.bench.desk_live import BROWSERS, share_of_a_core
from tests.bench.desk_live import GOAL_PERCENT as LIVE_GOAL_PERCENT
from tests.support.desk_browser import NOW, DeskBrowser, DeskUnderTest, open_desk
from tests.support.kept_letters import keep, payment

GOAL_MS: Final = 200.0
OVERVIEW_GOAL_MS: Final = 100.0
WARM_UP: Final = 3
FILL_TIMEOUT_S: Final = 3_600.0
DAYS: Final = 400
"""Days over which everything is spread, back from the desk's present."""
FILLED: Final = (
    "journal",
    "dead_letters",
    "cases",
    "messages",
    "invoices",
    "payments",
    "commands",
    "replay_runs",
    "replay_items",
)
FILES: Final = frozenset({"/activity/download", "/cases/download"})
"""Addresses that answer with as much as there is."""

JOURNAL: Final = """
CREATE FUNCTION pg_temp.entries(many int, last_at timestamptz) RETURNS SETOF journal LANGUAGE plpgsql AS $$
DECLARE
    one journal;
    before bytea := '';
BEGIN
    FOR number IN 1..many LOOP
        one.position := number;
        one.id := gen_random_uuid();
        one.at := last_at - make_interval(days => {days}) * ((many - number)::float8 / many);
        one.who := 'person.' || (number % 20);
        one.action := (ARRAY['replay', 'replay', 'replay', 'replay', 'discard', 'ask', 'resolve', 'sign_in', 'refused', 'note'])
            [1 + number % 10];
        one.subject := md5('subject' || number % (many / 5 + 1))::uuid;
        one.details := jsonb_build_object('via', 'desk', 'reason', 'ticket ' || number, 'version', number % 7,
            'evidence', 'looked at the dashboard of the gateway, and found what is said here: ' || repeat('x', 80));
        one.salt := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
        one.digest := sha256(one.salt || convert_to(jsonb_build_array(one.who, one.details)::text, 'UTF8'));
        before := sha256(before || convert_to(concat_ws('|', one.position, one.id,
            (extract(epoch FROM one.at) * 1000000)::bigint, one.action, one.subject, encode(one.digest, 'hex')), 'UTF8'));
        one.hash := before;
        RETURN NEXT one;
    END LOOP;
END $$"""
LETTERS: Final = """
INSERT INTO dead_letters (id, queue, origin, reason, error_type, error_text, tries, generation, failed_at, exchange, routing_key,
    message_id, event_id, type, content_type, correlation_id, headers, body, body_bytes, replays, seen, status, first_seen, last_seen,
    settled_by, settled_at, invoice_id, payment_id, amount_minor, currency, may_charge, asked_at)
SELECT id, queue, 'remit', 'handler_failed', 'KeyError', 'KeyError: receipt number ' || n % 50, 5, 0, at, 'invoice.events', queue, id::text,
    id, 'remit.invoice.InvoicePaid.v1', 'application/cloudevents+json', 'correlation-' || n, '{{}}', body, length(body), 0, 1,
    CASE WHEN n % 15 = 0 THEN 'open' ELSE 'replayed' END, at, at, CASE WHEN n % 15 > 0 THEN 'person.1' END,
    CASE WHEN n % 15 > 0 THEN at END,
    'INV-' || n, md5('payment' || n)::uuid, 100 + n, 'EUR', queue = 'invoice.commands', at
FROM (SELECT n, md5('letter' || n)::uuid AS id, (ARRAY['saga.events', 'invoice.commands', 'invoice.settlement'])[1 + n / 15 % 3] AS queue,
    $2::timestamptz - make_interval(days => {days}) * (n::float8 / $1::int) AS at,
    convert_to('{{"specversion": "1.0", "data": "' || repeat('x', 640) || '"}}', 'UTF8') AS body
    FROM generate_series(1, $1::int) AS n) AS made"""
CASES: Final = """
INSERT INTO cases (payment_id, invoice_id, correlation_id, status, version, reason, amount_minor, currency, gateway_id, attempts_version,
    details, opened_at, updated_at)
SELECT md5('subject' || n)::uuid, 'INV-' || n, 'correlation-' || n,
    CASE WHEN n % 40 = 0 THEN 'needs_decision' WHEN n % 41 = 0 THEN 'in_doubt' ELSE 'captured' END, 4, 'no_readable_answer',
    100 + n, (ARRAY['EUR', 'USD', 'GBP'])[1 + n % 3], 'pi_' || n, 4,
    jsonb_build_object('attempts', (SELECT jsonb_agg(jsonb_build_object('at', $2::timestamptz, 'step', 'inquire', 'answer', 'unknown',
        'evidence', 'timeout after 10 s')) FROM generate_series(1, 8)), 'refusals', '[]'::jsonb, 'decision', NULL, 'inquiry', 0),
    $2::timestamptz - make_interval(days => {days}) * (n::float8 / $1::int), $2::timestamptz
FROM generate_series(1, $1::int) AS n"""

MESSAGES_AN_INVOICE: Final = 5
MESSAGES_OVER_DAYS: Final = 89
WEEKS: Final = """
DO $$
DECLARE
    monday date;
BEGIN
    FOR number IN 0..13 LOOP
        monday := date_trunc('week', timestamptz '{now}' AT TIME ZONE 'UTC')::date - 7 * number;
        IF to_regclass('weeks.messages_' || to_char(monday, 'IYYY"w"IW')) IS NULL THEN
            EXECUTE format('CREATE TABLE weeks.%I PARTITION OF messages FOR VALUES FROM (%L) TO (%L)',
                'messages_' || to_char(monday, 'IYYY"w"IW'), monday || ' 00:00+00', monday + 7 || ' 00:00+00');
        END IF;
    END LOOP;
END $$"""
MESSAGES: Final = """
INSERT INTO messages (id, at, type, invoice_id, payment_id, cause, facts)
SELECT md5('message' || n)::uuid, $2::timestamptz - make_interval(secs => {days} * 86400.0 * (1 - n::float8 / $1::int)),
    (ARRAY[1, 17, 13, 3, 31])[1 + n % {each}], 'INV-' || n / {each}, md5('payment' || n / {each})::uuid, md5('message' || n - 1)::uuid,
    jsonb_build_object('amount_minor', 100 + n / {each}, 'currency', 'EUR', 'version', n % {each}, 'receipt_number', 'ch_' || n / {each})
FROM generate_series(1, $1::int) AS n"""
INVOICES: Final = """
INSERT INTO invoices (invoice_id, customer_id, amount_minor, currency, status, issued_at, changed_at)
SELECT 'INV-' || n, 'C-' || n % 5000, 100 + n, 'EUR', 'paid', at, at
FROM (SELECT n, $2::timestamptz - make_interval(secs => {days} * 86400.0 * (1 - n::float8 / $1::int)) AS at
    FROM generate_series(1, $1::int) AS n) AS made"""
PAYMENTS: Final = """
INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, receipt_number, reference_code, gateway_id,
    correlation_id, requested_at, settled_at)
SELECT md5('payment' || n)::uuid, 'INV-' || n, 100 + n, 'EUR', 'captured', 3, 'ch_' || n, 'PF-' || n, 'pi_' || n, 'correlation-' || n,
    at, at
FROM (SELECT n, $2::timestamptz - make_interval(secs => {days} * 86400.0 * (1 - n::float8 / $1::int)) AS at
    FROM generate_series(1, $1::int) AS n) AS made"""
COMMANDS: Final = """
INSERT INTO commands (command_id, type, invoice_id, answer, reason, at)
SELECT md5('command' || n)::uuid, 'remit.invoice.IssueInvoice.v1', 'INV-' || n, 'accepted', NULL,
    $2::timestamptz - make_interval(secs => {days} * 86400.0 * (1 - n::float8 / $1::int))
FROM generate_series(1, $1::int) AS n"""
RUNS: Final = """
INSERT INTO replay_runs (no, id, state, step, title, filter, bins, made_by, made_at, started_by, started_via, started_at, reason, rate,
    total, ended_at)
SELECT n, md5('run' || n)::uuid, 'done', 'rest', 'A group', '{{}}', '[]', 'person.1', at, 'person.1', 'desk', at, 'ticket', 500, $1::int, at
FROM (SELECT n, $2::timestamptz - make_interval(days => n) AS at FROM generate_series(1, {runs}) AS n) AS made"""
ITEMS: Final = """
INSERT INTO replay_items (run_no, position, letter_id, state, may_charge, currency, amount_minor, first_seen, grp, sent_at, ended_at)
SELECT no, n, md5('letter' || n)::uuid, 2, n % 3 = 1, 'EUR', 100 + n, $2::timestamptz, NULL, $2::timestamptz, $2::timestamptz
FROM generate_series(1, {runs}) AS no, generate_series(1, $1::int) AS n"""
QUIET: Final = "/ when all is quiet"
SETTLED: Final = (
    "UPDATE cases SET status = 'captured' WHERE status IN ('needs_decision', 'in_doubt')",
    "UPDATE dead_letters SET status = 'replayed', settled_by = 'person.1', settled_at = last_seen WHERE status = 'open'",
    "VACUUM ANALYZE cases, dead_letters, dead_letter_groups",
)
RUNS_MADE: Final = 20
RUN_SHARE: Final = 20
"""A run has that part of the failed messages."""


@dataclass(frozen=True, slots=True)
class PageTime:
    """How long a page took, in milliseconds, and the status of its answers."""

    address: str
    status: int
    median_ms: float
    p95_ms: float
    kib: float

    @property
    def goal_ms(self) -> float:
        return OVERVIEW_GOAL_MS if self.address in ("/", QUIET) else GOAL_MS


def main() -> int:
    """Fill, ask, and print the times. Exit code 1 if a page or live numbers take more than they should."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.desk", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the log")
    parser.add_argument("--letters", type=int, default=100_000, help="failed messages")
    parser.add_argument("--messages", type=int, default=1_000_000, help="messages that staff heard")
    parser.add_argument("--cases", type=int, default=20_000, help="cases")
    parser.add_argument("--times", type=int, default=30, help="how often each page is asked")
    asked = parser.parse_args()
    configure_logs("bench", level="WARNING", format="console")
    os.environ.setdefault(KIND_VARIABLE, "private")
    console = Console()
    try:
        with open_stack(say=console.print) as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(stack, console, asked))
    except StackError as error:
        console.print(f"[red]{error}[/]")
        return 2


async def _run(stack: Stack, console: Console, asked: argparse.Namespace) -> int:
    await prepare(stack)
    url = stack.administrator_database_url("staff")
    started = time.perf_counter()
    await _fill(url, asked)
    console.print(
        f"{asked.entries:,} entries, {asked.messages:,} messages, {asked.letters:,} failed messages, {asked.cases:,} cases, "
        f"filled in {time.perf_counter() - started:.0f} s"
    )
    live = await share_of_a_core(stack)
    async with open_desk(url) as desk:
        browser = await desk.browser("ann", *Role)
        wanted = addresses(await _samples(url, desk, asked.entries), await _check_page(browser))
        times = [await _ask(browser, address, asked.times) for address in wanted]
        await _settle_all(url)
        times.append(replace(await _ask(browser, "/", asked.times), address=QUIET))
    fast = _show(console, times)
    is_idle = live.percent < LIVE_GOAL_PERCENT
    console.print(
        f"{BROWSERS} browsers with live numbers ({live.parts} changes sent): {live.percent:.1f} % of a core, "
        f"goal {LIVE_GOAL_PERCENT:.0f} %."
    )
    return 0 if fast and is_idle else 1


async def _fill(url: str, asked: argparse.Namespace) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    invoices, run = asked.messages // MESSAGES_AN_INVOICE, asked.letters // RUN_SHARE
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(f"TRUNCATE {', '.join(FILLED)}, dead_letter_groups")
        await connection.execute("ALTER TABLE journal DISABLE TRIGGER USER")
        await connection.execute(JOURNAL.format(days=DAYS))
        columns = "id, at, who, action, subject, details, position, salt, digest, hash"
        statement = f"INSERT INTO journal ({columns}) SELECT {columns} FROM pg_temp.entries($1, $2)"
        await connection.execute(statement, asked.entries, NOW, timeout=FILL_TIMEOUT_S)
        await connection.execute("ALTER TABLE journal ENABLE TRIGGER USER")
        await connection.execute(WEEKS.format(now=NOW.isoformat()))
        heard = {"days": MESSAGES_OVER_DAYS, "each": MESSAGES_AN_INVOICE}
        for statement, many in (
            (LETTERS.format(days=DAYS), asked.letters),
            (CASES.format(days=DAYS), asked.cases),
            (MESSAGES.format(**heard), asked.messages),
            (INVOICES.format(**heard), invoices),
            (PAYMENTS.format(**heard), invoices),
            (COMMANDS.format(**heard), 2 * invoices),
            (RUNS.format(runs=RUNS_MADE), run),
            (ITEMS.format(runs=RUNS_MADE), run),
        ):
            await connection.execute(statement, many, NOW, timeout=FILL_TIMEOUT_S)
        for table in FILLED:
            await connection.execute(f"VACUUM ANALYZE {table}", timeout=FILL_TIMEOUT_S)
        await connection.execute("CHECKPOINT", timeout=FILL_TIMEOUT_S)
    finally:
        await connection.close()


async def _settle_all(url: str) -> None:
    """Nothing waits any more: the overview asks for other things then."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for statement in SETTLED:
            await connection.execute(statement, timeout=FILL_TIMEOUT_S)
    finally:
        await connection.close()


async def _group(url: str) -> str:
    """The group with the most failed messages."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return str(await connection.fetchval("SELECT grp FROM dead_letter_groups ORDER BY open DESC LIMIT 1"))
    finally:
        await connection.close()


async def _samples(url: str, desk: DeskUnderTest, entries: int) -> dict[str, str]:
    """Something to see for each parameter of an address. One failed message can be edited."""
    async with desk.desk.database.transaction() as tx:
        await people_store.save_setting(tx, EDIT_AND_REPLAY, value=True, who="ann", now=NOW)
    (letter,) = await keep(desk.desk.database, payment("INV-40", 4_000, desk.clock), clock=desk.clock)
    return {
        "position": str(max(entries // 2, 1)),
        "invoice_id": "INV-40",
        "no": "1",
        "group": await _group(url),
        "payment_id": _CASE,
        "command_id": _md5_uuid("command40"),
        "letter_id": str(letter),
    }


async def _check_page(browser: DeskBrowser) -> str:
    """Write a decision, and look it over: the address of that page."""
    page = await browser.open(f"/cases/{_CASE}")
    decided = {"resolution": "not_charged", "evidence": "seen", "reason": "so"}
    checked = await browser.submit(page, f"/cases/{_CASE}/check", **decided)
    assert checked.status == HTTPStatus.OK, checked.text
    return checked.address


def addresses(samples: Mapping[str, str], check_page: str) -> list[str]:
    """Every page of every room, and the filters that people use most."""
    case, letter, group = _CASE, _md5_uuid("letter15"), samples["group"]
    pages = {page.address for room in rooms_of_pages() for page in room.pages} - FILES
    known = [re.sub(r"\{(\w+)(?::path)?\}", lambda match: samples[match[1]], address) for address in sorted(pages)]
    return [
        *(address for address in known if not check_page.startswith(f"{address}?")),
        check_page,
        f"/activity?before={samples['position']}",
        "/activity?who=person.7",
        "/activity?who=nobody",
        "/activity?action=Refusals",
        "/activity?action=Replays&who=person.7",
        "/activity?action=Decisions&before=1000",
        f"/activity?about={case}",
        f"/activity?about={case[-8:]}",
        "/activity?about=INV-40",
        "/activity?day=2026-11-01",
        "/activity?day=2026-11-01&who=person.7&action=Decisions",
        "/cases?show=second",
        "/cases?show=settled",
        "/cases?show=mine",
        "/dead-letters?status=replayed",
        f"/dead-letters?group={group}",
        "/dead-letters?queue=invoice.commands",
        "/dead-letters?words=receipt",
        "/dead-letters?words=nowhere",
        "/find?q=INV-40",
        "/find?q=C-40",
        "/find?q=ch_4711",
        "/find?q=PF-4711",
        "/find?amount=41.11&currency=EUR&day=2026-11-01",
        f"/find?q={letter[-8:]}",
    ]


def _md5_uuid(text: str) -> str:
    return str(UUID(md5(text.encode(), usedforsecurity=False).hexdigest()))


_CASE: Final = _md5_uuid("subject40")
"""It needs a decision."""


async def _ask(browser: DeskBrowser, address: str, times: int) -> PageTime:
    headers = {"sec-fetch-site": "same-origin"}
    for _ in range(WARM_UP):
        await browser.client.get(address, headers=headers)
    answer = await browser.client.get(address, headers=headers)
    took: list[float] = []
    for _ in range(max(times, 2)):
        started = time.perf_counter()
        answer = await browser.client.get(address, headers=headers)
        took.append((time.perf_counter() - started) * 1_000)
    return PageTime(address, answer.status_code, median(took), quantiles(took, n=20)[-1], len(answer.content) / 1_024)


def _show(console: Console, times: Sequence[PageTime]) -> bool:
    """Print the times. Returns whether all pages were there, and reach their goals."""
    table = Table(box=None)
    table.add_column("page", overflow="fold")
    for name in ("status", "median ms", "p95 ms", "KiB"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    slow = [one for one in times if one.p95_ms > one.goal_ms]
    refused = [one for one in times if one.status != HTTPStatus.OK]
    for one in times:
        style = "bold red" if one in slow or one in refused else ""
        table.add_row(
            one.address, str(one.status), f"{one.median_ms:.1f}", f"{one.p95_ms:.1f}", f"{one.kib:.0f}", style=style
        )
    console.print(table)
    console.print(
        f"{len(times)} pages, {len(slow)} above the goal ({GOAL_MS:.0f} ms; overview {OVERVIEW_GOAL_MS:.0f} ms), "
        f"{len(refused)} not shown."
    )
    return not slow and not refused


if __name__ == "__main__":
    sys.exit(main())
