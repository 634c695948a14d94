"""What the pages show in tests: cases, failed messages and entries of the log, also with texts that want to do harm."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from services.staff import store, story_store
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus
from services.staff.domain import Case, CaseAttempt, CaseStatus
from services.staff.heard import Heard, hear
from services.staff.people import Actor, Via
from services.staff.store import JournalEntry
from shared.persistence.database import Database
from shared.records import dataclass, replace
from tests.support.desk_browser import NOW
from tests.support.heard_messages import life_of_an_invoice

HOSTILE = (
    "<script>alert('harm')</script><img src=x onerror=alert(1)>\"'><svg onload=alert(2)>"
    "{{7*7}} ${7*7} </textarea></title> \u202egnihton\u202c \u0007\u001b[31m"
)
LONG_WORD = "W" * 65_536


@dataclass(frozen=True, slots=True)
class Filled:
    """The ids of what there is to see."""

    case: UUID
    hostile_case: UUID
    dead_letter: UUID
    hostile_letter: UUID
    invoice: str
    states: Sequence[str] = ()
    """Addresses of pages as they stand after somebody acted."""


async def fill(database: Database, *, with_hostile: bool = True) -> Filled:
    """Store something for every page, in the ways in which the service does."""
    filled = Filled(uuid4(), uuid4(), uuid4(), uuid4(), "INV-20418")
    cases = [
        _case(filled.case, filled.invoice, "no_readable_answer", "timeout after 10 s"),
        _case(
            filled.hostile_case, "INV-20377", *([HOSTILE] * 2 if with_hostile else ["processing", "it is still at it"])
        ),
    ]
    async with database.transaction() as tx:
        await store.save_cases(tx, [(case, "corr-1") for case in cases], NOW - timedelta(hours=4), locked=())
        await store.save_letters(tx, [_letter(filled), *([_hostile_letter(filled)] if with_hostile else [])], locked=())
        await store.append_entries(tx, _entries(filled, HOSTILE if with_hostile else "The customer was told."))
        if with_hostile:
            await story_store.save(tx, _hostile_life())
    return filled


def _hostile_life() -> Heard:
    """The life of an invoice whose every text wants to do harm, its number among them."""
    heard = hear(life_of_an_invoice(NOW - timedelta(hours=4)))
    return replace(
        heard,
        invoices=tuple(replace(one, invoice_id=HOSTILE, customer_id=HOSTILE) for one in heard.invoices),
        payments=tuple(
            replace(one, invoice_id=HOSTILE, receipt_number=HOSTILE, reference_code=HOSTILE, gateway_id=HOSTILE)
            for one in heard.payments
        ),
        commands=tuple(replace(one, invoice_id=HOSTILE, reason=HOSTILE) for one in heard.commands),
        messages=tuple(replace(one, invoice_id=HOSTILE, facts=_hostile(one.facts)) for one in heard.messages),
    )


def _hostile(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"currency", "amount_minor", "outcome", "status", "resolution", "at", "attempts"}
    return {name: HOSTILE if isinstance(value, str) and name not in kept else value for name, value in facts.items()}


def _case(payment_id: UUID, invoice_id: str, reason: str, evidence: str) -> Case:
    return Case(
        payment_id=payment_id,
        invoice_id=invoice_id,
        status=CaseStatus.NEEDS_DECISION,
        version=4,
        reason=reason,
        amount_minor=124_000,
        currency="EUR",
        gateway_id="pi_3QKu1c",
        attempts=(CaseAttempt(NOW - timedelta(hours=4), "execute", "unknown", evidence),),
        attempts_version=4,
    )


def _entries(filled: Filled, words: str) -> list[JournalEntry]:
    ann = Actor("ann.resolver", Via.DESK)
    return [
        JournalEntry.of(ann, NOW - timedelta(minutes=9), "ask", filled.case, {"version": 4}),
        JournalEntry.of(ann, NOW - timedelta(minutes=8), "note", filled.case, {"note": words, "reason": words}),
        JournalEntry.of(ann, NOW, "refused", filled.case, {"action": "resolve", "code": "version_differs"}),
    ]


def _hostile_letter(filled: Filled) -> DeadLetterRecord:
    letter = DeadLetter(
        id=filled.hostile_letter,
        queue="saga.events",
        origin="remit",
        reason="handler_failed",
        error_type=HOSTILE,
        error_text=HOSTILE,
        tries=5,
        failed_at=NOW - timedelta(hours=1),
        exchange=HOSTILE,
        routing_key=HOSTILE,
        message_id=HOSTILE,
        type=HOSTILE,
        content_type=HOSTILE,
        correlation_id=HOSTILE,
        reply_to=HOSTILE,
        headers={HOSTILE: HOSTILE},
        body=f'{{"note": "{LONG_WORD}", "{HOSTILE}": 1}}'.encode(),
        body_bytes=66_000,
        sender=HOSTILE,
        may_charge=False,
    )
    return _record(letter)


def _letter(filled: Filled) -> DeadLetterRecord:
    letter = DeadLetter(
        id=filled.dead_letter,
        queue="saga.events",
        origin="remit",
        reason="handler_failed",
        error_type="KeyError",
        error_text="'receipt_number'",
        tries=5,
        failed_at=NOW - timedelta(hours=1),
        exchange="payment.events",
        routing_key="remit.payment_gateway.PaymentCaptured.v1",
        message_id=str(filled.dead_letter),
        event_id=filled.dead_letter,
        type="remit.payment_gateway.PaymentCaptured.v1",
        content_type="application/cloudevents+json",
        body=b'{"specversion": "1.0"}',
        body_bytes=22,
        may_charge=False,
    )
    return _record(letter)


def _record(letter: DeadLetter) -> DeadLetterRecord:
    at = NOW - timedelta(hours=1)
    return DeadLetterRecord(letter, 0, 1, DeadLetterStatus.OPEN, at, at)
