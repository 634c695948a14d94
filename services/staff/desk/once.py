"""A form that is sent twice does something once: by a second click, a reload, or a browser that tries again."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, model_validator

from services.staff import people_store
from services.staff.desk.desk import Desk
from services.staff.desk.problems import Refused
from services.staff.people_store import RequestRecord

NUL = "\x00"
"""The one character that no text of the database can have. Nobody types it."""


class Act(BaseModel):
    """What every form sends. `once` is the id of the form: the page chose it, and sending the form again does nothing again."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
    once: UUID

    @model_validator(mode="before")
    @classmethod
    def _without_nul(cls, sent: Any) -> Any:
        return _without_nul(sent)


def _without_nul(sent: Any) -> Any:
    match sent:
        case str():
            return sent.replace(NUL, "\ufffd")
        case list() | tuple():
            return [_without_nul(one) for one in sent]
        case Mapping():
            return {_without_nul(name): _without_nul(one) for name, one in sent.items()}
        case _:
            return sent


class Done(BaseModel):
    """An act that was done: a sentence about it, the page to show then, and its entry in the journal.

    `undo` is the address of the act that takes it back, until `undo_until`. `secret` is shown once and kept nowhere.
    """

    model_config = ConfigDict(frozen=True)
    text: str
    location: str
    entry: UUID | None = None
    undo: str | None = None
    undo_until: datetime | None = None
    secret: str | None = None


class AtWork:
    """The forms that this process handles now: the same one waits for its first result."""

    def __init__(self) -> None:
        self._locks: dict[UUID, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def on(self, once: UUID) -> AsyncIterator[None]:
        """Handle this form alone."""
        lock, waiting = self._locks.get(once, (asyncio.Lock(), 0))
        self._locks[once] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[once]
            if waiting == 1:
                del self._locks[once]
            else:
                self._locks[once] = lock, waiting - 1


SENT = "sent"
"""Where the record of a form keeps the digest of what it said."""
SENT_BEFORE = Refused(
    "sent_before", "This form was sent before, and said something else then: open the page again and fill it in anew."
)


def digest_of(form: Act) -> str:
    """What a form said, as a digest. Passwords are left out: nobody shall try them out by it."""
    said = {name: value for name, value in form.model_dump(mode="json").items() if not name.startswith("password")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


async def perform(
    desk: Desk, at_work: AtWork, form: Act, *, who: str, act: str, do: Callable[[], Awaitable[Done]]
) -> Done:
    """Do what a form asks for, or tell what it did when it came first. Raises `Refused` if it said something else then.

    The result is kept after the act. If the process dies in between, the act is sent again under the same ids: the journal refuses a second
    entry, and the state of what it is about says that it was done. So does another process of the desk that has the same form at work.
    """
    sent = digest_of(form)
    async with at_work.on(form.once):
        if (known := await _known(desk, form.once, who, act, sent)) is not None:
            return known
        try:
            done = await do()
        except Refused:
            if (known := await _known(desk, form.once, who, act, sent)) is not None:
                return known
            raise
        result = {**done.model_dump(mode="json", exclude={"secret"}), SENT: sent}
        record = RequestRecord(form.once, desk.clock(), who, act, result)
        async with desk.database.connection() as connection:
            await people_store.keep_request(connection, record)
        return done


async def _known(desk: Desk, once: UUID, who: str, act: str, sent: str) -> Done | None:
    async with desk.read() as connection:
        known = await people_store.request_of(connection, once)
    if known is None:
        return None
    if known.who != who or known.act != act:
        raise Refused("other_site", "This form is from another page: open it again.", HTTPStatus.FORBIDDEN)
    if known.result.get(SENT, sent) != sent:
        raise SENT_BEFORE
    return Done.model_validate(known.result)


async def result_of(desk: Desk, once: UUID, *, who: str) -> Done | None:
    """What came of a form, for whoever sent it."""
    async with desk.read() as connection:
        known = await people_store.request_of(connection, once)
    return None if known is None or known.who != who else Done.model_validate(known.result)
