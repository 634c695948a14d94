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
    """The findings of all checks. Where nothing could be checked, nothing is ok.

    `complete` demands that everything was checked: in a demo or a test, an unchecked promise proves nothing. `waived`: evidence that this
    run cannot have, and need not have. `required`: names of checks that must have been checked in any case.
    """

    findings: tuple[Finding, ...]
    complete: bool
    waived: frozenset[Source] = frozenset()
    required: frozenset[str] = frozenset()

    @property
    def not_checked(self) -> tuple[str, ...]:
        """The names of the checks that lacked something."""
        return tuple(finding.check for finding in self.findings if finding.result is CheckResult.NOT_CHECKED)

    @property
    def ok(self) -> bool:
        results = {finding.result for finding in self.findings}
        if CheckResult.BROKEN in results or results == {CheckResult.NOT_CHECKED}:
            return False
        if self.required & set(self.not_checked):
            return False
        return not self.complete or all(finding.is_complete(self.waived) for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "not_checked": list(self.not_checked),
            "checks": [finding.as_json() for finding in self.findings],
        }


RECHECKS_MAX, RECHECK_AFTER_S = 3, 1.0
"""Even a drained system still asks now and then about payments that wait for a person, and stores are read one after the other. So a
message sent in between looks lost. A broken check is therefore run again and must still be broken; after a lost message or a second charge
it is."""


async def audit(
    sources: Sources,
    now: datetime,
    *,
    complete: bool = False,
    waived: Collection[Source] = (),
    required: Collection[str] = (),
) -> AuditReport:
    """Run every check. Raises AuditError for a store that cannot be read."""
    findings = await _run(sources, now, CHECKS)
    for _ in range(RECHECKS_MAX if sources.drained else 0):
        broken = [check for check in CHECKS if findings[check.name].result is CheckResult.BROKEN]
        if not broken:
            break
        await sleep(RECHECK_AFTER_S)
        findings |= await _run(sources, now, broken)
    return AuditReport(tuple(findings.values()), complete, frozenset(waived), frozenset(required))


async def _run(sources: Sources, now: datetime, checks: Iterable[Check]) -> dict[str, Finding]:
    """The findings of these checks by name, over one set of snapshots."""
    async with open_stores(sources, now) as stores:
        return {check.name: await check.run(stores) for check in checks}
