"""The doctor's look at the databases: reachable, of a supported version, migrated, with the right clock, roles and rights, without lag."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, cast, get_args

from deploy.doctor.diagnosis import Diagnosis, broken, look, well
from deploy.permissions.databases import FUNCTIONS, GRANTS, PREDEFINED, PURGE, Service, owner, roles, users
from deploy.permissions.needs import privileges
from services.audit.errors import AuditError
from services.audit.stores import Snapshot, snapshot
from shared.clock import Clock
from shared.persistence import schema
from shared.persistence.database import Connection
from shared.settings import database_variable

SERVICES_FOLDER: Final = Path(__file__).parents[2] / "services"
POSTGRESQL_LEAST: Final = 15
POSTGRESQL_TESTED_MOST: Final = 18
SKEW_LOOK_S, SKEW_BROKEN_S = 2.0, 60.0
"""Due times are the database's own, so a skew breaks no promise. Times in messages and logs are a machine's, and a gateway refuses events
whose signatures are 300 s old."""
LAG_LOOK_S: Final = 60
"""The sweeper publishes after two seconds what a publisher left behind."""


class _SnapshotConnection:
    """What `schema.pending` asks of a connection, answered by a snapshot."""

    def __init__(self, snapshot_: Snapshot) -> None:
        self.fetchval = snapshot_.value


async def look_at_database(service: Service, url: str, clock: Clock) -> list[Diagnosis]:
    """Everything about one service's database. One that cannot be read is one diagnosis."""
    try:
        async with snapshot(service, url) as database:
            return [one async for one in _look(service, database, clock)]
    except AuditError as error:
        return [broken(f"{service} database", str(error), f"look at PostgreSQL, and at {database_variable(service)}")]


async def _look(service: Service, database: Snapshot, clock: Clock) -> AsyncIterator[Diagnosis]:
    what = f"{service} database"
    yield _version(what, int(await database.value("SELECT current_setting('server_version_num')::int")))
    yield await _migrations(service, what, database)
    yield await _clock(what, database, clock)
    yield await _role(what, database)
    for one in await _rights(service, what, database):
        yield one
    yield await _outbox(what, database)
    if service in _UNSEALED:
        yield await _seals(what, database, _UNSEALED[service])
    yield await _work(service, what, database)


def _version(what: str, number: int) -> Diagnosis:
    version = number // 10_000
    if version < POSTGRESQL_LEAST:
        return broken(
            what,
            f"PostgreSQL {version} is older than {POSTGRESQL_LEAST}.",
            f"upgrade PostgreSQL to {POSTGRESQL_LEAST} or newer",
        )
    if version > POSTGRESQL_TESTED_MOST:
        return look(
            what,
            f"PostgreSQL {version} is newer than {POSTGRESQL_TESTED_MOST}, the newest that was tried.",
            "watch the logs",
        )
    return well(what, f"PostgreSQL {version} answers.")


async def _migrations(service: Service, what: str, database: Snapshot) -> Diagnosis:
    folder = SERVICES_FOLDER / service / "migrations"
    if (problem := await schema.pending(cast(Connection, _SnapshotConnection(database)), folder)) is not None:
        return broken(what, f"{problem[0].upper()}{problem[1:]}.", f"remit migrate {service}")
    current = str(await database.value("SELECT version_num FROM alembic_version"))
    waiting = [step.name for step in schema.steps(folder) if step.is_post and step.revision > current]
    if waiting:
        return look(
            what,
            f"Post steps wait: {', '.join(waiting)}.",
            f"remit migrate --post {service}, once no earlier build runs",
        )
    newest = schema.steps(folder)[-1].revision
    if current > newest:
        return look(what, f"It is at revision {current} of a newer build than this one.", "remit version")
    return well(what, f"It is migrated to revision {current}.")


async def _clock(what: str, database: Snapshot, clock: Clock) -> Diagnosis:
    before = clock()
    theirs = await database.value("SELECT clock_timestamp()")
    skew_s = (theirs - (before + (clock() - before) / 2)).total_seconds()
    return judge_skew(what, skew_s)


def judge_skew(what: str, skew_s: float) -> Diagnosis:
    """Whether a server's clock agrees with this machine's."""
    says = f"Its clock is {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's."
    if abs(skew_s) < SKEW_LOOK_S:
        return well(what, says)
    return (broken if abs(skew_s) >= SKEW_BROKEN_S else look)(what, says, "start a time service (NTP) on both machines")


async def _role(what: str, database: Snapshot) -> Diagnosis:
    (row,) = await database.page(
        "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb AS mighty FROM pg_roles WHERE rolname = current_user"
    )
    if row["mighty"]:
        return look(
            what, f"The role {row['rolname']} of this URL may do far more than Remit needs.", "remit permissions"
        )
    return well(what, f"The role is {row['rolname']}.")


_GRANTED: Final = """
    WITH things (thing, owner, acl, part) AS (
        SELECT relname::text, relowner, relacl, NULL FROM pg_class
        WHERE relnamespace IN (to_regnamespace('public'), to_regnamespace('weeks')) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT relname, relowner, attacl, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace IN (to_regnamespace('public'), to_regnamespace('weeks')) AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT 'function ' || proname, proowner, coalesce(proacl, acldefault('f', proowner)), NULL FROM pg_proc
        WHERE pronamespace = to_regnamespace('public')
        UNION ALL SELECT 'schema ' || nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner)), NULL FROM pg_namespace
        WHERE nspname IN ('public', 'weeks')
        UNION ALL SELECT 'database', datdba, coalesce(datacl, acldefault('d', datdba)), NULL FROM pg_database
        WHERE datname = current_database())
    SELECT coalesce(rolname, 'PUBLIC') AS role, privilege_type AS privilege, thing, part, is_grantable
    FROM things CROSS JOIN LATERAL aclexplode(acl) LEFT JOIN pg_roles ON pg_roles.oid = grantee WHERE grantee <> owner"""
"""What was granted to others than the owner; without any grant on a thing, what PostgreSQL grants by itself."""
_HELD: Final = """
    WITH ours AS (SELECT * FROM pg_roles WHERE rolname = ANY($1::name[])),
        owner AS (SELECT datdba AS role FROM pg_database WHERE datname = current_database())
    SELECT rolname::text AS role, attribute AS privilege, '' AS thing FROM ours, unnest(ARRAY[
        CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
        CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END]) AS attribute
    WHERE attribute IS NOT NULL
    UNION ALL SELECT rolname, 'MEMBER of', pg_get_userbyid(roleid)::text FROM pg_auth_members JOIN ours ON member = ours.oid
    UNION ALL SELECT pg_get_userbyid(relowner), 'OWNER of', relname FROM pg_class, owner
    WHERE relnamespace IN (to_regnamespace('public'), to_regnamespace('weeks')) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND relowner <> owner.role
    UNION ALL SELECT pg_get_userbyid(proowner), 'OWNER of', 'function ' || proname FROM pg_proc, owner
    WHERE pronamespace = to_regnamespace('public') AND proowner <> owner.role"""
"""What roles may do by what they are, and not by a grant."""
_THERE: Final = """
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"""
SHOWN_MAX: Final = 3
"""Rights that are named; the rest is counted."""
_Right = tuple[str, str, str, str | None]
"""A role, a privilege, on what, and on which column of it."""


async def _rights(service: Service, what: str, database: Snapshot) -> list[Diagnosis]:
    """What the roles may do, held against the one table of `remit permissions`."""
    do = f"remit permissions apply {service}"
    owned_by = await database.value(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    )
    if owned_by != owner(service):
        return [look(what, f"It belongs to {owned_by}: services share a role that may do everything.", do)]
    granted = await _granted(database)
    there = {row["relname"] for row in await database.page(_THERE)}
    wanted = {right for right in _wanted(service) if right[2] in there or right[2] in {"database", "schema public"}}
    held = [
        (row["role"], row["privilege"], row["thing"], None) for row in await database.page(_HELD, list(roles(service)))
    ]
    found = []
    if lacking := sorted(wanted - granted, key=str):
        found.append(broken(what, f"Rights are missing: {_listed(lacking)}.", do))
    if beyond := sorted(granted - wanted, key=str):
        found.append(look(what, f"Rights go beyond need: {_listed(beyond)}.", do))
    if mighty := sorted({right for right in held if right[:3] not in _MAY_BE}, key=str):
        found.append(
            look(
                what, f"Roles are more than they should be: {_listed(mighty)}.", "take it from them, by ALTER or REVOKE"
            )
        )
    return found or [well(what, "Every role may do what it should, and nothing else.")]


_MAY_BE: Final = {(role, "MEMBER of", predefined) for role, predefined in PREDEFINED.items()}


async def _granted(database: Snapshot) -> set[_Right]:
    rows = await database.page(_GRANTED)
    rights = {(row["role"], row["privilege"], row["thing"], row["part"]) for row in rows}
    return rights | {
        (row["role"], f"{row['privilege']} WITH GRANT OPTION", row["thing"], row["part"])
        for row in rows
        if row["is_grantable"]
    }


def _wanted(service: Service) -> Iterator[_Right]:
    """What `remit permissions apply` grants."""
    for role in users(service):
        yield (role, "CONNECT", "database", None)
        yield (role, "USAGE", "schema public", None)
        for table, grant in GRANTS[service].items():
            for privilege, columns in privileges(grant.of(role)).items():
                parts: list[str | None] = [*columns] or [None]
                yield from ((role, privilege, table, part) for part in parts)
    for name in FUNCTIONS.get(service, ()):
        yield from ((role, "EXECUTE", f"function {name}", None) for role in (service, PURGE))


def _listed(rights: Sequence[_Right]) -> str:
    shown = [
        f"{role} {privilege} {thing}{f'.{column}' if column else ''}".rstrip()
        for role, privilege, thing, column in rights[:SHOWN_MAX]
    ]
    more = len(rights) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


async def _outbox(what: str, database: Snapshot) -> Diagnosis:
    (row,) = await database.page(
        """SELECT count(*) FILTER (WHERE sweep_after = 'infinity') AS quarantined, count(*) FILTER (WHERE lane <> 'public') AS waiting,
                  coalesce(clock_timestamp() - min(created_at) FILTER (WHERE lane <> 'public' AND sweep_after <> 'infinity'), '0') AS age
           FROM outbox"""
    )
    if row["quarantined"]:
        return broken(
            what, f"{row['quarantined']} messages are quarantined: they are not tried any more.", "remit outbox list"
        )
    age_s = cast(timedelta, row["age"]).total_seconds()
    if age_s > LAG_LOOK_S:
        says = f"Messages wait in the outbox, the oldest for {age_s:.0f} s."
        return broken(
            what, says, "see whether the service runs and reaches the broker: its /readyz and its log say why"
        )
    return well(what, f"{row['waiting']} messages wait in the outbox.")


_OLDEST_UNSEALED: Final = """
    SELECT coalesce(clock_timestamp() - min({time}), '0') AS age FROM {book}
    WHERE written_in >= (SELECT coalesce(max(until_tx), 1) FROM seals WHERE book = '{book}')"""
_UNSEALED: Final[dict[Service, str]] = {
    "invoice": _OLDEST_UNSEALED.format(book="answers", time="answered_at"),
    "payment_gateway": _OLDEST_UNSEALED.format(book="outcomes", time="recorded_at"),
}
"""How old the oldest row is that has no seal yet."""
UNSEALED_LOOK: Final = timedelta(minutes=1)
"""Rows are sealed every ten seconds."""
_OLDEST_OPEN: Final = """
    SELECT pid || ' (' || coalesce(nullif(application_name, ''), usename) || ' at ' || datname || ')' FROM pg_stat_activity
    WHERE backend_xid IS NOT NULL ORDER BY backend_xid::text::bigint LIMIT 1"""


async def _seals(what: str, database: Snapshot, unsealed: str) -> Diagnosis:
    """Whether what was written is sealed: the service does it, unless a transaction that was left open anywhere holds it up."""
    age = cast(timedelta, await database.value(unsealed))
    if age < UNSEALED_LOOK:
        return well(what, "What was written is sealed.")
    holds = await database.value(_OLDEST_OPEN)
    return look(
        what,
        f"What was written has not been sealed for {age.total_seconds():.0f} s.",
        f"end the transaction of process {holds} if it was left open"
        if holds
        else "see whether the service runs, and its log",
    )


_WORK: Final[dict[Service, tuple[str, str, str]]] = {
    "invoice": (
        "SELECT count(*) FROM payments WHERE pending AND announced_at < clock_timestamp() - interval '1 hour'",
        "payments are pending, and were announced more than an hour ago",
        "remit payments in-doubt",
    ),
    "payment_gateway": (
        "SELECT count(*) FROM payments WHERE due_at < clock_timestamp() - interval '1 minute'",
        "payments have been due for more than a minute",
        "see whether payment_gateway runs, and what its /readyz says of the gateway",
    ),
    "saga": (
        "SELECT count(*) FROM deadlines WHERE fired_at IS NULL AND due_at < clock_timestamp() - interval '1 minute'",
        "deadlines have been due for more than a minute",
        "see whether saga runs",
    ),
    "staff": (
        "SELECT count(*) FROM dead_letters WHERE status = 'open'",
        "dead letters are open",
        "remit dead-letters list",
    ),
}
"""Work that is late, or waits for a person, by service: its number, in words, and what to type."""
assert _WORK.keys() == set(get_args(Service))  # noqa: S101 - a service more has work, too


async def _work(service: Service, what: str, database: Snapshot) -> Diagnosis:
    statement, words, do = _WORK[service]
    number = int(await database.value(statement))
    return (
        look(what, f"{number} {words}.", do)
        if number
        else well(what, f"No {words.partition(' ')[0]} wait for anybody.")
    )
