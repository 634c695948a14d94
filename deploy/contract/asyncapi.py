"""The AsyncAPI 3.0 document of what others send and hear, made from contracts and topology: shared/contracts/asyncapi.json.

It describes Remit: Remit receives commands, and sends answers and events. What services say to each other is not for others, and not in it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deploy.contract.released import latest
from shared.contracts import schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES, PUBLIC_COMMANDS
from shared.contracts.invoice import CommandAnswered
from shared.messaging.codec import STRUCTURED
from shared.messaging.topology import COMMAND_ENTRY, EXCHANGES, PUBLIC_EXCHANGES

PATH = Path(schemas.__file__).parent / "asyncapi.json"
AMQP = {"bindingVersion": "0.3.0"}
ABOUT = (
    "Remit pays invoices. It takes commands over RabbitMQ (AMQP 0-9-1), gives each exactly one terminal answer, "
    "and tells what became of it in events.\n\n"
    "Messages are CloudEvents 1.0 in structured mode; commands are also taken in binary mode. "
    "A reader ignores members that it does not know; a writer adds none."
)
PROPERTIES = {
    "message_id": "the id of the event, so that it is answered even if the body cannot be read",
    "correlation_id": "comes again with the answer, whatever its bytes",
    "reply_to": "the queue for the answer: its name begins with that of your user and a dot; or direct reply-to",
    "user_id": "the name of your user at the broker",
}
"""What a sender sets, and what for."""
TOLD = {
    "answer": {"message_id": "the id of the answer", "correlation_id": "that of the command, whatever its bytes"},
    "event": {
        "message_id": "the id of the event: one that comes twice has the same id and the same bytes",
        "correlation_id": "that of the command from which all this follows",
    },
}
"""What Remit sets, by the kind of its message."""


def text() -> str:
    """The content that the file should have."""
    return json.dumps(document(), indent=2) + "\n"


def document() -> dict[str, Any]:
    """The whole document."""
    heard = {name: [one for one in MESSAGES if one.exchange == name] for name in PUBLIC_EXCHANGES}
    commands = [one for one in MESSAGES if one.wire_name in PUBLIC_COMMANDS]
    public: list[type[Contract]] = [*commands, CommandAnswered, *(one for listed in heard.values() for one in listed)]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:remit",
        "info": {"title": "Remit", "version": f"{latest()}.0.0", "description": ABOUT},
        "defaultContentType": STRUCTURED,
        "servers": _servers(),
        "channels": {
            "commands": _channel(
                COMMAND_ENTRY, commands, "Commands of senders. The exchange does not look at routing keys."
            ),
            "answers": _answers(),
            **{_camel(name): _channel(name, listed, HEARD) for name, listed in heard.items()},
        },
        "operations": {
            **{f"receive{one.__name__}": _received(one) for one in commands},
            **{f"send{one.__name__}": _sent(_camel(name), one) for name, listed in heard.items() for one in listed},
        },
        "components": {
            "messages": {_key(one): _message(one) for one in public},
            "schemas": _parts(public),
            "securitySchemes": {
                "password": {"type": "userPassword", "description": "user and password of the broker"},
                "certificate": {"type": "X509", "description": "a client certificate, over TLS"},
            },
        },
    }


HEARD = "Bind a durable queue of your own, by the type and `.#`: some events have one more word behind their type."


def _servers() -> dict[str, Any]:
    host = {"host": {"description": "where the broker of Remit is", "default": "localhost"}}
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("password", "certificate")]
    return {
        "overTls": {"host": "{host}:5671", "protocol": "amqps", "protocolVersion": "0-9-1", "variables": host, "security": security},
        "local": {"host": "{host}:5672", "protocol": "amqp", "protocolVersion": "0-9-1", "variables": host, "security": security[:1]},
    }  # fmt: skip


def _channel(exchange: str, messages: Iterable[type[Contract]], description: str) -> dict[str, Any]:
    (kind,) = {one.type for one in EXCHANGES if one.name == exchange}
    return {
        "address": exchange,
        "description": description,
        "messages": _references(messages),
        "bindings": {
            "amqp": AMQP
            | {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": kind, "durable": True, "autoDelete": False},
            }
        },
    }


def _answers() -> dict[str, Any]:
    default = {"name": "", "type": "default", "durable": True, "autoDelete": False}
    return {
        "address": None,
        "description": "The queue that a command names in `reply_to`. Answers come by the default exchange, with its name as routing key.",
        "messages": _references([CommandAnswered]),
        "bindings": {"amqp": AMQP | {"is": "routingKey", "exchange": default}},
    }


def _references(messages: Iterable[type[Contract]]) -> dict[str, Any]:
    return {_key(one): {"$ref": f"#/components/messages/{_key(one)}"} for one in messages}


def _received(message: type[Contract]) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/commands"},
        "messages": [{"$ref": f"#/channels/commands/messages/{_key(message)}"}],
        "bindings": {"amqp": AMQP | {"deliveryMode": 2, "mandatory": True}},
        "reply": {
            "address": {"location": "$message.header#/reply_to", "description": PROPERTIES["reply_to"]},
            "channel": {"$ref": "#/channels/answers"},
            "messages": [{"$ref": f"#/channels/answers/messages/{_key(CommandAnswered)}"}],
        },
    }


def _sent(channel: str, message: type[Contract]) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{_key(message)}"}],
        "bindings": {"amqp": AMQP | {"deliveryMode": 2, "cc": [f"{message.wire_name}.#"]}},
    }


def _message(message: type[Contract]) -> dict[str, Any]:
    whole = schemas.schema(message)
    goldens = [golden for golden in schemas.golden_of(message) if schemas.is_structured(golden)]
    said = TOLD.get(message.kind, PROPERTIES)
    told = {name: about for name, about in said.items() if name in goldens[0]["properties"]}
    return {
        "name": message.wire_name,
        "title": message.__name__,
        "summary": whole["description"].partition("\n")[0],
        "description": whole["description"],
        "contentType": STRUCTURED,
        "correlationId": {"location": "$message.header#/correlation_id"},
        "headers": {
            "type": "object",
            "description": "AMQP properties, not application headers",
            "properties": {name: {"type": "string", "description": about} for name, about in told.items()},
        },
        "payload": {"$ref": f"#/components/schemas/{_key(message)}"},
        "bindings": {"amqp": AMQP | {"messageType": message.wire_name}},
        "examples": [
            {
                "name": f"example{number}",
                "headers": {name: golden["properties"][name] for name in told},
                "payload": golden["body"],
            }
            for number, golden in enumerate(goldens, 1)
        ],
    }


def _parts(messages: Iterable[type[Contract]]) -> dict[str, Any]:
    """The schema of each message by its key, and their parts, each once. Two parts of one name are the same part."""
    found: dict[str, Any] = {}
    for message in messages:
        whole = schemas.schema(message)
        parts = whole.pop("$defs")
        for told in ("$schema", "$id", "examples"):
            whole.pop(told)
        for name, part in {_key(message): whole, **parts}.items():
            said = _pointed(part)
            if found.setdefault(name, said) != said:
                raise ValueError(f"two messages have a part {name} each, which differ: rename one")
    return dict(sorted(found.items()))


def _pointed(node: Any) -> Any:
    """The same with its references into the document."""
    if isinstance(node, dict):
        return {
            name: str(value).replace("#/$defs/", "#/components/schemas/") if name == "$ref" else _pointed(value)
            for name, value in node.items()
            if name != "contentSchema"  # not in the dialect of AsyncAPI
        }
    return [_pointed(one) for one in node] if isinstance(node, list) else node


def _key(message: type[Contract]) -> str:
    """`remit.invoice.PayInvoice.v1` is `PayInvoice.v1`: the names of our messages differ without the service."""
    return ".".join(message.wire_name.split(".")[2:])


def _camel(exchange: str) -> str:
    first, _, rest = exchange.partition(".")
    return first + rest.title()
