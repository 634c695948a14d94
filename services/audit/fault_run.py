"""Whether a fault run proves anything. A run in which nothing happened keeps every promise."""

from services.audit.finding import Source, Tally
from services.audit.stores import Stores

SEEN = {
    "duplicates": "duplicate",
    "redeliveries": "redelivery",
    "in_doubt": "payment in doubt",
    "conflicts": "conflict",
}


async def planned_faults_fired(counted: Tally, stores: Stores) -> None:
    """Not vacuous: every planned fault fired; at least one duplicate, redelivery, in-doubt and conflict per run."""
    run = stores.evidence.run
    if run is None:
        counted.missing("no --run given: what was planned, and what fired", Source.RUN)
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
    """The checker can fail: builds with a planted fault each turn it red."""
    planted = stores.evidence.run.planted if stores.evidence.run is not None else None
    if not planted:
        counted.missing("no --run with planted faults given", Source.RUN)
        return
    for build in planted:
        counted.look()
        if build.expected not in build.red:
            red = ", ".join(build.red) or "none"
            counted.breach(build.name, f"should have turned {build.expected} red; red were {red}")
