"""What the audit found by one check: it holds, it is broken (by whom and why), or it was not checked (and what was missing)."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

BREACHES_SHOWN_MAX = 20
"""Enough to see a pattern; the count says how many there are. Bounds the memory of a run in which everything is broken."""


class CheckResult(StrEnum):
    HOLDS = "holds"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


class Source(StrEnum):
    """What a check can be without. Evidence that only some runs have can be waived (`--without`); a store cannot."""

    STORE = "store"
    TAP = "tap"
    RUN = "run"
    BASELINE = "baseline"
    LOGS = "logs"
    UNACKED = "unacked"


WAIVABLE = tuple(source for source in Source if source is not Source.STORE)


@dataclass(frozen=True, slots=True)
class Breach:
    """`about` is the id of what breaks the promise: a payment, an invoice, a command, an idempotency key."""

    about: str
    why: str


@dataclass(frozen=True, slots=True)
class Finding:
    """`looked_at` counts what was checked, `in_flight` what was too young to judge, `broken` all breaches, of which the first are
    shown. `missing`: what the check could not see; if anything, it holds only as far as that goes and is called not checked.
    `unseen`: of which sources that is."""

    check: str
    title: str
    looked_at: int
    in_flight: int
    broken: int
    breaches: tuple[Breach, ...]
    missing: tuple[str, ...]
    unseen: frozenset[Source] = frozenset()

    @property
    def verdict(self) -> CheckResult:
        if self.broken:
            return CheckResult.BROKEN
        return CheckResult.NOT_CHECKED if self.missing else CheckResult.HOLDS

    def is_complete(self, waived: Collection[Source]) -> bool:
        """Whether nothing was missing but what was waived."""
        return self.unseen <= set(waived)

    def as_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "title": self.title,
            "verdict": self.verdict.value,
            "looked_at": self.looked_at,
            "in_flight": self.in_flight,
            "broken": self.broken,
            "breaches": [{"about": breach.about, "why": breach.why} for breach in self.breaches],
            "missing": list(self.missing),
        }


class Tally:
    """Counts while a check runs. `settled_before`: what happened later may be on its way still; None: nothing is."""

    def __init__(self, *, settled_before: datetime | None) -> None:
        self._settled_before = settled_before
        self._looked_at = self._in_flight = self._broken = 0
        self._breaches: list[Breach] = []
        self._missing: dict[str, Source] = {}

    @property
    def looked_at(self) -> int:
        return self._looked_at

    def look(self, count: int = 1) -> None:
        """So many things were checked."""
        self._looked_at += count

    def breach(self, about: object, why: str, *, since: datetime | None = None) -> None:
        """The promise is broken. `since`: work that began or moved then may still be on its way; None: time heals nothing here."""
        if self.is_young(since):
            self._in_flight += 1
            return
        self._broken += 1
        if len(self._breaches) < BREACHES_SHOWN_MAX:
            self._breaches.append(Breach(str(about), why))

    def is_young(self, since: datetime | None) -> bool:
        """Whether something that happened then may still have consequences on their way. Never so in a drained system."""
        return since is not None and self._settled_before is not None and since >= self._settled_before

    def in_flight(self, count: int = 1) -> None:
        """Something was left out for being on its way."""
        self._in_flight += count

    def missing(self, what: str, source: Source = Source.STORE) -> None:
        """A part of what the check needs could not be seen."""
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
