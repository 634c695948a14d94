"""The pages about what happened: find, the story, what is stuck, and the overview."""

import asyncio
import json
import re
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import pytest

from services.staff import seen_store, story_store, told_store
from services.staff.actions import payments
from services.staff.domain import DECIDE_ANEW_AFTER, DecisionRefused, SentDecision
from services.staff.find import By
from services.staff.heard import hear
from services.staff.people import Role, at_terminal
from shared.contracts.operations import Heartbeat
from shared.messaging.envelope import Inbound
from shared.records import replace
from tests.service.staff.desk.test_live import LiveBrowser
from tests.support.databases import execute
from tests.support.desk_browser import DeskBrowser, DeskUnderTest, open_desk
from tests.support.environment import Environment
from tests.support.heard_messages import CUSTOMER, INVOICE, ISSUE, PAYMENT, healthy_payment, life_of_an_invoice
from tests.support.kept_cases import ATTEMPT, LIMIT, keep_case
from tests.support.kept_letters import event, keep, payment
from tests.support.plans import forget_statistics

START = (datetime.now(tz=UTC) - timedelta(days=3)).replace(hour=13, minute=20, second=3, microsecond=118_000)
LIFE = life_of_an_invoice(START)
HOSTILE = "<script>alert(1)</script>\u202e\x07"


@pytest.fixture
async def ann(desk: DeskUnderTest) -> DeskBrowser:
    desk.clock.now = datetime.now(tz=UTC)
    return await desk.browser("ann", Role.RESOLVER)


async def heard(desk: DeskUnderTest, messages: list[Inbound]) -> None:
    async with desk.desk.database.connection() as connection:
        await story_store.save(connection, hear(messages))


async def open_case(
    environment: Environment, desk: DeskUnderTest, status: str = "needs_decision", minutes: int = 20
) -> None:
    opened_at = desk.clock() - timedelta(minutes=minutes)
    await execute(
        environment.databases["staff"],
        f"""INSERT INTO cases (payment_id, invoice_id, correlation_id, status, version, reason, amount_minor, currency, attempts_version,
                details, opened_at, updated_at)
            VALUES ('{PAYMENT}', '{INVOICE}', 'c', '{status}', 4, 'no_readable_answer', 31000, 'EUR', 4,
                '{{"attempts": [], "refusals": [], "decision": null}}', '{opened_at}', '{opened_at}')""",
    )


# -- the story -----------------------------------------------------------------------------------------------------------------------------


async def test_the_story_tells_how_it_stands_and_what_happened(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await heard(desk, LIFE)
    page = await ann.open(f"/invoices/{INVOICE}")
    assert page.status == 200
    assert f"{INVOICE} is open; its payment was given back" in page.text
    assert "The money was charged and has been given back to the card; the invoice is still open." in page.text
    for words in (
        "1. IssueInvoice, accepted",
        "Found charged, late",
        "ben.resolver",
        "PF-7KQ2MX9D",
        "ch_3QJx7tB2mm1",
        "re_3QJx81",
    ):
        assert words in page.text
    assert "310.00 EUR" in page.text
    assert "the gateway was asked 11 times" in page.text
    assert {f"s{number}" for number in range(1, len(LIFE) + 1)} <= set(page.ids)
    assert page.html.count('class="node') == len(LIFE)
    assert 'class="edge against"' in page.html
    assert "style=" not in page.html


async def test_a_story_says_when_it_has_gone_on(
    desk: DeskUnderTest, ann: DeskBrowser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By messages, by a case, and by what people do."""
    live = desk.app.state.live
    monkeypatch.setattr(live, "_run", lambda: asyncio.sleep(0))  # rounds happen when the test says so
    await heard(desk, LIFE[:2])

    async def hears_news_after(change: Awaitable[object]) -> bool:
        (key,) = re.findall('data-live="([^"]+)"', (await ann.open(f"/invoices/{INVOICE}")).html)
        listener = await LiveBrowser(desk, ann, quote(unescape(key))).open()
        await live.round()
        assert "gone on" not in (await listener.hear_part())[1]
        await change
        await live.round()
        _, html = await listener.hear_part()
        await listener.close()
        return f'href="/invoices/{INVOICE}"' in html

    case = keep_case(desk.desk.database, invoice_id=INVOICE, payment_id=PAYMENT)
    assert await hears_news_after(heard(desk, LIFE))
    assert await hears_news_after(case)
    assert await hears_news_after(payments.ask(desk.desk.database, PAYMENT, who=at_terminal("ben")))


async def test_the_story_is_the_same_for_programs(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await heard(desk, LIFE)
    answer = await ann.client.get(f"/api/v1/invoices/{INVOICE}")
    view = answer.json()
    assert (view["state"], view["amount_minor"], view["currency"]) == ("given_back", 31_000, "EUR")
    assert [step["number"] for step in view["steps"]] == list(range(1, len(LIFE) + 1))
    assert view["payments"][0]["receipt_number"] == "ch_3QJx7tB2mm1"
    assert "method" not in answer.text


@pytest.mark.parametrize("address", [f"/payments/{PAYMENT}", f"/commands/{ISSUE}"])
async def test_payments_and_commands_lead_to_the_story(desk: DeskUnderTest, ann: DeskBrowser, address: str) -> None:
    await heard(desk, LIFE)
    page = await ann.open(address)
    assert page.address.startswith(f"/invoices/{INVOICE}?by=")
    assert "Found by" in page.text


@pytest.mark.parametrize("address", ["/invoices/NONE", f"/payments/{UUID(int=9)}", f"/commands/{UUID(int=9)}"])
async def test_what_was_never_heard_of_is_said(ann: DeskBrowser, address: str) -> None:
    page = await ann.open(address)
    assert page.status == 404
    assert "Nothing was heard of such" in page.text


async def test_an_open_case_and_an_open_failed_message_show_in_the_story(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    await heard(desk, LIFE[:1])
    await open_case(environment, desk)
    letter = UUID(int=77)
    await execute(
        environment.databases["staff"],
        f"""INSERT INTO dead_letters (id, queue, origin, reason, tries, generation, event_id, type, headers, body, body_bytes, replays,
                seen, status, first_seen, last_seen)
            VALUES ('{letter}', 'invoice.commands', 'remit', 'handler_failed', 3, 0, '{ISSUE}', 'remit.invoice.PayInvoice.v1', '{{}}', 'x',
                1,
                0, 1, 'open', now(), now())""",
    )
    page = await ann.open(f"/invoices/{INVOICE}")
    assert "waits for a decision: was the card charged?" in page.text
    assert "PayInvoice could not be handled, and waits" in page.text
    assert f"/dead-letters/{letter}" in page.links
    assert f"/cases/{PAYMENT}" in page.links or "A case" in page.text


async def test_what_is_older_than_messages_are_kept_is_said(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    """Of such an invoice the rows are left that say how it stands."""
    old = datetime.now(tz=UTC) - timedelta(days=story_store.MESSAGES_KEPT_DAYS + 5)
    await heard(desk, life_of_an_invoice(old))
    page = await ann.open(f"/invoices/{INVOICE}")
    assert f"{INVOICE} is open; its payment was given back" in page.text
    assert "are not kept; decisions, outcomes and answers are." in page.text
    assert "PF-7KQ2MX9D" in page.text


async def test_texts_of_others_act_nowhere(environment: Environment, desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await heard(desk, LIFE)
    facts = json.dumps({"reason": HOSTILE.replace("\x07", ""), "evidence": HOSTILE.replace("\x07", "")})
    await execute(environment.databases["staff"], f"UPDATE messages SET facts = facts || '{facts}'")
    page = await ann.open(f"/invoices/{INVOICE}")
    assert "<script>alert" not in page.html
    assert "\u202e" not in page.html
    found = await ann.open("/find?q=%3Cscript%3Ealert(1)%3C/script%3E%E2%80%AE")
    assert "<script>alert" not in found.html
    assert "\u202e" not in found.html


# -- find ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        "PF-7KQ2MX9D",
        "pf 7kq2 mx9d",
        "PF7KQ2\u2013MX9D",
        INVOICE,
        "19980",
        "ch_3QJx7tB2mm1",
        "pi_3QJx7t",
        "re_3QJx81",
        str(PAYMENT),
        str(PAYMENT).upper(),
        str(PAYMENT)[-8:],
        str(ISSUE),
        CUSTOMER,
        str(LIFE[5].id),
    ],
)
async def test_whatever_a_customer_has_opens_the_story_at_once(
    desk: DeskUnderTest, ann: DeskBrowser, typed: str
) -> None:
    await heard(desk, [*LIFE, *healthy_payment(7, START)])
    page = await ann.open(f"/find?q={typed.replace(' ', '+')}")
    assert page.address.startswith(f"/invoices/{INVOICE}?by="), page.text[:300]


@pytest.mark.parametrize(
    "typed", [INVOICE, INVOICE.lower().replace("-", " "), "19980", str(PAYMENT), str(PAYMENT)[-8:], "pi_only_a_case"]
)
async def test_a_case_of_which_nothing_was_heard_is_found(
    desk: DeskUnderTest, ann: DeskBrowser, environment: Environment, typed: str
) -> None:
    await open_case(environment, desk)
    await execute(environment.databases["staff"], "UPDATE cases SET gateway_id = 'pi_only_a_case'")
    page = await ann.open(f"/find?q={typed.replace(' ', '+')}")
    assert page.address.startswith(f"/invoices/{INVOICE}?by="), page.text[:300]


async def test_a_failed_command_of_which_nothing_was_heard_is_found(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    letter = payment("INV-31415", 12_500, desk.clock)
    (letter_id,) = await keep(desk.desk.database, letter, clock=desk.clock)
    read_out = f"{str(letter.payment_id)[-8:-4]} {str(letter.payment_id)[-4:]}".upper()
    for typed in ("INV-31415", "31415", letter.payment_id, read_out, letter.event_id, str(letter.event_id)[-8:]):
        page = await ann.open(f"/find?{urlencode({'q': str(typed)})}")
        assert page.address.startswith(f"/dead-letters/{letter_id}"), typed


async def test_whatever_is_looked_for_an_index_finds_it(desk: DeskUnderTest) -> None:
    """On empty tables nothing is slow, so the planner must not read a table from end to end, however small."""
    looked_for = {By.PAYMENT: str(PAYMENT), By.COMMAND: str(PAYMENT), By.LETTER: str(PAYMENT), By.MESSAGE: str(PAYMENT)}
    async with desk.desk.database.transaction() as tx:
        await tx.execute("SET LOCAL enable_seqscan = off")
        for by, statement in told_store.STATEMENTS:
            plan = [row[0] for row in await tx.fetch(f"EXPLAIN {statement}", looked_for.get(by, "x"), 51)]
            assert not [line for line in plan if "Seq Scan" in line], (by, statement, plan)


@pytest.mark.parametrize("amount", ["310.00", "310", "310,00"])
async def test_amount_and_day_list_what_fits(desk: DeskUnderTest, ann: DeskBrowser, amount: str) -> None:
    await heard(desk, [*LIFE, *healthy_payment(7, START)])
    for address in (
        f"/find?amount={amount}&currency=EUR&day={START:%Y-%m-%d}",
        f"/find?q={amount}+{START.day}.{START.month}.",
        f"/find?q={amount}+EUR+{START:%Y-%m-%d}",
    ):
        page = await ann.open(address)
        assert "2 found by amount and day" in page.text
        assert INVOICE in page.text
        assert "INV-7" in page.text
        assert "a day before and after as well" in page.text


async def test_a_code_that_was_misheard_is_named(ann: DeskBrowser) -> None:
    page = await ann.open("/find?q=PF-0KQ2MX9D")
    assert "This code was misheard" in page.text
    assert "PF-0KQ2MX9D has 0. No code has 0, 1, I or O" in page.text


async def test_nothing_found_says_as_what_it_was_looked_for(ann: DeskBrowser) -> None:
    page = await ann.open("/find?q=nothing-like-it")
    assert "Nothing found for nothing-like-it" in page.text
    assert "Looked for as invoice, receipt, payment at the gateway" in page.text
    assert [form.action for form in page.forms if "amount" in form.fields] == ["/find"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("amount=310.00&currency=ABC&day=2026-11-26", "Currency: EUR or another ISO 4217 code."),
        ("amount=310.00&currency=EUR&day=yesterday", "Day: such as 2026-11-26."),
        ("amount=310.001&currency=EUR&day=2026-11-26", "Amount: such as 310.00"),
        ("amount=%3Cb%3E&currency=EUR&day=2026-11-26", "Amount: such as 310.00"),
    ],
)
async def test_what_cannot_be_looked_for_is_said(ann: DeskBrowser, query: str, sentence: str) -> None:
    page = await ann.open(f"/find?{query}")
    assert page.status == 422
    assert sentence in page.text


async def test_many_invoices_of_a_customer_have_a_bound(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await heard(desk, [healthy_payment(number, START)[0] for number in range(60)])
    page = await ann.open("/find?q=C-1")
    assert "50 or more found" in page.text


# -- the overview --------------------------------------------------------------------------------------------------------------------------


async def test_overview_and_case_say_alike_how_often_the_gateway_was_asked(
    desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    """To prepare and to charge is not to ask."""
    steps = ("prepare", "execute", "inquire", "inquire")
    payment_id = await keep_case(desk.desk.database, attempts=tuple(replace(ATTEMPT, step=step) for step in steps))
    assert "The gateway gave no readable answer in 2 tries." in (await ann.open("/")).text
    case = (await ann.open(f"/cases/{payment_id}")).text
    assert "Remit has asked the gateway 2 times." in case
    assert "no readable answer HTTP 503" in case


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (seen_store.LAST_SETTLED, "cases_settled"),
        (seen_store.LETTERS_REPLAYED, "dead_letters_erasable"),
        (seen_store.DOUBTS.replace("$1", "now()"), "cases_open"),
        (seen_store.DOUBTS.replace("$1", "now()"), "cases_decided"),
    ],
    ids=["the last case", "the week's replays", "money in doubt", "decisions on their way"],
)
async def test_an_overview_reads_no_table_from_end_to_end(desk: DeskUnderTest, statement: str, index: str) -> None:
    """Of what there was for years only the end is looked at."""
    await keep(desk.desk.database, *(event(number) for number in range(200)), clock=desk.clock)
    async with desk.desk.database.transaction() as tx:
        await tx.execute("UPDATE dead_letters SET status = 'replayed', settled_by = 'ann', settled_at = '2020-01-01'")
        await forget_statistics(tx)
        await tx.execute("ANALYZE dead_letters")
        await tx.execute("SET LOCAL enable_seqscan = off")
        plan = "\n".join(row[0] for row in await tx.fetch(f"EXPLAIN {statement}"))
    assert f" {index} " in plan, plan


async def everybody(environment: Environment, desk: DeskUnderTest, *, but: str = "") -> None:
    now = datetime.now(tz=UTC)
    said = [
        (now, Heartbeat(service=name, instance=f"{name}:1", version="1"))
        for name in ("invoice", "payment_gateway", "saga", "staff")
        if name != but
    ]
    async with desk.desk.database.connection() as connection:
        await story_store.keep_heartbeats(connection, said)
        await story_store.keep_queues(connection, [("saga.events", 0, 1)])


async def test_all_quiet(environment: Environment, desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await everybody(environment, desk)
    await heard(desk, healthy_payment(1, datetime.now(tz=UTC) - timedelta(minutes=5)))
    page = await ann.open("/")
    assert "All quiet: no money is in doubt, and nothing waits for a person" in page.text
    assert "Nothing to do." in page.text
    assert "1 paid" in page.text
    assert "all queues there" in page.text
    assert page.html.count("badge done") >= 5


async def test_money_in_doubt_comes_first(environment: Environment, desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await everybody(environment, desk)
    await open_case(environment, desk)
    page = await ann.open("/")
    assert "Money is in doubt: nobody knows whether 1 card was charged" in page.text
    assert "20 min the oldest waits" in page.text
    assert "Decide: was this card charged?" in page.text
    assert f"/cases/{PAYMENT}" in page.links
    assert "Nobody is entered" in page.text
    view = (await ann.client.get("/api/v1")).json()
    assert view["sums"] == [{"currency": "EUR", "amount_minor": 31_000, "number": 1}]
    assert view["level"] == "act"


async def test_all_money_in_doubt_is_counted_and_added_up(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    """However many cases there are: the list of what to do shows the first ones, and says how many more there are."""
    await open_case(environment, desk)
    await execute(
        environment.databases["staff"],
        """INSERT INTO cases SELECT (jsonb_populate_record(c, jsonb_build_object('payment_id', gen_random_uuid(),
               'status', (ARRAY['needs_decision', 'in_doubt', 'refund_failed'])[1 + n % 3]))).* FROM cases c, generate_series(1, 1199) n""",
    )
    view = (await ann.client.get("/api/v1")).json()
    assert view["title"] == "Money is in doubt: nobody knows whether 800 cards were charged"
    assert view["sums"] == [{"currency": "EUR", "amount_minor": 1_200 * 31_000, "number": 1_200}]
    assert (view["in_doubt"], view["waiting"]) == (1_200, 800)
    whats = [todo["what"] for todo in view["todo"]]
    assert [what for what in whats if "more like this" in what] == ["390 more like this."] * 2
    assert "400 payments are in doubt for longer than 15 minutes." in whats
    listed = (await ann.client.get("/api/v1/cases")).json()
    assert [(one["cases"], one["amount_minor"]) for one in listed["sums"]] == [(1_200, 1_200 * 31_000)]


async def test_what_somebody_has_said_about_a_case_is_told_apart(desk: DeskUnderTest, ann: DeskBrowser) -> None:
    database, id_ = desk.desk.database, UUID(int=9)
    sent = SentDecision(id_, 4, "not_charged", "ben", desk.clock())
    late = DecisionRefused(UUID(int=8), 4, "needs_decision", "version_differs", "ben", "not_charged", id_)
    await keep_case(database, LIMIT, decision=sent)
    left = [
        await keep_case(database, LIMIT, decision=sent, refusals=(late,)),
        await keep_case(database, LIMIT, decision=replace(sent, version=3)),
        await keep_case(database, LIMIT, decision=replace(sent, at=desk.clock() - DECIDE_ANEW_AFTER)),
        await keep_case(database, None),
    ]
    proposed = await keep_case(database)
    wanted: dict[str, Any] = {"resolution": "not_charged", "expected_version": 4, "evidence": "none", "reason": "none"}
    assert (await payments.resolve(database, proposed, **wanted, who=at_terminal("ben"))).ok
    async with desk.desk.read() as connection:
        (doubt,) = await seen_store.doubts(connection, desk.clock())
        cases = await seen_store.first_cases(connection, [doubt], desk.clock())
    assert (doubt.number, doubt.decided, doubt.proposed, doubt.left, doubt.unknown) == (6, 1, 1, 4, 1)
    assert {case.payment_id for case in cases} == set(left)
    assert "1 decision is on its way." in (await ann.open("/")).text


BROKEN = "INSERT INTO journal_check (checked_at, broken_at, broken_why) VALUES (now(), 2, 'who acted was changed')"


async def test_what_must_be_acted_on_is_never_nothing_to_do(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    await everybody(environment, desk, but="saga")
    await open_case(environment, desk, status="in_doubt")
    await execute(environment.databases["staff"], BROKEN)
    page = await ann.open("/")
    assert "1 payment is in doubt for longer than 15 minutes." in page.text
    assert "No instance of saga runs." in page.text
    assert "The activity log is not as it was." in page.text
    assert {f"/cases/{PAYMENT}", "/#parts", "/activity"} <= set(page.links)
    assert "Nothing to do." not in page.text


@pytest.mark.parametrize(("by", "is_asked"), [("ben", True), ("Ann ", False)])
async def test_a_proposal_is_for_another_person(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser, by: str, is_asked: bool
) -> None:
    await everybody(environment, desk)
    await open_case(environment, desk)
    await execute(
        environment.databases["staff"],
        f"""INSERT INTO proposals (id, payment_id, version, act, asks, proposed_by, via, proposed_at, state)
            VALUES ('{UUID(int=5)}', '{PAYMENT}', 4, 'resolve', '{{"resolution": "not_charged"}}', '{by}', 'desk', now() - interval '2 h',
                'open')""",
    )
    page = await ann.open("/")
    assert ("Agree or not, as second person." in page.text) is is_asked
    assert ("says: not charged, at" in page.text) is is_asked
    stuck = await ann.open("/stuck")
    assert f"A decision about {INVOICE} waits for a second person" in stuck.text


async def test_failed_messages_and_replays_that_stopped_are_to_be_done(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    await everybody(environment, desk)
    url = environment.databases["staff"]
    await execute(
        url,
        f"""INSERT INTO dead_letters (id, queue, origin, reason, error_type, tries, generation, type, headers, body, body_bytes, replays,
                seen, status, first_seen, last_seen, invoice_id, amount_minor, currency, may_charge)
            SELECT gen_random_uuid(), 'invoice.commands', 'remit', 'handler_failed', 'TypeError', 3, 0, 'remit.invoice.PayInvoice.v1',
                '{{}}', 'x', 1, 0, 1, 'open', now(), now(), '{INVOICE}', 1000, 'EUR', true FROM generate_series(1, 3)""",
    )
    for number, state, ago in ((118, "halted", "5 min"), (119, "running", "2 min")):
        await execute(
            url,
            f"""INSERT INTO replay_runs (no, id, state, step, title, filter, bins, made_by, made_at, started_by, started_at, rate, total)
                VALUES ({number}, gen_random_uuid(), '{state}', 'rest', 't', '{{}}', '[]', 'ann', now(), 'ann', now() - interval '{ago}',
                    10, 3)""",
        )
    page = await ann.open("/")
    assert "3 failed messages wait." in page.text
    assert "3 are payments, 30.00 EUR: nothing was charged." in page.text
    assert "The replay R-118 stopped by itself." in page.text
    assert "The replay R-119 runs and sends nothing" in page.text
    story = await ann.open(f"/invoices/{INVOICE}")
    assert story.text.count("PayInvoice could not be handled, and waits") >= 3


async def test_a_contradiction_is_for_somebody_to_read(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    await everybody(environment, desk)
    await open_case(environment, desk, status="captured")
    await execute(environment.databases["staff"], "UPDATE cases SET contradicted_version = 4, contradicted_at = now()")
    page = await ann.open("/")
    assert "No money is in doubt; the gateway contradicts a decision" in page.text
    assert "The gateway contradicts a decision." in page.text
    await execute(environment.databases["staff"], "UPDATE cases SET noted_at = now()")
    assert "All quiet" in (await ann.open("/")).text


async def test_a_service_that_does_not_report_is_never_green(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    await everybody(environment, desk, but="saga")
    page = await ann.open("/")
    assert "No money is in doubt, but saga does not run" in page.text
    assert "never heard of" in page.text
    await execute(
        environment.databases["staff"],
        "UPDATE instances SET heard_at = now() - interval '31 s' WHERE service = 'invoice'",
    )
    page = await ann.open("/stuck")
    assert "An instance of invoice says nothing any more" in page.text


async def test_whom_to_call_is_read_from_a_file(environment: Environment, tmp_path: Path) -> None:
    file = tmp_path / "contacts.json"
    file.write_text(
        json.dumps(
            [
                {"name": "On call: cleo", "number": "+49 30 23125 147", "hours": "until 08:00"},
                {"name": "head of billing", "number": "+49 30 1", "above_minor": 1_000_000, "currency": "EUR"},
            ]
        )
    )
    async with open_desk(environment.databases["staff"], contacts_file=str(file)) as desk:
        ann = await desk.browser("ann", Role.VIEWER)
        await open_case(environment, desk)
        page = await ann.open("/")
        assert "On call: cleo" in page.text
        assert "tel:+493023125147" in page.links
        assert "10000.00 EUR in doubt: head of billing" in page.text
        file.write_text('[{"name": "x", "number": "javascript:alert(1)"}]')
        assert "STAFF_CONTACTS_FILE is not as it must be at 0.number" in (await ann.open("/")).text
        file.unlink()
        assert "STAFF_CONTACTS_FILE cannot be read" in (await ann.open("/")).text


async def test_pages_say_so_where_staff_do_not_listen(environment: Environment) -> None:
    async with open_desk(environment.databases["staff"], staff_journal="off", heartbeats="off") as desk:
        ann = await desk.browser("ann", Role.VIEWER)
        await open_case(environment, desk)
        assert "STAFF_JOURNAL is off" in (await ann.open("/find")).text
        assert "STAFF_JOURNAL is off" in (await ann.open(f"/invoices/{INVOICE}")).text
        overview = await ann.open("/")
        assert "STAFF_JOURNAL is off" in overview.text
        assert "HEARTBEATS is off" in overview.text
        assert "does not run" not in overview.text
        assert "HEARTBEATS is off" in (await ann.open("/stuck")).text


async def test_nothing_is_stuck(environment: Environment, desk: DeskUnderTest, ann: DeskBrowser) -> None:
    await everybody(environment, desk)
    page = await ann.open("/stuck")
    assert "Nothing is stuck." in page.text
    assert "queues with messages and no consumer" in page.text


async def test_what_is_stuck_says_what_it_means(
    environment: Environment, desk: DeskUnderTest, ann: DeskBrowser
) -> None:
    await everybody(environment, desk)
    async with desk.desk.database.connection() as connection:
        await story_store.keep_queues(connection, [("payment_gateway.requests", 12, 0)])
    page = await ann.open("/stuck")
    assert "Messages wait on payment_gateway.requests, and nobody takes them" in page.text
    assert "These payments are not charged yet." in page.text
    overview = await ann.open("/")
    assert '<span class="count look" data-count="stuck">1<' in overview.html
