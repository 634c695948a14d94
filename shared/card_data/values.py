"""Parsed values as texts to be looked at, and the place of what was found in them."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice

from shared.card_data.brands import DIGITS_MAX
from shared.card_data.effort import Effort
from shared.card_data.plain import APART
from shared.card_data.scan import CardData, find_card_data, has_card_data, mask_card_data
from shared.card_data.verification_values import is_cvv_name

_LEAVES_MAX = 1_000
_EFFORT_MAX_US = 700
_PLACE_LENGTH_MAX = 120
_NAMES = frozenset({"name", "key", "k", "type", "field", "label", "id"})
_VALUES = frozenset({"value", "val", "v", "stringValue", "content", "data", "text"})

_Line = tuple[tuple[object, ...], str]
"""The path of a member, and what it says."""


def as_text(value: object) -> str:
    """All that a parsed value says, its names and its scalars, as a text that can be scanned: headers of a message, a logged structure."""
    return APART.join(line for _, line in _lines(value))


def place_of(found: CardData, value: object) -> str | None:
    """The path of the first member in which this was found, as `data.customer_id`; of the longest one, if it was too much. None if it is
    not among the first thousand, or nobody can say for little effort. A name that is itself card data is masked, and nothing else is shown
    of it than letters, digits and `_-.:`."""
    lines = list(islice(_lines(value), _LEAVES_MAX))
    if found is CardData.TOO_MUCH:
        lines.sort(key=lambda line: -len(line[1]))
    else:
        lines = _holding(lines, Effort(_EFFORT_MAX_US))
    shown = _shown(lines[0][0]) if lines else None
    return None if shown is None or has_card_data(shown) else shown  # the names together could make one


def _holding(lines: list[_Line], effort: Effort) -> list[_Line]:
    """Only the first one with card data, found by halves, because a scan costs as much as its text is long. Empty if nobody can say."""
    while len(lines) > 1:
        half = lines[: len(lines) // 2]
        match find_card_data(APART.join(text for _, text in half), effort):
            case None:
                lines = lines[len(half) :]
            case CardData.TOO_MUCH:
                return []
            case _:
                lines = half
    return [line for line in lines if find_card_data(line[1], effort) not in {None, CardData.TOO_MUCH}]


def _lines(value: object) -> Iterator[_Line]:
    """In order, path and `name: value` of each scalar, and path and name of what holds others. Depth costs no recursion."""
    waiting: list[tuple[tuple[object, ...], object]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        match item:
            case Mapping():
                yield path, _name(path)
                named = next((inner for name, inner in item.items() if name in _NAMES and isinstance(inner, str)), None)
                for name, inner in item.items():
                    if named is not None and name in _VALUES and not isinstance(inner, Mapping):
                        yield (*path, name), f"{named}: {scalar_text(inner)}"
                waiting.extend(((*path, name), inner) for name, inner in reversed(list(item.items())))
                if is_cvv_name(_name(path)):
                    yield from _together(path, item)
            case list() | tuple():
                together = map(scalar_text, item) if len(item) <= _LIST_AS_ONE_MAX else ()
                yield path, f"{_name(path)}: {' '.join(together)}"
                waiting.extend(((*path, at), item[at]) for at in reversed(range(len(item))))
            case _:
                yield path, f"{_name(path)}: {scalar_text(item)}"


_LIST_AS_ONE_MAX = 8
"""Scalars that are looked at together: the digits of a verification value, or the groups of a card number."""


def _together(path: tuple[object, ...], item: Mapping[object, object]) -> Iterator[_Line]:
    """Each member with the name of the object, as in JSON: that of a verification value is outside, as in `{"cvv": {"raw": "987"}}`."""
    for name, inner in islice(item.items(), _LIST_AS_ONE_MAX):
        yield (*path, name), f'{_name(path)}: {{"{name}": {scalar_text(inner)}}}'


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
    parts = (mask_card_data(str(part)) or "?" for part in path)
    return re.sub(r"[^A-Za-z0-9_.:\[\] -]", "?", ".".join(parts))[:_PLACE_LENGTH_MAX]
