"""What all actions have in common: their results, refusals that are journalled, texts of people, the messages that an entry causes."""

import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from functools import wraps
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

from services.staff import store
from services.staff.domain import DecisionRefusal
from services.staff.people import Actor
from services.staff.proposals import ProposalRefusal
from services.staff.runs import RunRefusal
from services.staff.store import JournalEntry
from shared.card_data.scan import has_card_data
from shared.clock import Clock, system_clock
from shared.contracts.base import EVIDENCE_LENGTH_MAX, TEXT_LENGTH_MAX, Contract
from shared.contracts.payment_gateway import ResolvePayment
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.persistence.database import Connection, Database, Tx
from shared.records import dataclass, replace

SOURCE = "staff"


class ActionRefusal(StrEnum):
    """Why an action was not done: a code for programs. `DecisionRefusal` has the reasons that come from the case itself, and
    `ProposalRefusal` those about a second person.
    """

    UNKNOWN = "unknown"
    ALREADY_REPLAYED = "already_replayed"
    ALREADY_DISCARDED = "already_discarded"
    BODY_WITHHELD = "body_withheld"
    NO_SUCH_QUEUE = "no_such_queue"
    INVALID = "invalid"
    CARD_DATA = "card_data"
    OLD_CHARGE = "old_charge"
    CHANGED = "changed"
    TOO_LATE_TO_UNDO = "too_late_to_undo"
    TOLD_ALREADY = "told_already"
    NOT_EDITABLE = "not_editable"
    FIELD_LOCKED = "field_locked"
    SCHEMA = "schema"
    NAME_TAKEN = "name_taken"
    LAST_ADMIN = "last_admin"
    NOT_LOCAL = "not_local"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The result of an action. `text` is a sentence for people. If the action was done, `refusal` is None and `entry` its journal entry.

    `proposal` is set if it was not done yet: it waits until a second person agrees. `name` is that of a person with which `text` begins,
    if it does: it is written as it is, also where a sentence begins.
    """

    subject: UUID | None
    text: str
    refusal: ActionRefusal | DecisionRefusal | ProposalRefusal | RunRefusal | None = None
    entry: UUID | None = None
    proposal: UUID | None = None
    name: str | None = None

    @property
    def ok(self) -> bool:
        return self.refusal is None


# -- refusals are journalled, too ------------------------------------------------------------------------------------------------------

P = ParamSpec("P")
R = TypeVar("R", bound=ActionResult | list[ActionResult])


def journals_refusals(
    action: str, *, or_else: str | None = None
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Have the refusals of an action noted in the journal, after its transaction. The action takes the database first, and `who` by name.

    A refusal changed nothing. So one that is not noted because the process died is no harm. What is refused because this very request
    has done it before, under the name of the action or of `or_else`, is no refusal: its answer was lost, and it was sent again.
    """

    def decorate(act: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(act)
        async def acted(*args: P.args, **kwargs: P.kwargs) -> R:
            result = await act(*args, **kwargs)
            clock = cast(Clock, kwargs.get("clock", system_clock))
            results = [result] if isinstance(result, ActionResult) else result
            database, who = cast(Database, args[0]), cast(Actor, kwargs["who"])
            told = await _told_as_done(database, who, [action, *([or_else] if or_else else [])], results)
            await note_refusals(database, action, who, told, clock())
            return cast(R, told[0] if isinstance(result, ActionResult) else told)

        return acted

    return decorate


async def _told_as_done(
    database: Database, who: Actor, actions: Sequence[str], results: Sequence[ActionResult]
) -> list[ActionResult]:
    """The results, where those are no refusals that were refused because this very request has done them before."""
    if who.request is None or all(result.ok for result in results):
        return list(results)
    async with database.connection() as connection:
        return [one if one.ok else await _as_done(connection, who, actions, one) for one in results]


async def _as_done(connection: Connection, who: Actor, actions: Sequence[str], refused: ActionResult) -> ActionResult:
    for action in actions:
        if (
            refused.subject is not None
            and (entry := await done_before(connection, who, action, refused.subject)) is not None
        ):
            proposal = entry if action == "propose" else None
            return ActionResult(refused.subject, "it was done before: this came twice", entry=entry, proposal=proposal)
    return refused


async def note_refusals(
    database: Database, action: str, who: Actor, results: Sequence[ActionResult], now: datetime
) -> None:
    """Note in the journal what was refused, with the code, and without any text that was refused.

    An entry has an id of its own, whatever the request: the same may be refused twice, and done at last.
    """
    refused = {result.subject: result.refusal for result in results if result.refusal and result.subject}
    if not refused or unfit(who=who.name) is not None:
        return
    entries = [
        JournalEntry.of(replace(who, request=None), now, "refused", subject, {"action": action, "code": code.value})
        for subject, code in refused.items()
    ]
    async with database.transaction() as tx:
        await store.append_entries(tx, entries)


async def done_before(tx: Tx, who: Actor, action: str, subject: UUID) -> UUID | None:
    """The journal entry of this very request, if it was done before: its answer was lost, and it was sent again. The subject is locked."""
    if who.request is None:
        return None
    entry_id = who.entry_id(action, subject)
    return entry_id if await store.has_entry(tx, entry_id) else None


class NotDone(Exception):
    """An act was refused after it had begun to write: its transaction is given up, so that nothing of it stays."""

    def __init__(self, why: ActionResult) -> None:
        super().__init__(why.text)
        self.why = why


async def done_or_undone(database: Database, write: Callable[[Connection], Awaitable[ActionResult]]) -> ActionResult:
    """Do what `write` does, in one transaction. If it is refused, nothing that it wrote stays."""
    try:
        async with database.transaction() as tx:
            return done_or_given_up(await write(tx))
    except NotDone as undone:
        return undone.why


def done_or_given_up(result: ActionResult) -> ActionResult:
    """The result of what was done. Raises NotDone if it was refused."""
    if not result.ok:
        raise NotDone(result)
    return result


# -- messages --------------------------------------------------------------------------------------------------------------------------


def message_of(data: Contract, entry: JournalEntry, correlation_id: str, position: int | str = 0) -> Outgoing:
    """The message that a journal entry caused. It is the same each time, byte for byte."""
    return encode(Draft(data), Cause(entry.id, correlation_id, entry.at), position, source=SOURCE)


def decision_entry(command: ResolvePayment, who: Actor, now: datetime) -> JournalEntry:
    """The journal entry that holds what the decision says, so that the decision can be said again from it (`decisions`)."""
    details = command.model_dump(mode="json", exclude={"payment_id", "decided_by", "journal_head"})
    return JournalEntry.of(who, now, "resolve", command.payment_id, details)


# -- texts of people -------------------------------------------------------------------------------------------------------------------


_LABELS = {"who": "name of who acts", "saw": "text of what you saw", "words": "filter for words"}
_LONG = frozenset({"evidence", "saw", "note"})


def unfit(**texts: str | None) -> ActionResult | None:
    """The refusal if one of these texts must not be stored, because it is empty or too long, or has card data or control characters."""
    for name, text in texts.items():
        if text is None:
            continue
        label = _LABELS.get(name) or words(name)
        if has_card_data(text):
            return ActionResult(None, f"the {label} holds card data: leave it out", ActionRefusal.CARD_DATA)
        if not text.strip():
            return ActionResult(None, f"the {label} must not be empty", ActionRefusal.INVALID)
        if len(text) > (longest := EVIDENCE_LENGTH_MAX if name in _LONG else TEXT_LENGTH_MAX):
            return ActionResult(None, f"the {label} is longer than {longest} characters", ActionRefusal.INVALID)
        if any(unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\r\t" for c in text):
            return ActionResult(None, f"the {label} holds control characters", ActionRefusal.INVALID)
    return None


def words(code: str) -> str:
    """A code in words."""
    return code.replace("_", " ")


def moment_text(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
