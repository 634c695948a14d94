"""The desk at an address of this machine, and people in front of it, each with a browser window of their own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Response,
    async_playwright,
    expect,
)

from deploy.local.chromium import ensure_chromium
from deploy.local.errors import StackError
from services.staff.people import Role
from tests.support.desk_browser import DeskUnderTest, open_desk
from tests.support.environment import ROOT

PICTURES = ROOT / ".remit" / "pictures"
"""What each test saw last: a picture of every window, by the name of the test."""
WAIT_MS = 20_000
"""How long a page may take to show what is expected: as long as any condition of a test (`tests.support.waiting`)."""
expect.set_options(timeout=WAIT_MS)
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="session")
"""The mark of all tests here: those of a worker share a browser, and so an event loop. It has to be there when pytest makes the tests of a
function: later, each test would get a loop, and a browser, of its own."""
EVERYBODY = (Role.VIEWER, Role.REPLAYER, Role.RESOLVER, Role.ADMIN)
WIDE, NARROW = (1280, 900), (390, 844)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""It runs as root in a container, draws without a screen, and asks nobody for anything."""
_EXPECTED = ("the server responded with a status of", "net::ERR_ABORTED")
"""What a browser says on its console of an answer that a test asked for, such as a refusal."""


@dataclass
class Site:
    """A desk with its address. `troubles` is what no page may cause: a dialog, an error of a script, a breach of the policy."""

    desk: DeskUnderTest
    url: str
    database_url: str
    browser: Browser
    troubles: list[str] = field(default_factory=list)
    windows: list[BrowserContext] = field(default_factory=list)

    async def window(
        self,
        name: str | None = "ann",
        *roles: Role,
        scripts: bool = True,
        size: tuple[int, int] = WIDE,
    ) -> Page:
        """A window in which this person is signed in. Without a name nobody is."""
        context = await self.browser.new_context(
            base_url=self.url,
            java_script_enabled=scripts,
            viewport={"width": size[0], "height": size[1]},
            reduced_motion="reduce",
        )
        context.set_default_timeout(WAIT_MS)
        self.windows.append(context)
        if name is not None:
            signed_in = await self.desk.browser(name, *(roles or EVERYBODY))
            await context.add_cookies(
                [{"name": n, "value": v, "url": self.url} for n, v in signed_in.client.cookies.items()]
            )
            await signed_in.client.aclose()
        page = await context.new_page()
        page.on("dialog", self._dialog)
        page.on("pageerror", self._error)
        page.on("console", self._console)
        page.on("response", self._response)
        return page

    async def _dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"a page opened a dialog: {dialog.message}")
        await dialog.dismiss()

    def _error(self, error: Error) -> None:
        self.troubles.append(f"a script failed: {error.message}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(known in message.text for known in _EXPECTED):
            self.troubles.append(f"the console says: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 500:
            self.troubles.append(f"{response.url} was answered with {response.status}")

    async def close(self, name: str) -> None:
        """Keep a picture of every window, and close it."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        for number, context in enumerate(self.windows, 1):
            for page in context.pages:
                await page.screenshot(path=PICTURES / f"{name}-{number}.png")
            await context.close()


class _Quiet(uvicorn.Server):
    """uvicorn without its own handling of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def chromium_or_skip() -> Path:
    """Debian's Chromium, which is installed where that may be. Without one the test is skipped."""
    try:
        return ensure_chromium(lambda _: None)
    except StackError as error:
        pytest.skip(str(error))


@asynccontextmanager
async def open_browser(chromium: Path) -> AsyncIterator[Browser]:
    """A browser without a screen."""
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield opened
        await opened.close()


@asynccontextmanager
async def open_site(database_url: str, browser: Browser) -> AsyncIterator[Site]:
    """Serve a desk over this database, at a free port of loopback."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with open_desk(database_url, url=url) as desk:
        config = uvicorn.Config(
            desk.app,
            lifespan="off",
            loop="none",
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = _Quiet(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield Site(desk, url, database_url, browser)
        finally:
            await desk.app.state.live.close()
            server.should_exit = True
            async with asyncio.timeout(10):
                await serving
            listening.close()
