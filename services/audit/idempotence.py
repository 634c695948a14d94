"""Recovery or replay a second time changes nothing. To check it, take a baseline, repeat the work, and run the audit."""

from services.audit.baseline import digests
from services.audit.finding import Source, Tally
from services.audit.stores import Stores


async def repeating_changes_nothing(counted: Tally, stores: Stores) -> None:
    """Running recovery or replay a second time changes nothing."""
    before = next((one.digest for one in reversed(stores.evidence.baselines) if one.digest is not None), None)
    if before is None:
        counted.missing("no --baseline with a digest given", Source.BASELINE)
        return
    if not stores.drained:
        counted.missing("only a drained system can be compared (--drained)", Source.BASELINE)
        return
    now = {table: digest async for table, digest in digests(stores)}
    for table in sorted({*before, *now}):
        counted.look()
        if table not in before or table not in now:
            counted.missing(f"{table} was not digested {'then' if table in now else 'now'}", Source.BASELINE)
        elif before[table] != now[table]:
            counted.breach(table, f"its content changed: {_rows(before[table])} rows then, {_rows(now[table])} now")


def _rows(digest: str) -> str:
    return str(int(digest.partition("-")[0], 16))
