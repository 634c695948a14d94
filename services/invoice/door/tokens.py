"""Who asks, by a token. Wrong ones cost the database little, however many come and from wherever."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.invoice import sender_tokens
from shared.clock import Clock
from shared.persistence.database import Database
from shared.tokens import hash_of, is_token
from shared.web.limiter import Limiter

WRONG_BURST, WRONG_EVERY_S = 20, 3.0
"""Wrong tokens of one address: so many at once, and then one every so many seconds."""
NEW_AT_ONCE: Final = 4
"""Connections of the database by which tokens are looked up that are not known to hold. The others are for senders who came before."""
NEW_WAITING_MAX: Final = 20
"""So many wait for that before an address that sent many wrong ones is told to ask again."""
KNOWN_MAX: Final = 10_000
"""Tokens that held when they were last looked up. They are looked up again each time, but never behind those of strangers."""


class TooManyWrongError(Exception):
    """Too many wrong tokens came from an address, which may ask again after `again_in_s` seconds."""

    def __init__(self, again_in_s: int) -> None:
        super().__init__(again_in_s)
        self.again_in_s = again_in_s


class TokenReader:
    """Knows the sender of a token."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._wrong = Limiter(burst=WRONG_BURST, every_s=WRONG_EVERY_S, clock=clock)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._new = asyncio.Semaphore(NEW_AT_ONCE)
        self._waiting = 0

    async def sender_of(self, token: str | None, address: str) -> str | None:
        """The sender whose token this is; None if it does not hold. What is no token is not looked up.

        Raises TooManyWrongError, and what the database raises.
        """
        sender = await self._look_up(token, address) if token is not None and is_token(token) else None
        if sender is None and (again_in_s := self._wrong.wait_s(address)):
            raise TooManyWrongError(again_in_s)
        return sender

    async def _look_up(self, token: str, address: str) -> str | None:
        digest = hash_of(token)
        if digest not in self._known:
            async with self._turn(address):
                if digest not in self._known:  # others with the same token may have been before it
                    return self._noted(digest, await self._read(token))
        return self._noted(digest, await self._read(token))

    def _noted(self, digest: bytes, sender: str | None) -> str | None:
        self._known.pop(digest, None)
        if sender is not None:
            self._known[digest] = None
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return sender

    @asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        """A token that is new is looked up in here."""
        if self._waiting >= NEW_WAITING_MAX and (again_in_s := self._wrong.left_wait_s(address)):
            raise TooManyWrongError(again_in_s)
        self._waiting += 1
        try:
            async with self._new:
                yield
        finally:
            self._waiting -= 1

    async def _read(self, token: str) -> str | None:
        async with self._database.connection() as connection:
            return await sender_tokens.sender_of(connection, token)
