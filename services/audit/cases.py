"""Every charge has its payment, and every payment has an end, a next attempt or a person who was asked."""

from collections.abc import Iterator
from datetime import datetime

from services.audit import payments
from services.audit.align import Keyed, StoredRow, align
from services.audit.finding import Tally
from services.audit.payments import CASES, NOT_CHARGED, moment, nothing, open_here
from services.audit.stores import Stores

_OPEN_CASES = """
    SELECT payment_id, status, opened_at, updated_at FROM cases
    WHERE status = ANY($1::text[]) ORDER BY payment_id"""
FIRST_RUNG = -1
"""The lowest rung of the ladder of attempts: before a look that does not count."""

Broken = tuple[str, str, datetime | None]


def open_cases(stores: Stores) -> Keyed:
    """The cases that staff are asked to decide."""
    staff = stores.databases.get("staff")
    return nothing() if staff is None else staff.keyed(_OPEN_CASES, sorted(CASES))


async def charges_accounted_for(counted: Tally, stores: Stores) -> None:
    """Every ledger charge has exactly one payment row; every payment row is terminal, or due, and in time unless a person was asked."""
    if not stores.has("payment_gateway"):
        return
    sources = (payments.payment_rows, payments.charges, open_cases)
    async for payment_id, (rows, charges, cases) in align(*(source(stores) for source in sources)):
        counted.look()
        for about, why, since in (
            *_unmatched_charges(payment_id, rows, charges),
            *_unattended_rows(payment_id, rows, cases),
        ):
            counted.breach(about, why, since=since)


def _unmatched_charges(payment_id: str, rows: list[StoredRow], charges: list[StoredRow]) -> Iterator[Broken]:
    for charge in charges:
        if not payment_id:
            yield charge["id"], "a charge that carries no payment id of ours", None
        elif not rows:
            yield payment_id, f"charge {charge['id']} has no payment here", moment(charge)
        elif rows[0]["gateway_id"] != charge["payment_intent"]:
            yield payment_id, f"charge {charge['id']} is of {charge['payment_intent']}, not of the recorded id", None


def _unattended_rows(payment_id: str, rows: list[StoredRow], cases: list[StoredRow]) -> Iterator[Broken]:
    for row in rows:
        since = max([row["updated_at"], *(case["updated_at"] for case in cases)])
        for why in _unattended(row, cases):
            yield payment_id, why, since
    if cases and not rows:
        yield payment_id, "a case without a payment", cases[0]["opened_at"]


def _unattended(row: StoredRow, cases: list[StoredRow]) -> Iterator[str]:
    if row["far_off"]:
        yield f"{row['status']}, and its next attempt is as far off as {row['due_at']:%F}"
    if row["rung"] < FIRST_RUNG:
        yield f"{row['status']}, and it stands at rung {row['rung']} of the ladder, which has none"
    if not open_here(row):
        if cases:
            yield f"{row['status']} here, and its case is open"
        yield from _left_alone(row)
    elif row["due_at"] is None:
        yield f"{row['status']}, and it is never due: nobody makes a next attempt, or asks again"
    elif row["overdue"] and not cases:
        yield f"{row['status']}, its next attempt was due at {row['due_at']:%F %T} and nobody makes it"


def _left_alone(row: StoredRow) -> Iterator[str]:
    """A settled payment about which something is still to be done, and that is never due."""
    if row["due_at"] is not None or row["gateway_id"] is None:
        return
    if row["refund_waits"]:
        yield f"{row['status']}, a refund of it waits, and nobody makes it"
    is_late = row["status"] == "captured" and row["settled_as"] in NOT_CHARGED  # the reminders of it end
    if row["decided_by"] and row["gateway_side"] is None and not is_late:
        yield f"{row['status']} by decision of {row['decided_by']}, and nobody asks whether the gateway agrees"
