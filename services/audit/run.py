"""The whole audit: every line over one set of snapshots."""

from asyncio import sleep
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.audit.answers import line_6
from services.audit.cases import line_2
from services.audit.causes import line_7
from services.audit.dead_letters import line_11
from services.audit.deliveries import line_9, line_10
from services.audit.finding import CheckResult, Finding, Source
from services.audit.idempotence import line_14
from services.audit.leaks import line_16
from services.audit.money import line_1, line_3, line_4, line_5, line_13
from services.audit.proof import line_17, line_18
from services.audit.resources import line_15
from services.audit.sagas import line_12
from services.audit.stores import Sources, Stores, open_stores
from services.audit.streams import line_8

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
class AuditReport:
    """`complete` demands that every line was checked: in a demo or a test, what was not looked at proves nothing. `waived`: evidence that
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
        return {"ok": self.ok, "lines": [finding.as_json() for finding in self.findings]}


AGAIN_MAX, AGAIN_AFTER_S = 3, 1.0
"""A drained system still asks now and then about what waits for a person, and stores are read one after the other: what was said in
between looks lost. So what is broken must still be broken when it is looked at again; a lost message or a second charge is."""


async def audit(
    sources: Sources, now: datetime, *, complete: bool = False, waived: Collection[Source] = ()
) -> AuditReport:
    """Check every line. Raises AuditError for a store that cannot be read."""
    findings = await _check(sources, now, range(len(LINES)))
    for _ in range(AGAIN_MAX if sources.drained else 0):
        broken = [at for at, finding in findings.items() if finding.verdict is CheckResult.BROKEN]
        if not broken:
            break
        await sleep(AGAIN_AFTER_S)
        findings |= await _check(sources, now, broken)
    return AuditReport(tuple(findings.values()), complete, frozenset(waived))


async def _check(sources: Sources, now: datetime, lines: Iterable[int]) -> dict[int, Finding]:
    """These of the lines, over one set of snapshots."""
    async with open_stores(sources, now) as stores:
        return {at: await LINES[at](stores) for at in lines}
