"""The SQL of what staff hear: one statement a table for a batch, and what the pages about it read.

Every write is a merge by the rules of `services.staff.heard`: a message that comes twice changes nothing, and the order does not matter. So
no inbox is needed. The one of this service would be wrong besides, since what staff journal also comes as the message of a case.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.staff.heard import Heard
from services.staff.stuck import InstanceSeen, QueueSeen
from shared.contracts.operations import Heartbeat
from shared.persistence.database import Connection, Tx
from shared.persistence.retention import RetentionRule

MESSAGES_KEPT_DAYS: Final = 90
WEEKS_AHEAD: Final = 2
"""How many weeks there are partitions for, ahead of time. If none could be made for so long, messages wait in `messages_other`."""
SUBJECTS_KEPT_DAYS: Final = 400
"""How long invoices, payments and commands are found after they have ended: more than a year, since that is how long a customer may ask."""
INSTANCES_KEPT_DAYS: Final = 1


# The age stands in both conditions: a row that changed meanwhile stays.
INVOICES_RETENTION: Final = RetentionRule(
    "invoices that staff heard of",
    SUBJECTS_KEPT_DAYS,
    """DELETE FROM invoices WHERE invoice_id = ANY(ARRAY(
           SELECT invoice_id FROM invoices WHERE issued_at < now() - make_interval(days => $1)
               AND changed_at < now() - make_interval(days => $1) ORDER BY issued_at LIMIT $2))
           AND changed_at < now() - make_interval(days => $1)""",
)
PAYMENTS_RETENTION: Final = RetentionRule(
    "payments that staff heard of",
    SUBJECTS_KEPT_DAYS,
    """DELETE FROM payments WHERE payment_id = ANY(ARRAY(
           SELECT payment_id FROM payments WHERE settled_at < now() - make_interval(days => $1) ORDER BY settled_at LIMIT $2))
           AND settled_at < now() - make_interval(days => $1)""",
)
COMMANDS_RETENTION: Final = RetentionRule(
    "commands that staff heard of",
    SUBJECTS_KEPT_DAYS,
    """DELETE FROM commands WHERE command_id = ANY(ARRAY(
           SELECT command_id FROM commands WHERE at < now() - make_interval(days => $1) ORDER BY at LIMIT $2))""",
)
INSTANCES_RETENTION: Final = RetentionRule(
    "instances that are gone",
    INSTANCES_KEPT_DAYS,
    """DELETE FROM instances WHERE instance = ANY(ARRAY(
           SELECT instance FROM instances WHERE heard_at < now() - make_interval(days => $1) ORDER BY heard_at LIMIT $2))
           AND heard_at < now() - make_interval(days => $1)""",
)
RETENTION: Final = (INVOICES_RETENTION, PAYMENTS_RETENTION, COMMANDS_RETENTION, INSTANCES_RETENTION)

# -- writing -------------------------------------------------------------------------------------------------------------------------------

_MESSAGES: Final = f"""
    INSERT INTO messages (id, at, type, invoice_id, payment_id, cause, facts)
    SELECT id, at, type, invoice_id, payment_id, cause, facts FROM unnest($1::message_row[])
    WHERE at > now() - interval '{MESSAGES_KEPT_DAYS} days' ON CONFLICT DO NOTHING"""  # noqa: S608 - a constant
_INVOICES: Final = """
    INSERT INTO invoices AS i (invoice_id, customer_id, amount_minor, currency, status, issued_at, changed_at)
    SELECT invoice_id, customer_id, amount_minor, currency, status, issued_at, changed_at FROM unnest($1::invoice_row[])
    ON CONFLICT (invoice_id) DO UPDATE SET
        customer_id = least(i.customer_id, excluded.customer_id),
        amount_minor = least(i.amount_minor, excluded.amount_minor),
        currency = least(i.currency, excluded.currency),
        issued_at = least(i.issued_at, excluded.issued_at),
        (status, changed_at) = (SELECT s.status, s.changed_at
            FROM (VALUES (i.status, i.changed_at), (excluded.status, excluded.changed_at)) AS s (status, changed_at)
            ORDER BY s.status IN ('paid', 'void') DESC, s.changed_at DESC, s.status DESC LIMIT 1)"""
_PAYMENTS: Final = """
    INSERT INTO payments AS p (payment_id, invoice_id, amount_minor, currency, status, version, receipt_number, reference_code, gateway_id,
        correlation_id, requested_at, settled_at)
    SELECT payment_id, invoice_id, amount_minor, currency, status, version, receipt_number, reference_code, gateway_id, correlation_id,
        requested_at, settled_at FROM unnest($1::payment_row[])
    ON CONFLICT (payment_id) DO UPDATE SET
        invoice_id = least(p.invoice_id, excluded.invoice_id),
        amount_minor = least(p.amount_minor, excluded.amount_minor),
        currency = least(p.currency, excluded.currency),
        status = CASE WHEN excluded.version > p.version THEN excluded.status ELSE p.status END,
        settled_at = CASE WHEN excluded.version > p.version THEN excluded.settled_at ELSE p.settled_at END,
        version = greatest(p.version, excluded.version),
        receipt_number = least(p.receipt_number, excluded.receipt_number),
        reference_code = least(p.reference_code, excluded.reference_code),
        gateway_id = least(p.gateway_id, excluded.gateway_id),
        correlation_id = least(p.correlation_id, excluded.correlation_id),
        requested_at = least(p.requested_at, excluded.requested_at)"""
_COMMANDS: Final = """
    INSERT INTO commands AS c (command_id, type, invoice_id, answer, reason, at)
    SELECT command_id, type, invoice_id, answer, reason, at FROM unnest($1::command_row[])
    ON CONFLICT (command_id) DO UPDATE SET type = excluded.type, invoice_id = excluded.invoice_id, answer = excluded.answer,
        reason = excluded.reason, at = excluded.at
    WHERE (excluded.answer, excluded.at, coalesce(excluded.reason, ''), excluded.type, coalesce(excluded.invoice_id, ''))
        < (c.answer, c.at, coalesce(c.reason, ''), c.type, coalesce(c.invoice_id, ''))"""


async def save(writes: Tx, heard: Heard) -> None:
    """Collect the writes of a batch: one statement a table. Rows are in the order of their keys, so two batches never deadlock."""
    for statement, rows in (
        (_INVOICES, [_row(one) for one in heard.invoices]),
        (_PAYMENTS, [_row(one) for one in heard.payments]),
        (_COMMANDS, [_row(one) for one in heard.commands]),
        (_MESSAGES, [_row(one) for one in sorted(heard.messages, key=lambda message: message.id)]),
    ):
        if rows:
            await writes.execute(statement, rows)


def _row(record: object) -> Sequence[object]:
    """The values of a record in the order of its fields, which is that of the row's type."""
    return tuple(getattr(record, name) for name in record.__dataclass_fields__)  # type: ignore[attr-defined]


async def keep_weeks(connection: Connection) -> int:
    """Make the partitions of the coming weeks, and drop those that are too old. Returns how many. Safe to run at the same time twice."""
    return int(await connection.fetchval("SELECT keep_weeks_of_messages($1, $2)", WEEKS_AHEAD, MESSAGES_KEPT_DAYS))


# -- instances and queues --------------------------------------------------------------------------------------------------------------

_HEARTBEATS: Final = """
    INSERT INTO instances AS i (instance, service, said_at, heard_at, first_at, state)
    SELECT u.instance, u.service, u.said_at, now(), now(), u.state
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::jsonb[]) AS u (instance, service, said_at, state)
    ON CONFLICT (instance) DO UPDATE SET said_at = excluded.said_at, heard_at = excluded.heard_at, state = excluded.state
    WHERE excluded.said_at > i.said_at"""


async def keep_heartbeats(writes: Tx, heartbeats: Sequence[tuple[datetime, Heartbeat]]) -> None:
    """Keep the newest heartbeat of each instance, with the time that it names. The instances are sorted, each once."""
    await writes.execute(
        _HEARTBEATS,
        [heartbeat.instance for _, heartbeat in heartbeats],
        [heartbeat.service for _, heartbeat in heartbeats],
        [said_at for said_at, _ in heartbeats],
        [heartbeat.model_dump(mode="json", exclude={"service", "instance"}) for _, heartbeat in heartbeats],
    )


async def read_instances(connection: Connection) -> list[InstanceSeen]:
    """All instances that said something within the last day, by service."""
    rows = await connection.fetch(
        """SELECT instance, service, heard_at, state, extract(epoch FROM now() - heard_at)::float8 AS age_s
           FROM instances ORDER BY service, instance"""
    )
    return [
        InstanceSeen(
            row["instance"],
            row["service"],
            row["state"].get("version") or "",
            row["state"].get("not_ready") or {},
            row["state"].get("outbox_oldest_s"),
            row["state"].get("overdue"),
            row["state"].get("leases_held") or 0,
            row["heard_at"],
            row["age_s"],
        )
        for row in rows
    ]


_QUEUES: Final = """
    INSERT INTO queues AS q (name, messages, consumers, seen_at, still_since)
    SELECT u.name, u.messages, u.consumers, now(), CASE WHEN u.messages > 0 THEN now() END
    FROM unnest($1::text[], $2::bigint[], $3::int[]) AS u (name, messages, consumers) ORDER BY u.name
    ON CONFLICT (name) DO UPDATE SET messages = excluded.messages, consumers = excluded.consumers, seen_at = excluded.seen_at,
        still_since = CASE WHEN excluded.messages >= q.messages AND q.messages > 0 THEN coalesce(q.still_since, now())
            ELSE excluded.still_since END"""


async def keep_queues(tx: Tx, seen: Sequence[tuple[str, int | None, int]]) -> None:
    """Keep how many messages (None: the queue is not there) and consumers each queue had."""
    await tx.execute(
        _QUEUES,
        [name for name, _, _ in seen],
        [messages for _, messages, _ in seen],
        [consumers for _, _, consumers in seen],
    )


async def read_queues(connection: Connection) -> list[QueueSeen]:
    """Our queues as they were last seen."""
    rows = await connection.fetch(
        """SELECT name, messages, consumers, coalesce(extract(epoch FROM seen_at - still_since), 0)::float8 AS still_s,
               extract(epoch FROM now() - seen_at)::float8 AS age_s FROM queues ORDER BY name"""
    )
    return [
        QueueSeen(row["name"], row["messages"], row["consumers"] or 0, row["still_s"], row["age_s"]) for row in rows
    ]
