"""One fault, and what came of it."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.local.stack import Stack, open_stack

if TYPE_CHECKING:
    from tests.faults.bed import Bed

ESTIMATE_S = 15.0


@dataclass(slots=True)
class Note:
    """What a trial writes down while it runs. Times are of `time.time`, which the databases of this machine share."""

    count: int = 0
    fired_at: float | None = None
    mended_at: float | None = None
    remarks: list[str] = field(default_factory=list)

    def fired(self, count: int = 1) -> None:
        """The fault happened, so often."""
        if count > 0:
            self.count += count
            self.fired_at = self.fired_at or time.time()

    def mended(self) -> None:
        """The fault is over: the service is started again, the server is back, the stopped process goes on."""
        self.mended_at = time.time()

    def remark(self, text: str) -> None:
        """Something for whoever reads the report."""
        self.remarks.append(text)


@dataclass(frozen=True, slots=True)
class Trial:
    """`touches`: services and servers (`broker`, `database`, `gateway`) that it disturbs; in random mode trials that touch different ones
    run at the same time. `alone`: on a stack of its own, which `opens`. `short`: part of the selection for every commit. `random`: fit for
    random mode: it needs nothing of the workload but that there is some. `quiet`: nothing new may be played afterwards. `line`: for a
    planted fault, the line of the audit that must turn red."""

    name: str
    family: str
    injects: str
    run: "Callable[[Bed, Note], Awaitable[None]]"
    estimate_s: float = ESTIMATE_S
    touches: frozenset[str] = frozenset()
    alone: bool = False
    short: bool = False
    random: bool = False
    quiet: bool = False
    line: int | None = None
    opens: "Callable[..., AbstractContextManager[Stack]]" = open_stack


@dataclass(slots=True)
class Result:
    """`lines`: verdict by line of the audit. `again_s`: until the service handled a message again, `drained_s`: until everything had
    drained, both from `mended`; None where there was nothing to measure."""

    name: str
    family: str
    injects: str
    fired: int = 0
    again_s: float | None = None
    drained_s: float | None = None
    took_s: float = 0.0
    lines: dict[int, str] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    restarts: int = 0
    line: int | None = None

    @property
    def broken(self) -> list[int]:
        return sorted(line for line, verdict in self.lines.items() if verdict == "broken")

    @property
    def ok(self) -> bool:
        """It fired, nobody was surprised, and the audit found what it had to: nothing, or the line of a planted fault."""
        as_expected = self.line in self.broken if self.line is not None else not self.broken
        return self.fired > 0 and bool(self.lines) and as_expected and not (self.line is None and self.surprises)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok, "broken": self.broken}
