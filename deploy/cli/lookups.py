"""Finds what an id, a number or a code belongs to, in the raw stores of all services: read-only, and by indexes only.

tests/service/cli/test_find.py asks PostgreSQL for the plan of each statement. The gateway's id of a payment has no index in the books of
its service: that would make every step of every payment dearer. Cases have it, and the gateway knows for which payment it made it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from deploy.cli.ids import is_end, whole_id
from deploy.cli.output import MISUSED, fail
from deploy.cli.words import money, short_type, time
from services.audit.align import StoredRow
from services.audit.errors import AuditError, StoreAwayError
from services.audit.stores import DATABASES, Snapshot, snapshot
from shared.ids import id_of_card_refusal
from shared.settings import EnvironmentVariables, database_variable

TEXT_MAX: Final = 300
"""Characters. No id of ours or of others is longer."""
FOUND_MAX: Final = 50
"""Rows of one table. A correlation id may stand for many commands."""

INVOICES: Final = (
    """SELECT invoice_id, status, amount_minor, currency, updated_at FROM invoices WHERE invoice_id = $1 LIMIT $2"""
)
PAYMENTS: Final = """SELECT p.payment_id, p.invoice_id, i.status FROM payments p LEFT JOIN invoices i USING (invoice_id)
    WHERE p.payment_id = $1 LIMIT $2"""
REFUNDS: Final = """SELECT refund_id, invoice_id, payment_id, pending FROM refunds WHERE refund_id = $1 LIMIT $2"""
_ANSWER: Final = (
    """SELECT command_id, sent_id, command_type, answer, reason, invoice_id, sender, answered_at FROM answers"""
)
ANSWERS: Final = f"""{_ANSWER} WHERE command_id = ANY($1::uuid[]) LIMIT $2"""
SENT: Final = f"""{_ANSWER} WHERE sent_id = $1 LIMIT $2"""
CORRELATED: Final = (
    f"""{_ANSWER} WHERE correlation_id = $1 AND correlation_id <> coalesce(sent_id, command_id)::text LIMIT $2"""
)
RECEIPTS: Final = """SELECT stream_id, data ->> 'payment_id' AS payment_id, recorded_at FROM events
    WHERE data ->> 'receipt_number' = $1 AND data ? 'receipt_number' LIMIT $2"""
_HASH: Final = "sha256(uuid_send((data ->> 'payment_id')::uuid))"
REFERENCES: Final = f"""SELECT stream_id, (data ->> 'payment_id')::uuid AS payment_id, recorded_at FROM events
    WHERE (((get_byte({_HASH}, 0) & 31) << 15) | ((get_byte({_HASH}, 1) & 31) << 10) | ((get_byte({_HASH}, 2) & 31) << 5)
           | (get_byte({_HASH}, 3) & 31)) = $1 AND type LIKE 'PaymentFailed.%' LIMIT $2"""  # noqa: S608 - constants
CHARGES: Final = """SELECT payment_id, invoice_id, status, amount_minor, currency, gateway_id FROM payments
    WHERE payment_id = $1 LIMIT $2"""
SAGAS: Final = """SELECT payment_id, invoice_id, status FROM sagas WHERE payment_id = $1 LIMIT $2"""
_CASE: Final = """SELECT payment_id, invoice_id, status, amount_minor, currency FROM cases WHERE"""
_BETWEEN: Final = """COLLATE "C" >= reverse($1) AND reverse({0}::text) COLLATE "C" < reverse($1) || 'g' LIMIT $2"""
CASES: Final = {
    "id": f"""{_CASE} payment_id = $1 LIMIT $2""",
    "end": f"""{_CASE} reverse(payment_id::text) {_BETWEEN.format("payment_id")}""",
    "text": f"""{_CASE} (invoice_id = $1 OR correlation_id = $1 OR gateway_id = $1) LIMIT $2""",
}
_LETTER: Final = """SELECT id, queue, reason, type, status, last_seen FROM dead_letters WHERE"""
LETTERS: Final = {
    "id": f"""{_LETTER} (id = $1 OR event_id = $1 OR left(message_id, 255) = left($1::text, 255)) LIMIT $2""",
    "end": f"""{_LETTER} reverse(id::text) {_BETWEEN.format("id")}""",
    "text": f"""{_LETTER} (left(message_id, 255) = left($1, 255) OR left(correlation_id, 255) = left($1, 255)) LIMIT $2""",
}
JOURNAL: Final = """SELECT id, subject, action, who, at FROM journal WHERE id = $1 LIMIT $2"""
_QUARANTINED: Final = """SELECT m.id, m.type, m.losses FROM outbox_messages m WHERE m.lane = ANY('{inside,outside,retry,public}')
    AND m.sweep_after = 'infinity' AND"""
QUARANTINED: Final = {
    "id": f"""{_QUARANTINED} m.id = $1 LIMIT $2""",
    "end": f"""{_QUARANTINED} right(m.id::text, length($1)) = $1 LIMIT $2""",
}

STATEMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "invoice": (INVOICES, PAYMENTS, REFUNDS, ANSWERS, SENT, CORRELATED, RECEIPTS, REFERENCES, *QUARANTINED.values()),
    "payment_gateway": (CHARGES, *QUARANTINED.values()),
    "saga": (SAGAS, *QUARANTINED.values()),
    "staff": (*CASES.values(), *LETTERS.values(), JOURNAL, *QUARANTINED.values()),
}
"""All of them, by the service in whose database they run."""

_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Of the codes that `services.invoice.domain.reference_code` makes."""
_REFERENCE: Final = re.compile(rf"PF-([{_ALPHABET}]{{8}})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Match:
    """Something that the text stands for. `says`: its state in words. `look`: the command that shows more."""

    kind: str
    id: str
    service: str
    says: str
    look: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """What was found, and why anything could not be looked at."""

    found: tuple[Match, ...]
    unseen: tuple[str, ...]


async def find(text: str) -> Lookup:
    """Everything that has this id, number or code, or an id that ends so.

    Raises CliError if no database is named, and AuditError if none of them can be looked into.
    """
    if not text or len(text) > TEXT_MAX or not text.isprintable():
        fail(f"an id is a text in one line of at most {TEXT_MAX} characters.", MISUSED)
    environment = EnvironmentVariables()
    named = [name for name in DATABASES if environment.names_database(name)]
    if not named:
        fail(
            f"{database_variable(DATABASES[0])} is not set, and none of the others: name a database to look into.",
            MISUSED,
        )
    looks = await asyncio.gather(*(_look_into(name, environment.database_url(name), text) for name in named))
    failed = [look for look in looks if isinstance(look, AuditError)]
    if len(failed) == len(named):
        raise failed[0]
    found = [match for look in looks if not isinstance(look, AuditError) for match in look]
    unseen = [f"{database_variable(name)} is not set" for name in DATABASES if name not in named]
    unseen += [str(error).rstrip(".?") for error in failed]
    if text.startswith(("pi_", "re_")) and not any(match.kind == "case" for match in found):
        match, why_not = await _ask_gateway(environment, text)
        found += [match] if match else []
        unseen += [why_not] if why_not else []
    return Lookup(tuple(dict.fromkeys(found)), tuple(unseen))


async def _look_into(name: str, url: str, text: str) -> list[Match] | AuditError:
    """What one database has; or why that is not known, so that the others are looked at all the same."""
    try:
        async with snapshot(name, url) as database:
            found = [match async for match in _LOOK[name](database, text)]
            for how, argument in _as_id(text):
                found += [_quarantined(name, row) for row in await database.page(QUARANTINED[how], argument, FOUND_MAX)]
            return found
    except AuditError as error:
        return error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return StoreAwayError(f"{database_variable(name)}: the database stopped answering ({type(error).__name__}).")


def _as_id(text: str) -> list[tuple[str, Any]]:
    """The text as a whole id, or as the end of one; nothing if it is neither. The first part names the statement."""
    if (id_ := whole_id(text)) is not None:
        return [("id", id_)]
    return [("end", text.lower())] if is_end(text) else []


async def _in_invoices(database: Snapshot, text: str) -> AsyncIterator[Match]:
    for row in await database.page(INVOICES, text, FOUND_MAX):
        says = f"{row['status']}, {money(row['amount_minor'], row['currency'])}, changed {time(row['updated_at'])}"
        yield Match("invoice", row["invoice_id"], "invoice", says, _show_invoice(row["invoice_id"]))
    for row in await database.page(CORRELATED, text, FOUND_MAX):
        yield _answered(row)
    for row in await database.page(RECEIPTS, text, FOUND_MAX):
        says = f"of invoice {row['stream_id']}, payment {row['payment_id']}, {time(row['recorded_at'])}"
        yield Match("receipt", text, "invoice", says, _show_invoice(row["stream_id"]))
    async for match in _failed(database, text):
        yield match
    if (id_ := whole_id(text)) is not None:
        async for match in _by_id(database, id_):
            yield match


async def _by_id(database: Snapshot, id_: UUID) -> AsyncIterator[Match]:
    for row in await database.page(PAYMENTS, id_, FOUND_MAX):
        says = f"of invoice {row['invoice_id']}, which is {row['status'] or 'not there'}"
        yield Match("payment", str(id_), "invoice", says, _show_invoice(row["invoice_id"]))
    for row in await database.page(REFUNDS, id_, FOUND_MAX):
        says = f"of invoice {row['invoice_id']}, payment {row['payment_id']}{', pending' if row['pending'] else ''}"
        yield Match("refund", str(id_), "invoice", says, _show_invoice(row["invoice_id"]))
    for statement, argument in ((ANSWERS, [id_, id_of_card_refusal(id_)]), (SENT, id_)):
        for row in await database.page(statement, argument, FOUND_MAX):
            yield _answered(row)


async def _failed(database: Snapshot, text: str) -> AsyncIterator[Match]:
    """The failed payments with this code: those that share its first four characters, of which the rest is compared here."""
    if (read := _REFERENCE.fullmatch(text)) is None:
        return
    code = read[1].upper()
    from services.invoice.domain import reference_code  # noqa: PLC0415 - only for such a code

    number = 0
    for letter in code[:4]:
        number = number << 5 | _ALPHABET.index(letter)
    for row in await database.page(REFERENCES, number, FOUND_MAX):
        if reference_code(row["payment_id"]) == f"PF-{code}":
            says = f"payment {row['payment_id']} of invoice {row['stream_id']} failed {time(row['recorded_at'])}"
            yield Match("reference code", f"PF-{code}", "invoice", says, _show_invoice(row["stream_id"]))


async def _in_payments(database: Snapshot, text: str) -> AsyncIterator[Match]:
    if (id_ := whole_id(text)) is None:
        return
    for row in await database.page(CHARGES, id_, FOUND_MAX):
        facts = [row["status"], money(row["amount_minor"], row["currency"]), row["gateway_id"] or "not at the gateway"]
        says = ", ".join(fact for fact in facts if fact)
        yield Match("payment", str(id_), "payment_gateway", says, _show_invoice(row["invoice_id"]))


async def _in_sagas(database: Snapshot, text: str) -> AsyncIterator[Match]:
    if (id_ := whole_id(text)) is None:
        return
    for row in await database.page(SAGAS, id_, FOUND_MAX):
        yield Match("payment", str(id_), "saga", row["status"], _show_invoice(row["invoice_id"]))


async def _in_staff(database: Snapshot, text: str) -> AsyncIterator[Match]:
    id_ = whole_id(text)
    asked = [*_as_id(text), ("text", text if id_ is None else str(id_))]
    for how, argument in asked:
        for row in await database.page(CASES[how], argument, FOUND_MAX):
            says = f"{row['status']}, invoice {row['invoice_id']}, {money(row['amount_minor'], row['currency']) or '?'}"
            payment = str(row["payment_id"])
            yield Match("case", payment, "staff", says, f"remit payments show {payment}")
        for row in await database.page(LETTERS[how], argument, FOUND_MAX):
            says = f"{row['status']}, {short_type(row['type'])} from {row['queue']}: {row['reason']}, last {time(row['last_seen'])}"
            yield Match("dead letter", str(row["id"]), "staff", says, f"remit dead-letters show {row['id']}")
    if id_ is not None:
        for row in await database.page(JOURNAL, id_, FOUND_MAX):
            says = f"{row['who']}: {row['action']} {row['subject']}, {time(row['at'])}"
            yield Match("journal entry", str(id_), "staff", says, f"remit find {row['subject']}")


_LOOK: Final = {"invoice": _in_invoices, "payment_gateway": _in_payments, "saga": _in_sagas, "staff": _in_staff}


def _answered(row: StoredRow) -> Match:
    verdict = f"{row['answer']}: {row['reason']}" if row["reason"] else row["answer"]
    about = f" about invoice {row['invoice_id']}" if row["invoice_id"] else ""
    of = f" of {row['sender']}" if row["sender"] else ""
    says = f"{short_type(row['command_type'])}{about}{of}, {verdict}, {time(row['answered_at'])}"
    command = str(row["sent_id"] or row["command_id"])
    return Match("command", command, "invoice", says, f"remit command show {command}")


def _quarantined(service: str, row: StoredRow) -> Match:
    says = f"{short_type(row['type'])}, not tried any more after {row['losses']} lost connections"
    return Match("quarantined message", str(row["id"]), service, says, "remit outbox list")


def _show_invoice(invoice_id: str) -> str:
    from shlex import quote  # noqa: PLC0415 - as above

    option_like = "-- " if invoice_id.startswith("-") else ""
    return f"remit invoice show {option_like}{quote(invoice_id)}"


async def _ask_gateway(environment: EnvironmentVariables, gateway_id: str) -> tuple[Match | None, str | None]:
    """The payment for which the gateway made this one; or why that is not known. It reads, and changes nothing."""
    if not environment.text("GATEWAY_URL"):
        return None, "GATEWAY_URL is not set: the gateway was not asked for which payment it made this"
    from services.payment_gateway.gateways.port import MadeFor, NotFound  # noqa: PLC0415 - the gateway's SDK takes half a second
    from services.payment_gateway.settings import GatewaySettings  # noqa: PLC0415

    gateway = GatewaySettings.read(environment).charging.open_gateway()
    try:
        match await gateway.owner(gateway_id):
            case MadeFor(payment_id=UUID() as payment_id):
                look = f"remit find {payment_id}"
                return Match("gateway id", gateway_id, "payment_gateway", f"made for payment {payment_id}", look), None
            case MadeFor() | NotFound():
                return None, None
            case _:
                return None, "the gateway gave no readable answer"
    finally:
        await gateway.close()
