"""The forms of bodies that the audit knows are those in which the services store them, and a body of another form is told of."""

from dataclasses import fields
from typing import Any
from uuid import UUID

import orjson
import pytest
from pydantic import BaseModel

from services.audit import bodies
from services.audit.bodies import Form
from services.invoice.refunds import InvoiceRefund
from services.invoice.stored_events import dump
from services.payment_gateway import domain as payment_gateway
from services.saga.refunds import AskedRefund
from services.staff import heard
from tests.unit.invoice import specification

EVENTS = {name.partition(".")[0]: data for name, data in (dump(one.event) for one in specification.EVENTS)}


def names(form: type[BaseModel]) -> set[str]:
    return set(form.model_fields)


def test_the_audit_knows_every_member_of_each_stored_event() -> None:
    assert {name: names(form.type) for name, form in bodies.EVENTS.items()} == {
        name: set(data) for name, data in EVENTS.items()
    }


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_an_event_as_it_is_stored_has_its_form(name: str) -> None:
    stored = orjson.loads(orjson.dumps(EVENTS[name], default=str))
    assert bodies.EVENTS[name].mistake(stored) is None


def test_the_audit_knows_every_member_of_the_other_bodies() -> None:
    assert names(bodies.RefundOfInvoice) == {field.name for field in fields(InvoiceRefund)}
    assert names(bodies.SagaRefund) == {field.name for field in fields(AskedRefund)}
    assert names(bodies.Side) == {field.name for field in fields(payment_gateway.GatewaySide)}
    assert names(bodies.Facts) == heard.FACTS | {"refund", "attempts"}


WHOLE = {"payment_id": str(UUID(int=1)), "outcome": "declined", "reason": "r", "advice": None}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reason": ...}, "reason is missing"),
        ({"reason": None}, "reason must be a text"),
        ({"reason": ["r"]}, "reason must be a text"),
        ({"outcome": "lost"}, "outcome must be 'declined' or 'not_charged'"),
        ({"payment_id": "no sense"}, "payment_id must be a UUID such as 0190a5c4-7f2e-7c1b-9b1e-2d4f6a8b0c1d"),
        ({"advice": 7}, "advice must be a text"),
        ({"more": 7}, None),
    ],
)
def test_a_mistake_names_the_member_and_what_it_must_be(changes: dict[str, Any], why: str | None) -> None:
    body = {name: value for name, value in (WHOLE | changes).items() if value is not ...}
    assert bodies.EVENTS["PaymentFailed"].mistake(body) == why


@pytest.mark.parametrize("body", [None, [], "text", 7, [{"payment_id": 1}]])
def test_what_is_no_object_is_told_of(body: object) -> None:
    assert bodies.EVENTS["PaymentFailed"].mistake(body) is not None
    assert bodies.OBJECT.read(body, {}) == {}


def test_a_number_that_no_column_holds_is_a_mistake() -> None:
    form = Form(bodies.Whole)
    assert [form.mistake(number) is None for number in (2**63 - 1, 2**63, 10**30, 1.0, True)] == [True, *[False] * 4]


def test_an_outcome_that_nobody_can_read_says_nothing_and_has_no_cause() -> None:
    for body in (b"", b"[", b"[]", b'{"causationid": 7}', b'{"causationid": "x", "data": {}}', b"1" + b"0" * 400):
        assert bodies.event_of("remit.payment_gateway.PaymentDeclined.v1", body) == {}
        assert bodies.cause_of(body) is None
