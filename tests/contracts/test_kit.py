"""What the kit for senders writes is what the schemas of the writer allow."""

import json
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from remit_kit.commands import Command, EncryptedCard, Token, issue_invoice, pay_invoice, refund_invoice, void_invoice

from shared.contracts import schemas
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS

GOLDEN = [
    golden["body"]
    for name in sorted(PUBLIC_COMMANDS)
    for golden in schemas.golden_of(BY_WIRE_NAME[name])
    if schemas.is_structured(golden)
]


def made(data: dict[str, Any], name: str) -> Command:
    """The command that a sender makes of this data with the kit."""
    ids = {key: UUID(value) for key, value in data.items() if key in {"payment_id", "refund_id"}}
    match name:
        case "IssueInvoice":
            return issue_invoice(**data)
        case "PayInvoice":
            method = {key: value for key, value in data["method"].items() if key != "kind"}
            kind = Token if data["method"]["kind"] == "token" else EncryptedCard
            return pay_invoice(**data | ids | {"method": kind(**method)})
        case "VoidInvoice":
            return void_invoice(**data)
        case _:
            return refund_invoice(**data | ids)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden['type']}-{golden['id'][-3:]}")
def test_a_command_of_the_kit_is_as_the_golden_one(golden: dict[str, Any]) -> None:
    event = json.loads(made(golden["data"], golden["type"].split(".")[2]).to_json())
    jsonschema.validate(event, schemas.closed(schemas.committed(golden["type"])))
    assert {name: value for name, value in event["data"].items() if value is not None} == golden["data"]
