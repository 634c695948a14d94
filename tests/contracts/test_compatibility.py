"""What was released stays: a change that breaks a sender or a listener is refused, with its message, member and reason."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.contract import compatibility, released
from deploy.contract.__main__ import broken
from shared.contracts import schemas

PAY, PAID, ANSWERED = "remit.invoice.PayInvoice.v1", "remit.invoice.InvoicePaid.v1", "remit.invoice.CommandAnswered.v1"
Change = Callable[[dict[str, Any], dict[str, Any]], object]
"""A change of the parts and of the data of a message."""


def test_what_is_published_now_breaks_nothing_that_was_released() -> None:
    assert broken() == []


def test_every_released_message_can_still_be_read_by_its_schema() -> None:
    for number in released.numbers():
        for name, schema in released.schemas_of(number).items():
            assert compatibility.breaks(schema, schema, is_read=True) == [], name
            assert schema["examples"], name


BREAKING: list[tuple[str, str, Change, str]] = [
    ("required", PAY, lambda _, data: data["required"].append("due"),
     "data.due: what was allowed is refused now: a message without it"),
    ("no longer read", PAY, lambda parts, _: parts["TokenMethod"]["properties"].pop("customer"),
     "data.method.customer: was listed, and is no more: it would be ignored, or never come again, without a word"),
    ("least", PAY, lambda _, data: data["properties"]["amount_minor"].update(minimum=100),
     "data.amount_minor: what was allowed is refused now: less than minimum 100"),
    ("most", PAY, lambda parts, _: parts["TokenMethod"]["properties"]["token"].update(maxLength=20),
     "data.method.token: what was allowed is refused now: more than maxLength 20"),
    ("type", PAY, lambda _, data: data["properties"]["amount_minor"].update(type="string"),
     "data.amount_minor: what was allowed is refused now: integer, not string"),
    ("value", PAY, lambda _, data: data["properties"]["currency"]["enum"].remove("EUR"),
     "data.currency: what was allowed is refused now: EUR"),
    ("form", PAY, lambda _, data: data["properties"]["payment_id"].update(pattern="^7"),
     "data.payment_id: what was allowed is refused now: what is not of the pattern '^7'"),
    ("kind", PAY, lambda _, data: data["properties"]["method"]["oneOf"].pop(),
     "data.method.kind: what was allowed is refused now: encrypted_card"),
    ("entries", PAY, lambda parts, _: _metadata(parts).update(maxProperties=5),
     "data.method.details.metadata: what was allowed is refused now: more than maxProperties 5"),
    ("names", PAY, lambda parts, _: _metadata(parts)["propertyNames"].update(maxLength=5),
     "data.method.details.metadata (names): what was allowed is refused now: more than maxLength 5"),
    ("new keyword", PAY, lambda _, data: data["properties"]["amount_minor"].update(multipleOf=100),
     "data.amount_minor: what was allowed is refused now: multipleOf, which deploy/contract/compatibility.py does not compare"),
    ("gone", PAID, lambda _, data: data["required"].remove("receipt_number"),
     "data.receipt_number: what was promised no longer holds: a message without it"),
    ("never again", ANSWERED, lambda _, data: data["properties"].pop("detail"),
     "data.detail: was listed, and is no more: it would be ignored, or never come again, without a word"),
    ("longer", PAID, lambda _, data: data["properties"]["invoice_id"].update(maxLength=300),
     "data.invoice_id: what was promised no longer holds: more than maxLength 255"),
    ("another answer", ANSWERED, lambda _, data: data["properties"]["answer"]["enum"].append("perhaps"),
     "data.answer: what was promised no longer holds: perhaps"),
    ("null", PAID, lambda _, data: data["properties"].update(receipt_number={"type": "null"}),
     "data.receipt_number: what was promised no longer holds: null, not string"),
]  # fmt: skip


def _metadata(parts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parts["ChargeDetails"]["properties"]["metadata"]["anyOf"][0]
    return found


@pytest.mark.parametrize(("name", "change", "told"), [row[1:] for row in BREAKING], ids=[row[0] for row in BREAKING])
def test_a_breaking_change_is_refused_by_message_member_and_reason(name: str, change: Change, told: str) -> None:
    assert f"{name}: {told}" in _broken_by(name, change)


HARMLESS: list[tuple[str, str, Change]] = [
    ("a member that can be left out", PAY, lambda _, data: data["properties"].update(due={"type": "string"})),
    ("a member more in an event", PAID, lambda _, data: _add(data, "paid_by", {"type": "string"})),
    ("less is asked for", PAY, lambda _, data: data["required"].remove("currency")),
    ("more is taken", PAY, lambda _, data: data["properties"]["amount_minor"].update(maximum=10**15)),
    ("another kind", PAY, lambda _, data: data["properties"]["method"]["oneOf"].append({"$ref": "#/$defs/PayInvoice"})),
    ("less is written", PAID, lambda _, data: data["properties"]["receipt_number"].update(maxLength=50)),
    ("a reason more", ANSWERED, lambda _, data: data["properties"]["reason"]["anyOf"][0]["enum"].append("too_late")),
    ("other words", PAY, lambda _, data: data.update(description="Pay it.")),
]  # fmt: skip


def _add(data: dict[str, Any], name: str, of: dict[str, Any]) -> None:
    data["properties"][name] = of
    data["required"].append(name)


@pytest.mark.parametrize(("name", "change"), [row[1:] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_a_change_that_breaks_nobody_is_none(name: str, change: Change) -> None:
    assert _broken_by(name, change) == []


def _broken_by(name: str, change: Change) -> list[str]:
    number = released.latest()
    now = copy.deepcopy(released.schemas_of(number))
    parts = now[name]["$defs"]
    change(parts, parts[name.split(".")[2]])
    return compatibility.broken_by(now, released.document_of(number), number)


def test_a_message_or_its_way_that_is_gone_is_missed() -> None:
    number = released.latest()
    now, document = released.schemas_of(number), released.document_of(number)
    del now[PAY], document["channels"]["commands"]["messages"]["PayInvoice.v1"]
    document["channels"]["invoiceEvents"]["address"] = "invoices"
    assert compatibility.broken_by(now, document, number) == [
        f"{PAY} is gone: a message stays as long as anybody may send or expect it",
        "channel commands: PayInvoice.v1 no longer goes by it",
        "channel invoiceEvents: its address was invoice.events, and is invoices",
    ]
    assert schemas.committed(PAY)["title"] == PAY
