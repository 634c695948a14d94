"""Every page of the desk in a browser: it can be used by everybody, on every screen, and no text of others does harm."""

import re
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_FILE_PATH  # type: ignore[import-untyped]
from playwright.async_api import Page

from services.staff.desk import contract
from services.staff.desk.app import rooms_of_pages
from shared.records import replace
from tests.browser.filled import HOSTILE, Filled, fill
from tests.browser.sending import Sending
from tests.browser.site import IN_ONE_LOOP, NARROW, WIDE, Site
from tests.browser.states import open_states

pytestmark = IN_ONE_LOOP
OUTSIDE_ROOMS = ("/sign-in", "/no-such-page")
NO_PAGES = frozenset({"/activity/download", "/cases/download"})
"""Addresses that answer with a file."""
ADDRESSES = sorted({page.address for room in rooms_of_pages() for page in room.pages} - NO_PAGES)
_AXE = AXE_FILE_PATH.read_text(encoding="utf-8")
_TAGS = '["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]'
_RUN = f"() => axe.run(document, {{resultTypes: ['violations'], runOnly: {_TAGS}}})"
_LAYOUT = f"""() => axe.run(document, {{resultTypes: ['violations'], runOnly: {_TAGS},
    rules: {{'color-contrast': {{enabled: false}}}}}})"""
_CONTRAST = (
    """() => axe.run(document, {resultTypes: ["violations"], runOnly: {type: "rule", values: ["color-contrast"]}})"""
)
_TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(one => {
    const right = one.getBoundingClientRect().right;
    if (right <= document.documentElement.clientWidth + 1) return false;
    for (let up = one; up; up = up.parentElement) {
        if (["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)) return false;
    }
    return !one.closest(".hidden, .skip, svg");
}).map(one => one.outerHTML.slice(0, 120))"""


@pytest_asyncio.fixture(loop_scope="session")
async def filled(site: Site) -> Filled:
    """With runs that stopped by themselves, and pages as they stand after somebody acted."""
    filled = await fill(site.desk.desk.database)
    for letter_id, title in ((filled.dead_letter, "KeyError"), (filled.hostile_letter, HOSTILE)):
        await Sending(site).halt_at(letter_id, title)
    return replace(filled, states=await open_states(site, HOSTILE))


def addresses(filled: Filled, *, hostile: bool = False) -> list[str]:
    """Each page of each room once, with something to see at its address."""
    samples = {
        "payment_id": filled.hostile_case if hostile else filled.case,
        "letter_id": filled.hostile_letter if hostile else filled.dead_letter,
        "id": filled.hostile_letter if hostile else filled.dead_letter,
        "command_id": filled.dead_letter,
        "invoice_id": quote(HOSTILE, safe="") if hostile else filled.invoice,
        "position": 2 if hostile else 1,
        "no": 2 if hostile else 1,
        "number": 1,
        "name": "ann",
        "group": "00000000",
    }

    def sample(match: "re.Match[str]") -> str:
        name = match[1]
        assert name in samples, f"tests/browser/test_pages.py: give `samples` a value for {{{name}}}"
        return str(samples[name])

    return [
        *(re.sub(r"\{(\w+)\}", sample, address) for address in ADDRESSES),
        "/dead-letters?queue=saga.events",
        *filled.states,
    ]


async def findings(page: Page, rules: str = _RUN) -> list[str]:
    """What axe finds on a page, in a line each."""
    if await page.evaluate("() => window.axe === undefined"):
        await page.evaluate(_AXE)
    result: dict[str, Any] = await page.evaluate(rules)
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
        for one in result["violations"]
        for node in one["nodes"]
    ]


async def findings_anywhere(page: Page) -> list[str]:
    """What axe finds in the light, in the dark and on a phone. In the dark only colours differ, and on a phone they do not. There no page
    is wider than the screen."""
    found = [f"light: {one}" for one in await findings(page)]
    await page.emulate_media(color_scheme="dark")
    found += [f"dark: {one}" for one in await findings(page, _CONTRAST)]
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    found += [f"390 px: {one}" for one in await findings(page, _LAYOUT)]
    found += [f"390 px: too wide: {part}" for part in await page.evaluate(_TOO_WIDE)]
    await page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    return found


@pytest.mark.timeout(300)  # a hundred looks of axe, on a busy machine
async def test_axe_finds_nothing_on_any_page(site: Site, filled: Filled) -> None:
    page = await site.window("ann")
    found: dict[str, list[str]] = {}
    for address in [*addresses(filled), "/no-such-page"]:
        await page.goto(address)
        if problems := await findings_anywhere(page):
            found[address] = problems
    assert not found
    out = await site.window(None)
    await out.goto("/sign-in")
    assert not await findings_anywhere(out)


async def test_axe_finds_nothing_on_the_page_about_messages(site: Site) -> None:
    """Which nobody signs in for. It fits a phone, too."""
    page = await site.window(None, size=NARROW)
    await page.goto(contract.ADDRESS)
    assert await page.locator("main h1").count() == 1
    assert not await findings(page)
    assert not await page.evaluate(_TOO_WIDE)


async def test_hostile_texts_do_nothing_on_any_page(site: Site, filled: Filled) -> None:
    """`site` sees at the end that no page opened a dialog, and that no script failed."""
    page = await site.window("ann", size=NARROW)
    for address in [*addresses(filled, hostile=True), f"/activity?about={HOSTILE[:80]}", f"/find?q={HOSTILE[:80]}"]:
        await page.goto(address)
        assert await page.locator("main h1").count() == 1, address
        assert await page.evaluate("document.querySelectorAll('main script, main img').length") == 0, address
        assert not await page.evaluate(_TOO_WIDE), address
        assert "\u202e" not in await page.locator("main").inner_text(), address


async def test_every_page_can_be_read_with_scripts_off(site: Site, filled: Filled) -> None:
    page = await site.window("ann", scripts=False)
    for address in addresses(filled):
        answer = await page.goto(address)
        assert answer is not None
        assert answer.status == 200 or (address not in filled.states and answer.status in (404, 422)), address
        assert await page.locator("main h1").count() == 1, address
        for link in await page.locator("main a[href^='/']").all():
            words = await link.text_content() or await link.get_attribute("aria-label")
            assert (words or "").strip(), f"{address}: a link without words to {await link.get_attribute('href')}"
