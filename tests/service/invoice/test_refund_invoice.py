"""RefundInvoice on the public queue: the answer to its sender, the published events, and what becomes of the refund."""

from typing import Any
from uuid import UUID, uuid4

from services.audit.routes import queues_for
from services.invoice.rebuild import rebuild
from services.invoice.reminders import RequestReminder
from shared.amqp.broker_link import BrokerLink
from shared.clock import system_clock
from shared.contracts import invoice as messages
from shared.contracts.invoice import AnswerReason
from shared.ids import derived_id
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from tests.service.invoice.conftest import (
    ISSUE,
    PAY,
    RECORD,
    THIS,
    InvoiceConversation,
    accepted,
    in_conversation,
    rejected,
    stands,
)
from tests.support.conversation import contents
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

R1, R2 = UUID(int=171), UUID(int=172)
ABOUT: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": THIS, "refund_id": R1}
REFUND = messages.RefundInvoice(invoice_id="INV-1", refund_id=R1, amount_minor=200, currency="EUR", reason="damaged")
REST = messages.RefundInvoice(invoice_id="INV-1", refund_id=R2, currency="EUR", reason="returned")
REQUESTED = messages.InvoiceRefundRequested(**ABOUT, amount_minor=200, currency="EUR", reason="damaged")
MADE = messages.RecordRefund(**ABOUT, amount_minor=200, currency="EUR", version=6)
REFUNDED = messages.InvoiceRefunded(**ABOUT, amount_minor=200, currency="EUR", refunded_minor=200, version=6)
CAME_BACK = messages.RecordRefundFailure(**ABOUT, reason="lost_or_stolen_card", version=8)
FAILED = messages.InvoiceRefundFailed(
    **ABOUT, amount_minor=200, currency="EUR", refunded_minor=0, reason="lost_or_stolen_card", version=8
)


async def test_from_the_request_to_the_refund_and_back(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY, RECORD)
    id_ = uuid4()
    left = await invoice.when(REFUND, message_id=id_)
    assert contents(left) == [accepted(id_), REQUESTED]
    assert left[1].id == str(derived_id(id_, 0))
    assert contents(await invoice.when(MADE)) == [REFUNDED]
    assert contents(await invoice.when(CAME_BACK)) == [FAILED]
    assert contents(await invoice.when(MADE)) == [REFUNDED, FAILED], "nothing new: both outcomes are told again"
    assert await stands(environment) == [("paid", 6)]
    kept = await rows(environment.databases["invoice"], "SELECT refunds FROM invoices")
    assert kept[0]["refunds"] == [
        {"refund_id": str(R1), "asked_minor": 200, "status": "failed", "refunded_minor": 0, "version": 8}
    ]


async def test_the_same_refund_is_asked_for_once(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY, RECORD)
    id_, other = uuid4(), uuid4()
    answer, _ = await invoice.when(REFUND, message_id=id_)
    (again,) = await invoice.when(REFUND, message_id=id_)
    assert (again.id, again.content) == (answer.id, answer.content)
    assert contents(await invoice.when(REFUND, message_id=other)) == [accepted(other)]
    changed = REFUND.model_copy(update={"amount_minor": 201})
    used = uuid4()
    left = await invoice.when(changed, message_id=used)
    assert contents(left) == rejected(changed, used, AnswerReason.REFUND_ID_USED)
    assert await stands(environment) == [("paid", 4)]


async def test_no_more_than_is_left(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    early, late, whole, nothing = uuid4(), uuid4(), uuid4(), uuid4()
    assert contents(await invoice.when(REFUND, message_id=early)) == rejected(REFUND, early, AnswerReason.NOT_PAID)
    await invoice.given(PAY, RECORD, REFUND)
    too_much = REST.model_copy(update={"amount_minor": 301})
    left = await invoice.when(too_much, message_id=late)
    assert contents(left) == rejected(too_much, late, AnswerReason.REFUND_TOO_LARGE)
    assert (await invoice.when(REST, message_id=whole))[0].content == accepted(whole)
    more = REST.model_copy(update={"refund_id": UUID(int=173)})
    left = await invoice.when(more, message_id=nothing)
    assert contents(left) == rejected(more, nothing, AnswerReason.NOTHING_TO_REFUND)


async def test_a_person_who_asks_in_vain_hears_of_it_as_an_event(invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE)
    asked = messages.RequestRefund(**ABOUT, amount_minor=200, currency="EUR", reason="damaged", requested_by="ann")
    (told,) = await invoice.when(asked, reply_to=None)
    assert told.content == messages.InvoiceRefundRejected(**ABOUT, reason="not_paid", requested_by="ann")
    await invoice.given(PAY, RECORD)
    (requested,) = await invoice.when(asked, reply_to=None)
    assert requested.content == REQUESTED.model_copy(update={"requested_by": "ann"})


async def test_a_refund_pending_too_long_is_requested_again_with_the_same_id(
    environment: Environment, upstream: UpstreamClient
) -> None:
    async with in_conversation(environment, upstream) as invoice:
        await invoice.given(ISSUE, PAY, RECORD)
        _, first = await invoice.when(REFUND)
        await invoice.given(REST, messages.RecordRefundFailure(**ABOUT | {"refund_id": R2}, reason="kept", version=5))
    url = environment.databases["invoice"]
    await execute(url, "UPDATE refunds SET announced_at = now() - interval '1 hour'")
    events = await upstream.tap("invoice.events.own")
    database = await Database.open(url, name="test", connections_max=2)
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test"))
    try:
        reminder = RequestReminder(database, Relay(database, publisher), older_than_s=30)
        assert await reminder.remind() == 1, "the other one has its outcome"
        again, anew = await events.next(), await events.next()
        assert await reminder.remind() == 0, "once in this time is enough"
        await execute(url, "UPDATE refunds SET announced_at = now() - interval '1 hour'")
        # Its time is older than what this reminder reads every time: so another instance finds it.
        reminder = RequestReminder(database, Relay(database, publisher), older_than_s=30)
        assert await reminder.remind() == 1
        assert (await events.next()).id == again.id, "although its public copy waits, because nobody publishes it here"
        once_more = await events.next()
        waiting = await rows(url, "SELECT lane FROM outbox")
        assert waiting == [{"lane": "public"}] * 3, "each id once"
    finally:
        await publisher.close()
        await database.close()
    assert (again.id, again.message.body) == (first.id, first.message.body)
    assert anew.content == once_more.content == first.content
    assert len({first.id, anew.id, once_more.id}) == 3, (
        "a saga that has handled the first must hear that it still waits"
    )
    heard_by = queues_for("invoice.events", str(again.message.routing_key))
    assert heard_by == ("saga.events", "staff.cases")


async def test_a_refund_that_people_made_at_the_gateway_is_told_like_any_other_with_who_found_it(
    environment: Environment, invoice: InvoiceConversation
) -> None:
    await invoice.given(ISSUE, PAY, RECORD)
    found = MADE.model_copy(update={"decided_by": "ann"})
    requested, refunded = await invoice.when(found, reply_to=None)
    assert requested.content == REQUESTED.model_copy(
        update={"reason": "the money was given back at the gateway", "requested_by": "ann"}
    )
    assert refunded.content == REFUNDED
    assert await rows(environment.databases["invoice"], "SELECT pending FROM refunds") == [{"pending": False}]
    again = await invoice.when(found, reply_to=None)
    assert [one.id for one in again] == [refunded.id], "it is told once"


async def test_the_state_is_rebuilt_from_the_events(environment: Environment, invoice: InvoiceConversation) -> None:
    await invoice.given(ISSUE, PAY, RECORD, REFUND, MADE, CAME_BACK, REST)
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    try:
        assert (await rebuild(database, system_clock, repair=False)).differing == ()
    finally:
        await database.close()
