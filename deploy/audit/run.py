"""The whole audit: every line over one set of snapshots."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deploy.audit.answers import line_6
from deploy.audit.cases import line_2
from deploy.audit.causes import line_7
from deploy.audit.deliveries import line_9, line_10
from deploy.audit.finding import Finding, Source, Verdict
from deploy.audit.leaks import line_16
from deploy.audit.letters import line_11
from deploy.audit.money import line_1, line_3, line_4, line_5, line_13
from deploy.audit.proof import line_17, line_18
from deploy.audit.resources import line_15
from deploy.audit.sagas import line_12
from deploy.audit.stores import Sources, Stores, open_stores
from deploy.audit.streams import line_8
from deploy.audit.twice import line_14

LINES: tuple[Callable[[Stores], Awaitable[Finding]], ...] = (
    line_1,
    line_2,
    line_3,
    line_4,
    line_5,
    line_6,
    line_7,
    line_8,
    line_9,
    line_10,
    line_11,
    line_12,
    line_13,
    line_14,
    line_15,
    line_16,
    line_17,
    line_18,
)


@dataclass(frozen=True, slots=True)
class Report:
    """`complete` demands that every line was checked: in a demo or a test, what was not looked at proves nothing. `waived`: evidence that
    this run cannot have, and that nobody misses."""

    findings: tuple[Finding, ...]
    complete: bool
    waived: frozenset[Source] = frozenset()

    @property
    def ok(self) -> bool:
        if any(finding.verdict is Verdict.BROKEN for finding in self.findings):
            return False
        return not self.complete or all(finding.is_complete(self.waived) for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "lines": [finding.as_json() for finding in self.findings]}


async def audit(sources: Sources, now: datetime, *, complete: bool = False, waived: Collection[Source] = ()) -> Report:
    """Check every line. Raises AuditError for a store that cannot be read."""
    async with open_stores(sources, now) as stores:
        return Report(tuple([await line(stores) for line in LINES]), complete, frozenset(waived))
