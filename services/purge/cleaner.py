"""What is left of a text, a JSON value or a body once card data is taken out. Pure.

The same text always gives the same text. So events that are cleaned fold to the state that is cleaned, and what two services store of one
thing stays equal.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from shared.card_data.encodings import decodings, without_escapes
from shared.card_data.plain import IGNORABLE, as_ascii, twins_of
from shared.card_data.scan import CARD_PLACEHOLDER, LAYERS, mask_card_numbers
from shared.card_data.values import has_card_data, scalar_text
from shared.card_data.verification_values import mask_cvv
from shared.ids import read_uuid
from shared.records import dataclass, field

TEXT_LEFT = "[card data removed]"
NAME_LEFT = "card-data-removed"
"""What is left of an identifier: contracts allow no brackets in it."""
AMOUNT_DIGITS_MAX = 12
"""A number of no more digits is an amount, as in the audit."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_SEPARATOR = rb"(?:%b|[^0-9A-Za-z]){0,3}" % re.escape(IGNORABLE)


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Takes out everything that reads as card data, or one `number` (its digits) however it is printed.

    `renames` gives ids of invoices that hold card data their new names. `kept` are those that cannot be renamed yet.
    """

    number: str | None = field(default=None, repr=False)
    renames: Mapping[str, str] = field(default_factory=dict, repr=False)
    kept: frozenset[str] = field(default=frozenset(), repr=False)

    def holds(self, text: str) -> bool:
        """Whether card data stands in this text, as it is or encoded."""
        return has_card_data(text) if self.number is None else _stands_in(self.number, text)

    def text(self, text: str, name: str = "") -> str:
        """What is left of a text. `name`: of its column or member, which may say what it is."""
        if text in self.kept or text in self.renames:
            return self.renames.get(text, text)
        if not self._holds_under(name, text):
            return text
        if _NAME.fullmatch(text):
            return NAME_LEFT
        cleaned = self._masked(text)
        return TEXT_LEFT if self._holds_under(name, cleaned) else cleaned

    def document(self, value: Any, name: str = "") -> Any:
        """What is left of a whole JSON value. If its members hold card data only together, all that could be a part of it is taken out."""
        cleaned = self.json(value, name)
        return _without_digits(cleaned) if self.holds(orjson.dumps(cleaned).decode()) else cleaned

    def json(self, value: Any, name: str = "") -> Any:
        """What is left of a parsed value, member by member."""
        match value:
            case str():
                return self.text(value, name)
            case dict():
                return {(left := self.text(key)): self.json(inner, left) for key, inner in value.items()}
            case list():
                return [self.json(inner, name) for inner in value]
            case bool() | None:
                return value
            case _:
                digits = scalar_text(value)
                is_amount = len(digits) <= AMOUNT_DIGITS_MAX and digits.isdecimal()
                return TEXT_LEFT if not is_amount and self._holds_under(name, digits) else value

    def body(self, body: bytes) -> bytes:
        """What is left of a body: of JSON member by member, of any other text as a text. Bytes that are no text stay as they are."""
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            return body
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            return self.text(text).encode()
        cleaned = self.document(parsed)
        return body if cleaned == parsed else orjson.dumps(cleaned)

    def _holds_under(self, name: str, text: str) -> bool:
        return self.holds(text) or (name != "" and self.holds(f"{name}: {text}"))

    def _masked(self, text: str) -> str:
        if self.number is None:
            return mask_card_numbers(mask_cvv(text))
        for found in reversed(list(_pattern(self.number).finditer(twins_of(text)))):
            text = f"{text[: found.start()]}{CARD_PLACEHOLDER}{text[found.end() :]}"
        return text


def _without_digits(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_digits(inner) for name, inner in value.items()}
        case list():
            return [_without_digits(inner) for inner in value]
        case str() if any(map(str.isdigit, value)) and read_uuid(value) is None:
            return TEXT_LEFT
        case _:
            return value


def _pattern(number: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![0-9])" + _SEPARATOR.join(digit.encode() for digit in number) + rb"(?![0-9])")


def _stands_in(number: str, text: str) -> bool:
    """Whether the number stands in the text, or behind as many encodings as the border looks behind."""
    pattern, layer = _pattern(number), [as_ascii(text)]
    for _ in range(LAYERS + 1):
        if any(pattern.search(data) for data in layer):
            return True
        layer = [inner for data in layer for inner in (*decodings(data), *_unescaped(data))]
    return False


def _unescaped(data: bytes) -> tuple[bytes, ...]:
    plain = without_escapes(data)
    return () if plain == data else (plain,)
