"""The gateway's books in a file: what `remit audit --ledger` reads, in the tables that the sandbox's ledger has.

Amounts are as the gateway counts them, and currencies in lower case. `created` is in Unix seconds.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson

from services.payment_gateway.gateways.stripe_events import payment_id_in
from shared.ids import derived_id
from shared.private_files import MODE
from shared.records import dataclass

PAGE: Final = 500
"""Payments that are compared at once."""

_SCHEMA: Final = """
    CREATE TABLE covered (since INTEGER NOT NULL, until INTEGER NOT NULL, livemode INTEGER NOT NULL) STRICT;
    CREATE TABLE payment_intents (
        id TEXT PRIMARY KEY, amount INTEGER NOT NULL, currency TEXT NOT NULL, metadata TEXT NOT NULL, status TEXT NOT NULL,
        created INTEGER NOT NULL, disputed INTEGER NOT NULL) STRICT;
    CREATE TABLE charges (
        id TEXT PRIMARY KEY, payment_intent TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, payment_method TEXT,
        created INTEGER NOT NULL) STRICT;
    CREATE INDEX charges_by_payment ON charges (payment_intent);
    CREATE TABLE refunds (
        id TEXT PRIMARY KEY, payment_intent TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, status TEXT NOT NULL,
        created INTEGER NOT NULL) STRICT;
    CREATE INDEX refunds_by_payment ON refunds (payment_intent);
    CREATE TABLE refund_details (refund TEXT PRIMARY KEY, metadata TEXT NOT NULL) STRICT;
    CREATE TABLE touched (payment_intent TEXT PRIMARY KEY) STRICT;"""

_PAYMENTS: Final = """
    SELECT i.id, i.metadata, i.status, i.amount, i.currency, i.disputed, i.created,
           (SELECT coalesce(sum(c.amount), 0) FROM charges c WHERE c.payment_intent = i.id) AS captured,
           (SELECT coalesce(sum(r.amount), 0) FROM refunds r WHERE r.payment_intent = i.id AND r.status = 'succeeded') AS refunded
    FROM payment_intents i"""


@dataclass(frozen=True, slots=True)
class Window:
    """What was created at the gateway from `since` until before `until`, in Unix seconds."""

    since: int
    until: int


@dataclass(frozen=True, slots=True)
class BookedIntent:
    """A payment at the gateway. `metadata` are the texts that its maker added. `disputed`: a dispute may still take the money."""

    id: str
    amount: int
    currency: str
    metadata: dict[str, str]
    status: str
    created: int
    disputed: bool


@dataclass(frozen=True, slots=True)
class BookedCharge:
    """A capture."""

    id: str
    payment_intent: str
    amount: int
    currency: str
    payment_method: str | None
    created: int


@dataclass(frozen=True, slots=True)
class BookedRefund:
    """Money that is given back, if its status is `succeeded`, or that a dispute took. `metadata` are the texts that its maker added."""

    id: str
    payment_intent: str
    amount: int
    currency: str
    status: str
    created: int
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class BookedPayment:
    """A payment in the gateway's books. The amounts are as the gateway counts them, in the upper-case `currency`."""

    gateway_id: str
    payment_id: UUID | None
    invoice_id: str | None
    status: str
    amount: int
    captured: int
    refunded: int
    currency: str
    disputed: bool
    created: int

    @property
    def stray_id(self) -> UUID | None:
        """Our id of it, if it is not the one that the payment of its metadata was charged by; None if it is none of ours."""
        return derived_id(self.payment_id, self.gateway_id) if self.payment_id else None


class Books:
    """The file, open for writing and reading."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def cover(self, window: Window, *, livemode: bool) -> None:
        """Say which window the books are complete for. It is said last: without it nobody may conclude anything from what is missing."""
        with self._connection:
            self._connection.execute("INSERT INTO covered VALUES (?, ?, ?)", (window.since, window.until, livemode))

    def add(
        self,
        intents: Sequence[BookedIntent] = (),
        charges: Sequence[BookedCharge] = (),
        refunds: Sequence[BookedRefund] = (),
    ) -> None:
        """Add rows. One that is there already stays as it is: pages overlap when something is created while they are read."""
        with self._connection as connection:
            connection.executemany(
                "INSERT INTO payment_intents VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (i.id, i.amount, i.currency, orjson.dumps(i.metadata).decode(), i.status, i.created, i.disputed)
                    for i in intents
                ],
            )
            connection.executemany(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(c.id, c.payment_intent, c.amount, c.currency, c.payment_method, c.created) for c in charges],
            )
            connection.executemany(
                "INSERT INTO refunds VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(r.id, r.payment_intent, r.amount, r.currency, r.status, r.created) for r in refunds],
            )
            connection.executemany(
                "INSERT INTO refund_details VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(r.id, orjson.dumps(r.metadata).decode()) for r in refunds],
            )

    def touch(self, payment_intents: Collection[str]) -> None:
        """Note payments of ours to which something happened in the window, whenever they were made."""
        with self._connection as connection:
            connection.executemany(
                "INSERT INTO touched VALUES (?) ON CONFLICT DO NOTHING", [(i,) for i in payment_intents]
            )

    def touched(self) -> list[str]:
        """The payments that were touched in the window and not made in it."""
        found = self._connection.execute(
            "SELECT payment_intent FROM touched WHERE payment_intent NOT IN (SELECT id FROM payment_intents) ORDER BY 1"
        )
        return [row["payment_intent"] for row in found]

    def pages(self) -> Iterator[list[BookedPayment]]:
        """All payments, oldest first, `PAGE` at a time."""
        found = self._connection.execute(f"{_PAYMENTS} ORDER BY i.created, i.id")
        while page := found.fetchmany(PAGE):
            yield [_booked(row) for row in page]

    def find(self, gateway_id: str) -> BookedPayment | None:
        """The payment of this id, or None if it is not in the books."""
        row = self._connection.execute(f"{_PAYMENTS} WHERE i.id = ?", (gateway_id,)).fetchone()
        return _booked(row) if row is not None else None


def _booked(row: sqlite3.Row) -> BookedPayment:
    metadata = orjson.loads(row["metadata"])
    return BookedPayment(
        gateway_id=row["id"],
        payment_id=payment_id_in({"metadata": metadata}),
        invoice_id=metadata.get("invoice_id"),
        status=row["status"],
        amount=row["amount"],
        captured=row["captured"],
        refunded=row["refunded"],
        currency=row["currency"].upper(),
        disputed=bool(row["disputed"]),
        created=row["created"],
    )


@contextmanager
def new_books(path: Path) -> Iterator[Books]:
    """Books in a new file. Raises FileExistsError: books of another window are never mixed with these."""
    path.touch(mode=MODE, exist_ok=False)
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        connection.executescript(_SCHEMA)
        yield Books(connection)
    finally:
        connection.close()
