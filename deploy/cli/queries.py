"""Reads for people what happened, from the raw stores of all services: read-only, and with a limit on every result."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from deploy.cli.output import MISUSED, fail
from deploy.cli.words import money, short_type
from services.audit.align import StoredRow
from services.audit.causes import COMMANDS_AT_ONCE_MAX
from services.audit.errors import AuditError
from services.audit.payments import TRACES_KEPT_DAYS
from services.audit.stores import Snapshot, snapshot
from services.staff import journal_words
from shared.ids import id_of_card_refusal, id_of_command
from shared.settings import EnvironmentVariables, database_variable

ROWS_MAX = 2_000
"""Rows of each table in one story. An invoice has tens."""


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """Something that happened. `id`: the message behind it, or the one it became. `produced`: ids of further messages that followed."""

    at: datetime
    where: str
    what: str
    id: str
    cause: str | None
    detail: str = ""
    produced: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class InvoiceStory:
    """An invoice and everything that happened to it, in order: no step comes before its cause. `unseen`: what is not shown, and why."""

    invoice_id: str
    invoice: Mapping[str, Any] | None
    steps: tuple[TimelineStep, ...]
    unseen: tuple[str, ...]

    def causes(self) -> list[int | None]:
        """For each step the number of the step that caused it, counted from 1. None: the cause is outside, or is not shown."""
        number_of: dict[str, int] = {}
        for number, step in enumerate(self.steps, start=1):
            for name in (step.id, *step.produced):
                number_of.setdefault(name, number)
        return [number_of.get(step.cause) if step.cause else None for step in self.steps]

    def as_json(self) -> dict[str, Any]:
        steps = [
            {
                "number": number,
                "at": step.at,
                "where": step.where,
                "what": step.what,
                "detail": step.detail or None,
                "id": step.id,
                "cause": step.cause,
                "because_of": because_of,
            }
            for number, (step, because_of) in enumerate(zip(self.steps, self.causes(), strict=True), start=1)
        ]
        invoice = dict(self.invoice) if self.invoice is not None else None
        return {"invoice_id": self.invoice_id, "invoice": invoice, "timeline": steps, "unseen": list(self.unseen)}


async def story(invoice_id: str) -> InvoiceStory | None:
    """Everything known about an invoice; None if nothing is known."""
    async with AsyncExitStack() as opened:
        databases, unseen = await _open(opened, "payment_gateway", "saga", "staff")
        invoices = databases["invoice"]
        current = await invoices.page("SELECT * FROM invoices WHERE invoice_id = $1", invoice_id)
        answers = await invoices.page(
            "SELECT * FROM answers WHERE invoice_id = $1 ORDER BY answered_at LIMIT $2", invoice_id, ROWS_MAX
        )
        if not current and not answers:
            return None
        events = await invoices.page(
            "SELECT * FROM events WHERE stream_id = $1 ORDER BY version LIMIT $2", invoice_id, ROWS_MAX
        )
        payments = sorted({UUID(event["data"]["payment_id"]) for event in events if "payment_id" in event["data"]})
        steps = [*map(_answered, answers), *map(_event, events)]
        if "payment_gateway" in databases:
            steps += await _gateway_steps(databases["payment_gateway"], payments, events)
        if "saga" in databases:
            steps += await _saga_steps(databases["saga"], payments)
        deleted = await _deleted(databases, payments)
        if "staff" in databases:
            commands = [answer["sent_id"] or answer["command_id"] for answer in answers]
            steps += await _staff_steps(databases["staff"], payments, commands)
    return InvoiceStory(
        invoice_id, dict(_items(current[0])) if current else None, _in_order(steps), (*unseen, *deleted)
    )


async def invoices(status: str | None, at_most: int) -> list[dict[str, Any]]:
    """Current states of invoices; those that changed last come first."""
    async with AsyncExitStack() as opened:
        databases, _ = await _open(opened)
        rows = await databases["invoice"].page(
            "SELECT * FROM invoices WHERE $1::text IS NULL OR status = $1 ORDER BY updated_at DESC, invoice_id LIMIT $2",
            status,
            at_most,
        )
    return [dict(_items(row)) for row in rows]


async def command(command_id: UUID, sender: str | None) -> dict[str, Any] | None:
    """The stored answer of a command, or the dead letter that it became (an open one comes before a settled one).

    Two senders may give their commands the same id. Without the name of the sender, all answers are looked through.
    """
    async with AsyncExitStack() as opened:
        databases, unseen = await _open(opened, "staff")
        answers = await _answers(databases["invoice"], command_id, sender)
        if len({answer["sender"] for answer in answers}) > 1:
            names = ", ".join(sorted(answer["sender"] or "one without a name" for answer in answers))
            fail(f"commands of several senders have the id {command_id}: say whose, with --sender: {names}.", MISUSED)
        if answers:
            return {"answer": dict(_items(answers[0])) | {"command_id": str(command_id)}}
        if "staff" not in databases:
            fail(f"command {command_id} has no answer; {unseen[0]}, so whether it is a dead letter is not known.")
        letters = await databases["staff"].page(
            """SELECT id, queue, reason, error_type, error_text, status, tries, replays, withheld, first_seen, last_seen, settled_by,
                      settled_at, settled_reason FROM dead_letters
               WHERE (event_id = $1 OR message_id = $1::text) AND ($2::text IS NULL OR sender = $2)
               ORDER BY status = 'open' DESC, last_seen DESC LIMIT 1""",
            command_id,
            sender,
        )
    return {"dead_letter": dict(_items(letters[0]))} if letters else None


async def _answers(invoices: Snapshot, command_id: UUID, sender: str | None) -> list[StoredRow]:
    """The answers to commands of this id: of this sender, or of all. One that is no refusal of card data comes first."""
    of_sender = id_of_command(sender, command_id)
    kept_as = [id_ for one in (command_id, of_sender) for id_ in (one, id_of_card_refusal(one))]
    for column, ids in (("command_id", kept_as), ("sent_id", [command_id])):
        found = await invoices.page(
            f"""SELECT command_id, command_type, answer, reason, detail, invoice_id, correlation_id, sender, answered_at FROM answers
                WHERE {column} = ANY($1::uuid[]) AND ($2::text IS NULL OR sender = $2)
                ORDER BY reason IN ('clear_card_number', 'cvv_not_accepted') NULLS FIRST LIMIT $3""",  # noqa: S608 - constants
            *(ids, sender, ROWS_MAX),
        )
        if found:
            return found
    return []


async def _open(opened: AsyncExitStack, *optional: str) -> tuple[dict[str, Snapshot], list[str]]:
    """The invoice service's database and the others that can be read, by name; and why the rest cannot.

    Raises CliError or AuditError if the first one cannot.
    """
    environment = EnvironmentVariables()
    if not environment.names_database("invoice"):
        fail(f"{database_variable('invoice')} is not set.", MISUSED)
    databases = {"invoice": await opened.enter_async_context(snapshot("invoice", environment.database_url("invoice")))}
    unseen = []
    for name in optional:
        if not environment.names_database(name):
            unseen.append(f"{database_variable(name)} is not set")
            continue
        try:
            databases[name] = await opened.enter_async_context(snapshot(name, environment.database_url(name)))
        except AuditError as error:
            unseen.append(str(error).rstrip(".?"))
    return databases, unseen


def _items(row: Any) -> Iterable[tuple[str, Any]]:
    items: Iterable[tuple[str, Any]] = row.items()
    return items


# -- steps -----------------------------------------------------------------------------------------------------------------------------


def _answered(row: StoredRow) -> TimelineStep:
    verdict = f"{row['answer']}: {row['reason']}" if row["reason"] else row["answer"]
    return TimelineStep(
        row["answered_at"],
        "invoice",
        f"{short_type(row['command_type'])}: {verdict}",
        str(row["sent_id"] or row["command_id"]),
        None,
        row["detail"] or "",
        produced=frozenset({str(row["command_id"])}),
    )


def _event(row: StoredRow) -> TimelineStep:
    data = row["data"]
    facts = [
        money(data.get("amount_minor"), data.get("currency")),
        *(str(data[name]) for name in ("receipt_number", "outcome", "reason", "advice") if data.get(name)),
    ]
    about = f" {', '.join(fact for fact in facts if fact)}" if any(facts) else ""
    message_id = uuid5(row["cause_id"], str(row["cause_position"]))
    return TimelineStep(
        row["recorded_at"], "invoice", f"{row['type'].partition('.')[0]}{about}", str(message_id), str(row["cause_id"])
    )


async def _gateway_steps(gateway: Snapshot, payments: list[UUID], events: list[StoredRow]) -> list[TimelineStep]:
    requests = {
        event["data"]["payment_id"]: str(uuid5(event["cause_id"], str(event["cause_position"])))
        for event in events
        if event["type"].startswith("PaymentRequested.")
    }
    steps: list[TimelineStep] = []
    for row in await _about(gateway, "payments", payments):
        id_ = str(row["payment_id"])
        what = f"payment {id_} taken in"
        steps.append(
            TimelineStep(row["created_at"], "gateway", what, id_, requests.get(id_, str(row["cause_id"])), _stands(row))
        )
    for row in await _about(gateway, "attempts", payments, order="fence, seq"):
        id_ = f"{row['payment_id']}:{row['fence']}.{row['seq']}"
        steps.append(
            TimelineStep(
                row["at"], "gateway", f"{row['step']}: {row['answer']}", id_, str(row["payment_id"]), row["evidence"]
            )
        )
    for row in await _about(gateway, "outcomes", payments, order="version"):
        cause = orjson.loads(row["body"]).get("causationid")
        what = f"{short_type(row['type'])}, version {row['version']}"
        steps.append(TimelineStep(row["recorded_at"], "gateway", what, str(row["message_id"]), cause))
    for row in await _about(gateway, "decisions", payments, order="decided_at"):
        effect = f"refused: {row['refusal']}" if row["refusal"] else "taken"
        steps.append(
            TimelineStep(
                row["decided_at"],
                "gateway",
                f"decision of {row['decided_by']}, {row['resolution']}: {effect}",
                f"{row['message_id']} taken",
                str(row["message_id"]),
                row["evidence"],
            )
        )
    return steps


async def _saga_steps(sagas: Snapshot, payments: list[UUID]) -> list[TimelineStep]:
    transitions = await _about(sagas, "transitions", payments, order="version")
    steps = [_transition(row) for row in transitions]
    causes = {step.cause for step in steps}
    deadlines = await _about(sagas, "deadlines", payments, order="number")
    steps += [
        TimelineStep(row["fired_at"], "saga", f"deadline {row['number']} fired", str(row["id"]), None)
        for row in deadlines
        if row["fired_at"] is not None and str(row["id"]) in causes
    ]
    return steps


def _transition(row: StoredRow) -> TimelineStep:
    moved = row["to_status"] if row["from_status"] == row["to_status"] else f"{row['from_status']} → {row['to_status']}"
    return TimelineStep(
        row["at"],
        "saga",
        f"{moved} on {row['fact']}",
        f"{row['payment_id']} step {row['version']}",
        str(row["cause_id"]),
        produced=frozenset(str(uuid5(row["cause_id"], str(position))) for position in range(COMMANDS_AT_ONCE_MAX)),
    )


async def _deleted(databases: Mapping[str, Snapshot], payments: list[UUID]) -> list[str]:
    """What the services have deleted about these payments. It is shown, so that a deleted part does not look like one that never was."""
    found: list[str] = []
    if "payment_gateway" in databases:
        found += [
            f"calls to the gateway about {row['payment_id']}, deleted on {row['attempts_forgotten_at']:%F}: "
            f"it had been at rest for {TRACES_KEPT_DAYS} days"
            for row in await _about(databases["payment_gateway"], "payments", payments)
            if row["attempts_forgotten_at"] is not None
        ]
    if "saga" in databases:
        found += [
            f"steps 1 to {row['journal_from'] - 1} of the saga of {row['payment_id']}, deleted: "
            f"it had ended {TRACES_KEPT_DAYS} days before"
            for row in await _about(databases["saga"], "sagas", payments)
            if row["journal_from"] > 1
        ]
    return found


async def _staff_steps(staff: Snapshot, payments: list[UUID], commands: list[UUID]) -> list[TimelineStep]:
    letters = await staff.page(
        "SELECT * FROM dead_letters WHERE event_id = ANY($1::uuid[]) LIMIT $2", commands, ROWS_MAX
    )
    steps = [
        TimelineStep(
            row["first_seen"],
            "staff",
            f"dead-lettered from {row['queue']}: {row['reason']}",
            str(row["id"]),
            None,
            row["error_text"] or "",
        )
        for row in letters
    ]
    cases = await _about(staff, "cases", payments)
    steps += [
        TimelineStep(row["opened_at"], "staff", "a person is told", f"{row['payment_id']} case", None) for row in cases
    ]
    subjects = [*payments, *(row["id"] for row in letters)]
    entries = await staff.page(
        "SELECT * FROM journal WHERE subject = ANY($1::uuid[]) ORDER BY at LIMIT $2", subjects, ROWS_MAX
    )
    for row in entries:
        said, details = journal_words.in_lines(row["action"], row["details"])
        steps.append(
            TimelineStep(row["at"], "staff", f"{row['who']} {said}", str(uuid5(row["id"], "0")), None, details)
        )
    return steps


async def _about(database: Snapshot, table: str, payments: list[UUID], *, order: str = "payment_id") -> list[StoredRow]:
    sql = f"SELECT * FROM {table} WHERE payment_id = ANY($1::uuid[]) ORDER BY {order} LIMIT $2"  # noqa: S608 - constants of this module
    return await database.page(sql, payments, ROWS_MAX)


def _in_order(steps: list[TimelineStep]) -> tuple[TimelineStep, ...]:
    """Sort by time, but no step before its cause. Clocks differ between machines, and a transaction's time is that of its begin."""
    by_id = {name: step for step in reversed(steps) for name in (step.id, *step.produced)}

    def moments(step: TimelineStep) -> Iterator[datetime]:
        seen: set[str] = set()
        following: TimelineStep | None = step
        while following is not None and following.id not in seen:
            seen.add(following.id)
            yield following.at
            following = by_id.get(following.cause) if following.cause else None

    ranked = [(max(line), len(line), step.where, step) for step in steps if (line := list(moments(step)))]
    return tuple(step for *_, step in sorted(ranked, key=lambda ranking: ranking[:3]))


def _stands(row: StoredRow) -> str:
    facts = [money(row["amount_minor"], row["currency"]), f"now {row['status']}"]
    facts += [f"{name} {row[column]}" for name, column in (("as", "gateway_id"), ("because", "reason")) if row[column]]
    return ", ".join(fact for fact in facts if fact)
