"""The whole audit: every line over one set of snapshots."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deploy.audit.answers import line_6
from deploy.audit.cases import line_2
from deploy.audit.causes import line_7
from deploy.audit.finding import Finding, Verdict
from deploy.audit.leftovers import line_9
from deploy.audit.money import line_1, line_3, line_4, line_5, line_13
from deploy.audit.sagas import line_12
from deploy.audit.stores import Sources, Stores, open_stores
from deploy.audit.streams import line_8

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
    line_12,
    line_13,
)


@dataclass(frozen=True, slots=True)
class Report:
    """`complete` demands that every line was checked: in a demo or a test, what was not looked at proves nothing."""

    findings: tuple[Finding, ...]
    complete: bool

    @property
    def ok(self) -> bool:
        verdicts = {finding.verdict for finding in self.findings}
        return Verdict.BROKEN not in verdicts and not (self.complete and Verdict.NOT_CHECKED in verdicts)

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "lines": [finding.as_json() for finding in self.findings]}


async def audit(sources: Sources, now: datetime, *, complete: bool = False) -> Report:
    """Check every line. Raises AuditError for a store that cannot be read."""
    async with open_stores(sources, now) as stores:
        return Report(tuple([await line(stores) for line in LINES]), complete)
