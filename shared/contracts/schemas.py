"""JSON Schemas (2020-12) of all messages, with examples, for senders and receivers in any language.

A schema describes the writer, which adds no fields (`additionalProperties: false`). A reader must ignore fields that it does not know.
`python -m shared.contracts.schemas` writes the files, and a test compares them with the code. The examples in a file are written by hand
and stay: they show the message as it was when it was first agreed on.
"""

import json
from pathlib import Path
from typing import Any

from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES

FOLDER = Path(__file__).parent / "schemas"


def schema(message: type[Contract], examples: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON Schema of the message's `data`."""
    described = message.model_json_schema(mode="serialization")
    _close(described)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:remit:{message.wire_name}",
        **described,
        "title": message.wire_name,
        "examples": examples,
    }


def _close(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node["additionalProperties"] = False
        for value in node.values():
            _close(value)
    elif isinstance(node, list):
        for value in node:
            _close(value)


def path_of(message: type[Contract]) -> Path:
    """The path of the message's schema file."""
    return FOLDER / f"{message.wire_name}.json"


def examples_of(message: type[Contract]) -> list[dict[str, Any]]:
    """The hand-written examples in the message's schema file. None of them if there is no file yet."""
    try:
        examples: list[dict[str, Any]] = json.loads(path_of(message).read_text(encoding="utf-8")).get("examples", [])
    except FileNotFoundError:
        return []
    return examples


def text(message: type[Contract]) -> str:
    """The content that the file should have: the schema from the code, and the examples that the file has."""
    return json.dumps(schema(message, examples_of(message)), indent=2, ensure_ascii=False) + "\n"


def write_all() -> None:
    """Write one file per message, named after its wire name. Delete the files of messages that no longer exist."""
    FOLDER.mkdir(exist_ok=True)
    texts = {path_of(message): text(message) for message in MESSAGES}
    for stale in set(FOLDER.glob("*.json")) - texts.keys():
        stale.unlink()
    for path, content in texts.items():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write_all()
