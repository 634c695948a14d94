"""A baseline: the state of a drained system, written to a file at one time and compared with the system at another."""

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from services.audit.causes import SAID_AGAIN
from services.audit.errors import AuditError
from services.audit.stores import Stores
from shared.settings import database_variable

_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'remit audit'
      AND backend_type = 'client backend'"""

_DIGEST = """
    SELECT count(*) AS rows, coalesce(sum(('x' || left(md5(digested::text), 15))::bit(60)::bigint), 0) AS sum
    FROM ({}) AS digested"""
"""Sums a hash of each row, in any order, so that it needs no sort and little memory. Tables of different content have different sums, but
for one chance in 2^60."""

_UNDER_WAY = "'DeadlineFired'"
_YOUNG = "date_trunc('month', now()) - interval '11 months'"
"""Only rows younger than this are compared: after 400 days the services delete rows by age."""
DIGESTED: dict[str, dict[str, str]] = {
    "invoice": {
        "events": "SELECT * FROM events",
        "invoices": """SELECT invoice_id, status, version, customer_id, amount_minor, currency, payment_id, receipt_number, refunds
                       FROM invoices""",
        "payments": "SELECT payment_id, invoice_id, version, pending, method FROM payments",
        "refunds": "SELECT invoice_id, refund_id, payment_id, version, pending FROM refunds",
        "answers": "SELECT * FROM answers",
        "sender_tokens": "SELECT id, sender, ends_at, revoked_at FROM sender_tokens",
        "seal_numbering": "SELECT ahead FROM seal_numbering",
    },
    "payment_gateway": {
        "payments": """SELECT payment_id, invoice_id, amount_minor, currency, params_hash, status, version, method_token, gateway_id,
                       receipt_number, refund_id, decided_by FROM payments""",
        "refunds": """SELECT payment_id, refund_id, position, reason, asked_minor, status, amount_minor, by_hand_minor, version, gateway_id,
                      decided_by FROM refunds""",
        "attempts": f"""SELECT payment_id, step, answer, idempotency_key FROM attempts
                        WHERE step IN ('tokenise', 'prepare', 'execute', 'refund') AND recorded_at > {_YOUNG}""",  # noqa: S608
        "outcomes": "SELECT * FROM outcomes",
        "decisions": "SELECT * FROM decisions",
        "seal_numbering": "SELECT ahead FROM seal_numbering",
    },
    "saga": {
        "sagas": """SELECT payment_id, invoice_id, status, captured_minor, captured_currency, receipt_number, failure_outcome,
                    failure_reason, failure_recorded, flagged, refund_reason, refunds FROM sagas""",
        "transitions": f"""SELECT DISTINCT ON (payment_id, cause_id) payment_id, from_status, to_status, fact, cause_id FROM transitions
                           WHERE fact <> {_UNDER_WAY} AND NOT ({SAID_AGAIN}) AND at > {_YOUNG}
                           ORDER BY payment_id, cause_id, version""",  # noqa: S608 - constants
    },
    "staff": {
        "dead_letters": """SELECT id, queue, origin, reason, message_id, event_id, type, replays, status, settled_by, settled_at
                           FROM dead_letters""",
        "dead_letter_groups": "SELECT grp, queue, type, reason, error_type, open, replayed, discarded FROM dead_letter_groups",
        "cases": "SELECT payment_id, invoice_id, status, version, decided_by, amount_minor, currency FROM cases",
        "journal": "SELECT * FROM journal",
        "invoices": "SELECT invoice_id, customer_id, amount_minor, currency, status FROM invoices",
        "payments": """SELECT payment_id, invoice_id, amount_minor, currency, status, version, receipt_number, reference_code, gateway_id
                       FROM payments""",
        "commands": "SELECT command_id, type, invoice_id, answer, reason FROM commands",
        "proposals": "SELECT * FROM proposals",
        "second_person_limits": "SELECT * FROM second_person_limits",
        "people": "SELECT id, name, roles, active FROM people",
        "tokens": "SELECT id, name, roles, ends_at, revoked_at FROM tokens",
        "settings": "SELECT name, value FROM settings",
    },
}
"""What recovery and replay must not change. Columns and rows that change with time alone are left out: reminders are counted, deadlines of
cases fire, duplicates are seen once more, inquiries are repeated. A message that moved a saga counts once, see `causes`."""
LEDGER_DIGESTED = {
    "charges": "SELECT id, payment_intent, amount, currency, payment_method, created FROM charges ORDER BY id",
    "refunds": "SELECT id, payment_intent, charge, amount, currency, status FROM refunds ORDER BY id",
    "payment_intents": "SELECT id, amount, currency, metadata, status FROM payment_intents ORDER BY id",
}


async def digests(stores: Stores) -> AsyncIterator[tuple[str, str]]:
    """Each table with a digest of its content: the number of rows and a sum over them."""
    for name, database in stores.databases.items():
        for table, query in DIGESTED[name].items():
            for row in await database.page(_DIGEST.format(query)):
                yield f"{name}.{table}", f"{row['rows']:x}-{int(row['sum']):x}"
    if stores.ledger is not None:
        for table, query in LEDGER_DIGESTED.items():
            yield f"ledger.{table}", stores.ledger.digest(query)


async def connections(stores: Stores) -> dict[str, int]:
    """The number of sessions at each database, without the audit's own."""
    return {name: await database.value(_SESSIONS) for name, database in stores.databases.items()}


async def take_baseline(stores: Stores, *, digest: bool) -> dict[str, Any]:
    """The state of the system now, as JSON data."""
    content: dict[str, Any] = {"connections": await connections(stores), "memory_mib": memory_mib(stores.urls)}
    if digest:
        content["digest"] = {table: value async for table, value in digests(stores)}
    return content


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write the baseline as JSON. Raises AuditError."""
    try:
        path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise AuditError(f"{path} cannot be written ({error.strerror}).") from None


# -- memory ----------------------------------------------------------------------------------------------------------------------------


def memory_mib(urls: Mapping[str, str]) -> dict[str, float]:
    """Resident memory, in MiB, of the processes on this machine that serve these databases, by service.

    The URL in a process's environment tells whether it belongs to this system. A service whose processes we may not read is left out.
    """
    used: dict[str, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            name = next((name for name in urls if _serves(words, name)), None)
            if name is None or not _has_url(folder, name, urls[name]):
                continue
            pages = int((folder / "statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue  # the process has ended, or belongs to another user
        used[name] = round(used.get(name, 0.0) + pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    return used


def _serves(words: list[bytes], name: str) -> bool:
    return f"services.{name}".encode() in words or words[-3:] == [b"run", name.encode(), b""]


def _has_url(folder: Path, name: str, url: str) -> bool:
    return f"{database_variable(name)}={url}".encode() in (folder / "environ").read_bytes().split(b"\0")
