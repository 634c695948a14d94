"""The invoice of the specification: 5.00 EUR, and everything that can have happened to it, by name."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.invoice.domain import (
    Command,
    Event,
    Issued,
    MethodSummary,
    Paid,
    PaymentFailed,
    PaymentFlaggedInDoubt,
    PaymentRequested,
    RejectionReason,
    Voided,
    decide,
    replay,
)
from services.invoice.refunds import Refunded, RefundFailed, RefundRequested
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from tests.support.scenarios import Scenario

History = tuple[Event, ...]
Decision = tuple[Event, ...] | RejectionReason
InvoiceScenario = Scenario[History, Command, Decision]
Specification = dict[str, InvoiceScenario]

THIS, OTHER = UUID(int=1), UUID(int=2)
"""The payment in the histories, and another one."""
TOKEN = MethodSummary("token", "pm_card_visa")

ISSUED = Issued("C-1", 500, "EUR")
REQUESTED = PaymentRequested(THIS, 500, "EUR", TOKEN)
FLAGGED = PaymentFlaggedInDoubt(THIS)
PAID = Paid(THIS, 500, "EUR", "ch_1")
FAILED = PaymentFailed(THIS, "declined", "insufficient_funds")
VOIDED = Voided("mistake")

R1, R2 = UUID(int=11), UUID(int=12)
"""Two refunds."""
OF_A_PART = RefundRequested(THIS, R1, 200, "EUR", "damaged", None)
OF_THE_REST = RefundRequested(THIS, R2, None, "EUR", "returned", None)
PART_BACK = Refunded(THIS, R1, 200, "EUR", 200, version=6)
PART_LOST = RefundFailed(THIS, R1, 200, "EUR", 0, "lost_or_stolen_card", version=8)

NEVER_ISSUED: History = ()
OPEN: History = (ISSUED,)
PENDING: History = (ISSUED, REQUESTED)
IN_DOUBT: History = (ISSUED, REQUESTED, FLAGGED)
PAID_BY_THIS: History = (ISSUED, REQUESTED, PAID)
OPEN_AGAIN: History = (ISSUED, REQUESTED, FAILED)
VOID: History = (ISSUED, VOIDED)
PART_ASKED: History = (*PAID_BY_THIS, OF_A_PART)
PART_REFUNDED: History = (*PART_ASKED, PART_BACK)
PART_FAILED: History = (*PART_REFUNDED, PART_LOST)
NOT_PAID: dict[str, History] = {
    "open": OPEN,
    "pending": PENDING,
    "in doubt": IN_DOUBT,
    "open again": OPEN_AGAIN,
    "void": VOID,
}

MONEY: dict[str, Any] = {"amount_minor": 500, "currency": "EUR"}
CARD = messages.EncryptedCardMethod(jwe="eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.a2V5.aXY.Y2lwaGVydGV4dA.dGFn")

NOTHING: Decision = ()
"""The command is accepted, and there is no new event."""


@dataclass(frozen=True, slots=True)
class EventSpecification:
    """How an event is stored, under which name and version, and what is published of it.

    A stored event must stay readable for ever, so an example never changes. The next version of an event is another example. The older one
    then shows what it is read as today, and is no longer published in its old form."""

    event: Event
    stored_as: str
    stored: dict[str, Any]
    announced: Contract | None


def decided(scenario: InvoiceScenario) -> Decision:
    return decide(scenario.when, replay("INV-1", scenario.given))
