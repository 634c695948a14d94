"""Contracts are data: each message has one schema file with examples, and every published type is in the catalogue."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
from pamqp import frame
from pamqp.header import ContentHeader

from deploy.contract import golden
from services.invoice.domain import RejectionReason
from shared.contracts import invoice, payment_gateway, schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME, MESSAGES, PUBLIC_COMMANDS
from shared.contracts.invoice import AnswerReason
from shared.messaging import publisher
from shared.messaging.codec import MalformedReason, decode
from shared.messaging.envelope import Inbound, Lane, Outgoing
from shared.messaging.topology import EXCHANGES, WORK_QUEUES

NAMES = [message.wire_name for message in MESSAGES]


def example(name: str) -> dict[str, Any]:
    """The data of the first golden message."""
    examples = schemas.examples_of(BY_WIRE_NAME[name])
    assert examples, (
        f"write shared/contracts/golden/{name}.json, at least its `body` with `data`, then run `make schema`"
    )
    return examples[0]


def _leaves(kind: type[Contract]) -> set[type[Contract]]:
    children = kind.__subclasses__()
    return {kind} if not children else set().union(*(_leaves(child) for child in children))


def test_every_contract_names_its_wire_type() -> None:
    written = {c for c in _leaves(Contract) if c.__module__ in {invoice.__name__, payment_gateway.__name__}}
    nameless = sorted(f"{c.__module__}.{c.__name__}" for c in written - set(MESSAGES))
    assert not nameless, f"give {', '.join(nameless)} a `wire_name` of its own, with its version"
    assert len(BY_WIRE_NAME) == len(MESSAGES), "a wire name is used twice"


def test_every_message_is_published_to_an_existing_exchange() -> None:
    exchanges = {exchange.name for exchange in EXCHANGES} | {""}
    strange = {m.wire_name: m.exchange for m in MESSAGES if m.exchange not in exchanges}
    assert not strange, f"shared/messaging/topology.py has no such exchange: {strange}"


def test_every_command_between_services_has_a_queue() -> None:
    bound = {binding.routing_key for queue in WORK_QUEUES for binding in queue.bindings}
    commands = {m.wire_name for m in MESSAGES if m.kind == "command"} - PUBLIC_COMMANDS
    assert commands <= bound, f"bind them to a queue in shared/messaging/topology.py: {sorted(commands - bound)}"


def test_schema_files_and_messages_match_one_to_one() -> None:
    files = {path.stem for path in schemas.FOLDER.glob("*.json")}
    assert files == set(NAMES), "run `make schema`"


@pytest.mark.parametrize("name", NAMES)
def test_examples_read_and_write_back_unchanged(name: str) -> None:
    example(name)
    for one in schemas.examples_of(BY_WIRE_NAME[name]):
        assert json.loads(BY_WIRE_NAME[name].model_validate(one).model_dump_json()) == one


@pytest.mark.parametrize("name", NAMES)
def test_readers_ignore_unknown_fields(name: str) -> None:
    contract = BY_WIRE_NAME[name]
    extended = example(name) | {"added_by_a_newer_sender": 1}
    assert contract.model_validate(extended) == contract.model_validate(example(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_committed_and_its_examples_satisfy_it(name: str) -> None:
    """Also as the writer's, who adds no members; a reader takes them."""
    message = BY_WIRE_NAME[name]
    committed = schemas.path_of(message).read_text(encoding="utf-8")
    assert committed == schemas.text(message), f"shared/contracts/schemas/{name}.json is stale: run `make schema`"
    schema = json.loads(committed)
    jsonschema.Draft202012Validator.check_schema(schema)
    of_writer = jsonschema.Draft202012Validator(schemas.closed(schema))
    assert schema["examples"]
    for one in schema["examples"]:
        jsonschema.validate(one, schema)
        of_writer.validate(one)
        more = one | {"data": one["data"] | {"unknown": 1}}
        jsonschema.validate(more, schema)
        assert not of_writer.is_valid(more)


@pytest.mark.parametrize("path", golden.texts(), ids=lambda path: path.stem)
def test_a_golden_message_is_what_is_published_and_read(path: Path) -> None:
    """What Remit writes, byte for byte with all its properties; what a sender writes, as it is taken."""
    message, kept = golden.message_of(path), json.loads(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == golden.texts()[path], f"{path.name} is stale: run `make schema`"
    read = decode(
        json.dumps(kept["body"]).encode(), content_type=kept["properties"]["content_type"], headers=kept["headers"]
    )
    assert isinstance(read, Inbound), read
    assert (read.type, str(read.id)) == (message.wire_name, kept["properties"]["message_id"])
    if message.wire_name in PUBLIC_COMMANDS:
        assert (kept["exchange"], kept["routing_key"]) == (message.exchange, message.wire_name)
        assert kept["properties"]["reply_to"].startswith(kept["properties"]["user_id"] + ".")
        assert kept["properties"]["delivery_mode"] == PERSISTENT
    else:
        assert kept["properties"] == _properties_on_the_wire(golden.outgoing(message, kept["body"]["data"]))


PERSISTENT = 2


def _properties_on_the_wire(message: Outgoing) -> dict[str, Any]:
    channel = SimpleNamespace(number=1, max_content_size=0)
    data = publisher._payload(str(message.id), message, cast(Any, channel), Lane.PUBLIC)
    consumed, _, _ = frame.unmarshal(data)
    _, _, header = frame.unmarshal(data[consumed:])
    assert isinstance(header, ContentHeader)
    said = {name: value for name, value in header.properties if value}
    return {"type" if name == "message_type" else name: value for name, value in said.items()}


def test_only_what_upstream_may_publish_is_public() -> None:
    """Upstream may write to one exchange. Every other command goes between our services."""
    public = {message.wire_name for message in MESSAGES if message.exchange == "invoice.commands.entry"}
    assert public == PUBLIC_COMMANDS
    assert "remit.invoice.PayInvoice.v1" in PUBLIC_COMMANDS
    assert not PUBLIC_COMMANDS & {
        m.wire_name for m in MESSAGES if m.exchange != "invoice.commands.entry" or m.kind != "command"
    }


@pytest.mark.parametrize("amount", [0, -1, 10**12, "100", 100.0, True, None])
def test_an_amount_is_a_positive_integer_of_minor_units(amount: object) -> None:
    with pytest.raises(ValueError, match="amount_minor"):
        invoice.PayInvoice.model_validate(example("remit.invoice.PayInvoice.v1") | {"amount_minor": amount})


@pytest.mark.parametrize("amount", [-1, 10**12, "100", 100.0, True, None])
def test_an_invoice_of_nothing_can_be_read_and_so_be_answered(amount: object) -> None:
    issue = example("remit.invoice.IssueInvoice.v1")
    assert invoice.IssueInvoice.model_validate(issue | {"amount_minor": 0}).amount_minor == 0
    with pytest.raises(ValueError, match="amount_minor"):
        invoice.IssueInvoice.model_validate(issue | {"amount_minor": amount})


@pytest.mark.parametrize("currency", ["eur", "XXX", "EURO", "", 978])
def test_a_currency_is_iso_4217(currency: object) -> None:
    with pytest.raises(ValueError, match="currency"):
        invoice.IssueInvoice.model_validate(example("remit.invoice.IssueInvoice.v1") | {"currency": currency})


def test_every_rejection_reason_is_in_the_public_contract() -> None:
    of_the_inbox = {
        AnswerReason.COMMAND_ID_REUSED,
        AnswerReason.NOT_PUBLIC,
        AnswerReason.REPLY_TO_NOT_ALLOWED,
        AnswerReason.SENDER_UNKNOWN,
        AnswerReason.DISCARDED,
        AnswerReason.REPLACED,
    }
    given = {reason.value for reason in RejectionReason} | {reason.value for reason in of_the_inbox}
    given |= {reason.value for reason in MalformedReason if reason.is_permanent}
    assert {reason.value for reason in AnswerReason} == given, (
        "services/invoice/domain.py (RejectionReason), shared/messaging/codec.py (MalformedReason) and shared/contracts/invoice.py "
        "(AnswerReason) must have the same reasons"
    )
