"""All checks of the audit, in the order of its report."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.audit.afterwards import settled_agrees
from services.audit.answers import answered_once
from services.audit.attempts import settled_with_evidence
from services.audit.bodies import bodies_readable
from services.audit.cases import charges_accounted_for
from services.audit.causes import caused_by_commands
from services.audit.dead_letters import dead_letters_explained
from services.audit.deliveries import deliveries_accounted_for, events_delivered
from services.audit.fault_run import planned_faults_fired, planted_faults_found
from services.audit.finding import Finding, Tally
from services.audit.heard import heard_as_stored
from services.audit.idempotence import repeating_changes_nothing
from services.audit.journal import decisions_journalled, journal_unbroken
from services.audit.leaks import no_secrets_leaked
from services.audit.money import (
    books_balance,
    captured_here_and_there,
    captured_once,
    confirmed_once,
    paid_when_captured,
)
from services.audit.outcomes.check import outcomes_agree
from services.audit.replays import runs_sent_once
from services.audit.resources import resources_given_back
from services.audit.sagas import sagas_step_legally
from services.audit.seals import books_sealed
from services.audit.senders import senders_kept_apart
from services.audit.stores import DATABASES, HISTORY, LEDGER, QUEUES, Stores
from services.audit.streams import streams_fold_to_state
from services.audit.stuck import queues_drain
from shared.settings import database_variable

_ABSENT = {
    LEDGER: "no ledger given",
    HISTORY: "no history of a sender given",
    QUEUES: "RABBITMQ_URL is not set",
}


@dataclass(frozen=True, slots=True)
class Check:
    """A promise in words, and the function that checks the stores against it.

    `needs`: databases by the name of their service, LEDGER, HISTORY, QUEUES. One that was not given is reported as missing, and the
    function checks the rest as far as that makes sense. For evidence that only some runs have (a tap, a baseline) the function itself
    reports what is missing.
    """

    function: Callable[[Tally, Stores], Awaitable[None]]
    title: str
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The function's name; the report, `--json` and the fault runs use it."""
        return self.function.__name__

    async def run(self, stores: Stores) -> Finding:
        counted = Tally(settled_before=stores.settled_before)
        for need in self.needs:
            if not stores.has(need):
                counted.missing(_ABSENT.get(need, f"{database_variable(need)} is not set"))
        await self.function(counted, stores)
        return counted.finding(self.name, self.title)


CHECKS: tuple[Check, ...] = (
    Check(
        captured_once,
        "Captured minus refunded is what our refunds leave; amount, currency and method are the invoice's; each is made once",
        ("invoice", "payment_gateway", LEDGER),
    ),
    Check(
        charges_accounted_for,
        "Every charge at the gateway has one payment here; every payment is settled, or has an open case or a next attempt soon",
        ("payment_gateway", "staff", LEDGER),
    ),
    Check(
        captured_here_and_there,
        "Captured here means captured at the gateway, with the same receipt; declined or not charged here means no capture there",
        ("payment_gateway", LEDGER),
    ),
    Check(
        settled_agrees,
        "What we call settled agrees with the gateway, is looked at again, or was decided by a person who knew",
        ("payment_gateway", LEDGER),
    ),
    Check(
        confirmed_once,
        "One gateway id was confirmed per payment, after it was recorded; one idempotency key always carried the same request",
        ("payment_gateway", LEDGER),
    ),
    Check(
        paid_when_captured,
        "An invoice is paid if its payment was captured, or if a person decided so with evidence; each payment ends once",
        ("invoice", "payment_gateway"),
    ),
    Check(
        outcomes_agree,
        "A payment's row, refunds, saga, case and invoice say what its published outcomes say",
        ("payment_gateway", "invoice", "saga", "staff"),
    ),
    Check(
        settled_with_evidence,
        "Each outcome has an answer of the gateway, or a person's decision, that says so; answers are as they were told",
        ("payment_gateway",),
    ),
    Check(
        heard_as_stored,
        "Each event, outcome, command and answer that staff heard says what its service stored",
        DATABASES,
    ),
    Check(
        answered_once,
        "Every confirmed command has exactly one answer or one open dead letter; nothing was answered that its sender never sent",
        ("invoice", "staff", HISTORY),
    ),
    Check(
        senders_kept_apart,
        "Every command of a sender was answered once, under that sender's id; no sender paid, voided or refunded an invoice of another",
        ("invoice",),
    ),
    Check(
        caused_by_commands,
        "Every event and every step has a cause, back to a command; every accepted command has its event",
        DATABASES,
    ),
    Check(
        streams_fold_to_state,
        "Streams run 1..n; folding the events gives the stored state; rebuilding changes nothing",
        ("invoice",),
    ),
    Check(
        events_delivered,
        "Outboxes and queues are empty; each bound queue received each event, always with the same bytes",
        (*DATABASES, QUEUES),
    ),
    Check(
        queues_drain,
        "No queue keeps a message for ever, neither ready nor with a consumer, although it is consumed",
        (QUEUES,),
    ),
    Check(
        deliveries_accounted_for,
        "What a queue received was handled, is a dead letter or is still there; what people replayed or discarded is journalled",
        DATABASES,
    ),
    Check(
        dead_letters_explained,
        "Every dead letter has one record with reason, tries and status; no healthy message is among them",
        ("staff",),
    ),
    Check(
        journal_unbroken,
        "No entry of staff's journal was changed, put in or taken out; it goes on from every seal and every head that was seen elsewhere",
        ("staff", "payment_gateway"),
    ),
    Check(
        books_sealed,
        "No event, answer, outcome or decision that was sealed was changed, put in or taken out; the seals go on from every head in a log",
        ("invoice", "payment_gateway", "staff"),
    ),
    Check(
        bodies_readable,
        "Every stored event, outcome, refund, case, heard message and entry of the journal has the members and types of its kind",
        DATABASES,
    ),
    Check(
        decisions_journalled,
        "Every decision of a person, and who may use the desk, is in the journal with the same facts, and the other way round",
        ("staff", "payment_gateway"),
    ),
    Check(
        runs_sent_once,
        "What a replay of many messages says it sent was sent once, by one entry of the journal; no run is held for ever",
        ("staff",),
    ),
    Check(
        sagas_step_legally,
        "One terminal state per saga; no deadline overdue or years away; no illegal transition",
        ("saga", "staff"),
    ),
    Check(
        books_balance,
        "Captures minus refunds at the gateway equal the amounts of the paid invoices without what they gave back",
        ("invoice", "payment_gateway", LEDGER),
    ),
    Check(
        repeating_changes_nothing,
        "Running recovery or replay a second time changed nothing",
        DATABASES,
    ),
    Check(
        resources_given_back,
        "No open transactions, leases or unacknowledged deliveries; connections and memory are back at their baseline",
        (*DATABASES, QUEUES),
    ),
    Check(
        no_secrets_leaked,
        "No card number, security code or key in tables, queues, the ledger or logs, encoded or as a hash; no card once it is paid",
        (*DATABASES, QUEUES),  # not LEDGER: the audit cannot read the books of a real gateway
    ),
    Check(
        planned_faults_fired,
        "The run proves something: every planned fault fired; duplicates, redeliveries, doubts and conflicts were seen",
    ),
    Check(
        planted_faults_found,
        "The audit can fail: every build with a planted fault broke its check",
    ),
)
