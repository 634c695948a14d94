"""Cases in a real database, without the messages that make them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from services.staff import store
from services.staff.charges import REQUESTS
from services.staff.dead_letters import DeadLetter, arrive
from services.staff.domain import Case, CaseAttempt, CaseStatus, Fact, evolve
from services.staff.handlers import CaseHandler, LoadedCase
from services.staff.store import KeptCase
from shared.batch.handler import Change, Reaction
from shared.contracts.invoice import InvoicePaymentRequested, TokenMethod
from shared.contracts.payment_gateway import PaymentCaptured
from shared.messaging.codec import STRUCTURED, decode, encode
from shared.messaging.envelope import Cause, Draft, Inbound
from shared.persistence.database import Database
from shared.persistence.writes import WriteBatch
from shared.records import replace

NOW = datetime(2026, 11, 28, 2, tzinfo=UTC)
LIMIT = 50_000
"""Above this a second person must agree, in EUR and USD: as the migration and the setting have it."""
ATTEMPT = CaseAttempt(NOW, "inquire", "unknown", "HTTP 503")


async def keep_case(
    database: Database, amount_minor: int | None = LIMIT + 1, *, at: datetime = NOW, **changes: Any
) -> UUID:
    """Insert a case that needs a decision on version 4, with these changes."""
    case = Case(uuid4(), "INV-1", CaseStatus.NEEDS_DECISION, 4, amount_minor=amount_minor, currency="EUR")
    case = replace(replace(case, reason="no_readable_answer", gateway_id="pi_1", attempts=(ATTEMPT,) * 8), **changes)
    async with database.transaction() as tx:
        await store.save_cases(tx, [(case, "C-1")], at, locked=())
    return case.payment_id


async def kept_case_of(database: Database, payment_id: UUID) -> KeptCase:
    """The case of this payment, which must be there."""
    async with database.connection() as connection:
        found = await store.find_case(connection, payment_id)
    assert found is not None
    return found


async def tell_case(database: Database, payment_id: UUID, fact: Fact) -> None:
    """Do what the service does when a message about this payment comes."""
    before = LoadedCase((await kept_case_of(database, payment_id)).case, is_stored=True)
    data = PaymentCaptured(
        invoice_id="INV-1", payment_id=payment_id, version=1, amount_minor=1, currency="EUR", receipt_number="R-1"
    )
    body = encode(Draft(data), Cause(uuid4(), "C-1", NOW), 0, source="invoice").body
    message = decode(body, content_type=STRUCTURED, headers={})
    assert isinstance(message, Inbound)
    reaction: Reaction[LoadedCase, None] = Reaction(replace(before, case=evolve(before.case, fact)))
    async with database.transaction() as tx:
        writes = WriteBatch(tx)
        await CaseHandler().save(writes, [Change(payment_id, message, Cause(uuid4(), "C-1", NOW), reaction)])
        await writes.flush()


async def keep_request(database: Database, amount_minor: int) -> tuple[UUID, UUID]:
    """Insert the dead letter of the request of a payment. Returns its id, and the payment's."""
    requested = InvoicePaymentRequested(
        invoice_id="INV-1",
        payment_id=uuid4(),
        amount_minor=amount_minor,
        currency="EUR",
        method=TokenMethod(token="pm_x"),
    )
    body = encode(Draft(requested), Cause(uuid4(), "C-1", NOW), 0, source="invoice").body
    letter = DeadLetter(
        uuid4(), REQUESTS, "remit", "handler_failed", content_type=STRUCTURED, body=body, body_bytes=len(body)
    )
    async with database.transaction() as tx:
        await store.save_letters(tx, [arrive(None, letter, NOW)], locked=())
    return letter.id, requested.payment_id
