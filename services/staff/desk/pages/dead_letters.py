"""Failed messages: their groups, the list of one group, one message with its body, and what can be done with it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from pydantic import BaseModel, Field

from services.staff import editing, letter_store, runs, store, told_store
from services.staff.actions import dead_letters as letter_actions
from services.staff.actions import runs as run_actions
from services.staff.actions import second_thoughts
from services.staff.actions.results import ActionResult
from services.staff.charges import charge_of, read_body
from services.staff.dead_letters import DeadLetterRecord, DeadLetterStatus
from services.staff.desk.acted import done, on_screen, sentence
from services.staff.desk.frame import Count
from services.staff.desk.once import NUL
from services.staff.desk.parameters import Moment, key_text, read_key, read_moment
from services.staff.desk.routing import Act, Desk, Done, Refused, Room, Visitor
from services.staff.heard import InvoiceHeard
from services.staff.letter_store import GroupKey, Key, LetterFilter, LetterGroup, LetterLine
from services.staff.people import Actor, Role
from services.staff.runs import SILENCE_MAX
from services.staff.store import JournalEntry, Selection
from shared.contracts.catalogue import short_name
from shared.ids import read_uuid
from shared.messaging.envelope import Inbound
from shared.messaging.topology import COMMANDS
from shared.persistence.database import Connection
from shared.records import replace

room = Room(__name__)

ROWS_MAX = 50
GROUPS_MAX = 20
NEWS_MAX = 1_000
FORMER_MAX = 200
_TEXTS = ("group", "queue", "type", "reason", "invoice", "words")
_MOMENTS = ("since", "until")
"""The filters of the list."""
_REASONS = {
    "handler_failed": "the handler failed",
    "broker_delivery_limit": "the broker gave it out too often",
    "moved_back": "it had the headers of a dead letter",
}


@room.count("dead-letters")
async def open_letters(desk: Desk) -> Count | None:
    """How many are open, for the menu."""
    async with desk.read() as connection:
        counts = await letter_store.counts_by_status(connection)
    return Count(counts[DeadLetterStatus.OPEN], "look", "open")


# -- the list --------------------------------------------------------------------------------------------------------------------------


class GroupCard(BaseModel):
    """A group: how many, the mistake, when, and what a replay would charge (sums in minor units, by currency)."""

    group: str
    title: str
    queue: str
    error_text: str | None
    open: int
    replayed: int
    discarded: int
    first_seen: datetime
    last_seen: datetime
    hourly: list[int]
    charges: int
    sums: dict[str, int]
    run: int | None
    chosen: bool


class LetterRow(BaseModel):
    """A failed message in the list."""

    id: UUID
    name: str
    invoice_id: str | None
    amount_minor: int | None
    currency: str | None
    tries: int
    replays: int
    status: DeadLetterStatus
    outcome: str | None
    last_seen: datetime


class DeadLettersView(BaseModel):
    """Groups and the list. `next` is the key of the next page, `groups_next` that of more of the `groups_total` groups.

    `seen` is when the newest of its first page failed, and `came` how many failed since.
    """

    counts: dict[DeadLetterStatus, int]
    groups: list[GroupCard]
    groups_total: int
    groups_next: str | None
    chosen: GroupCard | None
    status: str
    filters: dict[str, str]
    is_filtered: bool
    letters: list[LetterRow]
    shows_letters: bool
    total: int | None
    after: str | None
    next: str | None
    came: int
    seen: datetime
    news_max: int = NEWS_MAX
    words_max: int = letter_store.WORDS_LETTERS_MAX

    @property
    def tabs(self) -> list[tuple[str, int | None, str, bool]]:
        """The views by status."""
        whole = sum(self.counts.values())
        return [
            *(
                (
                    status.value.capitalize(),
                    self.counts[status],
                    f"/dead-letters?status={status}",
                    self.status == status,
                )
                for status in DeadLetterStatus
            ),
            ("All", whole, "/dead-letters?status=all", self.status == "all"),
        ]

    def address(self, **changes: str | None) -> str:
        """The address of this list with other filters."""
        return f"/dead-letters?{self.query(**changes)}"

    def query(self, **changes: str | None) -> str:
        """The query of this list, with other filters."""
        kept = {"status": self.status, **self.filters, **changes}
        return urlencode({name: value for name, value in kept.items() if value})

    @property
    def place(self) -> str:
        """The query of this page of the list. A form that is refused comes back to it."""
        return self.query(after=self.after, seen=self.seen.isoformat())

    @property
    def live(self) -> str | None:
        """The live part that tells what failed since. Words are looked for when somebody asks, and not each second."""
        return None if "words" in self.filters else f"letters:{self.query(seen=self.seen.isoformat())}"


class LettersNewsView(BaseModel):
    """How many messages that the filters mean failed since a list began, and the address of the list as it is now."""

    came: int
    address: str
    news_max: int = NEWS_MAX


class GroupsView(BaseModel):
    """Groups with open messages, those that failed last first. `next` is the key of the next page, `total` how many groups there are."""

    groups: list[GroupCard]
    total: int
    next: str | None


@room.answer("/dead-letters/groups")
async def groups(desk: Desk, after: str | None = None) -> GroupsView:
    """The groups of failed messages, for programs. Their page has the list of messages beside them."""
    key = _group_key(after)
    async with desk.read() as connection:
        found = await _groups(desk, connection, key)
        total = await letter_store.count_groups(connection)
    return GroupsView(
        groups=[_card(one, chosen=False) for one in found[:GROUPS_MAX]],
        total=total,
        next=_group_key_text(found[GROUPS_MAX - 1]) if len(found) > GROUPS_MAX else None,
    )


@room.page("/dead-letters", "dead-letters.html")
async def dead_letters(  # noqa: PLR0917 - the filters of the address
    desk: Desk,
    status: str = "open",
    group: str | None = None,
    queue: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of the address
    reason: str | None = None,
    invoice: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    words: str | None = None,
    after: str | None = None,
    seen: Moment | None = None,
    groups_after: str | None = None,
) -> DeadLettersView:
    """The groups of failed messages, and those that were asked for."""
    named = {"group": group, "queue": queue, "type": type, "reason": reason, "invoice": invoice, "words": words}
    filters = {name: value for name, value in named.items() if value}
    filters |= {name: at.isoformat() for name, at in zip(_MOMENTS, (since, until), strict=True) if at is not None}
    filter_ = _filter(status, filters)
    key, group_key = _key(after), _group_key(groups_after)
    async with desk.read() as connection:
        counts = await letter_store.counts_by_status(connection)
        shows_groups = status == DeadLetterStatus.OPEN and set(filters) <= {"group"}
        groups = await _groups(desk, connection, group_key) if shows_groups else []
        groups_total = await letter_store.count_groups(connection) if shows_groups else 0
        chosen = next((one for one in groups if one.group == group), None)
        if group is not None and chosen is None:
            chosen = next(iter(await letter_store.groups(connection, desk.clock(), group=group, at_most=1)), None)
        shows_letters = bool(filters) or status != "open" or groups_total <= 1
        lines = await letter_store.page(connection, filter_, after=key, at_most=ROWS_MAX + 1) if shows_letters else []
        came = await letter_store.came_since(connection, filter_, seen, at_most=NEWS_MAX) if seen is not None else 0
    rows = lines[:ROWS_MAX]
    return DeadLettersView(
        counts=counts,
        groups=[_card(one, chosen=one.group == group) for one in groups[:GROUPS_MAX]],
        groups_total=groups_total,
        groups_next=_group_key_text(groups[GROUPS_MAX - 1]) if len(groups) > GROUPS_MAX else None,
        chosen=None if chosen is None else _card(chosen, chosen=True),
        status=status,
        filters=filters,
        is_filtered=bool(filters),
        letters=[_row(one) for one in rows],
        shows_letters=shows_letters,
        total=_total(chosen, status) if set(filters) == {"group"} else None,
        after=after,
        next=key_text(rows[-1].last_seen, rows[-1].id) if len(lines) > ROWS_MAX else None,
        came=came,
        seen=seen
        or max([*(row.last_seen for row in rows[:1]), *(one.last_seen for one in groups)], default=desk.clock()),
    )


async def _groups(desk: Desk, connection: Connection, after: GroupKey | None) -> list[LetterGroup]:
    """A page of groups, and one more if there are more."""
    return await letter_store.groups(connection, desk.clock(), after=after, at_most=GROUPS_MAX + 1)


@room.region("letters", "_letters_news.html")
async def letters_news(key: str, desk: Desk, viewer: Actor) -> LettersNewsView | None:  # noqa: ARG001 - the same for everybody
    """What failed since a list began. The key is the query of the list."""
    sent = dict(parse_qsl(key))
    if "words" in sent or any(NUL in text for text in sent.values()):
        return None
    status, seen = sent.pop("status", "open"), sent.pop("seen", "")
    try:
        filter_, since = _filter(status, sent), read_moment(seen)
    except ValueError:
        return None
    async with desk.read() as connection:
        came = await letter_store.came_since(connection, filter_, since, at_most=NEWS_MAX)
    return LettersNewsView(came=came, address=f"/dead-letters?{urlencode({'status': status, **sent})}")


def _filter(status: str, filters: Mapping[str, str]) -> LetterFilter:
    """The filters of an address, as the store has them."""
    moments = {name: read_moment(filters[name]) for name in _MOMENTS if name in filters}
    texts = {name: filters[name] for name in _TEXTS if name in filters}
    given: dict[str, Any] = {**texts, **moments}
    return LetterFilter(status=_status(status), **given)


def _status(text: str) -> DeadLetterStatus | None:
    if text == "all":
        return None
    try:
        return DeadLetterStatus(text)
    except ValueError:
        raise Refused("invalid", "Status: open, replayed, discarded or all.", HTTPStatus.UNPROCESSABLE_ENTITY) from None


def _total(chosen: LetterGroup | None, status: str) -> int | None:
    if chosen is None:
        return None
    by_status = {"open": chosen.open, "replayed": chosen.replayed, "discarded": chosen.discarded}
    return by_status.get(status, sum(by_status.values()))


def _key(text: str | None) -> Key | None:
    if text is None:
        return None
    if (found := read_key(text)) is None:
        raise Refused(
            "invalid", "After: the key of a page, as the page before has it.", HTTPStatus.UNPROCESSABLE_ENTITY
        )
    return found


def _group_key(text: str | None) -> GroupKey | None:
    if text is None:
        return None
    at, _, group = text.rpartition("_")
    try:
        return read_moment(at), group
    except ValueError:
        told = "Groups after: the key of a page of groups, as the page before has it."
        raise Refused("invalid", told, HTTPStatus.UNPROCESSABLE_ENTITY) from None


def _group_key_text(group: LetterGroup) -> str:
    return f"{group.last_seen.isoformat()}_{group.group}"


def name_of(type_: str | None) -> str:
    """The name of a message, for people: that in its type, or the type as it came."""
    return short_name(type_ or "") or "A message without a type"


def mistake_words(reason: str, error_type: str | None) -> str:
    """The mistake in words: `the handler failed: KeyError`."""
    text = _REASONS.get(reason, reason.replace("_", " "))
    return f"{text}: {error_type}" if error_type else text


def _card(group: LetterGroup, *, chosen: bool) -> GroupCard:
    return GroupCard(
        group=group.group,
        title=f"{name_of(group.type)}: {mistake_words(group.reason, group.error_type)}",
        queue=group.queue,
        error_text=group.error_text,
        open=group.open,
        replayed=group.replayed,
        discarded=group.discarded,
        first_seen=group.first_seen,
        last_seen=group.last_seen,
        hourly=list(group.hourly),
        charges=group.charges,
        sums=dict(sorted(group.sums.items())),
        run=group.in_run,
        chosen=chosen,
    )


def _row(line: LetterLine) -> LetterRow:
    return LetterRow(
        id=line.id,
        name=name_of(line.type),
        invoice_id=line.invoice_id,
        amount_minor=line.amount_minor,
        currency=line.currency,
        tries=line.tries,
        replays=line.replays,
        status=line.status,
        outcome=line.outcome,
        last_seen=line.last_seen,
    )


# -- one message -------------------------------------------------------------------------------------------------------------------------


class HistoryLine(BaseModel):
    """Something that happened to a message."""

    at: datetime
    kind: str
    text: str
    sequence: UUID | None = None


class LetterStateView(BaseModel):
    """How a message stands. `stamp` is another one whenever something else can be done with it; `changed`: it is not that of the page."""

    id: UUID
    name: str
    group: str | None
    invoice_id: str | None
    amount_minor: int | None
    currency: str | None
    badge: tuple[str, str]
    stamp: str
    changed: bool
    version: str


class LetterView(LetterStateView):
    """One failed message. Sentences are for people; codes are beside them."""

    type: str | None
    queue: str
    status: DeadLetterStatus
    happened: str
    mistake: str
    alike: int
    invoice_status: str | None
    customer_id: str | None
    payment_id: UUID | None
    charges: bool
    asked_at: datetime | None
    is_too_old: bool
    body: str | None
    body_bytes: int
    hides: bool
    why_no_body: str | None
    why_not_replay: str | None
    why_not_restore: str | None
    answers_command: bool
    decides_payment: bool
    may_edit: bool
    why_not_edit: str | None
    facts: list[tuple[str, str]]
    message_id: str | None
    event_id: UUID | None
    first_seen: datetime
    last_seen: datetime
    headers: list[tuple[str, str]]
    done_by: str | None
    done_at: datetime | None
    done_what: str | None
    done_reason: str | None
    undo_until: datetime | None
    undo_of: UUID | None
    history: list[HistoryLine]
    notes: list[HistoryLine]


@room.page("/dead-letters/{letter_id}", "dead-letter.html")
async def dead_letter(letter_id: UUID, desk: Desk) -> LetterView:
    """What happened to one message, what a replay would do, and all that is known of it."""
    async with desk.read() as connection:
        record, entries = await _found(connection, letter_id)
        group, alike = await letter_store.group_of(connection, letter_id)
        may_edit = await second_thoughts.may_edit(connection)
        named = record.letter.invoice_id
        invoice = await told_store.invoice_heard(connection, named) if named is not None else None
    return _view(desk, record, entries, group, max(alike - 1, 0), invoice, may_edit=may_edit)


@room.region("letter", "_letter_state.html")
async def letter_state(key: str, desk: Desk, viewer: Actor) -> LetterStateView | None:  # noqa: ARG001 - the same for everybody
    """How a message stands now: the key is its id, and the stamp of the page."""
    id_, _, stamp = key.partition(".")
    if (letter_id := read_uuid(id_)) is None:
        return None
    async with desk.read() as connection:
        record, entries = await _found(connection, letter_id)
        group, _ = await letter_store.group_of(connection, letter_id)
    until, _ = _undoable_until(record, entries)
    return LetterStateView(**_state(record, until, group, desk.clock(), stamp=stamp))


def _state(
    record: DeadLetterRecord, undo_until: datetime | None, group: str | None, now: datetime, *, stamp: str | None
) -> dict[str, Any]:
    """The fields of `LetterStateView`. `stamp`: that of the page; None if this is the page."""
    letter = record.letter
    can_undo = undo_until is not None and now < undo_until
    own = f"{record.version}-{record.outcome or ''}-{'undo' if can_undo else ''}"
    return {
        "id": record.id,
        "name": name_of(letter.type),
        "group": group,
        "invoice_id": letter.invoice_id,
        "amount_minor": letter.amount_minor,
        "currency": letter.currency,
        "badge": _badge(record, undo_until, now),
        "stamp": own,
        "changed": stamp is not None and stamp != own,
        "version": record.version,
    }


async def _found(connection: Connection, letter_id: UUID) -> tuple[DeadLetterRecord, list[JournalEntry]]:
    found = await store.find_letter(connection, letter_id)
    if found is None:
        raise Refused("unknown", "There is no such failed message.", HTTPStatus.NOT_FOUND)
    return found, await store.entries_about(connection, letter_id)


def _view(
    desk: Desk,
    record: DeadLetterRecord,
    entries: list[JournalEntry],
    group: str | None,
    alike: int,
    invoice: InvoiceHeard | None,
    *,
    may_edit: bool,
) -> LetterView:
    letter, now = record.letter, desk.clock()
    old_after = timedelta(seconds=desk.settings.replay_charges_within_s)
    charge = charge_of(record) if letter.may_charge is not False else None
    body, hides = editing.shown_body(letter)
    not_replayable = letter_actions.not_replayable(replace(record, status=DeadLetterStatus.OPEN, settlement=None))
    undo_until, undo_of = _undoable_until(record, entries)
    why_not_edit = _why_not_edit(record, not_replayable)
    settled = record.settlement
    tells = _tells(record)
    return LetterView(
        **_state(record, undo_until, group, now, stamp=None),
        type=letter.type,
        queue=letter.queue,
        status=record.status,
        happened=_happened(record),
        mistake=letter.error_text or mistake_words(letter.reason, letter.error_type),
        alike=alike,
        invoice_status=None if invoice is None else (invoice.status or "").replace("_", " ") or None,
        customer_id=None if invoice is None else invoice.customer_id,
        payment_id=letter.payment_id,
        charges=charge is not None,
        asked_at=None if charge is None else charge.since,
        is_too_old=charge is not None and charge.is_old(now, old_after),
        body=None if letter.body is None else body,
        body_bytes=letter.body_bytes,
        hides=hides,
        why_no_body=None if letter.withheld is None else letter_actions.withheld_words(letter.withheld),
        why_not_replay=None if not_replayable is None else sentence(not_replayable.text),
        why_not_restore=_why_not_restore(record, entries),
        answers_command=tells[0],
        decides_payment=tells[1],
        may_edit=may_edit,
        why_not_edit=why_not_edit,
        facts=_facts(record),
        message_id=letter.message_id,
        event_id=letter.event_id,
        first_seen=record.first_seen,
        last_seen=record.last_seen,
        headers=sorted((name, str(value)) for name, value in letter.headers.items()),
        done_by=None if settled is None else settled.by,
        done_at=None if settled is None else settled.at,
        done_what=None if settled is None else record.status.value,
        done_reason=None if settled is None else settled.reason,
        undo_until=undo_until if undo_until is not None and now < undo_until else None,
        undo_of=undo_of,
        history=_history(record, [entry for entry in entries if entry.action != "note"]),
        notes=[
            HistoryLine(at=entry.at, kind="hand", text=f"{entry.who}: {entry.details.get('note')}", sequence=entry.id)
            for entry in entries
            if entry.action == "note"
        ],
    )


def _tells(record: DeadLetterRecord) -> tuple[bool, bool]:
    """Whether discarding it answers a command, and whether it decides a payment."""
    letter = record.letter
    if letter.queue == COMMANDS:
        return letter.event_id is not None, False
    return False, bool(letter.may_charge)


def _badge(record: DeadLetterRecord, undo_until: datetime | None, now: datetime) -> tuple[str, str]:
    if record.status is DeadLetterStatus.OPEN:
        return "look", "Failed again" if record.replays else "Open"
    if undo_until is not None and now < undo_until:
        return "work", f"Goes out in {int((undo_until - now).total_seconds()) + 1} s"
    if record.status is DeadLetterStatus.DISCARDED:
        return "quiet", "Discarded"
    match record.outcome:
        case "handled":
            return "done", "Handled"
        case "rejected":
            return "hand", f"Answered with a refusal: {(record.outcome_reason or 'unknown').replace('_', ' ')}"
        case "duplicate":
            return "quiet", "It had been handled before"
        case None:
            sent = record.settlement.at if record.settlement is not None else now
            return ("look", "No sign") if now - sent > SILENCE_MAX else ("work", "On its way")


def _happened(record: DeadLetterRecord) -> str:
    letter = record.letter
    if letter.origin == "broker":
        return (
            "The broker set it aside by itself. A service may have handled it before: then a replay is recognised, "
            "and nothing is done twice."
        )
    owner = letter.queue.partition(".")[0].replace("_", "-")
    tries = f"tried {letter.tries} times and failed each time" if letter.tries > 1 else "could not handle it"
    return f"The {owner} service {tries}, so it set the message aside. Nothing of it was done."


def _undoable_until(record: DeadLetterRecord, entries: list[JournalEntry]) -> tuple[datetime | None, UUID | None]:
    """Until when what settled it can be undone, and the entry of the journal that did."""
    entry = second_thoughts.settling_entry(record, entries)
    if entry is None or not isinstance(undo_s := entry.details.get("undo_s"), int):
        return None, None
    return entry.at + timedelta(seconds=undo_s), entry.id


def _why_not_edit(record: DeadLetterRecord, not_replayable: ActionResult | None) -> str | None:
    if not_replayable is not None:
        return sentence(not_replayable.text)
    try:
        editing.editable(record.letter)
    except editing.NotEditableError:
        return "It cannot be read, so it cannot be edited."
    return None


def _why_not_restore(record: DeadLetterRecord, entries: list[JournalEntry]) -> str | None:
    if record.status is not DeadLetterStatus.DISCARDED:
        return "It was not discarded."
    told = second_thoughts.why_told(record, second_thoughts.settling_entry(record, entries))
    return None if told is None else sentence(told.text)


def _facts(record: DeadLetterRecord) -> list[tuple[str, str]]:
    letter = record.letter
    seen = "once" if record.seen == 1 else f"{record.seen} times"
    replayed = "never" if not record.replays else "once" if record.replays == 1 else f"{record.replays} times"
    facts = [
        ("Failed on", letter.queue),
        ("Set aside by", "the broker" if letter.origin == "broker" else "a service of Remit"),
        ("Reason", letter.reason),
        ("Mistake", letter.error_type or ""),
        ("Seen", f"{seen}; replayed {replayed}"),
        ("Type", letter.type or ""),
        ("Sender", letter.sender or ""),
        ("Answers go to", letter.reply_to or ""),
        ("Correlation", letter.correlation_id or ""),
    ]
    return [(label, value) for label, value in facts if value]


_DID: Mapping[str, str] = {
    "replay": "replay",
    "discard": "discard",
    "undo": "undo",
    "restore": "brought back",
    "edit": "edit and replay",
    "refused": "refused",
}


def _history(record: DeadLetterRecord, entries: list[JournalEntry]) -> list[HistoryLine]:
    letter = record.letter
    lines: list[HistoryLine] = []
    read = read_body(letter)
    if isinstance(read, Inbound) and read.sent_at is not None:
        lines.append(HistoryLine(at=min(read.sent_at, record.first_seen), kind="", text="Sent"))
    lines.append(HistoryLine(at=record.first_seen, kind="look", text="Failed for the first time"))
    if record.last_seen > record.first_seen:
        lines.append(HistoryLine(at=record.last_seen, kind="look", text="Failed again"))
    for entry in entries:
        what = _DID.get(entry.action, entry.action.replace("_", " "))
        more = [f"in run R-{entry.details['run']}"] if "run" in entry.details else []
        if entry.action == "refused":
            more.append(f"{entry.details.get('action')}, {str(entry.details.get('code')).replace('_', ' ')}")
        more += [f"“{entry.details['reason']}”"] if entry.details.get("reason") else []
        lines.append(
            HistoryLine(at=entry.at, kind="hand", text=f"{entry.who}: {', '.join([what, *more])}", sequence=entry.id)
        )
    if record.outcome is not None and record.outcome_at is not None:
        kind, text = _badge(replace(record, status=DeadLetterStatus.REPLAYED), None, record.outcome_at)
        lines.append(HistoryLine(at=record.outcome_at, kind=kind, text=text))
    return sorted(lines, key=lambda line: line.at)


# -- acts ------------------------------------------------------------------------------------------------------------------------------


class ShownForm(Act):
    """An act on a message as its page showed it."""

    version: str = Field(
        max_length=64, json_schema_extra={"missing": "Say which version of the message was shown: its page has it."}
    )

    def is_shown(self, record: DeadLetterRecord) -> bool:
        """Whether the message still is as it was shown."""
        return record.version == self.version


class ReasonForm(ShownForm):
    """Why something is done."""

    reason: str = Field(max_length=1_000, title="Why", json_schema_extra={"missing": "Say why it is given up."})


class BringBackForm(ShownForm):
    """Why something that was given up comes back."""

    reason: str = Field(max_length=1_000, title="Why", json_schema_extra={"missing": "Say why it comes back."})


class NoteAboutForm(Act):
    """A note about a message."""

    note: str = Field(max_length=1_000, title="Note", json_schema_extra={"missing": "Write the note."})


UndoneEntry = Annotated[
    UUID, Field(json_schema_extra={"missing": "Say which entry of the log is undone: the page of the message has it."})
]


class DiscardManyForm(Act):
    """Which messages of a list are given up, and why. `seen` is when the newest of the list had failed: later ones were not shown."""

    id: list[UUID] = Field(default_factory=list, max_length=1_000)
    seen: Moment
    why: str = Field(max_length=1_000, title="Why", json_schema_extra={"missing": "Say why they are given up."})


@room.act("/dead-letters/{letter_id}/replay", needs=Role.REPLAYER)
async def replay(letter_id: UUID, form: ShownForm, desk: Desk, visitor: Visitor) -> Done:
    """Send the message again, after the time to undo it."""
    undo_s = visitor.preferences.undo_s
    (result,) = await letter_actions.replay(
        desk.database,
        Selection(ids=(letter_id,)),
        who=visitor.actor,
        old_after=timedelta(seconds=desk.settings.replay_charges_within_s),
        undo_s=undo_s,
        is_told=desk.settings.staff_replays == "on",
        as_shown=form.is_shown,
        clock=desk.clock,
    )
    return _undoable(result, letter_id, desk, undo_s, f"It goes out in {undo_s} seconds")


@room.act("/dead-letters/{letter_id}/discard", needs=Role.REPLAYER)
async def discard(letter_id: UUID, form: ReasonForm, desk: Desk, visitor: Visitor) -> Done:
    """Give the message up, after the time to undo it."""
    undo_s = visitor.preferences.undo_s
    (result,) = await letter_actions.discard(
        desk.database,
        Selection(ids=(letter_id,)),
        who=visitor.actor,
        reason=form.reason,
        undo_s=undo_s,
        as_shown=form.is_shown,
        clock=desk.clock,
    )
    return _undoable(result, letter_id, desk, undo_s, f"Discarded; others hear of it in {undo_s} seconds")


def _undoable(result: ActionResult, letter_id: UUID, desk: Desk, undo_s: int, text: str) -> Done:
    page = f"/dead-letters/{letter_id}"
    if result.proposal is not None:
        return done(result, page)  # a second person must agree before it is done
    until = desk.clock() + timedelta(seconds=undo_s)
    return done(result, page, text=f"{text}.", undo=f"{page}/undo?of={result.entry}", undo_until=until)


@room.act("/dead-letters/{letter_id}/undo", needs=Role.REPLAYER)
async def undo(letter_id: UUID, of: UndoneEntry, form: Act, desk: Desk, actor: Actor) -> Done:  # noqa: ARG001 - its id is in the actor
    """Take a replay or discard back, as long as nothing of it has left. `of` is its entry in the log."""
    result = await second_thoughts.undo(desk.database, letter_id, of=of, who=actor, clock=desk.clock)
    return done(result, f"/dead-letters/{letter_id}")


@room.act("/dead-letters/{letter_id}/restore", needs=Role.REPLAYER)
async def restore(letter_id: UUID, form: BringBackForm, desk: Desk, actor: Actor) -> Done:
    """Bring back what was given up, where nobody was told."""
    result = await second_thoughts.restore(
        desk.database, letter_id, who=actor, reason=form.reason, as_shown=form.is_shown, clock=desk.clock
    )
    return done(result, f"/dead-letters/{letter_id}")


@room.act("/dead-letters/{letter_id}/notes", needs=Role.REPLAYER)
async def keep_note(letter_id: UUID, form: NoteAboutForm, desk: Desk, actor: Actor) -> Done:
    """Keep a note about the message."""
    result = await second_thoughts.note(desk.database, letter_id, who=actor, text=form.note, clock=desk.clock)
    return done(result, f"/dead-letters/{letter_id}")


@room.act("/dead-letters/discard", needs=Role.REPLAYER, page="/dead-letters")
async def discard_many(form: DiscardManyForm, desk: Desk, actor: Actor) -> Done:
    """Give the chosen messages up."""
    if not form.id:
        raise Refused("none_selected", "Select at least one.", HTTPStatus.UNPROCESSABLE_ENTITY)
    results = await letter_actions.discard(
        desk.database,
        Selection(ids=tuple(form.id)),
        who=actor,
        reason=form.why,
        as_shown=lambda record: record.last_seen <= form.seen,
        clock=desk.clock,
    )
    if all(not result.ok for result in results):
        return done(results[0], "/dead-letters")
    return Done(text=_told_of_many(results), location="/dead-letters")


def _told_of_many(results: Sequence[ActionResult]) -> str:
    """What became of the chosen messages, each kind with its number."""
    refused = [result for result in results if not result.ok]
    proposed = sum(result.proposal is not None for result in results)
    discarded = len(results) - len(refused) - proposed
    told = [f"{discarded} discarded."] if discarded else []
    if proposed:
        told.append(
            f"{proposed} {'waits' if proposed == 1 else 'wait'} for a second person, and nothing is sent before."
        )
    if refused:
        told.append(f"{len(refused)} {'was' if len(refused) == 1 else 'were'} not: {on_screen(refused[0].text)}.")
    return " ".join(told)


# -- replay many ---------------------------------------------------------------------------------------------------------------------------


class PreviewForm(Act):
    """Which messages a run takes: the chosen ones (`id`), or all open ones that the filters mean.

    The filters are those of `GET dead-letters`. `reason` is that of the failure: why they are replayed is said when one is tried.
    """

    what: Literal["selected", "group"] = "selected"
    id: list[UUID] = Field(default_factory=list, max_length=runs.LETTERS_MAX)
    group: str | None = Field(None, max_length=64)
    queue: str | None = Field(None, max_length=255)
    type: str | None = Field(None, max_length=255)
    reason: str | None = Field(None, max_length=255)
    invoice: str | None = Field(None, max_length=255)
    since: Moment | None = None
    until: Moment | None = None
    words: str | None = Field(None, max_length=255, title="Words of the mistake")


@room.act("/replays", needs=Role.REPLAYER, page="/dead-letters")
async def preview(form: PreviewForm, desk: Desk, actor: Actor) -> Done:
    """Fix a list, and say what replaying it would do. Nothing is sent."""
    if form.what == "selected" and not form.id:
        raise Refused("none_selected", "Select at least one.", HTTPStatus.UNPROCESSABLE_ENTITY)
    by_ids = form.what == "selected"
    filter_ = (
        LetterFilter(status=None, ids=tuple(form.id))
        if by_ids
        else LetterFilter(
            status=DeadLetterStatus.OPEN,
            group=form.group,
            queue=form.queue,
            type=form.type,
            reason=form.reason,
            invoice=form.invoice,
            since=form.since,
            until=form.until,
            words=form.words,
        )
    )
    previewed = await run_actions.preview(
        desk.database,
        filter_,
        who=actor,
        title=await _title(desk, form, by_ids=by_ids),
        old_after=timedelta(seconds=desk.settings.replay_charges_within_s),
        clock=desk.clock,
    )
    if previewed.no is None:
        return done(previewed.result, "/dead-letters")
    text = sentence(previewed.result.text)
    if previewed.beyond > 0:
        whole = previewed.beyond + runs.LETTERS_MAX
        more = " or more" if whole >= run_actions.COUNTED_MAX else ""
        text = f"A run takes {runs.LETTERS_MAX:,}; the first {runs.LETTERS_MAX:,} of {whole:,}{more} are in this one."
        text = text.replace(",", " ")
    return Done(text=text, location=f"/replays/{previewed.no}", entry=previewed.result.entry)


async def _title(desk: Desk, form: PreviewForm, *, by_ids: bool) -> str:
    if by_ids:
        return f"{len(form.id)} chosen messages"
    if form.group is None:
        return "All that fit the filters"
    async with desk.read() as connection:
        found = await letter_store.groups(connection, desk.clock(), group=form.group, at_most=1)
    if not found:
        return "A group"
    return f"{name_of(found[0].type)}: {mistake_words(found[0].reason, found[0].error_type)}"


# -- edit and replay ---------------------------------------------------------------------------------------------------------------


class FieldLine(BaseModel):
    """A field of a message that may be edited, or is locked."""

    name: str
    text: str
    kind: str


class EditView(BaseModel):
    """A message as its fields, and what changes."""

    id: UUID
    version: str
    name: str
    type: str
    invoice_id: str | None
    payment_id: UUID | None
    amount_minor: int | None
    currency: str | None
    charges: bool
    answers_command: bool
    reply_to: str | None
    mistake: str
    locked: list[FieldLine]
    open: list[FieldLine]
    unknown: list[FieldLine]
    changed: list[tuple[str, str]]
    problem: str | None
    allowed: bool


@room.page("/dead-letters/{letter_id}/edit", "edit.html")
async def edit_page(letter_id: UUID, desk: Desk) -> EditView:
    """What may be changed of a message, and what is locked. At first everything is left out that its contract does not know."""
    async with desk.read() as connection:
        record, _ = await _found(connection, letter_id)
        allowed = await second_thoughts.may_edit(connection)
    if (refused := letter_actions.already_settled(record) or letter_actions.not_replayable(record)) is not None:
        raise Refused(str(refused.refusal), sentence(refused.text), HTTPStatus.CONFLICT)
    try:
        message = editing.editable(record.letter)
    except editing.NotEditableError:
        sentence_ = "It cannot be read, so it cannot be edited. Discard it and ask the sender."
        raise Refused("not_editable", sentence_, HTTPStatus.UNPROCESSABLE_ENTITY) from None
    unknown = [field for field in message.fields if not field.is_known and not field.is_locked]
    changed, problem = _difference(record, message, [field.name for field in unknown])
    letter = record.letter
    return EditView(
        id=record.id,
        version=record.version,
        name=name_of(letter.type),
        type=message.type,
        invoice_id=letter.invoice_id,
        payment_id=letter.payment_id,
        amount_minor=letter.amount_minor,
        currency=letter.currency,
        charges=bool(letter.may_charge),
        answers_command=letter.queue == COMMANDS and letter.event_id is not None,
        reply_to=letter.reply_to,
        mistake=letter.error_text or letter.reason,
        locked=[
            *(_line(field) for field in message.fields if field.is_locked),
            FieldLine(name="source", text=str(message.attributes.get("source", "")), kind="text"),
        ],
        open=[_line(field) for field in message.fields if field.is_known and not field.is_locked],
        unknown=[_line(field) for field in unknown],
        changed=changed,
        problem=problem,
        allowed=allowed,
    )


def _line(field: editing.EditField) -> FieldLine:
    return FieldLine(name=field.name, text=editing.shown_value(field), kind=field.kind)


def _difference(
    record: DeadLetterRecord, message: editing.EditableMessage, drop: list[str]
) -> tuple[list[tuple[str, str]], str | None]:
    """The lines that change if these fields are left out, and why the result could not be read."""
    after = {name: value for name, value in message.data.items() if name not in drop}
    changed = editing.difference(dict(message.data), after)
    built = second_thoughts.edited_body(record, record.id, drop=drop, changes={})
    return changed, sentence(built.text) if isinstance(built, ActionResult) else None


class EditLetterForm(ShownForm):
    """What is left out, what is set (`set_NAME` in a form), and why."""

    model_config = Act.model_config | {"extra": "allow"}
    reason: str = Field(max_length=1_000, title="Why", json_schema_extra={"missing": "Say why it is edited."})
    drop: list[str] = Field(default_factory=list, max_length=1_000)
    set: dict[str, str] = Field(default_factory=dict)


@room.act("/dead-letters/{letter_id}/edit", needs=Role.REPLAYER)
async def edit(letter_id: UUID, form: EditLetterForm, desk: Desk, actor: Actor) -> Done:
    """Send an edited message in the place of this one."""
    async with desk.read() as connection:
        record, _ = await _found(connection, letter_id)
    typed = {name.removeprefix("set_"): value for name, value in (form.model_extra or {}).items()}
    changes = {**_changed(record, {k: str(v) for k, v in typed.items()}), **form.set}
    result = await second_thoughts.edit(
        desk.database,
        letter_id,
        who=actor,
        reason=form.reason,
        drop=form.drop,
        changes=changes,
        old_after=timedelta(seconds=desk.settings.replay_charges_within_s),
        is_told=desk.settings.staff_replays == "on",
        as_shown=form.is_shown,
        clock=desk.clock,
    )
    return done(result, f"/dead-letters/{letter_id}")


def _changed(record: DeadLetterRecord, typed: Mapping[str, str]) -> dict[str, str]:
    """What was typed and is another value than before. An empty form field changes nothing."""
    try:
        before = {field.name: _line(field).text for field in editing.editable(record.letter).fields}
    except editing.NotEditableError:
        return dict(typed)
    return {name: text for name, text in typed.items() if text != before.get(name, "")}
