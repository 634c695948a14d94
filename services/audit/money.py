"""Checks the money of each payment in our stores and in the gateway's books."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from services.audit import payments, refunds
from services.audit.align import StoredRow, align
from services.audit.finding import Tally
from services.audit.payments import (
    CHARGED,
    FAILURE_AFTER,
    NOT_CHARGED,
    SETTLED,
    TRACES_KEPT_DAYS,
    is_known_to_differ,
    moment,
    open_here,
)
from services.audit.stores import LEDGER, LedgerSnapshot, Stores

CLOCKS_APART_S = 5.0
"""The gateway's clock may differ from ours: a record may seem this much later than the confirm that followed it."""

_BOTH_SIDES = (
    payments.invoice_events,
    payments.payment_rows,
    payments.charges,
    payments.refunds,
    payments.our_refunds,
)
"""All that is known of the money of a payment, here and at the gateway."""

# -- captured_once ---------------------------------------------------------------------------------------------------------------------


async def captured_once(counted: Tally, stores: Stores) -> None:
    """For each payment: captures minus refunds are 0, the amount, or what refunds of a part leave; each refund was made once; amount,
    currency and method are the invoice's; one capture at most.

    Amounts that differ are no breach while a person is asked about them, after a person decided, or once all was given back.
    """
    known = stores.has("payment_gateway")
    async for payment_id, (events, rows, charges, theirs, ours) in align(*(source(stores) for source in _BOTH_SIDES)):
        counted.look()
        request = _first(events, "PaymentRequested")
        asked = None if request is None else request["data"]
        for why in (
            *_miscounted(rows, charges, ours, theirs, known=known),
            *refunds.made_once(ours, theirs, known=known),
            *_requested_other_than_issued(request),
            *_mismatched(asked, rows, charges, theirs),
        ):
            counted.breach(payment_id or charges[0]["id"], why)


def _miscounted(
    rows: list[StoredRow], charges: list[StoredRow], ours: list[StoredRow], theirs: list[StoredRow], *, known: bool
) -> Iterator[str]:
    if len(charges) > 1:
        yield f"captured {len(charges)} times: {', '.join(charge['id'] for charge in charges)}"
    elif (charges or theirs) and not any(map(_is_attended, rows)):
        amount = (rows[0]["amount_minor"] or 0) if rows else charges[0]["amount"] if charges else 0
        captured = sum(charge["amount"] for charge in charges)
        yield from refunds.miscounted(captured, amount, ours, theirs, known=known)


def _first(events: list[StoredRow], name: str) -> StoredRow | None:
    return next((event for event in events if event["event"] == name), None)


def _net(charges: list[StoredRow], theirs: list[StoredRow]) -> int:
    return sum(int(charge["amount"]) for charge in charges) - sum(int(refund["amount"]) for refund in theirs)


def _is_attended(row: StoredRow) -> bool:
    """Whether a person is asked about the payment, or decided on what the gateway says of it."""
    return open_here(row) or is_known_to_differ(row)


def _requested_other_than_issued(request: StoredRow | None) -> Iterator[str]:
    """The amount that was requested is that of the invoice as it was issued."""
    if request is None:
        return
    asked, issued = request["data"], (request["issued_minor"], request["issued_currency"])
    if (asked["amount_minor"], asked["currency"]) != issued:
        yield f"{_money((asked['amount_minor'], asked['currency']))} was asked for an invoice of {_money(issued)}"


def _mismatched(
    asked: dict[str, Any] | None, rows: list[StoredRow], charges: list[StoredRow], theirs: list[StoredRow]
) -> Iterator[str]:
    """What the invoice requested, what our row holds and what the gateway took are the same."""
    if asked is None:  # the check `caused_by_commands` reports a payment without a request
        return
    wanted = (asked["amount_minor"], asked["currency"])
    is_token = asked["method"]["kind"] == "token"
    for row in rows:
        if row["requested"] and (row["amount_minor"], row["currency"]) != wanted:
            yield f"the invoice asked for {_money(wanted)}, the payment is {_money((row['amount_minor'], row['currency']))}"
        if is_token and row["requested"] and row["method_token"] != asked["method"]["fingerprint"]:
            yield "the payment's method is not the invoice's"
    methods = {asked["method"]["fingerprint"]} if is_token else {row["method_token"] for row in rows}
    is_settled_otherwise = _net(charges, theirs) == 0 or any(map(_is_attended, rows))
    for charge in charges:
        if (charge["amount"], charge["currency"]) != wanted and not is_settled_otherwise:
            yield f"the invoice asked for {_money(wanted)}, the gateway took {_money((charge['amount'], charge['currency']))}"
        if methods and charge["payment_method"] not in methods:
            yield "the gateway charged another method than the invoice's"


def _money(amount: tuple[int | None, str | None]) -> str:
    return f"{amount[0]} {amount[1]}"


# -- captured_here_and_there -----------------------------------------------------------------------------------------------------------


async def captured_here_and_there(counted: Tally, stores: Stores) -> None:
    """Captured here <=> captured at the gateway, by the same charge. Declined here => no capture there. Payments still open here are not
    judged."""
    if not stores.has("payment_gateway", LEDGER):
        return
    async for payment_id, (rows, charges) in align(payments.payment_rows(stores), payments.charges(stores)):
        for row in rows:
            if not charges and not payments.is_covered(stores, row):
                continue
            counted.look()
            decided = f", as {row['decided_by']} decided," if row["decided_by"] else ""
            if row["status"] in CHARGED and not charges:
                counted.breach(
                    payment_id, f"{row['status']} here{decided} and not captured there", since=row["updated_at"]
                )
            elif row["status"] in NOT_CHARGED and charges:
                since = max(row["updated_at"], *(moment(charge) for charge in charges))
                counted.breach(payment_id, f"{row['status']} here{decided} and captured there", since=since)
            elif charges and not row["receipt_decided"] and row["receipt_number"] not in _receipts(charges):
                counted.breach(
                    payment_id, f"its receipt is {row['receipt_number']}, and there it is {charges[0]['id']}"
                )


def _receipts(charges: list[StoredRow]) -> set[str | None]:
    """What may stand as a receipt: the id of the charge; the payment's, where the gateway named no charge; nothing.

    What a person typed stands as well, where the gateway had named none by then.
    """
    return {None, *(charge["id"] for charge in charges), *(charge["payment_intent"] for charge in charges)}


# -- confirmed_once --------------------------------------------------------------------------------------------------------------------

_KEYS = "SELECT count(DISTINCT key) AS keys FROM idempotency_keys"
_REUSED_KEYS = """
    SELECT key, count(DISTINCT path || ' ' || parameters_sha256) AS requests, sum(mismatches) AS mismatches FROM idempotency_keys
    GROUP BY key HAVING requests > 1 OR mismatches > 0 ORDER BY key"""
_SHARED_KEYS = """
    SELECT idempotency_key AS key FROM attempts WHERE idempotency_key IS NOT NULL
    GROUP BY 1 HAVING min(payment_id::text) <> max(payment_id::text) OR min(step) <> max(step)"""
_OTHER_KEYS = """
    SELECT payment_id, step, idempotency_key AS key FROM attempts
    WHERE NOT coalesce(starts_with(idempotency_key, payment_id || ':' || step || ':'), step IN ('find', 'inquire', 'inquire_refund'))
    ORDER BY 1"""
"""A question needs no key."""
_SHARED_IDS = """
    SELECT gateway_id, count(*) AS payments FROM payments WHERE gateway_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1"""

_DELETED_EARLY = """
    SELECT payment_id FROM payments
    WHERE attempts_forgotten_at > now()
       OR attempts_forgotten_at > updated_at AND (status <> ALL($1::text[]) AND (status <> 'refund_failed' OR decided_by IS NULL)
                                                  OR attempts_forgotten_at < updated_at + make_interval(days => $2)) ORDER BY 1"""


async def confirmed_once(counted: Tally, stores: Stores) -> None:
    """Each payment row has at most one gateway id that was ever confirmed, recorded before its confirm. Each idempotency key has one hash
    of parameters."""
    if stores.has("payment_gateway"):
        await _shared(counted, stores)
    if stores.ledger is None:
        return
    if stores.ledger.covered is not None:
        counted.missing("a gateway's own books tell of no confirms and no idempotency keys")
        return
    _keys(counted, stores.ledger)
    sources = (payments.payment_rows, payments.confirms, payments.prepared)
    async for payment_id, (rows, confirms, prepared) in align(*(source(stores) for source in sources)):
        if confirms and stores.has("payment_gateway"):
            counted.look()
            for why in _confirmed_wrongly(rows, confirms, prepared):
                counted.breach(payment_id or confirms[0]["payment_intent"], why)


def _keys(counted: Tally, ledger: LedgerSnapshot) -> None:
    for row in ledger.rows(_KEYS):
        counted.look(row["keys"])
    for row in ledger.rows(_REUSED_KEYS):
        counted.breach(row["key"], f"idempotency key of {row['requests']} requests, refused {row['mismatches']} times")


async def _shared(counted: Tally, stores: Stores) -> None:
    gateway = stores.databases["payment_gateway"]
    async for row in gateway.rows(_SHARED_KEYS):
        counted.breach(row["key"], "idempotency key of more than one call")
    async for row in gateway.rows(_OTHER_KEYS):
        counted.breach(
            row["payment_id"],
            f"its call to {row['step']} carried the idempotency key {row['key']}, which is not its own",
        )
    async for row in gateway.rows(_SHARED_IDS):
        counted.breach(row["gateway_id"], f"gateway id recorded for {row['payments']} payments")
    async for row in gateway.rows(_DELETED_EARLY, sorted(SETTLED), TRACES_KEPT_DAYS):
        counted.breach(row["payment_id"], "its attempts were deleted before their time")


def _confirmed_wrongly(rows: list[StoredRow], confirms: list[StoredRow], prepared: list[StoredRow]) -> Iterator[str]:
    if len(confirms) > 1:
        yield f"{len(confirms)} gateway ids were confirmed: {', '.join(c['payment_intent'] for c in confirms)}"
    recorded = {row["gateway_id"] for row in rows}
    attempts_deleted = any(row["attempts_forgotten_at"] for row in rows)
    for confirm in confirms:
        if confirm["payment_intent"] not in recorded:
            yield f"{confirm['payment_intent']} was confirmed and is not recorded"
        elif attempts_deleted or any(row["found"] for row in prepared):
            pass  # the record of that time is deleted, or was lost and the payment was found again
        elif not prepared or confirm["at"] < prepared[0]["at"].timestamp() - CLOCKS_APART_S:
            yield f"{confirm['payment_intent']} was confirmed before the gateway's answer that named it was recorded"


# -- paid_when_captured ----------------------------------------------------------------------------------------------------------------

_RESOLUTION_OF = {
    "captured": "captured",
    "not_charged": "not_charged",
    "refunded": "refunded",
    "refund_failed": "not_refunded",
}


_PAID_TWICE = """
    SELECT stream_id, count(*) AS times FROM events WHERE type LIKE 'Paid.%' GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"""


async def paid_when_captured(counted: Tally, stores: Stores) -> None:
    """An invoice is paid <=> it has one recorded payment <=> that has one capture, or a person's decision with evidence."""
    if not stores.has("invoice", "payment_gateway"):
        return
    async for row in stores.databases["invoice"].rows(_PAID_TWICE):
        counted.breach(row["stream_id"], f"paid {row['times']} times")
    sources = (
        payments.invoice_events,
        payments.payment_rows,
        payments.decisions,
        payments.failures,
        payments.our_refunds,
    )
    async for payment_id, (events, rows, decisions, failures, ours) in align(*(source(stores) for source in sources)):
        counted.look()
        since = max([event["recorded_at"] for event in events] + [row["updated_at"] for row in rows], default=None)
        for why in (
            *_ended_twice(events),
            *_decided_without_evidence(rows, decisions, ours),
            *refunds.decided_without_evidence(ours, decisions),
            *_failed_without_outcome(events, failures),
            *_requested_and_never_requested(events, rows),
        ):
            counted.breach(payment_id, why)
        for why in _disagreeing(events, rows):
            counted.breach(payment_id, why, since=since)
        for why, changed in refunds.disagreeing(payment_id, events, ours):
            counted.breach(payment_id, why, since=changed)


def _ended_twice(events: list[StoredRow]) -> Iterator[str]:
    """A payment is requested once and ends once."""
    times = Counter(event["event"] for event in events)
    if times["PaymentRequested"] > 1:
        yield f"requested {times['PaymentRequested']} times"
    if times["Paid"] > 1 or (times["Paid"] and times["PaymentFailed"]):
        yield f"ended {times['Paid'] + times['PaymentFailed']} times: paid {times['Paid']}, failed {times['PaymentFailed']}"


def _failed_without_outcome(events: list[StoredRow], failures: list[StoredRow]) -> Iterator[str]:
    """The invoice records a failure only if the payment gateway service published it, or if the invoice cannot take the money."""
    found_out = {FAILURE_AFTER[outcome["type"]] for outcome in failures}
    rejected = any(event["event"] == "SettlementRejected" for event in events)
    for event in events:
        if event["event"] == "PaymentFailed" and not (rejected or event["data"]["outcome"] in found_out):
            yield f"{event['invoice_id']} recorded {event['data']['outcome']}, which no outcome supports"


def _requested_and_never_requested(events: list[StoredRow], rows: list[StoredRow]) -> Iterator[str]:
    """A payment whose request was only late must not be closed as if nobody had requested it."""
    request = _first(events, "PaymentRequested")
    if request is not None and any(row["reason"] == "never_requested" for row in rows):
        yield f"requested on {request['invoice_id']}, and closed as never requested"


def _decided_without_evidence(
    rows: list[StoredRow], decisions: list[StoredRow], ours: list[StoredRow]
) -> Iterator[str]:
    """A decision must have recorded its evidence. If it was about a refund, that of the refund is looked at."""
    of_refunds = {refund["decided_by"] for refund in ours}
    for row in rows:
        if row["decided_by"] in of_refunds:
            continue
        if refunds.lacks_evidence(row, _RESOLUTION_OF.get(row["status"]), decisions):
            yield f"{row['status']} by decision of {row['decided_by']}, without evidence"


def _disagreeing(events: list[StoredRow], rows: list[StoredRow]) -> Iterator[str]:
    requested = any(event["event"] == "PaymentRequested" for event in events)
    paid = _first(events, "Paid")
    failed = any(event["event"] == "PaymentFailed" for event in events)
    if not rows:
        if requested or paid:
            yield f"{'paid' if paid else 'requested'} on {events[0]['invoice_id']}, and no payment row"
        return
    row = rows[0]
    if paid is not None and _is_attended(row):
        return
    if paid is None and row["status"] == "captured":
        yield f"captured, and {row['invoice_id']} is not paid by it"
    elif paid is not None and row["status"] not in (CHARGED if refunds.on_invoice(events) else {"captured"}):
        yield f"{paid['invoice_id']} is paid by it, and it is {row['status']}"
    elif paid is not None and (paid["invoice_id"], paid["data"]["receipt_number"]) != (
        row["invoice_id"],
        row["receipt_number"],
    ):
        yield "the invoice has another receipt than the payment"
    elif requested and paid is None and not failed and not open_here(row):
        yield f"{row['status']}, and {row['invoice_id']} still waits for it"


# -- books_balance ---------------------------------------------------------------------------------------------------------------------


def _is_left_out(stores: Stores, rows: list[StoredRow], charges: list[StoredRow]) -> bool:
    """The result is open, or a person decided that the money stays; or the books that were given say nothing about it."""
    is_open = any(_is_attended(row) or row["status"] == "refund_failed" for row in rows)
    return is_open or (not charges and not all(payments.is_covered(stores, row) for row in rows))


async def books_balance(counted: Tally, stores: Stores) -> None:
    """Captures - refunds = paid - refunded on invoices, for each payment, but for what people gave back at the gateway themselves.

    Open payments, and those that a person settled otherwise, are left out.
    """
    if not stores.has("invoice", "payment_gateway", LEDGER):
        return
    async for payment_id, (events, rows, charges, theirs, ours) in align(*(source(stores) for source in _BOTH_SIDES)):
        if _is_left_out(stores, rows, charges):
            continue
        if any(counted.is_young(row["updated_at"]) for row in rows):
            counted.in_flight()
            continue
        counted.look()
        here = _sum((e["data"]["currency"], e["data"]["amount_minor"]) for e in events if e["event"] == "Paid")
        there = _sum((charge["currency"], charge["amount"]) for charge in charges)
        there.subtract(_sum((refund["currency"], refund["amount"]) for refund in theirs))
        if (paid := _first(events, "Paid")) is not None:
            currency = paid["data"]["currency"]
            here[currency] -= sum(amount for _, amount in refunds.on_invoice(events).values())
            there[currency] += refunds.by_hand(ours) - refunds.elsewhere(ours)
        for currency in sorted({*here, *there}):  # for each payment, so that two errors do not balance each other
            if here[currency] != there[currency]:
                why = f"the gateway holds {there[currency]} {currency}, the invoice has {here[currency]} (minor units)"
                counted.breach(payment_id or charges[0]["id"], why)


def _sum(amounts: Iterator[tuple[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for currency, amount in amounts:
        total[currency] += amount
    return total
