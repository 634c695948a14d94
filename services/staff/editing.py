"""What may be changed of a message before it is sent again in the place of the old one. Pure: no I/O, clock, randomness, logging.

Locked is whatever says whose money goes where: ids, amounts, the currency, the method, and who sent it; and what people decided, or what
became of the money. A message that cannot be read as a known one cannot be edited: nobody could say what its fields mean.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.staff.dead_letters import DeadLetter
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.messaging.codec import STRUCTURED, Malformed, attributes_of, decode
from shared.records import dataclass

_DECIDED = frozenset({"resolution", "expected_version", "decided_by", "requested_by", "asked_by", "journal_head"})
"""What somebody decided: who may edit need not be one who may decide."""
_BECAME = frozenset({"outcome", "number", "late", "state", "settled_as", "gateway", "refund", "attempts"})
_ANSWERED = frozenset({"command_type", "answer", "reply_to", "sender", "content_hash", "outline_hash", "replaced_by"})
LOCKED = (
    frozenset({"currency", "method", "version", "amount_minor", "refunded_minor", "receipt_number", "reference_code"})
    | _DECIDED
    | _BECAME
    | _ANSWERED
)
_LOCKED_ENDINGS = ("_id", "_minor")
HIDDEN = "hidden"
_PAYS = frozenset({"token", "jwe"})
_SECRET = _PAYS | {"method"}
_NAMES_SECRET = re.compile("|".join(sorted(_SECRET)), re.IGNORECASE)
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


class NotEditableError(Exception):
    """The message cannot be edited: it cannot be read, or its type is not known here."""


class LockedFieldError(Exception):
    """A field may not be changed."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class UnfitEditError(Exception):
    """The edited message would not be read: what the contract says of it."""


@dataclass(frozen=True, slots=True)
class EditField:
    """A field of the message. `kind` is text or number. `is_known`: the contract has it; what it does not have can only be left out."""

    name: str
    value: Any
    kind: str
    is_known: bool
    is_locked: bool


@dataclass(frozen=True, slots=True)
class EditableMessage:
    """A message that can be read: its CloudEvents attributes, and the fields of its data."""

    type: str
    attributes: Mapping[str, Any]
    fields: Sequence[EditField]

    @property
    def data(self) -> Mapping[str, Any]:
        data: Mapping[str, Any] = self.attributes["data"]
        return data


def is_locked(name: str) -> bool:
    """Whether nobody may change this field of a message."""
    return name in LOCKED or name.endswith(_LOCKED_ENDINGS)


def editable(letter: DeadLetter) -> EditableMessage:
    """The message as its fields. Raises `NotEditableError`."""
    attributes = None if letter.body is None else attributes_of(letter.body, letter.content_type, letter.headers)
    contract = BY_WIRE_NAME.get(str(attributes.get("type"))) if attributes is not None else None
    if attributes is None or contract is None or not isinstance(attributes.get("data"), dict):
        raise NotEditableError
    properties: Mapping[str, Any] = contract.model_json_schema(mode="serialization")["properties"]
    data = attributes["data"]
    names = [*properties, *(name for name in data if name not in properties)]
    fields = [
        EditField(name, data.get(name), _kind(properties.get(name, {})), name in properties, is_locked(name))
        for name in names
        if name in data or not is_locked(name)
    ]
    return EditableMessage(contract.wire_name, attributes, fields)


def _kind(property_: Mapping[str, Any]) -> str:
    kinds = {property_.get("type"), *(one.get("type") for one in property_.get("anyOf", ()))}
    return "number" if "integer" in kinds else "text"


def edited(
    message: EditableMessage, new_id: UUID, old_id: UUID | None, *, drop: Sequence[str], changes: Mapping[str, str]
) -> bytes:
    """The body of the message that is sent in its place, in structured mode, under an id of its own, whose cause is the old one.

    Raises `LockedFieldError`, and `UnfitEditError` if a service would not read it.
    """
    known = {field.name: field for field in message.fields}
    data = dict(message.data)
    for name in drop:
        if name not in data:
            continue
        if is_locked(name):
            raise LockedFieldError(name)
        del data[name]
    for name, text in changes.items():
        field = known.get(name)
        if is_locked(name) or field is None or not field.is_known:
            raise LockedFieldError(name)
        data[name] = _value(text, field)
    attributes = {**message.attributes, "id": str(new_id), "data": data}
    if old_id is not None:
        attributes["causationid"] = str(old_id)
        attributes.setdefault("correlationid", str(old_id))
    body = json.dumps(attributes, ensure_ascii=False, separators=(",", ":")).encode()
    read = decode(body, content_type=STRUCTURED, headers={})
    if isinstance(read, Malformed):
        raise UnfitEditError(read.detail)
    return body


def _value(text: str, field: EditField) -> Any:
    if field.kind != "number":
        return text
    try:
        return int(text)
    except ValueError:
        raise UnfitEditError(f"{field.name}: a whole number") from None


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of both, each with ` `, `-` or `+` for what stays, goes and comes. What pays is hidden."""
    old, new = (json.dumps(_hidden(one), indent=2, ensure_ascii=False).splitlines() for one in (before, after))
    return [(line[0], line[2:]) for line in difflib.ndiff(old, new) if line[0] in " -+"]


def shown_value(field: EditField) -> str:
    """The value of a field for people, with what pays hidden."""
    value = _hidden(field.value, field.name)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def _hidden(value: Any, name: str = "") -> Any:
    """The value without what pays. Of the method itself the other members stay, such as its kind."""
    if isinstance(value, dict) and name.lower() not in _PAYS:
        return {key: _hidden(inner, key) for key, inner in value.items()}
    if name.lower() in _SECRET:
        return HIDDEN
    return [_hidden(inner) for inner in value] if isinstance(value, list) else value


def shown_body(letter: DeadLetter) -> tuple[str, bool]:
    """The body for people: pretty where it is JSON, with what pays hidden; and whether something is hidden."""
    if letter.body is None:
        return "", False
    text = letter.body.decode("utf-8", "backslashreplace")
    try:
        plain = json.loads(text)
        hidden = _hidden(plain)
        return json.dumps(hidden, indent=2, ensure_ascii=False), hidden != plain
    except (ValueError, RecursionError):
        return _shown_unread(text)


def _shown_unread(text: str) -> tuple[str, bool]:
    """A text that is no JSON, up to where it may say what pays: nobody can tell where that ends."""
    if (found := _NAMES_SECRET.search(text)) is not None:
        return f"{text[: found.start()]}{HIDDEN}", True
    read = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)
    written = "".join(character for character in read if character.isprintable())
    return (HIDDEN, True) if _NAMES_SECRET.search(written) is not None else (text, False)
