"""Finds what a sender may be told. What belongs to another sender is found like what does not exist: not at all."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar, assert_never
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from services.invoice.door import store, views
from services.invoice.senders import Senders
from shared.card_data.scan import has_card_data
from shared.contracts.base import Name
from shared.ids import id_of_card_refusal, read_uuid
from shared.persistence.database import Connection, Database
from shared.records import dataclass, field

T = TypeVar("T")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class AskedFor(StrEnum):
    """What can be asked for."""

    COMMAND = "command"
    PAYMENT = "payment"
    INVOICE = "invoice"


@dataclass(frozen=True, slots=True)
class Question:
    """What a sender asks for.

    `kept_as` are the ids under which the answer to a command may be kept, the one that counts first. They are derived once: a question may
    wait through many looks.
    """

    kind: AskedFor
    id: UUID | str
    sender: str
    kept_as: tuple[UUID, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class DoorAnswer:
    """What a sender is told, as JSON, and whether an answer or an outcome is still to come."""

    body: bytes
    under_way: bool


class Reader:
    """Reads the invoice database for senders."""

    def __init__(self, database: Database, senders: Senders) -> None:
        self._database, self._senders = database, senders

    def question(self, kind: AskedFor, text: str, sender: str) -> Question | None:
        """The question for this id. None if nothing can have such an id: it is no UUID, or no invoice would be taken with it."""
        if kind is not AskedFor.INVOICE:
            id_ = read_uuid(text)
            if id_ is None or kind is AskedFor.PAYMENT:
                return None if id_ is None else Question(kind, id_, sender)
            return Question(kind, id_, sender, self._ids(id_, sender))
        try:
            name = _NAME.validate_python(text)
        except ValidationError:
            return None
        return None if has_card_data(name) else Question(kind, name, sender)

    async def find(self, question: Question) -> DoorAnswer | None:
        """What is told of it; None if it does not exist, or is another's. Raises `AWAY_ERRORS`, and UnreadableRowsError."""
        async with self._database.connection() as connection:
            match question.kind:
                case AskedFor.COMMAND:
                    return await self._command(connection, question)
                case AskedFor.PAYMENT:
                    return await self._payment(connection, question)
                case AskedFor.INVOICE:
                    return await self._invoice(connection, question)
                case _:
                    assert_never(question.kind)

    async def _command(self, connection: Connection, question: Question) -> DoorAnswer | None:
        found = await store.answers(connection, question.kept_as)
        set_aside = await store.set_aside(connection, question.kept_as[0])
        stored = self._answer(question, {id_: (answer.sender, answer) for id_, answer in found.items()})
        if stored is not None:
            return DoorAnswer(views.answered(_uuid(question), stored), under_way=False)
        return None if set_aside is None else DoorAnswer(views.waiting(_uuid(question), set_aside), under_way=True)

    async def _payment(self, connection: Connection, question: Question) -> DoorAnswer | None:
        known = await store.payment(connection, _uuid(question))
        if known is None or not self._senders.may_use(question.sender, known.owner):
            return None
        body, under_way = views.payment(known, await store.events_of_payment(connection, known))
        return DoorAnswer(body, under_way)

    async def _invoice(self, connection: Connection, question: Question) -> DoorAnswer | None:
        may_see = partial(self._senders.may_use, question.sender)
        known = await store.invoice(connection, str(question.id), may_see=may_see)
        if known is None:
            return None
        events = await store.events_of_invoice(
            connection, known.invoice_id, until_version=known.version, at_most=views.EVENTS_MAX + 1
        )
        return DoorAnswer(views.invoice(known, events), views.is_under_way(known))

    # -- of many at once ---------------------------------------------------------------------------------------------------------------

    async def settled(self, questions: Collection[Question]) -> set[Question]:
        """Those of which their senders can be told, with nothing under way. One statement for each kind, however many there are."""
        asked: dict[AskedFor, list[Question]] = {}
        for question in questions:
            asked.setdefault(question.kind, []).append(question)
        found: set[Question] = set()
        async with self._database.connection() as connection:
            for kind, of_kind in asked.items():
                found |= await self._settled(connection, kind, of_kind)
        return found

    async def _settled(self, connection: Connection, kind: AskedFor, questions: Collection[Question]) -> set[Question]:
        if kind is AskedFor.COMMAND:
            senders = await store.answered(connection, [id_ for one in questions for id_ in one.kept_as])
            stored = {id_: (sender, True) for id_, sender in senders.items()}
            return {one for one in questions if self._answer(one, stored)}
        owners = await self._owners(connection, kind, questions)
        return {one for one in questions if one.id in owners and self._senders.may_use(one.sender, owners[one.id])}

    @staticmethod
    async def _owners(
        connection: Connection, kind: AskedFor, questions: Collection[Question]
    ) -> Mapping[Any, str | None]:
        if kind is AskedFor.PAYMENT:
            return await store.ended_payments(connection, {_uuid(question) for question in questions})
        return await store.quiet_invoices(connection, {str(question.id) for question in questions})

    # -- whose a command is ------------------------------------------------------------------------------------------------------------

    def _ids(self, command_id: UUID, sender: str) -> tuple[UUID, ...]:
        """Under which ids the answer may be kept, the one that counts first.

        A command that was refused for card data is kept under another id, and may have come again without them under its own.
        """
        kept_as, other_id = self._senders.ids_of(command_id, sender)
        own = (kept_as,) if other_id is None else (kept_as, other_id)
        return (*own, *map(id_of_card_refusal, own))

    def _answer(self, question: Question, stored: Mapping[UUID, tuple[str | None, T]]) -> T | None:
        """What is stored under the first of its ids that is the sender's; `stored` has the name of each one's sender before it."""
        for id_ in question.kept_as:
            if id_ in stored and self._is_of(question, stored[id_][0]):
                return stored[id_][1]
        return None

    def _is_of(self, question: Question, sender: str | None) -> bool:
        """Whether it is this sender's. A group shares its invoices, and not its commands.

        Of a command that came before senders had names nobody knows whose it is: it is told to whoever may use invoices that are nobody's.
        """
        if not self._senders.are_named or sender == question.sender:
            return True
        return sender is None and self._senders.may_use(question.sender, None)


def _uuid(question: Question) -> UUID:
    assert isinstance(question.id, UUID)  # noqa: S101 - `question_of` made it
    return question.id
