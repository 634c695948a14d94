"""Cases at the desk, over a real database: lists, decide, check, the second person, and what was contradicted."""

import asyncio
import csv
import html
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from services.staff import store, story_store
from services.staff.actions import payments
from services.staff.desk.pages.cases import cases_news
from services.staff.domain import Case, CaseAttempt, CaseStatus, DecisionRefused, SentDecision, Settled, evolve
from services.staff.heard import hear
from services.staff.people import Role, at_terminal
from services.staff.proposals import ProposalState
from shared.ids import new_id
from shared.records import replace
from tests.service.staff.desk.test_live import LiveBrowser
from tests.support import heard_messages
from tests.support.databases import rows
from tests.support.desk_browser import DeskBrowser, DeskUnderTest, SeenPage, open_desk
from tests.support.environment import Environment
from tests.support.hostile import HOSTILE
from tests.support.kept_cases import ATTEMPT, LIMIT, NOW, keep_case, kept_case_of, tell_case

SAW = "Dashboard, 03:16: no charge of 1240.00 EUR"
DASHBOARD = "https://dashboard.example.com/payments/{id}"


@pytest.fixture
async def desk(environment: Environment) -> AsyncIterator[DeskUnderTest]:
    async with open_desk(environment.databases["staff"], gateway_dashboard_url=DASHBOARD) as opened:
        yield opened


async def ann(desk: DeskUnderTest) -> DeskBrowser:
    return await desk.browser("ann.resolver", Role.RESOLVER)


async def ben(desk: DeskUnderTest) -> DeskBrowser:
    return await desk.browser("ben.resolver", Role.RESOLVER)


async def checked(browser: DeskBrowser, payment_id: UUID, **fields: object) -> SeenPage:
    """The check page of a decision."""
    wanted = {"resolution": "not_charged", "evidence": SAW, "reason": "No charge in its books."} | fields
    return await browser.submit(await browser.open(f"/cases/{payment_id}"), f"/cases/{payment_id}/check", **wanted)


async def sent(browser: DeskBrowser, page: SeenPage) -> SeenPage:
    """What comes of the one form of a check page."""
    (form,) = (form for form in page.forms if "/decide" in form.action)
    return await browser.submit(page, form.action)


async def outbox(environment: Environment) -> int:
    return len(await rows(environment.databases["staff"], "SELECT unnest(ids) FROM outbox"))


# -- lists -------------------------------------------------------------------------------------------------------------------------------


async def test_open_cases_are_listed_the_longest_wait_first_with_a_sum_a_currency(desk: DeskUnderTest) -> None:
    database = desk.desk.database
    for invoice, hours, currency in (("INV-3", 1, "USD"), ("INV-1", 9, "EUR"), ("INV-2", 5, "EUR")):
        at = NOW - timedelta(hours=hours)
        await keep_case(database, 124_000, at=at, invoice_id=invoice, currency=currency)
    await keep_case(database, invoice_id="INV-4", status=CaseStatus.CAPTURED)
    browser = await ann(desk)
    page = await browser.open("/cases")
    assert page.text.index("INV-1") < page.text.index("INV-2") < page.text.index("INV-3")
    assert "3 in doubt: 2480.00 EUR and 1240.00 USD. The longest wait first." in page.text
    assert "INV-4" not in page.text
    assert "INV-4" in (await browser.open("/cases?show=settled")).text
    assert "Nothing waits for a second person." in (await browser.open("/cases?show=second")).text
    assert (await browser.open("/cases?show=nonsense")).status == 422
    assert (await browser.open("/cases?after=nonsense")).status == 200


@pytest.mark.parametrize("show", ["open", "settled", "mine"])
async def test_pages_of_a_list_have_each_case_once(desk: DeskUnderTest, show: str) -> None:
    status = CaseStatus.CAPTURED if show == "settled" else CaseStatus.NEEDS_DECISION
    for number in range(120):
        await keep_case(
            desk.desk.database, at=NOW + timedelta(seconds=number // 3), invoice_id=f"INV-{number}", status=status
        )
    browser = await ann(desk)
    seen: list[str] = []
    program = await desk.token("reader", Role.VIEWER)
    links = [f"/cases?show={show}"]
    for _ in range(3):
        page = (await browser.client.get(f"/api/v1{links[0]}")).json()
        seen += [row["invoice_id"] for row in page["rows"]]
        links = [link for link in (await browser.open(links[0])).links if "after=" in link] or [""]
        assert (page["next"] is None) == (links == [""]), "a program gets the key, a person the link with it"
    assert (len(seen), len(set(seen)), links) == (120, 120, [""])
    numbers = [int(invoice.removeprefix("INV-")) // 3 for invoice in seen]
    assert numbers == sorted(numbers, reverse=show == "settled")
    assert (await program.get("/api/v1/cases")).status_code == 200


async def test_no_case_is_a_sentence(desk: DeskUnderTest) -> None:
    browser = await ann(desk)
    assert "No payment is in doubt." in (await browser.open("/cases")).text
    none = await browser.open(f"/cases/{uuid4()}")
    assert (none.status, "There is no case of this payment." in none.text) == (404, True)
    assert none.address.replace("/cases/", "/payments/") in none.links, "its story may be known"


# -- one person --------------------------------------------------------------------------------------------------------------------------


async def test_a_decision_is_checked_and_sent(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    browser = await ann(desk)
    page = await browser.open(f"/cases/{payment_id}")
    assert "was this card charged?" in page.text
    assert "6 more like it" in page.text, "calls that are alike are folded"
    assert "The story so far" in page.text
    assert "What to tell the customer" in page.text
    assert "https://dashboard.example.com/payments/pi_1" in page.links
    check = await checked(browser, payment_id)
    assert check.address.startswith(f"/cases/{payment_id}/check?done=")
    assert "You say: the card was not charged" in check.text
    assert await outbox(environment) == 0
    other = await ben(desk)
    stale = await checked(other, payment_id)
    done = await sent(browser, check)
    assert "Decided: not charged" in done.text
    assert await outbox(environment) == 1
    assert "Decision on its way" in done.text
    assert f"/cases/{payment_id}/check" not in [form.action for form in done.forms], "there is nothing to decide now"
    late = await sent(other, stale)
    assert (late.status, "decided not charged at" in late.text) == (409, True)
    assert await outbox(environment) == 1


async def test_what_was_written_stays_to_be_changed_and_when_the_case_moved(
    environment: Environment, desk: DeskUnderTest
) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    browser = await ann(desk)
    check = await checked(browser, payment_id)
    (change, *_) = (link for link in check.links if "draft=" in link)
    form = next(one for one in (await browser.open(change)).forms if "/check" in one.action)
    assert (form.fields["evidence"], form.fields["resolution"]) == ([SAW], ["not_charged"])
    await tell_case(desk.desk.database, payment_id, Settled(6, CaseStatus.CAPTURED, decided_by=None))
    moved = await sent(browser, check)
    assert moved.status == 409
    assert "There is nothing to decide: its state is charged." in moved.text
    assert await outbox(environment) == 0


MISTAKES = [
    ({"evidence": ""}, "Say what you saw, and where."),
    ({"reason": ""}, "Say why you decide so."),
    ({"resolution": ""}, "Choose what happened to the money."),
    ({"evidence": "card 4242424242424242"}, "What you saw holds card data: leave it out."),
    ({"resolution": "captured"}, "A charged payment needs the gateway's receipt number."),
    ({"reason": "x" * 1042}, "Why: longer than 1 000 characters (1 042)."),
]


@pytest.mark.parametrize(("fields", "sentence"), MISTAKES)
async def test_a_mistake_is_told_at_its_field_before_anything_is_sent(
    desk: DeskUnderTest, fields: dict[str, object], sentence: str
) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    page = await checked(await ann(desk), payment_id, **fields)
    assert (page.status, sentence in page.text) == (422, True), page.text
    form = page.form(f"/cases/{payment_id}/check")
    assert form.fields["evidence" if "evidence" not in fields else "reason"] != [""]


async def test_the_gateway_is_asked_and_somebody_is_on_it(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database)
    browser, other = await ann(desk), await ben(desk)
    here = f"/cases/{payment_id}"
    asked = await browser.submit(await browser.open(here), f"{here}/ask")
    assert "The gateway is asked; what it answers shows here." in asked.text
    assert await outbox(environment) == 1
    stale = await other.open(here)
    claimed = await browser.submit(asked, f"{here}/claim")
    assert "ann.resolver, since" in claimed.text
    lost = await other.submit(stale, f"{here}/claim")
    assert (lost.status, "ann.resolver is on it since" in lost.text) == (409, True)
    noted = await other.submit(lost, f"{here}/notes", note="called\nthe bank")
    assert "The note is kept." in noted.text
    assert "ben.resolver wrote a note" in noted.text
    assert "Nobody yet." in (await other.submit(noted, f"{here}/release")).text


async def test_a_viewer_sees_all_and_does_nothing(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database)
    viewer = await desk.browser("vic.viewer", Role.VIEWER)
    page = await viewer.open(f"/cases/{payment_id}")
    assert page.status == 200
    assert "was this card charged?" in page.text
    refused = await viewer.submit(page, f"/cases/{payment_id}/ask")
    assert refused.status == 403
    assert await outbox(environment) == 0


async def test_how_a_case_stands_is_live(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    live = desk.app.state.live
    monkeypatch.setattr(live, "_run", lambda: asyncio.sleep(0))  # rounds happen when the test says so
    browser = await ann(desk)
    listener = await LiveBrowser(desk, browser, f"case:{payment_id},case:nonsense").open()
    await live.round()
    parts = dict([await listener.hear_part(), await listener.hear_part()])
    assert "Needs a decision" in parts[f"case:{payment_id}"]
    assert parts["case:nonsense"] == ""
    await sent(browser, await checked(browser, payment_id))
    await live.round()
    key, html = await listener.hear_part()
    assert "moved on since" not in html, "no page said what it shows"
    assert (key, "Decision on its way" in html, "ann.resolver decided: not charged" in html) == (
        f"case:{payment_id}",
        True,
        True,
    )
    await listener.close()
    await live.close()


async def test_a_case_shows_what_its_invoice_made_of_the_decision(desk: DeskUnderTest) -> None:
    start, invoice_id, payment_id = desk.clock() - timedelta(hours=5), heard_messages.INVOICE, heard_messages.PAYMENT
    decision = SentDecision(uuid4(), 4, "not_charged", "ann", start + timedelta(hours=3))
    await keep_case(desk.desk.database, invoice_id=invoice_id, payment_id=payment_id, decision=decision)
    await tell_case(desk.desk.database, payment_id, Settled(5, CaseStatus.NOT_CHARGED, decided_by="ann"))
    browser = await ann(desk)
    before = (await browser.open(f"/cases/{payment_id}")).text
    assert "The payment stands at version 5: not charged" in before
    assert "its sender is told" not in before
    async with desk.desk.database.transaction() as tx:
        await story_store.save(tx, hear(heard_messages.life_of_an_invoice(start)))
    page = await browser.open(f"/cases/{payment_id}")
    assert f"{invoice_id} is open again; its sender is told" in page.text


async def test_what_the_gateway_answers_and_what_others_do_show_at_once(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version stays: what the gateway answers to a question changes nothing that could be decided."""
    payment_id = await keep_case(desk.desk.database)
    live = desk.app.state.live
    monkeypatch.setattr(live, "_run", lambda: asyncio.sleep(0))  # rounds happen when the test says so
    browser = await ann(desk)
    state, calls = re.findall('data-live="(case[^"]+)"', (await browser.open(f"/cases/{payment_id}")).html)
    listener = await LiveBrowser(desk, browser, f"{state},{calls}").open()
    await live.round()
    before = dict([await listener.hear_part(), await listener.hear_part()])
    assert "moved on since" not in before[state]
    assert "data-say" not in before[calls]
    kept = (await kept_case_of(desk.desk.database, payment_id)).case
    asked = replace(kept, attempts=(*kept.attempts, replace(ATTEMPT, evidence="HTTP 200 succeeded")))
    async with desk.desk.database.transaction() as tx:
        await store.save_cases(tx, [(asked, "C-1")], desk.clock(), locked={payment_id})
    other = await ben(desk)
    await other.submit(await other.open(f"/cases/{payment_id}"), f"/cases/{payment_id}/claim")
    await live.round()
    after = dict([await listener.hear_part(), await listener.hear_part()])
    assert "It has moved on since this page was opened." in after[state]
    assert "HTTP 200 succeeded" in after[calls]
    assert "The gateway was asked 1 more time." in after[calls]
    await listener.close()
    await live.close()


async def test_a_decision_without_effect_waits_and_may_be_made_anew(desk: DeskUnderTest) -> None:
    """At first because the staff service has not sent it, then because nothing came of it for minutes."""
    here = f"/cases/{await keep_case(desk.desk.database, LIMIT)}"
    browser = await ann(desk)
    await sent(browser, await checked(browser, UUID(here.rpartition("/")[2])))
    desk.clock.forward(seconds=11)
    unsent = await browser.open(here)
    assert "ann.resolver: not charged. The staff service has not sent it yet" in unsent.text
    assert f"{here}/check" not in [form.action for form in unsent.forms]
    desk.clock.forward(minutes=5)
    page, story = await browser.open(here), await browser.open("/invoices/INV-1")
    assert "ann.resolver: not charged. No effect for 5 minutes: it may be made anew" in page.text
    assert f"{here}/check" in [form.action for form in page.forms]
    assert "That decision waits: it has no effect yet, and anybody may decide anew." in story.text
    assert "Decision waits" in (await browser.open("/cases")).text


async def came_open(desk: DeskUnderTest, at: datetime) -> None:
    await keep_case(desk.desk.database, at=at)


async def came_settled(desk: DeskUnderTest, at: datetime) -> None:
    await keep_case(desk.desk.database, at=at, status=CaseStatus.CAPTURED)


async def came_contradicted(desk: DeskUnderTest, at: datetime) -> None:
    payment_id = await keep_case(desk.desk.database, at=at - timedelta(days=1))
    case = (await kept_case_of(desk.desk.database, payment_id)).case
    for fact in (Settled(5, CaseStatus.NOT_CHARGED, decided_by="ben"), Settled(6, CaseStatus.CAPTURED)):
        case = evolve(case, fact)
    async with desk.desk.database.transaction() as tx:
        await store.save_cases(tx, [(case, "C-1")], at, locked={payment_id})


async def came_again(desk: DeskUnderTest, at: datetime) -> None:
    """A case that was settled is open again: it waits since then."""
    payment_id = await keep_case(desk.desk.database, at=NOW - timedelta(days=90), status=CaseStatus.CAPTURED)
    again = replace((await kept_case_of(desk.desk.database, payment_id)).case, status=CaseStatus.NEEDS_DECISION)
    async with desk.desk.database.transaction() as tx:
        await store.save_cases(tx, [(again, "C-1")], at, locked={payment_id})
    assert (await kept_case_of(desk.desk.database, payment_id)).opened_at == at


async def came_proposed(desk: DeskUnderTest, at: datetime) -> None:
    payment_id = await keep_case(desk.desk.database, at=at - timedelta(days=1))
    browser = await ben(desk)
    await sent(browser, await checked(browser, payment_id))


async def came_to_a_person(desk: DeskUnderTest, at: datetime) -> None:
    """It was in doubt for a day: only now somebody must decide."""
    payment_id = await keep_case(desk.desk.database, at=at - timedelta(days=1), status=CaseStatus.IN_DOUBT)
    waits = replace((await kept_case_of(desk.desk.database, payment_id)).case, status=CaseStatus.NEEDS_DECISION)
    async with desk.desk.database.transaction() as tx:
        await store.save_cases(tx, [(waits, "C-1")], at, locked={payment_id})


async def came_claimed(desk: DeskUnderTest, at: datetime) -> None:
    payment_id = await keep_case(desk.desk.database, at=at - timedelta(days=1), status=CaseStatus.IN_DOUBT)
    async with desk.desk.database.transaction() as tx:
        await store.claim_case(tx, payment_id, "ann.resolver", at)


async def changed_settled(desk: DeskUnderTest, at: datetime) -> None:
    """The same case each time."""
    case = Case(UUID(int=1), "INV-1", CaseStatus.CAPTURED, 4, amount_minor=1, currency="EUR")
    async with desk.desk.database.transaction() as tx:
        await store.save_cases(tx, [(case, "C-1")], at, locked=await store.lock_cases(tx, [case.payment_id]))


@pytest.mark.parametrize(
    ("show", "comes"),
    [
        ("open", came_open),
        ("open", came_again),
        ("open", came_contradicted),
        ("mine", came_open),
        ("mine", came_proposed),
        ("mine", came_to_a_person),
        ("mine", came_claimed),
        ("second", came_proposed),
        ("contradicted", came_contradicted),
        ("settled", came_settled),
        ("settled", changed_settled),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
async def test_a_list_says_what_came_to_it_since(
    desk: DeskUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    show: str,
    comes: Callable[[DeskUnderTest, datetime], Awaitable[None]],
) -> None:
    await comes(desk, NOW)
    live = desk.app.state.live
    monkeypatch.setattr(live, "_run", lambda: asyncio.sleep(0))  # rounds happen when the test says so
    browser = await ann(desk)
    desk.clock.forward(minutes=9)
    page = await browser.open(f"/cases?show={show}")
    (key,) = re.findall(r'data-live="(cases:[^"]+)"', page.html)
    listener = await LiveBrowser(desk, browser, quote(html.unescape(key))).open()
    await live.round()
    assert (await listener.hear_part())[1].strip() == ""
    await comes(desk, desk.clock())
    await live.round()
    _, told = await listener.hear_part()
    what = "new or changed" if show in {"mine", "settled"} else "more"
    assert (
        f'<a class="news" href="/cases?show={show}"><span class="number">1</span> {what} since this list began. Show it</a>'
        in told
    )
    await listener.close()
    await live.close()


@pytest.mark.parametrize("key", ["show=nonsense", "show=open", "show=mine&seen=2026-11-28&who=%00", ""])
async def test_what_came_to_no_list_is_nothing(desk: DeskUnderTest, key: str) -> None:
    assert await cases_news(key=key, desk=desk.desk, viewer=at_terminal("ann")) is None


# -- the second person -------------------------------------------------------------------------------------------------------------------


async def test_above_the_limit_a_second_person_agrees(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database)
    first, second = await ben(desk), await ann(desk)
    here = f"/cases/{payment_id}"
    assert "Above 500.00 EUR a second person must agree." in (await first.open(here)).text
    check = await checked(first, payment_id)
    assert "Nothing yet: ann.resolver must agree, on version 4." in check.text
    own = await sent(first, check)
    assert "Somebody else must agree" in own.text
    assert "You proposed it. ann.resolver can agree." in own.text
    assert await outbox(environment) == 0
    assert payment_id_in(await second.open("/cases?show=mine"), payment_id)
    assert not payment_id_in(await first.open("/cases?show=mine"), payment_id)
    asked = await second.open(here)
    assert "ben.resolver says: the card was not charged" in asked.text
    empty = await second.submit(asked, f"{here}/answer", answer="agree")
    assert (empty.status, "Say what you saw, and where." in empty.text) == (422, True)
    agreed = await second.submit(asked, f"{here}/answer", answer="agree", saw="I see none either")
    assert "Decided: not charged" in agreed.text
    assert "ben.resolver, ann.resolver agreed" in agreed.text
    assert "I see none either" in agreed.text
    assert await outbox(environment) == 1


def payment_id_in(page: SeenPage, payment_id: UUID) -> bool:
    return f"/cases/{payment_id}" in page.links


async def test_a_proposal_is_taken_back_or_not_agreed_with(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database)
    first, second = await ben(desk), await ann(desk)
    here = f"/cases/{payment_id}"
    own = await sent(first, await checked(first, payment_id))
    stale = await second.open(here)
    back = await first.submit(own, f"{here}/withdraw")
    assert "Taken back; nothing was sent." in back.text
    late = await second.submit(stale, f"{here}/answer", answer="agree", saw="none")
    assert (late.status, "ben.resolver took it back at" in late.text) == (409, True)
    await sent(first, await checked(first, payment_id))
    no = await second.submit(await second.open(here), f"{here}/answer", answer="refuse", saw="It is there: ch_1")
    assert "you do not agree with ben.resolver" in no.text
    assert (await kept_case_of(desk.desk.database, payment_id)).proposal is None
    assert await outbox(environment) == 0


async def test_a_program_is_never_the_second_person(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database)
    wanted = {"resolution": "not_charged", "expected_version": 4, "evidence": SAW, "reason": "none"}
    result = await payments.resolve(desk.desk.database, payment_id, **wanted, who=at_terminal("ben"))  # type: ignore[arg-type]
    program = await desk.token("robot", Role.RESOLVER)
    shown = (await program.get(f"/api/v1/cases/{payment_id}")).json()
    assert shown["proposal"]["id"] == str(result.proposal)
    body = {"once": str(new_id()), "proposal": str(result.proposal), "saw": "all is well"}
    answered = await program.post(f"/api/v1/cases/{payment_id}/agree", json=body)
    assert (answered.status_code, answered.json()["code"]) == (403, "not_allowed")
    assert await outbox(environment) == 0


# -- afterwards --------------------------------------------------------------------------------------------------------------------------


async def test_a_contradiction_is_shown_until_somebody_takes_note(desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database)
    database, browser = desk.desk.database, await ann(desk)
    await tell_case(database, payment_id, Settled(5, CaseStatus.NOT_CHARGED, decided_by="ben.resolver"))
    await tell_case(database, payment_id, Settled(6, CaseStatus.CAPTURED))
    await tell_case(database, payment_id, Settled(7, CaseStatus.REFUNDED))
    for show in ("open", "contradicted"):
        assert payment_id_in(await browser.open(f"/cases?show={show}"), payment_id)
    page = await browser.open(f"/cases/{payment_id}")
    assert "the gateway contradicts a decision" in page.text
    assert "Decided: not charged. The gateway says: charged." in page.text
    taken = await browser.submit(page, f"/cases/{payment_id}/noted", note="the dashboard lagged")
    assert "Kept: you took note of it." in taken.text
    assert not payment_id_in(await browser.open("/cases?show=contradicted"), payment_id)


async def test_beside_a_contradiction_stands_the_decision_that_took_effect(desk: DeskUnderTest) -> None:
    """Hers took effect late. His, made anew after five minutes, was refused."""
    database = desk.desk.database
    payment_id = await keep_case(database, 31_000, invoice_id=heard_messages.INVOICE)
    hers, his = await ann(desk), await ben(desk)
    await sent(hers, await checked(hers, payment_id, evidence="her dashboard"))
    decision = (await kept_case_of(database, payment_id)).case.decision
    desk.clock.forward(minutes=6)
    await sent(his, await checked(his, payment_id, evidence="his dashboard"))
    refused = (await kept_case_of(database, payment_id)).case.decision
    assert decision is not None
    assert refused is not None
    await tell_case(database, payment_id, Settled(5, CaseStatus.NOT_CHARGED, decided_by="ann.resolver"))
    late = DecisionRefused(uuid4(), 5, "not_charged", "version_differs", "ben.resolver", "not_charged", refused.id)
    await tell_case(database, payment_id, late)
    await tell_case(database, payment_id, Settled(6, CaseStatus.CAPTURED))
    facts = (await hers.open(f"/cases/{payment_id}")).text.partition("Decision and fact")[2].partition("Take note")[0]
    assert "By ann.resolver" in facts
    assert "Evidence her dashboard" in facts
    assert f"{decision.at:%H:%M:%S}" in facts
    assert "his dashboard" not in facts


async def test_a_contradiction_names_receipt_and_refund(desk: DeskUnderTest) -> None:
    async with desk.desk.database.connection() as connection:
        await story_store.save(connection, hear(heard_messages.life_of_an_invoice()))
    database = desk.desk.database
    payment_id = heard_messages.PAYMENT
    called = CaseAttempt(NOW, "execute", "unknown", "HTTP 503")
    await keep_case(database, 31_000, payment_id=payment_id, invoice_id=heard_messages.INVOICE, attempts=(called,))
    await tell_case(database, payment_id, Settled(5, CaseStatus.NOT_CHARGED, decided_by="ben.resolver"))
    await tell_case(database, payment_id, Settled(6, CaseStatus.CAPTURED))
    page = await (await ann(desk)).open(f"/cases/{payment_id}")
    facts = page.text.partition("Decision and fact")[2].partition("Take note")[0]
    assert "Receipt ch_3QJx7tB2mm1 Charged at about 28 Nov, 02:00:00" in facts
    assert "Refund re_3QJx81" in facts


async def test_what_is_refused_about_a_case_is_noted_there_once(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    browser, here = await ann(desk), f"/cases/{payment_id}"
    stale = await checked(browser, payment_id)
    await checked(browser, payment_id, evidence="card 4242424242424242")
    await checked(browser, payment_id, version=3)
    await browser.submit(await browser.open(here), f"{here}/notes", note="4242424242424242")
    await browser.submit(await browser.open(here), f"{here}/ask", invoice_id="4242424242424242")
    await tell_case(desk.desk.database, payment_id, Settled(6, CaseStatus.CAPTURED, decided_by=None))
    await sent(browser, stale)
    found = await rows(
        environment.databases["staff"],
        "SELECT subject, details FROM journal WHERE action = 'refused' ORDER BY position",
    )
    assert {row["subject"] for row in found} == {payment_id}
    assert [(row["details"]["action"], row["details"]["code"]) for row in found] == [
        ("/cases/{payment_id}/check", "card_data"),
        ("/cases/{payment_id}/check", "version_differs"),
        ("/cases/{payment_id}/notes", "card_data"),
        ("/cases/{payment_id}/ask", "card_data"),
        ("resolve", "nothing_to_decide"),
    ]


async def test_a_check_page_without_a_decision_says_what_to_do(desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    page = await (await ann(desk)).open(f"/cases/{payment_id}/check")
    assert (page.status, "open the case, say what happened, and check it." in page.text) == (422, True)


async def test_a_wrong_decision_is_taken_back(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database, LIMIT)
    await tell_case(desk.desk.database, payment_id, Settled(5, CaseStatus.NOT_CHARGED, decided_by="ben.resolver"))
    browser = await ann(desk)
    page = await browser.open(f"/cases/{payment_id}")
    done = await browser.submit(page, f"/cases/{payment_id}/reopen", reason="I read the wrong line")
    assert "Decided: reopen" in done.text
    assert await outbox(environment) == 1


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_texts_are_only_shown(desk: DeskUnderTest, text: str) -> None:
    try:
        payment_id = await keep_case(desk.desk.database, reason=text, gateway_id=text, invoice_id=text)
    except Exception as error:  # noqa: BLE001 - what the database does not take is in no case
        pytest.skip(type(error).__name__)
    browser = await ann(desk)
    for address in (f"/cases/{payment_id}", "/cases"):
        page = await browser.open(address)
        assert page.status == 200
        assert "<script>alert" not in page.html
        acting = [at for at, one in enumerate(page.html) if not one.isprintable() and one not in "\n\u202f\xa0"]
        assert not acting, [page.html[at - 60 : at + 20] for at in acting]


def test_states_of_proposals_are_those_of_the_table() -> None:
    assert {state.value for state in ProposalState} == {"open", "agreed", "refused", "withdrawn", "outdated"}


async def test_money_is_given_back_by_a_form_with_the_same_limit(environment: Environment, desk: DeskUnderTest) -> None:
    payment_id = await keep_case(desk.desk.database, 90_000, status=CaseStatus.CAPTURED)
    browser, here = await ann(desk), f"/cases/{payment_id}"
    page = await browser.open(here)
    assert "Leave it empty to give back all that is left of 900.00 EUR." in page.text
    assert "Above 500.00 EUR a second person must agree; refunds of one payment are added up." in page.text
    wrong = await browser.submit(page, f"{here}/refund", amount="1.234", reason="damaged")
    assert (wrong.status, "Amount: such as 310.00" in wrong.text, "damaged" in wrong.html) == (422, True, True)
    assert "#refund-amount" in wrong.links, "the mistake leads to its field, whose id is its own on this page"
    done = await browser.submit(wrong, f"{here}/refund", amount="12.50", reason="damaged")
    assert "Asked for refund" in done.text
    assert await outbox(environment) == 1
    whole = await browser.submit(done, f"{here}/refund", reason="damaged")
    assert "Proposed: refund; a second person must agree" in whole.text
    assert f"{here}/refund" not in {form.action for form in whole.forms}, "the proposal is answered first"
    other = await ben(desk)
    agreed = await other.submit(await other.open(here), f"{here}/answer", saw="it came back broken", answer="agree")
    assert agreed.status == 200
    assert await outbox(environment) == 2


@pytest.mark.parametrize(
    ("amount_minor", "currency", "says"), [(LIMIT, "EUR", ""), (1, "JPY", "For any amount in JPY a second person")]
)
async def test_a_second_person_is_named_where_one_must_agree_and_nowhere_else(
    desk: DeskUnderTest, amount_minor: int, currency: str, says: str
) -> None:
    browser = await ann(desk)
    for status in (CaseStatus.CAPTURED, CaseStatus.NEEDS_DECISION):
        payment_id = await keep_case(desk.desk.database, amount_minor, status=status, currency=currency)
        text = (await browser.open(f"/cases/{payment_id}")).text
        assert says in text
        assert ("second person" in text) is bool(says)


async def test_cases_are_downloaded_as_a_table(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.staff.desk.pages.cases.DOWNLOADED_AT_ONCE", 2)
    ids = [await keep_case(desk.desk.database, at=NOW + timedelta(minutes=n), invoice_id=f"=INV-{n}") for n in range(3)]
    viewer = await desk.browser("vic", Role.VIEWER)
    page = await viewer.open("/cases")
    (link,) = {link for link in page.links if link.startswith("/cases/download")}
    file = await viewer.client.get(link)
    assert file.headers["content-disposition"] == 'attachment; filename="remit-cases-open-2026-11-28.csv"'
    header, *lines = list(csv.reader(io.StringIO(file.text)))
    assert [dict(zip(header, line, strict=True))["payment_id"] for line in lines] == [str(id_) for id_ in ids]
    assert {line[1][:2] for line in lines} == {"'="}, "no spreadsheet takes it for a formula"
    assert (await viewer.client.get("/cases/download?show=lost")).status_code == 422
