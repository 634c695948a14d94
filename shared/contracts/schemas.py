"""JSON Schemas (2020-12) of all messages, for senders and receivers in any language.

They describe the writer, which is closed (`additionalProperties: false`); a reader must ignore what it does not know.
`python -m shared.contracts.schemas` writes the files; a test compares them with the code.
"""

import json
from pathlib import Path
from typing import Any

from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES

FOLDER = Path(__file__).parent / "schemas"


def schema(message: type[Contract]) -> dict[str, Any]:
    """The schema of the message's `data`."""
    described = message.model_json_schema(mode="serialization")
    _close(described)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:remit:{message.wire_name}",
        **described,
        "title": message.wire_name,
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


def text(message: type[Contract]) -> str:
    """The file's content."""
    return json.dumps(schema(message), indent=2, ensure_ascii=False) + "\n"


def write_all() -> None:
    """One file per message, named after its wire name; files of messages that are gone are removed."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.json"):
        stale.unlink()
    for message in MESSAGES:
        (FOLDER / f"{message.wire_name}.json").write_text(text(message), encoding="utf-8")


if __name__ == "__main__":
    write_all()
