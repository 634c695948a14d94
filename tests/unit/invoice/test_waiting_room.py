"""Senders that wait at the door: who has room, and who is called."""

import asyncio
from collections.abc import Collection

import pytest

from services.invoice.door import waiting
from services.invoice.door.reader import AskedFor, Question
from services.invoice.door.waiting import NoRoomError, WaitingRoom

DEADLINE_S = 30.0
LONG_S = 3_600.0


def asks(sender: str, invoice_id: str) -> Question:
    return Question(AskedFor.INVOICE, invoice_id, sender)


async def nothing(_: Collection[Question]) -> Collection[Question]:
    return ()


async def test_no_sender_takes_the_room_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITING_OF_ONE_MAX", 1)
    room = WaitingRoom(nothing)
    first, other = (asyncio.create_task(room.wait(asks(sender, "INV-1"), LONG_S)) for sender in ("billing", "shop"))
    await asyncio.sleep(0)
    with pytest.raises(NoRoomError):
        await room.wait(asks("billing", "INV-2"), LONG_S)
    assert not other.done()
    await room.close()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(first, other)


async def test_whoever_waits_is_called_when_the_process_stops_and_nobody_waits_from_then_on() -> None:
    room = WaitingRoom(nothing)
    before = asyncio.create_task(room.wait(asks("billing", "INV-1"), LONG_S))
    await asyncio.sleep(0)
    await room.close()
    async with asyncio.timeout(DEADLINE_S):
        await before
        await room.wait(asks("billing", "INV-2"), LONG_S)
