"""The books that were sealed are as they were: no row was changed, added or taken out.

Digests and chain are computed here once more, from what the columns say. A head (`NUMBER:HASH`) that stands in a log of the service proves
all seals up to its number.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from services.audit.align import StoredRow
from services.audit.bodies import PURGE
from services.audit.finding import Tally
from services.audit.logged_heads import heads_in_logs
from services.audit.stores import Snapshot, Stores

_ROWS: Final = {
    "invoice": {
        "events": """
            SELECT written_in, ROW(stream_id, version, type, data, cause_id, cause_position, correlation_id, traceparent,
                (extract(epoch FROM recorded_at) * 1000000)::bigint, owner)::text AS content FROM events ORDER BY written_in""",
        "answers": """
            SELECT written_in, ROW(command_id, command_type, invoice_id, answer, reason, detail, correlation_id,
                (extract(epoch FROM answered_at) * 1000000)::bigint, sender, sent_id)::text AS content FROM answers ORDER BY written_in""",
    },
    "payment_gateway": {
        "outcomes": """
            SELECT written_in, ROW(payment_id, version, message_id, exchange, routing_key, type, correlation_id,
                encode(sha256(body), 'hex'), (extract(epoch FROM recorded_at) * 1000000)::bigint)::text AS content
            FROM outcomes ORDER BY written_in""",
        "decisions": """
            SELECT written_in, ROW(message_id, payment_id, resolution, expected_version, receipt_number, evidence, decided_by, reason,
                refusal, (extract(epoch FROM decided_at) * 1000000)::bigint, journal_head)::text AS content
            FROM decisions ORDER BY written_in""",
    },
}
"""By service and book the rows, in the order of the transactions that wrote them."""
_SEALS = """
    SELECT number, book, from_tx, until_tx, row_count, salt, digest, left_salt, left_digest, hash, at,
        (extract(epoch FROM at) * 1000000)::bigint AS at_us FROM seals ORDER BY number"""
_NEXT_TX = """
    SELECT greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_xact_id_if_assigned()::text::bigint + 1)
        + coalesce((SELECT ahead FROM seal_numbering), 0)"""
_PURGES = "SELECT details FROM journal WHERE action = 'purge'"
_LOGGED: Final = {"logger": "shared.persistence.seals", "event": "books_sealed"}


async def books_sealed(counted: Tally, stores: Stores) -> None:
    """Every span of rows has the digest of its seal, the seals are a chain, and every head that a service logged is one of theirs."""
    purged = await _told_by_purges(stores)
    for service, books in _ROWS.items():
        if not stores.has(service):
            continue
        database = stores.databases[service]
        seals = _Seals(counted, service, purged[service])
        async for row in database.rows(_SEALS):
            seals.follow(row)
        seals.end(await heads_in_logs(stores, _LOGGED | {"service": service}))
        next_tx = await database.value(_NEXT_TX)
        for book, sql in books.items():
            await _Book(counted, book, seals.of(book), next_tx).check(database, sql)


@dataclass
class _Seals:
    """Follows the seals of a service in their order."""

    counted: Tally
    service: str
    purged: Mapping[str, set[str]]
    hash: bytes = b""
    hashes: dict[int, str] = field(default_factory=dict)
    books: dict[str, list[StoredRow]] = field(default_factory=lambda: defaultdict(list))

    def follow(self, seal: StoredRow) -> None:
        self.counted.look()
        name = f"seal {seal['number']} of {self.service}"
        for why in (*self._unchained(seal), *self._resealed(seal)):
            self.counted.breach(name, why)
        self.hash = seal["hash"]
        self.hashes[seal["number"]] = seal["hash"].hex()
        self.books[seal["book"]].append(seal)

    def end(self, heads: Mapping[str, str]) -> None:
        """Compare with the heads that were seen elsewhere, each with its place."""
        for head, where in heads.items():
            number, _, hash_ = head.partition(":")
            if self.hashes.get(int(number)) != hash_:
                self.counted.breach(
                    f"seal {number} of {self.service}", f"{where} knows it with another hash, or it is gone"
                )

    def of(self, book: str) -> Sequence[StoredRow]:
        return self.books.get(book, [])

    def _unchained(self, seal: StoredRow) -> Iterator[str]:
        last = self.books[seal["book"]]
        if seal["number"] != len(self.hashes) + 1:
            yield "the seals before it are gone"
        if seal["from_tx"] != (last[-1]["until_tx"] if last else 0):
            yield "its span does not follow that of the seal before"
        names = ("number", "book", "from_tx", "until_tx", "row_count", "at_us")
        text = "|".join((*(str(seal[name]) for name in names), seal["digest"].hex()))
        if sha256(self.hash + text.encode()).digest() != seal["hash"]:
            yield "it does not follow from its content and the seal before: one of them was changed"

    def _resealed(self, seal: StoredRow) -> Iterator[str]:
        if seal["salt"] is None and seal["left_digest"].hex() not in self.purged.get(str(seal["number"]), ()):
            yield "its rows were sealed again, and no entry of the journal says that a purge changed them"


@dataclass
class _Book:
    """Compares the rows of a book with its seals."""

    counted: Tally
    name: str
    seals: Sequence[StoredRow]
    next_tx: int
    """The first transaction that is yet to come."""

    async def check(self, database: Snapshot, sql: str) -> None:
        spans, hashes = iter(self.seals), list[bytes]()
        span = next(spans, None)
        async for row in database.rows(sql):
            while span is not None and row["written_in"] >= span["until_tx"]:
                self._compare(span, hashes)
                span, hashes = next(spans, None), []
            if row["written_in"] >= self.next_tx:
                self.counted.breach(
                    self.name, f"a row says that transaction {row['written_in']} wrote it, which is yet to come"
                )
            hashes.append(sha256(row["content"].encode()).digest())
        while span is not None:
            self._compare(span, hashes)
            span, hashes = next(spans, None), []

    def _compare(self, seal: StoredRow, hashes: list[bytes]) -> None:
        if len(hashes) == seal["row_count"] and _digest(seal, hashes) == _sealed_digest(seal):
            return
        when = f"until {seal['at']:%Y-%m-%d %H:%M:%S}"
        if (more := len(hashes) - seal["row_count"]) != 0:
            what = f"{abs(more)} {'were added' if more > 0 else 'are gone'}, or rows were moved"
        else:
            what = "at least one was changed"
        self.counted.breach(
            self.name, f"of the {seal['row_count']} rows sealed by number {seal['number']} ({when}), {what}"
        )


def _digest(seal: StoredRow, hashes: list[bytes]) -> bytes:
    if not seal["digest"]:
        return b""  # rows of before there were seals are only counted
    salt: bytes = seal["left_salt"] if seal["salt"] is None else seal["salt"]
    return sha256(salt + b"".join(sorted(hashes))).digest()


def _sealed_digest(seal: StoredRow) -> bytes:
    digest: bytes = seal["left_digest"] if seal["salt"] is None else seal["digest"]
    return digest


async def _told_by_purges(stores: Stores) -> Mapping[str, Mapping[str, set[str]]]:
    """By service and number of a seal the digests of what purges left, as staff's journal tells."""
    told: dict[str, dict[str, set[str]]] = {service: defaultdict(set) for service in _ROWS}
    if not stores.has("staff"):
        return told
    async for row in stores.databases["staff"].rows(_PURGES):
        details = PURGE.read(row["details"], {})
        for one in details["rows"] if details.get("database") in told else ():
            if one["table"] == "seals":
                told[details["database"]][one["key"]].add(one.get("left_sha256"))
    return told
