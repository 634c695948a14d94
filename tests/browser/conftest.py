"""One browser for all tests of a worker, a new window for each person of a test. Without Chromium these tests are skipped."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.filled import Filled, fill
from tests.browser.site import Site, chromium_or_skip, open_browser, open_site
from tests.support.databases import truncate
from tests.support.environment import Environment


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Debian's Chromium, which is installed where that may be."""
    return chromium_or_skip()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """A browser without a screen."""
    async with open_browser(chromium) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def site(
    environment_urls: Environment, browser: Browser, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Site]:
    """The desk at an address, over its own tables, which are empty. At the end no page may have caused a trouble."""
    url = environment_urls.databases["staff"]
    await truncate(url)
    async with open_site(url, browser) as opened:
        yield opened
        await opened.close(re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-"))
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelname == "ERROR"]
    assert not opened.troubles + errors


@pytest_asyncio.fixture(loop_scope="session")
async def filled(site: Site) -> Filled:
    """Something to see on every page: cases, failed messages, entries of the log."""
    return await fill(site.desk.desk.database)
