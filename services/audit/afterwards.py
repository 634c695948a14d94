"""What we call settled is still so at the gateway: amounts, refunds and disputes are compared, long after the outcome."""

from collections.abc import Iterator

from services.audit import payments
from services.audit.align import StoredRow, align
from services.audit.bodies import SIDE
from services.audit.finding import Tally
from services.audit.payments import moment, open_here
from services.audit.refunds import elsewhere, given_back_there
from services.audit.stores import LEDGER, Stores


async def settled_agrees(counted: Tally, stores: Stores) -> None:
    """Each settled payment is as the gateway's books say, or it is looked at again, or a person decided on just what they say."""
    if not stores.has("payment_gateway", LEDGER):
        return
    sources = (payments.payment_rows, payments.charges, payments.refunds, payments.disputes, payments.our_refunds)
    async for payment_id, (rows, charges, theirs, disputes, ours) in align(*(source(stores) for source in sources)):
        for row in rows:
            if open_here(row):
                continue
            counted.look()
            for why in _differences(row, charges, theirs, disputes, ours):
                if row["due_at"] is not None and not row["overdue"]:
                    counted.in_flight()
                elif not _is_decided_on(row, charges, theirs, disputes):
                    happened = [moment(one) for one in (*charges, *theirs, *disputes)]
                    counted.breach(payment_id, why, since=max([row["updated_at"], *happened]))


def _differences(
    row: StoredRow, charges: list[StoredRow], theirs: list[StoredRow], disputes: list[StoredRow], ours: list[StoredRow]
) -> Iterator[str]:
    """What differs. Whether there is a charge at all is judged by `captured_here_and_there`."""
    taken, back, back_here, status = _sum(charges), _sum(theirs), given_back_there(ours), row["status"]
    if status == "captured":
        if charges and taken != row["amount_minor"]:
            yield f"captured here with {row['amount_minor']}, and there with {taken}"
        if back != back_here:
            yield f"captured here and {back_here} of it given back, and there {back} was"
        if any(one["status"] not in _JUDGED for one in disputes):
            yield "captured here, and disputed there"
    elif status == "refunded" and not taken - elsewhere(ours) <= back <= taken:
        yield f"refunded here, and there {back} of {taken} was given back"
    elif status == "refund_failed" and back != back_here:
        yield f"kept here but for {back_here}, and {back} was given back there"


_JUDGED = frozenset({"won", "warning_closed", "lost"})
"""The statuses of a dispute that say whose the money is."""


def _is_decided_on(
    row: StoredRow, charges: list[StoredRow], theirs: list[StoredRow], disputes: list[StoredRow]
) -> bool:
    """Whether a person decided, and what the gateway said then is what its books say now."""
    side = SIDE.read(row["gateway_side"], None)
    if row["decided_by"] is None or side is None:
        return False
    back_minor = (side["refunded_minor"] or 0) + side.get("lost_minor", 0)
    shown = (side["captured_minor"], back_minor, side["disputed"])
    return side["answer"] != "captured" or shown == (_sum(charges), _sum(theirs), bool(disputes))


def _sum(money: list[StoredRow]) -> int:
    return sum(int(one["amount"]) for one in money)
