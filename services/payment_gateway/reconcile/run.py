"""Goes through both sides: every payment in the gateway's books, and every payment of ours that should be there."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import field

from services.payment_gateway import store
from services.payment_gateway.gateways import port
from services.payment_gateway.reconcile.books import Books, Window
from services.payment_gateway.reconcile.compare import BROKEN, Comparison, OurPayment, Verdict, compare, missing
from services.payment_gateway.reconcile.fetch import ReconcileError
from services.payment_gateway.reconcile.ours import at_the_gateway, payments_of
from shared.persistence.database import Connection
from shared.records import dataclass

SHOWN_MAX = 10_000
"""Comparisons in a report. More than that are one fault, not so many."""


@dataclass(slots=True)
class Reconciliation:
    """How many payments came to each verdict, and those that a person has to look at, at most `SHOWN_MAX`."""

    counts: Counter[Verdict] = field(default_factory=Counter)
    found: list[Comparison] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether nothing contradicts."""
        return not any(self.counts[verdict] for verdict in BROKEN)

    def add(self, comparisons: Iterable[Comparison]) -> None:
        """Count comparisons."""
        for one in comparisons:
            self.counts[one.verdict] += 1
            if one.verdict in BROKEN and len(self.found) < SHOWN_MAX:
                self.found.append(one)


async def reconcile(connection: Connection, gateway: port.Gateway, books: Books, window: Window) -> Reconciliation:
    """Compare all payments. `books` must cover the window. Raises ReconcileError, and one of `AWAY_ERRORS`."""
    result = Reconciliation()
    for page in books.pages():
        ours = await payments_of(connection, [one.payment_id for one in page if one.payment_id is not None])
        result.add(compare(ours.get(one.payment_id) if one.payment_id else None, one) for one in page)
    async for rows in at_the_gateway(connection, window):
        lacking = set(books.lacks([row.gateway_id for row in rows if row.gateway_id is not None]))
        for row in rows:
            if row.gateway_id in lacking:
                result.add(await _asked(gateway, row))
    return result


async def look_at(connection: Connection, result: Reconciliation) -> None:
    """Make those payments due for a look now whose two sides differ. The service makes a case of what contradicts."""
    differing = [
        one.payment_id for one in result.found if one.verdict is Verdict.DIFFERS and one.payment_id is not None
    ]
    async with connection.transaction():
        await store.hurry(connection, differing)


async def _asked(gateway: port.Gateway, row: OurPayment) -> list[Comparison]:
    """Nothing if the gateway knows the payment after all: it was created there after the window. Raises ReconcileError."""
    answer = await gateway.owner(row.gateway_id or "")
    match answer:
        case port.NotFound():
            return [missing(row)]
        case port.MadeFor(payment_id=owner):
            return [] if owner == row.payment_id else [missing(row)]
        case _:
            raise ReconcileError(f"the gateway does not tell about {row.gateway_id}: {answer.evidence}.")
