"""Consistent books: a small history in the raw tables of all four services, the gateway's ledger, and the sender's own records.

Everything is written with SQL, since the audit reads raw tables. Ids are derived from the ids of causes.
"""

import copy
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson

from services.audit.evidence import Baseline, Evidence, FaultRunReport, open_tap
from services.audit.queues import QueueState
from services.audit.stores import DATABASES, LedgerSnapshot, Snapshot, Sources, Stores
from shared.messaging.topology import QUEUE_NAMES
from tests.support.databases import connect, truncate

if TYPE_CHECKING:
    from tests.support.databases import Connection

SCHEMA = Path(__file__).parents[3] / "deploy" / "sandbox" / "schema.sql"
LEDGER, HISTORY, TAP, RUN, LOGS, COUNTS = (
    "ledger.sqlite",
    "history.jsonl",
    "tap.jsonl",
    "run.json",
    "logs",
    "counts.json",
)
LONG_AGO = datetime.now(UTC) - timedelta(days=2)
"""Older than any grace period, and younger than the retention of an inbox, by the database's clock."""
RUN_REPORT: dict[str, Any] = {
    "planned": [{"name": "shell.before_commit:1:exit", "fired": 1}, {"name": "broker killed", "fired": 2}],
    "seen": {"duplicates": 12, "redeliveries": 3, "in_doubt": 4, "conflicts": 2},
    "planted": [
        {"name": "inbox off", "expected": "events_delivered", "red": ["events_delivered", "sagas_step_legally"]}
    ],
}
QUEUES = {name: QueueState() for name in QUEUE_NAMES}
INBOX_OF = {
    "invoice.settlement": "invoice",
    "saga.events": "saga",
    "payment_gateway.requests": "payment_gateway",
    "payment_gateway.commands": "payment_gateway",
    "staff.cases": "staff",
}
HEARD_BY = {
    "PaymentRequested": ("payment_gateway.requests",),
    "Paid": ("saga.events",),
    "PaymentFailed": ("saga.events",),
    "SettlementRejected": ("saga.events",),
    "PaymentInDoubt": ("saga.events", "staff.cases"),
    "PaymentNeedsDecision": ("saga.events", "staff.cases"),
    "PaymentCaptured": ("saga.events",),
    "PaymentDeclined": ("saga.events",),
    "PaymentNotCharged": ("saga.events",),
    "PaymentRefunded": ("saga.events",),
    "RefundRequested": ("saga.events", "staff.cases"),
    "Refunded": ("saga.events", "staff.cases"),
}
"""The queues that receive each message of these books."""


def command(name: str) -> UUID:
    """The id of a command in this history."""
    return uuid5(UUID(int=7), f"command {name}")


def payment(name: str) -> UUID:
    """The id of a payment in this history."""
    return uuid5(UUID(int=7), f"payment {name}")


def refund(name: str) -> UUID:
    """The id of a refund in this history."""
    return uuid5(UUID(int=7), f"refund {name}")


PART_MINOR = 500
AMOUNT: dict[str, Any] = {"amount_minor": 1250, "currency": "EUR"}
MEMBERS_OF: dict[str, dict[str, Any]] = {
    "PaymentCaptured": AMOUNT,
    "PaymentRefunded": AMOUNT,
    "PaymentInDoubt": AMOUNT | {"reason": "in_doubt"},
    "PaymentNeedsDecision": AMOUNT | {"reason": "needs_decision"},
}
"""What outcomes say beside the payment that they are about."""
EVIDENCE = "HTTP 200 Zahlung bestätigt " + "x" * 273 + "…"
"""As a gateway of a country may word it, and longer than outcomes tell."""
EVIDENCE_TOLD = "HTTP 200 Zahlung best?tigt " + "x" * 273
OF_COMMANDS = frozenset({"Issued", "PaymentRequested", "Voided", "RefundRequested"})
"""Events that are correlated as the commands of their sender are."""


@dataclass
class FinishedBooks:
    """Writes to the stores. Each step happens one second after the previous one."""

    databases: "Connections"
    ledger: sqlite3.Connection
    folder: Path
    run: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(RUN_REPORT))
    baselines: tuple[Baseline, ...] = (Baseline(connections=dict.fromkeys(DATABASES, 5), memory_mib={}),)
    queues: dict[str, QueueState | None] = field(default_factory=lambda: {**QUEUES})
    lost: frozenset[str] = frozenset()
    unacked: dict[str, int] | None = None
    stuck: dict[str, int] | None = field(default_factory=dict)
    closing: ExitStack = field(default_factory=ExitStack)
    now: datetime = LONG_AGO

    @property
    def history(self) -> Path:
        return self.folder / HISTORY

    def tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def stores(self, settled_before: datetime | None = None) -> Stores:
        """The stores as the audit sees them, uncommitted writes included."""
        snapshots = {name: Snapshot(connection) for name, connection in self.databases.items()}
        tap = self.closing.enter_context(open_tap(self.folder / TAP))
        evidence = Evidence(
            tap,
            FaultRunReport.model_validate(self.run),
            self.baselines,
            logs=self.folder / LOGS,
            lost=self.lost,
            unacked=self.unacked,
            stuck=self.stuck,
        )
        return Stores(snapshots, LedgerSnapshot(self.ledger), self.history, self.queues, settled_before, evidence)

    # -- what the broker delivered

    def record_delivery(self, queue: str, message_id: object, body: bytes) -> None:
        entry = {"queue": queue, "message_id": str(message_id), "type": "any", "sha256": sha256(body).hexdigest()}
        with (self.folder / TAP).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    async def deliver(self, queue: str, message_id: UUID, body: bytes = b"{}") -> None:
        """Deliver a message to a queue, and record that it was handled."""
        self.record_delivery(queue, message_id, body)
        await self.databases[INBOX_OF[queue]].execute(
            "INSERT INTO inbox (message_id, handled_at) VALUES ($1, $2) ON CONFLICT DO NOTHING", message_id, self.now
        )

    # -- what each service writes

    async def insert(self, database: str, table: str, **values: Any) -> None:
        names = ", ".join(values)
        places = ", ".join(f"${at}" for at in range(1, len(values) + 1))
        await self.databases[database].execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *values.values())

    async def send(self, name: str, type_: str, *, invoice: str | None, reason: str | None = None) -> UUID:
        """A command with its answer."""
        self.record(name)
        await self.insert(
            "invoice",
            "answers",
            command_id=command(name),
            command_type=f"remit.invoice.{type_}.v1",
            invoice_id=invoice,
            answer="rejected" if reason else "accepted",
            reason=reason,
            correlation_id=str(command(name)),
            answered_at=self.tick(),
        )
        return command(name)

    def record(self, name: str, *, confirmed: bool = True) -> None:
        with self.history.open("a") as file:
            file.write(json.dumps({"command_id": str(command(name)), "type": "any", "confirmed": confirmed}) + "\n")
        if confirmed:
            self.record_delivery("invoice.commands", command(name), b"{}")

    async def event(self, invoice: str, version: int, type_: str, cause: UUID, /, **data: Any) -> UUID:
        """A stored event; returns the id of the message that publishes it."""
        await self.insert(
            "invoice",
            "events",
            stream_id=invoice,
            version=version,
            type=f"{type_}.1",
            data=data,
            cause_id=cause,
            cause_position=0,
            correlation_id=str(cause) if type_ in OF_COMMANDS else "c",
            recorded_at=self.tick(),
        )
        message_id = uuid5(cause, "0")
        for queue in (
            HEARD_BY.get(type_, ()) if type_ != "PaymentInDoubt" else ()
        ):  # no queue receives the invoice's own doubt
            await self.deliver(queue, message_id)
        return message_id

    async def state(self, invoice: str, status: str, version: int, **more: Any) -> None:
        values = {"customer_id": "C-1", "amount_minor": 1250, "currency": "EUR"} | more
        await self.insert(
            "invoice", "invoices", invoice_id=invoice, status=status, version=version, updated_at=self.now, **values
        )

    async def request(self, name: str, version: int = 2, *, pending: bool = False) -> UUID:
        """INV-name is issued, and its payment is requested; returns the id of the request's message."""
        invoice = f"INV-{name}"
        await self.event(
            invoice, 1, "Issued", await self.send(f"issue {name}", "IssueInvoice", invoice=invoice), **_ISSUED
        )
        requested = await self.event(
            invoice,
            version,
            "PaymentRequested",
            await self.send(f"pay {name}", "PayInvoice", invoice=invoice),
            payment_id=str(payment(name)),
            amount_minor=1250,
            currency="EUR",
            method={"kind": "token", "fingerprint": "pm_card_visa"},
        )
        await self.insert(
            "invoice",
            "payments",
            payment_id=payment(name),
            invoice_id=invoice,
            version=version,
            pending=pending,
            announced_at=self.now,
        )
        return requested

    async def row(
        self, name: str, status: str, version: int, cause: UUID, *, cancelled: bool = False, **more: Any
    ) -> None:
        """The payment gateway service's row, prepared and confirmed at the gateway."""
        values: dict[str, Any] = {"was_case": False}
        values |= {"receipt_number": f"ch_{name}"} if status in {"captured", "refunded"} else {}
        await self.insert(
            "payment_gateway",
            "payments",
            payment_id=payment(name),
            invoice_id=f"INV-{name}",
            amount_minor=1250,
            currency="EUR",
            params_hash=b"hash",
            status=status,
            version=version,
            method_token="pm_card_visa",
            gateway_id=f"pi_{name}",
            rung=0,
            key_number=1,
            cause_id=cause,
            correlation_id="c",
            fence=1,
            created_at=self.now,
            updated_at=self.now,
            **values | more,
        )
        answered = {"needs_decision": "unknown", "refunded": "captured"}.get(status, status)
        cancel = (("cancel", "cancelled"),) if cancelled else ()
        for seq, (step, answer) in enumerate((("prepare", "prepared"), ("execute", answered), *cancel)):
            await self.insert(
                "payment_gateway",
                "attempts",
                payment_id=payment(name),
                fence=1,
                seq=seq,
                at=(at := self.tick()),
                recorded_at=at,
                step=step,
                answer=answer,
                evidence=EVIDENCE,
                idempotency_key=f"{payment(name)}:{step}:1",
            )
        self.confirm(name)

    async def told_attempts(self, name: str) -> list[dict[str, str]]:
        """The recorded answers of a payment as an outcome tells them."""
        recorded = await self.databases["payment_gateway"].fetch(
            "SELECT at, step, answer FROM attempts WHERE payment_id = $1 ORDER BY seq", payment(name)
        )
        return [{**row, "at": row["at"].isoformat(), "evidence": EVIDENCE_TOLD} for row in recorded]

    async def outcome(
        self, name: str, version: int, type_: str, cause: UUID, *, case: bool = False, **said: Any
    ) -> UUID:
        """An announced outcome; returns the id of its message. `case`: staff receive it, too."""
        message_id = uuid5(payment(name), str(version))
        wire_name = f"remit.payment_gateway.{type_}.v1"
        data = {"payment_id": str(payment(name)), "invoice_id": f"INV-{name}", "version": version}
        data |= (
            MEMBERS_OF.get(type_, {}) | ({"receipt_number": f"ch_{name}"} if type_ == "PaymentCaptured" else {}) | said
        )
        about = {"id": str(message_id), "type": wire_name, "correlationid": "c", "causationid": str(cause)}
        body = orjson.dumps({**about, "data": data})
        await self.insert(
            "payment_gateway",
            "outcomes",
            payment_id=payment(name),
            version=version,
            message_id=message_id,
            exchange="payment.events",
            routing_key=f"{wire_name}.case" if case else wire_name,
            type=wire_name,
            correlation_id="c",
            body=body,
            recorded_at=self.tick(),
        )
        for queue in (*HEARD_BY[type_], *(("staff.cases",) if case else ())):
            await self.deliver(queue, message_id, body)
        return message_id

    async def saga(self, name: str, *steps: tuple[str, str, UUID], fired: bool = True, **known: Any) -> None:
        """The saga's steps (status, fact, cause) from its start, what it `known` by then, and its deadline."""
        before = "absent"
        for version, (status, fact, cause) in enumerate(steps, start=1):
            await self.insert(
                "saga",
                "transitions",
                payment_id=payment(name),
                version=version,
                from_status=before,
                to_status=status,
                fact=fact,
                cause_id=cause,
                correlation_id="c",
                at=self.tick(),
            )
            before = status
            for queue in ("invoice.settlement", "payment_gateway.commands"):  # deliver every command of the saga
                await self.deliver(queue, uuid5(cause, "0"))
        told = {
            "failure_recorded": any(fact == "PaymentFailed" for _, fact, _ in steps),
            "flagged": any(status in {"in_doubt", "needs_decision"} for status, _, _ in steps),
        }
        values = {"payment_version": 0, "repeats": 0, "deadline": 1} | told
        await self.insert(
            "saga",
            "sagas",
            payment_id=payment(name),
            invoice_id=f"INV-{name}",
            status=before,
            version=len(steps),
            deadline_s=None if fired else 60.0,
            updated_at=self.now,
            **values | known,
        )
        await self.insert(
            "saga",
            "deadlines",
            id=uuid5(payment(name), "deadline:1"),
            payment_id=payment(name),
            number=1,
            correlation_id="c",
            due_at=self.now,
            fired_at=self.now if fired else None,
        )

    async def case(self, name: str, status: str, version: int, **more: Any) -> None:
        values = {"amount_minor": 1250, "currency": "EUR", "gateway_id": f"pi_{name}", "attempts_version": version}
        await self.insert(
            "staff",
            "cases",
            payment_id=payment(name),
            invoice_id=f"INV-{name}",
            correlation_id="c",
            status=status,
            version=version,
            reason="needs_decision" if status == "needs_decision" else None,
            details={"attempts": await self.told_attempts(name), "refusals": [], "decision": None},
            opened_at=self.now,
            updated_at=self.now,
            **values | more,
        )

    async def heard(self, name: str) -> None:
        """What staff heard of a payment, of an instance and of a queue."""
        about = {"invoice_id": f"INV-{name}"}
        await self.insert(
            "staff",
            "messages",
            id=command(f"heard {name}"),
            at=self.now,
            type=18,
            payment_id=payment(name),
            cause=command(name),
            facts={"amount_minor": 1_250, "currency": "EUR", "reason": "no_readable_answer"},
            **about,
        )
        await self.insert(
            "staff",
            "invoices",
            customer_id="C-1",
            amount_minor=1_250,
            currency="EUR",
            status="in_doubt",
            issued_at=self.now,
            changed_at=self.now,
            **about,
        )
        await self.insert(
            "staff",
            "payments",
            payment_id=payment(name),
            amount_minor=1_250,
            currency="EUR",
            status="needs_decision",
            version=1,
            reference_code="PF-7KQ2MX9D",
            gateway_id=f"pi_{name}",
            correlation_id="c",
            requested_at=self.now,
            **about,
        )
        await self.insert(
            "staff",
            "commands",
            command_id=command(name),
            type="remit.invoice.IssueInvoice.v1",
            answer="rejected",
            reason="already_issued",
            at=self.now,
            **about,
        )
        await self.insert(
            "staff",
            "instances",
            instance="host:1",
            service="saga",
            said_at=self.now,
            heard_at=self.now,
            first_at=self.now,
            state={"version": "1", "not_ready": {}},
        )
        await self.insert("staff", "queues", name="saga.events", messages=0, consumers=1, seen_at=self.now)

    async def door(self) -> None:
        """What only the door reads: the token of a sender, and a command that was set aside and waits for staff."""
        await self.insert(
            "invoice",
            "sender_tokens",
            id=command("token"),
            sender="shop",
            hash=b"token",
            made_at=self.now,
            ends_at=self.now,
        )
        await self.insert("invoice", "set_aside", command_id=command("poison"), reason="not_json")

    async def desk(self) -> None:
        """Somebody who signed in and used the desk, a program's token, and what the desk keeps beside its work."""
        ada, program = command("Ada"), command("program")
        await self.insert("staff", "people", id=ada, name="Ada", roles=["admin"], login="sso Ada", made_at=self.now)
        await self.act("person", "add_person", ada, name="Ada", roles=["admin"])
        told = {"name": "nightly report", "roles": ["viewer"], "ends_at": self.now.isoformat()}
        await self.act("token", "add_token", program, **told)
        await self.act("setting", "change_setting", ada, setting="edit_and_replay", after={"value": False})
        await self.insert(
            "staff",
            "tokens",
            id=program,
            name="nightly report",
            hash=b"token",
            roles=["viewer"],
            made_at=self.now,
            ends_at=self.now,
        )
        await self.insert(
            "staff", "sessions", hash=b"cookie", person_id=ada, began_at=self.now, seen_at=self.now, kept={"why": "x"}
        )
        await self.insert(
            "staff", "sign_ins", state=b"state", begun_at=self.now, nonce="nonce", verifier="verifier", page="/cases"
        )
        await self.insert(
            "staff", "requests", once=ada, at=self.now, who="Ada", act="replay", result={"text": "replayed"}
        )
        await self.insert("staff", "settings", name="edit_and_replay", value=False, at=self.now, who="Ada")
        await self.insert("staff", "journal_check", only_row=True)
        asks = {"reason": "x"}
        proposed = {
            "action": "propose",
            "subject": payment("waiting"),
            "details": asks | {"act": "refund", "version": 1},
        }
        await self.insert("staff", "journal", id=ada, at=self.now, who="Ada", **proposed)
        await self.insert(
            "staff",
            "proposals",
            id=ada,
            payment_id=payment("waiting"),
            version=1,
            act="refund",
            asks=asks,
            proposed_by="Ada",
            via="desk",
            proposed_at=self.now,
            state="open",
        )
        await self.insert(
            "staff",
            "replay_runs",
            no=2,
            id=ada,
            state="previewed",
            step="one",
            title="not_json",
            filter={},
            bins={},
            made_by="Ada",
            made_at=self.now,
            rate=1,
            total=1,
        )
        item = {"run_no": 2, "position": 1, "letter_id": command("letter of a run"), "state": 8, "may_charge": False}
        await self.insert("staff", "replay_items", **item, first_seen=self.now)

    async def dead_letter(self, name: str, message_id: UUID, **changes: Any) -> None:
        values: dict[str, Any] = {
            "queue": "invoice.commands",
            "reason": "not_json",
            "body": b"{}",
            "status": "open",
        } | changes
        self.record_delivery("dead-letters", command(f"dead letter {name}"), values["body"] or b"")
        await self.insert(
            "staff",
            "dead_letters",
            **{
                "id": command(f"dead letter {name}"),
                "origin": "remit",
                "tries": 1,
                "generation": 0,
                "message_id": str(message_id),
                "content_type": "application/cloudevents+json",
                "headers": {},
                "body_bytes": len(values["body"] or b""),
                "replays": 0,
                "seen": 1,
                "first_seen": self.now,
                "last_seen": self.now,
            }
            | values,
        )

    async def act(self, name: str, action: str, subject: UUID, /, **details: Any) -> UUID:
        """A person's entry in the journal; returns the id of the message that it caused."""
        entry = command(f"entry {name}")
        await self.insert(
            "staff", "journal", id=entry, at=self.now, who="Ada", action=action, subject=subject, details=details
        )
        return uuid5(entry, "0")

    async def discarded(self, name: str) -> None:
        """An unreadable command that a person discarded; its sender was answered."""
        settled = {"status": "discarded", "settled_by": "Ada", "settled_at": self.now, "settled_reason": "poison"}
        await self.dead_letter(name, command(name), event_id=command(name), **settled)
        closing = await self.act(name, "discard", command(f"dead letter {name}"), closes=str(command(name)))
        await self.deliver("invoice.settlement", closing)
        await self.send(name, "PayInvoice", invoice=None, reason="discarded")

    async def replayed(self, name: str) -> None:
        """A command that was dead-lettered for want of a handler, then replayed by a person, then answered."""
        settled = {"status": "replayed", "settled_by": "Ada", "settled_at": self.now, "replays": 1}
        await self.dead_letter(name, command(name), event_id=command(name), **settled)
        await self.act(name, "replay", command(f"dead letter {name}"))
        await self.of_run(1, name, state=2, entry_id=command(f"entry {name}"))
        await self.send(name, "PayInvoice", invoice=None, reason="unknown_invoice")

    async def of_run(self, position: int, name: str, *, state: int, entry_id: UUID | None) -> None:
        """A dead letter in the list of a replay of many."""
        letter = command(f"dead letter {name}")
        values = {"run_no": 1, "position": position, "letter_id": letter, "state": state, "entry_id": entry_id}
        await self.insert("staff", "replay_items", **values, may_charge=False, first_seen=self.now)

    # -- what the gateway writes

    def write(self, sql: str, *values: Any) -> None:
        self.ledger.execute(sql, values)

    def intent(self, intent: str, metadata: dict[str, str]) -> None:
        self.write(
            "INSERT INTO payment_intents (id, amount, currency, payment_method, method_attached, metadata, status, created)"
            " VALUES (?, 1250, 'eur', 'pm_card_visa', 1, ?, 'any', ?)",
            *(intent, json.dumps(metadata), int(self.now.timestamp())),
        )

    def confirm(self, name: str) -> None:
        self.intent(f"pi_{name}", {"payment_id": str(payment(name)), "invoice_id": f"INV-{name}"})
        self.write(
            "INSERT INTO confirms (at, kind, payment_intent, idempotency_key, result) VALUES (?, 'confirm', ?, ?, '200')",
            *(self.now.timestamp(), f"pi_{name}", f"{payment(name)}:execute:1"),
        )
        self.key(f"{payment(name)}:execute:1", "hash")

    def key(self, key: str, parameters: str) -> None:
        self.write(
            "INSERT INTO idempotency_keys (key, path, parameters_sha256, status, body, created) VALUES (?, '/', ?, 200, '', 0)",
            *(key, parameters),
        )

    def charge(self, charge: str, intent: str, *, amount: int = 1250, method: str = "pm_card_visa") -> None:
        self.write(
            "INSERT INTO charges VALUES (?, ?, ?, 'eur', ?, ?)",
            *(charge, intent, amount, method, int(self.now.timestamp())),
        )

    def refund(self, charge: str, intent: str, *, amount: int = 1250, of: UUID | None = None) -> None:
        """`of`: the id by which we know it, as its metadata holds it."""
        self.write(
            "INSERT INTO refunds (id, payment_intent, charge, amount, currency, status, created)"
            " VALUES (?, ?, ?, ?, 'eur', 'succeeded', ?)",
            *(f"re_{charge}_{amount}", intent, charge, amount, int(self.now.timestamp())),
        )
        if of is not None:
            self.write(
                "INSERT INTO refund_details SELECT ?, json_set(metadata, '$.refund_id', ?), NULL FROM payment_intents WHERE id = ?",
                *(f"re_{charge}_{amount}", str(of), intent),
            )

    def dispute(self, charge: str, intent: str) -> None:
        self.write(
            "INSERT INTO disputes VALUES (?, ?, ?, 1250, 'eur', 'needs_response', ?)",
            *(f"du_{charge}", charge, intent, int(self.now.timestamp())),
        )

    # -- whole stories

    async def paid(self, name: str) -> None:
        """A payment that was requested, captured and recorded."""
        requested = await self.request(name)
        await self.row(name, "captured", 3, requested)
        self.charge(f"ch_{name}", f"pi_{name}")
        captured = await self.outcome(name, 3, "PaymentCaptured", requested)
        paid = await self.event(f"INV-{name}", 3, "Paid", uuid5(captured, "0"), **_paid(name))
        await self.state(f"INV-{name}", "paid", 3, payment_id=payment(name), receipt_number=f"ch_{name}")
        await self.saga(
            name,
            ("settling", "Captured", captured),
            ("completed", "Paid", paid),
            **_captured(name, 3),
        )

    async def parted(self, name: str) -> None:
        """A paid invoice of which upstream asked a part back."""
        invoice, part = f"INV-{name}", refund(name)
        requested = await self.request(name)
        self.charge(f"ch_{name}", f"pi_{name}")
        captured = await self.outcome(name, 3, "PaymentCaptured", requested)
        paid = await self.event(invoice, 3, "Paid", uuid5(captured, "0"), **_paid(name))
        about = {
            "payment_id": str(payment(name)),
            "refund_id": str(part),
            "amount_minor": PART_MINOR,
            "currency": "EUR",
        }
        asked = await self.event(
            invoice,
            4,
            "RefundRequested",
            await self.send(f"refund {name}", "RefundInvoice", invoice=invoice),
            **about,
            reason="damaged",
            requested_by=None,
        )
        make = uuid5(asked, "0")
        await self.row(name, "captured", 5, make, settled_as="captured")
        await self.insert(
            "payment_gateway",
            "refunds",
            payment_id=payment(name),
            refund_id=part,
            position=1,
            reason="damaged",
            asked_minor=PART_MINOR,
            status="refunded",
            amount_minor=PART_MINOR,
            by_hand_minor=0,
            version=5,
            key_number=1,
            gateway_id=f"re_ch_{name}_{PART_MINOR}",
            updated_at=self.now,
        )
        about_it = {"invoice_id": invoice, "refund_id": part, "payment_id": payment(name), "version": 4}
        await self.insert("invoice", "refunds", **about_it, pending=False, announced_at=self.now)
        self.refund(f"ch_{name}", f"pi_{name}", amount=PART_MINOR, of=part)
        made = await self.outcome(
            name,
            5,
            "PaymentRefunded",
            make,
            amount_minor=PART_MINOR,
            currency="EUR",
            refund_id=f"re_ch_{name}_{PART_MINOR}",
            refund={"refund_id": str(part), "refunded_minor": PART_MINOR, "left_minor": 1250 - PART_MINOR},
        )
        recorded = await self.event(
            invoice, 5, "Refunded", uuid5(made, "0"), **about, refunded_minor=PART_MINOR, version=5
        )
        known = {
            "refund_id": str(part),
            "asked_minor": PART_MINOR,
            "status": "refunded",
            "refunded_minor": PART_MINOR,
            "version": 5,
        }
        paid_by = {"payment_id": payment(name), "receipt_number": f"ch_{name}"}
        await self.state(invoice, "paid", 5, **paid_by, refunds=[known])
        kept = {"refund_id": str(part), "asked_minor": PART_MINOR, "status": "made", "version": 5, "is_recorded": True}
        await self.saga(
            name,
            ("settling", "Captured", captured),
            ("completed", "Paid", paid),
            ("completed", "RefundAsked", asked),
            ("completed", "RefundMade", made),
            ("completed", "RefundRecorded", recorded),
            **_captured(name, 3),
            refunds=[kept | {"amount_minor": PART_MINOR, "currency": "EUR"}],
        )

    async def declined(self, name: str) -> None:
        """A payment that was requested and declined; the invoice recorded it."""
        requested = await self.request(name)
        await self.row(name, "declined", 4, requested, cancelled=True, reason="card_declined")
        declined = await self.outcome(name, 4, "PaymentDeclined", requested, reason="card_declined")
        failed = await self.event(
            f"INV-{name}",
            3,
            "PaymentFailed",
            uuid5(declined, "0"),
            payment_id=str(payment(name)),
            outcome="declined",
            reason="card_declined",
        )
        await self.state(f"INV-{name}", "open", 3)
        await self.saga(
            name,
            ("failed", "Declined", declined),
            ("failed", "PaymentFailed", failed),
            payment_version=4,
            failure_outcome="declined",
            failure_reason="card_declined",
        )

    async def waiting(self, name: str) -> None:
        """The outcome is unknown, and a person is asked. In truth it was captured."""
        requested = await self.request(name, pending=True)
        due_at = datetime.now(UTC) + timedelta(hours=1)
        await self.row(name, "needs_decision", 4, requested, due_at=due_at, was_case=True)
        self.charge(f"ch_{name}", f"pi_{name}")
        doubt = await self.outcome(name, 3, "PaymentInDoubt", requested)
        needs = await self.outcome(name, 4, "PaymentNeedsDecision", requested, attempts=await self.told_attempts(name))
        await self.event(f"INV-{name}", 3, "PaymentInDoubt", uuid5(doubt, "0"), payment_id=str(payment(name)))
        await self.state(f"INV-{name}", "in_doubt", 3, payment_id=payment(name))
        await self.saga(
            name,
            ("in_doubt", "InDoubt", doubt),
            ("needs_decision", "NeedsDecision", needs),
            fired=False,
            payment_version=4,
        )
        await self.case(name, "needs_decision", 4)
        await self.heard(name)

    async def decided(self, name: str) -> None:
        """A person saw the money, and decided."""
        requested = await self.request(name)
        decided = {
            "resolution": "captured",
            "expected_version": 4,
            "receipt_number": f"ch_{name}",
            "evidence": "seen in the gateway's books",
            "reason": "the gateway is silent",
        }
        decision = await self.act(name, "resolve", payment(name), **decided)
        head = await self.databases["staff"].fetchval(
            "SELECT position || ':' || encode(hash, 'hex') FROM journal WHERE subject = $1", payment(name)
        )
        await self.deliver("payment_gateway.commands", decision)
        due_at = datetime.now(UTC) + timedelta(hours=1)
        await self.row(name, "captured", 5, decision, decided_by="Ada", due_at=due_at, was_case=True)
        self.charge(f"ch_{name}", f"pi_{name}")
        needs = await self.outcome(name, 4, "PaymentNeedsDecision", requested)
        captured = await self.outcome(name, 5, "PaymentCaptured", decision, case=True, decided_by="Ada")
        paid = await self.event(f"INV-{name}", 3, "Paid", uuid5(captured, "0"), **_paid(name))
        await self.state(f"INV-{name}", "paid", 3, payment_id=payment(name), receipt_number=f"ch_{name}")
        await self.saga(
            name,
            ("needs_decision", "NeedsDecision", needs),
            ("settling", "Captured", captured),
            ("completed", "Paid", paid),
            **_captured(name, 5),
        )
        await self.insert(
            "payment_gateway",
            "decisions",
            message_id=decision,
            payment_id=payment(name),
            decided_by="Ada",
            decided_at=self.now,
            journal_head=head,
            **decided,
        )
        await self.case(name, "captured", 5, decided_by="Ada")

    async def late(self, name: str) -> None:
        """A failure was recorded, then the capture was found, and the saga had it refunded."""
        requested = await self.request(name)
        not_charged = await self.outcome(name, 3, "PaymentNotCharged", requested, reason="any")
        captured = await self.outcome(name, 4, "PaymentCaptured", requested)
        refund = uuid5(captured, "0")
        await self.row(name, "refunded", 6, refund, cancelled=True, settled_as="captured")
        self.charge(f"ch_{name}", f"pi_{name}")
        self.refund(f"ch_{name}", f"pi_{name}")
        refunded = await self.outcome(name, 6, "PaymentRefunded", refund)
        failed = await self.event(
            f"INV-{name}",
            3,
            "PaymentFailed",
            uuid5(not_charged, "0"),
            payment_id=str(payment(name)),
            outcome="not_charged",
            reason="any",
        )
        await self.state(f"INV-{name}", "open", 3)
        await self.saga(
            name,
            ("failed", "NotCharged", not_charged),
            ("failed", "PaymentFailed", failed),
            ("refunding", "Captured", captured),
            ("refunded", "Refunded", refunded),
            **_captured(name, 6),
        )

    async def voided(self, name: str) -> None:
        """An invoice that was issued and voided; a payment of it is rejected."""
        invoice = f"INV-{name}"
        await self.event(
            invoice, 1, "Issued", await self.send(f"issue {name}", "IssueInvoice", invoice=invoice), **_ISSUED
        )
        await self.event(
            invoice, 2, "Voided", await self.send(f"void {name}", "VoidInvoice", invoice=invoice), reason="mistake"
        )
        await self.state(invoice, "void", 2)
        await self.send(f"pay {name}", "PayInvoice", invoice=invoice, reason="invoice_void")

    async def write_all(self) -> None:
        """One story of each kind; and commands that were dead-lettered, or whose confirm was lost."""
        await self.paid("paid")
        await self.declined("declined")
        await self.waiting("waiting")
        await self.decided("decided")
        await self.late("late")
        await self.voided("void")
        await self.parted("parted")
        self.record("poison")
        await self.dead_letter("poison", command("poison"), event_id=command("poison"))
        await self.discarded("discarded")
        await self.replayed("replayed")
        self.record("lost", confirmed=False)
        await self.door()
        await self.desk()


_ISSUED = {"customer_id": "C-1", "amount_minor": 1250, "currency": "EUR"}


def _captured(name: str, version: int) -> dict[str, Any]:
    """What a saga keeps of a capture, and the newest version that it heard of."""
    captured = {"captured_minor": 1250, "captured_currency": "EUR", "receipt_number": f"ch_{name}"}
    return {**captured, "payment_version": version}


def _paid(name: str) -> dict[str, Any]:
    return {
        "payment_id": str(payment(name)),
        "amount_minor": 1250,
        "currency": "EUR",
        "receipt_number": f"ch_{name}",
    }


Connections = Mapping[str, "Connection"]
"""A connection to each store."""


@asynccontextmanager
async def open_connections(databases: Mapping[str, str]) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as opened:
        connections = {}
        for name, url in databases.items():
            connections[name] = await connect(url)
            opened.push_async_callback(connections[name].close)
        yield connections


@asynccontextmanager
async def open_books(connections: Connections, folder: Path) -> AsyncIterator[FinishedBooks]:
    """Books in these stores, in one open transaction each, which is rolled back at the end; `write_books` keeps them."""
    with closing(sqlite3.connect(folder / LEDGER)) as ledger:
        ledger.row_factory = sqlite3.Row
        books = FinishedBooks(connections, ledger, folder)
        for connection in connections.values():
            await connection.execute("BEGIN")
        try:
            with books.closing:
                yield books
        finally:
            for connection in connections.values():
                await connection.execute("ROLLBACK")


async def write_books(databases: dict[str, str], folder: Path) -> None:
    """Replace what these stores hold with consistent books, and keep them."""
    for url in databases.values():
        await truncate(url)
    with closing(sqlite3.connect(folder / LEDGER)) as ledger:
        ledger.execute("PRAGMA journal_mode = WAL")
        ledger.executescript(SCHEMA.read_text())
    (folder / RUN).write_text(json.dumps(RUN_REPORT))
    (folder / LOGS).mkdir()
    counts = {"messages": 0, "messages_ready": 0, "messages_unacknowledged": 0}
    (folder / COUNTS).write_text(json.dumps([{"name": name, **counts} for name in QUEUES]))
    (folder / LOGS / "invoice.log").write_text('{"event": "requests_announced_again", "payments": 1}\n')
    async with open_connections(databases) as connections, open_books(connections, folder) as books:
        await books.write_all()
        books.ledger.commit()
        for connection in connections.values():
            await connection.execute("COMMIT; BEGIN")


def sources(
    databases: dict[str, str], rabbitmq_url: str | None, folder: Path, *, drained: bool = True, **more: Any
) -> Sources:
    """All stores of these books, by their addresses."""
    return Sources(
        databases,
        rabbitmq_url,
        folder / LEDGER,
        folder / HISTORY,
        drained=drained,
        tap=folder / TAP,
        run=folder / RUN,
        logs=folder / LOGS,
        unacked=folder / COUNTS,
        **more,
    )
