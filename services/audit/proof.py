"""Lines 17 and 18: whether a fault run proves anything. A run in which nothing happened holds every line."""

from services.audit.finding import Finding, Source
from services.audit.stores import Stores
from services.audit.titles import tally

SEEN = {
    "duplicates": "duplicate",
    "redeliveries": "redelivery",
    "in_doubt": "payment in doubt",
    "conflicts": "conflict",
}


async def line_17(stores: Stores) -> Finding:
    """Not vacuous: every planned fault fired; at least one duplicate, redelivery, in-doubt and conflict per run."""
    counted = tally(17, stores)
    run = stores.evidence.run
    if run is None:
        counted.missing("no --run given: what was planned, and what fired", Source.RUN)
        return counted.finding()
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
    return counted.finding()


async def line_18(stores: Stores) -> Finding:
    """The checker can fail: builds with a planted fault each turn it red."""
    counted = tally(18, stores)
    planted = stores.evidence.run.planted if stores.evidence.run is not None else None
    if not planted:
        counted.missing("no --run with planted faults given", Source.RUN)
        return counted.finding()
    for build in planted:
        counted.look()
        if build.expected not in build.red:
            red = ", ".join(map(str, build.red)) or "none"
            counted.breach(build.name, f"should have turned line {build.expected} red; red were {red}")
    return counted.finding()
