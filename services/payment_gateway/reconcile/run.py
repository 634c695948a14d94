"""Goes through both sides: every payment in the gateway's books, and every payment of ours that should be there."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from services.payment_gateway import store
from services.payment_gateway.domain import VERSION_MAX, OutcomeReason, Payment, PaymentStatus
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.stripe import StripeGateway
from services.payment_gateway.gateways.stripe_amounts import from_stripe
from services.payment_gateway.reconcile.books import PAGE, BookedPayment, Books, Window
from services.payment_gateway.reconcile.compare import BROKEN, Comparison, OurPayment, Verdict, compare, missing
from services.payment_gateway.reconcile.fetch import ReconcileError, fetch_one
from services.payment_gateway.reconcile.ours import at_the_gateway, payments_of
from services.payment_gateway.reconcile.report import Reported
from services.payment_gateway.store import Origin, PaymentRow
from shared.card_data.scan import has_card_data
from shared.contracts.base import AmountMinor, Currency, Name
from shared.ids import derived_id
from shared.persistence.database import Connection
from shared.records import dataclass, replace

CAUSE: Final = "reconcile"
"""What caused a payment that was found at the gateway: the audit derives the same id from it."""
_INVOICE_ID: Final = TypeAdapter[str](Name)
_CURRENCY: Final = TypeAdapter[str](Currency)
_AMOUNT: Final = TypeAdapter[int](AmountMinor)

SHOWN_MAX = 10_000
"""Comparisons in a report. More than that are one fault, not so many. All the same each is looked at."""


@dataclass(slots=True)
class Reconciliation:
    """How many payments came to each verdict, and those that a person has to look at, at most `SHOWN_MAX`.

    `look_at` is None, or the time at which what contradicts is looked at. `unfit` counts captures that no case can be opened for.
    """

    look_at: datetime | None = None
    counts: Counter[Verdict] = field(default_factory=Counter)
    found: list[Comparison] = field(default_factory=list)
    unfit: int = 0

    @property
    def broken(self) -> int:
        """How many a person has to look at."""
        return sum(self.counts[verdict] for verdict in BROKEN)

    async def judged(self, connection: Connection, comparisons: Sequence[Comparison]) -> None:
        """Count comparisons, and have what contradicts looked at."""
        self.counts.update(one.verdict for one in comparisons)
        broken = [one for one in comparisons if one.verdict in BROKEN]
        self.found += broken[: SHOWN_MAX - len(self.found)]
        if broken and self.look_at is not None:
            self.unfit += await look_at(connection, broken, self.look_at)


async def reconcile(
    connection: Connection, gateway: StripeGateway, books: Books, window: Window, result: Reconciliation
) -> None:
    """Compare all payments of the window, and older ones that were touched in it. `books` must cover the window.

    Raises ReconcileError, and one of `AWAY_ERRORS`.
    """
    for page in books.pages():
        await result.judged(connection, await _compared(connection, page))
    for gateway_id in books.touched():
        if (shown := await fetch_one(gateway, gateway_id)) is not None:
            await result.judged(connection, await _compared(connection, [shown]))
    async for rows in at_the_gateway(connection, window):
        for row in rows:
            await result.judged(connection, await _beside_metadata(gateway, books, row))


async def reconcile_report(
    connection: Connection, gateway: StripeGateway, reported: Sequence[Reported], result: Reconciliation
) -> None:
    """Compare the payments of a balance report. Those that do not agree by it are asked about. Raises ReconcileError, and `AWAY_ERRORS`."""
    for start in range(0, len(reported), PAGE):
        page = reported[start : start + PAGE]
        ours = await payments_of(connection, [one.payment_id for one in page if one.payment_id is not None])
        for one in page:
            row = ours.get(one.payment_id) if one.payment_id else None
            if row is not None and one.agrees_with(row):
                result.counts[Verdict.AGREES] += 1
            elif one.payment_id is None:
                result.counts[Verdict.FOREIGN] += 1
            elif (shown := await fetch_one(gateway, one.gateway_id)) is not None:
                await result.judged(connection, await _compared(connection, [shown]))
            else:
                here = "in the report"
                lost = Comparison(Verdict.UNKNOWN_THERE, one.payment_id, one.gateway_id, here, "unknown")
                await result.judged(connection, [lost])


async def _compared(connection: Connection, page: Sequence[BookedPayment]) -> list[Comparison]:
    ids = [id_ for one in page for id_ in (one.payment_id, one.stray_id) if id_ is not None]
    rows = await payments_of(connection, ids)
    ours: Callable[[UUID | None], OurPayment | None] = lambda id_: rows.get(id_) if id_ else None  # noqa: E731 - typed
    return [compare(ours(one.payment_id), one, ours(one.stray_id)) for one in page]


_LOOKED_AT: Final = frozenset({Verdict.DIFFERS, Verdict.UNKNOWN_THERE})


async def look_at(connection: Connection, broken: Sequence[Comparison], now: datetime) -> int:
    """Have what contradicts looked at now, and the service makes a case of it. Returns how many captures no case can be opened for.

    A payment whose sides differ is due, and so is one that the gateway denies. A capture that no payment of ours has becomes a payment that
    waits for a person. It has the id that its metadata names; if another capture of that payment is known, an id of its own.
    """
    differing = [
        one.payment_id
        for one in broken
        if one.verdict in _LOOKED_AT and one.payment_id is not None and one.stray is None
    ]
    strays = [(one.verdict, one.stray) for one in broken if one.stray is not None]
    cases = [case for verdict, stray in strays if (case := _case_of(verdict, stray, now)) is not None]
    async with connection.transaction():
        await store.hurry(connection, differing)
        await store.insert_strays(connection, cases)
    return len(strays) - len(cases)


def _case_of(verdict: Verdict, stray: BookedPayment, now: datetime) -> PaymentRow | None:
    """The row by which staff learn of a capture. None if its metadata or amount cannot be those of a payment of ours."""
    payment_id = stray.payment_id if verdict is Verdict.UNKNOWN_HERE else stray.stray_id
    amount_minor = from_stripe(stray.captured, stray.currency)
    try:
        invoice_id = _INVOICE_ID.validate_python(stray.invoice_id)
        _CURRENCY.validate_python(stray.currency)
        _AMOUNT.validate_python(amount_minor)
    except ValidationError:
        return None
    if payment_id is None or has_card_data(invoice_id):
        return None
    age_s = max(int(now.timestamp()) - stray.created, 0)
    payment = Payment(
        payment_id,
        invoice_id,
        PaymentStatus.NEEDS_DECISION,
        version=1 + min(age_s, VERSION_MAX),  # above what was told about it before it was forgotten
        amount_minor=amount_minor,
        currency=stray.currency,
        gateway_id=stray.gateway_id,
        reason=OutcomeReason.UNKNOWN_HERE,
        was_case=True,
    )
    origin = Origin(derived_id(payment_id, CAUSE), CAUSE, None)
    return PaymentRow(payment, 1, origin, now)


async def _beside_metadata(gateway: StripeGateway, books: Books, row: OurPayment) -> list[Comparison]:
    """What the metadata there did not lead to. Anybody who may write there can change them, and our row knows the gateway's id."""
    booked = books.find(row.gateway_id or "")
    if booked is None:
        return await _asked(gateway, row)
    if row.payment_id in {booked.payment_id, booked.stray_id}:
        return []
    shown = await fetch_one(gateway, booked.gateway_id)  # the books hold no charge of what others made
    return [missing(row) if shown is None else compare(row, replace(shown, payment_id=row.payment_id))]


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
