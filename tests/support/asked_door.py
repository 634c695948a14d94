"""The door as a sender finds it: a process's worth of it in this one, and a client that asks with a token."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from services.invoice import sender_tokens
from services.invoice.door.__main__ import serve_door
from services.invoice.door.settings import DoorSettings
from shared.persistence.database import Database
from shared.settings import EnvironmentVariables
from tests.support.environment import Environment
from tests.support.ports import free_port
from tests.support.waiting import until

STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class DoorReply:
    """What the door answered, and how long that took."""

    status: int
    headers: dict[str, str]
    content: bytes
    seconds: float = field(compare=False)

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class AskedDoor:
    """A door that listens at `url`. Each asker sends the token that was made for it here."""

    url: str
    session: aiohttp.ClientSession
    _database: Database
    _stopping: asyncio.Event
    tokens: dict[str, str] = field(default_factory=dict)

    async def token(self, sender: str) -> str:
        """The token of a sender, which is made the first time."""
        if sender not in self.tokens:
            self.tokens[sender] = (await sender_tokens.make(self._database, sender, days=1)).secret
        return self.tokens[sender]

    def stop(self) -> None:
        """Tell the process to stop."""
        self._stopping.set()

    async def revoke(self, sender: str) -> None:
        """Revoke all tokens of a sender."""
        for token in await sender_tokens.tokens(self._database, sender):
            await sender_tokens.revoke(self._database, token.id)

    async def ask(self, sender: str, path: str, *, wait: float | None = None) -> DoorReply:
        """Ask in the name of a sender."""
        return await self.get(path, f"Bearer {await self.token(sender)}", wait=wait)

    async def get(self, path: str, authorization: str | None = None, *, wait: float | None = None) -> DoorReply:
        """Ask with this header, or none."""
        headers = {} if authorization is None else {"authorization": authorization}
        begun = time.monotonic()
        query = "" if wait is None else f"?wait={wait:g}"
        url = URL(f"{self.url}{path}{query}", encoded=True)
        async with self.session.get(url, headers=headers, allow_redirects=False) as response:
            content = await response.read()
        answered = {name.lower(): value for name, value in response.headers.items() if name.lower() != "date"}
        return DoorReply(response.status, answered, content, time.monotonic() - begun)


@asynccontextmanager
async def open_door(
    environment: Environment, *, database_url: str | None = None, **variables: str
) -> AsyncIterator[AskedDoor]:
    """Run a door under its own role. At the end it is told to stop, and its exit code must be 0."""
    port = free_port()
    own = database_url or environment.stack.database_url_of("invoice", "door")
    told = {"INVOICE_DATABASE_URL": own, "DOOR_PORT": str(port), **variables}
    known = {name: value for name, value in os.environ.items() if name.startswith(("SENDER", "UNOWNED", "STAFF_USER"))}
    settings = DoorSettings.read(EnvironmentVariables(known | told))
    stopping = asyncio.Event()
    running = asyncio.create_task(serve_door(settings, stopping))
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            door = AskedDoor(f"http://127.0.0.1:{port}", session, database, stopping)

            async def listens() -> bool:
                assert not running.done(), running
                try:
                    return (await door.get("/")).status == 404
                except aiohttp.ClientConnectionError:
                    return False

            await until(listens, what="the door to listen")
            yield door
            stopping.set()
            async with asyncio.timeout(STOP_TIMEOUT_S):
                assert await running == 0
    finally:
        stopping.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await database.close()
