"""Checks that every message which was sent reached its queue, and was handled there or dead-lettered."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from services.audit.align import pages
from services.audit.answers import answered, uuid_of
from services.audit.evidence import TappedMessage, TapRecording
from services.audit.expected_messages import KEPT_DAYS, ExpectedMessage, commands, events
from services.audit.finding import Source, Tally
from services.audit.routes import SERVICE_OF, kept_as
from services.audit.stores import DATABASES, Stores
from shared.messaging.topology import (
    COMMANDS,
    DEAD_LETTERS,
    HEARTBEATS,
    JOURNAL,
    PUBLIC_EXCHANGES,
    UNREADABLE_DEAD_LETTERS,
)

PAGE = 2_000
"""The number of messages that are looked up at a time."""

_HANDLED = "SELECT message_id FROM inbox WHERE message_id = ANY($1::uuid[])"
_HEARD = "SELECT id FROM messages WHERE id = ANY($1::uuid[])"
_DEAD_LETTERS = """
    SELECT event_id, message_id FROM dead_letters
    WHERE queue = $1 AND (event_id = ANY($2::uuid[]) OR message_id = ANY($3::text[]))"""
_DEAD_LETTERS_BY_BODY = """
    SELECT encode(sha256(body), 'hex') AS sha256 FROM dead_letters
    WHERE body IS NOT NULL AND ($1::text IS NULL OR queue = $1) AND encode(sha256(body), 'hex') = ANY($2::text[])"""
_WITHHELD = "SELECT coalesce(sum(seen), 0) FROM dead_letters WHERE body IS NULL"
_UNSENT = "SELECT m AS id FROM outbox, unnest(ids) AS m WHERE m = ANY($1::uuid[])"
_OUTBOXES = "SELECT coalesce(sum(cardinality(ids)), 0)::bigint FROM outbox"
_LEFT = """
    SELECT m.id, m.type, o.created_at, o.sweep_after = 'infinity' AS quarantined,
        o.lane <> 'inside' AND m.exchange = ANY($1) AS public_copy
    FROM outbox o, unnest(o.ids, o.types, o.exchanges) AS m (id, type, exchange) ORDER BY o.created_at, m.id"""

_UNJOURNALLED = """
    SELECT d.id, d.status, d.settled_at FROM dead_letters d
    WHERE d.status <> 'open' AND NOT EXISTS (
        SELECT 1 FROM journal j WHERE j.subject = d.id AND (d.settled_by IS NULL OR j.who = d.settled_by OR j.salt IS NULL)
        AND abs(extract(epoch FROM j.at - d.settled_at)) < 86400
        AND j.action = ANY(CASE d.status WHEN 'replayed' THEN ARRAY['replay'] ELSE ARRAY['discard', 'edit'] END)) ORDER BY d.id"""
_REPLAYED = f"""
    SELECT id, queue, event_id, settled_at FROM dead_letters
    WHERE status = 'replayed' AND settled_at > now() - interval '{KEPT_DAYS} days' ORDER BY id"""  # noqa: S608 - a constant

_SENDERS = "SELECT DISTINCT sender FROM answers WHERE sender IS NOT NULL"
_SET_ASIDE = f"""
    SELECT s.command_id, s.reason, s.set_aside_at FROM set_aside s
    WHERE NOT EXISTS (SELECT FROM answers a WHERE a.command_id = s.command_id) AND s.set_aside_at > now() - interval '{KEPT_DAYS} days'
    ORDER BY s.command_id"""  # noqa: S608 - a constant
_OPEN_BODIES = """
    SELECT id, queue, message_id, encode(sha256(body), 'hex') AS sha256 FROM dead_letters
    WHERE status = 'open' AND body IS NOT NULL AND message_id IS NOT NULL ORDER BY id"""
_OF_COMMANDS = f"""
    SELECT event_id, sender, CASE WHEN status = 'discarded' THEN settled_at END AS discarded_at FROM dead_letters
    WHERE queue LIKE '{COMMANDS}%' AND last_seen > now() - interval '{KEPT_DAYS} days'"""  # noqa: S608 - constants

# -- events_delivered ------------------------------------------------------------------------------------------------------------------


async def events_delivered(counted: Tally, stores: Stores) -> None:
    """Drained outboxes are empty; each bound queue received each event at least once; all copies of an event have the same bytes."""
    for name, database in stores.databases.items():
        counted.look(1 + await database.value(_OUTBOXES))
        async for row in database.rows(_LEFT, list(PUBLIC_EXCHANGES)):
            if row["quarantined"]:
                counted.breach(row["id"], f"{row['type']} is quarantined in the outbox of {name}: `remit outbox list`")
            elif row["public_copy"] and not stores.drained:
                counted.in_flight()  # our own queues have it; a full queue of others decides when the copy leaves
            else:
                counted.breach(row["id"], f"{row['type']} is in the outbox of {name}", since=row["created_at"])
    _queues(counted, stores)
    if stores.has(*DATABASES):
        await _follow(counted, stores, events(stores))
    if stores.evidence.tap is None:
        counted.missing("no --tap given: whether duplicates carry the same bytes", Source.TAP)
    else:
        _identical(counted, stores.evidence.tap)


def _queues(counted: Tally, stores: Stores) -> None:
    for name, queue in (stores.queues or {}).items():
        counted.look()
        if queue is None:
            counted.missing(f"the queue {name} does not exist: see `remit topology check`")
        elif queue.ready and name == UNREADABLE_DEAD_LETTERS:
            counted.breach(name, f"{queue.ready} dead letters could not even be delivered: they wait for a person")
        elif queue.ready and stores.drained:
            counted.breach(name, f"{queue.ready} messages are in the queue")
        elif queue.ready:
            counted.in_flight()


def _identical(counted: Tally, tap: TapRecording) -> None:
    """Every message of ours has one body under its id. Senders may use an id twice and get an answer about it; we never do."""
    for tapped in tap.messages():
        if tapped.queue in SERVICE_OF and tapped.queue != COMMANDS:
            counted.look()
            if tapped.bodies > 1:
                counted.breach(
                    tapped.message_id, f"{tapped.queue} received {tapped.bodies} different bodies under this id"
                )


# -- deliveries_accounted_for ----------------------------------------------------------------------------------------------------------


async def deliveries_accounted_for(counted: Tally, stores: Stores) -> None:
    """For each queue, by id: confirmed = handled + dead-lettered + discarded with a journal entry + still there."""
    if stores.has("staff"):
        async for row in stores.databases["staff"].rows(_UNJOURNALLED):
            counted.breach(row["id"], f"the dead letter was {row['status']}, and the journal does not say by whom")
    if stores.has(*DATABASES):
        await _follow(counted, stores, commands(stores))
        await _replayed(counted, stores)
        await _set_aside(counted, stores)
    tap = stores.evidence.tap
    if tap is None:
        counted.missing("no --tap given: what each queue was given", Source.TAP)
    elif not stores.drained:
        counted.missing("a listener's records can be followed only in a drained system (--drained)", Source.TAP)
    elif stores.has(*DATABASES):
        await _check_tapped(counted, stores, tap)
        await _as_received(counted, stores, tap)


async def _replayed(counted: Tally, stores: Stores) -> None:
    """A message that a person replayed was handled, or is an open dead letter again."""
    books = _Books(stores)
    async for row in stores.databases["staff"].rows(_REPLAYED):
        counted.look()
        event_id = row["event_id"]
        if row["queue"] not in SERVICE_OF or (event_id and event_id in await books.handled(row["queue"], [event_id])):
            continue
        why = f"was replayed to {row['queue']}, and neither handled there nor dead-lettered again"
        books.lacking(counted, row["queue"], str(row["id"]), why, ids=(row["id"], event_id), since=row["settled_at"])


async def _set_aside(counted: Tally, stores: Stores) -> None:
    """A command that the invoice service set aside, and that has no answer, is a dead letter that nobody discarded."""
    books = _Books(stores)
    set_aside = await stores.databases["invoice"].page(_SET_ASIDE)
    counted.look(len(set_aside))
    letters = await stores.databases["staff"].page(_OF_COMMANDS) if set_aside else []
    senders = [row["sender"] for row in await stores.databases["invoice"].once(_SENDERS)]
    named = [row for row in letters if row["event_id"] is not None]
    known = {id_: row["discarded_at"] for row in named for id_ in kept_as(row["event_id"], row["sender"], *senders)}
    unknown = [row for row in set_aside if known.get(row["command_id"], row["set_aside_at"]) is not None]
    for row in unknown[len(letters) - len(named) :]:  # a command without an id is set aside under one of ours
        why = f"it was set aside ({row['reason']}), and it has neither an answer nor a dead letter that waits"
        since = max(row["set_aside_at"], known.get(row["command_id"]) or row["set_aside_at"])
        books.lacking(counted, DEAD_LETTERS, str(row["command_id"]), why, ids=(), since=since)


async def _check_tapped(counted: Tally, stores: Stores, tap: TapRecording) -> None:
    books = _Books(stores)
    unnamed = 0
    for page in pages(tap.messages(), PAGE):
        for queue, tapped in _by_queue(page):
            counted.look(len(tapped))
            if queue in SERVICE_OF and queue != HEARTBEATS:
                unnamed += await _ended(counted, books, queue, tapped)
    if unnamed:
        counted.missing(f"{unnamed} commands came without an id of their own: what happened to them", Source.TAP)
    await _all_kept(counted, stores, tap)


async def _ended(counted: Tally, books: "_Books", queue: str, tapped: Sequence[TappedMessage]) -> int:
    """Every message that the queue received was handled there or is a dead letter. Returns how many have no id to follow."""
    ids = [id_ for one in tapped if (id_ := uuid_of(one.message_id)) is not None]
    ended = await books.handled(queue, ids)
    names = await books.dead_letters(queue, ids, [one.message_id for one in tapped])
    left = [one for one in tapped if uuid_of(one.message_id) not in ended and one.message_id not in names]
    kept = await books.dead_letters_by_body(queue, [one.sha256 for one in left])
    unnamed = 0
    for one in left:
        id_ = uuid_of(one.message_id)
        if one.sha256 in kept:
            continue
        if id_ is None and queue == COMMANDS:
            unnamed += 1
            continue
        why = f"{queue} received it, and it was neither handled nor dead-lettered"
        books.lacking(counted, queue, one.message_id, why, ids=(id_,))
    return unnamed


async def _as_received(counted: Tally, stores: Stores, tap: TapRecording) -> None:
    """An open dead letter has the bytes that its queue received: a replay sends them again."""
    letters = await stores.databases["staff"].page(_OPEN_BODIES)
    for letter in letters:
        counted.look()
        received = tap.bodies(letter["queue"], [letter["message_id"]]).get(letter["message_id"])
        if received is not None and letter["sha256"] not in received:
            counted.breach(letter["id"], f"{letter['queue']} received another body than is kept of it")


async def _all_kept(counted: Tally, stores: Stores, tap: TapRecording) -> None:
    """Each message in the dead-letter queue has a record. Records without a body have no hash either, so those are only counted."""
    books, unknown = _Books(stores), 0
    dead_letters = (tapped for tapped in tap.messages() if tapped.queue == DEAD_LETTERS)
    for page in pages(dead_letters, PAGE):
        kept = await books.dead_letters_by_body(None, [tapped.sha256 for tapped in page])
        unknown += sum(tapped.sha256 not in kept for tapped in page)
    withheld = await stores.databases["staff"].value(_WITHHELD)
    waiting = books.room(DEAD_LETTERS)
    if unknown > withheld + waiting:
        counted.breach(DEAD_LETTERS, f"{unknown - withheld - waiting} dead letters have no record")


# -- following messages by their ids -----------------------------------------------------------------------------------------------------


async def _follow(counted: Tally, stores: Stores, expected: AsyncIterator[ExpectedMessage]) -> None:
    """Each of these messages was handled by the service that consumes its queue, or dead-lettered."""
    books = _Books(stores)
    page: list[ExpectedMessage] = []
    async for one in expected:
        page.append(one)
        if len(page) == PAGE:
            await _follow_page(counted, books, page)
            page = []
    await _follow_page(counted, books, page)


async def _follow_page(counted: Tally, books: "_Books", page: Sequence[ExpectedMessage]) -> None:
    counted.look(len(page))
    for queue in sorted({one.queue for one in page}):
        here = {one.id: one for one in page if one.queue == queue}
        books.compare(counted, queue, here.values())
        ended = await books.handled(queue, list(here))
        left = [one for id_, one in here.items() if id_ not in ended]
        if not left:
            continue
        dead = await books.dead_letters(queue, [one.id for one in left], [str(one.id) for one in left])
        unsent = await books.unsent(left)
        for one in left:
            if str(one.id) not in dead and one.id not in unsent:
                why = f"{one.what} ({one.id}) was never seen by {queue}"
                books.lacking(counted, queue, one.about, why, ids=(one.id,), since=one.since)


@dataclass(slots=True)
class _Books:
    """Looks up what happened to messages. `_room`: how many of the missing messages may still wait in each queue."""

    stores: Stores
    _room: dict[str, int] = field(default_factory=dict)

    async def handled(self, queue: str, ids: Sequence[UUID]) -> set[UUID]:
        database = self.stores.databases[SERVICE_OF[queue]]
        if queue == JOURNAL:
            return {row["id"] for row in await database.page(_HEARD, list(ids))}
        if queue != COMMANDS:
            return {row["message_id"] for row in await database.page(_HANDLED, list(ids))}
        return await answered(database, ids)

    async def dead_letters(self, queue: str, ids: Sequence[UUID], names: Sequence[str]) -> set[str]:
        """Those of these ids under which this queue has a dead letter; it is known by the id on its envelope and the one inside."""
        rows = await self.stores.databases["staff"].page(_DEAD_LETTERS, queue, list(ids), list(names))
        return {str(name).lower() for row in rows for name in (row["event_id"], row["message_id"]) if name is not None}

    async def dead_letters_by_body(self, queue: str | None, digests: Sequence[str]) -> set[str]:
        if not digests:
            return set()
        rows = await self.stores.databases["staff"].page(_DEAD_LETTERS_BY_BODY, queue, list(digests))
        return {row["sha256"] for row in rows}

    async def unsent(self, expected: Sequence[ExpectedMessage]) -> set[UUID]:
        """Messages that still wait in their sender's outbox, which `events_delivered` reports."""
        found: set[UUID] = set()
        for source in {one.source for one in expected}:
            ids = [one.id for one in expected if one.source == source]
            found |= {row["id"] for row in await self.stores.databases[source].page(_UNSENT, ids)}
        return found

    def compare(self, counted: Tally, queue: str, expected: Iterable[ExpectedMessage]) -> None:
        """Compare the bytes that a listener received with those that were stored to be published."""
        stored = {str(one.id): one for one in expected if one.sha256 is not None}
        if self.stores.evidence.tap is None or not stored:
            return
        for message_id, digests in self.stores.evidence.tap.bodies(queue, list(stored)).items():
            if digests != {stored[message_id].sha256}:
                one = stored[message_id]
                counted.breach(one.about, f"{one.what} ({one.id}) reached {queue} with other bytes than were stored")

    def room(self, queue: str) -> int:
        """How many missing messages may wait in the queue. A queue that was read completely is known: none of them does."""
        here = (self.stores.queues or {}).get(queue)
        is_known = here is None or (self.stores.drained and here.whole)
        return self._room.setdefault(queue, 0 if here is None or is_known else here.ready)

    def lacking(
        self,
        counted: Tally,
        queue: str,
        about: str,
        why: str,
        *,
        ids: Sequence[UUID | None],
        since: datetime | None = None,
    ) -> None:
        """Report a message that did not come to an end, unless it is young, waits in its queue, or the queue is known to be lost."""
        here = (self.stores.queues or {}).get(queue)
        if queue in self.stores.evidence.lost or counted.is_young(since):
            counted.in_flight()
        elif here is not None and {str(id_) for id_ in ids} & {one.message_id for one in here.waiting}:
            return
        elif self.room(queue):
            self._room[queue] -= 1
            counted.in_flight()
        else:
            counted.breach(about, why)


def _by_queue(page: Sequence[TappedMessage]) -> Iterator[tuple[str, list[TappedMessage]]]:
    for queue in sorted(Counter(tapped.queue for tapped in page)):
        yield queue, [tapped for tapped in page if tapped.queue == queue]
