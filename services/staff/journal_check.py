"""Looks through the whole chain of the journal in the background, some entries at a time, and compares it with all seals.

How far the look has come is stored with each step, so that another process goes on where one died. What it finds is for people at their
desk. `remit journal verify` and `remit audit` look with code of their own.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from services.staff import journal_store, seals_file
from services.staff.journal_store import ChainLook, ChainResult, Difference, Stretch
from shared.clock import Clock
from shared.persistence.database import AWAY_ERRORS, Connection, Database
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

ENTRIES_A_STEP: Final = 10_000
"""The database is at work on them for a tenth of a second."""
PAUSE_S: Final = 0.25
"""Between two steps, so that a look takes a third of one of the database's cores at most, and half a minute for a million entries."""
LOOK_EVERY: Final = timedelta(hours=1)


WORDS: Mapping[Difference, str] = {
    Difference.GAP: "it does not follow the entry before: what was between them is gone",
    Difference.CONTENT: "who acted, or what the entry says, was changed",
    Difference.CHAIN: "its hash does not follow from what it says and from the entry before",
    Difference.PURGE: "its words were taken out, and no later entry says that they were purged",
}
SEALED_OTHERWISE: Final = "its hash is another than a seal says"
NO_SUCH_ENTRY: Final = "it was seen once, and there is no such entry any more: the end of the log was cut off"
SEEN_OTHERWISE: Final = "its hash is another than the last look saw"


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first entry that is not as it was, and why."""

    position: int
    why: str


class JournalCheck:
    """Looks at the chain once an hour, and whenever somebody asks. A look that found the chain broken is repeated like any other."""

    name = "journal_check"
    interval_s = 2.0
    retry_on = (*AWAY_ERRORS, OSError)

    def __init__(
        self, database: Database, clock: Clock, file: Path | None = None, *, entries_a_step: int = ENTRIES_A_STEP
    ) -> None:
        self._database = database
        self._clock = clock
        self._file = file
        self._entries_a_step = entries_a_step

    async def run_once(self) -> float:
        """Take one step of the look, if one goes on or is due."""
        async with self._database.transaction() as tx:
            if (found := await journal_store.lock_look(tx)) is None:
                return self.interval_s
            look, last = begun(*found, self._clock())
            if look.begun_at is None:
                return self.interval_s
            stretch = await journal_store.look_at(tx, look.position, look.hash, at_most=self._entries_a_step)
            is_last = stretch.entries < self._entries_a_step
            broken, look = await self._compared(tx, look, last, stretch, is_last=is_last)
            is_over = is_last or broken is not None
            if is_over:
                await journal_store.note_result(tx, _result(look, last, broken, self._clock()))
            await journal_store.note_look(tx, replace(look, begun_at=None) if is_over else look)
        if broken is not None:
            log.error("journal_differs", entry=broken.position, why=broken.why, advice="run `remit journal verify`")
        return self.interval_s if is_over else PAUSE_S

    async def _compared(
        self, tx: Connection, look: ChainLook, last: ChainResult, stretch: Stretch, *, is_last: bool
    ) -> tuple[ChainBreak | None, ChainLook]:
        """The first entry of the stretch that differs from what was chained or sealed, and how far the look has come with it."""
        until = journal_store.BEYOND_ALL if is_last else stretch.position
        inside = await journal_store.seals_between(tx, look.position, until)
        outside = (
            await asyncio.to_thread(seals_file.between, self._file, look.position, until)
            if self._file is not None
            else {}
        )
        heads = {last.entries: last.head} if look.position < last.entries <= until else {}
        hashes = await journal_store.hashes_of(tx, sorted({*inside, *outside, *heads}))
        found = [
            *(
                [ChainBreak(stretch.differs_at, WORDS[stretch.difference])]
                if stretch.differs_at and stretch.difference
                else []
            ),
            *unlike(hashes, {position: {hash_} for position, hash_ in inside.items()}, SEALED_OTHERWISE),
            *unlike(hashes, outside, SEALED_OTHERWISE),
            *unlike(hashes, {position: {hash_} for position, hash_ in heads.items()}, SEEN_OTHERWISE),
        ]
        further = replace(
            look,
            position=stretch.position,
            hash=stretch.hash,
            seals=look.seals + len(inside.keys() | outside.keys()),
            seals_outside=look.seals_outside + len(outside),
        )
        return min(found, key=lambda one: one.position, default=None), further


def begun(look: ChainLook, last: ChainResult, now: datetime) -> tuple[ChainLook, ChainResult]:
    """The look to go on with: a new one, from the first entry, if somebody asked for it or the last one is long ago."""
    is_old = look.begun_at is None and (last.checked_at is None or abs(now - last.checked_at) >= LOOK_EVERY)
    if look.asked_at is None and not is_old:
        return look, last
    return ChainLook(asked_at=None, begun_at=now, position=0, hash=b"", seals=0, seals_outside=0), last


def unlike(hashes: Mapping[int, bytes], sealed: Mapping[int, Iterable[bytes]], why: str) -> list[ChainBreak]:
    """The entries that have another hash than was sealed, or are gone."""
    return [
        ChainBreak(position, why if position in hashes else NO_SUCH_ENTRY)
        for position, known in sealed.items()
        if any(hash_ != hashes.get(position) for hash_ in known)
    ]


def _result(look: ChainLook, last: ChainResult, broken: ChainBreak | None, now: datetime) -> ChainResult:
    """How the look ended. If the chain is broken, what was whole last stays: its head is compared with again."""
    if broken is not None:
        return replace(last, checked_at=now, broken_at=broken.position, broken_why=broken.why)
    return ChainResult(
        checked_at=now,
        entries=look.position,
        head=look.hash,
        sealed=look.seals,
        sealed_outside=look.seals_outside,
        broken_at=None,
        broken_why=None,
    )
