"""Line 14: recovery or replay a second time changes nothing. Whoever runs it again takes a base line before, and audits after."""

from services.audit.baseline import digests
from services.audit.finding import Finding, Source
from services.audit.stores import DATABASES, Stores
from services.audit.titles import needs, tally


async def line_14(stores: Stores) -> Finding:
    """Running recovery or replay a second time changes nothing."""
    counted = tally(14, stores)
    needs(counted, stores, *DATABASES)
    before = next((one.digest for one in reversed(stores.evidence.baselines) if one.digest is not None), None)
    if before is None:
        counted.missing("no --baseline with a digest given", Source.BASELINE)
        return counted.finding()
    if not stores.drained:
        counted.missing("only a drained system can be compared (--drained)", Source.BASELINE)
        return counted.finding()
    now = {table: digest async for table, digest in digests(stores)}
    for table in sorted({*before, *now}):
        counted.look()
        if table not in before or table not in now:
            counted.missing(f"{table} was not digested {'then' if table in now else 'now'}", Source.BASELINE)
        elif before[table] != now[table]:
            counted.breach(table, f"its content changed: {_rows(before[table])} rows then, {_rows(now[table])} now")
    return counted.finding()


def _rows(digest: str) -> str:
    return str(int(digest.partition("-")[0], 16))
