"""The check: all that is said of a payment tells one story."""

from collections.abc import Iterator
from datetime import datetime

from services.audit import payments
from services.audit.align import Keyed, align
from services.audit.bodies import event_of
from services.audit.finding import Tally
from services.audit.outcomes.case import of_case, without_case
from services.audit.outcomes.invoice import of_invoice
from services.audit.outcomes.refunds import of_refunds
from services.audit.outcomes.row import of_row
from services.audit.outcomes.saga import of_saga
from services.audit.outcomes.said import CASE_SUFFIX, Said, SaidOutcome
from services.audit.payments import nothing
from services.audit.stores import Stores

_OUTCOMES = """
    SELECT payment_id, version, message_id, exchange, routing_key, type, correlation_id, body, recorded_at FROM outcomes
    ORDER BY payment_id, version"""
_ROWS = """
    SELECT payment_id, invoice_id, amount_minor, currency, status, version, reason, advice, receipt_number, gateway_id, refund_id,
           decided_by, was_case, settled_as, gateway_side, created_at, updated_at FROM payments ORDER BY payment_id"""
_REFUNDS = """
    SELECT payment_id, refund_id::text AS refund_id, refund_id = payment_id AS is_of_saga, status, asked_minor, amount_minor,
           by_hand_minor, version, gateway_id, decided_by, asked_by, made_elsewhere FROM refunds ORDER BY payment_id, position"""
_SAGAS = """
    SELECT payment_id, invoice_id, status, payment_version, captured_minor, captured_currency, receipt_number, failure_outcome,
           failure_reason, failure_advice, refunds, updated_at FROM sagas ORDER BY payment_id"""
_CASES = """
    SELECT payment_id, invoice_id, status, version, reason, amount_minor, currency, gateway_id, decided_by, attempts_version, details,
           contradicted_version, contradicted_at, updated_at FROM cases ORDER BY payment_id"""
EXCHANGE = "payment.events"


async def outcomes_agree(counted: Tally, stores: Stores) -> None:
    """The columns of an outcome, the payment's row, its refunds, saga, case and invoice say what the outcome's message says."""
    if not stores.has("payment_gateway"):
        return
    gateway = stores.databases["payment_gateway"]
    sources: tuple[Keyed, ...] = (
        gateway.keyed(_OUTCOMES),
        gateway.keyed(_ROWS),
        gateway.keyed(_REFUNDS),
        stores.databases["saga"].keyed(_SAGAS) if stores.has("saga") else nothing(),
        stores.databases["staff"].keyed(_CASES) if stores.has("staff") else nothing(),
        payments.invoice_events(stores),
    )
    async for payment_id, (stored, rows, ours, sagas, cases, events) in align(*sources):
        outcomes = [SaidOutcome(row, event_of(row["type"], row["body"])) for row in stored]
        counted.look(len(outcomes))
        for outcome in outcomes:
            for why in _as_published(outcome):
                counted.breach(payment_id, f"outcome {outcome.row['version']}: {why}")
        since = max([one["updated_at"] for one in (*rows, *sagas, *cases)], default=None)
        said = Said(outcomes, rows, ours, sagas, cases, events)
        _compare(counted, payment_id, since, said, staff_seen=stores.has("staff"))


def _compare(counted: Tally, payment_id: str, since: datetime | None, said: Said, *, staff_seen: bool) -> None:
    for row in said.rows:
        for why in (
            *of_row(row, said),
            *of_refunds(row, said),
            *(why for saga in said.sagas for why in of_saga(saga, row, said)),
            *(why for case in said.cases for why in of_case(case, row, said)),
            *(without_case(said.outcomes) if staff_seen and not said.cases else ()),
        ):
            counted.breach(payment_id, why, since=since)
    for event in said.events:
        for why in of_invoice(event, said.outcomes):
            counted.breach(event["invoice_id"], why)


def _as_published(outcome: SaidOutcome) -> Iterator[str]:
    row, event = outcome.row, outcome.event
    if not event:
        return
    said = {
        "id": str(row["message_id"]),
        "type": row["type"],
        "correlationid": row["correlation_id"],
    }
    yield from (f"its message has another {name}" for name, value in said.items() if event.get(name) != value)
    inside = {"payment_id": str(row["payment_id"]), "version": row["version"]}
    yield from (f"its message says another {name}" for name, value in inside.items() if outcome.data.get(name) != value)
    if row["exchange"] != EXCHANGE or row["routing_key"] not in {row["type"], f"{row['type']}{CASE_SUFFIX}"}:
        yield "it was published to others than its type says"
