"""Ids as people type and read them: shortened to their ends. UUIDs of the same minutes have the same beginning."""

import re
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from deploy.cli.output import MISUSED, REFUSED, fail

SHORT_ID_LENGTH = 8
"""Characters of an id in a table, if they tell its ids apart."""
END_MIN = 4
"""Characters of an end that a person has to give."""
CANDIDATES_MAX = 5
"""Ids that are listed if an end is ambiguous."""
_LENGTH = 36


def short_length(ids: Iterable[UUID]) -> int:
    """How many characters at their ends tell these ids apart: at least `SHORT_ID_LENGTH`, and none begins with a hyphen, like an option."""
    texts = {str(id_) for id_ in ids}
    return next(
        length
        for length in range(SHORT_ID_LENGTH, _LENGTH + 1)
        if len({text[-length:] for text in texts}) == len(texts) and not any(text[-length] == "-" for text in texts)
    )


def whole_id(text: str) -> UUID | None:
    """The id, if all of it was given."""
    try:
        return UUID(text)
    except ValueError:
        return None


def is_end(text: str) -> bool:
    """Whether an id may end so."""
    return END_MIN <= len(text) < _LENGTH and re.fullmatch(r"[0-9A-Fa-f-]+", text) is not None


def refuse_unless_end(text: str) -> None:
    """Raises CliError if no id can end so."""
    if not is_end(text):
        fail(f"{text!r} is no id: give all of it, or its last characters, at least {END_MIN}.", MISUSED)


def the_one(text: str, found: Sequence[UUID]) -> UUID:
    """The only id that ends with `text`. Raises CliError if there is none, or several: they are listed."""
    if not found:
        fail(f"No id ends with {text}.", REFUSED)
    if len(found) > 1:
        listed = ", ".join(map(str, found[:CANDIDATES_MAX]))
        more = ", and more" if len(found) > CANDIDATES_MAX else ""
        fail(f"More than one id ends with {text}: {listed}{more}.", MISUSED)
    return found[0]


def one_among(text: str, ids: Collection[UUID]) -> UUID:
    """The id of these that `text` names, whole or by its end. A whole id need not be among them. Raises CliError."""
    if (whole := whole_id(text)) is not None:
        return whole
    refuse_unless_end(text)
    return the_one(text, sorted(id_ for id_ in ids if str(id_).endswith(text.lower())))
