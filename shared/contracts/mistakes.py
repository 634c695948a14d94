"""What is wrong with a message, in our words: which member, and what it must be, never what it held."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import ValidationError

from shared.contracts import base, invoice, operations, payment_gateway, staff  # noqa: F401 - whose members are known
from shared.contracts.base import Part

SHOWN_MAX = 5
LENGTH_MAX = 900
"""Below that of a text in a message."""

OF_PATTERN: Final[Mapping[str, str]] = {
    base.NAME: "must be a text without control characters, line breaks and marks that turn the direction of writing",
    base.CODE: "must be letters, digits and `_ . : -`",
    base.SHA_256: "must be 64 hexadecimal digits in small letters",
    base.NOT_BLANK: "must not be empty",
    invoice.GATEWAY_ID: "must be letters, digits, `_` and `-`",
    invoice.DOTTED: "must be letters, digits and `_ . -`",
    invoice.LINE: "must be one line of text without control characters, and not empty",
    invoice.STATEMENT: "must be Latin letters, digits, spaces and `. , & + / : # -`, with at least one letter",
    payment_gateway.JOURNAL_HEAD: "must be a position, a colon and 64 hexadecimal digits",
}
"""What a text must be that does not match the pattern."""


def mistakes(error: ValidationError, *, within: str = "") -> str:
    """`data.amount_minor: must be at least 1`: a sentence for each mistake, with the path of its member below `within`."""
    found = error.errors(include_input=False, include_url=False)
    sentences = [_sentence(one, within) for one in found[:SHOWN_MAX]]
    if len(found) > SHOWN_MAX:
        sentences.append(f"and {len(found) - SHOWN_MAX} more")
    return "; ".join(sentences)[:LENGTH_MAX]


def _sentence(mistake: Mapping[str, Any], within: str) -> str:
    path, rest = _path(mistake["loc"], within)
    if mistake["type"].startswith("union_tag"):
        path = f"{path}.{mistake['ctx']['discriminator'].strip(QUOTES)}"
    whose = "" if not rest else "the name of an entry " if rest[-1] == "[key]" else "an entry "
    said = f"{whose}{words(mistake)}"
    return f"{path}: {said}" if path else said


def _path(places: Sequence[int | str], within: str) -> tuple[str, Sequence[int | str]]:
    """The path as a sender writes it, and what is left of it from the first name on that the sender chose, which is not shown."""
    path = within
    for at, place in enumerate(places):
        if at and places[at - 1] in _UNIONS and place in _TAGS:
            continue
        if isinstance(place, int):
            path += f"[{place}]"
        elif place in _MEMBERS:
            path += f".{place}" if path else place
        else:
            return path, places[at:]
    return path, ()


def words(mistake: Mapping[str, Any]) -> str:
    """What the member must be, of one mistake as pydantic describes it. Never pydantic's words: they are another language's, and change."""
    limits: Mapping[str, Any] = mistake.get("ctx", {})
    match mistake["type"]:
        case "missing" | "union_tag_not_found":
            return "is missing"
        case "value_error":
            return str(limits.get("error", OTHERWISE))
        case "string_pattern_mismatch":
            return OF_PATTERN.get(limits["pattern"], OTHERWISE)
        case "string_too_short" | "too_short":
            return (
                "must not be empty" if limits["min_length"] == 1 else f"must be longer: at least {limits['min_length']}"
            )
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "too_long":
            return f"must have at most {limits['max_length']} entries"
        case "greater_than_equal":
            return f"must be at least {limits['ge']:.15g}"
        case "less_than_equal":
            return f"must be at most {limits['le']:.15g}"
        case "literal_error":
            return f"must be {limits['expected']}"
        case "union_tag_invalid":
            return f"must be one of {limits['expected_tags']}"
        case kind:
            return _OF_TYPE.get(kind.partition("_")[0], OTHERWISE)


OTHERWISE: Final = "is not as its schema says"
QUOTES: Final = "'"
_OF_TYPE: Final[Mapping[str, str]] = {
    "string": "must be a text",
    "int": "must be a whole number, written without point and exponent",
    "float": "must be a number",
    "finite": "must be a number",
    "bool": "must be true or false",
    "uuid": base.NO_UUID,
    "datetime": "must be a time of RFC 3339 such as 2026-11-28T12:00:00Z",
    "model": "must be an object",
    "dict": "must be an object",
    "mapping": "must be an object",
    "tuple": "must be a list",
    "list": "must be a list",
}
"""By the first word of the type of the mistake: `int_type`, `int_from_float`."""


def _parts() -> Iterator[type[Part]]:
    waiting: list[type[Part]] = [Part]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += part.__subclasses__()


_FIELDS: Final = [(name, field) for part in _parts() for name, field in part.model_fields.items()]
_MEMBERS: Final = frozenset(name for name, _ in _FIELDS)
_UNIONS: Final = frozenset(name for name, field in _FIELDS if field.discriminator is not None)
_TAGS: Final = frozenset(
    tag
    for _, field in _FIELDS
    if field.discriminator is not None
    for kind in get_args(field.annotation)
    for tag in get_args(kind.model_fields[field.discriminator].annotation)
)
