"""The page about what others send and hear, made from the AsyncAPI document of this build.

It is open to whoever reaches the desk. The developers of a sender have no account with staff, and all of it is published. It is made once:
a request reads no cookie, no parameter and no database.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.staff.desk.frame import ENVIRONMENT
from shared import contracts
from shared.records import dataclass, replace

ADDRESS = "/contract"
DOCUMENT = Path(contracts.__file__).parent / "asyncapi.json"
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a message: its path, what it must be, and the values that are listed."""

    path: str
    must: str
    values: tuple[str, ...]
    is_required: bool
    about: str


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message with the members of its data, and its examples as JSON."""

    title: str
    name: str
    description: str
    members: tuple[Member, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownChannel:
    """Where messages go: an exchange, or the queue of whoever asked. All of them have the same envelope."""

    key: str
    title: str
    address: str
    description: str
    envelope: tuple[Member, ...]
    messages: tuple[ShownMessage, ...]


def routes() -> tuple[Route, ...]:
    """The page, and the document that it is made from."""
    return (
        _route(ADDRESS, _page, "text/html; charset=utf-8"),
        _route(f"{ADDRESS}/asyncapi.json", _document, "application/vnd.aai.asyncapi+json;version=3.0.0"),
    )


@cache
def _page() -> bytes:
    """Drawn when it is first asked for: it is the same at every desk, and takes longer than all else that a start draws."""
    return page(json.loads(_document())).encode()


@cache
def _document() -> bytes:
    return DOCUMENT.read_bytes()


def _route(address: str, content: Callable[[], bytes], media_type: str) -> Route:
    async def answer(_: Request) -> Response:
        return Response(content(), media_type=media_type)

    return Route(address, answer, methods=["GET"])


def page(document: Schema, *, styles: str | None = None) -> str:
    """The page. With `styles` it stands alone, in a file; without, the desk gives it its stylesheet."""
    channels = tuple(_channel(key, channel, document) for key, channel in document["channels"].items())
    view = {"info": document["info"], "channels": channels, "servers": document["servers"], "styles": styles}
    view["security"] = document["components"]["securitySchemes"]
    return ENVIRONMENT.get_template("contract.html").render(view=view)


def _channel(key: str, channel: Schema, document: Schema) -> ShownChannel:
    parts, address = document["components"]["schemas"], channel["address"]
    title = "Answers" if address is None else f"Exchange {address}"
    told = [document["components"]["messages"][name] for name in channel["messages"]]
    messages = tuple(_message(one, parts) for one in told)
    envelope = tuple(_envelope(told[0], parts))
    return ShownChannel(key, title, address or "the queue in reply_to", channel["description"], envelope, messages)


def _envelope(message: Schema, parts: Schema) -> Iterator[Member]:
    for member in _members(_resolved(message["payload"], parts), parts, ""):
        if member.path == "type":
            yield replace(member, must="the name of the message", values=())
        elif not _is_of_data(member):
            yield member


def _message(message: Schema, parts: Schema) -> ShownMessage:
    examples = tuple(json.dumps(one["payload"], indent=2, ensure_ascii=False) for one in message["examples"])
    members = tuple(filter(_is_of_data, _members(_resolved(message["payload"], parts), parts, "")))
    return ShownMessage(message["title"], message["name"], message["description"], members, examples)


def _is_of_data(member: Member) -> bool:
    return member.path.startswith("data.")


def _members(schema: Schema, parts: Schema, path: str) -> Iterator[Member]:
    """The members of an object, each followed by its own. A member that several kinds have alike is shown once."""
    seen: set[Member] = set()
    for name, of in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        member = _member(below, of, parts, is_required=name in schema.get("required", ()))
        yield member
        for choice in _choices(of, parts):
            for inner in _members(choice.get("items", choice), parts, below):
                if inner not in seen:
                    seen.add(inner)
                    yield inner


def _member(path: str, schema: Schema, parts: Schema, *, is_required: bool) -> Member:
    choices = _choices(schema, parts)
    values = tuple(str(value) for choice in choices for value in _values(choice))
    must = " or ".join(dict.fromkeys(_words(choice) for choice in choices))
    about = schema.get("description") or next((one["description"] for one in choices if "description" in one), "")
    return Member(path, must, values, is_required, about)


def _choices(schema: Schema, parts: Schema) -> list[Schema]:
    schema = _resolved(schema, parts)
    choices = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return [schema] if "properties" in schema else [_resolved(one, parts) for one in choices]


def _values(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def _words(schema: Schema) -> str:
    """What a value must be."""
    match schema:
        case {"const": _} | {"enum": _}:
            return "one of" if len(_values(schema)) > 1 else "always"
        case {"format": "uuid"}:
            return "UUID"
        case {"format": "date-time"}:
            return "time (RFC 3339)"
        case {"type": "string"}:
            return "text" + _between(schema, "minLength", "maxLength", "characters")
        case {"type": "integer"}:
            return "whole number" + _between(schema, "minimum", "maximum", "")
        case {"type": "array"}:
            return "list" + _between(schema, "minItems", "maxItems", "elements")
        case {"type": "object"}:
            return "object" + _between(schema, "minProperties", "maxProperties", "entries")
        case {"type": "boolean"}:
            return "true or false"
        case {"type": kind}:
            return str(kind)
        case _:
            return "anything"


def _between(schema: Schema, least: str, most: str, unit: str) -> str:
    low, high = (f"{schema[name]:,}".replace(",", " ") if name in schema else None for name in (least, most))
    if low is None and high is None:
        return ""
    said = f"up to {high}" if low is None else f"at least {low}" if high is None else f"from {low} to {high}"
    return f", {said} {unit}".rstrip()


def _resolved(schema: Schema, parts: Schema) -> Schema:
    while "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    return schema
