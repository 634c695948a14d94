"""Searches every text in every table, queue, ledger and log for secrets. The report names the place, and never shows the secret."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from services.audit.finding import Source, Tally
from services.audit.queues import QueueState
from services.audit.secrets import secret_in
from services.audit.stores import LedgerSnapshot, Snapshot, Stores

_COLUMNS = """
    SELECT c.oid::regclass::text AS "table", has_table_privilege(c.oid, 'SELECT') AS is_readable,
           array_agg(quote_ident(a.attname) ORDER BY a.attnum) AS columns,
           array_agg(t.typname IN ('bytea', '_bytea') ORDER BY a.attnum) AS is_bytea
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
      AND a.attnum > 0 AND NOT a.attisdropped
      AND (t.typcategory IN ('S', 'A', 'X') OR t.typname IN ('bytea', 'json', 'jsonb', 'xml', 'int8', 'numeric'))
    GROUP BY c.oid ORDER BY 1"""
_NUMBER_LENGTH_MAX = 12
"""An amount of a contract has at most twelve digits, and some amounts look like the shortest card numbers. Longer numbers are checked."""

_HASHED = """
    SELECT command_id AS id FROM answers WHERE reason IN ('clear_card_number', 'cvv_not_accepted')
      AND (content_hash IS NOT NULL OR outline_hash IS NOT NULL)"""
_KEPT_CARDS = (
    ("invoice", "SELECT payment_id AS id FROM payments WHERE method->>'kind' = 'encrypted_card' AND NOT pending"),
    ("payment_gateway", "SELECT payment_id AS id FROM payments WHERE card_jwe IS NOT NULL AND status <> 'requested'"),
)
"""An encrypted card is kept until it is a token of the gateway, or its payment is over."""
_WITHHELD = "SELECT id FROM dead_letters WHERE withheld = 'card_data' AND (body IS NOT NULL OR headers <> '{}')"

SHORT = 64
LOG_NAME = re.compile(r"\.(?:log|out|err|txt|jsonl|prom)(?:[.-]\d[\d-]*)?$")
COMPRESSED = re.compile(r"\.(?:gz|bz2|xz|zst|zip)$")
LINE_MAX = 1 << 20
"""The number of characters of a line that are held at once."""
OVERLAP = 512
"""The end of a piece is read again with the next piece of the line; it is longer than a key's beginning or an encoded card number."""


async def no_secrets_leaked(counted: Tally, stores: Stores) -> None:
    """No card number, CVV or key stands in logs, tables, queues or error texts (also base64 and URL-encoded).

    Of what was refused for card data no hash is left, nor a part that alone reads as harmless. No encrypted card is kept once its payment
    is over.
    """
    for name, database in stores.databases.items():
        await _tables(counted, name, database)
    await _refused(counted, stores)
    if stores.ledger is not None:
        _ledger(counted, stores.ledger)
    for queue_name, queue in (stores.queues or {}).items():
        _queue(counted, queue_name, queue, drained=stores.drained)
    if stores.evidence.logs is None:
        counted.missing("no --logs given", Source.LOGS)
    else:
        _logs(counted, stores.evidence.logs)


@lru_cache(maxsize=10_000)
def _short(text: str) -> str | None:
    return secret_in(text)


def _secret(text: str) -> str | None:
    """Short texts are cached: statuses, types and reasons repeat themselves."""
    return _short(text) if len(text) <= SHORT else secret_in(text)


# -- tables ----------------------------------------------------------------------------------------------------------------------------


async def _tables(counted: Tally, name: str, database: Snapshot) -> None:
    for found in await database.page(_COLUMNS):
        table, columns = found["table"], list(found["columns"])
        if not found["is_readable"]:
            counted.missing(f"the table {table} of {name} cannot be read by this role")
            continue
        texts = [
            column if is_bytea else f"{column}::text"
            for column, is_bytea in zip(columns, found["is_bytea"], strict=True)
        ]
        query = f"SELECT ctid::text, {', '.join(texts)} FROM {table}"  # noqa: S608 - names quoted by PostgreSQL itself
        async for row in database.wide_rows(query):
            counted.look()
            values = tuple(row)
            for about, kind in _in_row(f"{name}.{table}", columns, values[1:]):
                counted.breach(about, f"{kind}, in the row at {values[0]}")


async def _refused(counted: Tally, stores: Stores) -> None:
    for name, query, what in (
        (
            "invoice",
            _HASHED,
            "it was refused for card data, and a hash of it is stored: the number can be found by trying",
        ),
        *((name, query, "its payment is over, and its encrypted card is still kept") for name, query in _KEPT_CARDS),
        ("staff", _WITHHELD, "it is withheld for card data, and a part of it is stored"),
    ):
        if stores.has(name):
            async for row in stores.databases[name].rows(query):
                counted.breach(row["id"], what)


def _in_row(table: str, columns: Sequence[str], values: Sequence[object]) -> Iterator[tuple[str, str]]:
    for column, value in zip(columns, values, strict=True):
        for one in value if isinstance(value, list) else (value,):
            text = one.decode("utf-8", "replace") if isinstance(one, bytes) else "" if one is None else str(one)
            if text.lstrip("-").isdecimal() and len(text) <= _NUMBER_LENGTH_MAX:
                continue
            if (kind := _secret(text)) is not None:
                yield f"{table}.{column}", kind


def _ledger(counted: Tally, ledger: LedgerSnapshot) -> None:
    for table in [row["name"] for row in ledger.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]:
        for place, row in enumerate(ledger.rows(f'SELECT * FROM "{table}"'), start=1):  # noqa: S608 - its own names
            counted.look()
            for about, kind in _in_row(f"ledger.{table}", row.keys(), tuple(row)):
                counted.breach(about, f"{kind}, in row {place}")


# -- queues and logs -------------------------------------------------------------------------------------------------------------------


def _queue(counted: Tally, name: str, queue: QueueState | None, *, drained: bool) -> None:
    if queue is None:
        counted.missing(f"the queue {name} does not exist: see `remit topology check`")
        return
    for message in queue.waiting:
        counted.look()
        for text in (message.body.decode("utf-8", "replace"), *message.texts):
            if (kind := _secret(text)) is not None:
                counted.breach(name, f"{kind}, in message {message.place} of the queue")
    if queue.whole:
        return
    if drained and not queue.consumers:
        counted.missing(f"{queue.ready - len(queue.waiting)} messages that wait in {name}")
    else:
        counted.in_flight(queue.ready)  # its consumers take them; otherwise the check `events_delivered` is broken


def _logs(counted: Tally, folder: Path) -> None:
    read = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if COMPRESSED.search(path.name):
            counted.missing(f"{path.name} is compressed", Source.LOGS)
        elif LOG_NAME.search(path.name):
            read += 1
            _log(counted, path, str(path.relative_to(folder)))
    if not read:
        counted.missing(f"no log file in {folder}", Source.LOGS)


def _log(counted: Tally, path: Path, name: str) -> None:
    number, before = 1, ""
    with path.open(encoding="utf-8", errors="replace") as file:
        while piece := file.readline(LINE_MAX):
            counted.look()
            if (kind := secret_in(before + piece)) is not None:
                counted.breach(name, f"{kind}, in line {number}")
            is_whole = piece.endswith("\n")
            number += is_whole
            before = "" if is_whole else piece[-OVERLAP:]
