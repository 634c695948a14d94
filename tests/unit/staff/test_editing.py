"""Only what says nothing about money may be edited, and only if a service would still read the message."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff import editing
from services.staff.dead_letters import DeadLetter
from services.staff.editing import LockedFieldError, NotEditableError, UnfitEditError
from services.staff.letter_store import hours_until
from shared.contracts.catalogue import MESSAGES
from shared.messaging.codec import JSON_DATA, STRUCTURED

OLD = UUID("018f3c60-2f1a-7d4e-8b5c-6a7e9d0c1b22")
NEW = UUID("018f3c60-2f1a-7d4e-8b5c-6a7e9d0c1b23")
VOID: dict[str, Any] = {"invoice_id": "INV-1", "reason": "wrong"}


def letter(data: object, type_: str = "remit.invoice.VoidInvoice.v1", **changes: Any) -> DeadLetter:
    event = {"specversion": "1.0", "id": str(OLD), "type": type_, "source": "/billing", "data": data}
    body = json.dumps(event).encode()
    given_ = {"body": body, "body_bytes": len(body), "content_type": STRUCTURED, **changes}
    return DeadLetter(OLD, "invoice.commands", "remit", "handler_failed", **given_)


def test_the_new_message_has_its_own_id_and_the_old_one_as_its_cause() -> None:
    message = editing.editable(letter(VOID | {"mandate": "x"}))
    body = json.loads(editing.edited(message, NEW, OLD, drop=["mandate"], changes={"reason": "better"}))
    assert (body["id"], body["causationid"], body["source"]) == (str(NEW), str(OLD), "/billing")
    assert body["data"] == {"invoice_id": "INV-1", "reason": "better"}


def test_a_message_in_binary_mode_is_sent_in_structured_mode() -> None:
    data = json.dumps(VOID).encode()
    headers = {"ce-id": str(OLD), "ce-type": "remit.invoice.VoidInvoice.v1", "ce-source": "/b", "ce-specversion": "1.0"}
    message = editing.editable(letter(VOID, body=data, content_type=JSON_DATA, headers=headers))
    assert json.loads(editing.edited(message, NEW, OLD, drop=[], changes={}))["data"] == VOID


@pytest.mark.parametrize(
    "broken",
    [
        {"body": None, "body_bytes": 0},
        {"body": b"{", "body_bytes": 1},
        {"body": b"[]", "body_bytes": 2},
        {"content_type": "text/plain"},
    ],
)
def test_what_cannot_be_read_cannot_be_edited(broken: dict[str, Any]) -> None:
    with pytest.raises(NotEditableError):
        editing.editable(letter(VOID, **broken))
    with pytest.raises(NotEditableError):
        editing.editable(letter(VOID, "remit.invoice.VoidInvoice.v2"))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_ids_and_money_are_locked_in_every_message(message: Any) -> None:
    names = set(message.model_json_schema()["properties"])
    free = {name for name in names if not editing.is_locked(name)}
    assert not {name for name in free if "amount" in name or "currency" in name or name.endswith("_id")}


@pytest.mark.parametrize(
    "message",
    [
        one
        for one in MESSAGES
        if one.exchange in {"settlement.commands", "payment.events", "invoice.events", "invoice.requests"}
    ],
    ids=lambda message: message.__name__,
)
def test_nobody_edits_what_was_decided_or_what_became_of_the_money(message: Any) -> None:
    names = set(message.model_json_schema()["properties"])
    assert {name for name in names if not editing.is_locked(name)} <= {"reason", "advice", "evidence", "detail", "look"}


@given(st.sampled_from(["invoice_id", "payment_id", "amount_minor", "currency", "method"]), st.text(max_size=20))
def test_no_text_changes_a_locked_field(name: str, text: str) -> None:
    message = editing.editable(letter(VOID))
    with pytest.raises(LockedFieldError):
        editing.edited(message, NEW, OLD, drop=[], changes={name: text})


def test_a_field_that_no_contract_knows_can_only_be_left_out() -> None:
    message = editing.editable(letter(VOID | {"mandate": "x"}))
    with pytest.raises(LockedFieldError):
        editing.edited(message, NEW, OLD, drop=[], changes={"mandate": "y"})


@pytest.mark.parametrize("changes", [{"reason": ""}, {"reason": "4242 4242 4242 4242"}])
def test_what_a_service_would_refuse_is_no_edit(changes: dict[str, str]) -> None:
    with pytest.raises(UnfitEditError):
        editing.edited(editing.editable(letter(VOID)), NEW, OLD, drop=[], changes=changes)


def test_what_pays_is_never_shown() -> None:
    data = VOID | {"method": {"kind": "token", "token": "pm_secret"}}
    text, hides = editing.shown_body(letter(data))
    lines = editing.difference(data, {"method": data["method"]})
    assert hides
    assert "pm_secret" not in text
    assert not [line for _, line in lines if "pm_secret" in line]
    assert editing.shown_body(letter(VOID, body=b"\xff<", body_bytes=2)) == ("\\xff<", False)


@pytest.mark.parametrize(
    "secret",
    [
        {"token": "pm_secret"},
        {"token": {"id": "pm_secret"}},
        {"Token": ["pm_secret"]},
        {"method": "pm_secret"},
        {"wallet": {"JWE": "pm_secret"}},
    ],
)
def test_what_pays_is_hidden_wherever_it_stands(secret: dict[str, Any]) -> None:
    sent = letter(VOID | secret)
    assert "pm_secret" not in editing.shown_body(sent)[0]
    assert not [field for field in editing.editable(sent).fields if "pm_secret" in editing.shown_value(field)]


def test_of_how_it_is_paid_the_rest_is_shown() -> None:
    sent = letter(VOID | {"method": {"kind": "token", "token": "pm_secret", "mandate": "M-1"}, "note": ["a", 1]})
    shown = {field.name: editing.shown_value(field) for field in editing.editable(sent).fields}
    assert shown["method"] == '{"kind": "token", "token": "hidden", "mandate": "M-1"}'
    assert shown["note"] == '["a", 1]'


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a": 1, "method": {"token": "pm_secret"},}', '{"a": 1, "hidden'),
        (b'{"a": 1, "TOKEN": "pm_secret",}', '{"a": 1, "hidden'),
        (b"a=1&token=pm_secret", "a=1&hidden"),
        (rb'{"tok\u0065n": "pm_secret",}', "hidden"),
        ('{"token": "pm_secret"'.encode("utf-16-le"), "hidden"),
        (b'{"x":' * 100_000 + b'"token": "pm_secret"', '{"x":' * 100_000 + '"hidden'),
        (b'{"x":' * 100_000 + b'{"token": "pm_secret"}' + b"}" * 100_000, '{"x":' * 100_000 + '{"hidden'),
    ],
)
def test_what_cannot_be_read_is_shown_up_to_where_it_may_say_what_pays(body: bytes, shown: str) -> None:
    assert editing.shown_body(letter(VOID, body=body, body_bytes=len(body))) == (shown, True)


def test_the_hours_of_a_group_go_on_while_nothing_fails() -> None:
    now = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
    hour = int(now.timestamp() // 3600)
    counts = tuple(range(24))
    assert hours_until(counts, hour, now) == counts
    assert hours_until(counts, hour, now + timedelta(hours=2)) == (*counts[2:], 0, 0)
    assert hours_until(counts, hour, now + timedelta(days=9)) == (0,) * 24
    assert hours_until(counts, hour + 1, now) == counts
