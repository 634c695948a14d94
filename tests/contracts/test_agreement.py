"""Schema and service agree: what the schema of a message allows is read, and what it does not is refused.

`REMIT_DRAWN` says how many messages are drawn (`make agreement`). What no schema can say is a table of the README, and each of its rows a
test.
"""

import json
import os
from base64 import b64encode
from typing import Any

import jsonschema
import pytest
from jsonschema.protocols import Validator

from deploy.contract.golden import outgoing
from shared.contracts import schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME, MESSAGES, PUBLIC_COMMANDS
from shared.messaging.codec import STRUCTURED, Malformed, MalformedReason, decode
from shared.messaging.envelope import Inbound
from tests.support.drawn import Drawn

DRAWN = int(os.environ.get("REMIT_DRAWN", "3000"))
COMMANDS = [BY_WIRE_NAME[name] for name in sorted(PUBLIC_COMMANDS)]
SAYABLE = {MalformedReason.INVALID_DATA, MalformedReason.NOT_A_CLOUD_EVENT}
"""Reasons that a schema can give. What is refused for another one is in the README's table."""


def _is_whole(_: object, value: object) -> bool:
    """JSON Schema takes 1.0 for a whole number: that it is refused is a row of the README's table."""
    return isinstance(value, int) and not isinstance(value, bool)


STRICT: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole),
)


def validator(schema: dict[str, Any]) -> Validator:
    made: Validator = STRICT(schema)
    return made


def read(message: dict[str, Any]) -> Inbound | Malformed:
    return decode(json.dumps(message).encode(), content_type=STRUCTURED)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_is_taken_if_and_only_if_its_schema_allows_it(command: type[Contract]) -> None:
    document = schemas.committed(command.wire_name)
    allows, taken, refused = validator(document), 0, 0
    envelope = {name: document[name] for name in ("type", "properties", "required", "additionalProperties", "oneOf")}
    for seed in range(DRAWN // len(COMMANDS)):
        draw = Drawn(document, seed)
        message = draw.inside(envelope)
        if seed % 2:
            message = draw.outside(envelope, message)
        got = read(message)
        if isinstance(got, Malformed) and got.reason not in SAYABLE:
            continue
        detail = got.detail if isinstance(got, Malformed) else "it was taken"
        assert isinstance(got, Inbound) == allows.is_valid(message), f"seed {seed}: {json.dumps(message)}: {detail}"
        taken, refused = taken + isinstance(got, Inbound), refused + isinstance(got, Malformed)
    assert min(taken, refused) > DRAWN // len(COMMANDS) // 8, f"{taken} taken, {refused} refused: too one-sided a draw"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_the_data_of_every_message_is_as_its_schema_says(message: type[Contract]) -> None:
    """And Remit writes what the schema of the writer allows, which names every member."""
    document = schemas.committed(message.wire_name)
    of_data = {"$ref": f"#/$defs/{message.__name__}"}
    allows, writes = validator({**of_data, "$defs": document["$defs"]}), validator(schemas.closed(document))
    for seed in range(max(DRAWN // len(MESSAGES), 20)):
        draw = Drawn(document, seed)
        data = draw.inside(of_data)
        if seed % 2:
            data = draw.outside(of_data, data)
        got = _validated(message, data)
        assert (got is not None) == allows.is_valid(data), f"seed {seed}: {json.dumps(data)}"
        if got is not None and message not in COMMANDS:
            writes.validate(json.loads(outgoing(message, data).body))


def _validated(message: type[Contract], data: Any) -> Contract | None:
    try:
        return message.model_validate(data) if isinstance(data, dict) else None
    except ValueError:
        return None


def test_data_in_base64_is_taken_as_data_is() -> None:
    document = schemas.committed("remit.invoice.IssueInvoice.v1")
    (golden,) = schemas.golden_of(BY_WIRE_NAME["remit.invoice.IssueInvoice.v1"])
    event = {name: value for name, value in golden["body"].items() if name != "data"}
    encoded = event | {"data_base64": b64encode(json.dumps(golden["body"]["data"]).encode()).decode()}
    for message in (event, encoded, encoded | golden["body"]):
        assert isinstance(read(message), Inbound) == validator(document).is_valid(message)


def _with(data: Any) -> bytes:
    (golden,) = schemas.golden_of(BY_WIRE_NAME["remit.invoice.VoidInvoice.v1"])
    return json.dumps(golden["body"] | {"data": golden["body"]["data"] | data}).encode()


PLAIN = _with({})
AMOUNT = PLAIN.replace(b"VoidInvoice", b"IssueInvoice").replace(
    b'"reason"', b'"customer_id": "C-1", "currency": "EUR", "amount_minor": 100, "reason"'
)
UNSAYABLE: dict[str, tuple[bytes, MalformedReason]] = {
    "card number": (_with({"reason": "4242424242424242"}), MalformedReason.CARD_NUMBER),
    "verification value": (_with({"cvv": "123"}), MalformedReason.CVV),
    "64 KiB": (PLAIN + b" " * 65_536, MalformedReason.TOO_LARGE),
    "1 000 members": (_with({"more": [0] * 1_001}), MalformedReason.TOO_LARGE),
    "levels": (_with({"more": json.loads("[" * 40 + "]" * 40)}), MalformedReason.TOO_DEEP),
    "twice": (PLAIN.replace(b'"reason"', b'"invoice_id": "INV-2", "reason"'), MalformedReason.DUPLICATE_KEY),
    "digits": (_with({"more": 10**19}), MalformedReason.NUMBER_TOO_LONG),
    "NUL": (_with({"reason": "a\x00b"}), MalformedReason.NUL_CHARACTER),
    "surrogate": (_with({"reason": "\ud800"}), MalformedReason.LONE_SURROGATE),
    "point": (AMOUNT.replace(b"100", b"100.0"), MalformedReason.INVALID_DATA),
    "exponent": (AMOUNT.replace(b"100", b"1e2"), MalformedReason.INVALID_DATA),
    "calendar": (PLAIN.replace(b"2026-11-28T", b"2026-02-30T"), MalformedReason.NOT_A_CLOUD_EVENT),
}


@pytest.mark.parametrize("what", UNSAYABLE)
def test_what_no_schema_can_say_is_refused_all_the_same(what: str) -> None:
    """And the plain message is taken, so that it is nothing else which is refused."""
    body, reason = UNSAYABLE[what]
    assert isinstance(decode(PLAIN, content_type=STRUCTURED), Inbound)
    assert isinstance(decode(AMOUNT, content_type=STRUCTURED), Inbound)
    refused = decode(body, content_type=STRUCTURED)
    assert isinstance(refused, Malformed)
    assert refused.reason is reason
    event = json.loads(body)
    jsonschema.validate(event, schemas.committed(event["type"]))
    assert f"`{reason}`" in (schemas.FOLDER / "README.md").read_text(encoding="utf-8")
