"""Secrets that nobody knows yet, such as tokens and cookies. Wrong ones cost the database little, however many come and from wherever."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from shared.clock import Clock
from shared.web.limiter import Limiter

WRONG_BURST, WRONG_EVERY_S = 20, 3.0
"""Wrong secrets of one address: so many at once, and then one every so many seconds."""
NEW_AT_ONCE: Final = 4
"""Connections of the database by which secrets are looked up that are not known to hold. The others are for those who came before."""
NEW_WAITING_MAX: Final = 20
"""So many wait for that before an address that sent many wrong ones is told to ask again."""
KNOWN_MAX: Final = 10_000
"""Secrets that held when they were last looked up. They are looked up again each time, but never behind those of strangers."""

_Owner = TypeVar("_Owner")


class TooManyWrongError(Exception):
    """Too many wrong secrets came from an address, which may ask again after `again_in_s` seconds."""

    def __init__(self, again_in_s: int) -> None:
        super().__init__(again_in_s)
        self.again_in_s = again_in_s


class Strangers:
    """Looks up whose secret it is, those of strangers a few at a time."""

    def __init__(self, clock: Clock) -> None:
        self._wrong = Limiter(burst=WRONG_BURST, every_s=WRONG_EVERY_S, clock=clock)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._new = asyncio.Semaphore(NEW_AT_ONCE)
        self._waiting = 0

    async def look_up(self, digest: bytes, address: str, read: Callable[[], Awaitable[_Owner | None]]) -> _Owner | None:
        """What `read` finds for the secret with this digest, if anything. Raises TooManyWrongError, and what `read` raises."""
        if digest not in self._known:
            async with self._turn(address):
                if digest not in self._known:  # others with the same secret may have been before it
                    return self._noted(digest, await read())
        return self._noted(digest, await read())

    def was_wrong(self, address: str) -> None:
        """Count a wrong secret. Raises TooManyWrongError if it is one too many."""
        if again_in_s := self._wrong.wait_s(address):
            raise TooManyWrongError(again_in_s)

    def _noted(self, digest: bytes, owner: _Owner | None) -> _Owner | None:
        self._known.pop(digest, None)
        if owner is not None:
            self._known[digest] = None
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return owner

    @asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        """A secret that is new is looked up in here."""
        if self._waiting >= NEW_WAITING_MAX and (again_in_s := self._wrong.left_wait_s(address)):
            raise TooManyWrongError(again_in_s)
        self._waiting += 1
        try:
            async with self._new:
                yield
        finally:
            self._waiting -= 1
