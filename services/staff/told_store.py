"""The SQL of what is told about one invoice, and of finding it: by numbers, codes, ends of ids, a customer, an amount. Reads only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.staff.heard import CommandHeard, InvoiceHeard, MessageHeard, PaymentHeard
from services.staff.story import STEPS_MAX, CaseTold, EntryTold, LetterTold, Told
from shared.persistence.database import Connection
from shared.persistence.database import Record as Row

PAYMENTS_MAX: Final = 50
"""Payments of one invoice that a story tells: tries of a customer. The newest are told."""
LETTERS_MAX: Final = 50
FOUND_MAX: Final = 51
"""Rows of one way to find something: one more than a page shows, so that it can say that there are more."""

# -- the story ---------------------------------------------------------------------------------------------------------------------------


async def load_told(connection: Connection, invoice_id: str) -> Told:
    """Everything that is known about an invoice. It is empty if nothing was ever heard of it."""
    invoice = await connection.fetchrow(
        """SELECT invoice_id, customer_id, amount_minor, currency, status, issued_at, changed_at FROM invoices
           WHERE invoice_id = $1""",
        invoice_id,
    )
    payments = await connection.fetch(
        """SELECT payment_id, invoice_id, amount_minor, currency, status, version, receipt_number, reference_code, gateway_id,
               correlation_id, requested_at, settled_at
           FROM payments WHERE invoice_id = $1 ORDER BY requested_at DESC LIMIT $2""",
        invoice_id,
        PAYMENTS_MAX,
    )
    commands = await connection.fetch(
        """SELECT command_id, type, invoice_id, answer, reason, at FROM commands WHERE invoice_id = $1 ORDER BY at, command_id LIMIT $2""",
        invoice_id,
        STEPS_MAX,
    )
    messages = await connection.fetch(
        """SELECT id, at, type, invoice_id, payment_id, cause, facts FROM messages WHERE invoice_id = $1 ORDER BY at, id LIMIT $2""",
        invoice_id,
        STEPS_MAX,
    )
    cases = await _cases(connection, invoice_id)
    payment_ids = {row["payment_id"] for row in payments} | {case.payment_id for case in cases}
    letters = await _letters(connection, [row["id"] for row in messages], [row["command_id"] for row in commands])
    entries = await _entries(connection, [*payment_ids, *(letter.id for letter in letters)])
    return Told(
        invoice_id,
        InvoiceHeard(*invoice.values()) if invoice is not None else None,
        tuple(PaymentHeard(*row.values()) for row in payments),
        tuple(CommandHeard(*row.values()) for row in commands),
        tuple(MessageHeard(*row.values()) for row in messages),
        tuple(cases),
        tuple(letters),
        tuple(entries),
    )


async def _cases(connection: Connection, invoice_id: str) -> list[CaseTold]:
    rows = await connection.fetch(
        """SELECT payment_id, status, status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed') AS is_open, reason,
               opened_at, version, details -> 'decision' AS decision, details -> 'refusals' AS refusals
           FROM cases WHERE invoice_id = $1 ORDER BY opened_at DESC LIMIT $2""",
        invoice_id,
        PAYMENTS_MAX,
    )
    return [
        CaseTold(
            row["payment_id"], row["status"], row["is_open"], row["reason"], row["opened_at"], _decision_on_its_way(row)
        )
        for row in rows
    ]


def _decision_on_its_way(row: Row) -> tuple[str, str, datetime] | None:
    """Who decided what and when, if that is for the present version and was not refused."""
    decision: dict[str, Any] | None = row["decision"]
    if not decision or decision.get("version") != row["version"] or not row["is_open"]:
        return None
    if any(refused.get("decision_id") == decision.get("id") for refused in row["refusals"] or ()):
        return None
    return str(decision["by"]), str(decision["resolution"]), datetime.fromisoformat(str(decision["at"]))


async def _letters(connection: Connection, heard: Sequence[UUID], commands: Sequence[UUID]) -> list[LetterTold]:
    """Failed messages that have the id of a message or a command of the story, the newest first."""
    rows = await connection.fetch(
        """SELECT id, type, queue, reason, status, first_seen, settled_by, settled_at FROM dead_letters
           WHERE event_id = ANY($1::uuid[]) ORDER BY last_seen DESC LIMIT $2""",
        [*heard, *commands],
        LETTERS_MAX,
    )
    return [LetterTold(*row.values()) for row in rows]


async def _entries(connection: Connection, subjects: Sequence[UUID]) -> list[EntryTold]:
    rows = await connection.fetch(
        """SELECT id, at, who, action, subject, details FROM journal WHERE subject = ANY($1::uuid[]) ORDER BY at, id LIMIT $2""",
        list(subjects),
        STEPS_MAX,
    )
    return [EntryTold(*row.values()) for row in rows]


async def kept_since(connection: Connection) -> datetime | None:
    """Since when messages are kept: the time of the oldest one. None: nothing was ever heard."""
    at: datetime | None = await connection.fetchval("SELECT min(at) FROM messages")
    return at


# -- finding -----------------------------------------------------------------------------------------------------------------------------

_FOUND: Final = """p.payment_id, p.invoice_id, i.customer_id, coalesce(p.amount_minor, i.amount_minor) AS amount_minor,
    coalesce(p.currency, i.currency) AS currency, p.status AS payment_status, i.status AS invoice_status, p.requested_at AS at"""
_PAYMENTS: Final = f"SELECT {_FOUND} FROM payments p LEFT JOIN invoices i ON i.invoice_id = p.invoice_id"  # noqa: S608 - constants
_INVOICES: Final = """SELECT NULL::uuid AS payment_id, i.invoice_id, i.customer_id, i.amount_minor, i.currency, NULL AS payment_status,
    i.status AS invoice_status, coalesce(i.issued_at, i.changed_at) AS at FROM invoices i"""
# A range, and not LIKE: its pattern would be an argument, so the plan could not use the index. U+10FFFF comes after all else.
BY_INVOICE: Final = f"{_INVOICES} WHERE i.invoice_id = $1 LIMIT $2"
BY_END_OF_INVOICE: Final = f"""{_INVOICES} WHERE reverse(i.invoice_id) COLLATE "C" >= $1
    AND reverse(i.invoice_id) COLLATE "C" < $1 || U&'\\+10FFFF' ORDER BY reverse(i.invoice_id) COLLATE "C" LIMIT $2"""
BY_CUSTOMER: Final = f"{_INVOICES} WHERE i.customer_id = $1 ORDER BY i.issued_at DESC LIMIT $2"
BY_PAYMENT: Final = f"{_PAYMENTS} WHERE p.payment_id::text = $1 LIMIT $2"
BY_END_OF_PAYMENT: Final = f"""{_PAYMENTS} WHERE reverse(p.payment_id::text) COLLATE "C" >= $1
    AND reverse(p.payment_id::text) COLLATE "C" < $1 || 'g' ORDER BY reverse(p.payment_id::text) COLLATE "C" LIMIT $2"""
BY_REFERENCE: Final = f"{_PAYMENTS} WHERE p.reference_code = $1 LIMIT $2"
BY_RECEIPT: Final = f"{_PAYMENTS} WHERE left(p.receipt_number, 255) = $1 AND p.receipt_number IS NOT NULL LIMIT $2"
BY_GATEWAY: Final = f"{_PAYMENTS} WHERE left(p.gateway_id, 255) = $1 AND p.gateway_id IS NOT NULL LIMIT $2"
BY_REFUND: Final = f"""{_PAYMENTS} JOIN messages m ON m.payment_id = p.payment_id
    WHERE left(m.facts ->> 'refund_id', 255) = $1 AND m.type = 16 LIMIT $2"""
BY_CORRELATION: Final = f"{_PAYMENTS} WHERE left(p.correlation_id, 255) = $1 LIMIT $2"
BY_AMOUNT: Final = f"""{_PAYMENTS} WHERE p.currency = $1 AND p.amount_minor = $2 AND p.requested_at >= $3 AND p.requested_at < $4
    ORDER BY p.requested_at DESC LIMIT $5"""
BY_INVOICED_AMOUNT: Final = f"""{_INVOICES} WHERE i.currency = $1 AND i.amount_minor = $2 AND i.issued_at >= $3 AND i.issued_at < $4
    ORDER BY i.issued_at DESC LIMIT $5"""
