"""What Remit refuses of a command before it looks at an invoice, for the fake.

`rules.json` holds it as data: the published schemas of the commands, and the limits. Remit's repository makes it of what the services read
(`make schema`), and compares both on drawn commands.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from remit_kit.commands import Command

RULES: Mapping[str, Any] = json.loads(files("remit_kit").joinpath("rules.json").read_text(encoding="utf-8"))
_LIMITS: Mapping[str, int] = RULES["limits"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command is rejected: a code for programs, and for people what is wrong, if that is known."""

    reason: str
    detail: str | None = None


def refused(command: Command) -> Refusal | None:
    """Why this can never be read as a command, or None."""
    body = command.to_json()
    event = json.loads(body)
    if len(body) > _LIMITS["body_bytes_max"]:
        return Refusal("too_large")
    if (unreadable := next(_unreadable(event, _LIMITS["depth_max"]), None)) is not None:
        return Refusal(unreadable)
    if sum(1 for _ in _values(event)) > _LIMITS["values_max"]:
        return Refusal("too_large")
    schema = RULES["schemas"][command.type]
    for path in _mistakes(event, schema, schema["$defs"]):
        reason = "invalid_data" if path.startswith("data") else "not_a_cloud_event"
        return Refusal(reason, f"{path}: is not as its schema says")
    return None


def _unreadable(value: object, depth: int) -> Iterator[str]:
    """The reasons why this JSON is refused, whatever it says."""
    match value:
        case str() if "\x00" in value:
            yield "nul_character"
        case str() if any("\ud800" <= sign <= "\udfff" for sign in value):
            yield "lone_surrogate"
        case int() if not _LIMITS["integer_min"] <= value <= _LIMITS["integer_max"]:
            yield "number_too_long"
        case float() if value * 0 != 0:  # NaN, and what is infinite: Python writes them, and JSON has none
            yield "not_json"
        case dict() | list() if not depth:
            yield "too_deep"
        case dict():
            for name, one in value.items():
                yield from _unreadable(name, depth)
                yield from _unreadable(one, depth - 1)
        case list():
            for one in value:
                yield from _unreadable(one, depth - 1)
        case _:
            pass


def _values(value: object) -> Iterator[object]:
    """Every member and element; an empty list or object counts as one more."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return
    if not inner:
        yield None
    for one in inner:
        yield one
        yield from _values(one)


def _mistakes(value: object, schema: Mapping[str, Any], parts: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of what is not as the schema says. A keyword that is not known here is a KeyError: `rules.json` has no such."""
    for keyword, wanted in schema.items():
        match keyword:
            case "$defs":
                pass
            case "$ref":
                yield from _mistakes(value, parts[wanted.rpartition("/")[2]], parts, path)
            case "not":
                if _fits(value, wanted, parts):
                    yield path
            case "anyOf":
                if not any(_fits(value, one, parts) for one in wanted):
                    yield path
            case "oneOf":
                if sum(_fits(value, one, parts) for one in wanted) != 1:
                    yield path
            case "properties" | "additionalProperties" | "propertyNames" | "required" | "maxProperties":
                if isinstance(value, dict):
                    yield from _mistakes_of_object(value, keyword, schema, parts, path)
            case _:
                if not _FITS[keyword](value, wanted):
                    yield path


def _mistakes_of_object(
    value: Mapping[str, Any], keyword: str, schema: Mapping[str, Any], parts: Mapping[str, Any], path: str
) -> Iterator[str]:
    wanted, known = schema[keyword], schema.get("properties", {})
    match keyword:
        case "properties":
            for name in (name for name in wanted if name in value):
                yield from _mistakes(value[name], wanted[name], parts, f"{path}.{name}".lstrip("."))
        case "additionalProperties":
            for name in (name for name in value if name not in known):
                yield from _mistakes(value[name], wanted, parts, path)
        case "propertyNames":
            for name in value:
                yield from _mistakes(name, wanted, parts, path)
        case "required":
            yield from (f"{path}.{name}".lstrip(".") for name in wanted if name not in value)
        case "maxProperties" if len(value) > wanted:
            yield path
        case _:
            pass


def _fits(value: object, schema: Mapping[str, Any], parts: Mapping[str, Any]) -> bool:
    return next(_mistakes(value, schema, parts), None) is None


_TYPES: Mapping[str, type] = {"object": dict, "string": str, "integer": int, "null": type(None)}
_FITS: Mapping[str, Callable[[Any, Any], bool]] = {
    "type": lambda value, name: isinstance(value, _TYPES[name]) and not isinstance(value, bool),
    "const": lambda value, only: bool(value == only),
    "enum": lambda value, codes: value in codes,
    "pattern": lambda value, pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
    "minLength": lambda value, least: not isinstance(value, str) or len(value) >= least,
    "maxLength": lambda value, most: not isinstance(value, str) or len(value) <= most,
    "minimum": lambda value, least: not isinstance(value, int) or value >= least,
    "maximum": lambda value, most: not isinstance(value, int) or value <= most,
}
"""Whether a value is as one keyword says. Whole numbers are written without a point, as in Remit."""
