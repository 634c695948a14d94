"""The SQL of the door: what the invoice database knows of commands, payments and invoices, and of whose they are.

The role `door` may read these columns and no other (`deploy.permissions`).
"""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final
from uuid import UUID

from services.invoice.answers import StoredAnswer
from services.invoice.domain import Invoice
from services.invoice.store import read_invoice
from shared.persistence import event_store
from shared.persistence.database import Connection
from shared.persistence.event_store import StoredEvent
from shared.persistence.unreadable import read_rows
from shared.records import dataclass

_ANSWERS: Final = """SELECT command_id, command_type, answer, reason, detail, invoice_id, sender FROM answers
    WHERE command_id = ANY($1::uuid[])"""
_INVOICE: Final = """SELECT invoice_id, status, version, customer_id, amount_minor, currency, payment_id, receipt_number, refunds, owner
    FROM invoices WHERE invoice_id = $1"""
_PAYMENT: Final = """SELECT p.payment_id, p.invoice_id, p.version, i.owner
    FROM payments p JOIN invoices i ON i.invoice_id = p.invoice_id WHERE p.payment_id = $1"""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A command that became a dead letter."""

    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class KnownPayment:
    """A payment. `version` is that of the event by which it was requested, and `owner` that of its invoice."""

    payment_id: UUID
    invoice_id: str
    version: int
    owner: str | None


async def answers(connection: Connection, command_ids: Collection[UUID]) -> dict[UUID, StoredAnswer]:
    """The stored answers of those commands that have one, without what only the inbox needs."""
    rows = await connection.fetch(_ANSWERS, list(command_ids))
    return {row["command_id"]: StoredAnswer(**row, correlation_id="") for row in rows}


async def set_aside(connection: Connection, command_id: UUID) -> SetAside | None:
    """Why this command was set aside, if it was. Its answer counts, once there is one."""
    rows = await connection.fetch("SELECT reason, set_aside_at FROM set_aside WHERE command_id = $1", command_id)
    return SetAside(rows[0]["reason"], rows[0]["set_aside_at"]) if rows else None


async def invoice(connection: Connection, invoice_id: str, *, may_see: Callable[[str | None], bool]) -> Invoice | None:
    """The state of an invoice, if it exists and who asks `may_see` those of its owner. Raises UnreadableRowsError.

    The owner is looked at first: that this build cannot read a row would tell others that it exists.
    """
    rows = [row for row in await connection.fetch(_INVOICE, invoice_id) if may_see(row["owner"])]
    return read_rows(rows, "invoice_id", read_invoice).get(invoice_id)


async def payment(connection: Connection, payment_id: UUID) -> KnownPayment | None:
    """A payment, if there is one of this id."""
    rows = await connection.fetch(_PAYMENT, payment_id)
    return KnownPayment(**rows[0]) if rows else None


async def events_of_invoice(
    connection: Connection, invoice_id: str, *, until_version: int, at_most: int
) -> list[StoredEvent]:
    """The newest events of an invoice up to a version, oldest first."""
    rows = await connection.fetch(_OF_INVOICE, invoice_id, until_version, at_most)
    return [StoredEvent(**row) for row in reversed(rows)]


async def events_of_payment(connection: Connection, payment: KnownPayment) -> list[StoredEvent]:
    """All events about a payment, its refunds among them, oldest first. There are few: an invoice has a limited number of refunds."""
    rows = await connection.fetch(_OF_PAYMENT, payment.invoice_id, payment.version, str(payment.payment_id))
    return [StoredEvent(**row) for row in rows]


_EVENTS: Final = f"SELECT {event_store.COLUMNS} FROM events WHERE stream_id = $1"  # noqa: S608 - our names
_OF_INVOICE: Final = f"{_EVENTS} AND version <= $2 ORDER BY version DESC LIMIT $3"
_OF_PAYMENT: Final = f"{_EVENTS} AND version >= $2 AND data ->> 'payment_id' = $3 ORDER BY version"


# -- of many at once: what is not under way, and whose it is ----------------------------------------------------------------------------


async def answered(connection: Connection, command_ids: Collection[UUID]) -> dict[UUID, str | None]:
    """Those commands that have their answers, with their senders."""
    rows = await connection.fetch(
        "SELECT command_id, sender FROM answers WHERE command_id = ANY($1::uuid[])", list(command_ids)
    )
    return {row["command_id"]: row["sender"] for row in rows}


async def ended_payments(connection: Connection, payment_ids: Collection[UUID]) -> dict[UUID, str | None]:
    """Those payments that have their outcomes, with the owners of their invoices."""
    rows = await connection.fetch(
        """SELECT p.payment_id, i.owner FROM payments p JOIN invoices i ON i.invoice_id = p.invoice_id
           WHERE p.payment_id = ANY($1::uuid[]) AND NOT p.pending""",
        list(payment_ids),
    )
    return {row["payment_id"]: row["owner"] for row in rows}


async def quiet_invoices(connection: Connection, invoice_ids: Collection[str]) -> dict[str, str | None]:
    """Those invoices of which nothing is under way (`views.is_under_way`), with their owners."""
    rows = await connection.fetch(
        """SELECT invoice_id, owner FROM invoices
           WHERE invoice_id = ANY($1::text[]) AND status NOT IN ('payment_pending', 'in_doubt')
             AND NOT coalesce(refunds @> '[{"status": "pending"}]', false)""",
        list(invoice_ids),
    )
    return {row["invoice_id"]: row["owner"] for row in rows}
