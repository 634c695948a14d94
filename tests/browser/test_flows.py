"""What people do at the desk, by mouse, by keyboard alone, and with scripts off."""

import asyncio
import re
from datetime import timedelta

import pytest
from playwright.async_api import Page, expect
from prometheus_client import REGISTRY

from services.staff import store, story_store
from services.staff.desk.passwords import hashed
from services.staff.heard import hear
from services.staff.journal_check import PAUSE_S, JournalCheck
from services.staff.people import Role
from shared.records import replace
from tests.browser.filled import Filled
from tests.browser.site import IN_ONE_LOOP, Site
from tests.browser.states import CAPTURED, CONTRADICTED, case_after
from tests.browser.ways import WAYS, Press, by_keyboard, by_mouse
from tests.support.desk_browser import NOW
from tests.support.heard_messages import INVOICE, life_of_an_invoice
from tests.support.kept_cases import ATTEMPT, keep_case, kept_case_of
from tests.support.waiting import until

pytestmark = IN_ONE_LOOP
PASSWORD = "correct horse battery staple"


async def looked(site: Site) -> None:
    check = JournalCheck(site.desk.desk.database, site.desk.clock)
    while await check.run_once() == PAUSE_S:
        pass


@WAYS
async def test_somebody_signs_in_and_out(site: Site, press: Press, scripts: bool) -> None:
    await site.desk.account("ben", Role.VIEWER, password=hashed(PASSWORD))
    page = await site.window(None, scripts=scripts)
    await page.goto("/words")
    await page.get_by_label("Name").fill("ben")
    await page.get_by_label("Password").fill("wrong")
    await press(page.get_by_role("button", name="Sign in", exact=True))
    await expect(page.get_by_text("Name or password is wrong.").first).to_be_visible()
    await page.get_by_label("Password").fill(PASSWORD)
    await press(page.get_by_role("button", name="Sign in", exact=True))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Words and help")
    await page.locator(".me summary").focus()
    await press(page.locator(".me summary"))
    await press(page.get_by_role("button", name="Sign out"))
    await expect(page.get_by_label("Password")).to_be_visible()
    await page.goto("/words")
    await expect(page).to_have_url(f"{site.url}/sign-in?page=%2Fwords")


@WAYS
async def test_the_auditor_checks_the_log_and_reads_an_entry(
    site: Site,
    filled: Filled,
    press: Press,
    scripts: bool,
) -> None:
    page = await site.window("vera", Role.VIEWER, scripts=scripts)
    await page.goto("/activity")
    await expect(page.get_by_text("The log is not checked")).to_be_visible()
    await press(page.get_by_role("button", name="Check it now"))
    await expect(page.get_by_text("It is being checked.").first).to_be_visible()
    await looked(site)
    await page.goto("/activity")
    await expect(page.get_by_role("heading", name="The log is whole")).to_be_visible()
    await page.get_by_label("What").select_option("Refusals")
    await press(page.get_by_role("button", name="Show", exact=True))
    await expect(page.locator("tbody tr")).to_have_count(1)
    await press(page.get_by_role("link", name="Entry 3"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Entry 3")
    await expect(page.get_by_text("refused: version differs").first).to_be_visible()


async def test_the_log_is_downloaded(site: Site, filled: Filled) -> None:
    page = await site.window("vera", Role.VIEWER)
    await page.goto("/activity")
    async with page.expect_download() as coming:
        await page.get_by_role("link", name="Download as CSV").click()
    download = await coming.value
    assert download.suggested_filename == "remit-log-2026-11-28.csv"
    assert (await download.path()).read_text().count("\n") >= 4


# -- cases -------------------------------------------------------------------------------------------------------------------------------


async def limit(site: Site, above_minor: int) -> None:
    """Up to this amount in EUR one person decides alone."""
    async with site.desk.desk.database.transaction() as tx:
        await store.set_second_person_limits(tx, {"EUR": above_minor})


async def check(page: Page, press: Press, filled: Filled, *, says: str = "The card was not charged") -> None:
    """Fill in a decision, and go on to look it over."""
    await page.goto(f"/cases/{filled.case}")
    await page.get_by_role("radio", name=says).check()
    await page.get_by_label("What you saw, and where").fill("The gateway's dashboard at 03:16: no charge.")
    await page.get_by_label("Why you decide so").fill("It never had it.")
    await press(page.get_by_role("button", name="Check it before it is sent"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Check it before it is sent")


def case_page(filled: Filled) -> re.Pattern[str]:
    """The address of the case, and of nothing below it."""
    return re.compile(rf"/cases/{filled.case}(\?[^/]*)?(#\w*)?$")


async def messages(site: Site) -> int:
    """How many messages wait to be sent."""
    async with site.desk.desk.database.connection() as connection:
        return int(await connection.fetchval("SELECT coalesce(sum(cardinality(ids)), 0) FROM outbox"))


@WAYS
async def test_money_in_doubt_is_decided(site: Site, filled: Filled, press: Press, scripts: bool) -> None:
    await limit(site, 500_000)
    page = await site.window("ben.resolver", Role.RESOLVER, scripts=scripts)
    await page.goto("/cases")
    await press(page.locator(f"a[href='/cases/{filled.case}']").first)
    await press(page.get_by_role("button", name="Ask the gateway now"))
    await expect(page.get_by_role("status").first).to_contain_text("The gateway is asked")
    await check(page, press, filled)
    assert await messages(site) == 1, "the question; nothing is sent by looking it over"
    await press(page.get_by_role("button", name="Send it", exact=True))
    await expect(page).to_have_url(case_page(filled))
    assert await messages(site) == 2


async def test_lists_and_the_menu_are_live_while_somebody_looks(site: Site) -> None:
    """Also on a page without a live part. A page that nobody sees takes no connection, and is live again once it is looked at."""
    cases, words = await site.window("ben.resolver", Role.RESOLVER), await site.window("cleo.resolver", Role.RESOLVER)
    await cases.goto("/cases")
    await words.goto("/words")
    count = words.locator("[data-count=cases]")
    await expect(words.locator("[data-count=replays]")).to_be_hidden()
    await expect(count).to_be_hidden()
    site.desk.clock.forward(seconds=5)
    await keep_case(site.desk.desk.database, at=site.desk.clock())
    await expect(cases.get_by_role("link", name="1 more since this list began. Show it")).to_be_visible()
    await expect(cases.get_by_text("No payment is in doubt.")).to_be_visible()
    await expect(count).to_have_text("1 open")
    await expect(words.locator("[data-live-state]")).to_be_hidden()
    await words.evaluate(_LOOK, True)
    await until(only_one_is_live, what="the hidden page to go")
    site.desk.clock.forward(seconds=5)
    await keep_case(site.desk.desk.database, at=site.desk.clock())
    await expect(cases.get_by_role("link", name="2 more since this list began. Show them")).to_be_visible()
    await expect(count).to_have_text("1 open")
    await words.evaluate(_LOOK, False)
    await expect(count).to_have_text("2 open")


@pytest.mark.parametrize(("typing", "scrolled"), [(True, False), (False, False), (True, True)])
async def test_what_somebody_is_at_stays_where_it_is_when_an_answer_shows_above_it(
    site: Site, *, typing: bool, scrolled: bool
) -> None:
    """At the top of a page no browser does it by itself; further down, this one does, and it must not be done twice."""
    database = site.desk.desk.database
    payment_id = await keep_case(database, attempts=())
    page = await site.window("ben.resolver", Role.RESOLVER)
    await page.goto(f"/cases/{payment_id}")
    field = page.locator("#evidence")
    bottom = await field.evaluate("field => Math.ceil(field.getBoundingClientRect().bottom)")
    await page.set_viewport_size({"width": 1280, "height": bottom // (3 if scrolled else 1)})
    await field.scroll_into_view_if_needed()
    await (field.focus() if typing else field.hover())
    before = await field.evaluate(_TOP)
    case = (await kept_case_of(database, payment_id)).case
    asked = replace(case, attempts=tuple(replace(ATTEMPT, step=step) for step in ("prepare", "execute", "inquire")))
    async with database.transaction() as tx:
        await store.save_cases(tx, [(asked, "C-1")], site.desk.clock(), locked={payment_id})
    await expect(page.get_by_text("HTTP 503").first).to_be_attached()
    assert abs(await field.evaluate(_TOP) - before) <= 1


_TOP = "field => field.getBoundingClientRect().top"

_LOOK = """away => {
    Object.defineProperty(document, "hidden", {value: away, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
"""Whoever looks goes away, or comes back: a browser without a screen shows all of its pages."""


async def only_one_is_live() -> bool:
    return REGISTRY.get_sample_value("remit_desk_live_browsers") == 1


@WAYS
async def test_two_people_decide_above_the_limit(site: Site, filled: Filled, press: Press, scripts: bool) -> None:
    await limit(site, 50_000)
    ben = await site.window("ben.resolver", Role.RESOLVER, scripts=scripts)
    await check(ben, press, filled)
    await press(ben.get_by_role("button", name="Send it to a second person"))
    await expect(ben.get_by_role("heading", name="Somebody else must agree")).to_be_visible()
    assert await messages(site) == 0
    cleo = await site.window("cleo.resolver", Role.RESOLVER, scripts=scripts)
    await cleo.goto(f"/cases/{filled.case}")
    await press(cleo.get_by_role("button", name="I agree: not charged"))
    await expect(cleo.get_by_role("heading", name="Nothing was done")).to_be_visible()
    assert await messages(site) == 0, "without what they saw, nobody agrees"
    await cleo.get_by_label("What you saw, and where").fill("I looked as well: there is no such charge.")
    await press(cleo.get_by_role("button", name="I agree: not charged"))
    await expect(cleo.get_by_role("button", name="I agree: not charged")).to_have_count(0)
    assert await messages(site) == 1


async def test_what_was_settled_is_noted_taken_back_and_given_back(site: Site) -> None:
    """By keyboard alone. The gateway contradicted one decision; of the others one was wrong, and for one the customer wants money back."""
    await limit(site, 500_000)
    contradicted, wrong, kind = [await case_after(site, *facts) for facts in (CONTRADICTED, CAPTURED, CAPTURED)]
    page = await site.window("ben.resolver", Role.RESOLVER)
    await page.goto(f"/cases/{contradicted}")
    await page.get_by_label("What was learned, and who was told").fill("The dashboard lagged three hours.")
    await by_keyboard(page.get_by_role("button", name="I took note of it"))
    await expect(page.get_by_role("status").first).to_contain_text("you took note of it")
    await expect(page.get_by_role("button", name="I took note of it")).to_have_count(0)
    await page.goto(f"/cases/{wrong}")
    await by_keyboard(page.locator("summary", has_text="Take it back…"))
    await page.get_by_label("Why it was wrong").fill("I read the wrong line.")
    await by_keyboard(page.get_by_role("button", name="Take the decision back"))
    await expect(page.get_by_role("status").first).to_contain_text("Decided: reopen")
    assert await messages(site) == 1
    await page.goto(f"/cases/{kind}")
    await by_keyboard(page.locator("summary", has_text="Give back…"))
    await page.get_by_label("Amount in EUR").fill("1,000.50")
    await page.get_by_label("Why", exact=True).fill("A broken lamp.")
    await by_keyboard(page.get_by_role("button", name="Give it back"))
    await expect(page.locator("#mistakes")).to_be_visible()
    assert await messages(site) == 1
    await page.get_by_label("Amount in EUR").fill("12.50")
    await by_keyboard(page.get_by_role("button", name="Give it back"))
    await expect(page.get_by_role("status").first).to_contain_text("Asked for refund")
    assert await messages(site) == 2


async def test_a_proposal_is_not_agreed_with_and_another_is_taken_back(site: Site, filled: Filled) -> None:
    """By mouse, with scripts off."""
    ben = await site.window("ben.resolver", Role.RESOLVER, scripts=False)
    cleo = await site.window("cleo.resolver", Role.RESOLVER, scripts=False)
    propose = ben.get_by_role("button", name="Send it to a second person")
    await check(ben, by_mouse, filled)
    await propose.click()
    await cleo.goto(f"/cases/{filled.case}")
    await cleo.get_by_label("What you saw, and where").fill("The dashboard at 03:20 has a charge.")
    await cleo.get_by_role("button", name="I do not agree").click()
    await expect(cleo.get_by_role("button", name="I do not agree")).to_have_count(0)
    await expect(cleo.get_by_role("button", name="Check it before it is sent")).to_be_visible()
    await check(ben, by_mouse, filled)
    await propose.click()
    await ben.get_by_role("button", name="Take it back", exact=True).click()
    await expect(ben.get_by_role("button", name="Check it before it is sent")).to_be_visible()
    assert await messages(site) == 0


async def test_of_two_people_who_decide_at_once_one_wins_and_the_other_reads_who(site: Site, filled: Filled) -> None:
    await limit(site, 500_000)
    windows = [await site.window(name, Role.RESOLVER) for name in ("ben.resolver", "cleo.resolver")]
    for page in windows:
        await check(page, by_mouse, filled)
    send = [page.get_by_role("button", name="Send it", exact=True) for page in windows]
    await asyncio.gather(*(by_mouse(button) for button in send))
    for page in windows:
        case = page.get_by_role("heading", level=1).filter(has_text=filled.invoice)
        await expect(case.or_(page.get_by_role("heading", name="Nothing was done")).first).to_be_visible()
    assert await messages(site) == 1
    lost = [page for page in windows if await page.get_by_role("heading", name="Nothing was done").count()]
    assert len(lost) == 1
    winner = "cleo.resolver" if lost[0] is windows[0] else "ben.resolver"
    await expect(lost[0].locator("#mistakes")).to_contain_text(winner, ignore_case=True)


async def test_a_second_click_sends_nothing_twice(site: Site, filled: Filled) -> None:
    await limit(site, 500_000)
    page = await site.window("ben.resolver", Role.RESOLVER)
    await check(page, by_mouse, filled)
    await page.get_by_role("button", name="Send it", exact=True).dblclick()
    await expect(page).to_have_url(case_page(filled))
    await page.wait_for_load_state()
    await page.go_back()
    await page.reload()
    assert await messages(site) == 1


async def test_what_was_typed_is_kept_when_the_session_ends_meanwhile(site: Site, filled: Filled) -> None:
    await site.desk.account("ben.resolver", Role.RESOLVER, password=hashed(PASSWORD))
    page = await site.window("ben.resolver", Role.RESOLVER)
    await page.goto(f"/cases/{filled.case}")
    await page.get_by_role("radio", name="The card was not charged").check()
    await page.get_by_label("What you saw, and where").fill("seen before the session ended")
    await page.get_by_label("Why you decide so").fill("It never had it.")
    site.desk.clock.forward(minutes=40)
    await page.get_by_role("button", name="Check it before it is sent").click()
    await expect(page.get_by_label("Password")).to_be_visible()
    await page.get_by_label("Name").fill("ben.resolver")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_label("What you saw, and where")).to_have_value("seen before the session ended")
    assert await messages(site) == 0


# -- a customer calls; three in the morning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scripts", [True, False], ids=["keys", "plain"])
async def test_a_customer_calls_and_the_story_opens(site: Site, filled: Filled, scripts: bool) -> None:
    page = await site.window("ann.resolver", Role.RESOLVER, scripts=scripts)
    await page.goto("/")
    if scripts:
        await page.keyboard.press("/")
        await expect(page.locator("#q")).to_be_focused()
    else:
        await page.locator("#q").focus()
    await page.keyboard.type(filled.invoice)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text(filled.invoice)


async def test_a_customer_who_knows_an_amount_and_a_day_is_found(site: Site) -> None:
    """By keyboard alone."""
    async with site.desk.desk.database.transaction() as tx:
        await story_store.save(tx, hear(life_of_an_invoice(NOW - timedelta(hours=4))))
    page = await site.window("ann.resolver", Role.RESOLVER)
    await page.goto("/find?q=nothing-like-it")
    for amount, says in (("12.00", "Nothing found"), ("310.00", INVOICE)):
        await page.get_by_label("Amount", exact=True).fill(amount)
        await page.get_by_label("Day", exact=True).fill(f"{NOW:%Y-%m-%d}")
        await by_keyboard(page.get_by_role("region", name="By amount and day").get_by_role("button"))
        await expect(page.locator("main")).to_contain_text(says)


async def test_an_admin_lets_somebody_in_and_shuts_them_out(site: Site) -> None:
    admin, dora = await site.window("cleo.admin", Role.ADMIN), await site.window(None)
    await admin.goto("/people")
    new = admin.get_by_role("region", name="Somebody new")
    await new.get_by_label("Name").fill("dora")
    await new.get_by_label("Password").fill(PASSWORD)
    await new.get_by_role("checkbox", name="replayer").check()
    await new.get_by_role("button").click()
    await expect(admin.get_by_role("row").filter(has_text="dora")).to_contain_text("replayer")
    await dora.goto("/dead-letters")
    await dora.get_by_label("Name").fill("dora")
    await dora.get_by_label("Password").fill(PASSWORD)
    await dora.get_by_role("button", name="Sign in", exact=True).click()
    await expect(dora.get_by_role("heading", level=1)).to_have_text("Failed messages")
    await admin.locator("summary", has_text="Change dora").click()
    await admin.get_by_role("row").filter(has_text="dora").get_by_role("button", name="Shut out, at once").click()
    await expect(admin.get_by_role("row").filter(has_text="dora")).to_contain_text("may not sign in")
    await dora.goto("/dead-letters")
    await expect(dora.get_by_label("Password")).to_be_visible()
    token = admin.get_by_role("region", name="A token for a program")
    await token.get_by_label("Name of the program").fill("nightly")
    await token.get_by_role("checkbox", name="viewer").check()
    await token.get_by_role("button", name="Make a token").click()
    await expect(admin.locator("[data-secret]")).to_contain_text("it is shown once")
    await admin.goto("/people")
    await expect(admin.locator("[data-secret]")).to_have_count(0)
    await expect(admin.get_by_role("row").filter(has_text="nightly")).to_contain_text("viewer")


@WAYS
async def test_who_is_woken_opens_the_case_that_waits(site: Site, filled: Filled, press: Press, scripts: bool) -> None:
    page = await site.window("ann.resolver", Role.RESOLVER, scripts=scripts)
    await page.goto("/")
    await expect(page.locator("main")).to_contain_text("INV-20418")
    await press(page.locator(f"main a[href='/cases/{filled.case}']").first)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("INV-20418")
