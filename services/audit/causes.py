"""Every message has a cause. Its id is derived from its cause's id, so the audit computes the ids of causes again from what other services
stored."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from uuid import UUID, uuid5

from services.audit import payments
from services.audit.align import Keyed, StoredRow, align
from services.audit.bodies import cause_of
from services.audit.finding import Tally
from services.audit.invoice_events import BY_PERSON, FROM_SAGA, FROM_STAFF, UPSTREAM_COMMANDS
from services.audit.stores import DATABASES, Stores

COMMANDS_AT_ONCE_MAX = 3
"""A saga sends at most two commands for one fact (refund, and tell the invoice). Computing one more id costs nothing."""
ANNOUNCEMENTS_LOST_MAX = 3
"""How many more times a payment may have been called overdue than the invoice service knows, because a fail-over lost its last commits. The
wait doubles each time, so there are few."""
FACT_OF = {
    "PaymentCaptured": "Captured",
    "PaymentDeclined": "Declined",
    "PaymentNotCharged": "NotCharged",
    "PaymentInDoubt": "InDoubt",
    "PaymentNeedsDecision": "NeedsDecision",
}
"""What a saga takes an outcome for. One about a refund is one of two facts, by who asked for the refund."""
FACTS_OF_EVENT = {
    "PaymentRequested": {"PaymentRequested"},
    "Paid": {"Paid"},
    "PaymentFailed": {"PaymentFailed"},
    "SettlementRejected": {"SettlementRejected"},
    "RefundRequested": {"RefundAsked"},
    "Refunded": {"RefundRecorded"},
    "RefundFailed": {"RefundRecorded"},
}
"""What a saga takes an invoice's event for."""
_OF_PAYMENT = frozenset({*FACT_OF.values(), "Refunded", "RefundInDoubt", "RefundFailed"})
"""Facts of which a saga remembers the version of the payment."""
REMINDERS_AT_ONCE_MAX = 12
"""A deadline also reminds of at most ten refunds."""

_FROM_UPSTREAM = """
    SELECT e.stream_id, e.version, e.type, e.recorded_at, a.answer, a.command_type, a.invoice_id, a.correlation_id
    FROM (SELECT *, $1::jsonb->>split_part(type, '.', 1) AS command FROM events) e
    LEFT JOIN answers a ON a.command_id = e.cause_id
    WHERE e.command IS NOT NULL AND e.data->>'requested_by' IS NULL
      AND (a.answer IS DISTINCT FROM 'accepted' OR a.invoice_id IS DISTINCT FROM e.stream_id OR a.correlation_id <> e.correlation_id
                                     OR split_part(a.command_type, '.', 3) <> e.command)
    ORDER BY e.stream_id, e.version"""
_NOTHING_BEHIND = """
    SELECT a.command_id, a.command_type, a.invoice_id, a.answered_at
    FROM (SELECT *, split_part(command_type, '.', 3) AS command FROM answers) a
    WHERE a.answer = 'accepted' AND NOT EXISTS (
        SELECT FROM events e WHERE e.stream_id = a.invoice_id AND $1::jsonb->>split_part(e.type, '.', 1) = a.command
            AND (e.cause_id = a.command_id OR a.command = 'RefundInvoice' AND e.recorded_at <= a.answered_at))
    ORDER BY a.command_id"""
"""Only a refund that was asked for before is accepted and changes nothing."""
_SAME_CAUSE = """
    SELECT cause_id, min(stream_id) AS stream_id, count(*) AS times FROM events
    GROUP BY cause_id, cause_position HAVING count(*) > 1 ORDER BY 1"""
SAID_AGAIN = "fact = 'PaymentRequested' AND from_status = to_status"
"""A step by which a saga only says again what it knows, because the invoice reminds it. The invoice may have lost its last commit, so each
reminder is answered, also one that the inbox forgot."""
_SAME_STEP = f"""
    SELECT payment_id, cause_id, count(*) AS times FROM transitions WHERE fact <> 'RefundAsked' AND NOT ({SAID_AGAIN})
    GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2"""  # noqa: S608 - constants
"""A refund that is asked for again is answered again, for the same reason."""
_COUNT = "SELECT count(*) FROM events"
_SAGAS = """
    SELECT payment_id, deadline, journal_from, payment_version, captured_minor, failure_outcome, refunds IS NOT NULL AS has_refunds,
           status, failure_recorded, flagged, updated_at FROM sagas
    ORDER BY payment_id"""
_TRANSITIONS = "SELECT payment_id, version, to_status, fact, cause_id, at FROM transitions ORDER BY payment_id, version"
_OUTCOMES = """
    SELECT payment_id, version, message_id, split_part(type, '.', 3) AS type, body, recorded_at FROM outcomes
    ORDER BY payment_id, version"""
_JOURNAL = "SELECT subject, id FROM journal WHERE action IN ('ask', 'resolve', 'refund') ORDER BY subject"


async def caused_by_commands(counted: Tally, stores: Stores) -> None:
    """Every cause of an event resolves, back to a command."""
    if stores.has("invoice"):
        await _from_upstream(counted, stores)
    if not stores.has(*DATABASES):
        return  # a message of one service is a cause at another, so the chain needs all databases
    sources: tuple[Keyed, ...] = (
        payments.invoice_events(stores),
        payments.payment_rows(stores),
        stores.databases["payment_gateway"].keyed(_OUTCOMES),
        stores.databases["saga"].keyed(_SAGAS),
        stores.databases["saga"].keyed(_TRANSITIONS),
        stores.databases["staff"].keyed(_JOURNAL),
    )
    async for payment_id, (events, rows, outcomes, sagas, transitions, journal) in align(*sources):
        known = _Known(payment_id, events, outcomes, sagas, transitions, journal)
        for about, why, since in (
            *_steps(known, transitions),
            *_learned(known, sagas, transitions),
            *_changes(known, events),
            *_gateway_actions(known, events, rows, outcomes),
        ):
            counted.breach(about, why, since=since)
        counted.look(len(transitions) + len(outcomes) + len(rows))


async def _from_upstream(counted: Tally, stores: Stores) -> None:
    """Every event that a sender's command caused has an accepted answer under the command's id, and the other way round."""
    invoices = stores.databases["invoice"]
    counted.look(await invoices.value(_COUNT))
    async for row in invoices.rows(_FROM_UPSTREAM, UPSTREAM_COMMANDS):
        counted.breach(
            row["stream_id"], f"event {row['version']}, {row['type']}: the command that caused it {_of(row)}"
        )
    async for row in invoices.rows(_NOTHING_BEHIND, UPSTREAM_COMMANDS):
        why = f"{row['command_type']} of {row['invoice_id']} was accepted, and no event came of it"
        counted.breach(row["command_id"], why)
    async for row in invoices.rows(_SAME_CAUSE):
        counted.breach(row["stream_id"], f"the message {row['cause_id']} caused the same event {row['times']} times")
    if stores.has("saga"):
        async for row in stores.databases["saga"].rows(_SAME_STEP):
            counted.breach(row["payment_id"], f"the message {row['cause_id']} moved its saga {row['times']} times")


def _of(row: StoredRow) -> str:
    if row["answer"] is None:
        return "has no answer"
    told = f"{row['command_type']} of {row['invoice_id']}, correlated as {row['correlation_id']}"
    return f"was {row['answer']}" if row["answer"] != "accepted" else f"is {told}"


class _Known:
    """The ids of all messages about one payment, by sender."""

    def __init__(
        self,
        payment_id: str,
        events: list[StoredRow],
        outcomes: list[StoredRow],
        sagas: list[StoredRow],
        transitions: list[StoredRow],
        journal: list[StoredRow],
    ) -> None:
        self.payment_id = payment_id
        payment = UUID(payment_id)
        self.from_invoice = {
            uuid5(event["cause_id"], position): event["event"] for event in events for position in _positions(event)
        }
        self.from_gateway = {outcome["message_id"]: outcome["type"] for outcome in outcomes}
        self.versions = {outcome["message_id"]: outcome["version"] for outcome in outcomes}
        self.deadlines = {
            uuid5(payment, f"deadline:{number}") for saga in sagas for number in range(1, saga["deadline"] + 1)
        }
        self.from_saga = {
            uuid5(step["cause_id"], str(position))
            for step in transitions
            for position in range(REMINDERS_AT_ONCE_MAX if step["fact"] == "DeadlineFired" else COMMANDS_AT_ONCE_MAX)
        }
        self.from_staff = {uuid5(entry["id"], "0") for entry in journal}
        self.early_steps_deleted = any(saga["journal_from"] > 1 for saga in sagas)

    def facts(self, cause: UUID) -> set[str] | None:
        """What a saga may take this message for. Empty: that is not known here; None: nobody sent it."""
        if cause in self.from_invoice:
            return FACTS_OF_EVENT.get(self.from_invoice[cause], set())
        if cause in self.from_gateway:
            fact = FACT_OF.get(self.from_gateway[cause])
            return set() if fact is None else {fact}
        return {"DeadlineFired"} if cause in self.deadlines else None

    def may_be_of_saga(self, cause: UUID | None) -> bool:
        """Whether the saga sent this message. True for any id if the saga's early steps were deleted: then nobody can know."""
        return cause in self.from_saga or (self.early_steps_deleted and cause is not None)


def _positions(event: StoredRow) -> Iterator[str]:
    """The positions of the messages about an event: of the event itself, and of what was said while its payment or refund was overdue."""
    position = event["cause_position"]
    yield str(position)
    yield f"overdue:{position}"  # by builds before, the same each time
    for announced in range((event["announced"] or 0) + ANNOUNCEMENTS_LOST_MAX):
        yield f"overdue:{position}:{announced + 1}"


Broken = tuple[str, str, datetime | None]


def _steps(known: _Known, transitions: Iterable[StoredRow]) -> Iterator[Broken]:
    """Every fact of the saga was published by a service, under the name of what it told."""
    for step in transitions:
        possible = known.facts(step["cause_id"])
        if possible is None:
            yield (
                known.payment_id,
                f"step {step['version']} of its saga, {step['fact']}, has no known cause",
                step["at"],
            )
        elif possible and step["fact"] not in possible:
            yield (
                known.payment_id,
                f"step {step['version']} of its saga is {step['fact']}, and was told {', '.join(sorted(possible))}",
                step["at"],
            )


def _learned(known: _Known, sagas: Iterable[StoredRow], transitions: Sequence[StoredRow]) -> Iterator[Broken]:
    """A saga remembers what its steps were told: the newest version of the payment, and how it ended."""
    facts = {step["fact"] for step in transitions}
    heard = max((known.versions.get(s["cause_id"], 0) for s in transitions if s["fact"] in _OF_PAYMENT), default=0)
    for saga in sagas:
        if heard > saga["payment_version"]:
            yield (
                known.payment_id,
                f"its saga was told version {heard}, and remembers {saga['payment_version']}",
                saga["updated_at"],
            )
        if "Captured" in facts and saga["captured_minor"] is None:
            yield known.payment_id, "its saga was told of a capture, and remembers none", saga["updated_at"]
        if "RefundAsked" in facts and not saga["has_refunds"]:
            yield known.payment_id, "its saga was asked for a refund, and remembers none", saga["updated_at"]
        if facts & {"Declined", "NotCharged"} and (saga["failure_outcome"] or saga["captured_minor"]) is None:
            yield known.payment_id, "its saga was told of a failure, and remembers none", saga["updated_at"]
        for why in _heard_of_invoice(saga, transitions) if transitions else ():
            yield known.payment_id, f"its saga {why}", saga["updated_at"]


def _heard_of_invoice(saga: StoredRow, transitions: Sequence[StoredRow]) -> Iterator[str]:
    """What a saga takes its invoice to know decides what it tells it again. A saga that had completed passes a failure over."""
    failed = any(step["fact"] == "PaymentFailed" for step in transitions)
    doubted = any(step["to_status"] in {"in_doubt", "needs_decision"} for step in transitions)
    whole = saga["journal_from"] == 1
    if failed and not saga["failure_recorded"] and saga["status"] != "completed":
        yield "was told that the invoice recorded the failure, and does not remember that"
    if saga["failure_recorded"] and whole and not failed:
        yield "takes the failure for recorded, and no invoice told it so"
    if doubted and not saga["flagged"]:
        yield "was in doubt, and does not remember that it told the invoice"
    if saga["flagged"] and whole and not doubted:
        yield "says that it told the invoice of a doubt, and it had none"


def _changes(known: _Known, events: Iterable[StoredRow]) -> Iterator[Broken]:
    """Every event that changed the invoice has a cause: a command from upstream, a step of the saga, or a person."""
    for event in events:
        if (why := _without_cause(known, event)) is not None:
            yield event["invoice_id"], f"{event['event']} of {known.payment_id} {why}", event["recorded_at"]


def _without_cause(known: _Known, event: StoredRow) -> str | None:
    """What is wrong with the cause of an event, if something is."""
    if event["event"] in FROM_STAFF and event["data"][BY_PERSON] is not None:
        is_known = event["cause_id"] in known.from_staff or _is_of_the_gateway(known, event)
        return None if is_known else "names a person, and has no cause in the journal"
    if event["event"] in UPSTREAM_COMMANDS:
        return None
    is_known = event["event"] in FROM_SAGA and known.may_be_of_saga(event["cause_id"])
    return None if is_known else "has no cause among the steps of its saga"


def _is_of_the_gateway(known: _Known, event: StoredRow) -> bool:
    """Whether people gave the money back at the gateway, and one of them decided that: the saga tells the invoice."""
    return event["event"] == "RefundRequested" and known.may_be_of_saga(event["cause_id"])


def _gateway_actions(
    known: _Known, events: list[StoredRow], rows: Iterable[StoredRow], outcomes: Iterable[StoredRow]
) -> Iterator[Broken]:
    """Everything that the payment gateway service did was asked for by an invoice, a saga or a person."""

    def asked(cause: UUID | None) -> bool:
        found_there = cause == uuid5(UUID(known.payment_id), "reconcile")  # `remit reconcile` found it at the gateway
        return found_there or cause in known.from_invoice or cause in known.from_staff or known.may_be_of_saga(cause)

    requested = any(event["event"] == "PaymentRequested" for event in events)
    for row in rows:
        if row["requested"] and not requested:
            yield known.payment_id, "a payment that no invoice requested", row["updated_at"]
        elif not asked(row["cause_id"]):
            yield known.payment_id, "the payment was changed by a message that nobody sent", row["updated_at"]
    for outcome in outcomes:
        if not asked(cause_of(outcome["body"])):
            yield (
                known.payment_id,
                f"outcome {outcome['version']} was caused by a message that nobody sent",
                outcome["recorded_at"],
            )
        if outcome["message_id"] != uuid5(UUID(known.payment_id), str(outcome["version"])):
            yield (
                known.payment_id,
                f"the id of outcome {outcome['version']} is not the one derived from its version",
                None,
            )
