"""Given these messages, when one more arrives, then exactly these messages leave: on the real broker and database."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import UUID, uuid4

from services.saga.__main__ import assemble
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as payment_messages
from shared.contracts.base import Contract
from shared.ids import derived_id
from tests.support.conversation import causes, contents
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, UpstreamClient

PAYMENT = UUID("6d0c3d1e-0d2f-4a0e-9a35-8a0f4a2b7d11")
ABOUT: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": PAYMENT}
MONEY: dict[str, Any] = {"amount_minor": 1_250, "currency": "EUR"}
Handled = Callable[[set[UUID]], Awaitable[None]]

OVERDUE = invoice_messages.InvoicePaymentOverdue(**ABOUT)
REQUESTED = invoice_messages.InvoicePaymentRequested(
    **ABOUT, **MONEY, method=invoice_messages.TokenMethod(token="pm_card_visa")
)
"""The build before sends it to the saga as well."""
PAID = invoice_messages.InvoicePaid(**ABOUT, **MONEY, receipt_number="R-1")
FAILED = invoice_messages.InvoicePaymentFailed(
    **ABOUT, outcome="declined", reason="do_not_honor", reference_code="PF-1"
)
REJECTED = invoice_messages.InvoiceSettlementRejected(**ABOUT, reason="payment_not_awaited")
CAPTURED = payment_messages.PaymentCaptured(**ABOUT, **MONEY, version=4, receipt_number="R-1")
LATE = payment_messages.PaymentCaptured(**ABOUT, **MONEY, version=5, receipt_number="R-1", late=True)
DECLINED = payment_messages.PaymentDeclined(**ABOUT, version=4, reason="do_not_honor", advice="try_again_later")
NOT_CHARGED = payment_messages.PaymentNotCharged(**ABOUT, version=4, reason="cancelled")
IN_DOUBT = payment_messages.PaymentInDoubt(**ABOUT, **MONEY, version=2, reason="timeout")
NEEDS_DECISION = payment_messages.PaymentNeedsDecision(**ABOUT, **MONEY, version=3, reason="silent")
REFUNDED = payment_messages.PaymentRefunded(**ABOUT, **MONEY, version=7)
REFUND_IN_DOUBT = payment_messages.PaymentRefundInDoubt(**ABOUT, **MONEY, version=6, reason="timeout")
REFUND_FAILED = payment_messages.PaymentRefundFailed(**ABOUT, **MONEY, version=7, reason="refused")
REFUND_CLOSED = payment_messages.PaymentRefundFailed(**ABOUT, **MONEY, version=8, reason="kept", decided_by="kim")

RECORD = invoice_messages.RecordPayment(**ABOUT, **MONEY, receipt_number="R-1")
TELL_DECLINED = invoice_messages.RecordPaymentFailure(
    **ABOUT, outcome="declined", reason="do_not_honor", advice="try_again_later"
)
TELL_NOT_CHARGED = invoice_messages.RecordPaymentFailure(**ABOUT, outcome="not_charged", reason="cancelled")
TELL_REJECTED = invoice_messages.RecordPaymentFailure(**ABOUT, outcome="not_charged", reason="settlement_rejected")
FLAG = invoice_messages.FlagPaymentInDoubt(**ABOUT)
REFUND_REJECTED = payment_messages.RefundPayment(
    **ABOUT, reason="the invoice cannot take the money: payment_not_awaited"
)
REFUND_LATE = payment_messages.RefundPayment(**ABOUT, reason="captured after the payment had failed")

PART: dict[str, Any] = {**ABOUT, "refund_id": UUID(int=71)}
FACTS: dict[str, Any] = {"refund_id": UUID(int=71), "amount_minor": 250}
PART_ASKED = invoice_messages.InvoiceRefundRequested(**PART, amount_minor=250, currency="EUR", reason="damaged")
PART_MADE = payment_messages.PaymentRefunded(
    **ABOUT, amount_minor=250, currency="EUR", version=6, refund={**FACTS, "refunded_minor": 250, "left_minor": 1_000}
)
PART_BACK = payment_messages.PaymentRefundFailed(
    **ABOUT,
    **MONEY,
    version=8,
    reason="lost_or_stolen_card",
    refund={**FACTS, "refunded_minor": 0, "left_minor": 1_250},
)
PART_RECORDED = invoice_messages.InvoiceRefunded(
    **PART, amount_minor=250, currency="EUR", refunded_minor=250, version=6
)
PART_BACK_RECORDED = invoice_messages.InvoiceRefundFailed(
    **PART, amount_minor=250, currency="EUR", refunded_minor=0, version=8, reason="lost_or_stolen_card"
)
MAKE_PART = payment_messages.MakeRefund(**PART, amount_minor=250, currency="EUR", reason="damaged")
RECORD_PART = invoice_messages.RecordRefund(**PART, amount_minor=250, currency="EUR", version=6)
RECORD_PART_BACK = invoice_messages.RecordRefundFailure(**PART, reason="lost_or_stolen_card", version=8)

STORIES: dict[str, tuple[list[Contract], Contract, list[Contract], str]] = {
    # given, when, then, and the saga's status at the end
    "an overdue payment is awaited in silence": ([], OVERDUE, [], "awaiting_outcome"),
    "a request that an invoice service of the build before calls overdue is awaited": (
        [],
        REQUESTED,
        [],
        "awaiting_outcome",
    ),
    "a capture is recorded": ([OVERDUE], CAPTURED, [RECORD], "settling"),
    "a capture of a payment that nobody called overdue is recorded": ([], CAPTURED, [RECORD], "settling"),
    "that a payment is overdue, after its capture, says nothing": ([CAPTURED], OVERDUE, [], "settling"),
    "a paid invoice ends it": ([OVERDUE, CAPTURED], PAID, [], "completed"),
    "an invoice that lost its payment in a fail-over, and waits again, is told again": (
        [CAPTURED, PAID],
        OVERDUE,
        [RECORD],
        "completed",
    ),
    "a paid invoice ends it whatever was missed": ([], PAID, [], "completed"),
    "a capture after the invoice was paid says nothing": ([PAID], CAPTURED, [], "completed"),
    "a decline is told": ([OVERDUE], DECLINED, [TELL_DECLINED], "failed"),
    "what was not charged is told": ([OVERDUE, IN_DOUBT], NOT_CHARGED, [TELL_NOT_CHARGED], "failed"),
    "a failure that was noted ends it": ([OVERDUE, DECLINED], FAILED, [], "failed"),
    "doubt is flagged": ([OVERDUE], IN_DOUBT, [FLAG], "in_doubt"),
    "doubt is flagged once": ([OVERDUE, IN_DOUBT], NEEDS_DECISION, [], "needs_decision"),
    "a stale doubt says nothing": ([OVERDUE, NEEDS_DECISION], IN_DOUBT, [], "needs_decision"),
    "a capture ends doubt": ([OVERDUE, IN_DOUBT, NEEDS_DECISION], CAPTURED, [RECORD], "settling"),
    "a late capture of what never failed here is recorded": ([OVERDUE], LATE, [RECORD], "settling"),
    "the decline before it is stale then": ([OVERDUE, LATE], DECLINED, [], "settling"),
    "a capture after failure is refunded": ([OVERDUE, DECLINED, FAILED], LATE, [REFUND_LATE], "refunding"),
    "rejected money goes back": ([OVERDUE, CAPTURED], REJECTED, [REFUND_REJECTED, TELL_REJECTED], "refunding"),
    "a refund in doubt says nothing until its deadline": (
        [CAPTURED, REJECTED],
        REFUND_IN_DOUBT,
        [],
        "refund_in_doubt",
    ),
    "a refund ends it": ([OVERDUE, CAPTURED, REJECTED, REFUND_IN_DOUBT], REFUNDED, [], "refunded"),
    "a refund that failed is a case": ([OVERDUE, CAPTURED, REJECTED], REFUND_FAILED, [], "refund_in_doubt"),
    "a refund that was asked for is made": ([CAPTURED, PAID], PART_ASKED, [MAKE_PART], "completed"),
    "a refund that was made is recorded": ([CAPTURED, PAID, PART_ASKED], PART_MADE, [RECORD_PART], "completed"),
    "that it was recorded says nothing": ([PART_ASKED, PART_MADE], PART_RECORDED, [], "completed"),
    "one that comes back is recorded as failed": (
        [PART_ASKED, PART_MADE, PART_RECORDED],
        PART_BACK,
        [RECORD_PART_BACK],
        "completed",
    ),
    "that this was recorded says nothing": ([PART_ASKED, PART_MADE, PART_BACK], PART_BACK_RECORDED, [], "completed"),
    "a person closes the case": ([CAPTURED, REJECTED, REFUND_FAILED], REFUND_CLOSED, [], "not_refunded"),
}


async def statuses(environment: Environment, payment_id: UUID | None = None) -> list[str]:
    """Of all sagas, or of that of one payment."""
    query = "SELECT status FROM sagas WHERE $1::uuid IS NULL OR payment_id = $1"
    return [row["status"] for row in await rows(environment.databases["saga"], query, payment_id)]


async def test_a_message_publishes_exactly_these_messages(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    """Each story is that of another payment."""
    leaving = await upstream.tap("settlement.commands")
    async with environment.running("saga", assemble):
        for number, (name, (given, when, then, status)) in enumerate(STORIES.items()):
            this: dict[str, Any] = {"invoice_id": f"INV-{number}", "payment_id": UUID(int=number)}
            for message in given:
                await handled({await upstream.send(message.model_copy(update=this))})
            await leaving.waiting()
            to = "saga.events" if when is REQUESTED else None  # no exchange of ours gives it to the saga any more
            id_ = await upstream.send(when.model_copy(update=this), correlationid="flow-1", queue=to)
            await handled({id_})
            received = await leaving.waiting()
            assert contents(received) == [message.model_copy(update=this) for message in then], name
            assert [one.id for one in received] == [str(derived_id(id_, nth)) for nth in range(len(then))], name
            assert causes(received) <= {(id_, "flow-1")}, name
            assert await statuses(environment, this["payment_id"]) == [status], name
    assert await upstream.depth("dead-letters") == 0


async def test_the_advice_of_a_failure_is_kept_until_the_invoice_has_recorded_it(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    async with environment.running("saga", assemble):
        await handled({await upstream.send(DECLINED)})
    found = await rows(environment.databases["saga"], "SELECT failure_reason, failure_advice FROM sagas")
    assert [dict(row) for row in found] == [{"failure_reason": "do_not_honor", "failure_advice": "try_again_later"}]


async def test_every_transition_is_in_the_journal_with_its_cause(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    async with environment.running("saga", assemble):
        ids = []
        for message in (OVERDUE, IN_DOUBT, CAPTURED, PAID, PAID):
            ids.append(await upstream.send(message, correlationid="flow-1"))
            await handled({ids[-1]})
    journal = await rows(
        environment.databases["saga"],
        """SELECT version, from_status, to_status, fact, cause_id, correlation_id FROM transitions ORDER BY version""",
    )
    assert [tuple(row.values()) for row in journal] == [
        (1, "absent", "awaiting_outcome", "PaymentRequested", ids[0], "flow-1"),
        (2, "awaiting_outcome", "in_doubt", "InDoubt", ids[1], "flow-1"),
        (3, "in_doubt", "settling", "Captured", ids[2], "flow-1"),
        (4, "settling", "completed", "Paid", ids[3], "flow-1"),
    ]


async def test_duplicates_publish_nothing_whatever_their_id(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    leaving = await upstream.tap("settlement.commands")
    async with environment.running("saga", assemble):
        same = uuid4()
        for id_ in (same, same, uuid4(), uuid4()):
            await upstream.send(CAPTURED, message_id=id_)
        last = await upstream.send(OVERDUE)
        await handled({same, last})
        received = await leaving.waiting()
    assert contents(received) == [RECORD]
    assert await statuses(environment) == ["settling"]


async def test_a_capture_taken_for_the_first_fact_still_ends_a_known_saga(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    """The first fact that this instance receives is a capture, but another instance, or an earlier batch, already watches the payment. Then
    the guess that the saga is new cannot be stored."""
    leaving = await upstream.tap("settlement.commands")
    other = CAPTURED.model_copy(update={"payment_id": UUID(int=9), "invoice_id": "INV-9"})
    async with environment.running("saga", assemble):
        await handled({await upstream.send(message) for message in (OVERDUE, IN_DOUBT)})
    async with environment.running("saga", assemble):
        await handled({await upstream.send(message) for message in (CAPTURED, other)})
        received = await leaving.waiting()
    assert sorted(one.type for one in received) == [FLAG.wire_name, RECORD.wire_name, RECORD.wire_name]
    assert await statuses(environment) == ["settling"] * 2
    versions = await rows(environment.databases["saga"], "SELECT version FROM sagas ORDER BY version")
    assert [row["version"] for row in versions] == [1, 3]


async def test_two_instances_make_one_transition_a_version(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    payments = [uuid4() for _ in range(30)]
    sent: set[UUID] = set()
    arrivals = [
        message.model_copy(update={"payment_id": payment, "invoice_id": f"INV-{number}"})
        for number, payment in enumerate(payments)
        for message in (OVERDUE, IN_DOUBT, NEEDS_DECISION, CAPTURED, CAPTURED)
    ]
    Random(11).shuffle(arrivals)
    leaving = await upstream.tap("settlement.commands", RECORD.wire_name)
    async with environment.running("saga", assemble), environment.running("saga", assemble):
        for message in arrivals:
            sent.add(await upstream.send(message))
        await handled(sent)
        received = await leaving.waiting()
    commands = {
        one.id: one.data["payment_id"] for one in received
    }  # one that came twice, by both instances, has one id
    assert sorted(commands.values()) == sorted(map(str, payments))
    assert await statuses(environment) == ["settling"] * len(payments)
    gaps = await rows(
        environment.databases["saga"],
        """SELECT payment_id FROM transitions JOIN sagas USING (payment_id)
           GROUP BY payment_id, sagas.version HAVING count(*) <> sagas.version OR max(transitions.version) <> sagas.version""",
    )
    assert gaps == []


async def test_a_message_that_is_no_fact_is_dead_lettered_and_others_are_handled(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    stray = invoice_messages.InvoiceVoided(invoice_id="INV-1", reason="not for the saga")
    async with environment.running("saga", assemble):
        channel = upstream._channel.default_exchange
        body = (await _as_sent(upstream, stray)).message
        await channel.publish(body, routing_key="saga.events")
        await handled({await upstream.send(OVERDUE)})
        dead = await (await upstream.queue("dead-letters")).next()
    assert dead.message.headers["x-remit-queue"] == "saga.events"
    assert await statuses(environment) == ["awaiting_outcome"]


async def _as_sent(upstream: UpstreamClient, message: Contract) -> Received:
    tap = await upstream.tap(message.exchange, message.wire_name)
    await upstream.send(message)
    return await tap.next()
