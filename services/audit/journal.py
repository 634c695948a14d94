"""The journal of staff: its chain is whole, it ends where others saw it end, and it says the same as the decisions that took effect.

The chain is computed here once more, from what the columns say. A head (`POSITION:HASH`) that was seen elsewhere proves all entries up to
its position: the payment-gateway service stores one with each decision, the staff service logs one a minute, and keeps one an hour as a
seal, in a row and in a line of a file, and a person may keep one.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import uuid5

from services.audit.align import Keyed, StoredRow, align
from services.audit.bodies import OBJECT, PURGE
from services.audit.expected_messages import TO_GATEWAY
from services.audit.finding import Finding, Tally
from services.audit.logged_heads import HEAD, heads_in_logs, lines_of
from services.audit.people import people_journalled
from services.audit.stores import Snapshot, Stores

_CHAIN = """
    SELECT position, id, (extract(epoch FROM at) * 1000000)::bigint AS at_us, action, subject, salt, digest, hash,
           at > now() + interval '1 day' AS is_to_come, jsonb_build_array(who, details)::text AS content,
           CASE WHEN action = 'purge' THEN details END AS purge
    FROM journal ORDER BY position"""
_HEAD_NOW = "SELECT position || ':' || encode(hash, 'hex') FROM journal ORDER BY position DESC LIMIT 1"
_SEALS = "SELECT position || ':' || encode(hash, 'hex') AS head FROM seals"
_HEADS = "SELECT message_id, journal_head FROM decisions WHERE journal_head IS NOT NULL"
_JOURNAL = """
    SELECT subject, id, at, who, details, position || ':' || encode(hash, 'hex') AS head FROM journal
    WHERE action = 'resolve' ORDER BY subject, position"""
_DECISIONS = """
    SELECT payment_id, message_id, resolution, expected_version, receipt_number, evidence, decided_by, reason, journal_head
    FROM decisions ORDER BY payment_id, message_id"""
_UNNOTED = """
    SELECT payment_id, updated_at FROM cases c
    WHERE (noted_at IS NOT NULL OR coalesce(details->>'noted_version', '0') <> '0') AND NOT EXISTS (
        SELECT FROM journal j WHERE j.subject = c.payment_id AND j.action = 'take_note'
            AND (j.salt IS NULL OR coalesce(j.details->>'contradicted' = c.details->>'noted_version', true)))
    ORDER BY payment_id"""
_UNCLAIMED = """
    SELECT payment_id, claimed_by, claimed_at FROM cases c WHERE claimed_by IS NOT NULL AND NOT EXISTS (
        SELECT FROM journal j WHERE j.subject = c.payment_id AND j.action = 'claim' AND j.at = c.claimed_at
            AND (j.salt IS NULL OR j.who = c.claimed_by)) ORDER BY payment_id"""
_UNPROPOSED = """
    SELECT p.id, p.payment_id, p.proposed_at FROM proposals p LEFT JOIN journal j ON j.id = p.id AND j.action = 'propose'
    WHERE j.id IS NULL OR j.subject <> p.payment_id OR j.salt IS NOT NULL AND (
        j.who <> p.proposed_by OR NOT j.details @> p.asks OR (j.details->>'act', j.details->>'version') <> (p.act, p.version::text))
    ORDER BY p.payment_id"""
_UNANSWERED = """
    SELECT p.id, p.payment_id, p.state, p.answered_at FROM proposals p
    WHERE p.state IN ('agreed', 'refused', 'withdrawn') AND NOT EXISTS (
        SELECT FROM journal j WHERE j.subject = p.payment_id AND j.details->>'proposal' = p.id::text
            AND j.action = CASE p.state WHEN 'agreed' THEN 'agree' WHEN 'refused' THEN 'disagree' ELSE 'withdraw' END
            AND (j.salt IS NULL OR j.who = p.answered_by)) ORDER BY p.payment_id"""
_NOT_DECIDED = """
    SELECT event_id AS id FROM dead_letters WHERE event_id = ANY($1::uuid[])
    UNION ALL SELECT m FROM outbox, unnest(ids) AS m WHERE m = ANY($1::uuid[])"""

_SEAL_LINE = re.compile(rf"\S+ ({HEAD.pattern})")
_LOGGED: Final = {"service": "staff", "logger": "services.staff.journal", "event": "journal_head"}
"""What says that a log line is the staff service's own about a head. Any other line may quote what somebody else wrote."""

# -- the chain -------------------------------------------------------------------------------------------------------------------------


async def journal_unbroken(counted: Tally, stores: Stores) -> None:
    """Every entry has the hash of its content and of the entry before; every head that was seen elsewhere is one of these hashes."""
    if not stores.has("staff"):
        return
    await check_chain(counted, stores.databases["staff"], await _known_heads(stores))


async def verify_journal(stores: Stores, heads: Sequence[str]) -> tuple[Finding, str | None]:
    """What is wrong with the journal alone, and its head. `heads`: those that a person noted, besides what the stores know."""
    staff, counted = stores.databases["staff"], Tally(settled_before=None)
    await check_chain(counted, staff, await _known_heads(stores) | dict.fromkeys(heads, "a note"))
    return counted.finding("journal_unbroken", ""), await staff.value(_HEAD_NOW)


async def check_chain(counted: Tally, staff: Snapshot, heads: Mapping[str, str]) -> None:
    """Report what is wrong with the chain. `heads`: those seen elsewhere, each with the place where it was seen."""
    chain = _Chain(counted, {})
    for head, where in heads.items():
        if not HEAD.fullmatch(head):
            counted.breach(where, "what it knows as a head of the journal is none")
            continue
        position, _, hash_ = head.partition(":")
        chain.heads.setdefault(int(position), []).append((hash_, where))
    async for row in staff.rows(_CHAIN):
        chain.follow(row)
    chain.end()


@dataclass
class _Chain:
    """Follows the entries in their order. `heads` are the hash and the place of each head seen elsewhere, by its position."""

    counted: Tally
    heads: dict[int, list[tuple[str, str]]]
    position: int = 0
    hash: bytes = b""
    purged: dict[str, str] = field(default_factory=dict)
    purges: dict[str, str] = field(default_factory=dict)

    def follow(self, row: StoredRow) -> None:
        self.counted.look()
        for why in _unchained(row, self.position, self.hash):
            self.counted.breach(row["id"], why)
        self.position, self.hash = row["position"], row["hash"]
        # A purge is told of behind what it purged: an entry that stands before cannot know what was left.
        self.purges |= {id_: left for id_, left in _purged_by(row["purge"]).items() if id_ in self.purged}
        if row["salt"] is None:
            self.purged[str(row["id"])] = sha256(row["content"].encode()).hexdigest()
        for hash_, where in self.heads.pop(self.position, ()):
            if hash_ != self.hash.hex():
                self.counted.breach(row["id"], f"entry {self.position} has another hash than {where} knows")

    def end(self) -> None:
        for position, known in self.heads.items():
            for _, where in known:
                self.counted.breach(position, f"entry {position} is known from {where}, and there is no such entry")
        for id_ in self.purged.keys() - self.purges.keys():
            self.counted.breach(id_, "its content was taken out, and no later entry says that it was purged")
        for id_ in self.purged.keys() & self.purges.keys():
            if self.purged[id_] != self.purges[id_]:
                self.counted.breach(id_, "it was purged, and its content was changed afterwards")


def _unchained(row: StoredRow, last: int, before: bytes) -> Iterator[str]:
    if row["position"] != last + 1:
        yield f"entry {row['position']} comes after entry {last}: what was between them is gone"
    if row["is_to_come"]:
        yield f"entry {row['position']} is of a time that is to come"
    if row["salt"] is not None and sha256(row["salt"] + row["content"].encode()).digest() != row["digest"]:
        yield f"entry {row['position']}: who acted or the details were changed"
    text = "|".join(str(row[name]) for name in ("position", "id", "at_us", "action", "subject"))
    if sha256(before + f"{text}|{row['digest'].hex()}".encode()).digest() != row["hash"]:
        yield f"entry {row['position']} does not follow from its content and the entry before: one of them was changed"


def _purged_by(details: Any) -> dict[str, str]:
    """For each entry of the journal that this purge names, the hash of what the purge left."""
    told = PURGE.read(details, {"rows": ()})
    return {row["key"]: row.get("left_sha256", "") for row in told["rows"] if row["table"] == "journal"}


async def _known_heads(stores: Stores) -> dict[str, str]:
    heads = {row["head"]: "a seal" for row in await stores.databases["staff"].page(_SEALS)}
    if stores.evidence.seals is not None:
        heads |= dict.fromkeys(sealed_heads(stores.evidence.seals), stores.evidence.seals.name)
    heads |= await heads_in_logs(stores, _LOGGED)
    if stores.has("payment_gateway"):
        async for row in stores.databases["payment_gateway"].rows(_HEADS):
            heads[row["journal_head"]] = f"decision {row['message_id']}"
    return heads


def sealed_heads(path: Path) -> Iterator[str]:
    """The heads in a file of seals. A line that a crash left unfinished is passed over."""
    for line in lines_of(path):
        if seal := _SEAL_LINE.fullmatch(line.rstrip("\r\n")):
            yield seal[1]


# -- journal and decisions -------------------------------------------------------------------------------------------------------------

_SAME = ("resolution", "expected_version", "receipt_number", "evidence", "reason")


async def decisions_journalled(counted: Tally, stores: Stores) -> None:
    """Every decision has one entry in the journal with the same person, evidence and version; every such entry became a decision.

    What is kept of people, of what they propose and of what they took note is in the journal, too.
    """
    if stores.has("staff"):
        await _others_journalled(counted, stores.databases["staff"])
        await people_journalled(counted, stores.databases["staff"])
    if not stores.has("payment_gateway", "staff"):
        return
    journal: Keyed = stores.databases["staff"].keyed(_JOURNAL)
    decisions: Keyed = stores.databases["payment_gateway"].keyed(_DECISIONS)
    async for payment_id, (entries, decided) in align(journal, decisions):
        by_message = {uuid5(entry["id"], "0"): entry for entry in entries}
        for decision in decided:
            counted.look()
            entry = by_message.pop(decision["message_id"], None)
            if entry is None:
                counted.breach(payment_id, f"{decision['decided_by']} decided, and the journal does not say so")
            else:
                for why in _different(entry, decision):
                    counted.breach(payment_id, why)
        counted.look(len(by_message))
        last = max((entry["at"] for entry in entries if uuid5(entry["id"], "0") not in by_message), default=None)
        lost = {
            id_: entry for id_, entry in by_message.items() if last is None or entry["at"] > last
        }  # nobody decided anew
        known = await _not_decided(stores, lost)
        for entry in (entry for id_, entry in lost.items() if id_ not in known):
            why = f"the journal says that {entry['who']} decided, and there is no such decision"
            counted.breach(payment_id, why, since=entry["at"])


async def _others_journalled(counted: Tally, staff: Snapshot) -> None:
    """What waits for a second person, what became of it, and what somebody took note of stands in the journal."""
    async for row in staff.rows(_UNPROPOSED):
        counted.breach(
            row["payment_id"],
            f"the journal knows the proposal {row['id']} otherwise, or not at all",
            since=row["proposed_at"],
        )
    async for row in staff.rows(_UNANSWERED):
        counted.breach(
            row["payment_id"],
            f"the proposal {row['id']} was {row['state']}, and the journal does not say by whom",
            since=row["answered_at"],
        )
    async for row in staff.rows(_UNCLAIMED):
        counted.breach(
            row["payment_id"],
            f"its case says that {row['claimed_by']} is on it, and the journal does not say so",
            since=row["claimed_at"],
        )
    async for row in staff.rows(_UNNOTED):
        counted.breach(
            row["payment_id"],
            "somebody took note of a contradiction, and the journal does not say so",
            since=row["updated_at"],
        )


def _different(entry: StoredRow, decision: StoredRow) -> Iterator[str]:
    details = OBJECT.read(entry["details"], {})
    names = [name for name in _SAME if details.get(name) != decision[name]]
    if entry["who"].strip() != decision["decided_by"]:
        names.insert(0, "decided_by")
    if names:
        yield f"the journal and the decision {decision['message_id']} differ in {', '.join(names)}"
    if decision["journal_head"] not in {None, entry["head"]}:
        yield f"the decision {decision['message_id']} was sent with another entry of the journal than is there now"


async def _not_decided(stores: Stores, message_ids: Collection[Any]) -> set[Any]:
    """The messages that are known not to have become a decision yet: dead letters, in an outbox, in a queue, or lost with it."""
    if not message_ids:
        return set()
    if TO_GATEWAY in stores.evidence.lost:
        return set(message_ids)
    found = {row["id"] for row in await stores.databases["staff"].page(_NOT_DECIDED, list(message_ids))}
    queue = (stores.queues or {}).get(TO_GATEWAY)
    waiting = {one.message_id for one in queue.waiting} if queue is not None else set()
    return found | {id_ for id_ in message_ids if str(id_) in waiting}
