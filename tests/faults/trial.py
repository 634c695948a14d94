"""One fault, and its result."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.local.stack import Stack, open_stack

if TYPE_CHECKING:
    from tests.faults.testbed import Testbed

ESTIMATE_S = 15.0


class NotPossibleHereError(Exception):
    """This machine does not allow the fault; the text tells why. The trial counts as skipped, not as held."""


@dataclass(slots=True)
class Note:
    """What a trial records while it runs. Times are of `time.time`, which the databases of this machine share."""

    count: int = 0
    fired_at: float | None = None
    mended_at: float | None = None
    remarks: list[str] = field(default_factory=list)
    recovered_s: float | None = None
    limit_s: float | None = None

    def fired(self, count: int = 1) -> None:
        """The fault happened, so many times."""
        if count > 0:
            self.count += count
            self.fired_at = self.fired_at or time.time()

    def mended(self) -> None:
        """The fault is over: the service is started again, the server is back, the stopped process goes on."""
        self.mended_at = time.time()

    def recovered(self, took_s: float, *, within_s: float) -> None:
        """All waiting work was done so long after the failed part was back. Of several times the worst counts."""
        self.recovered_s, self.limit_s = max(took_s, self.recovered_s or 0.0), within_s

    def remark(self, text: str) -> None:
        """Add a line for the readers of the report."""
        self.remarks.append(text)


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault, and how to inject it.

    `touches`: services and servers (`broker`, `database`, `gateway`) that it disturbs; in random mode, trials that touch different ones run
    at the same time. `alone`: on a stack of its own, which `opens` opens. `short`: part of the selection for every commit. `random`: fit
    for random mode, since it needs no special workload. `quiet`: no new scene may be played afterwards. `check`: for a planted fault, the
    check of the audit that must break.
    """

    name: str
    family: str
    injects: str
    run: "Callable[[Testbed, Note], Awaitable[None]]"
    estimate_s: float = ESTIMATE_S
    touches: frozenset[str] = frozenset()
    alone: bool = False
    short: bool = False
    random: bool = False
    quiet: bool = False
    check: str | None = None
    opens: "Callable[..., AbstractContextManager[Stack]]" = open_stack


@dataclass(slots=True)
class TrialResult:
    """What a trial measured.

    `checks`: the result of each check of the audit, in its order. `recovered_s`: from the moment when the restarted process was ready, or
    the server was back, until all waiting work was done; it must be below `limit_s`. `again_s`: until the service handled a message again.
    `drained_s`: until everything had drained, ladders and deadlines included. Both count from `mended`. None: there was nothing to measure.
    `readings`: how often the audit was run. `skipped`: why this machine does not allow the fault.
    """

    name: str
    family: str
    injects: str
    fired: int = 0
    recovered_s: float | None = None
    limit_s: float | None = None
    again_s: float | None = None
    drained_s: float | None = None
    took_s: float = 0.0
    checks: dict[str, str] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    restarts: int = 0
    readings: int = 0
    check: str | None = None
    skipped: str | None = None

    @property
    def in_time(self) -> bool:
        """Whether it recovered within its limit, if it has one."""
        return self.recovered_s is None or self.limit_s is None or self.recovered_s <= self.limit_s

    @property
    def broken(self) -> list[str]:
        return [check for check, result in self.checks.items() if result == "broken"]

    @property
    def ok(self) -> bool:
        """Whether it fired and recovered in time, without surprises, and the audit found what it must: nothing, or the planted fault."""
        as_expected = self.check in self.broken if self.check is not None else not self.broken and self.in_time
        return self.fired > 0 and bool(self.checks) and as_expected and not (self.check is None and self.surprises)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok, "broken": self.broken}
