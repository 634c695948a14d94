"""Checks that a fault run proves something. A run in which nothing happened would keep every promise."""

from services.audit.finding import Source, Tally
from services.audit.stores import Stores

SEEN = {
    "duplicates": "duplicate",
    "redeliveries": "redelivery",
    "in_doubt": "payment in doubt",
    "conflicts": "conflict",
}


async def planned_faults_fired(counted: Tally, stores: Stores) -> None:
    """Every planned fault fired, and the run saw at least one duplicate, redelivery, payment in doubt and conflict."""
    run = stores.evidence.run
    if run is None:
        counted.missing("no --run given: which faults were planned, and which fired", Source.RUN)
        return
    if not run.planned:
        counted.breach("run", "no fault was planned")
    for fault in run.planned:
        counted.look()
        if fault.fired < 1:
            counted.breach(fault.name, "was planned and never fired")
    for kind, word in SEEN.items():
        counted.look()
        if run.seen.get(kind, 0) < 1:
            counted.breach(kind, f"no {word} was seen")


async def planted_faults_found(counted: Tally, stores: Stores) -> None:
    """The audit can fail: each build with a planted fault broke the check that it must break."""
    planted = stores.evidence.run.planted if stores.evidence.run is not None else None
    if not planted:
        counted.missing("no --run with planted faults given", Source.RUN)
        return
    for build in planted:
        counted.look()
        if build.expected not in build.red:
            red = ", ".join(build.red) or "none"
            counted.breach(build.name, f"should have broken {build.expected}; it broke {red}")
