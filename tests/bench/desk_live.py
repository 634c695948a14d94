"""How much of a core the desk takes while many browsers look at live numbers that change each second.

The desk runs as a process of its own, as in production; each browser has a session and a stream of its own.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Final
from urllib.parse import quote

import asyncpg
import httpx

from deploy.local.fleet import Fleet, open_fleet
from deploy.local.stack import Stack
from services.staff.actions import accounts
from services.staff.desk.live import TELL_EVERY_S
from services.staff.desk.passwords import hashed, new_password
from services.staff.people import Role, at_terminal
from shared.persistence.database import Database
from tests.bench.measure import Meter
from tests.support.desk_browser import seen

BROWSERS: Final = 20
GOAL_PERCENT: Final = 5.0
PAGES: Final = ("/", "/cases", "/dead-letters", "/", "/stuck", "/activity", "/invoices/INV-40")
"""What the browsers look at, in turn."""
MEASURED_S: Final = 20
"""Long beside the clock of the kernel, which counts hundredths of a second."""
DESK: Final = "desk"
START_TIMEOUT_S: Final = 20.0
EVENT: Final = "event: "
CHANGES: Final = (
    "UPDATE cases SET amount_minor = amount_minor + 1 WHERE payment_id = (SELECT payment_id FROM cases WHERE status = 'in_doubt' LIMIT 1)",
    """UPDATE dead_letters SET status = 'open', settled_by = NULL, settled_at = NULL
        WHERE id = (SELECT id FROM dead_letters WHERE status = 'replayed' LIMIT 1)""",
    """INSERT INTO journal (id, at, who, action, subject, details)
        VALUES (gen_random_uuid(), now(), 'person.1', 'ask', md5('payment40')::uuid, '{"via": "desk"}')""",
)
"""What happens each second: sums, counts, groups, the log and a story are other ones then."""


@dataclass(frozen=True, slots=True)
class LiveShare:
    """CPU of the desk in percent of a core, and how many parts of pages were sent to all browsers together."""

    percent: float
    parts: int


async def share_of_a_core(stack: Stack, *, seconds: float = MEASURED_S) -> LiveShare:
    """Let all browsers look for so long, and measure. Raises AssertionError if a browser hears nothing."""
    async with AsyncExitStack() as ends:
        fleet = ends.enter_context(open_fleet({}, environment_of=stack.environment_of))
        url, password = await _start_desk(stack, fleet)
        heard = [Counter[str]() for _ in range(BROWSERS)]
        listening = await asyncio.gather(*(_listen(ends, url, password, number, heard) for number in range(BROWSERS)))
        changing = asyncio.create_task(_change(stack.administrator_database_url("staff")))
        await asyncio.sleep(2)  # the first parts were drawn
        meter = Meter({DESK: fleet.pid(DESK)})
        before, parts_before = meter.read(), _parts(heard)
        await asyncio.sleep(seconds)
        spent, parts = meter.read().since(before), _parts(heard) - parts_before
        for task in (changing, *listening):
            assert not task.done(), "a browser lost its stream, or nothing changed"
            task.cancel()
        await asyncio.gather(changing, *listening, return_exceptions=True)
    told = min(one.total() for one in heard)
    assert told >= seconds // TELL_EVERY_S - 1, "a browser heard less than the moment of its page"
    assert parts, "no part of a page was sent, so nothing was measured"
    return LiveShare(100 * spent.cpu_s[DESK] / spent.elapsed_s, parts)


def _parts(heard: Sequence[Counter[str]]) -> int:
    return sum(one["part"] for one in heard)


async def _start_desk(stack: Stack, fleet: Fleet) -> tuple[str, str]:
    password = new_password()
    who, kept = at_terminal("bench"), hashed(password)
    database = await Database.open(stack.service_database_url("staff"), name="bench accounts", connections_max=1)
    try:
        for number in range(BROWSERS):
            await accounts.add_person(database, f"live{number}", roles=tuple(Role), password=kept, who=who)
    finally:
        await database.close()
    port = fleet.claim_port()
    url = f"http://127.0.0.1:{port}"
    fleet.start(DESK, program="services.staff.desk", DESK_PORT=str(port), DESK_URL=url, DESK_ENVIRONMENT="bench")
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(START_TIMEOUT_S):
        while not await _answers(client):
            await asyncio.sleep(0.1)
    return url, password


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/sign-in")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _listen(
    ends: AsyncExitStack, url: str, password: str, number: int, heard: Sequence[Counter[str]]
) -> "asyncio.Task[None]":
    """Sign in, open a page, and count the parts of it that come."""
    client = await ends.enter_async_context(httpx.AsyncClient(base_url=url, follow_redirects=True, timeout=30))
    form = seen(await client.get("/sign-in")).form("/sign-in")
    fields = form.fields | {"username": f"live{number}", "password": password}
    said = {"sec-fetch-site": "same-origin", "origin": url}
    await client.post(form.action, data=fields, headers=said)
    page = await client.get(PAGES[number % len(PAGES)])
    assert page.status_code == httpx.codes.OK, page.text
    keys = dict.fromkeys(unescape(key) for key in re.findall(r'data-live="([^"]+)"', page.text))
    assert keys, f"{page.url} has no live part"
    events = await ends.enter_async_context(_stream(client, ",".join(keys)))
    return asyncio.create_task(_count(events, heard[number]))


@asynccontextmanager
async def _stream(client: httpx.AsyncClient, keys: str) -> AsyncIterator[httpx.Response]:
    async with client.stream("GET", f"/live?on={quote(keys)}", timeout=httpx.Timeout(30)) as response:
        assert response.status_code == httpx.codes.OK, await response.aread()
        yield response


async def _count(events: httpx.Response, heard: Counter[str]) -> None:
    """Count what comes by its kind: parts of the page, and of which moment it is."""
    async for line in events.aiter_lines():
        if line.startswith(EVENT):
            heard[line.removeprefix(EVENT)] += 1


async def _change(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        while True:
            for statement in CHANGES:
                await connection.execute(statement, timeout=10)
            await asyncio.sleep(1)
    finally:
        await connection.close()
