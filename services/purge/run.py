"""Finds card data in all tables, and takes it out: a set of rows at a time, each set one transaction, told in staff's journal first.

A purge that dies is run again: what it did is no longer found, and what it did not do is. An entry of the journal may then tell of rows
twice, but no row is changed of which none tells. Rows that are stored anew while it runs are found by the next pass.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from services.invoice.books import BOOKS as INVOICE_BOOKS
from services.payment_gateway.books import BOOKS as PAYMENT_GATEWAY_BOOKS
from services.payment_gateway.commands import PURGED_HASH, Request
from services.payment_gateway.ledger import AT_REST
from services.payment_gateway.store import read_details
from services.purge import hashes
from services.purge.cleaner import NAME_LEFT, TEXT_LEFT, WITHHELD, Cleaner
from services.purge.places import HASHES, NO_TEXTS, OUTBOX, PLACES, TextTable
from services.saga.store import ENDED
from services.staff.dead_letters import Withheld
from services.staff.store import JournalEntry, append_entries
from shared.card_data.plain import is_text
from shared.clock import Clock
from shared.ids import derived_id, new_id
from shared.messaging.dead_letter_headers import BODY_WITHHELD, WITHHELD_CARD_DATA, WITHHELD_NOT_TEXT
from shared.messaging.topology import COMMANDS, DEAD_LETTERS
from shared.persistence import seals
from shared.persistence.database import Connection, Database, Record
from shared.persistence.seals import Book
from shared.records import dataclass, field, replace

ROWS_MAX = 100
"""Rows in one transaction, so that locks stay short. The rows of one invoice are never divided."""
PASSES_MAX = 3
"""How often everything is looked through again after something was found. What a service held in memory comes back once at most."""
ROWS_PER_FETCH = 50
"""Outbox batches have up to some hundred bodies."""

_COLUMNS = """
    SELECT a.attrelid::regclass::text AS table, a.attname AS name, format_type(a.atttypid, NULL) AS type FROM pg_attribute a
    WHERE a.attrelid = ANY($1::text[]::regclass[]) AND a.attnum > 0 AND NOT a.attisdropped
      AND format_type(a.atttypid, NULL) IN ('text', 'text[]', 'jsonb', 'jsonb[]', 'bytea', 'bytea[]') ORDER BY 1, a.attnum"""
_LEASED = ("payment_gateway", "payments")
_BOOKS = {
    (name, book.table): book
    for name, books in (("invoice", INVOICE_BOOKS), ("payment_gateway", PAYMENT_GATEWAY_BOOKS))
    for book in books
}
"""The tables that are sealed."""
_IN_USE = "SELECT leased_by IS NOT NULL AND due_at > now() FROM payments WHERE payment_id = $1"
_LEFT = """
    SELECT encode(sha256(convert_to(jsonb_build_array(who, details)::text, 'UTF8')), 'hex') FROM journal WHERE id = $1"""
_INVOICES = """
    SELECT i.invoice_id, i.status, e.cause_id FROM invoices i JOIN events e ON e.stream_id = i.invoice_id AND e.version = 1"""
_PENDING = ("payment_pending", "in_doubt")
_PAYMENTS_UNDER_WAY = f"SELECT invoice_id FROM payments WHERE invoice_id = ANY($1::text[]) AND NOT ({AT_REST})"  # noqa: S608 - a constant
_SAGAS_UNDER_WAY = f"SELECT invoice_id FROM sagas WHERE invoice_id = ANY($1::text[]) AND NOT ({ENDED})"  # noqa: S608 - a constant
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'remit invoice%' AND pid <> pg_backend_pid()"""


@dataclass(frozen=True, slots=True)
class ScannedTable:
    """A table of a service's database, with its columns that can hold a text, and their types."""

    database: str
    place: TextTable
    columns: Mapping[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        return self.place.table

    @property
    def is_leased(self) -> bool:
        return (self.database, self.name) == _LEASED

    @property
    def select(self) -> str:
        names = dict.fromkeys((*self.place.key, *([self.place.whole] if self.place.whole else ()), *self.columns))
        return f"SELECT {', '.join(names)} FROM {self.name}"  # noqa: S608 - our tables, and columns of the catalogue

    @property
    def where(self) -> str:
        return " AND ".join(f"{column} = ${at}" for at, column in enumerate(self.place.key, start=1))


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row with card data. `key` names it, without card data. `members` are the columns that hold some, with what is left of them."""

    table: ScannedTable
    values: tuple[Any, ...] = field(repr=False)
    key: str
    whole: str | None = field(repr=False)
    members: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Purged:
    """The rows that were cleaned, and those in which card data is left. `under_way` counts invoices whose id waits for a payment to end."""

    cleaned: Sequence[FoundRow]
    left: Sequence[FoundRow]
    under_way: int


class Purge:
    """A purge by one person, for one reason, of all card data or of one number."""

    def __init__(
        self, databases: Mapping[str, Database], *, number: str | None, who: str, reason: str, clock: Clock
    ) -> None:
        self._databases = databases
        self._number = number
        self._who = who
        self._reason = reason
        self._clock = clock
        self._id = new_id()

    async def run(self) -> Purged:
        """Clean all that is found, and look again until nothing is. Raises one of `AWAY_ERRORS`: run it again then."""
        cleaned: list[FoundRow] = []
        tables = await tables_of(self._databases)
        for _ in range(PASSES_MAX):
            cleaner, found, under_way = await look(self._databases, tables, self._number)
            if found or self._number is not None:  # a number may stand in what is kept nowhere but in a hash
                await self._forget_contents()
            if not found:
                return Purged(cleaned, (), under_way)
            for rows in _sets([row for row in found if not await self._is_at_work(row)]):
                cleaned += await self._clean(rows, cleaner)
        _, left, under_way = await look(self._databases, tables, self._number)
        return Purged(cleaned, left, under_way)

    async def _is_at_work(self, row: FoundRow) -> bool:
        """Whether an instance of the payment-gateway service works on this payment. It would write back what it has in memory."""
        if not row.table.is_leased:
            return False
        async with self._databases[row.table.database].connection() as connection:
            return bool(await connection.fetchval(_IN_USE, *row.values))

    async def _clean(self, rows: Sequence[FoundRow], cleaner: Cleaner) -> list[FoundRow]:
        name = rows[0].table.database
        if name != "staff":
            await self._tell(self._entry(rows, {}))
        if payments := [row.values[0] for row in rows if row.table.name == "payments"]:
            async with self._databases["invoice"].transaction() as tx:
                await hashes.forget_commands_of_payments(tx, payments, cleaner)
        has_states = any(row.table.name == "invoices" for row in rows)
        if has_states:  # before anything is changed, so that a role that may not do this fails now
            await _forget_cached_states(self._databases[name])
        async with self._databases[name].transaction() as tx:
            await _lock_invoices(tx, rows)
            sealed = await _seals_over(tx, rows)
            done = [row for row in rows if await _clean_row(tx, row, cleaner)]
            if resealed := await _seal_again(tx, sealed):
                await self._tell(self._entry_about(name, resealed))  # before it takes effect
            if name == "staff" and done:
                left = {row.key: await tx.fetchval(_LEFT, row.values[0]) for row in done if row.table.name == "journal"}
                await append_entries(tx, [self._entry(done, left)])
        if has_states:
            await _forget_cached_states(self._databases[name])
        return done

    async def _forget_contents(self) -> None:
        """Of all commands with long numbers leave the outlines: in which of them the number stands, their hashes do not say."""
        invoice, is_told = self._databases["invoice"], False
        async for commands in hashes.commands_with_long_numbers(invoice):
            if not is_told:
                told = {"table": "answers", "key": "commands with long numbers", "members": ["content_hash"]}
                await self._tell(self._entry_about("invoice", [told]))
                is_told = True
            async with invoice.transaction() as tx:
                await hashes.forget_content(tx, commands)

    async def _tell(self, entry: JournalEntry) -> None:
        async with self._databases["staff"].transaction() as tx:
            await append_entries(tx, [entry])

    def _entry(self, rows: Sequence[FoundRow], left: Mapping[str, str]) -> JournalEntry:
        """What the journal says of a set of rows. `left`: for entries of the journal itself the hash of what they hold now."""
        told = [
            {"table": row.table.name, "key": row.key, "members": sorted(row.members)}
            | ({"left_sha256": left[row.key]} if row.key in left else {})
            for row in rows
        ]
        return self._entry_about(rows[0].table.database, told)

    def _entry_about(self, database: str, told: Sequence[Mapping[str, object]]) -> JournalEntry:
        details = {"reason": self._reason, "database": database, "rows": told}
        return JournalEntry(new_id(), self._clock(), self._who, "purge", self._id, details)


# -- looking ---------------------------------------------------------------------------------------------------------------------------


async def prepared(databases: Mapping[str, Database], number: str | None) -> tuple[Cleaner, int]:
    """What takes the card data out, and how many invoices whose id holds some cannot be renamed yet, since a payment is under way.

    Services and the messages between them know an invoice by its id. So it is renamed when it is at rest. The new name is derived from the
    command that issued the invoice: so it is the same whenever this is done again.
    """
    cleaner = Cleaner(number)
    issued: dict[str, UUID] = {}
    busy: set[str] = set()
    async for row in _rows(databases["invoice"], _INVOICES):
        if cleaner.holds(row["invoice_id"]):
            issued[row["invoice_id"]] = row["cause_id"]
            busy |= {row["invoice_id"]} if row["status"] in _PENDING else set()
    for name, under_way in (("payment_gateway", _PAYMENTS_UNDER_WAY), ("saga", _SAGAS_UNDER_WAY)):
        async with databases[name].connection() as connection:
            busy |= {row["invoice_id"] for row in await connection.fetch(under_way, list(issued))}
    renames = {id_: f"purged-{derived_id(cause, 'purged')}" for id_, cause in issued.items() if id_ not in busy}
    return replace(cleaner, renames=renames, kept=frozenset(busy)), len(busy)


async def tables_of(databases: Mapping[str, Database]) -> list[ScannedTable]:
    """The tables in the order of the purge. Read once for a run: no migration is made beside it."""
    tables = []
    for name, places in PLACES.items():
        columns: dict[str, dict[str, str]] = {}
        async with databases[name].connection() as connection:
            for row in await connection.fetch(_COLUMNS, [place.table for place in places]):
                if (row["table"], row["name"]) not in NO_TEXTS:
                    columns.setdefault(row["table"], {})[row["name"]] = row["type"]
        tables += [ScannedTable(name, place, columns[place.table]) for place in places]
    return tables


async def look(
    databases: Mapping[str, Database], tables: Iterable[ScannedTable], number: str | None
) -> tuple[Cleaner, list[FoundRow], int]:
    """What takes card data out, all rows that hold some, and how many invoices wait for the end of a payment. Changes nothing."""
    cleaner, under_way = await prepared(databases, number)
    return cleaner, [row async for row in find(databases, tables, cleaner)], under_way


async def find(
    databases: Mapping[str, Database], tables: Iterable[ScannedTable], cleaner: Cleaner
) -> AsyncIterator[FoundRow]:
    """All rows with card data, table by table. Changes nothing."""
    for table in tables:
        async for row in _rows(databases[table.database], table.select):
            if members := _cleaned(table, row, cleaner):
                yield _found(table, row, members, cleaner)


async def _rows(database: Database, query: str) -> AsyncIterator[Record]:
    """Stream the rows, so that there may be any number of them."""
    async with database.transaction() as tx:
        async for row in tx.cursor(query, prefetch=ROWS_PER_FETCH):
            yield row


def _found(table: ScannedTable, row: Record, members: Mapping[str, object], cleaner: Cleaner) -> FoundRow:
    values = tuple(row[column] for column in table.place.key)
    key = "/".join(cleaner.text(value.hex() if isinstance(value, bytes) else str(value)) for value in values)
    return FoundRow(table, values, key, row[table.place.whole] if table.place.whole else None, members)


# -- cleaning --------------------------------------------------------------------------------------------------------------------------


def _sets(found: Sequence[FoundRow]) -> list[list[FoundRow]]:
    """The rows that are changed together: those of one invoice, or of one table, in the order of their databases."""
    sets: list[list[FoundRow]] = []
    for _, rows in groupby(found, key=lambda row: row.table.database):
        by_invoice: dict[str, list[FoundRow]] = {}
        by_table: dict[str, list[FoundRow]] = {}
        for row in rows:
            of_invoice = row.whole is not None
            (by_invoice if of_invoice else by_table).setdefault(row.whole or row.table.name, []).append(row)
        sets += by_invoice.values()
        for some in by_table.values():
            sets += [some[start : start + ROWS_MAX] for start in range(0, len(some), ROWS_MAX)]
    return sets


async def _lock_invoices(tx: Connection, rows: Sequence[FoundRow]) -> None:
    """Lock the invoice of these rows first, as its service does."""
    if rows[0].whole is not None:
        await tx.fetch("SELECT 1 FROM invoices WHERE invoice_id = $1 FOR UPDATE", rows[0].whole)


async def _seals_over(tx: Connection, rows: Sequence[FoundRow]) -> dict[Book, list[int]]:
    """The seals over these rows, by their book. A row may lose its key with its words, so they are looked up before."""
    found: dict[Book, list[int]] = {}
    for table, some in groupby(sorted(rows, key=lambda row: row.table.name), key=lambda row: row.table):
        if book := _BOOKS.get((table.database, table.name)):
            found[book] = await seals.seals_of(tx, book, [row.values for row in some])
    return found


async def _seal_again(tx: Connection, sealed: Mapping[Book, Iterable[int]]) -> list[dict[str, Any]]:
    """Seal what is left again. Returns what the journal says of it."""
    return [
        {"table": "seals", "key": str(number), "members": ["salt"], "left_sha256": digest}
        for book, numbers in sealed.items()
        for number, digest in (await seals.seal_again(tx, book, numbers)).items()
    ]


async def _clean_row(tx: Connection, found: FoundRow, cleaner: Cleaner) -> bool:
    """Clean the row as it is now. False if it is gone, holds nothing any more, or is at work in its service."""
    table = found.table
    row = await tx.fetchrow(f"{table.select} WHERE {table.where} FOR UPDATE", *found.values)
    if row is None or (table.is_leased and await tx.fetchval(_IN_USE, *found.values)):
        return False
    changed = _cleaned(table, row, cleaner)
    if not changed:
        return False
    if extra := _EXTRA.get((table.database, table.name)):
        changed |= await extra(tx, row, changed, cleaner)
    first = len(table.place.key) + 1
    assignments = ", ".join(f"{column} = ${at}" for at, column in enumerate(changed, start=first))
    await tx.execute(
        f"UPDATE {table.name} SET {assignments} WHERE {table.where}",  # noqa: S608 - as in `ScannedTable.select`
        *found.values,
        *changed.values(),
    )
    return True


def _cleaned(table: ScannedTable, row: Record, cleaner: Cleaner) -> dict[str, Any]:
    """The columns of a row that hold card data, with what is left of them."""
    left = {column: _left_of(row[column], type_, column, cleaner) for column, type_ in table.columns.items()}
    return {column: value for column, value in left.items() if value != row[column]}


def _left_of(value: Any, type_: str, column: str, cleaner: Cleaner) -> Any:
    if value is None or (column in HASHES and not is_text(value)):
        return value
    if type_.endswith("[]"):
        return [_left_of(one, type_.removesuffix("[]"), column, cleaner) for one in value]
    match type_:
        case "bytea":
            return cleaner.body(value)
        case "text":
            return cleaner.text(value, column)
        case _:
            return cleaner.document(value, column)


async def _extra_of_dead_letter(
    _tx: Connection, _row: Record, changed: Mapping[str, Any], _cleaner: Cleaner
) -> dict[str, Any]:
    """A dead letter that held card data is kept as if its card data had been seen at once: without body and headers."""
    if not {"body", "headers"} & changed.keys():
        return {}
    why = Withheld.NOT_TEXT if changed.get("body") == WITHHELD and "headers" not in changed else Withheld.CARD_DATA
    return {"body": None, "headers": {}, "withheld": why.value}


async def _extra_of_outbox(
    _tx: Connection, row: Record, changed: Mapping[str, Any], _cleaner: Cleaner
) -> dict[str, Any]:
    """What others wrote is withheld whole, since a command that was changed would be another command. Our own messages say the same as the
    states, which are cleaned alike."""
    bodies, headers = list(changed.get("bodies", row["bodies"])), list(changed.get("headers", row["headers"]))
    for at, (exchange, key) in enumerate(zip(row["exchanges"], row["routing_keys"], strict=True)):
        if (bodies[at], headers[at]) == (row["bodies"][at], row["headers"][at]):
            continue
        if exchange == DEAD_LETTERS:
            why = WITHHELD_NOT_TEXT if bodies[at] == WITHHELD else WITHHELD_CARD_DATA
            bodies[at], headers[at] = WITHHELD, headers[at] | {BODY_WITHHELD: why}
        elif (exchange, key) == ("", COMMANDS):
            bodies[at] = WITHHELD
    return {"bodies": bodies, "headers": headers}


async def _extra_of_entry(
    _tx: Connection, row: Record, changed: Mapping[str, Any], _cleaner: Cleaner
) -> dict[str, Any]:
    """Without its salt, the digest of an entry gives nothing away to whoever tries all card numbers.

    The database lets words be taken out, and sorts members by their names. So if a name holds card data, all members go.
    """
    details = changed.get("details", row["details"])
    if sorted(_names(details)) != sorted(_names(row["details"])):
        details = {NAME_LEFT: TEXT_LEFT}
    return {"salt": None, "details": details}


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _names(inner)


async def _extra_of_answer(
    _tx: Connection, row: Record, changed: Mapping[str, Any], cleaner: Cleaner
) -> dict[str, Any]:
    """The hashes of its command, if what was found is a part of that."""
    if "invoice_id" not in changed:
        return {}
    return {"content_hash": None, "outline_hash": row["outline_hash"] if cleaner.number is not None else None}


async def _extra_of_event(tx: Connection, row: Record, changed: Mapping[str, Any], cleaner: Cleaner) -> dict[str, Any]:
    """The same of the command that caused the event."""
    if {"data", "stream_id"} & changed.keys():
        await hashes.forget_command_of_event(tx, row["stream_id"], row["version"], cleaner)
    return {}


async def _extra_of_payment(
    tx: Connection, row: Record, _changed: Mapping[str, Any], _cleaner: Cleaner
) -> dict[str, Any]:
    """No hash of the parameters, if it is one over what the row holds: that gives a number away. Its place says that one was there.

    A request that comes again is then known by what else it says.
    """
    columns = "payment_id, invoice_id, amount_minor, currency, method_token, card_jwe, details"
    (stored,) = await tx.fetch(f"SELECT {columns}, params_hash FROM payments WHERE payment_id = $1", row["payment_id"])  # noqa: S608
    before = {column: stored[column] for column in columns.split(", ")}
    if stored["params_hash"] is None or _request(before).params_hash != stored["params_hash"]:
        return {}
    return {"params_hash": PURGED_HASH}


async def _extra_of_account(
    _tx: Connection, row: Record, changed: Mapping[str, Any], _cleaner: Cleaner
) -> dict[str, Any]:
    """Names of people and of tokens differ from each other, and so has to do what is left of them."""
    return {column: f"purged-{row['id']}" for column in ("name", "login") if column in changed}


def _request(stored: Mapping[str, Any]) -> Request:
    return Request(**{**stored, "details": read_details(stored["details"])})


_EXTRA = {
    ("staff", "dead_letters"): _extra_of_dead_letter,
    ("staff", "journal"): _extra_of_entry,
    ("staff", "people"): _extra_of_account,
    ("staff", "tokens"): _extra_of_account,
    ("invoice", "answers"): _extra_of_answer,
    ("invoice", "events"): _extra_of_event,
    ("payment_gateway", "payments"): _extra_of_payment,
    **{(name, OUTBOX.table): _extra_of_outbox for name in PLACES},
}
"""What changes beside the columns that hold card data."""


async def _forget_cached_states(database: Database) -> None:
    """End the sessions of the invoice service: with a lost connection it forgets the states that it stored last, and reads them again."""
    async with database.connection() as connection:
        await connection.fetch(_END_SESSIONS)
