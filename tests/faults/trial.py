"""One fault, and what came of it."""

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
    """This machine does not allow the fault; the text says why. The trial counts as skipped, not as held."""


@dataclass(slots=True)
class Note:
    """What a trial writes down while it runs. Times are of `time.time`, which the databases of this machine share."""

    count: int = 0
    fired_at: float | None = None
    mended_at: float | None = None
    remarks: list[str] = field(default_factory=list)
    recovered_s: float | None = None
    limit_s: float | None = None

    def fired(self, count: int = 1) -> None:
        """The fault happened, so often."""
        if count > 0:
            self.count += count
            self.fired_at = self.fired_at or time.time()

    def mended(self) -> None:
        """The fault is over: the service is started again, the server is back, the stopped process goes on."""
        self.mended_at = time.time()

    def recovered(self, took_s: float, *, within_s: float) -> None:
        """All that waited was done so long after what failed was back. Of several times the worst counts."""
        self.recovered_s, self.limit_s = max(took_s, self.recovered_s or 0.0), within_s

    def remark(self, text: str) -> None:
        """Something for whoever reads the report."""
        self.remarks.append(text)


@dataclass(frozen=True, slots=True)
class Trial:
    """`touches`: services and servers (`broker`, `database`, `gateway`) that it disturbs; in random mode trials that touch different ones
    run at the same time. `alone`: on a stack of its own, which `opens`. `short`: part of the selection for every commit. `random`: fit for
    random mode: it needs nothing of the workload but that there is some. `quiet`: nothing new may be played afterwards. `check`: for
    a planted fault, the check of the audit that must turn red."""

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
    """`checks`: verdict by check of the audit, in its order. `recovered_s`: from the restarted process being ready, or the server being
    back, until all that waited was done; it must be below `limit_s`. `again_s`: until the service handled a message again, `drained_s`:
    until everything had drained, ladders and deadlines included, both from `mended`. None where there was nothing to measure. `readings`:
    how often the audit was asked. `skipped`: why this machine does not allow the fault."""

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
        """Whether it recovered within its limit, where it has one."""
        return self.recovered_s is None or self.limit_s is None or self.recovered_s <= self.limit_s

    @property
    def broken(self) -> list[str]:
        return [check for check, verdict in self.checks.items() if verdict == "broken"]

    @property
    def ok(self) -> bool:
        """It fired and recovered in time, nobody was surprised, the audit found what it had to: nothing, or a planted fault."""
        as_expected = self.check in self.broken if self.check is not None else not self.broken and self.in_time
        return self.fired > 0 and bool(self.checks) and as_expected and not (self.check is None and self.surprises)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok, "broken": self.broken}
