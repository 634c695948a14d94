"""Our own messages are checked as those of others are: no foreign text makes one that a contract, the database or AMQP refuses."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways import stripe_answers as answers
from services.payment_gateway.handlers import published_outcome
from services.staff import intake
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions import results
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus, arrive
from services.staff.people import at_terminal
from shared.card_data.scan import has_card_data
from shared.contracts.invoice import InvoicePaymentRequested, TokenMethod
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.consumer import Delivery
from shared.messaging.dead_letters import dead_letter, set_aside_again
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.failures import string
from shared.messaging.publisher import _payload, mark_of
from shared.records import replace
from tests.support.hostile import HOSTILE
from tests.unit.payment_gateway.payments import CAPTURED, POLICY, REFUNDED, payment
from tests.unit.staff.test_reading import delivery, x_death

ANN = at_terminal("ann")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ID = UUID(int=7)
CHANNEL = cast("Any", SimpleNamespace(number=1, max_content_size=131_064))
TEXTS = st.sampled_from(sorted(HOSTILE.values())) | st.text(max_size=300)


def sendable(message: Outgoing) -> None:
    _payload(mark_of(message), message, CHANNEL)
    assert not has_card_data(message.body)


def short(text: str) -> str:
    """As much of it as an AMQP short string can hold, read as our decoder reads it."""
    return text.encode("utf-8", "replace")[:255].decode("utf-8", "replace").replace("\0", "?")


def acted_on(letter: DeadLetter) -> None:
    """A person can discard this dead letter, and replay it if it has a body."""
    record = arrive(None, letter, NOW)
    discarded = dead_letter_actions._decided(
        lambda one, now: dead_letter_actions._discard(one, ANN, "because", now), record, NOW
    )
    assert isinstance(discarded, dead_letter_actions._Act), discarded
    replayed = dead_letter_actions._decided(dead_letter_actions._Replaying(ANN, None, None).decide, record, NOW)
    assert isinstance(replayed, dead_letter_actions._Act) or letter.body is None
    for act in (discarded, replayed):
        for message in act.says if isinstance(act, dead_letter_actions._Act) else ():
            sendable(message)


@pytest.mark.parametrize("queue", ["invoice.commands", "saga.events"])
@pytest.mark.parametrize("origin", ["service", "broker", "moved back"])
@given(texts=st.lists(TEXTS, min_size=7, max_size=7), body=st.binary(max_size=50))
@example(texts=[" "] * 7, body=b"{}")
@example(texts=["x" * 10_000] * 7, body=b"{}")
@example(texts=["\ud800"] * 7, body=b"{}")
def test_a_dead_letter_with_any_texts_can_be_discarded_and_replayed(
    origin: str, queue: str, texts: list[str], body: bytes
) -> None:
    names = ("type", "correlation_id", "reply_to", "content_type", "routing_key")
    came: dict[str, Any] = {name: short(text) for name, text in zip(names, texts[:5], strict=True)}
    headers = {short(texts[5]): texts[6], "ce-type": texts[6], f"ce-{texts[5]}": texts[5]}
    original = delivery(body, headers, queue=queue, message_id=str(ID), **came)
    acted_on(intake.read(as_arrived(original, origin)))


def as_arrived(original: Delivery, origin: str) -> Delivery:
    """The message as staff receive it."""
    if origin == "broker":
        return replace(original, routing_key=original.queue, headers=original.headers | x_death(queue=original.queue))
    letter = dead_letter(original, reason="unknown_version", error=None, text="", clock=lambda: NOW, tries=1)
    if origin == "moved back":
        letter = set_aside_again(replace(arrived(letter), queue=original.queue), lambda: NOW)
    return arrived(letter)


def arrived(letter: Outgoing) -> Delivery:
    return delivery(
        letter.body,
        dict(letter.headers),
        queue="dead-letters",
        routing_key=letter.routing_key,
        message_id=str(letter.id),
        type=letter.type,
        content_type=letter.content_type,
    )


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_the_row_of_an_earlier_build_can_be_discarded(text: str) -> None:
    row = DeadLetter(
        ID,
        "invoice.commands",
        "broker",
        "unknown",
        event_id=ID,
        type=string(text).encode("utf-8", "replace").decode()[:255] or None,
        body=b"{}",
        headers={text * 300: text, "x-remit-queue": "invoice.commands"},
    )
    record = DeadLetterRecord(row, 0, 1, DeadLetterStatus.OPEN, NOW, NOW)
    discarded = dead_letter_actions._decided(
        lambda one, now: dead_letter_actions._discard(one, ANN, "because", now), record, NOW
    )
    assert isinstance(discarded, dead_letter_actions._Act), discarded
    sendable(discarded.says[0])


@pytest.mark.parametrize("header", ["CC", "BCC", "x-death", "x-remit-queue", "n" * 300])
def test_a_replay_has_no_header_that_acts_on_the_broker(header: str) -> None:
    row = DeadLetter(ID, "saga.events", "broker", "unknown", body=b"{}", headers={header: "text", "note": "kept"})
    replayed = dead_letter_actions._Replaying(ANN, None, None).decide(
        DeadLetterRecord(row, 0, 1, DeadLetterStatus.OPEN, NOW, NOW), NOW
    )
    assert isinstance(replayed, dead_letter_actions._Act)
    assert replayed.says[0].headers == {
        "note": "kept",
        "x-remit-replays": 1,
        "x-remit-replay-id": str(replayed.entry.id),
    }


def test_what_a_contract_refuses_is_one_result_of_a_selection() -> None:
    letter = DeadLetter(ID, "invoice.commands", "broker", "unknown", event_id=ID)
    record = DeadLetterRecord(letter, 0, 1, DeadLetterStatus.OPEN, NOW, NOW)
    refused = dead_letter_actions._decided(
        lambda one, now: dead_letter_actions._discard(one, ANN, " ", now), record, NOW
    )
    assert isinstance(refused, results.ActionResult)
    assert (refused.subject, refused.refusal) == (ID, results.ActionRefusal.INVALID)
    assert refused.text.startswith("it cannot be said: reason: ")


# -- the gateway's words -----------------------------------------------------------------------------------------------------------------


def announced(before: domain.Payment, step: GatewayStep, answer: domain.GatewayAnswer) -> None:
    transition = domain.on_answer(before, step, answer, POLICY)
    if transition.outcome is not None:
        sendable(published_outcome(transition, Cause(ID, "C-1", NOW)).message)


@given(text=TEXTS)
@example(text=HOSTILE["10 000 characters"])
@example(text=HOSTILE["card number"])
@example(text=HOSTILE["blank"])
def test_no_text_of_the_gateway_prevents_an_outcome(text: str) -> None:
    announced(payment(PaymentStatus.PREPARED), GatewayStep.EXECUTE, replace(CAPTURED, receipt_number=text))
    announced(payment(PaymentStatus.REQUESTED), GatewayStep.PREPARE, port.Refused(text, text))
    announced(payment(PaymentStatus.REFUNDING), GatewayStep.REFUND, replace(REFUNDED, refund_id=text))
    announced(payment(PaymentStatus.REFUNDING), GatewayStep.REFUND, port.RefundFailed(text, text))
    declined = domain.on_answer(
        payment(PaymentStatus.PREPARED), GatewayStep.EXECUTE, port.Declined(text, text), POLICY
    ).payment
    announced(declined, GatewayStep.CANCEL, port.Cancelled(text))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_id_of_other_characters_is_no_id(text: str) -> None:
    reply = answers.Accepted({"id": f"pi_{text}", "amount": 1250, "currency": "eur"}, replayed=False, evidence="")
    order = port.Order(ID, "INV-1", 1250, "EUR", "pm_card_visa")
    prepared = answers.read_prepared(reply, order)
    fits = text == ""
    assert isinstance(prepared, port.Prepared if fits else port.Unknown)
    assert isinstance(answers.read_token(replace_id(reply, f"pm_{text}")), port.Tokenised if fits else port.Unknown)
    refund = answers.read_refund({"id": f"re_{text}", "status": "succeeded", "amount": 1}, 1, "EUR", "")
    assert isinstance(refund, port.Refunded if fits else port.Unknown)


def replace_id(reply: answers.Accepted, id_: str) -> answers.Accepted:
    return answers.Accepted({**reply.body, "id": id_}, replayed=False, evidence="")


@pytest.mark.parametrize(("queue", "decides"), [("payment_gateway.requests", True), ("invoice.commands", False)])
def test_a_request_on_a_queue_that_others_reach_decides_nothing_about_its_payment(queue: str, decides: bool) -> None:
    """Else whoever can send a command could have staff close any payment that is not there yet."""
    request = InvoicePaymentRequested(
        invoice_id="INV-1", payment_id=ID, amount_minor=5, currency="EUR", method=TokenMethod(token="pm_x")
    )
    body = encode(Draft(request), Cause(ID, "C-1", NOW), 0, source="invoice").body
    letter = DeadLetter(ID, queue, "broker", "unknown", event_id=ID, content_type=STRUCTURED, body=body)
    discarded = dead_letter_actions._discard(
        DeadLetterRecord(letter, 0, 1, DeadLetterStatus.OPEN, NOW, NOW), ANN, "why", NOW
    )
    assert isinstance(discarded, dead_letter_actions._Act)
    assert (discarded.decision is not None) is decides
