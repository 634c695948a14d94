"""What a person does at the desk of a running system, in a real browser."""

from playwright.async_api import Page, expect

from tests.browser.site import WAIT_MS, chromium_or_skip, open_browser
from tests.support.waiting import until


async def settle_in_browser(address: str, name: str, password: str, invoice: str) -> None:
    """Sign in, open the case of this invoice, ask the gateway, decide that nothing was charged, and see it settled.

    Without Chromium the test is skipped from here on.
    """
    async with open_browser(chromium_or_skip()) as browser:
        page = await browser.new_page(base_url=address)
        page.set_default_timeout(WAIT_MS)
        await page.goto("/cases")
        await page.get_by_label("Name").fill(name)
        await page.get_by_label("Password").fill(password)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        await page.get_by_role("link", name=invoice, exact=True).click()
        await _ask(page)
        await _decide(page)


async def _ask(page: Page) -> None:
    """Ask the gateway, and wait for what it answers: again nothing that can be read."""
    calls = page.get_by_role("region", name="Every call to the gateway")
    before = await calls.inner_text()

    async def is_answered() -> bool:
        await page.reload()
        return await calls.inner_text() != before

    await page.get_by_role("button", name="Ask the gateway now").click()
    await expect(page.get_by_role("status").first).to_contain_text("The gateway is asked")
    await until(is_answered, what="the answer of the gateway")


async def _decide(page: Page) -> None:
    """Somebody looked for themselves. What the services make of it shows without a click."""
    await page.get_by_role("radio", name="The card was not charged").check()
    await page.get_by_label("What you saw, and where").fill("The books of the sandbox: no charge.")
    await page.get_by_label("Why you decide so").fill("It never had it.")
    await page.get_by_role("button", name="Check it before it is sent").click()
    await page.get_by_role("button", name="Send it", exact=True).click()
    await expect(page.get_by_role("region", name="How it stands")).to_contain_text("Not charged")
