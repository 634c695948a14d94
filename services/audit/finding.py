"""The result of one check: it holds, it is broken (by what, and why), or it was not checked (and what was missing)."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

BREACHES_SHOWN_MAX = 20
"""Enough to see a pattern; the count tells how many there are. It bounds the memory if everything is broken."""
CLOCKS_APART = timedelta(days=1)
"""What says that it happened later than this after the moment up to which is judged is not young: somebody wrote a time that is to come."""


class CheckResult(StrEnum):
    HOLDS = "holds"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


class Source(StrEnum):
    """Where evidence comes from. Evidence that only some runs have can be waived (`--without`); a store cannot."""

    STORE = "store"
    TAP = "tap"
    RUN = "run"
    BASELINE = "baseline"
    LOGS = "logs"
    UNACKED = "unacked"


WAIVABLE = tuple(source for source in Source if source is not Source.STORE)


@dataclass(frozen=True, slots=True)
class Breach:
    """One violation. `about`: the id of what breaks the promise: a payment, an invoice, a command, an idempotency key."""

    about: str
    why: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check with its numbers.

    `looked_at`: how many things were checked. `in_flight`: how many were too young to judge. `broken`: how many breaches there are, of
    which `breaches` are the first. `missing`: what the check could not see; if there is anything, the result is at best "not checked".
    `unseen`: the sources of what is missing.
    """

    check: str
    title: str
    looked_at: int
    in_flight: int
    broken: int
    breaches: tuple[Breach, ...]
    missing: tuple[str, ...]
    unseen: frozenset[Source] = frozenset()

    @property
    def result(self) -> CheckResult:
        if self.broken:
            return CheckResult.BROKEN
        return CheckResult.NOT_CHECKED if self.missing else CheckResult.HOLDS

    def is_complete(self, waived: Collection[Source]) -> bool:
        """Whether only waived evidence was missing."""
        return self.unseen <= set(waived)

    def as_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "title": self.title,
            "verdict": self.result.value,
            "looked_at": self.looked_at,
            "in_flight": self.in_flight,
            "broken": self.broken,
            "breaches": [{"about": breach.about, "why": breach.why} for breach in self.breaches],
            "missing": list(self.missing),
        }


class Tally:
    """Counts while a check runs. `settled_before`: what happened later may still have effects under way; None: nothing has."""

    def __init__(self, *, settled_before: datetime | None) -> None:
        self._settled_before = settled_before
        self._looked_at = self._in_flight = self._broken = 0
        self._breaches: list[Breach] = []
        self._missing: dict[str, Source] = {}

    @property
    def looked_at(self) -> int:
        return self._looked_at

    def look(self, count: int = 1) -> None:
        """Count things that were checked."""
        self._looked_at += count

    def breach(self, about: object, why: str, *, since: datetime | None = None) -> None:
        """The promise is broken. If work that began or changed at `since` may still be under way, it counts as that; None: it never may."""
        if self.is_young(since):
            self._in_flight += 1
            return
        self._broken += 1
        if len(self._breaches) < BREACHES_SHOWN_MAX:
            self._breaches.append(Breach(str(about), why))

    def is_young(self, since: datetime | None) -> bool:
        """Whether what happened at `since` may still have effects under way. In a drained system nothing has."""
        before = self._settled_before
        return since is not None and before is not None and before <= since < before + CLOCKS_APART

    def in_flight(self, count: int = 1) -> None:
        """Count things that were not judged, because they may still be under way."""
        self._in_flight += count

    def missing(self, what: str, source: Source = Source.STORE) -> None:
        """A part of what the check needs could not be read."""
        self._missing.setdefault(what, source)

    def finding(self, check: str, title: str) -> Finding:
        return Finding(
            check,
            title,
            self._looked_at,
            self._in_flight,
            self._broken,
            tuple(self._breaches),
            tuple(self._missing),
            frozenset(self._missing.values()),
        )
