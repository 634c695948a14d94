"""Wrong tokens cost the database little, and keep no sender out who has come before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from services.invoice import sender_tokens
from services.invoice.door.tokens import TokenReader
from shared.persistence.database import Connection, Database
from shared.tokens import new_token
from shared.web.strangers import NEW_AT_ONCE, NEW_WAITING_MAX, WRONG_BURST, TooManyWrongError
from tests.support.desk_browser import DeskClock

FORM = "remit_" + "a" * 43
HERE, ELSEWHERE = "192.0.2.7", "192.0.2.8"


class SlowTokens:
    """A database of tokens that answers once `answers` is set, and notes how often it was asked, and by how many at once."""

    def __init__(self) -> None:
        self.senders: dict[str, str] = {}
        self.asked: list[str] = []
        self.at_once = self.at_once_most = 0
        self.answers = asyncio.Event()
        self.answers.set()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.at_once += 1
        self.at_once_most = max(self.at_once, self.at_once_most)
        yield cast(Connection, self)
        self.at_once -= 1

    async def sender_of(self, _: Any, token: str) -> str | None:
        self.asked.append(token)
        await self.answers.wait()
        await asyncio.sleep(0)  # a database answers later, also when it is fast
        return self.senders.get(token)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> SlowTokens:
    tokens = SlowTokens()
    monkeypatch.setattr(sender_tokens, "sender_of", tokens.sender_of)
    return tokens


@pytest.fixture
def reader(database: SlowTokens) -> TokenReader:
    return TokenReader(cast(Database, database), DeskClock())


async def settle(tasks: list[asyncio.Task[str | None]]) -> list[object]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)


async def ask(reader: TokenReader, tokens: list[str], address: str = HERE) -> list[asyncio.Task[str | None]]:
    """Ask with all of these at once, up to where each has to wait."""
    asking = [asyncio.create_task(reader.sender_of(token, address)) for token in tokens]
    await asyncio.sleep(0)
    return asking


@pytest.mark.parametrize("token", [None, "", "remit_", "remit_x", "secret", f"{FORM}x", FORM[:-1], "x" * 9999])
async def test_what_is_no_token_is_not_looked_up(token: str | None, reader: TokenReader, database: SlowTokens) -> None:
    assert [await reader.sender_of(token, HERE) for _ in range(WRONG_BURST)] == [None] * WRONG_BURST
    with pytest.raises(TooManyWrongError):
        await reader.sender_of(token, HERE)
    assert database.asked == []


async def test_tokens_that_are_new_use_few_connections(reader: TokenReader, database: SlowTokens) -> None:
    database.answers.clear()
    asking = await ask(reader, [new_token() for _ in range(1_000)], ELSEWHERE)
    assert len(database.asked) == NEW_AT_ONCE
    database.answers.set()
    answers = await settle(asking)
    assert answers.count(None) == WRONG_BURST
    assert database.at_once_most == NEW_AT_ONCE


async def test_an_address_that_sent_many_wrong_ones_waits_behind_few(reader: TokenReader, database: SlowTokens) -> None:
    for _ in range(WRONG_BURST):
        assert await reader.sender_of(new_token(), HERE) is None
    database.answers.clear()
    database.asked.clear()
    asking = await ask(reader, [new_token() for _ in range(1_000)])
    others = await ask(reader, [new_token()], ELSEWHERE)
    database.answers.set()
    answers = await settle(asking)
    assert {type(answer) for answer in answers} == {TooManyWrongError}
    assert await settle(others) == [None], "another address waits for its turn"
    assert len(database.asked) == NEW_WAITING_MAX + 1


async def test_a_token_that_held_waits_for_nobody(reader: TokenReader, database: SlowTokens) -> None:
    right = new_token()
    database.senders[right] = "shop"
    assert await reader.sender_of(right, HERE) == "shop"
    for _ in range(WRONG_BURST):
        await reader.sender_of(new_token(), HERE)
    database.answers.clear()
    asking = await ask(reader, [*(new_token() for _ in range(1_000)), right])
    assert right in database.asked[-1:]
    database.answers.set()
    assert (await settle(asking))[-1] == "shop"


async def test_many_with_one_right_token_wait_only_until_it_is_known(reader: TokenReader, database: SlowTokens) -> None:
    token = new_token()
    database.senders[token] = "shop"
    database.answers.clear()
    asking = await ask(reader, [token] * 1_000)
    assert len(database.asked) == NEW_AT_ONCE
    database.answers.set()
    assert await settle(asking) == ["shop"] * 1_000
    assert database.at_once_most > NEW_AT_ONCE


async def test_a_token_that_was_revoked_is_a_stranger_again(reader: TokenReader, database: SlowTokens) -> None:
    token = new_token()
    database.senders[token] = "shop"
    assert await reader.sender_of(token, HERE) == "shop"
    del database.senders[token]
    assert [await reader.sender_of(token, HERE) for _ in range(WRONG_BURST)] == [None] * WRONG_BURST
    database.answers.clear()
    asking = await ask(reader, [*(new_token() for _ in range(NEW_WAITING_MAX)), token])
    assert isinstance((await asyncio.wait({asking[-1]}, timeout=10))[0].pop().exception(), TooManyWrongError)
    assert token not in database.asked[-NEW_AT_ONCE:]
    database.answers.set()
    await settle(asking)
