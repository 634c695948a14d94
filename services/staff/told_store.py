"""The SQL of what is told about one invoice, and of finding it: by numbers, codes, ends of ids, a customer, an amount. Reads only."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.staff.domain import DECIDE_ANEW_AFTER
from services.staff.find import AmountSearch, By, SearchTerm
from services.staff.heard import NAMES, NUMBERS, CommandHeard, InvoiceHeard, MessageHeard, PaymentHeard
from services.staff.story import STEPS_MAX, CaseTold, EntryTold, InvoiceTold, LetterTold
from shared.contracts.invoice import InvoicePaid, InvoicePaymentFailed, InvoiceRefunded, InvoiceRefundFailed
from shared.persistence.database import Connection
from shared.persistence.database import Record as Row
from shared.records import dataclass

PAYMENTS_MAX: Final = 50
"""Payments of one invoice that a story tells: tries of a customer. The newest are told."""
LETTERS_MAX: Final = 50
FOUND_MAX: Final = 51
"""Rows of one way to find something: one more than a page shows, so that it can say that there are more."""

# -- the story ---------------------------------------------------------------------------------------------------------------------------


async def load_told(connection: Connection, invoice_id: str, now: datetime) -> InvoiceTold:
    """Everything that is known about an invoice. It is empty if nothing was ever heard of it."""
    invoice = await invoice_heard(connection, invoice_id)
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
    cases = await _cases(connection, invoice_id, now)
    payment_ids = {row["payment_id"] for row in payments} | {case.payment_id for case in cases}
    ids = [row["id"] for row in messages] + [row["command_id"] for row in commands]
    letters = await _letters(connection, invoice_id, ids)
    entries = await _entries(connection, [*payment_ids, *(letter.id for letter in letters)])
    return InvoiceTold(
        invoice_id,
        invoice,
        tuple(PaymentHeard(*row.values()) for row in payments),
        tuple(CommandHeard(*row.values()) for row in commands),
        tuple(MessageHeard(*row.values()) for row in messages),
        tuple(cases),
        tuple(letters),
        tuple(entries),
    )


async def invoice_heard(connection: Connection, invoice_id: str) -> InvoiceHeard | None:
    """An invoice as messages tell of it; None if they do not."""
    row = await connection.fetchrow(
        """SELECT invoice_id, customer_id, amount_minor, currency, status, issued_at, changed_at FROM invoices
           WHERE invoice_id = $1""",
        invoice_id,
    )
    return InvoiceHeard(*row.values()) if row is not None else None


async def _cases(connection: Connection, invoice_id: str, now: datetime) -> list[CaseTold]:
    rows = await connection.fetch(
        """SELECT payment_id, status, status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed') AS is_open, reason,
               opened_at, version, details -> 'decision' AS decision, details -> 'refusals' AS refusals
           FROM cases WHERE invoice_id = $1 ORDER BY opened_at DESC LIMIT $2""",
        invoice_id,
        PAYMENTS_MAX,
    )
    return [_case(row, now) for row in rows]


def _case(row: Row, now: datetime) -> CaseTold:
    decided = _decided(row)
    waits = decided is not None and now >= decided[2] + DECIDE_ANEW_AFTER
    return CaseTold(row["payment_id"], row["status"], row["is_open"], row["reason"], row["opened_at"], decided, waits)


def _decided(row: Row) -> tuple[str, str, datetime] | None:
    """Who decided what and when, if that is for the present version, was not refused, and has no effect yet."""
    decision: dict[str, Any] | None = row["decision"]
    if not decision or decision.get("version") != row["version"] or not row["is_open"]:
        return None
    if any(refused.get("decision_id") == decision.get("id") for refused in row["refusals"] or ()):
        return None
    return str(decision["by"]), str(decision["resolution"]), datetime.fromisoformat(str(decision["at"]))


async def _letters(connection: Connection, invoice_id: str, ids: Sequence[UUID]) -> list[LetterTold]:
    """Failed messages that name the invoice, or have the id of a message or a command of the story, the newest first."""
    rows = await connection.fetch(
        """SELECT id, type, queue, reason, status, first_seen, settled_by, settled_at FROM dead_letters
           WHERE id IN (
               SELECT id FROM dead_letters WHERE invoice_id = $1 UNION SELECT id FROM dead_letters WHERE event_id = ANY($2::uuid[]))
           ORDER BY last_seen DESC LIMIT $3""",
        invoice_id,
        ids,
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


async def invoice_took(connection: Connection, invoice_id: str, payment_id: UUID, since: datetime) -> str | None:
    """The name of the event by which the invoice took what became of a payment since then, and its sender was told. None: not yet."""
    number = await connection.fetchval(
        """SELECT type FROM messages WHERE invoice_id = $1 AND at >= $3 AND payment_id = $2 AND type = ANY($4::smallint[])
           ORDER BY at DESC LIMIT 1""",
        invoice_id,
        payment_id,
        since,
        sorted(_TAKEN),
    )
    return None if number is None else NAMES[number]


_TAKEN: Final = frozenset(
    NUMBERS[kind] for kind in (InvoicePaid, InvoicePaymentFailed, InvoiceRefunded, InvoiceRefundFailed)
)


async def stamp_of(connection: Connection, invoice_id: str) -> str:
    """Another text whenever more is known of an invoice than before. Cheap: asked each second for whoever looks at its story."""
    return str(await connection.fetchval(_STAMP, invoice_id))


_STAMP: Final = """
    WITH about AS (
        SELECT payment_id AS id FROM payments WHERE invoice_id = $1 UNION SELECT payment_id FROM cases WHERE invoice_id = $1
        UNION SELECT id FROM dead_letters WHERE invoice_id = $1
    )
    SELECT concat_ws('-', (SELECT count(*) FROM messages WHERE invoice_id = $1), (SELECT count(*) FROM commands WHERE invoice_id = $1),
        (SELECT count(*) FROM journal WHERE subject = ANY(ARRAY(SELECT id FROM about))),
        (SELECT extract(epoch FROM max(updated_at)) FROM cases WHERE invoice_id = $1),
        (SELECT extract(epoch FROM max(last_seen)) FROM dead_letters WHERE invoice_id = $1))"""

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
BY_PAYMENT: Final = f"{_PAYMENTS} WHERE p.payment_id = $1::uuid LIMIT $2"
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
CURRENCIES: Final = """WITH RECURSIVE one AS (
        (SELECT currency FROM payments WHERE currency IS NOT NULL ORDER BY currency LIMIT 1)
        UNION ALL SELECT (SELECT p.currency FROM payments p WHERE p.currency > one.currency ORDER BY p.currency LIMIT 1)
        FROM one WHERE one.currency IS NOT NULL)
    SELECT currency FROM one WHERE currency IS NOT NULL"""
"""The currencies in which there are payments: one look at the index for each."""
COMMANDS: Final = "SELECT command_id, type, invoice_id, answer, reason, at FROM commands"
BY_COMMAND: Final = f"{COMMANDS} WHERE command_id = $1::uuid LIMIT $2"
BY_END_OF_COMMAND: Final = f"""{COMMANDS} WHERE reverse(command_id::text) COLLATE "C" >= $1
    AND reverse(command_id::text) COLLATE "C" < $1 || 'g' ORDER BY reverse(command_id::text) COLLATE "C" LIMIT $2"""


# A case may be all that is known: of what was heard before the journal was on, or is older than it keeps.
_CASES: Final = """SELECT c.payment_id, c.invoice_id, NULL AS customer_id, c.amount_minor, c.currency, c.status AS payment_status,
    NULL AS invoice_status, c.opened_at AS at FROM cases c"""
_CASES_BY: Final = {
    By.INVOICE: f"{_CASES} WHERE c.invoice_id = $1 LIMIT $2",
    By.INVOICE_END: f"""{_CASES} WHERE reverse(c.invoice_id) COLLATE "C" >= $1
        AND reverse(c.invoice_id) COLLATE "C" < $1 || U&'\\+10FFFF' ORDER BY reverse(c.invoice_id) COLLATE "C" LIMIT $2""",
    By.PAYMENT: f"{_CASES} WHERE c.payment_id = $1::uuid LIMIT $2",
    By.PAYMENT_END: f"""{_CASES} WHERE reverse(c.payment_id::text) COLLATE "C" >= $1
        AND reverse(c.payment_id::text) COLLATE "C" < $1 || 'g' ORDER BY reverse(c.payment_id::text) COLLATE "C" LIMIT $2""",
    By.GATEWAY: f"{_CASES} WHERE c.gateway_id = $1 LIMIT $2",
    By.CORRELATION: f"{_CASES} WHERE c.correlation_id = $1 LIMIT $2",
}


@dataclass(frozen=True, slots=True)
class FoundThing:
    """Something that was found: by what, and how it stands. `letter_id`: it is a failed message, which has a page of its own."""

    by: By
    invoice_id: str | None
    payment_id: UUID | None = None
    customer_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    payment_status: str | None = None
    invoice_status: str | None = None
    at: datetime | None = None
    letter_id: UUID | None = None
    command_id: UUID | None = None


_STATEMENTS: Final = {
    By.REFERENCE: BY_REFERENCE,
    By.INVOICE: BY_INVOICE,
    By.INVOICE_END: BY_END_OF_INVOICE,
    By.RECEIPT: BY_RECEIPT,
    By.GATEWAY: BY_GATEWAY,
    By.REFUND: BY_REFUND,
    By.CUSTOMER: BY_CUSTOMER,
    By.PAYMENT: BY_PAYMENT,
    By.PAYMENT_END: BY_END_OF_PAYMENT,
    By.CORRELATION: BY_CORRELATION,
}
_ENDS: Final = frozenset({By.INVOICE_END, By.PAYMENT_END, By.COMMAND_END, By.LETTER_END})
_OF_COMMANDS: Final = {By.COMMAND: BY_COMMAND, By.COMMAND_END: BY_END_OF_COMMAND}
BY_LETTER: Final = (
    "SELECT id, event_id, first_seen FROM dead_letters WHERE id = $1::uuid OR event_id = $1::uuid LIMIT $2"
)
BY_END_OF_LETTER: Final = """SELECT id, event_id, first_seen FROM dead_letters WHERE reverse(id::text) COLLATE "C" >= $1
    AND reverse(id::text) COLLATE "C" < $1 || 'g' ORDER BY reverse(id::text) COLLATE "C" LIMIT $2"""
_LETTERS: Final = "SELECT id, event_id, first_seen FROM dead_letters"
_OF_LETTERS: Final = {By.LETTER: BY_LETTER, By.LETTER_END: BY_END_OF_LETTER}
# A failed message may be all that is known of what it is about: a command that fails has no answer yet, and its payment was not heard of.
_LETTERS_BY: Final = {
    By.INVOICE: f"{_LETTERS} WHERE invoice_id = $1 LIMIT $2",
    By.INVOICE_END: f"""{_LETTERS} WHERE reverse(invoice_id) COLLATE "C" >= $1
        AND reverse(invoice_id) COLLATE "C" < $1 || U&'\\+10FFFF' ORDER BY reverse(invoice_id) COLLATE "C" LIMIT $2""",
    By.PAYMENT: f"""{_LETTERS} WHERE reverse(payment_id::text) COLLATE "C" = reverse($1) LIMIT $2""",
    By.PAYMENT_END: f"""{_LETTERS} WHERE reverse(payment_id::text) COLLATE "C" >= $1
        AND reverse(payment_id::text) COLLATE "C" < $1 || 'g' ORDER BY reverse(payment_id::text) COLLATE "C" LIMIT $2""",
    By.COMMAND_END: f"""{_LETTERS} WHERE reverse(event_id::text) COLLATE "C" >= $1
        AND reverse(event_id::text) COLLATE "C" < $1 || 'g' ORDER BY reverse(event_id::text) COLLATE "C" LIMIT $2""",
}
BY_MESSAGE: Final = "SELECT invoice_id, payment_id, at FROM messages WHERE id = $1::uuid LIMIT $2"


STATEMENTS: Final = tuple(
    one
    for statements in (_STATEMENTS, _OF_COMMANDS, _OF_LETTERS, {By.MESSAGE: BY_MESSAGE}, _CASES_BY, _LETTERS_BY)
    for one in statements.items()
)
"""Every statement that looks for something, with what it looks for. An index serves each."""


async def find(connection: Connection, lookups: Iterable[SearchTerm]) -> list[FoundThing]:
    """Everything that these ways find, each way in turn: what was heard, then cases; else failed messages of which no more is known."""
    found: list[FoundThing] = []
    for lookup in lookups:
        text = lookup.text[::-1] if lookup.by in _ENDS else lookup.text
        heard = await _find(connection, lookup, text)
        if (statement := _CASES_BY.get(lookup.by)) is not None:
            heard += [_as_found(lookup.by, row) for row in await connection.fetch(statement, text, FOUND_MAX)]
        if not heard and (statement := _LETTERS_BY.get(lookup.by)) is not None:
            heard = [_letter(lookup.by, row) for row in await connection.fetch(statement, text, FOUND_MAX)]
        found += heard
    return found


def _letter(by: By, row: Row) -> FoundThing:
    return FoundThing(by, None, at=row["first_seen"], letter_id=row["id"])


async def _find(connection: Connection, lookup: SearchTerm, text: str) -> list[FoundThing]:
    if lookup.by in _OF_COMMANDS:
        rows = await connection.fetch(_OF_COMMANDS[lookup.by], text, FOUND_MAX)
        return [FoundThing(lookup.by, row["invoice_id"], at=row["at"], command_id=row["command_id"]) for row in rows]
    if lookup.by in _OF_LETTERS:
        rows = await connection.fetch(_OF_LETTERS[lookup.by], text, FOUND_MAX)
        return [_letter(lookup.by, row) for row in rows]
    if lookup.by is By.MESSAGE:
        rows = await connection.fetch(BY_MESSAGE, text, FOUND_MAX)
        return [FoundThing(lookup.by, row["invoice_id"], row["payment_id"], at=row["at"]) for row in rows]
    return [_as_found(lookup.by, row) for row in await connection.fetch(_STATEMENTS[lookup.by], text, FOUND_MAX)]


async def find_amount(connection: Connection, lookup: AmountSearch) -> list[FoundThing]:
    """Payments of this amount that were first heard of in these days, and invoices of it that were issued then and have no such payment."""
    arguments = (lookup.currency, lookup.amount_minor, lookup.begin, lookup.end, FOUND_MAX)
    payments = [_as_found(By.AMOUNT, row) for row in await connection.fetch(BY_AMOUNT, *arguments)]
    named = {one.invoice_id for one in payments}
    invoices = [_as_found(By.AMOUNT, row) for row in await connection.fetch(BY_INVOICED_AMOUNT, *arguments)]
    return [*payments, *(one for one in invoices if one.invoice_id not in named)]


async def currencies(connection: Connection) -> list[str]:
    """The currencies in which there are payments."""
    return [row["currency"] for row in await connection.fetch(CURRENCIES)]


async def invoice_of_payment(connection: Connection, payment_id: UUID) -> str | None:
    """The invoice of a payment, as messages or a case tell; None if nobody told."""
    invoice_id: str | None = await connection.fetchval(
        """SELECT coalesce((SELECT invoice_id FROM payments WHERE payment_id = $1),
               (SELECT invoice_id FROM cases WHERE payment_id = $1))""",
        payment_id,
    )
    return invoice_id


async def command_named(connection: Connection, command_id: UUID) -> CommandHeard | None:
    """A command and its answer; None if nobody told of it."""
    rows = await connection.fetch(BY_COMMAND, str(command_id), 1)
    return CommandHeard(*rows[0].values()) if rows else None


async def invoice_of_correlation(connection: Connection, correlation_id: str) -> str | None:
    """The invoice of a payment whose command had this id: a sender that sets no other is answered under it."""
    rows = await connection.fetch(BY_CORRELATION, correlation_id, 1)
    return rows[0]["invoice_id"] if rows else None


def _as_found(by: By, row: Row) -> FoundThing:
    return FoundThing(
        by,
        row["invoice_id"],
        row["payment_id"],
        row["customer_id"],
        row["amount_minor"],
        row["currency"],
        row["payment_status"],
        row["invoice_status"],
        row["at"],
    )
