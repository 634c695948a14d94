"""The ways in which people use a page: by mouse, by keyboard alone, and with scripts off."""

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Locator

Press = Callable[[Locator], Awaitable[None]]


async def by_mouse(control: Locator) -> None:
    """Click it."""
    await control.click()


async def by_keyboard(control: Locator) -> None:
    """Go on with the Tab key until the control has the focus, as somebody without a mouse does."""
    page = control.page
    for _ in range(200):
        if await control.evaluate("one => one === document.activeElement"):
            await page.keyboard.press("Enter")
            return
        await page.keyboard.press("Tab")
    raise AssertionError("the Tab key does not reach the control")


WAYS = pytest.mark.parametrize(
    ("press", "scripts"), [(by_keyboard, True), (by_mouse, False)], ids=["keyboard", "mouse and no scripts"]
)
"""The mouse with scripts is in the tests that have one way only: races, second clicks, what is selected, sessions that end."""
