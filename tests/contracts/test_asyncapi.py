"""The AsyncAPI document: it is what the code says, it is valid, and it has what a developer of a sender looks for."""

import copy
import json
from typing import Any

import jsonschema
import pytest

from deploy.contract import asyncapi
from shared.contracts import schemas
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.contracts.invoice import AnswerReason
from shared.messaging.topology import PUBLIC_EXCHANGES
from tests.support import node
from tests.support.drawn import Drawn

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


VERDICTS = """
const Ajv = require('ajv/dist/2020').default;
const ajv = new Ajv({ strictTypes: false, strictRequired: false, validateFormats: false });
process.stdout.write(JSON.stringify(given.map(({ schema, messages }) => {
  const validate = ajv.compile(schema);
  return messages.map((one) => validate(one));
})));
"""
"""Formats are left out: they are the validator's own, and the pattern beside each says what is taken."""
DRAWN = 400
"""Messages of each command, every second one with something broken in it."""


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


def test_properties_are_told_from_the_side_of_whoever_sets_them(document: dict[str, Any]) -> None:
    messages = document["components"]["messages"].values()
    for message in messages:
        is_command = message["name"] in PUBLIC_COMMANDS
        properties = message["headers"]["properties"]
        assert ("so that it is answered" in properties["message_id"]["description"]) == is_command
        assert ("reply_to" in properties) == is_command
        assert all(set(example["headers"]) == set(properties) for example in message["examples"])


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


@pytest.mark.timeout(node.INSTALLED_WITHIN_S)
def test_the_validator_of_javascript_says_the_same_of_drawn_messages_as_that_of_python() -> None:
    """Also where regular expressions, the length of a text and numbers are another language's."""
    given: list[dict[str, Any]] = [
        {"schema": schemas.committed(name), "messages": _drawn(name)} for name in sorted(PUBLIC_COMMANDS)
    ]
    told = node.run(node.modules("ajv", "ajv-formats"), VERDICTS, given)
    for one, verdicts in zip(given, told, strict=True):
        allows = jsonschema.Draft202012Validator(one["schema"])
        ours = [allows.is_valid(message) for message in one["messages"]]
        differ = [
            message for message, here, there in zip(one["messages"], ours, verdicts, strict=True) if here != there
        ]
        assert differ == []
        assert DRAWN // 2 <= sum(ours) < DRAWN


def _drawn(name: str) -> list[dict[str, Any]]:
    document = schemas.committed(name)
    envelope = {part: document[part] for part in ("type", "properties", "required", "additionalProperties", "oneOf")}
    found = []
    for seed in range(DRAWN):
        draw = Drawn(document, seed)
        message = draw.inside(envelope)
        found.append(draw.outside(envelope, message) if seed % 2 else message)
    return found
