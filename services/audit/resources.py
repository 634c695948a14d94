"""Checks for what was not given back: transactions, leases, deliveries, connections, memory."""

from services.audit.baseline import connections, memory_mib
from services.audit.evidence import Baseline
from services.audit.finding import Source, Tally
from services.audit.stores import Snapshot, Stores

OPEN_S = 5.0
"""Our transactions take milliseconds, so an audit may meet one; a transaction that is open this long was left behind."""
UNUSED_S = 360.0
"""A service closes connections that were not used for 120 to 240 seconds (`shared.persistence.database`)."""
POOL_MAX = 10
"""The number of connections that one instance may keep for that long after a load (`shared.service`): so many more than at the baseline are
allowed."""
MEMORY_FACTOR, MEMORY_MIB = 1.5, 64.0
"""Python returns little memory to the system, so only growth beyond this factor and these MiB counts."""

_TRANSACTIONS = """
    SELECT pid, application_name, state, xact_start FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name NOT LIKE 'remit audit%'
      AND xact_start < clock_timestamp() - make_interval(secs => $1) AND backend_type = 'client backend'"""
_PREPARED = "SELECT gid, prepared FROM pg_prepared_xacts WHERE database = current_database()"
_UNUSED = """
    SELECT pid, application_name, state_change FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'remit %'
      AND application_name NOT LIKE 'remit audit%' AND state = 'idle' AND state_change < clock_timestamp() - make_interval(secs => $1)"""
_HIDDEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query = '<insufficient privilege>'"""
_LEASES = """
    SELECT payment_id, status, due_at, updated_at, due_at < now() AS ran_out,
           status IN ('requested', 'prepared', 'cancelling', 'refunding') AS at_work
    FROM payments WHERE leased_by IS NOT NULL ORDER BY payment_id"""


async def resources_given_back(counted: Tally, stores: Stores) -> None:
    """No open transactions, leases or unacknowledged deliveries are left; connections and memory are back at their baseline."""
    for name, database in stores.databases.items():
        await _sessions(counted, name, database)
    if stores.has("payment_gateway"):
        await _leases(counted, stores)
    _unacked(counted, stores)
    before = next((one for one in reversed(stores.evidence.baselines) if one.connections is not None), None)
    if before is None:
        counted.missing("no --baseline given: connections and memory", Source.BASELINE)
    else:
        await _compare(counted, stores, before)


async def _sessions(counted: Tally, name: str, database: Snapshot) -> None:
    counted.look()
    if hidden := await database.value(_HIDDEN):
        counted.missing(f"{hidden} sessions at the database of {name} are hidden from this role (pg_read_all_stats)")
    async for row in database.rows(_TRANSACTIONS, OPEN_S):
        who = row["application_name"] or f"process {row['pid']}"
        counted.breach(
            f"{name}: {who}",
            f"a transaction is open since {row['xact_start']:%F %T} ({row['state']})",
            since=row["xact_start"],
        )
    async for row in database.rows(_PREPARED):
        counted.breach(
            f"{name}: {row['gid']}", f"a transaction is prepared since {row['prepared']:%F %T}", since=row["prepared"]
        )
    async for row in database.rows(_UNUSED, UNUSED_S):
        counted.breach(
            f"{name}: {row['application_name']}",
            f"connection {row['pid']} was not used since {row['state_change']:%F %T}",
        )


async def _leases(counted: Tally, stores: Stores) -> None:
    """A lease ends with its work. A payment that waits for a person is inquired again and again, each time under a short lease."""
    async for row in stores.databases["payment_gateway"].rows(_LEASES):
        counted.look()
        if row["due_at"] is None:
            counted.breach(row["payment_id"], f"{row['status']}, and leased without an end")
        elif row["ran_out"]:
            counted.breach(
                row["payment_id"],
                f"{row['status']}, and its lease ran out at {row['due_at']:%F %T}",
                since=row["due_at"],
            )
        elif row["at_work"] and stores.drained:
            counted.breach(row["payment_id"], f"{row['status']}, and leased: an instance still works on it")
        else:
            counted.in_flight()


def _unacked(counted: Tally, stores: Stores) -> None:
    """Deliveries not acknowledged. AMQP does not tell their number; a queue without consumer has none; a live system always has some."""
    told = stores.evidence.unacked or {}
    for name, queue in (stores.queues or {}).items():
        counted.look()
        if not stores.drained:
            counted.in_flight(int(queue is not None and queue.consumers > 0))
        elif name in told:
            if told[name]:
                counted.breach(name, f"{told[name]} deliveries are not acknowledged")
        elif queue is None or queue.consumers:
            counted.missing(
                "deliveries not acknowledged: AMQP tells of them only for a queue without consumers (stop the services, or "
                "give --unacked)",
                Source.UNACKED,
            )


async def _compare(counted: Tally, stores: Stores, before: Baseline) -> None:
    for name, count in (await connections(stores)).items():
        counted.look()
        allowed = (before.connections or {}).get(name)
        if allowed is None:
            counted.missing(f"the baseline does not have the connections of {name}", Source.BASELINE)
        elif count > allowed + POOL_MAX:
            counted.breach(name, f"{count} connections to its database, at the baseline {allowed}")
    now = memory_mib(stores.urls)
    for name, was in (before.memory_mib or {}).items():
        if name not in now:
            continue  # no such process runs here now
        counted.look()
        if now[name] > was * MEMORY_FACTOR + MEMORY_MIB:
            counted.breach(name, f"its processes use {now[name]:.0f} MiB, at the baseline {was:.0f}")
