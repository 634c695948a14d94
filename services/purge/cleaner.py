"""What is left of a text, a JSON value or a body once card data is taken out. Pure.

The same text always gives the same text. So events that are cleaned fold to the state that is cleaned, and what two services store of one
thing stays equal.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from shared.card_data.effort import NO_LIMIT, Effort
from shared.card_data.encodings import readings
from shared.card_data.encryption import read_unambiguous
from shared.card_data.plain import IGNORABLE, is_text, twins_of
from shared.card_data.scan import CARD_PLACEHOLDER, CardData, find_card_data, has_card_data, mask_card_data
from shared.card_data.values import scalar_text
from shared.ids import read_uuid
from shared.records import dataclass, field

TEXT_LEFT = "[card data removed]"
NAME_LEFT = "card-data-removed"
"""What is left of an identifier: contracts allow no brackets in it."""
WITHHELD = b""
"""What is left of a body that nobody can look into."""
AMOUNT_DIGITS_MAX = 12
"""A number of no more digits is an amount, as in the audit, and no card number."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_LIKE_NAMES = frozenset({"statement_descriptor"})
"""Members that may hold blanks, but no brackets."""
_SEPARATOR = rb"(?:%b|[^0-9A-Za-z]){0,12}" % re.escape(IGNORABLE)
_UUID = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
"""Its digits are no number."""


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Takes out everything that reads as card data, or one `number` (its digits) however it is printed.

    What holds none for the border stays as it is. A UUID is never changed: ids are the threads between all that is stored.

    `renames` gives ids of invoices that hold card data their new names. `kept` are those that cannot be renamed yet.
    """

    number: str | None = field(default=None, repr=False)
    renames: Mapping[str, str] = field(default_factory=dict, repr=False)
    kept: frozenset[str] = field(default=frozenset(), repr=False)

    def holds(self, text: str) -> bool:
        """Whether card data stands in this text, as it is or encoded."""
        return has_card_data(text, Effort(NO_LIMIT)) if self.number is None else _stands_in(self.number, text)

    def text(self, text: str, column: str = "") -> str:
        """What is left of a text. `column`: where it stands, which may say what it is."""
        held = self.holds(text) or (column != "" and self.holds(f"{column}: {text}"))
        return self._left_of(text, column) if held else text

    def document(self, value: Any, column: str = "") -> Any:
        """What is left of a whole JSON value."""
        return self._apart(self.json(value, column)) if self.holds(orjson.dumps(value).decode()) else value

    def json(self, value: Any, name: str = "") -> Any:
        """What is left of a parsed value, member by member. `name`: of the member."""
        match value:
            case str():
                return self._left_of(value, name) if self.holds(f"{name}: {value}") else value
            case dict():
                return {(left := self.text(key)): self.json(inner, left) for key, inner in value.items()}
            case list():
                return [self.json(inner, name) for inner in value]
            case bool() | None:
                return value
            case _:
                return TEXT_LEFT if self._is_card_data(scalar_text(value), name) else value

    def body(self, body: bytes) -> bytes:
        """What is left of a body: of JSON member by member, of any other text as a text. JSON that two readers may read differently is a
        text: one of them would not see all of it. Of bytes that are no text, nothing is left: nobody can say that they hold none."""
        if not is_text(body):
            return WITHHELD
        text = body.decode("utf-8")
        if not self.holds(text):
            return body
        try:
            parsed = read_unambiguous(body)
            cleaned = self.document(parsed)
            return body if cleaned == parsed else orjson.dumps(cleaned)
        except (ValueError, TypeError):  # it is no JSON; or none that can be written as it was read
            return self.text(text).encode()

    def _left_of(self, text: str, name: str) -> str:
        if text in self.kept or text in self.renames:
            return self.renames.get(text, text)
        if read_uuid(text) is not None:
            return text
        if _NAME.fullmatch(text) or name in _LIKE_NAMES:
            return NAME_LEFT
        cleaned = self._masked(text)
        return TEXT_LEFT if self.holds(cleaned) or self.holds(f"{name}: {cleaned}") else cleaned

    def _masked(self, text: str) -> str:
        if self.number is None:
            return mask_card_data(text) or TEXT_LEFT
        for found in reversed(list(_pattern(self.number).finditer(twins_of(text)))):
            text = f"{text[: found.start()]}{CARD_PLACEHOLDER}{text[found.end() :]}"
        return text

    def _is_card_data(self, digits: str, name: str) -> bool:
        if len(digits) <= AMOUNT_DIGITS_MAX and digits.isdecimal():
            return self.number is None and find_card_data(f"{name}: {digits}") is CardData.VERIFICATION_VALUE
        return self.holds(f"{name}: {digits}")

    def _holds_more(self, value: Any) -> bool:
        """Whether it holds card data besides the ids that are kept."""
        text = orjson.dumps(value).decode()
        for invoice_id in self.kept:
            text = text.replace(invoice_id, "")
        return self.holds(text)

    def _apart(self, value: Any) -> Any:
        """The value without what its members hold only together, such as a number in four parts. Of the smallest object or list that holds
        it, all that could be a part is taken out: texts with digits, else numbers too, else all of it."""
        if not isinstance(value, dict | list) or not self._holds_more(value):
            return value
        if isinstance(value, dict):
            value = {name: self._apart(inner) for name, inner in value.items()}
        else:
            value = [self._apart(inner) for inner in value]
        for parts in (str, str | int | float):
            if self._holds_more(value):
                value = self._without_digits(value, parts)
        return TEXT_LEFT if self._holds_more(value) else value

    def _without_digits(self, value: Any, parts: Any) -> Any:
        match value:
            case dict():
                return {name: self._without_digits(inner, parts) for name, inner in value.items()}
            case list():
                return [self._without_digits(inner, parts) for inner in value]
            case bool() | None:
                return value
            case str() if value in self.kept or read_uuid(value) is not None:
                return value
            case _:
                return TEXT_LEFT if isinstance(value, parts) and any(map(str.isdigit, str(value))) else value


def _pattern(number: str) -> re.Pattern[bytes]:
    """Wherever its digits stand in this order: a longer number that holds them tells them, in the data of a chip or behind zeros."""
    return re.compile(_SEPARATOR.join(digit.encode() for digit in number))


def _stands_in(number: str, text: str) -> bool:
    """Whether the number stands in the text, or behind as many encodings as the border looks behind."""
    pattern = _pattern(number)
    return any(pattern.search(_UUID.sub(b"-", data)) for data in readings(text, Effort(NO_LIMIT)))
