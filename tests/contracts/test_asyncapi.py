"""The AsyncAPI document: it is what the code says, it is valid, and it has what a developer of a sender looks for."""

import copy
import json
from typing import Any

import pytest

from deploy.contract import asyncapi
from shared.contracts import schemas
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.contracts.invoice import AnswerReason
from shared.messaging.topology import PUBLIC_EXCHANGES
from tests.support import node

PARSE = """
const { Parser } = require('@asyncapi/parser');
const parser = new Parser();
const read = ({ document, diagnostics }) => ({
  operations: document ? document.operations().all().map((one) => one.id()) : [],
  problems: diagnostics.filter((one) => one.severity < 2).map((one) => `${one.path.join('.')}: ${one.message}`),
});
Promise.all(given.map((one) => parser.parse(JSON.stringify(one)).then(read)))
  .then((all) => process.stdout.write(JSON.stringify(all)));
"""
VALIDATE = """
const Ajv = require('ajv/dist/2020').default;
const refused = [];
for (const schema of given) {
  const ajv = require('ajv-formats').default(new Ajv({ strict: true, strictTypes: false, strictRequired: false, allErrors: true }));
  const validate = ajv.compile(schema);
  for (const example of schema.examples) if (!validate(example)) refused.push([schema.title, validate.errors]);
}
process.stdout.write(JSON.stringify(refused));
"""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    committed = asyncapi.PATH.read_text(encoding="utf-8")
    assert committed == asyncapi.text(), "shared/contracts/asyncapi.json is stale: run `make schema`"
    found: dict[str, Any] = json.loads(committed)
    return found


def test_it_has_every_public_message_and_no_other(document: dict[str, Any]) -> None:
    told = {message["name"] for message in document["components"]["messages"].values()}
    heard = {name for name, message in BY_WIRE_NAME.items() if message.exchange in PUBLIC_EXCHANGES}
    assert told == PUBLIC_COMMANDS | heard | {"remit.invoice.CommandAnswered.v1"}


def test_every_golden_message_is_an_example(document: dict[str, Any]) -> None:
    for message in document["components"]["messages"].values():
        golden = [one["body"] for one in schemas.golden_of(BY_WIRE_NAME[message["name"]]) if schemas.is_structured(one)]
        assert [example["payload"] for example in message["examples"]] == golden


def test_reasons_are_listed_and_a_connection_is_secured(document: dict[str, Any]) -> None:
    reason = document["components"]["schemas"]["CommandAnswered"]["properties"]["reason"]
    assert reason["anyOf"][0]["enum"] == sorted(AnswerReason)
    assert {one["type"] for one in document["components"]["securitySchemes"].values()} == {"userPassword", "X509"}
    assert all(server["security"] for server in document["servers"].values())
    assert all(channel["bindings"]["amqp"] for channel in document["channels"].values())


@pytest.mark.timeout(node.INSTALLED_WITHIN_S)
def test_the_parser_of_asyncapi_finds_nothing_wrong(document: dict[str, Any]) -> None:
    """And it would."""
    wrong = copy.deepcopy(document)
    wrong["operations"]["receivePayInvoice"]["action"] = "eat"
    read, refused = node.run(node.modules("@asyncapi/parser"), PARSE, [document, wrong])
    assert read["problems"] == []
    assert set(read["operations"]) == set(document["operations"])
    assert refused["problems"]


@pytest.mark.timeout(node.INSTALLED_WITHIN_S)
def test_the_schemas_are_read_by_the_validator_of_javascript() -> None:
    """In its strict mode, which refuses a keyword or a format that it does not know."""
    folder = node.modules("ajv", "ajv-formats")
    assert node.run(folder, VALIDATE, [schemas.committed(name) for name in BY_WIRE_NAME]) == []
