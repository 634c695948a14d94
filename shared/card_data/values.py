"""Parsed values as texts to be looked at, and the place of what was found in them."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice

from shared.card_data.brands import DIGITS_MAX
from shared.card_data.scan import BODY_EFFORT_MAX, find_card_number, mask_card_numbers
from shared.card_data.verification_values import find_cvv

APART = "\n\n\n\n"
"""More separators than may stand within a card number."""
_LEAVES_MAX = 1_000
_PLACE_LENGTH_MAX = 120
_NAMES = frozenset({"name", "key", "type", "field", "label", "id"})
_VALUES = frozenset({"value", "val", "content", "data", "text"})


def has_card_data(text: str | bytes) -> bool:
    """Whether a card number or a verification value stands in `text`, as for the body of a message."""
    return find_card_number(text, BODY_EFFORT_MAX) or find_cvv(text)


def as_text(value: object) -> str:
    """All that a parsed value says, its names and its scalars, as a text that can be scanned: headers of a message, a logged structure."""
    return APART.join(line for _, line in _lines(value))


def place_of_card_data(value: object) -> str | None:
    """The path of the first member with a card number or a verification value, as `data.customer_id`; None if there is none among the first
    thousand. A name that is itself a card number is masked, and nothing else is shown of it than letters, digits and `_-.:`."""
    lines = list(islice(_lines(value), _LEAVES_MAX))
    while len(lines) > 1:  # by halves, because a scan costs as much as its text is long
        half = lines[: len(lines) // 2]
        lines = half if has_card_data(APART.join(line for _, line in half)) else lines[len(half) :]
    if not lines or not has_card_data(lines[0][1]):
        return None
    shown = _shown(lines[0][0])
    return None if find_card_number(shown) else shown  # the names together could make one


def _lines(value: object) -> Iterator[tuple[tuple[object, ...], str]]:
    """Path and `name: value` of each scalar. Depth costs no recursion."""
    waiting: list[tuple[tuple[object, ...], object]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        match item:
            case Mapping():
                named = next((inner for name, inner in item.items() if name in _NAMES and isinstance(inner, str)), None)
                for name, inner in item.items():
                    waiting.append(((*path, name), inner))
                    if named is not None and name in _VALUES and not isinstance(inner, Mapping):
                        yield (*path, name), f"{named}: {scalar_text(inner)}"
            case list() | tuple():
                if len(item) <= _LIST_AS_ONE_MAX:
                    yield path, f"{_name(path)}: {' '.join(map(scalar_text, item))}"
                waiting.extend(((*path, at), inner) for at, inner in enumerate(item))
            case _:
                yield path, f"{_name(path)}: {scalar_text(item)}"


_LIST_AS_ONE_MAX = 8
"""Scalars that are looked at together: the digits of a verification value, or the groups of a card number."""


def _name(path: tuple[object, ...]) -> str:
    return next((part for part in reversed(path) if isinstance(part, str)), "")


def scalar_text(item: object) -> str:
    """A parsed scalar as it is written; nothing for what holds others."""
    match item:
        case str():
            return item
        case bytes() | bytearray():
            return item.decode("utf-8", "replace")
        case float() if item.is_integer() and abs(item) < 10**DIGITS_MAX:
            return f"{item:.0f}"
        case int() if abs(item) >= 10**DIGITS_MAX:
            return ""  # no card; a huge integer refuses to become text
        case None | Mapping() | list() | tuple():
            return ""
        case _:
            return str(item)


def _shown(path: tuple[object, ...]) -> str:
    parts = (mask_card_numbers(str(part)) for part in path)
    return re.sub(r"[^A-Za-z0-9_.:\[\] -]", "?", ".".join(parts))[:_PLACE_LENGTH_MAX]
