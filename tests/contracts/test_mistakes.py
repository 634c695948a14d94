"""The detail of a refusal is in our words, with the path of the member, and without what it held."""

import json
import re
from collections import defaultdict
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from shared.contracts import base, mistakes, schemas
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME, MESSAGES
from shared.messaging.codec import STRUCTURED, Malformed, decode
from tests.support.drawn import Drawn

LIBRARY = re.compile(
    r"Input should|String should|Field required|Value error|valid (string|integer)|pydantic|https?://", re.IGNORECASE
)
PAY = "remit.invoice.PayInvoice.v1"


def detail(wire_name: str, **changes: Any) -> str:
    """Of the refusal of the golden message with these changes of its data; None takes a member out."""
    event = schemas.golden_of(BY_WIRE_NAME[wire_name])[0]["body"]
    data = {name: value for name, value in (event["data"] | changes).items() if value is not ...}
    refused = decode(json.dumps(event | {"data": data}).encode(), content_type=STRUCTURED)
    assert isinstance(refused, Malformed)
    return refused.detail


def paying(**members: Any) -> dict[str, Any]:
    return {"kind": "token", "token": "pm_card_visa"} | members


TOLD: list[tuple[dict[str, Any], str]] = [
    ({"invoice_id": ...}, "data.invoice_id: is missing"),
    ({"invoice_id": 7}, "data.invoice_id: must be a text"),
    ({"invoice_id": "a\nb"}, f"data.invoice_id: {mistakes.OF_PATTERN[base.NAME]}"),
    ({"invoice_id": "x" * 256}, "data.invoice_id: must have at most 255 characters"),
    ({"amount_minor": 0}, "data.amount_minor: must be at least 1"),
    ({"amount_minor": 10**12}, "data.amount_minor: must be at most 999999999999"),
    ({"amount_minor": 1.0}, "data.amount_minor: must be a whole number, written without point and exponent"),
    ({"currency": "EURO"}, "data.currency: is not an ISO 4217 currency code"),
    ({"payment_id": "17"}, f"data.payment_id: {base.NO_UUID}"),
    ({"payment_id": "z" * 36}, f"data.payment_id: {base.NO_UUID}"),
    ({"method": {"token": "pm_x"}}, "data.method.kind: is missing"),
    ({"method": {"kind": "cash"}}, "data.method.kind: must be one of 'token', 'encrypted_card'"),
    ({"method": "cash"}, "data.method: must be an object"),
    ({"method": paying(token="a")}, "data.method.token: must be longer: at least 3"),
    ({"method": paying(details={"metadata": {"secret name!": "x"}})},
     "data.method.details.metadata: the name of an entry must be letters, digits and `_ . -`"),
    ({"method": paying(details={"metadata": {"a": " "}})},
     "data.method.details.metadata: an entry must be one line of text without control characters, and not empty"),
    ({"method": paying(details={"metadata": {f"a{n}": "x" for n in range(21)}})},
     "data.method.details.metadata: must have at most 20 entries"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), TOLD, ids=[told[:60] for _, told in TOLD])
def test_a_mistake_is_told_by_its_path_and_in_our_words(changes: dict[str, Any], told: str) -> None:
    assert detail(PAY, **changes) == told


def test_only_the_first_mistakes_are_told() -> None:
    every: dict[str, Any] = {name: [] for name in BY_WIRE_NAME[PAY].model_fields}
    assert detail(PAY, **every).count(";") == len(every) - 1
    many = detail("remit.payment_gateway.PaymentNeedsDecision.v1", attempts=[{}] * 2)
    assert many.startswith("data.attempts[0].at: is missing; ")
    assert many.endswith("; and 3 more")


@pytest.mark.parametrize("kind", get_args(ErrorType))
def test_no_word_of_the_library_is_told_whatever_it_finds(kind: str) -> None:
    words = mistakes.words({"type": kind, "ctx": defaultdict(int), "msg": "Input should be said in our words"})
    assert words
    assert not LIBRARY.search(words)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_mistake_in_a_message_has_words(message: type[Contract]) -> None:
    """No mistake that can be made is left to the sentence for what nobody thought of."""
    document, of_data = schemas.committed(message.wire_name), {"$ref": f"#/$defs/{message.__name__}"}
    told = []
    for seed in range(60):
        draw = Drawn(document, seed)
        try:
            message.model_validate(draw.outside(of_data, draw.inside(of_data)))
        except ValidationError as error:
            told.append(mistakes.mistakes(error, within="data"))
    assert told
    for words in told:
        assert words.startswith("data")
        assert mistakes.OTHERWISE not in words
        assert not LIBRARY.search(words)
