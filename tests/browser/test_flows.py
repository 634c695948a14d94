"""What people do at the desk, by mouse, by keyboard alone, and with scripts off."""

import asyncio
import re

import pytest
from playwright.async_api import Page, expect
from prometheus_client import REGISTRY

from services.staff import store
from services.staff.desk.passwords import hashed
from services.staff.journal_check import PAUSE_S, JournalCheck
from services.staff.people import Role
from tests.browser.filled import Filled
from tests.browser.site import Site
from tests.browser.ways import WAYS, Press, by_mouse
from tests.support.kept_cases import keep_case
from tests.support.waiting import until

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


@WAYS
async def test_who_is_woken_opens_the_case_that_waits(site: Site, filled: Filled, press: Press, scripts: bool) -> None:
    page = await site.window("ann.resolver", Role.RESOLVER, scripts=scripts)
    await page.goto("/")
    await expect(page.locator("main")).to_contain_text("INV-20418")
    await press(page.locator(f"main a[href='/cases/{filled.case}']").first)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("INV-20418")
