"""JSON Schemas (2020-12) of all messages, for senders and receivers in any language: one a message, envelope and data together.

The schema of a command of others says exactly what is accepted, as far as a schema can; the rest stands in the README. That of any other
message says what Remit writes. A reader ignores members that it does not know, so they are allowed; a writer adds none. `$defs/unknown` is
the schema of them all: with `false` in its place the schema is that of the writer.

`python -m deploy.contract` writes the files, and a test compares them with the code. The data of the golden messages is written by hand and
stays: it shows the message as it was when it was first agreed on.
"""

import json
import re
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from shared.contracts.base import CORRELATION_LENGTH_MAX, Contract
from shared.contracts.catalogue import BY_WIRE_NAME, MESSAGES
from shared.contracts.invoice import UpstreamCommand
from shared.contracts.times import RFC_3339

FOLDER = Path(__file__).parent / "schemas"
GOLDEN = Path(__file__).parent / "golden"
UNKNOWN = {
    "description": "A member that is not listed. Readers ignore it, since a later version may add some. Writers add none: "
    "to check what you write, put false in the place of this schema."
}
EXTENSION = {
    "description": "An extension attribute of CloudEvents. It is ignored, and kept with a message that waits for staff."
}
UUID = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "maxLength": 36,
}
TIME = {"type": "string", "format": "date-time", "pattern": RFC_3339}
_ONLY = re.compile(r"\^(\[\^.+\])\+\$", re.DOTALL)
_ONLY_WITH = re.compile(r"\^(?P<any>\[\^.+?\])\*(?P<one>\[\^.+?\])(?P=any)\*\$", re.DOTALL)


class _Schemas(GenerateJsonSchema):
    """What pydantic makes of the models, without what only pydantic understands."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def uuid_schema(self, schema: core_schema.UuidSchema) -> JsonSchemaValue:  # noqa: ARG002
        return dict(UUID)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        made.pop("patternProperties", None)
        names = self.generate_inner(schema["keys_schema"])
        return made | {"additionalProperties": self.generate_inner(schema["values_schema"]), "propertyNames": names}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default") is None or "const" in made:
            made.pop("default", None)
        return made

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        made = super().tagged_union_schema(schema)
        del made["discriminator"]
        return made


def schema(message: type[Contract]) -> dict[str, Any]:
    """The JSON Schema of the whole message in structured mode."""
    described = message.model_json_schema(mode="validation", schema_generator=_Schemas)
    parts = described.pop("$defs", {}) | {message.__name__: described}
    _tidy(parts)
    description = described.pop("description", f"The message {message.__name__}.")
    is_read = issubclass(message, UpstreamCommand)
    envelope = _accepted(message) if is_read else _written(message)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:remit:{message.wire_name}",
        "title": message.wire_name,
        "description": description,
        **_with_portable_patterns({**envelope, "$defs": {**parts, "unknown": UNKNOWN, "extension": EXTENSION}}),
        "examples": [golden["body"] for golden in golden_of(message) if is_structured(golden)],
    }


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the writer, who adds no members of its own."""
    return schema | {"$defs": schema["$defs"] | {"unknown": False}}


def _accepted(message: type[Contract]) -> dict[str, Any]:
    """The envelope of a command of others: what is accepted of it."""
    return {
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**UUID, "description": "the id of the command; the same when it is sent again"},
            "type": {"const": message.wire_name},
            "source": {
                "type": "string",
                "minLength": 1,
                "description": "who sends it, such as `/billing`; a URI reference",
            },
            "time": {"anyOf": [{**TIME}, {"type": "null"}], "description": "when it was sent"},
            "correlationid": {
                "anyOf": [_CORRELATION, {"type": "null"}],
                "description": "comes again in all that follows",
            },
            "data": _data(message),
            "data_base64": {
                "type": "string",
                "contentEncoding": "base64",
                "contentMediaType": "application/json",
                "contentSchema": _data(message),
                "description": "the data as JSON in base64, in the place of `data`",
            },
        },
        "required": ["specversion", "id", "type", "source"],
        "oneOf": [{"required": ["data"]}, {"required": ["data_base64"]}],
        "additionalProperties": {"$ref": "#/$defs/extension"},
    }


def _written(message: type[Contract]) -> dict[str, Any]:
    """The envelope of a message of Remit."""
    properties = {
        "specversion": {"const": "1.0"},
        "id": {**UUID, "description": "a message that comes twice has the same id and the same bytes"},
        "type": {"const": message.wire_name},
        "source": {"type": "string", "pattern": "^/remit/[a-z_]+$", "description": "the service that wrote it"},
        "subject": {"type": "string", "description": "the id of what the message is about"},
        "time": {**TIME, "description": "when the cause of the message was handled"},
        "datacontenttype": {"const": "application/json"},
        "correlationid": {**_CORRELATION, "description": "that of the command from which all this follows"},
        "causationid": {**UUID, "description": "the id of the message that caused this one"},
        "data": _data(message),
    }
    traceparent = {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}
    return {
        "type": "object",
        "properties": {**properties, "traceparent": {**traceparent, "description": "W3C Trace Context"}},
        "required": list(properties),
        "additionalProperties": {"$ref": "#/$defs/extension"},
    }


_CORRELATION = {
    "type": "string",
    "pattern": "^[ -~]+$",
    "maxLength": CORRELATION_LENGTH_MAX,
}


def _data(message: type[Contract]) -> dict[str, str]:
    return {"$ref": f"#/$defs/{message.__name__}"}


def _tidy(node: Any) -> None:
    """Say of each object that other members may be in it, and that the one which tells its kind must be."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node["additionalProperties"] = {"$ref": "#/$defs/unknown"}
            kinds = [name for name, of in node["properties"].items() if "const" in of]
            node["required"] = [name for name in node["properties"] if name in {*kinds, *node.get("required", ())}]
            node.pop("title", None)
        if node.get("required") == []:
            del node["required"]
        for value in node.values():
            _tidy(value)
    elif isinstance(node, list):
        for value in node:
            _tidy(value)


def _with_portable_patterns(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_portable_patterns(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {name: _with_portable_patterns(value) for name, value in node.items()}
    if node.get("type") == "string" and "pattern" in node:
        del made["pattern"]
        made |= _portable(node["pattern"])
    return made


def _portable(pattern: str) -> JsonSchemaValue:
    """The same as a pattern and a forbidden pattern that find the same in every language.

    `$` also matches before a line break at the end in Python, Java and others. So a text with one is refused by a pattern of its own.
    """
    if found := _ONLY.fullmatch(pattern):
        forbidden = "[" + found[1].removeprefix("[^")
        return {"minLength": 1, "not": {"pattern": forbidden}}
    if found := _ONLY_WITH.fullmatch(pattern):
        return {"pattern": found["one"], "not": {"pattern": "[" + found["any"].removeprefix("[^")}}
    return {"pattern": pattern} | ({"not": {"pattern": "[\n\r\u0085\u2028\u2029]"}} if pattern.endswith("$") else {})


# -- golden messages -------------------------------------------------------------------------------------------------------------------


def golden_of(message: type[Contract]) -> list[dict[str, Any]]:
    """The golden messages of a type: `NAME.json` first, then `NAME.CASE.json`. Each is a whole message: where it is published, its AMQP
    properties and headers, and its body."""
    paths = [GOLDEN / f"{message.wire_name}.json", *sorted(GOLDEN.glob(f"{message.wire_name}.*.json"))]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def is_structured(golden: dict[str, Any]) -> bool:
    """Whether the body of the golden message holds the attributes, too. In binary mode headers do."""
    return "specversion" in golden["body"]


def examples_of(message: type[Contract]) -> list[dict[str, Any]]:
    """The data of the golden messages. None of them if there is no file yet."""
    return [golden["body"]["data"] if is_structured(golden) else golden["body"] for golden in golden_of(message)]


# -- files -----------------------------------------------------------------------------------------------------------------------------


def path_of(message: type[Contract]) -> Path:
    """The path of the message's schema file."""
    return FOLDER / f"{message.wire_name}.json"


def text(message: type[Contract]) -> str:
    """The content that the file should have."""
    return json.dumps(schema(message), indent=2) + "\n"


def texts() -> dict[Path, str]:
    """The content of every schema file."""
    return {path_of(message): text(message) for message in MESSAGES}


def committed(wire_name: str) -> dict[str, Any]:
    """The schema in the file of this message. Raises KeyError for a name that there is not."""
    found: dict[str, Any] = json.loads(path_of(BY_WIRE_NAME[wire_name]).read_text(encoding="utf-8"))
    return found
