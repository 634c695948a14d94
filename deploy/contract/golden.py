"""Golden messages: whole messages as they are published, for tests in any language.

Those of senders are written by hand. Of a message of Remit only the data is: the rest is what Remit makes of it.
"""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from shared.contracts import schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.contracts.times import read_time
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.publisher import APP_ID

CAUSE = Cause(
    UUID("0190a5c4-0000-7000-8000-000000000001"),
    "0190a5c4-0000-7000-8000-000000000001",
    read_time("2026-11-28T12:00:00Z"),
)
"""The command that caused the golden messages of Remit."""
REPLY_TO = "billing.answers"
_BY_EXCHANGE = {
    "payment.events": "payment_gateway",
    "staff.events": "staff",
    "settlement.commands": "saga",
    "staff.reports": "invoice",
    "operations.heartbeats": "invoice",
    "invoice.events": "invoice",
    "invoice.requests": "invoice",
    "": "invoice",
}


def texts() -> dict[Path, str]:
    """The content of every golden file."""
    return {path: _text(path) for path in sorted(schemas.GOLDEN.glob("*.json"))}


def message_of(path: Path) -> type[Contract]:
    """The message of a golden file, by its name. Raises KeyError if there is no such message."""
    parts = path.name.removesuffix(".json").split(".")
    return BY_WIRE_NAME[".".join(parts[:4])]


def outgoing(message: type[Contract], data: dict[str, Any]) -> Outgoing:
    """The message as Remit publishes it."""
    reply_to = REPLY_TO if message.kind == "answer" else None
    draft = Draft(message.model_validate(data), reply_to=reply_to)
    return encode(draft, CAUSE, 0, source=_BY_EXCHANGE[message.exchange])


def _text(path: Path) -> str:
    golden, message = json.loads(path.read_text(encoding="utf-8")), message_of(path)
    if message.wire_name not in PUBLIC_COMMANDS:
        golden = _written(outgoing(message, golden["body"]["data"]))
    return json.dumps(golden, indent=2, ensure_ascii=False) + "\n"


def _written(message: Outgoing) -> dict[str, Any]:
    return {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "properties": {
            "content_type": message.content_type,
            "delivery_mode": 2,
            "correlation_id": message.correlation_id,
            "message_id": str(message.id),
            "type": message.type,
            "app_id": APP_ID,
        },
        "headers": {},
        "body": json.loads(message.body),
    }
