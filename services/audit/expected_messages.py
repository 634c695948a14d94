"""The messages that must have been published, computed again from what each service stored: each by its derived id.

Only messages that are certain are expected: where a saga may or may not have sent a command, its journal decides, or nothing is expected.
Only the last weeks are covered, because an inbox deletes its ids after thirty days.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid5

from services.audit.align import StoredRow
from services.audit.invoice_events import WIRE_NAMES, exchange_of
from services.audit.routes import queues_for
from services.audit.stores import Stores

KEPT_DAYS = 29
"""One day less than an inbox keeps its ids."""
_SINCE = f"now() - interval '{KEPT_DAYS} days'"

_EVENTS = f"""
    SELECT stream_id, version, split_part(type, '.', 1) AS event, cause_id, cause_position, recorded_at FROM events
    WHERE split_part(type, '.', 1) = ANY($1::text[]) AND recorded_at > {_SINCE}"""  # noqa: S608 - constants, here and below
_OUTCOMES = f"""
    SELECT payment_id, version, message_id, exchange, routing_key, type, encode(sha256(body), 'hex') AS sha256, recorded_at
    FROM outcomes WHERE recorded_at > {_SINCE}"""  # noqa: S608
_STEPS = f"""
    SELECT * FROM (
        SELECT payment_id, version, from_status, to_status, fact, cause_id, at,
               coalesce(bool_or(fact IN ('InDoubt', 'NeedsDecision')) OVER earlier, false) AS doubted_before,
               coalesce(bool_or(fact = 'PaymentFailed') OVER earlier, false) AS failed_before,
               EXISTS (SELECT FROM sagas s WHERE s.payment_id = transitions.payment_id AND s.refunds IS NOT NULL) AS refunds_asked
        FROM transitions
        WINDOW earlier AS (PARTITION BY payment_id ORDER BY version ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ) steps WHERE at > {_SINCE}"""  # noqa: S608
_ORDERS = f"""
    SELECT id, action, subject, at FROM journal j
    WHERE (action IN ('ask', 'resolve', 'refund') OR (action IN ('discard', 'edit') AND details->>'closes' IS NOT NULL)) AND at > {_SINCE}
        AND NOT EXISTS (SELECT FROM journal u WHERE u.action = 'undo' AND u.subject = j.subject AND u.details->>'of' = j.id::text)"""  # noqa: S608

_UNTOLD = frozenset({"absent", "awaiting_outcome", "in_doubt", "needs_decision"})
_REFUND_FACTS = frozenset({"Refunded", "RefundInDoubt", "RefundFailed"})
_OF_ASKED_REFUNDS = frozenset({"RefundAsked", "RefundRecorded", "RefundMade", "RefundDoubted", "RefundUnmade"})
"""Facts about a refund that was asked for. What the saga said depends on the refund, which the journal of its steps does not tell."""
SETTLEMENT, TO_GATEWAY = "invoice.settlement", "payment_gateway.commands"
_REMINDED = {
    **dict.fromkeys(("awaiting_outcome", "in_doubt", "needs_decision", "refunding", "refund_in_doubt"), TO_GATEWAY),
    **dict.fromkeys(("settling", "failed", "refunded", "not_refunded"), SETTLEMENT),
}


@dataclass(frozen=True, slots=True)
class ExpectedMessage:
    """A message that `queue` must have received. `source`: the database of its sender. `about`: what to look at if it is missing."""

    id: UUID
    queue: str
    source: str
    about: str
    what: str
    since: datetime
    sha256: str | None = None


async def events(stores: Stores) -> AsyncIterator[ExpectedMessage]:
    """Events of the invoice service and outcomes of the payment gateway service, once for each queue bound to them."""
    async for row in stores.databases["invoice"].rows(_EVENTS, sorted(WIRE_NAMES)):
        id_ = uuid5(row["cause_id"], str(row["cause_position"]))
        for queue in queues_for(exchange_of(row["event"]), WIRE_NAMES[row["event"]]):
            what = f"its event {row['version']}, {row['event']},"
            yield ExpectedMessage(id_, queue, "invoice", row["stream_id"], what, row["recorded_at"])
    async for row in stores.databases["payment_gateway"].rows(_OUTCOMES):
        for queue in queues_for(row["exchange"], row["routing_key"]):
            what, about = f"its outcome {row['version']}, {row['type']},", str(row["payment_id"])
            yield ExpectedMessage(
                row["message_id"], queue, "payment_gateway", about, what, row["recorded_at"], row["sha256"]
            )


async def commands(stores: Stores) -> AsyncIterator[ExpectedMessage]:
    """Commands that sagas and people sent to the services."""
    async for row in stores.databases["saga"].rows(_STEPS):
        queue = first_command(row)
        if queue is not None:
            id_, what = uuid5(row["cause_id"], "0"), f"the command of its saga at step {row['version']}, {row['fact']},"
            yield ExpectedMessage(id_, queue, "saga", str(row["payment_id"]), what, row["at"])
    async for row in stores.databases["staff"].rows(_ORDERS):
        queue = SETTLEMENT if row["action"] in {"discard", "edit", "refund"} else TO_GATEWAY
        what = f"a person's decision ({row['action']})"
        yield ExpectedMessage(uuid5(row["id"], "0"), queue, "staff", str(row["subject"]), what, row["at"])


def first_command(step: StoredRow) -> str | None:
    """The queue of the first command that the saga sent at this step of its journal; None: it sent none, or the journal cannot tell."""
    before, fact, after = step["from_status"], step["fact"], step["to_status"]
    if fact == "DeadlineFired":
        return None if step["refunds_asked"] else _REMINDED.get(before)
    if after == "refunding" != before:
        return TO_GATEWAY
    if fact == "PaymentRequested" and before == after:
        return SETTLEMENT  # the invoice still waits for what it had recorded: it is told again
    if fact in _OF_ASKED_REFUNDS:
        return None
    tells_invoice = (
        (after == "settling" != before)
        or (fact in {"Declined", "NotCharged"} and before in _UNTOLD)
        or (fact in {"InDoubt", "NeedsDecision"} and before in _UNTOLD and not step["doubted_before"])
        or (fact in _REFUND_FACTS and (before in _UNTOLD or (before == "settling" and not step["failed_before"])))
    )
    return SETTLEMENT if tells_invoice else None
