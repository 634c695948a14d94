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
SEALED = "books_sealed"
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
    change("invoice.invoices.status", "'open'", "invoice_id = $invoice(void)", FOLDED),
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
    change("invoice.payments.version", "1", of("paid"), FOLDED),
    change("invoice.payments.invoice_id", "$invoice(void)", of("paid"), FOLDED),
    change("invoice.payments.payment_id", "$sent(nobody)", of("paid"), FOLDED),
    change(
        "invoice.payments.method",
        """'{"kind": "encrypted_card", "jwe": "x"}'""",
        of("carded"),
        SECRETS,
        how="the card kept when its payment was over",
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
        why="nothing came of the command then",
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
        why="its outcome, its invoice, the gateway and staff know the receipt",
    ),
    change("payment_gateway.payments.version", "9", of("paid"), OUTCOMES),
    change("payment_gateway.payments.cause_id", "$sent(nobody)", of("paid"), BY_COMMANDS),
    change("payment_gateway.payments.due_at", "now() + interval '9 years'", of("waiting"), ACCOUNTED),
    rows(
        "payment_gateway.payments.due_at",
        "no next attempt, and no case",
        ("payment_gateway", "UPDATE payments SET due_at = NULL WHERE payment_id = $payment(waiting)"),
        ("staff", "DELETE FROM cases WHERE payment_id = $payment(waiting)"),
        red=(ACCOUNTED, STEPS),
        why="neither the gateway nor a person is asked",
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
        red=(CONFIRMED, PAID),
        why="the gateway confirmed it, and its invoice asked for it",
    ),
    change(
        "payment_gateway.refunds.amount_minor",
        "400",
        of("parted"),
        ONCE,
        PAID,
        why="its invoice and the gateway know the amount",
    ),
    change(
        "payment_gateway.refunds.status",
        "'kept'",
        of("parted"),
        ONCE,
        PAID,
        why="its invoice and the gateway know that it was made",
    ),
    change("payment_gateway.refunds.decided_by", "'Eve'", of("parted"), PAID),
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
        how="another reason",
        why=_MESSAGE,
    ),
    change(
        "payment_gateway.outcomes.type",
        "'remit.payment_gateway.PaymentNotCharged.v1'",
        of("declined"),
        OUTCOMES,
        PAID,
        BY_COMMANDS,
        why="its message is of another type, and its saga and its invoice recorded what no outcome supports",
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
        EVIDENCE,
        why="what followed from it has no cause, and it follows from nothing",
    ),
)

_GUESS = (
    ("payment_gateway", "DELETE FROM decisions WHERE payment_id = $payment(decided)"),
    ("payment_gateway", "UPDATE payments SET decided_by = NULL WHERE payment_id = $payment(decided)"),
)
RECORDS: Final = (
    change("payment_gateway.attempts.answer", "'unknown'", of("paid", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.answer", "'captured'", of("waiting", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.evidence", "'HTTP 200 succeeded'", of("waiting", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.step", "'inquire'", of("waiting", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.at", "at + interval '1 hour'", of("waiting", "step = 'execute'"), EVIDENCE),
    change("payment_gateway.attempts.idempotency_key", "'k'", "step IN ('execute', 'prepare')", CONFIRMED),
    change(
        "payment_gateway.attempts.recorded_at",
        "recorded_at + interval '1 hour'",
        of("paid"),
        CONFIRMED,
        seen_in_production=False,
    ),
    change("payment_gateway.attempts.payment_id", "$sent(nobody)", of("paid", "step = 'execute'"), EVIDENCE),
    rows(
        "payment_gateway.attempts",
        "the confirm's attempt deleted",
        ("payment_gateway", "DELETE FROM attempts WHERE payment_id = $payment(paid) AND step = 'execute'"),
        red=(EVIDENCE,),
    ),
    change("payment_gateway.decisions.evidence", "'none'", of("decided"), DECIDED),
    change("payment_gateway.decisions.reason", "'none'", of("decided"), DECIDED),
    change("payment_gateway.decisions.receipt_number", "'ch_x'", of("decided"), DECIDED),
    change("payment_gateway.decisions.expected_version", "1", of("decided"), DECIDED),
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
        why="its outcome and its payment name another person",
    ),
    change(
        "payment_gateway.decisions.resolution",
        "'not_charged'",
        of("decided"),
        DECIDED,
        EVIDENCE,
        PAID,
        why="its outcome and its payment say captured",
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
        why="what is known of it has no row then, and the row nothing",
    ),
    change(
        "payment_gateway.refunds.payment_id",
        "$payment(paid)",
        of("parted"),
        ONCE,
        PAID,
        SETTLED,
        why="its payment has no refund then, and another one has",
    ),
    change(
        "payment_gateway.refunds.refund_id",
        "$sent(nobody)",
        of("parted"),
        ONCE,
        PAID,
        why="the gateway and the invoice know another",
    ),
    change("payment_gateway.refunds.reason", "'other'", of("parted"), PAID),
    change("payment_gateway.refunds.asked_minor", "1", of("parted"), PAID),
    change(
        "payment_gateway.refunds.by_hand_minor",
        "99",
        of("parted"),
        ONCE,
        BALANCE,
        seen_in_production=False,
        why="the gateway's books balance without it",
    ),
    change(
        "payment_gateway.refunds.made_elsewhere",
        "true",
        of("parted"),
        ONCE,
        BALANCE,
        seen_in_production=False,
        why="the gateway's books tell whether it gave the money back",
    ),
    change("payment_gateway.refunds.gateway_id", "'re_x'", of("parted"), ONCE, seen_in_production=False),
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
        why="it is a case without a payment, and of the payment nobody is asked",
    ),
    change("staff.cases.decided_by", "'Eve'", of("decided"), OUTCOMES),
    change("staff.commands.invoice_id", "$invoice(paid)", "command_id = $sent(pay void)", HEARD),
    change("staff.messages.at", "at + interval '1 s'", of("paid", "type = 13"), HEARD),
    change("staff.messages.cause", "$sent(nobody)", of("paid", "type = 13"), HEARD),
    change("staff.dead_letters.settled_at", "NULL", "status = 'discarded'", LETTERS),
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
    change("staff.journal.position", "9", _ASKED, JOURNAL),
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

FALSIFICATIONS: Final = (
    *ANSWERS,
    *EVENTS,
    *PAYMENTS,
    *OUTCOME_ROWS,
    *RECORDS,
    *SAGAS,
    *STAFF,
    *EVERYWHERE,
    *REST,
    *SEALS,
)

NO_TRUTH_ELSEWHERE: Final = {
    "*.outbox.*": "the table is empty in finished books: whatever is in it is found",
    "*.inbox.handled_at": "only says when an id may be deleted",
    "*.*.announced_at": "only says when it is said again",
    "*.*.announced": "counts how often it was said again; the ids of what was said derive from it, and the audit allows for some more",
    "*.*.updated_at": "only says how long ago a row was written: a younger one is judged later in a live system",
    "*.*.traceparent": "leads to a trace, which is kept elsewhere for a short time",
    "invoice.answers.content_hash": "tells a repeated command from another one; its content is kept nowhere",
    "invoice.answers.outline_hash": "as `content_hash`",
    "invoice.set_aside.*": "so that a sender can be told that there is no answer yet; the dead letter itself is judged",
    "invoice.sender_tokens.*": "by which a sender asks over HTTP; a hash of a random value, and a name",
    "payment_gateway.attempts.fence": "which lease asked; a lease that was lost leaves gaps",
    "payment_gateway.attempts.seq": "as `fence`",
    "payment_gateway.payments.created_at": "says since when it is known here; the gateway's books begin later",
    "payment_gateway.payments.requested_at": "NULL, unless it was found late",
    "payment_gateway.payments.params_hash": "tells a repeated request from another one; NULL also for what was found at the gateway",
    "payment_gateway.payments.pending_status": "what a cancel will make of it; NULL once that was answered",
    "payment_gateway.payments.pending_reason": "as `pending_status`",
    "payment_gateway.payments.pending_advice": "as `pending_status`",
    "payment_gateway.payments.refund_id": "the last refund's gateway id, which `refunds` has as well",
    "payment_gateway.payments.was_case": "says to whom the next outcome is told",
    "payment_gateway.payments.rung": "where the ladder of attempts stands",
    "payment_gateway.payments.key_number": "the number of the next idempotency key; one that was used is found in the ledger",
    "payment_gateway.payments.correlation_id": "that of whatever moved it last, which may be a refund",
    "payment_gateway.payments.fence": "counts leases",
    "payment_gateway.payments.details": "what the gateway is told beside the amount; its books do not show it in a copy",
    "payment_gateway.payments.settled_as": "what it was before somebody looked again",
    "payment_gateway.payments.gateway_side": "what the gateway said last; compared with its books once a person decided on it",
    "payment_gateway.refunds.position": "the order in which refunds were asked for",
    "payment_gateway.refunds.version": "the version of the payment with which it last changed",
    "payment_gateway.refunds.key_number": "as that of payments",
    "payment_gateway.refunds.asked_by": "NULL, unless a person had it given back",
    "saga.deadlines.id": "derives from payment and number; a message that it causes is looked up by what follows",
    "saga.*.correlation_id": "passed on in messages, of which only hashes are kept elsewhere",
    "saga.sagas.failure_recorded": "whether the invoice has answered; its event is found by its cause",
    "saga.sagas.flagged": "whether the invoice was told of the doubt",
    "saga.sagas.refund_reason": "a sentence that goes along with the refund",
    "saga.sagas.repeats": "how often it was said again",
    "saga.sagas.deadline_s": "the wait that the deadline was set with",
    "saga.sagas.refunds": "the saga's own memory of refunds; the invoice's and the gateway's are compared",
    "saga.transitions.at": "the time at which this service heard it, by its own clock",
    "staff.cases.*": "what staff are shown beside amount, version, status and who decided",
    "staff.commands.command_id": "a command that staff did not hear is not judged",
    "staff.commands.at": "only says when it may be deleted",
    "staff.dead_letters.*": "what staff are shown of a message; another record of the same message is found",
    "staff.dead_letter_groups.*": "times and an example, to be shown",
    "staff.instances.*": "what a process said of itself, the last time",
    "staff.invoices.*": "what was heard last; what was not heard is not judged",
    "staff.payments.*": "as those of `invoices`",
    "staff.messages.*": "a message that staff did not hear is not judged",
    "staff.journal_check.*": "how far a look has come; it begins anew each hour",
    "staff.people.*": "who may use the desk; the journal has each change",
    "staff.proposals.*": "what is proposed; what comes of it is a decision",
    "staff.queues.*": "what the broker said last",
    "staff.replay_items.*": "no replay of many is among the stories; what one sent is compared with the journal",
    "staff.replay_runs.*": "as `replay_items`",
    "staff.requests.*": "clicks of the last day, so that none counts twice",
    "*.seal_numbering.only_row": "there is one row at most",
    "staff.seals.position": "a seal of an entry that is not there is found",
    "staff.seals.at": "when a seal was made",
    "staff.second_person_limits.*": "settings; the journal has each change",
    "staff.settings.*": "settings; the journal has each change",
    "staff.sessions.*": "who is signed in",
    "staff.sign_ins.*": "a sign-in that is under way",
    "staff.tokens.*": "who may use the API; the journal has each change",
}
"""Columns, as `database.table.column` with `*` for any name, that nothing else tells of or that say nothing about money or answers, and
why."""
