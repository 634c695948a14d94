"""Ways to falsify finished books, as data: what is written where, and the checks of the audit that it must break, and no others.

A statement names things by the story that they are of: `$payment(paid)`, `$invoice(paid)`, `$refund(parted)`, `$sent(pay paid)` for the id
of a command, `$kept(pay paid)` for the id under which its answer is kept, `$intent(paid)` and `$charge(paid)` for ids of the gateway.
"""

import re
from dataclasses import dataclass, field
from typing import Final

_SEALED_IN = {"invoice", "payment_gateway"}
_CHANGES_BOOK = re.compile(r"(UPDATE|DELETE FROM) (events|answers|outcomes|decisions)\b(?! SET (content|outline)_hash)")


@dataclass(frozen=True, slots=True)
class Falsification:
    """What somebody who may write everywhere changes.

    `of` is what it falsifies: `database.table.column`, or `database.table` for whole rows. `statements` are pairs of a store and SQL. `red`
    are the checks that break, besides the seals of what is sealed. `seen_in_production`: whether one of them also breaks with nothing but
    the databases and the broker. `why`: why more than one check breaks.
    """

    of: str
    how: str
    red: frozenset[str]
    statements: tuple[tuple[str, str], ...] = field(repr=False)
    seen_in_production: bool = True
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.of}: {self.how}"

    @property
    def breaks_seals(self) -> bool:
        """Whether it changes what was sealed, or takes it out. What it adds is not sealed yet."""
        return any(store in _SEALED_IN and _CHANGES_BOOK.match(sql) for store, sql in self.statements)


def change(
    of: str, value: str, where: str, *red: str, how: str = "", seen_in_production: bool = True, why: str = ""
) -> Falsification:
    """One column of some rows gets another value."""
    database, table, column = of.split(".")
    statement = f"UPDATE {table} SET {column} = {value} WHERE {where}"
    return Falsification(of, how or value, frozenset(red), ((database, statement),), seen_in_production, why)


def member(of: str, value: str, where: str, *red: str, seen_in_production: bool = True, why: str = "") -> Falsification:
    """Members of a JSON column get other values."""
    column = of.rpartition(".")[2]
    return change(of, f"{column} || '{value}'", where, *red, how=value, seen_in_production=seen_in_production, why=why)


def rows(
    of: str,
    how: str,
    *statements: tuple[str, str],
    red: tuple[str, ...],
    seen_in_production: bool = True,
    why: str = "",
) -> Falsification:
    """Whole rows, or several stores alike."""
    return Falsification(of, how, frozenset(red), statements, seen_in_production, why)


ANSWERED, BY_COMMANDS, HEARD = "answered_once", "caused_by_commands", "heard_as_stored"
APART, FOLDED, OUTCOMES = "senders_kept_apart", "streams_fold_to_state", "outcomes_agree"
EVIDENCE, PAID, HERE_AND_THERE = "settled_with_evidence", "paid_when_captured", "captured_here_and_there"
ONCE, ACCOUNTED, DELIVERED = "captured_once", "charges_accounted_for", "events_delivered"
DECIDED, CONFIRMED, BALANCE = "decisions_journalled", "confirmed_once", "books_balance"
DELIVERIES, LETTERS, STEPS = "deliveries_accounted_for", "dead_letters_explained", "sagas_step_legally"
SEALED, RUNS, BODIES = "books_sealed", "runs_sent_once", "bodies_readable"
SECRETS, JOURNAL, RESOURCES, SETTLED = "no_secrets_leaked", "journal_unbroken", "resources_given_back", "settled_agrees"

OF = "payment_id = $payment({})"
"""The rows of a payment."""


def of(story: str, *more: str) -> str:
    """The rows of a story's payment."""
    return " AND ".join((f"payment_id = $payment({story})", *more))


def event(story: str, version: int) -> str:
    """An event of a story's invoice."""
    return f"stream_id = $invoice({story}) AND version = {version}"


_ACCEPTED = """INSERT INTO answers (command_id, command_type, invoice_id, answer, correlation_id, sender, sent_id)
    VALUES ($kept(nobody), 'remit.invoice.{}.v1', $invoice({}), 'accepted', 'c', 'upstream', $sent(nobody))"""
_REJECTED = """INSERT INTO answers (command_id, command_type, invoice_id, answer, reason, correlation_id, sender, sent_id)
    VALUES ($kept(nobody), 'remit.invoice.RefundInvoice.v1', $invoice(paid), 'rejected', 'not_paid', 'c', 'upstream', $sent(nobody))"""
_TWO_LINES = "the sender's history does not know it, and nothing came of it"
_SPELT = """convert_to(replace(convert_from(body, 'UTF8'), '{}', '{}'), 'UTF8')"""
"""A message with other words in it."""
_MESSAGE = "the message that was delivered has other bytes, staff heard other words, and what others keep of it differs"

ANSWERS: Final = (
    *(
        rows(
            "invoice.answers",
            f"an accepted {command} with nothing behind it",
            ("invoice", _ACCEPTED.format(command, story)),
            red=(ANSWERED, BY_COMMANDS),
            why=_TWO_LINES,
        )
        for command, story in (("PayInvoice", "void"), ("IssueInvoice", "paid"), ("VoidInvoice", "paid"))
    ),
    rows(
        "invoice.answers",
        "a refund accepted once more, that nobody asked for",
        ("invoice", _ACCEPTED.format("RefundInvoice", "parted")),
        red=(ANSWERED,),
        seen_in_production=False,
    ),
    rows(
        "invoice.answers",
        "a refund rejected that nobody asked for",
        ("invoice", _REJECTED),
        red=(ANSWERED,),
        seen_in_production=False,
    ),
    change(
        "invoice.answers.answer",
        "'accepted'",
        "command_id = $kept(pay void)",
        BY_COMMANDS,
        HEARD,
        why="nothing came of the command, and staff heard that it was rejected",
    ),
    change("invoice.answers.answer", "'rejected'", "command_id = $kept(pay paid)", BY_COMMANDS),
    change(
        "invoice.answers.answer",
        "'rejected'",
        "command_id = $kept(issue paid)",
        BY_COMMANDS,
        HEARD,
        how="of a command of which staff heard",
        why="an event came of the command, and staff heard that it was accepted",
    ),
    change("invoice.answers.reason", "'already_paid'", "command_id = $kept(pay void)", HEARD),
    change("invoice.answers.reason", "'not_json'", "command_id = $kept(discarded)", HEARD),
    change(
        "invoice.answers.command_type",
        "'remit.invoice.VoidInvoice.v1'",
        "command_id = $kept(pay paid)",
        BY_COMMANDS,
    ),
    change(
        "invoice.answers.command_type",
        "'remit.invoice.VoidInvoice.v1'",
        "command_id = $kept(pay void)",
        HEARD,
        how="rejected",
    ),
    change("invoice.answers.invoice_id", "$invoice(void)", "command_id = $kept(pay paid)", BY_COMMANDS),
    change("invoice.answers.sender", "'billing'", "command_id = $kept(pay paid)", APART),
    change(
        "invoice.answers.sent_id",
        "$sent(nobody)",
        "command_id = $kept(pay paid)",
        ANSWERED,
        APART,
        why="it is kept under the id of another",
    ),
    change(
        "invoice.answers.command_id",
        "$sent(nobody)",
        "command_id = $kept(pay paid)",
        ANSWERED,
        BY_COMMANDS,
        APART,
        DELIVERIES,
        why="the command has no answer, its event no command, and the answer is kept under the id of another",
    ),
    rows(
        "invoice.answers",
        "an answer lost",
        ("invoice", "DELETE FROM answers WHERE command_id = $kept(pay void)"),
        red=(ANSWERED, DELIVERIES),
        seen_in_production=False,
        why="the sender sent it, and the queue received it",
    ),
)

_ALIKE = "UPDATE {} SET customer_id = 'C-2' WHERE invoice_id = $invoice(paid)"
EVENTS: Final = (
    rows(
        "invoice.invoices.customer_id",
        "the customer, in event and state alike",
        (
            "invoice",
            """UPDATE events SET data = data || '{"customer_id": "C-2"}' WHERE stream_id = $invoice(paid) AND version = 1""",
        ),
        ("invoice", _ALIKE.format("invoices")),
        red=(HEARD,),
    ),
    change(
        "invoice.invoices.customer_id",
        "'C-2'",
        "invoice_id = $invoice(paid)",
        FOLDED,
        HEARD,
        why="staff know the customer, too",
    ),
    change(
        "invoice.invoices.status",
        "'open'",
        "invoice_id = $invoice(void)",
        FOLDED,
        HEARD,
        why="staff show that it is void",
    ),
    change("invoice.invoices.version", "9", "invoice_id = $invoice(void)", FOLDED),
    change(
        "invoice.invoices.amount_minor",
        "1",
        "invoice_id = $invoice(void)",
        FOLDED,
        HEARD,
        why="staff know the amount, too",
    ),
    change(
        "invoice.invoices.currency",
        "'USD'",
        "invoice_id = $invoice(void)",
        FOLDED,
        HEARD,
        why="staff know the currency, too",
    ),
    change("invoice.invoices.payment_id", "NULL", "invoice_id = $invoice(paid)", FOLDED),
    change("invoice.invoices.receipt_number", "'ch_x'", "invoice_id = $invoice(paid)", FOLDED),
    change("invoice.invoices.refunds", "NULL", "invoice_id = $invoice(parted)", FOLDED),
    change(
        "invoice.invoices.owner",
        "'billing'",
        "invoice_id = $invoice(parted)",
        FOLDED,
        APART,
        why="its sender paid an invoice of another",
    ),
    change("invoice.payments.pending", "true", of("paid"), FOLDED),
    change("invoice.payments.announced_at", "now() + interval '9 years'", of("waiting"), FOLDED),
    change("invoice.payments.announced", "32767", of("waiting"), FOLDED),
    change(
        "invoice.payments.method",
        """'{"kind": "token", "token": "pm_card_mastercard"}'""",
        of("waiting"),
        FOLDED,
        how="another card would be charged",
    ),
    change("invoice.payments.version", "1", of("paid"), FOLDED),
    change("invoice.payments.invoice_id", "$invoice(void)", of("paid"), FOLDED),
    change("invoice.payments.payment_id", "$sent(nobody)", of("paid"), FOLDED),
    change(
        "invoice.payments.method",
        """'{"kind": "encrypted_card", "jwe": "x"}'""",
        of("carded"),
        SECRETS,
        FOLDED,
        how="the card kept when its payment was over",
        why="its row keeps nothing of the method then",
    ),
    change(
        "invoice.payments.method",
        """'{"kind": "token", "token": "pm_x"}'""",
        of("paid"),
        FOLDED,
        how="a token kept when its payment was over",
    ),
    member(
        "invoice.events.data",
        '{"reason": "expired_card"}',
        event("declined", 3),
        HEARD,
        OUTCOMES,
        why="the outcome gave another reason, and staff heard it",
    ),
    member(
        "invoice.events.data",
        '{"amount_minor": 1}',
        event("paid", 3),
        HEARD,
        BALANCE,
        why="staff heard another amount, and the gateway took it",
    ),
    member(
        "invoice.events.data",
        '{"method": {"kind": "token", "fingerprint": "pm_x"}}',
        event("paid", 2),
        ONCE,
        seen_in_production=True,
    ),
    change("invoice.events.cause_id", "$sent(nobody)", event("void", 2), BY_COMMANDS),
    change("invoice.events.owner", "'billing'", event("void", 1), FOLDED),
    change(
        "invoice.events.type",
        "'Shrunk.1'",
        event("void", 2),
        BY_COMMANDS,
        FOLDED,
        HEARD,
        why="nothing came of the command then, and staff heard another event",
    ),
    change("invoice.events.version", "7", event("void", 2), FOLDED),
    change("invoice.refunds.version", "9", "invoice_id = $invoice(parted)", FOLDED),
    change("invoice.refunds.pending", "true", "invoice_id = $invoice(parted)", FOLDED),
    change("invoice.refunds.payment_id", "$payment(paid)", "invoice_id = $invoice(parted)", FOLDED),
)

PAYMENTS: Final = (
    rows(
        "payment_gateway.payments.status",
        "a declined payment's row says not charged",
        ("payment_gateway", "UPDATE payments SET status = 'not_charged' WHERE payment_id = $payment(declined)"),
        red=(OUTCOMES,),
    ),
    change(
        "payment_gateway.payments.status",
        "'declined'",
        of("paid"),
        OUTCOMES,
        HERE_AND_THERE,
        PAID,
        why="its outcome, its invoice and the gateway say captured",
    ),
    change("payment_gateway.payments.reason", "'expired_card'", of("declined"), OUTCOMES),
    change("payment_gateway.payments.advice", "NULL", of("declined"), OUTCOMES),
    change(
        "payment_gateway.payments.decided_by",
        "'Eve'",
        of("decided"),
        OUTCOMES,
        PAID,
        why="there is no decision of that person",
    ),
    change("payment_gateway.payments.decided_by", "NULL", of("decided"), OUTCOMES),
    change(
        "payment_gateway.payments.amount_minor",
        "7",
        of("declined"),
        ONCE,
    ),
    change("payment_gateway.payments.currency", "'USD'", of("declined"), ONCE),
    change("payment_gateway.payments.method_token", "'pm_x'", of("declined"), ONCE),
    change("payment_gateway.payments.gateway_id", "'pi_x'", of("declined"), CONFIRMED, seen_in_production=False),
    change(
        "payment_gateway.payments.invoice_id",
        "$invoice(void)",
        of("declined"),
        OUTCOMES,
        HEARD,
        why="its saga and staff know its invoice",
    ),
    change(
        "payment_gateway.payments.receipt_number",
        "'ch_x'",
        of("paid"),
        OUTCOMES,
        PAID,
        HERE_AND_THERE,
        HEARD,
        why="its outcome, its invoice, staff and the gateway know the receipt",
    ),
    change("payment_gateway.payments.version", "9", of("paid"), OUTCOMES),
    change("payment_gateway.payments.cause_id", "$sent(nobody)", of("paid"), BY_COMMANDS),
    change("payment_gateway.payments.due_at", "now() + interval '9 years'", of("waiting"), ACCOUNTED),
    rows(
        "payment_gateway.payments.due_at",
        "no next attempt, and no case",
        ("payment_gateway", "UPDATE payments SET due_at = NULL WHERE payment_id = $payment(waiting)"),
        ("staff", "DELETE FROM cases WHERE payment_id = $payment(waiting)"),
        red=(ACCOUNTED, STEPS, OUTCOMES),
        why="neither the gateway nor a person is asked, and staff were told of it",
    ),
    change("payment_gateway.payments.leased_by", "$sent(nobody)", of("paid"), RESOURCES),
    change("payment_gateway.payments.attempts_forgotten_at", "now()", of("paid"), CONFIRMED),
    rows(
        "payment_gateway.payments.card_jwe",
        "a card kept when its payment was over",
        ("payment_gateway", "ALTER TABLE payments DROP CONSTRAINT card_erased"),
        ("payment_gateway", "UPDATE payments SET card_jwe = 'x' WHERE payment_id = $payment(carded)"),
        red=(SECRETS,),
    ),
    rows(
        "payment_gateway.payments",
        "a row lost",
        ("payment_gateway", "DELETE FROM payments WHERE payment_id = $payment(void)"),
        ("payment_gateway", "DELETE FROM payments WHERE payment_id = $payment(declined)"),
        red=(CONFIRMED, PAID, EVIDENCE),
        why="the gateway confirmed it and answered, and its invoice asked for it",
    ),
    change(
        "payment_gateway.refunds.amount_minor",
        "400",
        of("parted"),
        ONCE,
        PAID,
        OUTCOMES,
        why="its outcome, its invoice and the gateway know the amount",
    ),
    change(
        "payment_gateway.refunds.status",
        "'kept'",
        of("parted"),
        ONCE,
        PAID,
        OUTCOMES,
        why="its outcome, its invoice and the gateway know that it was made",
    ),
    change(
        "payment_gateway.refunds.decided_by",
        "'Eve'",
        of("parted"),
        PAID,
        OUTCOMES,
        why="there is no decision of that person, and its outcome names nobody",
    ),
)

OUTCOME_ROWS: Final = (
    change(
        "payment_gateway.outcomes.body",
        _SPELT.format('"amount_minor":1250', '"amount_minor":9950'),
        of("paid"),
        OUTCOMES,
        HEARD,
        DELIVERED,
        how="another amount",
        why=_MESSAGE,
    ),
    change(
        "payment_gateway.outcomes.body",
        _SPELT.format("PaymentCaptured.v1", "PaymentDeclined.v1"),
        of("paid"),
        OUTCOMES,
        DELIVERED,
        how="another type",
        why="the message that was delivered has other bytes",
    ),
    change(
        "payment_gateway.outcomes.body",
        _SPELT.format("generic_decline", "expired_card"),
        of("declined"),
        OUTCOMES,
        HEARD,
        DELIVERED,
        EVIDENCE,
        how="another reason",
        why=f"{_MESSAGE}; and the gateway answered with that reason",
    ),
    change(
        "payment_gateway.outcomes.type",
        "'remit.payment_gateway.PaymentNotCharged.v1'",
        of("declined"),
        OUTCOMES,
        PAID,
        BY_COMMANDS,
        HEARD,
        why="its message is of another type, as staff heard, and its saga and its invoice recorded what no outcome supports",
    ),
    change(
        "payment_gateway.outcomes.message_id",
        "$sent(nobody)",
        of("declined"),
        OUTCOMES,
        BY_COMMANDS,
        DELIVERED,
        why="nobody received that message, and the saga's step has no cause",
    ),
    change("payment_gateway.outcomes.exchange", "'payment.other'", of("declined"), OUTCOMES),
    change("payment_gateway.outcomes.routing_key", "'other'", of("declined"), OUTCOMES),
    change("payment_gateway.outcomes.correlation_id", "'other'", of("declined"), OUTCOMES),
    change(
        "payment_gateway.outcomes.version",
        "9",
        of("declined"),
        OUTCOMES,
        BY_COMMANDS,
        why="its id is derived from its version",
    ),
    change(
        "payment_gateway.outcomes.payment_id",
        "$sent(nobody)",
        of("declined"),
        OUTCOMES,
        BY_COMMANDS,
        PAID,
        why="what followed from it has no cause, and it follows from nothing",
    ),
)

_DECISION = "the journal has it, and staff heard it as the decision was sent"
_GUESS = (
    ("payment_gateway", "DELETE FROM decisions WHERE payment_id = $payment(decided)"),
    ("payment_gateway", "UPDATE payments SET decided_by = NULL WHERE payment_id = $payment(decided)"),
)
RECORDS: Final = (
    change("payment_gateway.attempts.answer", "'unknown'", of("paid", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.answer", "'captured'", of("waiting", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.evidence", "'HTTP 200 succeeded'", of("waiting", "step = 'execute'"), EVIDENCE),
    change(
        "payment_gateway.attempts.step",
        "'inquire'",
        of("waiting", "step = 'execute'"),
        EVIDENCE,
        CONFIRMED,
        why="its outcome tells of another step, and its idempotency key is of that",
    ),
    change("payment_gateway.attempts.at", "at + interval '1 hour'", of("waiting", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.idempotency_key", "'k'", "step IN ('execute', 'prepare')", CONFIRMED),
    change(
        "payment_gateway.attempts.recorded_at",
        "recorded_at + interval '1 hour'",
        of("paid"),
        CONFIRMED,
        seen_in_production=False,
    ),
    change(
        "payment_gateway.attempts.payment_id",
        "$sent(nobody)",
        of("paid", "step = 'execute'"),
        EVIDENCE,
        CONFIRMED,
        why="its outcome has no answer then, and its idempotency key is of the payment",
    ),
    rows(
        "payment_gateway.attempts",
        "the confirm's attempt deleted",
        ("payment_gateway", "DELETE FROM attempts WHERE payment_id = $payment(paid) AND step = 'execute'"),
        red=(EVIDENCE,),
    ),
    change("payment_gateway.decisions.evidence", "'none'", of("decided"), DECIDED, HEARD, why=_DECISION),
    change("payment_gateway.decisions.reason", "'none'", of("decided"), DECIDED, HEARD, why=_DECISION),
    change("payment_gateway.decisions.receipt_number", "'ch_x'", of("decided"), DECIDED, HEARD, why=_DECISION),
    change("payment_gateway.decisions.expected_version", "1", of("decided"), DECIDED, HEARD, why=_DECISION),
    change("payment_gateway.decisions.message_id", "$sent(nobody)", of("decided"), DECIDED),
    change(
        "payment_gateway.decisions.journal_head",
        "'9:none'",
        of("decided"),
        DECIDED,
        JOURNAL,
        why="it is no head of the journal",
    ),
    change(
        "payment_gateway.decisions.decided_by",
        "'Eve'",
        of("decided"),
        DECIDED,
        EVIDENCE,
        PAID,
        HEARD,
        why="its outcome and its payment name another person, and staff heard that one",
    ),
    change(
        "payment_gateway.decisions.resolution",
        "'not_charged'",
        of("decided"),
        DECIDED,
        EVIDENCE,
        PAID,
        HEARD,
        why="its outcome and its payment say captured, and staff heard that",
    ),
    change(
        "payment_gateway.decisions.refusal",
        "'version_differs'",
        of("decided"),
        EVIDENCE,
        PAID,
        why="its outcome and its payment say that it took effect",
    ),
    rows(
        "payment_gateway.decisions",
        "a decision removed, so that a guess looks like the gateway's word",
        *_GUESS,
        red=(DECIDED, EVIDENCE, OUTCOMES),
        why="the journal has the decision, its outcome names the person, and no answer of the gateway says so",
    ),
)

SAGAS: Final = (
    rows(
        "saga.sagas.status",
        "another end, in state and journal alike",
        ("saga", "UPDATE sagas SET status = 'completed' WHERE payment_id = $payment(declined)"),
        (
            "saga",
            """UPDATE transitions SET from_status = 'settling', to_status = 'completed'
               WHERE payment_id = $payment(declined) AND version = 2""",
        ),
        ("saga", "UPDATE transitions SET to_status = 'settling' WHERE payment_id = $payment(declined) AND version = 1"),
        red=(OUTCOMES,),
    ),
    change("saga.sagas.status", "'failed'", of("paid"), OUTCOMES, STEPS, why="its journal ends elsewhere"),
    change("saga.sagas.captured_minor", "99", of("paid"), OUTCOMES),
    change("saga.sagas.captured_currency", "'USD'", of("paid"), OUTCOMES),
    change("saga.sagas.receipt_number", "'ch_x'", of("paid"), OUTCOMES),
    change("saga.sagas.failure_outcome", "'not_charged'", of("declined"), OUTCOMES),
    change("saga.sagas.failure_reason", "'expired_card'", of("declined"), OUTCOMES),
    change("saga.sagas.failure_advice", "NULL", of("declined"), OUTCOMES),
    change("saga.sagas.invoice_id", "$invoice(void)", of("paid"), OUTCOMES),
    change("saga.sagas.payment_version", "9", of("paid"), OUTCOMES),
    change("saga.sagas.version", "9", of("paid"), STEPS),
    change("saga.sagas.journal_from", "2", of("paid"), STEPS),
    change("saga.sagas.payment_id", "$sent(nobody)", of("declined"), STEPS),
    change("saga.transitions.to_status", "'failed'", of("paid", "version = 2"), STEPS),
    change("saga.transitions.from_status", "'failed'", of("paid", "version = 2"), STEPS),
    change(
        "saga.transitions.cause_id",
        "$sent(nobody)",
        of("declined", "version = 1"),
        BY_COMMANDS,
        DELIVERIES,
        why="the command of that step was never sent then",
    ),
    change("saga.transitions.version", "9", of("paid", "version = 2"), STEPS),
    change("saga.deadlines.due_at", "now() + interval '9 years'", of("waiting"), STEPS),
    rows(
        "saga.deadlines",
        "deleted",
        ("saga", "DELETE FROM deadlines WHERE payment_id = $payment(waiting)"),
        red=(STEPS,),
    ),
)

STAFF: Final = (
    change("staff.cases.amount_minor", "1", of("waiting"), OUTCOMES),
    change("staff.cases.currency", "'USD'", of("waiting"), OUTCOMES),
    change("staff.cases.version", "9", of("waiting"), OUTCOMES),
    change("staff.cases.gateway_id", "'pi_x'", of("waiting"), OUTCOMES),
    change("staff.cases.invoice_id", "$invoice(void)", of("waiting"), OUTCOMES),
    change("staff.cases.status", "'captured'", of("waiting"), OUTCOMES, STEPS, why="no person is asked then"),
    change(
        "staff.cases.status", "'in_doubt'", of("decided"), OUTCOMES, ACCOUNTED, why="a settled payment has an open case"
    ),
    change("staff.dead_letters.settled_by", "'Eve'", "status = 'discarded'", DELIVERIES),
    change("staff.dead_letters.settled_by", "NULL", "status = 'discarded'", LETTERS),
    change("staff.dead_letters.reason", "'unknown'", "status = 'open'", LETTERS),
    change("staff.dead_letters.tries", "0", "status = 'open'", LETTERS),
    change(
        "staff.dead_letters.status",
        "'discarded'",
        "status = 'open'",
        ANSWERED,
        DELIVERIES,
        LETTERS,
        why="its sender has no answer, and nobody discarded it",
    ),
    change("staff.commands.answer", "'accepted'", "command_id = $sent(pay void)", HEARD),
    change("staff.commands.reason", "'already_paid'", "command_id = $sent(pay void)", HEARD),
    change("staff.commands.type", "'remit.invoice.VoidInvoice.v1'", "command_id = $sent(pay void)", HEARD),
    change("staff.invoices.customer_id", "'C-2'", "invoice_id = $invoice(paid)", HEARD),
    change("staff.invoices.amount_minor", "1", "invoice_id = $invoice(paid)", HEARD),
    change("staff.invoices.currency", "'USD'", "invoice_id = $invoice(paid)", HEARD),
    change("staff.payments.amount_minor", "1", of("paid"), HEARD),
    change("staff.payments.currency", "'USD'", of("paid"), HEARD),
    change("staff.payments.receipt_number", "'ch_x'", of("paid"), HEARD),
    change("staff.payments.gateway_id", "'pi_x'", of("paid"), HEARD),
    change("staff.payments.invoice_id", "$invoice(void)", of("paid"), HEARD),
    member("staff.messages.facts", '{"amount_minor": 1}', of("paid", "type = 13"), HEARD),
    member("staff.messages.facts", '{"customer_id": "C-2"}', "invoice_id = $invoice(paid) AND type = 1", HEARD),
)

_AGAIN = """INSERT INTO refunds (payment_id, refund_id, position, reason, status, by_hand_minor, version, key_number)
    VALUES ($payment(paid), {}, 1, 'x', '{}', 0, 0, 1)"""
_FORGOTTEN = "now() + interval '500 days'"
_ANSWER = """INSERT INTO attempts (payment_id, fence, seq, at, step, answer, evidence, idempotency_key)
    VALUES ($payment({0}), 1, 90, now() - interval '1 hour', '{1}', '{2}', 'HTTP 200', $payment({0}) || ':{1}:9')"""
SIDE = """'{"answer": "captured", "captured_minor": 1250, "refunded_minor": 0, "currency": "EUR", "disputed": false}'"""
WATCHED: Final = (
    change("payment_gateway.payments.status", "'requested'", of("waiting"), OUTCOMES, how="it would be charged anew"),
    change(
        "payment_gateway.payments.status", "'refunded'", of("parted"), OUTCOMES, how="the rest is not there any more"
    ),
    change(
        "payment_gateway.payments.version", "version + 1", of("waiting"), OUTCOMES, how="no decision fits it any more"
    ),
    change("payment_gateway.payments.version", "3", of("parted"), OUTCOMES, how="as before its refund"),
    change("payment_gateway.payments.params_hash", "NULL", of("declined"), EVIDENCE),
    change("payment_gateway.payments.fence", "0", of("waiting"), EVIDENCE),
    change("payment_gateway.payments.was_case", "false", of("waiting"), OUTCOMES),
    change("payment_gateway.payments.rung", "-5", of("waiting"), ACCOUNTED),
    change("payment_gateway.payments.settled_as", "'declined'", of("decided"), OUTCOMES),
    change("payment_gateway.payments.gateway_side", SIDE, of("decided"), EVIDENCE, how="it agrees"),
    change(
        "payment_gateway.payments.gateway_side",
        SIDE,
        of("waiting"),
        EVIDENCE,
        OUTCOMES,
        how="it said captured",
        why="no answer says so, and its outcome and its case do not",
    ),
    change("payment_gateway.payments.refund_id", "'re_x'", of("parted"), OUTCOMES),
    change(
        "payment_gateway.payments.receipt_number",
        "'ch_x'",
        of("waiting"),
        OUTCOMES,
        HERE_AND_THERE,
        why="no outcome told of it, and the gateway has another one",
    ),
    change("payment_gateway.payments.created_at", "now() - interval '9 years'", of("paid"), OUTCOMES),
    change(
        "payment_gateway.payments.due_at",
        "NULL",
        of("decided"),
        ACCOUNTED,
        how="nobody asks whether the gateway agrees",
    ),
    change(
        "payment_gateway.payments.due_at", "now() + interval '9 years'", of("late"), ACCOUNTED, how="of a settled one"
    ),
    rows(
        "payment_gateway.attempts",
        "all deleted, as they will be one day",
        ("payment_gateway", "DELETE FROM attempts WHERE payment_id = $payment(paid)"),
        (
            "payment_gateway",
            f"UPDATE payments SET attempts_forgotten_at = {_FORGOTTEN} WHERE payment_id = $payment(paid)",
        ),
        red=(CONFIRMED,),
    ),
    rows(
        "payment_gateway.payments.updated_at",
        "and all attempts deleted, as if it had ended long ago",
        ("payment_gateway", "DELETE FROM attempts WHERE payment_id = $payment(paid)"),
        (
            "payment_gateway",
            """UPDATE payments SET attempts_forgotten_at = now(), updated_at = now() - interval '500 days'
               WHERE payment_id = $payment(paid)""",
        ),
        red=(OUTCOMES,),
    ),
    change(
        "payment_gateway.refunds.amount_minor",
        "1",
        of("late"),
        OUTCOMES,
        ONCE,
        how="of the saga's",
        why="its outcome and the gateway know the amount",
    ),
    change("payment_gateway.refunds.status", "'at_work'", of("late"), OUTCOMES, how="it would be made again"),
    change("payment_gateway.refunds.status", "'kept'", of("late"), OUTCOMES, how="of the saga's"),
    change("payment_gateway.refunds.version", "1", of("parted"), OUTCOMES),
    change("payment_gateway.refunds.asked_by", "'Eve'", of("parted"), OUTCOMES),
    change("payment_gateway.refunds.asked_minor", "3", of("late"), OUTCOMES, how="of the saga's"),
    change("payment_gateway.refunds.made_elsewhere", "true", of("late"), OUTCOMES, how="of the saga's"),
    change("payment_gateway.refunds.by_hand_minor", "5", of("late"), OUTCOMES, how="of the saga's"),
    rows(
        "payment_gateway.refunds",
        "one at work that nobody asked for",
        ("payment_gateway", _AGAIN.format("$sent(nobody)", "at_work")),
        red=(OUTCOMES,),
    ),
    rows(
        "payment_gateway.refunds",
        "one that waits for ever",
        ("payment_gateway", _AGAIN.format("$payment(paid)", "waiting")),
        red=(ACCOUNTED,),
    ),
    rows(
        "payment_gateway.refunds",
        "that of the saga lost",
        ("payment_gateway", "DELETE FROM refunds WHERE payment_id = $payment(late)"),
        red=(OUTCOMES, ONCE),
        why="its outcome tells of it, and the gateway made it",
    ),
)

TOLD: Final = (
    rows(
        "payment_gateway.outcomes",
        "one more, above the payment's version",
        (
            "payment_gateway",
            """INSERT INTO outcomes (payment_id, version, message_id, exchange, routing_key, type, correlation_id, body)
               SELECT payment_id, 99, $sent(nobody), exchange, routing_key, type, correlation_id, convert_to(replace(replace(
                   convert_from(body, 'UTF8'), message_id::text, $sent(nobody)), '"version":' || version, '"version":99'), 'UTF8')
               FROM outcomes WHERE payment_id = $payment(declined)""",
        ),
        red=(OUTCOMES, BY_COMMANDS, DELIVERED),
        why="nobody received that message, and its id is not derived from its version",
    ),
    *(
        rows("payment_gateway.attempts", how, ("payment_gateway", _ANSWER.format(story, step, answer)), red=(EVIDENCE,))
        for how, story, step, answer in (
            ("the gateway answered that a declined one is captured", "declined", "inquire", "captured"),
            ("the gateway gave money back, and nobody was told", "paid", "refund", "refunded"),
        )
    ),
    *(
        rows(
            "payment_gateway.attempts",
            f"the {step}'s attempt deleted",
            ("payment_gateway", f"DELETE FROM attempts WHERE payment_id = $payment({story}) AND step = '{step}'"),
            red=red,
            why="its id at the gateway comes from nowhere, and was confirmed" if len(red) > 1 else "",
        )
        for story, step, red in (("declined", "cancel", (EVIDENCE,)), ("paid", "prepare", (EVIDENCE, CONFIRMED)))
    ),
    change("payment_gateway.attempts.answer", "'declined:expired_card'", of("declined", "step = 'execute'"), EVIDENCE),
    change(
        "payment_gateway.attempts.idempotency_key", "'k'", of("paid", "step = 'execute'"), CONFIRMED, how="that of none"
    ),
)

REMEMBERED: Final = (
    change("saga.sagas.deadline_s", "NULL", of("waiting"), STEPS, how="it does not wait for its deadline"),
    change("saga.sagas.repeats", "5000", of("waiting"), STEPS),
    change("saga.sagas.payment_version", "0", of("declined"), BY_COMMANDS, how="none"),
    change(
        "saga.sagas.captured_minor",
        "NULL, captured_currency = NULL, receipt_number = NULL",
        of("paid"),
        BY_COMMANDS,
        how="none",
    ),
    change(
        "saga.sagas.failure_outcome",
        "NULL, failure_reason = NULL, failure_advice = NULL",
        of("declined"),
        BY_COMMANDS,
        how="none",
    ),
    change("saga.sagas.failure_reason", "'x'", of("late"), OUTCOMES, how="of a payment that was given back"),
    change("saga.sagas.refunds", "NULL", of("parted"), BY_COMMANDS),
    *(
        change(
            "saga.sagas.refunds",
            f"jsonb_set(refunds, '{{0,{name}}}', '{value}')",
            of("parted"),
            OUTCOMES,
            how=f"{name} {value}",
        )
        for name, value in (
            ("amount_minor", "1"),
            ("asked_minor", "1"),
            ("status", '"asked"'),
            ("version", "99"),
            ("decided_by", '"Eve"'),
        )
    ),
    rows(
        "saga.sagas.updated_at",
        "and its journal deleted, as if it had ended long ago",
        ("saga", "DELETE FROM transitions WHERE payment_id = $payment(paid)"),
        (
            "saga",
            """UPDATE sagas SET journal_from = version + 1, updated_at = now() - interval '500 days' WHERE payment_id = $payment(paid)""",
        ),
        red=(OUTCOMES,),
    ),
)

_RUN = """INSERT INTO replay_runs (no, id, state, step, title, filter, bins, made_by, made_at, started_by, started_at, rate, total, {})
    VALUES (1, $sent(nobody), '{}', 'rest', 'x', '{{}}', '[]', 'Ada', now(), 'Ada', now(), 1, 1, {})"""
_OF_RUN = """INSERT INTO replay_items (run_no, position, letter_id, state, may_charge, first_seen)
    SELECT 1, 1, id, 0, false, now() FROM dead_letters WHERE status = 'open'"""
_PROPOSED = """INSERT INTO proposals (id, payment_id, version, act, asks, proposed_by, via, proposed_at, state)
    SELECT $sent(nobody), payment_id, version, 'resolve', '{}', 'Eve', 'desk', now(), 'open' FROM cases
    WHERE payment_id = $payment(waiting)"""
_AGREED = """INSERT INTO proposals (id, payment_id, version, act, asks, proposed_by, via, proposed_at, state, answered_by, answered_at)
    SELECT id, subject, (details->>'expected_version')::int, 'resolve', '{}', who, 'desk', at, 'agreed', 'Eve', at FROM journal
    WHERE action = 'resolve' AND subject = $payment(decided)"""
SHOWN: Final = (
    change("staff.cases.reason", "'processing'", of("waiting"), OUTCOMES),
    change("staff.cases.version", "version - 1", of("waiting"), OUTCOMES, how="as before"),
    change("staff.cases.attempts_version", "99", of("waiting"), OUTCOMES),
    change("staff.cases.gateway_id", "NULL", of("waiting"), OUTCOMES, how="none"),
    change("staff.cases.decided_by", "'Eve'", of("waiting"), OUTCOMES, how="of one that waits"),
    *(
        change("staff.cases.details", f"jsonb_set(details, '{{{path}}}', '{value}')", of(story), red, how=path)
        for story, path, value, red in (
            ("waiting", "attempts,0,evidence", '"x"', EVIDENCE),
            ("waiting", "attempts,1,answer", '"captured"', EVIDENCE),
            ("waiting", "attempts", "[]", EVIDENCE),
            ("waiting", "gateway", SIDE.strip("'"), OUTCOMES),
            ("waiting", "settled_as", '"captured"', OUTCOMES),
            ("decided", "decided,by", '"Eve"', OUTCOMES),
            ("late", "noted_version", "6", DECIDED),
        )
    ),
    change("staff.cases.noted_at", "now()", of("late"), DECIDED),
    change("staff.cases.contradicted_at", "NULL", of("late"), OUTCOMES),
    change("staff.cases.contradicted_version", "NULL", of("late"), OUTCOMES),
    rows(
        "staff.cases",
        "one lost whose payment is settled",
        ("staff", "DELETE FROM cases WHERE payment_id = $payment(late)"),
        red=(OUTCOMES,),
    ),
    change("staff.payments.status", "'captured'", of("declined"), HEARD),
    change("staff.invoices.status", "'paid'", "invoice_id = $invoice(declined)", HEARD),
    change("staff.invoices.status", "'open'", "invoice_id = $invoice(paid)", HEARD),
    change("staff.messages.type", "15", of("paid", "type = 13"), HEARD),
    change("staff.messages.type", "6", "invoice_id = $invoice(paid) AND type = 3", HEARD),
    member("staff.messages.facts", '{"resolution": "not_charged"}', of("decided", "type = 33"), HEARD),
    change(
        "staff.messages.facts",
        "jsonb_set(facts, '{refund,amount_minor}', '1')",
        of("parted", "facts ? 'refund'"),
        HEARD,
        how="a refund",
    ),
    change(
        "staff.messages.facts",
        "jsonb_set(facts, '{attempts,0,answer}', '\"captured\"')",
        of("waiting", "type = 18"),
        HEARD,
        how="an attempt",
    ),
    rows(
        "staff.proposals.id",
        "one that nobody made, and that keeps others from deciding",
        ("staff", _PROPOSED),
        red=(DECIDED,),
    ),
    rows(
        "staff.proposals.answered_by",
        "a second person agreed to what one person decided",
        ("staff", _AGREED),
        red=(DECIDED,),
    ),
    rows(
        "staff.replay_runs.lease_until",
        "held for years",
        ("staff", _RUN.format("lease_owner, lease_until", "running", "$sent(nobody), now() + interval '9 years'")),
        ("staff", _OF_RUN),
        red=(RUNS,),
    ),
    rows(
        "staff.replay_items.run_no",
        "a letter waits in a run that is over",
        ("staff", _RUN.format("ended_at", "done", "now()")),
        ("staff", _OF_RUN),
        red=(RUNS,),
    ),
    change(
        "staff.dead_letters.event_id",
        "$sent(nobody)",
        "status = 'open'",
        LETTERS,
        DELIVERIES,
        why="its body says another id, and the command that was set aside has no dead letter then",
    ),
    change("staff.dead_letters.amount_minor", "1", "status = 'open'", LETTERS),
    change("staff.dead_letters.may_charge", "false", "status = 'open'", LETTERS),
    change("staff.dead_letters.body_bytes", "1", "status = 'open'", LETTERS),
    change("staff.dead_letters.body", "NULL, withheld = 'erased'", "status = 'open'", LETTERS, how="erased"),
    change(
        "staff.dead_letters.body",
        _SPELT.format("1250", "9950"),
        "status = 'open'",
        DELIVERIES,
        how="another amount",
        seen_in_production=False,
    ),
    rows(
        "staff.dead_letters.status",
        "what a person gave up is open again, and counted so",
        ("staff", "SET LOCAL session_replication_role = origin"),
        (
            "staff",
            "UPDATE dead_letters SET status = 'open', settled_by = NULL, settled_at = NULL WHERE status = 'discarded'",
        ),
        red=(LETTERS, ANSWERED),
        why="the last that somebody did is to give it up, and its sender was answered",
    ),
    rows(
        "invoice.set_aside.command_id",
        "its dead letter lost, and not counted",
        ("staff", "UPDATE dead_letter_groups SET open = 0"),
        ("staff", "DELETE FROM dead_letters WHERE status = 'open'"),
        red=(DELIVERIES, ANSWERED),
        why="it was set aside and sent, and has no answer",
    ),
    rows(
        "staff.dead_letters.settled_by",
        "discarded with an entry in the journal, and never answered",
        ("staff", "SET LOCAL session_replication_role = origin"),
        (
            "staff",
            """INSERT INTO journal (id, at, who, action, subject, details)
               SELECT $sent(nobody), now(), 'Eve', 'discard', id, '{}' FROM dead_letters WHERE status = 'open'""",
        ),
        (
            "staff",
            "UPDATE dead_letters SET status = 'discarded', settled_by = 'Eve', settled_at = now() WHERE status = 'open'",
        ),
        red=(DELIVERIES, ANSWERED),
        why="it was set aside and sent, and has no answer",
    ),
)

EVERYWHERE: Final = (
    rows(
        "ledger.charges.id",
        "the receipt, everywhere but at the gateway",
        ("payment_gateway", "UPDATE payments SET receipt_number = 'ch_x' WHERE payment_id = $payment(paid)"),
        (
            "payment_gateway",
            """UPDATE outcomes SET body = convert_to(replace(convert_from(body, 'UTF8'), $charge(paid), 'ch_x'), 'UTF8')
               WHERE payment_id = $payment(paid)""",
        ),
        ("invoice", "UPDATE invoices SET receipt_number = 'ch_x' WHERE invoice_id = $invoice(paid)"),
        (
            "invoice",
            """UPDATE events SET data = data || '{"receipt_number": "ch_x"}' WHERE stream_id = $invoice(paid) AND version = 3""",
        ),
        ("saga", "UPDATE sagas SET receipt_number = 'ch_x' WHERE payment_id = $payment(paid)"),
        ("staff", "UPDATE payments SET receipt_number = 'ch_x' WHERE payment_id = $payment(paid)"),
        (
            "staff",
            """UPDATE messages SET facts = facts || '{"receipt_number": "ch_x"}'
               WHERE payment_id = $payment(paid) AND facts ? 'receipt_number'""",
        ),
        red=(HERE_AND_THERE, DELIVERED),
        seen_in_production=False,
        why="the listener received other bytes",
    ),
    change(
        "ledger.charges.amount",
        "99",
        "id = $charge(paid)",
        ONCE,
        BALANCE,
        SETTLED,
        seen_in_production=False,
        why="all that is paid is compared with it",
    ),
    change(
        "ledger.charges.currency",
        "'usd'",
        "id = $charge(paid)",
        ONCE,
        BALANCE,
        seen_in_production=False,
        why="all that is paid is compared with it",
    ),
    change("ledger.charges.payment_method", "'pm_x'", "id = $charge(paid)", ONCE, seen_in_production=False),
    rows(
        "ledger.charges",
        "a charge lost",
        ("ledger", "DELETE FROM charges WHERE id = $charge(paid)"),
        red=(HERE_AND_THERE, BALANCE),
        seen_in_production=False,
        why="all that is paid is compared with it",
    ),
)

_UNHEARD = "DELETE FROM inbox WHERE message_id IN (SELECT message_id FROM inbox ORDER BY handled_at LIMIT 1)"
_LEFT = """INSERT INTO outbox (id, ids, exchanges, routing_keys, types, correlation_ids, content_types, headers, droppable, bodies,
        message_ids, reply_tos, created_at, sweep_after, refusals)
    VALUES ($sent(nobody), ARRAY[$sent(nobody)::uuid], '{e}', '{k}', '{t}', '{c}', '{c}', ARRAY['{}'::jsonb], '{false}', '{""}', '{NULL}',
        '{NULL}', now(), now(), 0)"""
_ASKED = "action = 'ask'"
REST: Final = (
    change("invoice.answers.correlation_id", "'other'", "command_id = $kept(pay paid)", BY_COMMANDS),
    change("invoice.events.correlation_id", "'other'", event("paid", 1), BY_COMMANDS),
    change("invoice.events.recorded_at", "recorded_at + interval '1 s'", event("paid", 3), HEARD),
    change(
        "invoice.events.stream_id",
        "'INV-other'",
        event("void", 2),
        BY_COMMANDS,
        FOLDED,
        why="nothing came of the command then",
    ),
    change(
        "invoice.events.cause_position",
        "1",
        event("paid", 3),
        BY_COMMANDS,
        DELIVERED,
        why="the saga's step has no cause then, and the event was heard by nobody",
    ),
    change("invoice.invoices.invoice_id", "'INV-other'", "invoice_id = $invoice(void)", FOLDED),
    change("invoice.refunds.invoice_id", "$invoice(paid)", "invoice_id = $invoice(parted)", FOLDED),
    change("invoice.refunds.refund_id", "$sent(nobody)", "invoice_id = $invoice(parted)", FOLDED),
    *(
        rows(f"{service}.inbox.message_id", "one forgotten", (service, _UNHEARD), red=red, why=why)
        for service, red, why in (
            ("invoice", (DELIVERIES,), ""),
            ("payment_gateway", (DELIVERIES, DELIVERED), "the request was never handled then"),
            ("saga", (DELIVERIES, DELIVERED), "the outcome was never handled then"),
            ("staff", (DELIVERIES, DELIVERED), "the outcome was never handled then"),
        )
    ),
    *(
        rows(f"{service}.outbox", "a message that was never sent", (service, _LEFT), red=(DELIVERED,))
        for service in ("invoice", "payment_gateway", "saga", "staff")
    ),
    change(
        "payment_gateway.decisions.payment_id",
        "$payment(paid)",
        of("decided"),
        DECIDED,
        EVIDENCE,
        PAID,
        why="the payment that it decided has none then",
    ),
    change(
        "payment_gateway.payments.payment_id",
        "$sent(nobody)",
        of("declined"),
        OUTCOMES,
        BY_COMMANDS,
        PAID,
        CONFIRMED,
        EVIDENCE,
        why="what is known of it has no row then, and the row nothing",
    ),
    change(
        "payment_gateway.refunds.payment_id",
        "$payment(paid)",
        of("parted"),
        ONCE,
        PAID,
        SETTLED,
        OUTCOMES,
        why="its payment has no refund then, and another one has",
    ),
    change(
        "payment_gateway.refunds.refund_id",
        "$sent(nobody)",
        of("parted"),
        ONCE,
        PAID,
        OUTCOMES,
        why="its outcome, the gateway and the invoice know another",
    ),
    change("payment_gateway.refunds.reason", "'other'", of("parted"), PAID),
    change("payment_gateway.refunds.asked_minor", "1", of("parted"), PAID),
    change(
        "payment_gateway.refunds.by_hand_minor",
        "99",
        of("parted"),
        ONCE,
        BALANCE,
        OUTCOMES,
        why="the gateway's books balance without it, and its outcome knows how much was given back",
    ),
    change(
        "payment_gateway.refunds.made_elsewhere",
        "true",
        of("parted"),
        ONCE,
        BALANCE,
        OUTCOMES,
        why="the gateway's books tell whether it gave the money back, and nobody said otherwise",
    ),
    change(
        "payment_gateway.refunds.gateway_id",
        "'re_x'",
        of("parted"),
        ONCE,
        OUTCOMES,
        why="the gateway and its outcome know another",
    ),
    change("saga.transitions.fact", "'NotCharged'", of("declined", "version = 1"), BY_COMMANDS),
    change(
        "saga.transitions.payment_id",
        "$sent(nobody)",
        of("declined", "version = 1"),
        BY_COMMANDS,
        STEPS,
        why="its saga has a gap, and the step no cause",
    ),
    change("saga.sagas.deadline", "9", of("waiting"), STEPS),
    change("saga.deadlines.number", "9", of("waiting"), STEPS),
    change("saga.deadlines.payment_id", "$payment(paid)", of("waiting"), STEPS),
    change("saga.deadlines.fired_at", "now()", of("waiting"), STEPS),
    change(
        "staff.cases.payment_id",
        "$sent(nobody)",
        of("waiting"),
        ACCOUNTED,
        STEPS,
        OUTCOMES,
        why="it is a case without a payment, and of the payment nobody is asked",
    ),
    change("staff.cases.decided_by", "'Eve'", of("decided"), OUTCOMES),
    change("staff.commands.invoice_id", "$invoice(paid)", "command_id = $sent(pay void)", HEARD),
    change("staff.messages.at", "at + interval '1 s'", of("paid", "type = 13"), HEARD),
    change("staff.messages.cause", "$sent(nobody)", of("paid", "type = 13"), HEARD),
    change(
        "staff.dead_letters.settled_at",
        "NULL",
        "status = 'discarded'",
        LETTERS,
        DELIVERIES,
        why="the journal says when",
    ),
    change(
        "staff.dead_letters.queue",
        "'saga.events'",
        "status = 'open'",
        ANSWERED,
        DELIVERIES,
        LETTERS,
        why="the command has no dead letter then, and its group one more than there are",
    ),
    *(
        change(f"staff.dead_letter_groups.{column}", value, "open = 1", LETTERS)
        for column, value in (
            ("grp", "'x'"),
            ("queue", "'x'"),
            ("type", "'x'"),
            ("reason", "'x'"),
            ("error_type", "'x'"),
            ("open", "2"),
            ("replayed", "2"),
            ("discarded", "2"),
        )
    ),
    change("staff.journal.who", "'Eve'", _ASKED, JOURNAL),
    member("staff.journal.details", '{"version": 1}', _ASKED, JOURNAL),
    change("staff.journal.at", "at + interval '1 s'", _ASKED, JOURNAL),
    change("staff.journal.action", "'claim'", _ASKED, JOURNAL),
    change("staff.journal.subject", "$payment(paid)", _ASKED, JOURNAL),
    change(
        "staff.journal.id",
        "$sent(nobody)",
        _ASKED,
        JOURNAL,
        DELIVERIES,
        why="the message that follows from it has another id then",
    ),
    change("staff.journal.position", "position + 90", _ASKED, JOURNAL),
    change("staff.journal.digest", "sha256('x')", _ASKED, JOURNAL),
    change("staff.journal.hash", "sha256('x')", _ASKED, JOURNAL),
    change("staff.journal.salt", "sha256('x')", _ASKED, JOURNAL),
    rows(
        "staff.seals.hash",
        "a seal of another journal",
        ("staff", "INSERT INTO seals (position, hash, at) VALUES (1, sha256('x'), now())"),
        red=(JOURNAL,),
    ),
)

_LAST_SEAL = "number = (SELECT max(number) FROM seals)"
_BACKDATED = """INSERT INTO answers (command_id, command_type, invoice_id, answer, correlation_id, sender, sent_id, written_in)
    VALUES ($kept(nobody), 'remit.invoice.RefundInvoice.v1', $invoice(parted), 'accepted', 'c', 'upstream', $sent(nobody), 0)"""
_NEW_TRACE = "UPDATE events SET traceparent = '00-1' WHERE stream_id = $invoice(paid) AND version = 1"

SEALS: Final = (
    change("invoice.answers.detail", "'another sentence'", "command_id = $kept(pay void)"),
    change("invoice.answers.answered_at", "answered_at + interval '1 day'", "command_id = $kept(pay paid)"),
    change("invoice.answers.written_in", "written_in + 1000", "command_id = $kept(pay paid)"),
    change("invoice.events.traceparent", "'00-1'", event("paid", 1)),
    change("invoice.events.written_in", "written_in + 1000000", event("paid", 1)),
    rows(
        "invoice.answers.written_in",
        "an answer that nobody asked for, of before there were seals",
        ("invoice", _BACKDATED),
        red=(ANSWERED, SEALED),
        why="the history does not know it, and it is one row more than there was",
    ),
    change("payment_gateway.decisions.decided_at", "decided_at - interval '1 day'", of("decided")),
    change("payment_gateway.decisions.written_in", "written_in + 1000", of("decided")),
    change("payment_gateway.outcomes.recorded_at", "recorded_at - interval '1 day'", of("paid")),
    change("payment_gateway.outcomes.written_in", "written_in + 1000", of("paid")),
    *(
        change(f"{service}.seals.{column}", value, "number = 1" if column == "number" else _LAST_SEAL, SEALED)
        for service in ("invoice", "payment_gateway")
        for column, value in (
            ("number", "number + 1000"),
            ("from_tx", "from_tx + 1"),
            ("until_tx", "until_tx + 1"),
            ("row_count", "row_count + 1"),
            ("salt", "sha256(salt)"),
            ("digest", "sha256(digest)"),
            ("hash", "sha256(hash)"),
            ("at", "at - interval '1 second'"),
        )
    ),
    change(
        "invoice.seals.book",
        "'events', from_tx = from_tx + 1000000, until_tx = until_tx + 1000000",
        "book = 'answers' AND row_count > 0",
        SEALED,
    ),
    change(
        "payment_gateway.seals.book",
        "'outcomes', from_tx = from_tx + 1000000, until_tx = until_tx + 1000000",
        "book = 'decisions' AND row_count > 0",
        SEALED,
    ),
    *(
        rows(
            f"{service}.seals.{column}",
            "sealed again as after a purge that nobody tells of",
            (
                service,
                f"""UPDATE seals SET salt = NULL, left_salt = salt, left_digest = digest WHERE {_LAST_SEAL}""",
            ),
            red=(SEALED,),
        )
        for service in ("invoice", "payment_gateway")
        for column in ("left_salt", "left_digest")
    ),
    rows("invoice.seals", "a seal is taken out", ("invoice", "DELETE FROM seals WHERE number = 3"), red=(SEALED,)),
    *(
        rows(
            f"{service}.seal_numbering.ahead",
            "transactions that wrote rows are yet to come",
            (service, "INSERT INTO seal_numbering (ahead) VALUES (-1000000000)"),
            red=(SEALED,),
        )
        for service in ("invoice", "payment_gateway")
    ),
    rows(
        "invoice.seals",
        "an event is changed, and the seals from there on are taken out",
        ("invoice", _NEW_TRACE),
        ("invoice", "DELETE FROM seals WHERE number > 1"),
        red=(SEALED,),
        seen_in_production=False,
    ),
)

_SPARE = """INSERT INTO deadlines (id, payment_id, number, correlation_id, due_at)
    VALUES ($sent(nobody), {}, 9, 'c', now() + interval '1 hour')"""
_ONE_MORE = """refunds || jsonb_set(refunds->0 || '{"status": "asked"}', '{refund_id}', '"00000000-0000-0000-0000-000000000009"')"""
_OPEN = "status = 'open'"
MORE: Final = (
    change("saga.transitions.fact", "'Sold'", of("paid", "version = 2"), BY_COMMANDS, how="none that there is"),
    change(
        "saga.transitions.fact",
        "'SettlementRejected'",
        of("paid", "fact = 'Paid'"),
        BY_COMMANDS,
        how="another than its invoice told",
    ),
    *(
        rows("saga.deadlines.payment_id", f"one that waits {how}", ("saga", _SPARE.format(whose)), red=(STEPS,))
        for how, whose in (("for nobody", "$sent(nobody)"), ("for a saga that has ended", "$payment(paid)"))
    ),
    change("saga.sagas.refunds", _ONE_MORE, of("parted"), OUTCOMES, how="one more, that nobody asked for"),
    change(
        "saga.sagas.refunds",
        "jsonb_set(refunds, '{0,reason}', '\"gift\"')",
        of("parted"),
        OUTCOMES,
        how="for another reason",
    ),
    rows(
        "payment_gateway.attempts.payment_id",
        "an answer about a payment that nobody knows",
        ("payment_gateway", _ANSWER.replace("$payment({0})", "$sent(nobody)").format("", "execute", "captured")),
        red=(EVIDENCE,),
    ),
    change(
        "payment_gateway.attempts.at",
        "at + interval '9 years', recorded_at = recorded_at + interval '9 years'",
        of("paid", "step = 'execute'"),
        EVIDENCE,
        how="years ahead",
    ),
    change(
        "payment_gateway.attempts.recorded_at",
        "recorded_at - interval '9 years'",
        of("paid", "step = 'execute'"),
        EVIDENCE,
        how="years before it came",
    ),
    change("staff.messages.invoice_id", "$invoice(void)", of("paid", "type = 13"), HEARD),
    change("staff.payments.version", "99", of("paid"), HEARD, how="of which staff never heard"),
    change("staff.payments.version", "1, status = 'requested'", of("declined"), HEARD, how="as before it ended"),
    member("staff.cases.details", '{"found_captured": "x"}', of("waiting"), BODIES),
    change("staff.dead_letters.seen", "0", _OPEN, LETTERS),
    change("staff.dead_letters.replays", "5", _OPEN, LETTERS),
    change("staff.dead_letters.outcome", "'handled', outcome_at = now()", _OPEN, LETTERS, how="of no replay"),
    change("staff.dead_letters.first_seen", "now() + interval '9 years'", _OPEN, LETTERS),
    change("staff.dead_letters.last_seen", "now() + interval '9 years'", _OPEN, LETTERS),
    rows(
        "staff.journal.at",
        "an entry of years to come",
        ("staff", "SET LOCAL session_replication_role = origin"),
        (
            "staff",
            """INSERT INTO journal (id, at, who, action, subject, details)
               VALUES ($sent(nobody), now() + interval '9 years', 'Eve', 'claim', $payment(late), '{}')""",
        ),
        red=(JOURNAL,),
    ),
    change(
        "payment_gateway.outcomes.body",
        _SPELT.format("INV-paid", "INV-void"),
        of("paid"),
        HEARD,
        DELIVERED,
        how="another invoice",
        why="staff heard it of its invoice, and other bytes were delivered",
    ),
    rows(
        "invoice.events",
        "an invoice that nobody issued",
        (
            "invoice",
            """INSERT INTO events (stream_id, version, type, data, cause_id, cause_position, correlation_id, recorded_at, owner)
               SELECT 'INV-new', 1, type, data, $sent(nobody), 0, 'c', recorded_at, owner FROM events
               WHERE stream_id = $invoice(paid) AND version = 1""",
        ),
        (
            "invoice",
            """INSERT INTO invoices SELECT (jsonb_populate_record(
                   i, '{"invoice_id": "INV-new", "status": "open", "version": 1, "payment_id": null, "receipt_number": null}')).*
               FROM invoices i WHERE invoice_id = $invoice(paid)""",
        ),
        red=(BY_COMMANDS,),
    ),
    *(
        rows(
            "payment_gateway.decisions",
            f"one more, that {how}",
            (
                "payment_gateway",
                f"""INSERT INTO decisions (message_id, payment_id, resolution, expected_version, evidence, decided_by, reason, refusal)
                    VALUES ($sent(nobody), $payment(paid), 'not_charged', 1, 'e', 'Eve', 'r', {refusal})""",
            ),
            red=(DECIDED,),
        )
        for how, refusal in (("nobody made", "NULL"), ("was refused", "'version_differs'"))
    ),
)

ROWS_OF_PAYMENTS: Final = (
    *(
        change(f"payment_gateway.payments.{column}", "'x'", of(story), OUTCOMES, how=f"of the payment {story}")
        for column in ("reason", "advice")
        for story in ("paid", "late", "parted")
    ),
    change("payment_gateway.payments.advice", "'try_again_later'", of("waiting"), OUTCOMES, how="of a case"),
    change("payment_gateway.payments.was_case", "false", of("decided"), OUTCOMES, how="of one that a person decided"),
    change("payment_gateway.payments.was_case", "false", of("late"), OUTCOMES, how="of one that was given back"),
    *(
        change("payment_gateway.payments.settled_as", "NULL", of(story), OUTCOMES, how=f"of the payment {story}")
        for story in ("parted", "late")
    ),
    *(
        change("payment_gateway.refunds.gateway_id", "NULL", of(story), OUTCOMES, how=f"of the payment {story}")
        for story in ("parted", "late")
    ),
    change("payment_gateway.payments.method_token", "NULL", of("declined"), ONCE, how="none"),
    change("payment_gateway.payments.due_at", "NULL", of("waiting"), ACCOUNTED, how="of a case"),
    *(
        change(
            "payment_gateway.attempts.idempotency_key",
            "NULL",
            of("parted", f"step = '{step}'"),
            CONFIRMED,
            how=f"{step} without",
        )
        for step in ("prepare", "execute", "refund")
    ),
    rows(
        "payment_gateway.payments.amount_minor",
        "none, of one that is captured",
        ("payment_gateway", "UPDATE payments SET amount_minor = NULL WHERE payment_id = $payment(paid)"),
        red=(ONCE, OUTCOMES, SETTLED, HEARD),
        why="its outcome, its invoice and staff know the amount, and the gateway took it",
    ),
)

SAGAS_REMEMBER: Final = (
    *(
        change(f"saga.sagas.{column}", f"NOT {column}", of(story), BY_COMMANDS, how=f"of the payment {story}")
        for column in ("failure_recorded", "flagged")
        for story in ("paid", "declined", "waiting", "late")
    ),
    *(
        change(f"saga.sagas.{column}", "'x'", of(story), OUTCOMES, how=f"of the payment {story}, which has none")
        for column, story in (
            ("captured_currency", "waiting"),
            ("receipt_number", "declined"),
            ("failure_reason", "paid"),
            ("failure_advice", "paid"),
        )
    ),
)

CASES: Final = (
    change("staff.cases.attempts_version", "0", of("waiting"), OUTCOMES, how="none"),
    *(
        change(f"staff.cases.{column}", value, of(story), OUTCOMES, how=f"{value} of the payment {story}")
        for column, value in (("contradicted_version", "1"), ("contradicted_at", "now()"))
        for story in ("waiting", "decided")
    ),
    *(
        change(f"staff.cases.{column}", "NULL", of(story), OUTCOMES, how=f"none of the payment {story}")
        for column in ("amount_minor", "currency", "gateway_id")
        for story in ("decided", "late")
    ),
    *(
        change(f"staff.cases.{column}", value, of("parted"), OUTCOMES, how=f"{value} of one that shows nothing yet")
        for column, value in (("status", "'captured'"), ("version", "1"), ("reason", "'x'"), ("decided_by", "'Eve'"))
    ),
    change("staff.cases.claimed_by", "'Eve', claimed_at = now()", of("waiting"), DECIDED),
)

_PUT_IN = """INSERT INTO {} SELECT (jsonb_populate_record(r, jsonb_build_object({}))).* FROM {} r WHERE {}"""
_PERSON = "name = 'Grace'"
PEOPLE: Final = (
    rows(
        "staff.people.id",
        "somebody whom nobody let in",
        ("staff", _PUT_IN.format("people", "'id', $sent(nobody), 'name', 'Eve'", "people", _PERSON)),
        red=(DECIDED,),
    ),
    rows("staff.people", "somebody who is gone", ("staff", f"DELETE FROM people WHERE {_PERSON}"), red=(DECIDED,)),
    change("staff.people.roles", "ARRAY['viewer', 'resolver', 'admin']", _PERSON, DECIDED),
    change("staff.people.name", "'Eve'", _PERSON, DECIDED),
    change("staff.people.active", "true", "name = 'Alan'", DECIDED),
    rows(
        "staff.tokens.id",
        "one that nobody made",
        (
            "staff",
            _PUT_IN.format("tokens", "'id', $sent(nobody), 'name', 'eve', 'hash', 'x'", "tokens", "name LIKE '%Grace'"),
        ),
        red=(DECIDED,),
    ),
    change("staff.tokens.roles", "ARRAY['admin']", "name LIKE '%Grace'", DECIDED),
    change("staff.tokens.name", "'eve'", "name LIKE '%Grace'", DECIDED),
    change("staff.tokens.ends_at", "ends_at + interval '9 years'", "name LIKE '%Grace'", DECIDED),
    change("staff.tokens.revoked_at", "NULL", "name LIKE '%Alan'", DECIDED),
    change("staff.settings.value", "'true'", "true", DECIDED),
    change("staff.settings.name", "'other'", "true", DECIDED),
)

FALSIFICATIONS: Final = (
    *ANSWERS,
    *EVENTS,
    *PAYMENTS,
    *OUTCOME_ROWS,
    *RECORDS,
    *SAGAS,
    *STAFF,
    *WATCHED,
    *TOLD,
    *REMEMBERED,
    *SHOWN,
    *EVERYWHERE,
    *REST,
    *SEALS,
    *MORE,
    *ROWS_OF_PAYMENTS,
    *CASES,
    *SAGAS_REMEMBER,
    *PEOPLE,
)


def unseen(of: str, how: str, *statements: tuple[str, str], why: str) -> Falsification:
    """What breaks nothing. `why` nobody could tell, or what comes of it."""
    return Falsification(of, how, frozenset(), statements, seen_in_production=False, why=why)


def _letter(column: str, value: str, why: str) -> Falsification:
    statement = f"UPDATE dead_letters SET {column} = {value} WHERE status = 'open'"
    return unseen(f"staff.dead_letters.{column}", value, ("staff", statement), why=why)


_NAMELESS = """INSERT INTO answers (command_id, command_type, invoice_id, answer, correlation_id)
    VALUES ($sent(nobody), 'remit.invoice.RefundInvoice.v1', $invoice(parted), 'accepted', 'c')"""
_REFUND_OF = "payment_id = $payment({}) AND step = 'refund'"
NOT_SEEN: Final = (
    unseen(
        "payment_gateway.attempts",
        "the refund's attempt deleted",
        ("payment_gateway", f"DELETE FROM attempts WHERE {_REFUND_OF.format('parted')}"),
        why="a refund of which we lost the record is found in the gateway's list, and the answer to that says that there is no other",
    ),
    unseen(
        "payment_gateway.attempts.at",
        "the times of two answers exchanged",
        (
            "payment_gateway",
            """UPDATE attempts a SET at = o.at FROM attempts o WHERE a.step = 'execute' AND o.step = 'execute'
               AND (a.payment_id, o.payment_id) IN (($payment(paid), $payment(carded)), ($payment(carded), $payment(paid)))""",
        ),
        why="instances have clocks of their own",
    ),
    unseen(
        "payment_gateway.payments.refund_id",
        "gone",
        ("payment_gateway", "UPDATE payments SET refund_id = NULL WHERE payment_id = $payment(late)"),
        why="a refund that is found at the gateway is not noted there; each refund has its own, which is compared",
    ),
    unseen(
        "payment_gateway.payments.params_hash",
        "another hash",
        ("payment_gateway", "UPDATE payments SET params_hash = sha256(params_hash) WHERE payment_id = $payment(paid)"),
        why="of what the request said, some of which is kept nowhere; one that comes again would be a dead letter",
    ),
    unseen(
        "payment_gateway.payments.rung",
        "one more",
        ("payment_gateway", "UPDATE payments SET rung = rung + 1 WHERE payment_id = $payment(waiting)"),
        why="how often the gateway was asked of late; looks that do not count are not in it",
    ),
    unseen(
        "payment_gateway.payments.fence",
        "a later one",
        ("payment_gateway", "UPDATE payments SET fence = fence + 1 WHERE payment_id = $payment(paid)"),
        why="it grows with each lease, also with one that ends without an answer",
    ),
    unseen(
        "payment_gateway.payments.was_case",
        "of one that never was",
        ("payment_gateway", "UPDATE payments SET was_case = true WHERE payment_id = $payment(paid)"),
        why="so it is after a person had the gateway asked; staff hear more then, and not less",
    ),
    unseen(
        "payment_gateway.refunds.reason",
        "of the saga's",
        ("payment_gateway", "UPDATE refunds SET reason = 'x' WHERE payment_id = $payment(late)"),
        why="a sentence for whoever reads; what may be asked for again with other words is still the one refund",
    ),
    unseen(
        "saga.deadlines",
        "of a saga that has ended",
        ("saga", "DELETE FROM deadlines WHERE payment_id = $payment(declined)"),
        why="it would do nothing when it fires, and is deleted then",
    ),
    unseen(
        "saga.deadlines.due_at",
        "one that was due years ago",
        ("saga", "UPDATE deadlines SET due_at = now() - interval '9 years' WHERE payment_id = $payment(waiting)"),
        why="so it is in a system that stood still; it fires as soon as the service is there, and only asks again",
    ),
    unseen(
        "saga.sagas.repeats",
        "counted anew",
        ("saga", "UPDATE sagas SET repeats = 0 WHERE payment_id = $payment(waiting)"),
        why="how often something was said again, which decides only when that ends",
    ),
    unseen(
        "staff.cases",
        "one that shows nothing yet is lost",
        ("staff", "DELETE FROM cases WHERE payment_id = $payment(parted)"),
        why="its invoice told staff of a refund that was asked for; what was not heard is not judged",
    ),
    unseen(
        "staff.messages.type",
        "none that there is",
        ("staff", "UPDATE messages SET type = 0 WHERE payment_id = $payment(paid) AND type = 13"),
        why="it is as if staff had not heard it",
    ),
    unseen(
        "staff.payments.amount_minor",
        "none",
        ("staff", "UPDATE payments SET amount_minor = NULL WHERE payment_id = $payment(paid)"),
        why="as a message that staff did not hear",
    ),
    unseen(
        "staff.people.password",
        "that of somebody else",
        ("staff", "UPDATE people SET password = 'x' WHERE name = 'Grace'"),
        why="a hash that nobody else has; whoever signs in with it is in the journal",
    ),
    unseen(
        "invoice.answers",
        "a refund accepted again, of a sender without a name",
        ("invoice", _NAMELESS),
        why="nothing says whose it is, and so whose history should know it; nothing comes of it",
    ),
    unseen(
        "invoice.answers.content_hash",
        "another hash",
        ("invoice", "UPDATE answers SET content_hash = sha256(content_hash) WHERE command_id = $kept(pay paid)"),
        why="what the command said stands in no other place; one that comes again would hear that its id was used before",
    ),
    unseen(
        "invoice.payments.method",
        "more than the token",
        (
            "invoice",
            """UPDATE payments SET method = method || '{"customer": "cus_x"}' WHERE payment_id = $payment(waiting)""",
        ),
        why="events keep the token or a fingerprint alone; announced again with it, the request is a dead letter",
    ),
    unseen(
        "payment_gateway.attempts.evidence",
        "of an answer that no outcome tells",
        (
            "payment_gateway",
            "UPDATE attempts SET evidence = 'x' WHERE payment_id = $payment(paid) AND step = 'execute'",
        ),
        why="where all went well nobody is shown the answers, and the gateway alone has its own",
    ),
    unseen(
        "payment_gateway.attempts.answer",
        "one that moves no money, put in",
        ("payment_gateway", _ANSWER.format("paid", "execute", "declined:x")),
        why="a gateway may answer so before it answers otherwise; whether an answer has its outcome is looked at where money moves",
    ),
    unseen(
        "payment_gateway.payments.due_at",
        "no more looks at a refund",
        ("payment_gateway", "UPDATE payments SET due_at = NULL WHERE payment_id = $payment(parted)"),
        why="how often the gateway is asked about what it has said itself is a setting; what it says is compared with its books",
    ),
    unseen(
        "payment_gateway.payments.pending_status",
        "an outcome that no answer prepared",
        (
            "payment_gateway",
            "UPDATE payments SET pending_status = 'declined', pending_reason = 'x' WHERE payment_id = $payment(waiting)",
        ),
        why="it counts only once the gateway confirms a cancel, and then an outcome tells it, which needs an answer that says so",
    ),
    unseen(
        "payment_gateway.attempts",
        "a capture answered twice",
        ("payment_gateway", _ANSWER.format("paid", "execute", "captured")),
        why="a call that is repeated with its idempotency key is answered so; the ledger tells how often money moved",
    ),
    unseen(
        "payment_gateway.attempts.at",
        "the cancel an hour before what it cancels",
        (
            "payment_gateway",
            "UPDATE attempts SET at = at - interval '1 hour' WHERE payment_id = $payment(declined) AND step = 'cancel'",
        ),
        why="instances have clocks of their own",
    ),
    unseen(
        "payment_gateway.payments.due_at",
        "a look that was due years ago",
        (
            "payment_gateway",
            "UPDATE payments SET due_at = now() - interval '9 years' WHERE payment_id = $payment(declined)",
        ),
        why="so it is in a system that stood still; it is made as soon as the service is there",
    ),
    unseen(
        "staff.messages",
        "an outcome of which the payment gateway service knows nothing",
        (
            "staff",
            """INSERT INTO messages SELECT $sent(nobody), at, 15, invoice_id, payment_id, cause, '{}' FROM messages
               WHERE payment_id = $payment(paid) AND type = 13""",
        ),
        why="a database that failed over may have lost its last commits, of which others have heard",
    ),
    unseen(
        "staff.payments",
        "one that was never requested",
        ("staff", _PUT_IN.format("payments", "'payment_id', $sent(nobody)", "payments", "payment_id = $payment(paid)")),
        why="as an outcome that is only heard",
    ),
    unseen(
        "staff.invoices",
        "one that was never issued",
        ("staff", _PUT_IN.format("invoices", "'invoice_id', 'INV-new'", "invoices", "invoice_id = $invoice(paid)")),
        why="as an outcome that is only heard",
    ),
    unseen(
        "staff.commands",
        "one that was never sent",
        (
            "staff",
            "INSERT INTO commands VALUES ($sent(nobody), 'remit.invoice.PayInvoice.v1', $invoice(paid), 'accepted', NULL, now())",
        ),
        why="as an outcome that is only heard",
    ),
    unseen(
        "staff.journal",
        "an entry of something that nobody did",
        ("staff", "SET LOCAL session_replication_role = origin"),
        (
            "staff",
            """INSERT INTO journal (id, at, who, action, subject, details)
               VALUES ($sent(nobody), now(), 'Eve', 'take_note', $payment(late), '{}')""",
        ),
        why="whoever may write can act as well; what should follow from an entry is looked for where something does",
    ),
    _letter(
        "reply_to", "'elsewhere'", "the broker alone had it; the answer is stored, and found by whoever asks for it"
    ),
    _letter("headers", '\'{"ce-id": "x"}\'', "the broker alone had them"),
    _letter("content_type", "'text/plain'", "the broker alone had it; a replay would come back as a dead letter"),
    unseen(
        "staff.journal",
        "its last entry, which no head has seen",
        ("staff", "DELETE FROM journal WHERE position = (SELECT max(position) FROM journal) AND action = 'ask'"),
        why="nothing but the chain proves an entry until a minute later, when its head is logged; nothing came of this one",
    ),
    unseen(
        "staff.second_person_limits.above_minor",
        "nobody needs a second person",
        ("staff", "UPDATE second_person_limits SET above_minor = 99999999"),
        why="it is a setting of the staff service, which writes it again within a minute, and logs that",
    ),
)
"""Falsifications of what is looked at, in a way that nothing else tells of."""

NO_TRUTH_ELSEWHERE: Final = {
    "*.outbox.*": "the table is empty in finished books: whatever is in it is found",
    "*.inbox.handled_at": "only says when an id may be deleted",
    "invoice.refunds.announced_at": "as that of payments: one that lies years ahead would be found, and none of these waits",
    "invoice.refunds.announced": "as `announced_at`",
    "*.*.updated_at": "only says how long ago a row was written: a younger one is judged later in a live system, one that is to come now",
    "*.*.traceparent": "leads to a trace, which is kept elsewhere for a short time",
    "invoice.answers.content_hash": "tells a repeated command from another one; its content is kept nowhere",
    "invoice.answers.outline_hash": "as `content_hash`",
    "invoice.set_aside.*": "why and when, so that a sender can be told that there is no answer yet",
    "invoice.sender_tokens.*": "by which a sender asks over HTTP; a hash of a random value, and a name",
    "payment_gateway.attempts.fence": "which lease asked; a lease that was lost leaves gaps, and one later than the payment's is found",
    "payment_gateway.attempts.seq": "as `fence`",
    "payment_gateway.payments.requested_at": "NULL, unless it was found late",
    "payment_gateway.payments.pending_status": "what a cancel will make of it; NULL once that was answered",
    "payment_gateway.payments.pending_reason": "as `pending_status`",
    "payment_gateway.payments.pending_advice": "as `pending_status`",
    "payment_gateway.payments.key_number": "the number of the next idempotency key; one that was used is found in the ledger",
    "payment_gateway.payments.correlation_id": "that of whatever moved it last, which may be a refund",
    "payment_gateway.payments.details": "what the gateway is told beside the amount; its books do not show it in a copy",
    "payment_gateway.refunds.position": "the order in which refunds were asked for",
    "payment_gateway.refunds.key_number": "as that of payments",
    "saga.deadlines.id": "derives from payment and number; a message that it causes is looked up by what follows",
    "saga.*.correlation_id": "passed on in messages, of which only hashes are kept elsewhere",
    "saga.sagas.refund_reason": "a sentence that goes along with the refund",
    "saga.transitions.at": "the time at which this service heard it, by its own clock",
    "staff.cases.*": "since when it is a case, who is on it, and how it is correlated",
    "staff.commands.command_id": "a command that staff did not hear is not judged",
    "staff.commands.at": "only says when it may be deleted",
    "staff.dead_letters.*": "what the broker alone had, times, and what became of a replay, to be shown",
    "staff.dead_letter_groups.*": "times and an example, to be shown",
    "staff.instances.*": "what a process said of itself, the last time",
    "staff.invoices.*": "what was heard last; what was not heard is not judged",
    "staff.payments.*": "as those of `invoices`",
    "staff.messages.*": "a message that staff did not hear is not judged",
    "staff.journal_check.*": "how far a look has come; it begins anew each hour",
    "staff.people.password": "a hash that nobody else has; the journal tells who set it, not to what",
    "staff.people.login": "what the provider of single sign-on calls somebody; it asks there whenever somebody signs in",
    "staff.people.preferences": "how somebody wants to see the desk",
    "staff.people.made_at": "to be shown",
    "staff.proposals.*": "each is compared with its entry in the journal; none is among the stories",
    "staff.queues.*": "what the broker said last",
    "staff.replay_items.*": "no replay of many is among the stories; what one sent is compared with the journal",
    "staff.replay_runs.*": "as `replay_items`",
    "staff.requests.*": "clicks of the last day, so that none counts twice",
    "*.seal_numbering.only_row": "there is one row at most",
    "staff.seals.position": "a seal of an entry that is not there is found",
    "staff.seals.at": "when a seal was made",
    "staff.second_person_limits.*": "settings of the staff service, which writes them again within a minute, and logs that",
    "staff.settings.at": "to be shown; the journal has each change",
    "staff.settings.who": "as `at`",
    "staff.sessions.*": "who is signed in",
    "staff.sign_ins.*": "a sign-in that is under way",
    "staff.tokens.hash": "of a random value that its program alone has",
    "staff.tokens.made_at": "to be shown",
    "staff.tokens.used_at": "to be shown",
}
"""Columns, as `database.table.column` with `*` for any name, that nothing else tells of or that say nothing about money or answers, and
why."""
