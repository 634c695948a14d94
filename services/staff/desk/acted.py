"""From the result of an action to the answer of the desk: done, or refused with a sentence."""

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final

from services.staff.actions.results import ActionResult
from services.staff.desk.once import Done
from services.staff.desk.problems import Refused

_STATUS: Final[Mapping[str, HTTPStatus]] = {
    "unknown": HTTPStatus.NOT_FOUND,
    "invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "card_data": HTTPStatus.UNPROCESSABLE_ENTITY,
    "receipt_number_required": HTTPStatus.UNPROCESSABLE_ENTITY,
    "field_locked": HTTPStatus.UNPROCESSABLE_ENTITY,
    "not_editable": HTTPStatus.UNPROCESSABLE_ENTITY,
    "schema": HTTPStatus.UNPROCESSABLE_ENTITY,
    "none_selected": HTTPStatus.UNPROCESSABLE_ENTITY,
    "not_sure": HTTPStatus.UNPROCESSABLE_ENTITY,
    "same_person": HTTPStatus.FORBIDDEN,
    "not_allowed": HTTPStatus.FORBIDDEN,
}
_FIELDS: Final[Mapping[str, str]] = {
    "receipt_number_required": "receipt_number",
    "speed": "rate",
    "not_sure": "sure",
}


def done(
    result: ActionResult,
    location: str,
    *,
    text: str | None = None,
    undo: str | None = None,
    undo_until: datetime | None = None,
) -> Done:
    """What an action did, and where to go. Raises `Refused` if it was not done.

    `undo` is the address of the act that takes it back, until `undo_until`.
    """
    if result.refusal is not None:
        raise refused(result)
    told = text or sentence(result.text, result.name)
    return Done(text=told, location=location, entry=result.entry, undo=undo, undo_until=undo_until)


def refused(result: ActionResult, *, is_noted: bool = True) -> Refused:
    """The refusal of an act. Actions note what they refuse about a subject; `is_noted` is false for what only looked whether one would."""
    code = "invalid" if result.refusal is None else result.refusal.value
    return Refused(
        code,
        sentence(result.text, result.name),
        _STATUS.get(code, HTTPStatus.CONFLICT),
        _FIELDS.get(code),
        is_noted=is_noted and result.subject is not None,
    )


def sentence(text: str, name: str | None = None) -> str:
    """The text of an action as a sentence. If it begins with the `name` of somebody, that stays as it is."""
    whole = text if text.endswith((".", "?", "!")) else f"{text}."
    return whole if name is not None and whole.startswith(name) else whole[:1].upper() + whole[1:]
