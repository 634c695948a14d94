"""Compares the answers that senders were promised with a sender's own history."""

from collections import Counter
from collections.abc import Iterable, Iterator
from uuid import UUID

from services.audit.align import pages
from services.audit.finding import Tally
from services.audit.routes import kept_as
from services.audit.stores import Attempted, Snapshot, Stores
from shared.messaging.topology import COMMANDS, DEAD_LETTERS, SUSPECT_COMMANDS, UNREADABLE_DEAD_LETTERS

PAGE = 2_000
"""The number of commands that are looked up at a time."""
IN_HAND_MAX = 400
"""The number of messages that a consumer may hold without having acknowledged them (`shared.messaging.consumer.PREFETCH`)."""

_ANSWERED = "SELECT command_id FROM answers WHERE command_id = ANY($1::uuid[])"
_READ = """
    SELECT coalesce(sent_id, command_id) AS id, command_type, answer, sender FROM answers
    WHERE (answer = 'accepted' OR invoice_id IS NOT NULL) AND sender = ANY($1::text[]) ORDER BY 1"""
"""Answers to commands that could be read: they name their invoice."""
_SENDERS_OF = """
    SELECT DISTINCT sender FROM answers WHERE sender IS NOT NULL AND coalesce(sent_id, command_id) = ANY($1::uuid[])"""
_SENDERS = "SELECT DISTINCT sender FROM answers WHERE sender IS NOT NULL"
_OPEN_DEAD_LETTERS = """
    SELECT id, message_id, event_id FROM dead_letters
    WHERE status = 'open' AND queue = 'invoice.commands' AND (message_id = ANY($1::text[]) OR event_id = ANY($2::uuid[]))"""


async def answered_once(counted: Tally, stores: Stores) -> None:
    """Every confirmed command has one answer or one open dead letter; one whose confirm was lost has one of them or none. Nothing of a
    sender was answered that its own history does not know."""
    if not stores.has("invoice"):
        return
    room, asked, senders = _Room(stores), set[UUID](), set[str]()
    for page in pages(stores.attempts(), PAGE):
        await _check(counted, stores, page, room)
        ids = [id_ for id_ in (uuid_of(attempt.command_id) for attempt in page) if id_ is not None]
        asked.update(ids)
        senders |= {row["sender"] for row in await stores.databases["invoice"].page(_SENDERS_OF, ids)}
    await _unasked(counted, stores, asked, senders)
    if stores.history is not None and counted.looked_at == 0:
        counted.missing("the history of the sender is empty")


async def _check(counted: Tally, stores: Stores, page: list[Attempted], room: "_Room") -> None:
    ids = [id_ for id_ in map(uuid_of, {attempt.command_id for attempt in page}) if id_ is not None]
    done = {str(id_) for id_ in await answered(stores.databases["invoice"], ids)}
    staff = stores.databases.get("staff")
    dead_letters = Counter[str]() if staff is None else await _open_dead_letters(staff, page, ids)
    for attempt in page:
        counted.look()
        id_, kept = attempt.command_id, dead_letters[attempt.command_id]
        if kept > 1:
            counted.breach(id_, f"{kept} open dead letters")
        elif id_ in done and kept:
            counted.breach(id_, "an answer and an open dead letter", since=attempt.at)
        elif attempt.confirmed and id_ not in done and not kept and staff is not None:
            _unanswered(counted, room, attempt)


async def _unasked(counted: Tally, stores: Stores, asked: set[UUID], senders: set[str]) -> None:
    """Whatever was answered to the senders of this history stands in it, unless its id could not be read."""
    async for row in stores.databases["invoice"].rows(_READ, sorted(senders)):
        if row["id"] not in asked:
            counted.breach(row["id"], f"{row['command_type']} was {row['answer']}, and {row['sender']} never sent it")


async def answered(invoices: Snapshot, ids: Iterable[UUID]) -> set[UUID]:
    """Those of these commands that have an answer, of whatever sender."""
    senders = [row["sender"] for row in await invoices.once(_SENDERS)]
    asked = {one: id_ for id_ in ids for one in kept_as(id_, None, *senders)}
    return {asked[row["command_id"]] for row in await invoices.page(_ANSWERED, list(asked))}


class _Room:
    """Counts how many unanswered commands of a live system may be in a queue or in a consumer's hands."""

    def __init__(self, stores: Stores) -> None:
        names = (COMMANDS, SUSPECT_COMMANDS, DEAD_LETTERS, UNREADABLE_DEAD_LETTERS)
        queues = [(stores.queues or {}).get(name) for name in names]
        self.left = (
            0
            if stores.drained
            else sum(q.ready + q.consumers * IN_HAND_MAX for q in queues if q is not None and q.ready)
        )

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def _unanswered(counted: Tally, room: _Room, attempt: Attempted) -> None:
    """The command is lost, unless it may still wait in a queue."""
    if room.take():
        counted.in_flight()
    else:
        counted.breach(
            attempt.command_id, "confirmed by the broker, and neither answered nor dead-lettered", since=attempt.at
        )


async def _open_dead_letters(staff: Snapshot, page: list[Attempted], ids: list[UUID]) -> Counter[str]:
    rows = await staff.page(_OPEN_DEAD_LETTERS, [attempt.command_id for attempt in page], ids)
    return Counter(name for row in rows for name in _names(row["message_id"], row["event_id"]))


def _names(message_id: str | None, event_id: UUID | None) -> Iterator[str]:
    """The ids of a dead letter: the one on its envelope and the one inside, which are usually the same."""
    yield from {str(name).lower() for name in (message_id, event_id) if name is not None}


def uuid_of(text: str) -> UUID | None:
    """The text as a UUID; None if it is not one."""
    try:
        return UUID(text)
    except ValueError:
        return None
