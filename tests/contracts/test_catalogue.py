"""Contracts are data: a golden file and a schema per message, and nothing on the wire that is not in the catalogue."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shared.contracts import invoice, payment_gateway, schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME, MESSAGES, PUBLIC_COMMANDS

GOLDEN = Path(__file__).parent / "golden"
NAMES = [message.wire_name for message in MESSAGES]


def golden(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return loaded


def _leaves(kind: type[Contract]) -> set[type[Contract]]:
    children = kind.__subclasses__()
    return {kind} if not children else set().union(*(_leaves(child) for child in children))


def test_every_contract_is_in_the_catalogue() -> None:
    written = {c for c in _leaves(Contract) if c.__module__ in {invoice.__name__, payment_gateway.__name__}}
    assert written == set(MESSAGES)
    assert len(BY_WIRE_NAME) == len(MESSAGES)


def test_golden_files_and_messages_match_one_to_one() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(NAMES)
    assert {path.stem for path in schemas.FOLDER.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_reads_and_writes_back_unchanged(name: str) -> None:
    message = BY_WIRE_NAME[name].model_validate(golden(name))
    assert json.loads(message.model_dump_json()) == golden(name)


@pytest.mark.parametrize("name", NAMES)
def test_readers_ignore_unknown_fields(name: str) -> None:
    contract = BY_WIRE_NAME[name]
    assert contract.model_validate(golden(name) | {"added_by_a_newer_sender": 1}) == contract.model_validate(
        golden(name)
    )


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_committed_and_the_golden_file_obeys_it(name: str) -> None:
    assert (schemas.FOLDER / f"{name}.json").read_text(encoding="utf-8") == schemas.text(BY_WIRE_NAME[name]), (
        "run `python -m shared.contracts.schemas`"
    )
    schema = schemas.schema(BY_WIRE_NAME[name])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(golden(name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(golden(name) | {"unknown": 1}, schema)


def test_only_upstream_commands_are_public() -> None:
    assert sorted(PUBLIC_COMMANDS) == [
        "remit.invoice.IssueInvoice.v1",
        "remit.invoice.PayInvoice.v1",
        "remit.invoice.VoidInvoice.v1",
    ]


@pytest.mark.parametrize("amount", [0, -1, 10**12, "100", 100.0, True, None])
def test_an_amount_is_a_positive_integer_of_minor_units(amount: object) -> None:
    with pytest.raises(ValueError, match="amount_minor"):
        invoice.IssueInvoice.model_validate(golden("remit.invoice.IssueInvoice.v1") | {"amount_minor": amount})


@pytest.mark.parametrize("currency", ["eur", "XXX", "EURO", "", 978])
def test_a_currency_is_iso_4217(currency: object) -> None:
    with pytest.raises(ValueError, match="currency"):
        invoice.IssueInvoice.model_validate(golden("remit.invoice.IssueInvoice.v1") | {"currency": currency})
