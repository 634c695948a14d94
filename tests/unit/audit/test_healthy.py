"""What the audit calls a healthy message, compared with the services' own reader: the audit is never the more generous one."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit.dead_letters import healthy
from services.audit.routes import queues_for
from shared.contracts import schemas
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.messaging.codec import STRUCTURED, decode
from shared.messaging.envelope import Inbound
from tests.fuzz.corpus import CORPUS


def dead_letter(body: bytes, queue: str, **changes: object) -> dict[str, object]:
    return {"body": body, "queue": queue, "content_type": STRUCTURED, "error_type": None, "reason": "any"} | changes


def event(name: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "0190a5c4-7f2e-7c1b-9b1e-2d4f6a8b0c0e",
        "type": name,
        "source": "/test",
        "time": "2026-11-22T12:00:00Z",
        "correlationid": "0190a5c4-7f2e-7c1b-9b1e-2d4f6a8b0c0f",
        "data": schemas.examples_of(BY_WIRE_NAME[name])[0],
    }


def healthy_body(name: str) -> bytes:
    return json.dumps(event(name)).encode()


@pytest.mark.parametrize("name", sorted(BY_WIRE_NAME))
def test_every_message_on_its_queue_is_healthy(name: str) -> None:
    for queue in queues_for(BY_WIRE_NAME[name].exchange, name):
        assert healthy(dead_letter(healthy_body(name), queue)) == name
    elsewhere = "invoice.commands" if name not in PUBLIC_COMMANDS else "saga.events"
    assert healthy(dead_letter(healthy_body(name), elsewhere)) is None


def test_a_message_that_may_be_wrong_elsewhere_is_not_called_healthy() -> None:
    name, queue = "remit.invoice.PayInvoice.v1", "invoice.commands"
    body = healthy_body(name)
    assert healthy(dead_letter(body, queue)) == name
    assert healthy(dead_letter(body, queue, reason="clear_card_number")) is None
    assert healthy(dead_letter(body, queue, error_type="PaymentIdReusedError")) is None
    assert healthy(dead_letter(body, queue, content_type="application/json")) is None


IN_THE_BODY = [name for name, poison in CORPUS.items() if not poison.headers and poison.content_type == STRUCTURED]


@pytest.mark.parametrize("name", IN_THE_BODY)
def test_no_poison_is_called_healthy(name: str) -> None:
    """Each input as it would be stored as a dead letter, without its reason."""
    assert healthy(dead_letter(CORPUS[name].body, "invoice.commands")) is None


@settings(max_examples=500)
@given(data=st.data())
def test_a_message_that_the_services_refuse_is_never_called_healthy(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(PUBLIC_COMMANDS)))
    whole = event(name)
    part = data.draw(st.sampled_from([whole, whole["data"]]))
    key = data.draw(st.sampled_from(sorted(part)))
    odd = st.one_of(
        st.none(), st.text(max_size=40), st.integers(), st.floats(), st.just([]), st.just({}), st.just("4" * 300)
    )
    part[key] = data.draw(odd)
    body = json.dumps(whole, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    if healthy(dead_letter(body, "invoice.commands")) is not None:
        assert isinstance(decode(body, content_type=STRUCTURED), Inbound)
