"""Whether what is published now breaks what was released: which message, which member, and why.

What a sender may write stays accepted: everything that the released schema of the writer allows, the schema of now has to allow. What a
listener relies on stays: everything that Remit writes now, the released schema has to allow. A member that was listed stays listed, even if
it can be left out: else what somebody writes would be ignored without a word, or what somebody reads would never come again.

It compares schemas, not messages, so it knows the keywords that our schemas use and refuses any other that differs.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.contract import released
from shared.contracts.catalogue import PUBLIC_COMMANDS
from shared.contracts.schemas import closed

Schema = Mapping[str, Any]
_LEAST = ("minimum", "minLength", "minProperties", "minItems")
_MOST = ("maximum", "maxLength", "maxProperties", "maxItems")
_SAYS_NOTHING = {"description", "default", "title", "examples", "$schema", "$id", "$defs", "$comment"}
_CONTENT = {"contentEncoding", "contentMediaType", "contentSchema", "format"}
_COMPARED = {
    *(*_LEAST, *_MOST, *_CONTENT, "type", "enum", "const", "pattern", "not", "items", "anyOf", "oneOf", "$ref"),
    *("properties", "required", "additionalProperties", "propertyNames"),
}


def broken_by(now: Mapping[str, Schema], document: Schema, number: int) -> list[str]:
    """A sentence for everything that breaks the released version of this number: of the schemas by name, and of the AsyncAPI document."""
    return [
        *_broken_schemas(now, released.schemas_of(number)),
        *_broken_channels(document, released.document_of(number)),
    ]


def _broken_schemas(now: Mapping[str, Schema], then: Mapping[str, Schema]) -> Iterator[str]:
    for name, old in then.items():
        new = now.get(name)
        if new is None:
            yield f"{name} is gone: a message stays as long as anybody may send or expect it"
            continue
        for path, why in breaks(new, old, is_read=name in PUBLIC_COMMANDS):
            yield f"{name}: {path or 'the message'}: {why}"


def _broken_channels(now: Schema, then: Schema) -> Iterator[str]:
    gone: Schema = {"address": "gone", "bindings": {}, "messages": {}}
    for name, was in then["channels"].items():
        kept = now["channels"].get(name, gone)
        for what in ("address", "bindings"):
            if kept[what] != was[what]:
                yield f"channel {name}: its {what} was {was[what]}, and is {kept[what]}"
        for message in sorted(was["messages"].keys() - kept["messages"].keys()):
            yield f"channel {name}: {message} no longer goes by it"


def breaks(new: Schema, old: Schema, *, is_read: bool) -> list[tuple[str, str]]:
    """What of the new schema breaks the old one, as path and reason. `is_read`: a command of senders; else what Remit writes."""
    wide, narrow = (new, closed(dict(old))) if is_read else (old, closed(dict(new)))
    return list(_Comparison(wide, narrow, is_read=is_read).of(wide, narrow, ""))


class _Comparison:
    """Whether one schema, the wide one, allows all that the other allows. Each has parts of its own."""

    def __init__(self, wide: Schema, narrow: Schema, *, is_read: bool) -> None:
        self._wide_parts, self._narrow_parts, self._is_read = wide["$defs"], narrow["$defs"], is_read
        self._words = "what was allowed is refused now: " if is_read else "what was promised no longer holds: "

    def of(self, wide: Any, narrow: Any, path: str) -> Iterator[tuple[str, str]]:
        wide, narrow = _resolved(wide, self._wide_parts), _resolved(narrow, self._narrow_parts)
        if narrow is False or not wide.keys() - _SAYS_NOTHING:
            return
        if not narrow.keys() - _SAYS_NOTHING:
            yield path, f"{self._words}any value"
            return
        if "properties" not in narrow and (choices := narrow.get("anyOf") or narrow.get("oneOf")):
            for choice in choices:
                yield from self.of(wide, choice, path)
        elif "properties" not in wide and (choices := wide.get("anyOf") or wide.get("oneOf")):
            yield from self._of_choices(choices, narrow, path)
        else:
            yield from self._of_one(wide, narrow, path)

    def _of_choices(self, choices: list[Schema], narrow: Schema, path: str) -> Iterator[tuple[str, str]]:
        found = [list(self.of(choice, narrow, path)) for choice in choices]
        if all(found):
            yield from min(found, key=len)

    def _of_one(self, wide: Schema, narrow: Schema, path: str) -> Iterator[tuple[str, str]]:
        for why in (*_of_values(wide, narrow), *_of_limits(wide, narrow)):
            yield path, self._words + why
        if "items" in wide and "items" in narrow:
            yield from self.of(wide["items"], narrow["items"], f"{path}[]")
        if "properties" in narrow and "properties" in wide:
            yield from self._of_members(wide, narrow, path)
        elif narrow.get("type") == "object" == wide.get("type"):
            yield from self.of(
                wide.get("additionalProperties", {}), narrow.get("additionalProperties", {}), f"{path}.*"
            )
            yield from self.of(wide.get("propertyNames", {}), narrow.get("propertyNames", {}), f"{path} (names)")

    def _of_members(self, wide: Schema, narrow: Schema, path: str) -> Iterator[tuple[str, str]]:
        of_wide, of_narrow = wide["properties"], narrow["properties"]
        must, does = set(wide.get("required", ())), set(narrow.get("required", ()))
        for name in must - does:
            yield _below(path, name), f"{self._words}a message without it"
        old, new = (of_narrow, of_wide) if self._is_read else (of_wide, of_narrow)
        for name in old.keys() - new.keys() - (must - does):
            yield (
                _below(path, name),
                "was listed, and is no more: it would be ignored, or never come again, without a word",
            )
        if wide.get("oneOf") != narrow.get("oneOf"):
            yield path, f"{self._words}{narrow.get('oneOf')}"
        for name in of_narrow.keys() & of_wide.keys():
            yield from self.of(of_wide[name], of_narrow[name], _below(path, name))


def _of_values(wide: Schema, narrow: Schema) -> Iterator[str]:
    """Why not every value is allowed, by what it is."""
    strange = (wide.keys() | narrow.keys()) - _SAYS_NOTHING - _COMPARED
    for keyword in sorted(strange):
        if wide.get(keyword) != narrow.get(keyword):
            yield f"{keyword}, which deploy/contract/compatibility.py does not compare"
    values, allowed = _values(narrow), _values(wide)
    if values is not None:
        gone = [
            value for value in values if not (value in allowed if allowed is not None else _is_text_of(wide, value))
        ]
        if gone:
            yield ", ".join(map(str, gone))
    elif allowed is not None:
        yield f"anything but {', '.join(map(str, allowed))}"
    elif wide.get("type") != narrow.get("type") and (wide.get("type"), narrow.get("type")) != ("number", "integer"):
        yield f"{narrow.get('type')}, not {wide.get('type')}"


def _of_limits(wide: Schema, narrow: Schema) -> Iterator[str]:
    """Why not every value is allowed, by its size and form."""
    if _values(narrow) is not None:
        return
    for keyword in _LEAST:
        if keyword in wide and narrow.get(keyword, float("-inf")) < wide[keyword]:
            yield f"less than {keyword} {wide[keyword]}"
    for keyword in _MOST:
        if keyword in wide and narrow.get(keyword, float("inf")) > wide[keyword]:
            yield f"more than {keyword} {wide[keyword]}"
    for keyword in ("pattern", "not", *sorted(_CONTENT - {"contentSchema"})):
        if keyword in wide and wide[keyword] != narrow.get(keyword):
            yield f"what is not of the {keyword} {wide[keyword]!a}"


def _values(schema: Schema) -> list[Any] | None:
    """All values that it allows, if it lists them."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _is_text_of(schema: Schema, value: Any) -> bool:
    """Whether this listed value, which is a text, is one of a schema that lists none."""
    return (
        schema.get("type") == "string"
        and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        and re.search(schema.get("pattern", ""), value) is not None
    )


def _resolved(schema: Any, parts: Mapping[str, Any]) -> Any:
    while isinstance(schema, Mapping) and "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    return {} if schema is True else schema


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
