"""From the result of an action to the answer of the desk: done, or refused with a sentence in the words of the screen."""

import re
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
_SCREEN_WORDS: Final[Mapping[str, str]] = {
    "dead letter": "failed message",
    "the evidence": "what you saw",
    "needs decision": "needs a decision",
    "refund in doubt": "refund unclear",
    "refund failed": "refund refused",
    "captured": "charged",
    "declined": "declined by the bank",
    "not refunded": "kept",
    "refunded": "given back",
}
"""Words of programs in the texts of actions, which a terminal shows as they are, and those of the screen."""
_PROGRAM_WORDS: Final = re.compile(rf"\b({'|'.join(_SCREEN_WORDS)})\b")


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


def on_screen(text: str) -> str:
    """The text of an action in the words of the screen."""
    return _PROGRAM_WORDS.sub(lambda found: _SCREEN_WORDS[found[0]], text)


def sentence(text: str, name: str | None = None) -> str:
    """The text of an action as a sentence in the words of the screen. If it begins with the `name` of somebody, that stays as it is."""
    begins = name if name is not None and text.startswith(name) else ""
    rest = on_screen(text.removeprefix(begins))
    whole = rest if rest.endswith((".", "?", "!")) else f"{rest}."
    return f"{begins}{whole}" if begins else whole[:1].upper() + whole[1:]
