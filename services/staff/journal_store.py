"""The SQL of seals, of the look at the chain, and of what people read in the journal."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Any, Literal
from uuid import UUID

from shared.persistence.database import Connection, Record, Tx
from shared.records import dataclass

# -- seals -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seal:
    """The head of the journal as it was at a moment: the number of its last entry, and that entry's hash (SHA-256)."""

    position: int
    hash: bytes
    at: datetime

    @property
    def head(self) -> str:
        """As people and logs write it: `POSITION:HASH`."""
        return f"{self.position}:{self.hash.hex()}"


async def head_now(connection: Connection, now: datetime) -> Seal | None:
    """The head of the journal. None if the journal is empty."""
    row = await connection.fetchrow("SELECT position, hash FROM journal ORDER BY position DESC LIMIT 1")
    return Seal(row["position"], row["hash"], now) if row is not None else None


async def last_seal(connection: Connection) -> Seal | None:
    """The newest seal. None if there is none yet."""
    row = await connection.fetchrow("SELECT position, hash, at FROM seals ORDER BY position DESC LIMIT 1")
    return Seal(**row) if row is not None else None


async def add_seal(tx: Tx, seal: Seal) -> bool:
    """Keep a seal. False if another instance has sealed the same entry."""
    added = await tx.fetch(
        "INSERT INTO seals (position, hash, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1",
        seal.position,
        seal.hash,
        seal.at,
    )
    return bool(added)


async def seals_after(connection: Connection, position: int, *, at_most: int) -> list[Seal]:
    """The seals of entries after `position`, in their order."""
    rows = await connection.fetch(
        "SELECT position, hash, at FROM seals WHERE position > $1 ORDER BY position LIMIT $2", position, at_most
    )
    return [Seal(**row) for row in rows]


async def seals_between(connection: Connection, after: int, until: int) -> dict[int, bytes]:
    """The hashes of the seals of the entries after `after` and up to `until`, by the entries' numbers."""
    rows = await connection.fetch(
        "SELECT position, hash FROM seals WHERE position > $1 AND position <= $2", after, until
    )
    return {row["position"]: row["hash"] for row in rows}


# -- the look at the chain ---------------------------------------------------------------------------------------------------------------


class Difference(StrEnum):
    """In what an entry is not as it was written."""

    GAP = "gap"
    CONTENT = "content"
    CHAIN = "chain"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the chain: how many entries, the last one's number and hash, and the first that is not as it was written."""

    entries: int
    position: int
    hash: bytes
    differs_at: int | None
    difference: Difference | None


async def look_at(connection: Connection, after: int, hash_before: bytes, *, at_most: int) -> Stretch:
    """Compute the next entries of the chain again, those after entry `after`, whose hash is `hash_before`.

    The database computes, so that no entry has to be sent, and by PostgreSQL's own functions alone: whoever changed the journal may have
    changed the functions that wrote it.
    """
    row = await connection.fetchrow(_LOOK, after, hash_before, at_most)
    if row is None or not row["entries"]:
        return Stretch(0, after, hash_before, None, None)
    difference = Difference(row["difference"]) if row["difference"] is not None else None
    return Stretch(row["entries"], row["position"], row["hash"], row["differs_at"], difference)


_FIRST = -(2**63)
_LOOK = f"""
    WITH page AS (
        SELECT id, position, at, who, action, subject, details, salt, digest, hash FROM journal
        WHERE position > CASE WHEN $1 = 0 THEN {_FIRST} ELSE $1::bigint END ORDER BY position LIMIT $3
    ), beside AS (
        SELECT page.id, page.position, page.at, page.who, page.action, page.subject, page.details, page.salt, page.digest, page.hash,
            lag(position, 1, $1::bigint) OVER chain AS last, lag(hash, 1, $2::bytea) OVER chain AS hash_before
        FROM page WINDOW chain AS (ORDER BY position)
    ), compared AS (
        SELECT position, hash, CASE
            WHEN position <> last + 1 THEN 'gap'
            WHEN salt IS NOT NULL
                AND digest <> sha256(salt || convert_to(jsonb_build_array(who, details)::text, 'UTF8')) THEN 'content'
            WHEN hash <> sha256(hash_before || convert_to(concat_ws('|', position, id,
                (extract(epoch FROM at) * 1000000)::bigint, action, subject, encode(digest, 'hex')), 'UTF8')) THEN 'chain'
            WHEN salt IS NULL AND NOT EXISTS (
                SELECT FROM journal purge WHERE purge.action = 'purge' AND purge.position > beside.position
                AND purge.details->'rows' @> jsonb_build_array(jsonb_build_object('table', 'journal', 'key', beside.id::text))) THEN 'purge'
        END AS difference FROM beside
    )
    SELECT count(*) AS entries, max(position) AS position, (array_agg(hash ORDER BY position DESC))[1] AS hash,
        min(position) FILTER (WHERE difference IS NOT NULL) AS differs_at,
        (array_agg(difference ORDER BY position) FILTER (WHERE difference IS NOT NULL))[1] AS difference
    FROM compared"""  # noqa: S608 - a constant


async def hashes_of(connection: Connection, positions: Sequence[int]) -> dict[int, bytes]:
    """The hashes of these entries, by their numbers, as far as there are such entries."""
    rows = await connection.fetch(
        "SELECT position, hash FROM journal WHERE position = ANY($1::bigint[])", list(positions)
    )
    return {row["position"]: row["hash"] for row in rows}


@dataclass(frozen=True, slots=True)
class ChainLook:
    """How far the present look at the chain has come: `position` and `hash` of the last entry that it found whole.

    `begun_at` is None if none goes on. `seals`: with how many it was compared, of which `seals_outside` stand outside of the database.
    """

    asked_at: datetime | None
    begun_at: datetime | None
    position: int
    hash: bytes
    seals: int
    seals_outside: int


@dataclass(frozen=True, slots=True)
class ChainResult:
    """How the last look at the chain ended. `checked_at` is None if none ever ended.

    `broken_at` is the first entry that is not as it was, and `broken_why` says in what; both are None if the chain is whole.
    The others tell of the last time when it was: `entries` is how many there were, `head` the hash of the last one, `sealed` how many seals
    they were compared with, and `sealed_outside` how many of these stand outside of the database.
    """

    checked_at: datetime | None
    entries: int
    head: bytes
    sealed: int
    sealed_outside: int
    broken_at: int | None
    broken_why: str | None


async def lock_look(tx: Tx) -> tuple[ChainLook, ChainResult] | None:
    """The look at the chain and how the last one ended. None if another instance is at it."""
    await tx.execute(_MAKE_LOOK)
    rows = await tx.fetch(f"SELECT {_LOOK_NAMES} FROM journal_check FOR UPDATE SKIP LOCKED")  # noqa: S608 - constants
    return (_look(rows[0]), _result(rows[0])) if rows else None


async def chain_result(connection: Connection) -> tuple[ChainLook, ChainResult]:
    """The look at the chain, and how the last one ended."""
    row = await connection.fetchrow(f"SELECT {_LOOK_NAMES} FROM journal_check")  # noqa: S608 - constants
    if row is None:
        return ChainLook(None, None, 0, b"", 0, 0), ChainResult(None, 0, b"", 0, 0, None, None)
    return _look(row), _result(row)


async def ask_for_look(tx: Tx, now: datetime) -> None:
    """Have the chain looked at from its beginning as soon as the service comes to it."""
    await tx.execute(_MAKE_LOOK)
    await tx.execute("UPDATE journal_check SET asked_at = $1", now)


_MAKE_LOOK = "INSERT INTO journal_check (only_row) VALUES (true) ON CONFLICT DO NOTHING"
_LOOK_NAMES = ", ".join({**ChainLook.__dataclass_fields__, **ChainResult.__dataclass_fields__})


async def note_look(tx: Tx, look: ChainLook) -> None:
    """Store how far the look has come."""
    await tx.execute(
        """UPDATE journal_check
           SET asked_at = $1, begun_at = $2, position = $3, hash = $4, seals = $5, seals_outside = $6""",
        look.asked_at,
        look.begun_at,
        look.position,
        look.hash,
        look.seals,
        look.seals_outside,
    )


async def note_result(tx: Tx, result: ChainResult) -> None:
    """Store how the look has ended."""
    await tx.execute(
        """UPDATE journal_check SET checked_at = $1, entries = $2, head = $3, sealed = $4, sealed_outside = $5,
           broken_at = $6, broken_why = $7""",
        result.checked_at,
        result.entries,
        result.head,
        result.sealed,
        result.sealed_outside,
        result.broken_at,
        result.broken_why,
    )


def _look(row: Record) -> ChainLook:
    return ChainLook(**{name: row[name] for name in ChainLook.__dataclass_fields__})


def _result(row: Record) -> ChainResult:
    return ChainResult(**{name: row[name] for name in ChainResult.__dataclass_fields__})


# -- what people read --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadEntry:
    """An entry with its place in the chain. `is_purged`: words were taken out of it."""

    position: int
    id: UUID
    at: datetime
    who: str
    action: str
    subject: UUID
    details: Mapping[str, Any]
    hash: bytes
    is_purged: bool


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries: those that pass all that is given. Empty `actions` or `subjects` pass none; None passes all.

    `about` is a text that entries name themselves, such as the number of a run. `day` is a span of time, its end not included.
    """

    who: str | None = None
    actions: Sequence[str] | None = None
    subjects: Sequence[UUID] | None = None
    about: str | None = None
    day: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class _Places:
    """Between which places of the chain to look. Both are left out."""

    after: int
    before: int


async def read_entries(
    connection: Connection, filter_: EntryFilter, *, after: int = 0, before: int | None = None, at_most: int
) -> list[ReadEntry]:
    """Entries before the place `before`, the latest first; without `before` those after the place `after`, the earliest first."""
    actions = filter_.actions
    if actions is None and filter_.who is not None:
        actions = await names_in(
            connection, "action", at_most=ACTIONS_MAX
        )  # the index of who has what they did behind it
    if actions is not None and not actions:
        return []
    places = _Places(after, BEYOND_ALL if before is None else before)
    if filter_.day is not None:
        places = await _within(connection, places, *filter_.day)
    is_about = filter_.subjects is not None or filter_.about is not None
    has_day, has_actions = filter_.day is not None, actions is not None
    rows = await connection.fetch(
        _READINGS[filter_.who is not None, is_about, has_day, has_actions, before is not None],
        places.after,
        places.before,
        at_most,
        filter_.who,
        list(filter_.subjects or ()) if is_about else None,
        filter_.about,
        *(filter_.day or (None, None)),
        list(actions) if actions is not None else None,
    )
    return [ReadEntry(**row) for row in rows]


async def last_place(connection: Connection) -> int:
    """The place of the newest entry; 0 if there is none."""
    return int(await connection.fetchval("SELECT coalesce(max(position), 0) FROM journal"))


async def _within(connection: Connection, places: _Places, since: datetime, until: datetime) -> _Places:
    """The places at which there are entries of this time. Entries are about in the order of time, so between them are few others."""
    # Without OFFSET the planner reads the journal from both of its ends until it comes to that time.
    row = await connection.fetchrow(
        """SELECT min(position) AS first, max(position) AS last
           FROM (SELECT position FROM journal WHERE at >= $1 AND at < $2 OFFSET 0) AS day""",
        since,
        until,
    )
    if row is None or row["first"] is None:
        return _Places(0, 0)
    return _Places(max(places.after, row["first"] - 1), min(places.before, row["last"] + 1))


BEYOND_ALL = 2**63 - 1
ACTIONS_MAX = 500
"""Far more than there are."""
_ENTRY = "position, id, at, who, action, subject, details, hash, salt IS NULL AS is_purged"


def _reading(*, who: bool, about: bool, day: bool, by_action: bool, is_backward: bool) -> str:
    """The statement for filters of this shape. Each action has a part of its own, which one index gives in the order of the chain.

    Rows are compared as wholes, such as (who, position), because one plan serves all values: told that `who` is equal to something, the
    planner may as well read the whole journal for the entries of somebody who did nothing for a year.
    """
    way = "DESC" if is_backward else "ASC"
    equal = {"who": "$4::text"} if who else {}
    equal |= {"action": "wanted.action"} if by_action else {}
    names, values = ", ".join([*equal, "position"]), ", ".join([*equal.values(), ""])
    conditions = (
        f"({names}) > ({values}$1::bigint) AND ({names}) < ({values}$2::bigint)",
        "true" if who else "$4::text IS NULL",
        "(subject = ANY($5::uuid[]) OR (details ? 'about' AND details->>'about' = $6))"
        if about
        else "$5::uuid[] IS NULL AND $6::text IS NULL",
        "at >= $7 AND at < $8" if day else "$7::timestamptz IS NULL AND $8::timestamptz IS NULL",
    )
    order = ", ".join(f"{name} {way}" for name in (*equal, "position"))
    part = f"SELECT {_ENTRY} FROM journal WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants
    if not by_action:
        return f"{part} AND $9::text[] IS NULL ORDER BY {order} LIMIT $3"
    return f"""SELECT part.* FROM unnest($9::text[]) AS wanted (action)
        CROSS JOIN LATERAL ({part} ORDER BY {order} LIMIT $3) AS part ORDER BY position {way} LIMIT $3"""  # noqa: S608 - constants


_READINGS = {
    shape: _reading(who=shape[0], about=shape[1], day=shape[2], by_action=shape[3], is_backward=shape[4])
    for shape in product((False, True), repeat=5)
}
"""The statement for each shape of a filter: who, about, day, actions; and whether the latest entries come first."""


async def read_entry(connection: Connection, position: int) -> ReadEntry | None:
    """The entry at this place. None if there is none."""
    row = await connection.fetchrow(f"SELECT {_ENTRY} FROM journal WHERE position = $1", position)  # noqa: S608 - a constant
    return ReadEntry(**row) if row is not None else None


def _names(column: str) -> str:
    """An index is asked for the next one again and again: there are few, and a million entries."""
    return f"""WITH RECURSIVE names (name) AS (
            (SELECT {column} FROM journal ORDER BY {column} LIMIT 1)
            UNION ALL
            SELECT (SELECT {column} FROM journal WHERE {column} > name ORDER BY {column} LIMIT 1) FROM names WHERE name IS NOT NULL)
        SELECT name FROM names WHERE name IS NOT NULL LIMIT $1"""  # noqa: S608 - one of two constants


_NAMES = {"who": _names("who"), "action": _names("action")}


async def names_in(connection: Connection, column: Literal["who", "action"], *, at_most: int) -> list[str]:
    """The different values of the column, in their order."""
    return [row["name"] for row in await connection.fetch(_NAMES[column], at_most)]


async def subjects_ending(connection: Connection, end: str, *, at_most: int) -> list[UUID]:
    """What entries are about, of which the id ends so: hexadecimal digits, in small letters."""
    rows = await connection.fetch(
        """SELECT DISTINCT subject FROM (SELECT subject FROM journal
           WHERE reverse(subject::text) COLLATE "C" >= $1 AND reverse(subject::text) COLLATE "C" < $1 || 'g'
           ORDER BY reverse(subject::text) COLLATE "C" LIMIT $2) AS ending""",
        end[::-1],
        at_most,
    )
    return [row["subject"] for row in rows]


async def payments_of(connection: Connection, invoice_id: str, *, at_most: int) -> list[UUID]:
    """The payments of an invoice that were cases."""
    rows = await connection.fetch("SELECT payment_id FROM cases WHERE invoice_id = $1 LIMIT $2", invoice_id, at_most)
    return [row["payment_id"] for row in rows]


async def what_they_are(connection: Connection, subjects: Sequence[UUID]) -> dict[UUID, tuple[str, str | None]]:
    """Of these ids, those of cases, dead letters and runs: which of them, and the invoice of a case or the number of a run."""
    rows = await connection.fetch(
        """SELECT payment_id AS id, 'case' AS kind, invoice_id AS name FROM cases WHERE payment_id = ANY($1::uuid[])
           UNION ALL SELECT id, 'dead_letter', NULL FROM dead_letters WHERE id = ANY($1::uuid[])
           UNION ALL SELECT id, 'run', no::text FROM replay_runs WHERE id = ANY($1::uuid[])""",
        list(subjects),
    )
    return {row["id"]: (row["kind"], row["name"]) for row in rows}
