"""The whole audit: every check over one set of snapshots."""

from asyncio import sleep
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.audit.checks import CHECKS, Check
from services.audit.finding import CheckResult, Finding, Source
from services.audit.stores import Sources, open_stores


@dataclass(frozen=True, slots=True)
class AuditReport:
    """`complete` demands that everything was checked: in a demo or a test, what was not looked at proves nothing. `waived`: evidence that
    this run cannot have, and that nobody misses."""

    findings: tuple[Finding, ...]
    complete: bool
    waived: frozenset[Source] = frozenset()

    @property
    def ok(self) -> bool:
        if any(finding.verdict is CheckResult.BROKEN for finding in self.findings):
            return False
        return not self.complete or all(finding.is_complete(self.waived) for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "checks": [finding.as_json() for finding in self.findings]}


AGAIN_MAX, AGAIN_AFTER_S = 3, 1.0
"""A drained system still asks now and then about what waits for a person, and stores are read one after the other: what was sent in
between looks lost. So what is broken must still be broken when it is looked at again; a lost message or a second charge is."""


async def audit(
    sources: Sources, now: datetime, *, complete: bool = False, waived: Collection[Source] = ()
) -> AuditReport:
    """Run every check. Raises AuditError for a store that cannot be read."""
    findings = await _run(sources, now, CHECKS)
    for _ in range(AGAIN_MAX if sources.drained else 0):
        broken = [check for check in CHECKS if findings[check.name].verdict is CheckResult.BROKEN]
        if not broken:
            break
        await sleep(AGAIN_AFTER_S)
        findings |= await _run(sources, now, broken)
    return AuditReport(tuple(findings.values()), complete, frozenset(waived))


async def _run(sources: Sources, now: datetime, checks: Iterable[Check]) -> dict[str, Finding]:
    """What these checks find, by name, over one set of snapshots."""
    async with open_stores(sources, now) as stores:
        return {check.name: await check.run(stores) for check in checks}
