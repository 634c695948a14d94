"""Staff hear every event, outcome and command between the services, and keep of each what it said. So their books are a second copy, in a
database of its own, of what a service may have stored otherwise since.

What staff did not hear is not judged: their queues may drop messages, and a restored database may have lost what they heard.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import uuid5

from services.audit.align import Keyed, StoredRow, align
from services.audit.bodies import FACTS, event_data, event_of
from services.audit.finding import Tally
from services.audit.routes import kept_as
from services.audit.stores import DATABASES, Snapshot, Stores
from shared.contracts.times import read_time

PAGE = 2_000
"""The number of commands that are looked up at a time."""
ANOTHER_COMMAND = "command_id_reused"
"""The reason of a rejection that is not the answer to the first command with this id."""

_EVENTS = """
    SELECT stream_id, version, split_part(type, '.', 1) AS event, data, cause_id, cause_position, recorded_at FROM events
    ORDER BY stream_id COLLATE "C", version"""
_OF_INVOICES = """
    SELECT invoice_id, id, at, type, cause, facts FROM messages WHERE invoice_id IS NOT NULL AND (type < 12 OR type BETWEEN 23 AND 28)
    ORDER BY invoice_id COLLATE "C", id"""
"""The numbers are those under which staff store the types of messages (`services.staff.heard`), as in the tables below."""
EVENT_NUMBERS: Final = {
    "Issued": 1,
    "Paid": 3,
    "PaymentFailed": 4,
    "PaymentInDoubt": 5,
    "Voided": 6,
    "SettlementRejected": 7,
    "RefundRequested": 8,
    "Refunded": 9,
    "RefundFailed": 10,
    "RefundRejected": 11,
}
OUTCOME_NUMBERS: Final = {
    "PaymentCaptured": 13,
    "PaymentDeclined": 14,
    "PaymentNotCharged": 15,
    "PaymentRefunded": 16,
    "PaymentInDoubt": 17,
    "PaymentNeedsDecision": 18,
    "PaymentRefundInDoubt": 19,
    "PaymentRefundFailed": 20,
}
_ENDS: Final = {EVENT_NUMBERS["Paid"]: "paid", EVENT_NUMBERS["Voided"]: "void"}
"""How an invoice ends, by the message that tells it."""
_SHOWN_AS: Final = {
    "PaymentCaptured": {"captured"},
    "PaymentDeclined": {"declined"},
    "PaymentNotCharged": {"not_charged"},
    "PaymentRefunded": {"captured", "refunded"},
    "PaymentInDoubt": {"in_doubt"},
    "PaymentNeedsDecision": {"needs_decision"},
    "PaymentRefundInDoubt": {"refund_in_doubt"},
    "PaymentRefundFailed": {"refund_failed", "not_refunded"},
}
"""How staff show a payment after an outcome."""
_INVOICES = """
    SELECT invoice_id, customer_id, amount_minor, currency, status FROM invoices ORDER BY invoice_id COLLATE "C" """
_OF_INVOICE = ("customer_id", "amount_minor", "currency")
_OUTCOMES = """
    SELECT payment_id, version, message_id, type AS wire_name, split_part(type, '.', 3) AS type, body FROM outcomes
    ORDER BY payment_id, version"""
_DECISIONS = """
    SELECT payment_id, message_id, resolution, expected_version, receipt_number, evidence, decided_by, reason FROM decisions
    ORDER BY payment_id"""
_OF_DECISION = ("resolution", "expected_version", "receipt_number", "evidence", "decided_by", "reason")
_OF_PAYMENTS = """
    SELECT payment_id, id, at, type, cause, facts, invoice_id FROM messages
    WHERE payment_id IS NOT NULL AND (type BETWEEN 13 AND 22 OR type = 33) ORDER BY payment_id, id"""
_ROWS = """
    SELECT payment_id, invoice_id, amount_minor, currency, receipt_number, gateway_id, status, version FROM payments ORDER BY payment_id"""
_OF_PAYMENT = ("invoice_id", "amount_minor", "currency", "receipt_number", "gateway_id")
_COMMANDS = "SELECT command_id, type, invoice_id, answer, reason FROM commands ORDER BY command_id"
_ANSWERS = "SELECT command_id, command_type, invoice_id, answer, reason FROM answers WHERE command_id = ANY($1::uuid[])"
_SENDERS = "SELECT DISTINCT sender FROM answers WHERE sender IS NOT NULL"


async def heard_as_stored(counted: Tally, stores: Stores) -> None:
    """Each event, outcome, command and answer that staff heard says what its service stored."""
    if not stores.has(*DATABASES):
        return
    await _invoices(counted, stores)
    await _payments(counted, stores)
    await _answers(counted, stores)


# -- events and outcomes ---------------------------------------------------------------------------------------------------------------


async def _invoices(counted: Tally, stores: Stores) -> None:
    invoices, staff = stores.databases["invoice"], stores.databases["staff"]
    sources: tuple[Keyed, ...] = (
        invoices.keyed(_EVENTS),
        staff.keyed(_OF_INVOICES),
        invoices.keyed(_INVOICES),
        staff.keyed(_INVOICES),
    )
    async for invoice_id, (events, messages, states, heard) in align(*sources):
        counted.look(len(messages))
        for why in (
            *_of_events(events, messages),
            *_differing(states, heard, _OF_INVOICE),
            *_ended(messages, states, heard),
        ):
            counted.breach(invoice_id, why)


def _ended(messages: Sequence[StoredRow], states: Sequence[StoredRow], heard: Sequence[StoredRow]) -> Iterator[str]:
    """Staff show that an invoice ended if it did, and if they heard so."""
    ends = {_ENDS[message["type"]] for message in messages if message["type"] in _ENDS}
    for row in heard:
        if ends - {row["status"]}:
            yield f"staff show it as {row['status']}, and heard that it is {', '.join(sorted(ends))}"
        if row["status"] in _ENDS.values() and any(state["status"] != row["status"] for state in states):
            yield f"staff show it as {row['status']}, and it is {states[0]['status']}"


def _of_events(events: Iterable[StoredRow], messages: Sequence[StoredRow]) -> Iterator[str]:
    """What an event says, what its message said, and what the command said that caused it."""
    heard = {message["id"]: FACTS.read(message["facts"], {}) for message in messages}
    by_id = {message["id"]: message for message in messages}
    for event in events:
        what = f"event {event['version']}, {event['event']}"
        own = by_id.get(uuid5(event["cause_id"], str(event["cause_position"])))
        told = (event["recorded_at"], event["cause_id"], EVENT_NUMBERS.get(event["event"]))
        if own is not None and (own["at"], own["cause"], own["type"]) != told:
            yield f"{what}: staff heard it as another one, of another time or by another cause"
        for id_ in (uuid5(event["cause_id"], str(event["cause_position"])), event["cause_id"]):
            if names := _other_than(event_data(event) or {}, heard.get(id_, {})):
                yield f"{what}: staff heard another {', '.join(names)}"


async def _payments(counted: Tally, stores: Stores) -> None:
    gateway, staff = stores.databases["payment_gateway"], stores.databases["staff"]
    sources: tuple[Keyed, ...] = (
        gateway.keyed(_OUTCOMES),
        gateway.keyed(_DECISIONS),
        staff.keyed(_OF_PAYMENTS),
        gateway.keyed(_ROWS),
        staff.keyed(_ROWS),
    )
    async for payment_id, (outcomes, decisions, messages, rows, known) in align(*sources):
        counted.look(len(messages))
        heard = {message["id"]: message for message in messages}
        said = [event_of(outcome["wire_name"], outcome["body"]) for outcome in outcomes]
        for why in (
            *_of_outcomes(outcomes, said, heard),
            *_of_decisions(decisions, heard),
            *_differing(rows, known, _OF_PAYMENT),
            *_standing(outcomes, said, known),
            *_newest(messages, known),
        ):
            counted.breach(payment_id, why)


def _of_outcomes(
    outcomes: Sequence[StoredRow], said: Sequence[Mapping[str, Any]], heard: Mapping[Any, StoredRow]
) -> Iterator[str]:
    for outcome, event in zip(outcomes, said, strict=True):
        message = heard.get(outcome["message_id"])
        if message is None or not event:
            continue
        if names := _other_than(event["data"], FACTS.read(message["facts"], {})):
            yield f"outcome {outcome['version']}: staff heard another {', '.join(names)}"
        told = (event["causationid"], read_time(event["time"]) if "time" in event else None)
        if message["invoice_id"] != event["data"]["invoice_id"]:
            yield f"outcome {outcome['version']}: staff heard it of {message['invoice_id']}"
        number = OUTCOME_NUMBERS.get(outcome["type"], message["type"])
        if (*told, number) != (str(message["cause"]), message["at"], message["type"]):
            yield f"outcome {outcome['version']}: staff heard it as another one, of another time or by another cause"


def _of_decisions(decisions: Sequence[StoredRow], heard: Mapping[Any, StoredRow]) -> Iterator[str]:
    for decision in decisions:
        message = heard.get(decision["message_id"])
        if message is not None and (
            names := _other_than({name: decision[name] for name in _OF_DECISION}, FACTS.read(message["facts"], {}))
        ):
            yield f"the decision {decision['message_id']}: staff heard another {', '.join(names)}"


def _standing(
    outcomes: Sequence[StoredRow], said: Sequence[Mapping[str, Any]], known: Sequence[StoredRow]
) -> Iterator[str]:
    """Staff show a payment as the outcome of that version told it, and a receipt that one of them named."""
    events = [event for event, outcome in zip(said, outcomes, strict=True) if outcome["type"] == "PaymentCaptured"]
    receipts = {event["data"]["receipt_number"] for event in events if event}
    for row in known:
        if row["receipt_number"] is not None and receipts and all(events) and row["receipt_number"] not in receipts:
            yield f"staff know the receipt {row['receipt_number']}, which no outcome names"
        told = next((outcome["type"] for outcome in outcomes if outcome["version"] == row["version"]), "")
        if row["status"] not in _SHOWN_AS.get(told, {row["status"]}):
            yield f"staff show it as {row['status']}, and its outcome {row['version']} is {told}"


def _newest(messages: Sequence[StoredRow], known: Sequence[StoredRow]) -> Iterator[str]:
    """Staff show a payment at the highest version of which they heard."""
    heard = max((FACTS.read(one["facts"], {}).get("version", 0) for one in messages), default=0)
    for row in known:
        if heard and row["version"] != heard:
            yield f"staff show version {row['version']}, and heard of version {heard}"


def _kept(name: str, value: Any) -> Any:
    """What staff keep of a member."""
    if name == "attempts":
        return [(one["step"], one["answer"]) for one in value]
    if name == "refund":
        facts = value or {}
        return facts.get("id") or facts.get("refund_id"), facts.get("amount_minor"), facts.get("left_minor")
    return value


def _other_than(stored: Mapping[str, Any], heard: Mapping[str, Any]) -> list[str]:
    """The members that both have, and that differ. One that is not told has no value, and staff keep none of those."""
    return [name for name in heard if name in stored and _kept(name, stored[name]) != _kept(name, heard[name])]


def _differing(stored: Sequence[StoredRow], heard: Sequence[StoredRow], names: Iterable[str]) -> Iterator[str]:
    """In what a row and staff's row of the same thing differ, as far as staff know it."""
    for ours, theirs in zip(stored, heard, strict=False):
        other = [name for name in names if theirs[name] is not None and theirs[name] != ours[name]]
        if other:
            yield f"staff know another {', '.join(other)}: {theirs[other[0]]}, and here is {ours[other[0]]}"


# -- answers ---------------------------------------------------------------------------------------------------------------------------


async def _answers(counted: Tally, stores: Stores) -> None:
    invoices = stores.databases["invoice"]
    senders = [row["sender"] for row in await invoices.once(_SENDERS)]
    page: list[StoredRow] = []
    async for row in stores.databases["staff"].rows(_COMMANDS):
        page.append(row)
        if len(page) == PAGE:
            await _check_answers(counted, invoices, page, senders)
            page = []
    await _check_answers(counted, invoices, page, senders)


async def _check_answers(counted: Tally, invoices: Snapshot, page: Sequence[StoredRow], senders: Sequence[str]) -> None:
    """An answer is kept under the id of its command or, where senders have names, under one that is derived from it."""
    names = {row["command_id"]: kept_as(row["command_id"], None, *senders) for row in page}
    stored = {
        row["command_id"]: row for row in await invoices.page(_ANSWERS, [id_ for ids in names.values() for id_ in ids])
    }
    for row in page:
        counted.look()
        answers = [stored[id_] for id_ in names[row["command_id"]] if id_ in stored]
        if row["reason"] != ANOTHER_COMMAND and answers and not any(_same_answer(row, answer) for answer in answers):
            why = f"staff heard {_told(row)}, and stored is {', '.join(map(_told, answers))}"
            counted.breach(row["command_id"], why)


def _same_answer(heard: StoredRow, answer: StoredRow) -> bool:
    is_about_it = None in {heard["invoice_id"], answer["invoice_id"]} or heard["invoice_id"] == answer["invoice_id"]
    same = all(heard[name] == answer[name] for name in ("answer", "reason"))
    return same and is_about_it and heard["type"] == answer["command_type"]


def _told(answer: StoredRow) -> str:
    return f"{answer['answer']} ({answer['reason']})" if answer["reason"] else str(answer["answer"])
