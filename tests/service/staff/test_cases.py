"""Payments in doubt over the real broker and database: what is known about them, and what people decide."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.staff import store
from services.staff.__main__ import assemble
from services.staff.actions import payments as payment_actions
from services.staff.actions.results import ActionRefusal
from services.staff.decisions import DecisionRepeater
from services.staff.domain import (
    DECIDE_ANEW_AFTER,
    REPEAT_AFTER,
    Case,
    CaseStatus,
    DecisionRefusal,
    DecisionRefused,
    GatewaySide,
)
from services.staff.people import at_terminal
from services.staff.store import KeptCase
from shared.amqp.broker_link import BrokerLink
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as messages
from shared.ids import derived_id
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.messaging.topology import CASE
from shared.persistence.database import Database
from shared.persistence.outbox import OutboxBatch
from shared.records import replace
from tests.service.staff.conftest import Passing
from tests.support.databases import execute, outbox_is_empty, rows
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, keep_case, tell_case
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CARD = "4242424242424242"


class About(TypedDict):
    invoice_id: str
    payment_id: UUID


@pytest.fixture
def about() -> About:
    return {"invoice_id": "INV-1", "payment_id": uuid4()}


def attempt(evidence: str) -> messages.Attempt:
    return messages.Attempt(at=NOW, step="inquire", answer="unknown", evidence=evidence)


def in_doubt(about: About, version: int = 3) -> messages.PaymentInDoubt:
    return messages.PaymentInDoubt(
        **about,
        version=version,
        amount_minor=1_250,
        currency="EUR",
        reason="no_readable_answer",
        attempts=(attempt("1"),),
    )


def needs_decision(about: About, version: int = 4) -> messages.PaymentNeedsDecision:
    return messages.PaymentNeedsDecision(
        **about,
        version=version,
        amount_minor=1_250,
        currency="EUR",
        reason="unknown_to_gateway",
        gateway_id="pi_1",
        attempts=(attempt("1"), attempt("2")),
    )


def captured(about: About, version: int = 5) -> messages.PaymentCaptured:
    return messages.PaymentCaptured(
        **about, version=version, amount_minor=1_250, currency="EUR", receipt_number="R-1", decided_by="ann"
    )


def refund_failed(about: About, version: int, decided_by: str | None = None) -> messages.PaymentRefundFailed:
    return messages.PaymentRefundFailed(
        **about, version=version, amount_minor=1_250, currency="EUR", reason="expired_card", decided_by=decided_by
    )


def inquired(about: About, version: int, number: int, answer: str) -> messages.PaymentInquired:
    return messages.PaymentInquired(
        **about,
        version=version,
        amount_minor=1_250,
        currency="EUR",
        reason="capture_differs",
        attempts=(messages.Attempt(at=NOW, step="inquire", answer=answer, evidence="HTTP 200"),),
        gateway=messages.GatewaySide(answer="captured", captured_minor=900, refunded_minor=0, currency="EUR"),
        state="captured",
        number=number,
    )


async def tell(upstream: UpstreamClient, data: messages.PaymentEvent, **extensions: Any) -> UUID:
    """Publish as the payment gateway service does: an outcome that ends a case has a suffix in its routing key."""
    ends_a_case = isinstance(data, messages.PaymentCaptured | messages.PaymentNotCharged | messages.PaymentInquired)
    return await upstream.send(data, routing_suffix=CASE if ends_a_case else "", **extensions)


async def case_when(database: Database, about: About, status: CaseStatus, version: int | None = None) -> KeptCase:
    async def there() -> KeptCase | None:
        found = await payment_actions.show_case(database, about["payment_id"])
        if found is None or found[0].case.status is not status or version not in {None, found[0].case.version}:
            return None
        return found[0]

    kept = await until(there, what=f"the case {status}")
    assert kept is not None
    return kept


async def until_answered(database: Database, about: About, answer: str) -> KeptCase:
    """The case once the gateway's last answer on it is this one."""

    async def there() -> KeptCase | None:
        found = await payment_actions.show_case(database, about["payment_id"])
        is_last = found is not None and found[0].case.attempts and found[0].case.attempts[-1].answer == answer
        return found[0] if found is not None and is_last else None

    kept = await until(there, what=f"the answer {answer}")
    assert kept is not None
    return kept


def decision(about: About, version: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "payment_id": about["payment_id"],
        "resolution": "captured",
        "expected_version": version,
        "receipt_number": "R-1",
        "evidence": "the gateway's page shows it captured",
        "reason": "the customer was charged",
        "who": at_terminal("ann"),
    } | changes


async def test_messages_in_any_order_and_twice_make_one_case(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    told = [in_doubt(about), needs_decision(about), refund_failed(about, 7), captured(about, 5)] * 2
    random.Random(7).shuffle(told)
    async with environment.running("staff", assemble):
        for data in told:
            await tell(upstream, data)
        kept = await case_when(database, about, CaseStatus.REFUND_FAILED, 7)

        async def all_taken() -> bool:
            return len(await rows(environment.databases["staff"], "SELECT 1 FROM inbox")) == len(told)

        await until(all_taken, what="all messages")
    case = (await payment_actions.list_cases(database, at_most=10))[0].case
    assert (case.version, case.amount_minor, case.currency, case.gateway_id) == (7, 1_250, "EUR", "pi_1")
    assert kept.case.is_open
    assert await upstream.depth("dead-letters") == 0


async def test_a_case_ends_with_its_outcome(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        case = (await case_when(database, about, CaseStatus.NEEDS_DECISION)).case
        assert [one.evidence for one in case.attempts] == ["1", "2"]
        assert case.attempts[0].at == NOW
        await tell(upstream, captured(about))
        ended = (await case_when(database, about, CaseStatus.CAPTURED)).case
    assert (ended.decided_by, ended.is_open) == ("ann", False)
    assert await payment_actions.list_cases(database, at_most=10) == []
    assert len(await payment_actions.list_cases(database, open_only=False, at_most=10)) == 1


async def test_a_healthy_payment_is_no_case(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    healthy = captured(about)
    async with environment.running("staff", assemble):
        await upstream.send(healthy)
        await tell(upstream, needs_decision({"invoice_id": "INV-2", "payment_id": uuid4()}))

        async def one_case() -> bool:
            return len(await payment_actions.list_cases(database, open_only=False, at_most=10)) == 1

        await until(one_case, what="the case of the other payment")
    assert await payment_actions.show_case(database, about["payment_id"]) is None


async def test_a_decision_leaves_as_an_ordinary_command(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about), correlationid="C-7")
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        result = await payment_actions.resolve(database, **decision(about))
        command = await said.next()
    assert result.ok, result.text
    assert command.type == messages.ResolvePayment.wire_name
    (chained,) = await rows(environment.databases["staff"], "SELECT position, hash FROM journal")
    assert command.data == {
        "invoice_id": "INV-1",
        "payment_id": str(about["payment_id"]),
        "resolution": "captured",
        "expected_version": 4,
        "evidence": "the gateway's page shows it captured",
        "decided_by": "ann",
        "reason": "the customer was charged",
        "receipt_number": "R-1",
        "journal_head": f"1:{chained['hash'].hex()}",
    }
    assert (command.event["causationid"], command.event["correlationid"]) == (str(result.entry), "C-7")
    assert command.event["source"] == "/remit/staff"
    (entry,) = await rows(environment.databases["staff"], "SELECT id, who, action, subject, details FROM journal")
    assert (entry["id"], entry["who"], entry["action"], entry["subject"]) == (
        result.entry,
        "ann",
        "resolve",
        about["payment_id"],
    )
    assert entry["details"]["evidence"] == "the gateway's page shows it captured"


async def test_one_of_two_people_who_decide_is_told(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        both = await asyncio.gather(
            payment_actions.resolve(database, **decision(about, who=at_terminal("ann"))),
            payment_actions.resolve(
                database, **decision(about, who=at_terminal("bea"), resolution="not_charged", receipt_number=None)
            ),
        )
        await said.next()
    (won,) = (result for result in both if result.ok)
    (lost,) = (result for result in both if not result.ok)
    assert lost.refusal is DecisionRefusal.DECISION_ON_ITS_WAY
    assert lost.text.endswith("without an effect, it can be decided anew 5 minutes after that")
    assert await said.waiting() == []
    assert [
        entry["id"]
        for entry in await rows(environment.databases["staff"], "SELECT id FROM journal WHERE action = 'resolve'")
    ] == [won.entry]
    assert await refusals(environment) == [("resolve", "decision_on_its_way")]


SENT_AT = "UPDATE cases SET details = jsonb_set(details, '{decision,at}', to_jsonb($1::text))"


async def test_a_decision_that_was_lost_is_said_again_and_can_be_made_anew(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    """It left for the gateway service, which knows nothing of it: a fail-over, or a purged queue. Time is injected."""
    said, url = await upstream.tap("settlement.commands"), environment.databases["staff"]
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
    decided = await payment_actions.resolve(database, **decision(about), clock=lambda: NOW)
    waiting = await payment_actions.show_case(database, about["payment_id"])
    assert waiting is not None
    assert payment_actions.decision_text(waiting[0], NOW) == (
        "ann decided captured at 2026-11-22 12:00:00 UTC: it waits for the staff service, which sends it"
    )
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test"))
    relay = Relay(database, publisher)
    try:
        repeater = DecisionRepeater(database, relay, lambda: NOW)
        assert await repeater.repeat(NOW + timedelta(hours=1)) == 0, "what waits in the outbox is not repeated"
        async with environment.running("staff", assemble):
            first = await said.next()
            await outbox_is_empty(url)
        assert await repeater.repeat(NOW + timedelta(seconds=59)) == 0
        assert await repeater.repeat(NOW + REPEAT_AFTER) == 1
        again, question = await said.take(2)
        await relay.keeper.delete_confirmed()
        assert await repeater.repeat(NOW + REPEAT_AFTER) == 0
        await execute(url, SENT_AT, "soon")
        assert await repeater.repeat(NOW + timedelta(hours=1)) == 0, "what this build cannot read holds up no other"
        await execute(url, SENT_AT, NOW.isoformat())
    finally:
        await publisher.close()
    assert (again.id, again.message.body) == (first.id, first.message.body)
    assert question.type == messages.InquirePayment.wire_name
    assert question.event["causationid"] == str(decided.entry)
    shown = await payment_actions.show_case(database, about["payment_id"])
    assert shown is not None
    assert str(payment_actions.decision_text(shown[0], NOW)).endswith("it is on its way, sent 2 times")
    late = payment_actions.decision_text(shown[0], NOW + DECIDE_ANEW_AFTER)
    assert str(late).endswith("sent 2 times; it has no effect yet, and may be made anew")
    other = decision(about, who=at_terminal("bea"), resolution="not_charged", receipt_number=None)
    early = await payment_actions.resolve(database, **other, clock=lambda: NOW + timedelta(minutes=4))
    assert early.refusal is DecisionRefusal.DECISION_ON_ITS_WAY
    assert (await payment_actions.resolve(database, **other, clock=lambda: NOW + DECIDE_ANEW_AFTER)).ok


class RepeatingRelay:
    """Stands in for the relay: it notes what it is to publish."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> None:
        self.ids += (message.id for batch in outbox_batches for message in batch.messages)


async def test_only_the_last_decision_is_said_again_and_none_that_was_refused(
    environment: Environment, database: Database, passing: Passing
) -> None:
    payment_id, url, decided = await keep_case(database, LIMIT), environment.databases["staff"], []
    for minutes, receipt_number in ((0, "R-1"), (5, None)):
        passing.pass_(minutes=minutes)
        result = await payment_actions.resolve(
            database,
            payment_id,
            resolution="captured" if receipt_number else "not_charged",
            receipt_number=receipt_number,
            expected_version=4,
            evidence="a statement",
            reason="none",
            who=at_terminal("ann"),
            clock=passing,
        )
        assert result.entry is not None, result.text
        decided.append(derived_id(result.entry, 0))
    await execute(url, "DELETE FROM outbox")  # both have left
    relay = RepeatingRelay()
    repeater = DecisionRepeater(database, cast(Relay, relay), passing)
    assert await repeater.repeat(passing.now + timedelta(hours=1)) == 1
    assert (relay.ids[0], len(relay.ids)) == (decided[-1], 2), "it, and the question what became of it"
    await execute(url, "DELETE FROM outbox")
    refused = DecisionRefused(uuid4(), 4, "needs_decision", "does_not_fit", "ann", "not_charged", decided[-1])
    await tell_case(database, payment_id, refused)
    assert await repeater.repeat(passing.now + timedelta(days=30)) == 0


async def test_a_decision_that_lost_to_the_gateway_is_shown_on_the_case(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        await payment_actions.resolve(database, **decision(about))
        command = await said.next()
        refused = messages.PaymentResolutionRefused(
            **about, version=5, reason="version_differs", state="in_doubt", decided_by="ann", resolution="captured"
        )
        await tell(upstream, refused, causationid=command.id)

        async def told() -> bool:
            found = await payment_actions.show_case(database, about["payment_id"])
            return found is not None and bool(found[0].case.refusals)

        await until(told, what="the refusal on the case")
        again = await payment_actions.resolve(database, **decision(about, who=at_terminal("bea")))
    assert again.ok


INVALID: list[tuple[dict[str, Any], ActionRefusal | DecisionRefusal, str]] = [
    (
        {"expected_version": 3},
        DecisionRefusal.VERSION_DIFFERS,
        "it changed since you looked: it stands at version 4 (needs decision), not 3; look again",
    ),
    (
        {"resolution": "refunded"},
        DecisionRefusal.DOES_NOT_FIT,
        "its state is needs decision: it can be decided as captured or not charged",
    ),
    (
        {"receipt_number": None},
        DecisionRefusal.RECEIPT_NUMBER_REQUIRED,
        "a captured payment needs the gateway's receipt number",
    ),
    ({"evidence": " "}, ActionRefusal.INVALID, "the evidence must not be empty"),
    ({"reason": ""}, ActionRefusal.INVALID, "the reason must not be empty"),
    ({"who": at_terminal("")}, ActionRefusal.INVALID, "the name of who acts must not be empty"),
    ({"evidence": f"card {CARD}"}, ActionRefusal.CARD_DATA, "the evidence holds card data: leave it out"),
    ({"payment_id": UUID(int=0)}, ActionRefusal.UNKNOWN, "there is no case of this payment"),
]
"""What of a decision is changed, how it is refused, and what is said about it."""


async def refusals(environment: Environment) -> list[tuple[str, str]]:
    """What the journal says of acts that were refused: the action and the code, and no text of the act."""
    entries = await rows(
        environment.databases["staff"], "SELECT details FROM journal WHERE action = 'refused' ORDER BY position"
    )
    assert all(set(entry["details"]) == {"action", "code", "via"} for entry in entries)
    return [(entry["details"]["action"], entry["details"]["code"]) for entry in entries]


async def test_an_invalid_decision_leaves_no_trace(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        for changes, refusal, words in INVALID:
            result = await payment_actions.resolve(database, **decision(about, **changes))
            assert (result.refusal, result.text) == (refusal, words), changes
    assert await rows(environment.databases["staff"], "SELECT * FROM outbox") == []
    noted = [refusal.value for changes, refusal, _ in INVALID if "who" not in changes]
    assert await refusals(environment) == [("resolve", code) for code in noted], "a name that is not fit is not stored"


async def test_a_failed_refund_can_be_closed_without_a_refund(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, refund_failed(about, 8))
        await case_when(database, about, CaseStatus.REFUND_FAILED)
        wanted = decision(about, 8, resolution="not_refunded", receipt_number=None)
        assert (await payment_actions.resolve(database, **wanted)).ok
        assert (await said.next()).data["resolution"] == "not_refunded"
        await tell(upstream, refund_failed(about, 9, decided_by="ann"))
        ended = await case_when(database, about, CaseStatus.NOT_REFUNDED)
    assert (ended.case.decided_by, ended.case.is_open) == ("ann", False)


async def test_a_refund_is_asked_for_and_what_becomes_of_it_shows(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    money: dict[str, Any] = {"amount_minor": 250, "currency": "EUR"}
    refund: dict[str, Any] = {**about, "refund_id": uuid4()}
    wanted: dict[str, Any] = {"refund_id": refund["refund_id"], "amount_minor": 250, "reason": "damaged"}
    wanted["who"] = at_terminal("ann")
    unknown = await payment_actions.refund(database, about["payment_id"], **wanted)
    assert unknown.refusal is ActionRefusal.UNKNOWN, "without a case nobody knows which invoice it paid"
    leaky = await payment_actions.refund(
        database, about["payment_id"], **wanted, invoice_id="4242424242424242", currency="EUR"
    )
    assert not leaky.ok
    assert await refusals(environment) == [("refund", "unknown"), ("refund", "card_data")]
    async with environment.running("staff", assemble):
        asked = await payment_actions.refund(
            database, about["payment_id"], **wanted, invoice_id="INV-1", currency="EUR"
        )
        command = await said.next()
        for message in (
            invoice_messages.InvoiceRefundRequested(**refund, **money, reason="damaged", requested_by="ann"),
            invoice_messages.InvoiceRefunded(**refund, **money, refunded_minor=250, version=6),
        ):
            await upstream.send(message)
        await tell(upstream, refund_failed(about, 8))
        kept = await case_when(database, about, CaseStatus.REFUND_FAILED)

        async def told() -> bool:
            found = await payment_actions.show_case(database, about["payment_id"])
            return found is not None and [one.version for one in found[0].case.refunds] == [6]

        await until(told, what="the refund")
        again = await payment_actions.resolve(
            database, **decision(about, 8, resolution="refund_again", receipt_number=None)
        )
        retried = await said.next()
    assert command.content == invoice_messages.RequestRefund(**refund, **money, reason="damaged", requested_by="ann")
    assert command.event["causationid"] == str(asked.entry)
    assert kept.case.amount_minor == 1_250, "that of the payment, not of the refund"
    assert (again.ok, retried.data["resolution"]) == (True, "refund_again")
    found = await payment_actions.show_case(database, about["payment_id"])
    assert found is not None
    (shown,) = found[0].case.refunds
    assert (shown.status, shown.amount_minor, shown.reason, shown.requested_by) == ("refunded", 250, "damaged", "ann")
    assert [entry.action for entry in found[1] if entry.action != "refused"] == ["refund", "resolve"]


async def test_a_payment_without_a_case_is_asked_about_only_by_its_invoice(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, in_doubt(about))
        await case_when(database, about, CaseStatus.IN_DOUBT)
        asked = await payment_actions.ask(database, about["payment_id"], who=at_terminal("ann"))
        question = await said.next()
        healthy = uuid4()
        assert (await payment_actions.ask(database, healthy, who=at_terminal("ann"))).refusal is ActionRefusal.UNKNOWN
        assert (await payment_actions.ask(database, healthy, who=at_terminal("ann"), invoice_id="INV-9")).ok
        assert (await said.next()).data["invoice_id"] == "INV-9"
    assert (question.type, question.data["payment_id"]) == (messages.InquirePayment.wire_name, str(about["payment_id"]))
    assert question.event["causationid"] == str(asked.entry)
    assert question.data["look"]


async def test_what_the_gateway_says_last_shows_on_a_case_that_is_open_or_settled(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await tell(upstream, inquired(about, 5, 17, "unknown"))
        await until_answered(database, about, "unknown")
        await tell(upstream, captured(about, 6))
        await tell(upstream, inquired(about, 6, 18, "captured"))
        settled = await until_answered(database, about, "captured")
        await tell(upstream, inquired(about, 6, 16, "processing"))
        await tell(upstream, in_doubt(about, 2))
    assert (settled.case.status, settled.case.inquiry) == (CaseStatus.CAPTURED, 18)
    assert settled.case.gateway == GatewaySide("captured", 900, 0, "EUR")


async def test_a_persons_decision_is_taken_back(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    reopening = decision(about, 6, resolution="reopen", receipt_number=None)
    async with environment.running("staff", assemble):
        await tell(upstream, captured(about, 6))
        await case_when(database, about, CaseStatus.CAPTURED)
        assert (await payment_actions.resolve(database, **reopening)).ok
        sent = await said.next()
        assert (sent.data["resolution"], sent.data["expected_version"]) == ("reopen", 6)
        assert (await payment_actions.resolve(database, **reopening)).refusal is DecisionRefusal.DECISION_ON_ITS_WAY
        await tell(upstream, needs_decision(about, 7))
        reopened = await case_when(database, about, CaseStatus.NEEDS_DECISION)
    assert (reopened.case.version, reopened.case.decided_by) == (7, None)


async def test_a_case_that_another_instance_stored_meanwhile_is_not_overwritten(
    database: Database, about: About
) -> None:
    case = Case(**about, status=CaseStatus.IN_DOUBT, version=3)

    async def slower() -> None:
        async with database.transaction() as tx:
            locked = await store.lock_cases(tx, {case.payment_id})
            async with database.transaction() as other:
                await store.save_cases(other, [(replace(case, version=4), "theirs")], NOW, locked=())
            await store.save_cases(tx, [(case, "ours")], NOW, locked=locked)

    with pytest.raises(asyncpg.UniqueViolationError):
        await slower()
    found = await payment_actions.show_case(database, case.payment_id)
    assert found is not None
    assert (found[0].case.version, found[0].correlation_id) == (4, "theirs")
