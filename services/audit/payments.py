"""What each store holds about payments, as streams sorted by payment id."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from services.audit.align import Keyed, StoredRow
from services.audit.bodies import event_data
from services.audit.stores import Stores

SETTLED = frozenset({"captured", "declined", "not_charged", "refunded"})
CHARGED = frozenset({"captured", "refunding", "refund_in_doubt", "refund_failed", "refunded"})
NOT_CHARGED = frozenset({"declined", "not_charged"})
CASES = frozenset({"in_doubt", "needs_decision", "refund_in_doubt", "refund_failed"})
"""Statuses that are cases for staff, of a payment here as of the case there."""
TRACES_KEPT_DAYS = 400
"""How long attempts, and the journal of a saga, are kept after the end of their payment."""

_INVOICE_EVENTS = """
    SELECT e.data->>'payment_id' AS payment_id, e.stream_id AS invoice_id, split_part(e.type, '.', 1) AS event, e.data,
           e.recorded_at, e.cause_id, e.cause_position,
           i.data->'amount_minor' AS issued_minor, i.data->>'currency' AS issued_currency,
           coalesce(p.announced, r.announced) AS announced
    FROM events e LEFT JOIN events i ON i.stream_id = e.stream_id AND i.type LIKE 'Issued.%' AND e.type LIKE 'PaymentRequested.%'
                  LEFT JOIN payments p ON p.payment_id::text = e.data->>'payment_id' AND e.type LIKE 'PaymentRequested.%'
                  LEFT JOIN refunds r ON r.invoice_id = e.stream_id AND r.refund_id::text = e.data->>'refund_id'
                       AND e.type LIKE 'RefundRequested.%'
    WHERE e.data ? 'payment_id' ORDER BY e.data->>'payment_id' COLLATE "C", e.version"""

_ROWS = """
    SELECT payment_id, invoice_id, amount_minor, currency, status, method_token, gateway_id, receipt_number, reason, decided_by, due_at,
           created_at, updated_at, settled_as, gateway_side, rung,
           EXISTS (SELECT 1 FROM decisions d WHERE d.payment_id = payments.payment_id AND d.refusal IS NULL
                       AND d.receipt_number = payments.receipt_number) AS receipt_decided,
           EXISTS (SELECT 1 FROM refunds r WHERE r.payment_id = payments.payment_id AND r.status = 'waiting') AS refund_waits,
           EXISTS (SELECT 1 FROM decisions d WHERE d.payment_id = payments.payment_id AND d.resolution = 'give_back' AND d.refusal IS NULL)
               AS given_back,
           params_hash IS NOT NULL AS requested, cause_id, attempts_forgotten_at,
           due_at < now() - make_interval(secs => $1) AS overdue, due_at > now() + make_interval(days => $2) AS far_off
    FROM payments ORDER BY payment_id"""

_DECISIONS = """
    SELECT payment_id, message_id, resolution, evidence, decided_by, decided_at FROM decisions WHERE refusal IS NULL
    ORDER BY payment_id, decided_at"""

FAILURE_AFTER: dict[str, str | None] = {
    "PaymentCaptured": None,
    "PaymentDeclined": "declined",
    "PaymentNotCharged": "not_charged",
    "PaymentInDoubt": None,
    "PaymentNeedsDecision": None,
    "PaymentRefunded": "not_charged",
    "PaymentRefundInDoubt": "not_charged",
    "PaymentRefundFailed": "not_charged",
    "PaymentInquired": None,
    "PaymentResolutionRefused": None,
}
"""For each type of outcome the failure that an invoice may record, because nothing was charged or the money goes back. None: no failure."""

_FAILURES = """
    SELECT payment_id, split_part(type, '.', 3) AS type FROM outcomes WHERE split_part(type, '.', 3) = ANY($1::text[])
    ORDER BY payment_id, version"""

_PREPARED = """
    SELECT payment_id, min(recorded_at) AS at, bool_or(step = 'find') AS found FROM attempts
    WHERE (step = 'prepare' AND answer LIKE 'prepared%') OR (step = 'find' AND answer = 'found')
    GROUP BY 1 ORDER BY 1"""

MINOR_UNITS = """CASE WHEN lower(currency) IN ('isk', 'ugx') THEN amount / 100.0
    WHEN lower(currency) = 'mga' THEN amount * 100 ELSE amount END"""
"""An amount of the gateway's ledger in the minor unit of ISO 4217. Stripe counts these currencies in another one."""


def _named(alias: str, member: str) -> str:
    """An id of ours in the metadata of a record of the gateway; NULL if that is no JSON."""
    return f"CASE WHEN json_valid({alias}.metadata) THEN lower(json_extract({alias}.metadata, '$.{member}')) END"


_CHARGES = f"""
    SELECT {_named("i", "payment_id")}, c.id, c.payment_intent, c.minor AS amount, upper(c.currency) AS currency,
           c.payment_method, c.created
    FROM (SELECT *, {MINOR_UNITS} AS minor FROM charges) c LEFT JOIN payment_intents i ON i.id = c.payment_intent ORDER BY 1, c.id"""  # noqa: S608 - a constant

_MADE_THERE = "SELECT id, payment_intent, amount, currency, created FROM refunds WHERE status = 'succeeded'"
_LOST_THERE = "SELECT id, payment_intent, amount, currency, created FROM disputes WHERE status = 'lost'"


def _refunds(given_back: str) -> str:
    return f"""
    SELECT {_named("i", "payment_id")}, r.id, r.minor AS amount, upper(r.currency) AS currency, r.created,
           CASE WHEN {_named("d", "payment_id")} = {_named("i", "payment_id")}
                THEN {_named("d", "refund_id")} END AS refund_id
    FROM (SELECT *, {MINOR_UNITS} AS minor FROM ({given_back})) r LEFT JOIN payment_intents i ON i.id = r.payment_intent
    LEFT JOIN refund_details d ON d.refund = r.id ORDER BY 1, r.id"""  # noqa: S608 - constants


_OUR_REFUNDS = """
    SELECT payment_id, refund_id::text AS refund_id, reason, status, asked_minor, amount_minor, by_hand_minor, gateway_id, decided_by,
           made_elsewhere, updated_at
    FROM refunds ORDER BY payment_id, position"""
_HAS_DISPUTES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'disputes'"
"""A ledger of an earlier sandbox has none."""
_DISPUTES = f"""
    SELECT {_named("i", "payment_id")}, d.id, d.created, d.status
    FROM disputes d LEFT JOIN payment_intents i ON i.id = d.payment_intent ORDER BY 1, d.id"""  # noqa: S608 - constants

_CONFIRMS = f"""
    SELECT {_named("i", "payment_id")}, f.payment_intent, min(f.at) AS at
    FROM confirms f JOIN payment_intents i ON i.id = f.payment_intent WHERE f.kind = 'confirm' GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608 - constants

FAR_OFF_DAYS = 31
"""No wait before an attempt, a look or a deadline is longer than 30 days (`LOOK_MAX_S`): what is due later is never done."""
OVERDUE_S = 60.0
"""A due row is claimed within a second; if it was due a minute ago, no instance works on it."""


def invoice_events(stores: Stores) -> Keyed:
    """Every event of an invoice that names the payment, and can be read."""
    return _readable(_from(stores, "invoice", _INVOICE_EVENTS))


def payment_rows(stores: Stores) -> Keyed:
    """The rows of the payment gateway service: at most one for each payment."""
    return _from(stores, "payment_gateway", _ROWS, OVERDUE_S, FAR_OFF_DAYS)


def decisions(stores: Stores) -> Keyed:
    """The decisions of people that took effect."""
    return _from(stores, "payment_gateway", _DECISIONS)


def failures(stores: Stores) -> Keyed:
    """Outcomes after which an invoice may record a failure."""
    types = sorted(type_ for type_, failure in FAILURE_AFTER.items() if failure is not None)
    return _from(stores, "payment_gateway", _FAILURES, types)


def prepared(stores: Stores) -> Keyed:
    """For each payment the time of the first recorded answer in which the gateway gave out an id, and whether it was found there."""
    return _from(stores, "payment_gateway", _PREPARED)


def charges(stores: Stores) -> Keyed:
    """Captures in the gateway's books. Those without a payment id of ours come first, under the empty text."""
    return _from_ledger(stores, _CHARGES)


def refunds(stores: Stores) -> Keyed:
    """Successful refunds in the gateway's books, and what disputes took: it went back, too. A `refund_id` is ours, and of this payment."""
    both = f"{_MADE_THERE} UNION ALL {_LOST_THERE}"
    return _from_ledger(stores, _refunds(both if _has_disputes(stores) else _MADE_THERE))


def our_refunds(stores: Stores) -> Keyed:
    """The refunds that the payment gateway service knows."""
    return _from(stores, "payment_gateway", _OUR_REFUNDS)


def disputes(stores: Stores) -> Keyed:
    """Disputes in the gateway's books, however they stand."""
    return _from_ledger(stores, _DISPUTES) if _has_disputes(stores) else nothing()


def _has_disputes(stores: Stores) -> bool:
    return stores.ledger is not None and bool(list(stores.ledger.rows(_HAS_DISPUTES)))


def confirms(stores: Stores) -> Keyed:
    """Every gateway id that was ever confirmed, with the time of its first confirm."""
    return _from_ledger(stores, _CONFIRMS)


def moment(row: StoredRow) -> datetime:
    """When the ledger's row was created; the ledger holds Unix seconds."""
    return datetime.fromtimestamp(row["created"], UTC)


def is_covered(stores: Stores, row: StoredRow) -> bool:
    """Whether the gateway's books tell of this payment if the gateway has it. It was created here before it was created there."""
    if stores.ledger is None or stores.ledger.covered is None:
        return True
    since, until = stores.ledger.covered
    return bool(since <= row["created_at"] and row["updated_at"] < until)


def open_here(row: StoredRow) -> bool:
    """Whether the payment still waits for an answer or a person."""
    return row["status"] not in SETTLED and not (row["status"] == "refund_failed" and row["decided_by"])


def is_known_to_differ(row: StoredRow) -> bool:
    """Whether a person decided about a payment that had been settled otherwise, and so knows how the books differ."""
    return row["settled_as"] is not None and (row["decided_by"] is not None or row["given_back"])


def _from(stores: Stores, name: str, sql: str, *arguments: object) -> Keyed:
    database = stores.databases.get(name)
    return nothing() if database is None else database.keyed(sql, *arguments)


def _from_ledger(stores: Stores, sql: str) -> Keyed:
    return nothing() if stores.ledger is None else stores.ledger.keyed(sql)


async def _readable(events: Keyed) -> AsyncIterator[tuple[str, StoredRow]]:
    async for payment_id, event in events:
        if event_data(event) is not None:
            yield payment_id, event


async def nothing() -> AsyncIterator[tuple[str, StoredRow]]:
    """The stream of a store that was not given."""
    for row in _NO_ROWS:
        yield row


_NO_ROWS: tuple[tuple[str, StoredRow], ...] = ()
