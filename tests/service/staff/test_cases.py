"""Payments in doubt over the real broker and database: what is known about them, and what people decide."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Any, TypedDict
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.staff import actions, store
from services.staff.__main__ import assemble
from services.staff.actions import ActionRefusal, KeptCase
from services.staff.domain import Case, CaseStatus, DecisionRefusal
from shared.contracts import payment_gateway as messages
from shared.messaging.topology import CASE
from shared.persistence.database import Database
from shared.records import replace
from tests.support.databases import rows
from tests.support.environment import Environment
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


async def tell(upstream: UpstreamClient, data: messages.PaymentEvent, **extensions: Any) -> UUID:
    """Publish as the payment gateway service does: an outcome that ends a case has a suffix in its routing key."""
    ends_a_case = isinstance(data, messages.PaymentCaptured | messages.PaymentNotCharged)
    return await upstream.send(data, routing_suffix=CASE if ends_a_case else "", **extensions)


async def case_when(database: Database, about: About, status: CaseStatus, version: int | None = None) -> KeptCase:
    async def there() -> KeptCase | None:
        found = await actions.show_case(database, about["payment_id"])
        if found is None or found[0].case.status is not status or version not in {None, found[0].case.version}:
            return None
        return found[0]

    kept = await until(there, what=f"the case {status}")
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
        "who": "ann",
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
    case = (await actions.list_cases(database, at_most=10))[0].case
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
    assert await actions.list_cases(database, at_most=10) == []
    assert len(await actions.list_cases(database, open_only=False, at_most=10)) == 1


async def test_a_healthy_payment_is_no_case(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    healthy = captured(about)
    async with environment.running("staff", assemble):
        await upstream.send(healthy)
        await tell(upstream, needs_decision({"invoice_id": "INV-2", "payment_id": uuid4()}))

        async def one_case() -> bool:
            return len(await actions.list_cases(database, open_only=False, at_most=10)) == 1

        await until(one_case, what="the case of the other payment")
    assert await actions.show_case(database, about["payment_id"]) is None


async def test_a_decision_leaves_as_an_ordinary_command(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about), correlationid="C-7")
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        result = await actions.resolve(database, **decision(about))
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
            actions.resolve(database, **decision(about, who="ann")),
            actions.resolve(database, **decision(about, who="bea", resolution="not_charged", receipt_number=None)),
        )
        await said.next()
    (won,) = (result for result in both if result.ok)
    (lost,) = (result for result in both if not result.ok)
    assert lost.refusal is DecisionRefusal.DECISION_ON_ITS_WAY
    assert lost.text.endswith("it is on its way")
    assert await said.waiting() == []
    assert [entry["id"] for entry in await rows(environment.databases["staff"], "SELECT id FROM journal")] == [
        won.entry
    ]


async def test_a_decision_that_lost_to_the_gateway_is_shown_on_the_case(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        await actions.resolve(database, **decision(about))
        command = await said.next()
        refused = messages.PaymentResolutionRefused(
            **about, version=5, reason="version_differs", state="in_doubt", decided_by="ann", resolution="captured"
        )
        await tell(upstream, refused, causationid=command.id)

        async def told() -> bool:
            found = await actions.show_case(database, about["payment_id"])
            return found is not None and bool(found[0].case.refusals)

        await until(told, what="the refusal on the case")
        again = await actions.resolve(database, **decision(about, who="bea"))
    assert again.ok


INVALID: list[tuple[dict[str, Any], ActionRefusal | DecisionRefusal, str]] = [
    (
        {"expected_version": 3},
        DecisionRefusal.VERSION_DIFFERS,
        "it stands at version 4 (needs decision), not 3: look again",
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
    ({"who": ""}, ActionRefusal.INVALID, "the name of who acts must not be empty"),
    ({"evidence": f"card {CARD}"}, ActionRefusal.CARD_DATA, "the evidence holds card data: leave it out"),
    ({"payment_id": UUID(int=0)}, ActionRefusal.UNKNOWN, "there is no case of this payment"),
]
"""What of a decision is changed, how it is refused, and what is said about it."""


async def test_an_invalid_decision_leaves_no_trace(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    async with environment.running("staff", assemble):
        await tell(upstream, needs_decision(about))
        await case_when(database, about, CaseStatus.NEEDS_DECISION)
        for changes, refusal, words in INVALID:
            result = await actions.resolve(database, **decision(about, **changes))
            assert (result.refusal, result.text) == (refusal, words), changes
    for table in ("journal", "outbox"):
        assert await rows(environment.databases["staff"], f"SELECT * FROM {table}") == []


async def test_a_failed_refund_can_be_closed_without_a_refund(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, refund_failed(about, 8))
        await case_when(database, about, CaseStatus.REFUND_FAILED)
        wanted = decision(about, 8, resolution="not_refunded", receipt_number=None)
        assert (await actions.resolve(database, **wanted)).ok
        assert (await said.next()).data["resolution"] == "not_refunded"
        await tell(upstream, refund_failed(about, 9, decided_by="ann"))
        ended = await case_when(database, about, CaseStatus.NOT_REFUNDED)
    assert (ended.case.decided_by, ended.case.is_open) == ("ann", False)


async def test_only_a_payment_with_a_case_is_asked_about(
    environment: Environment, upstream: UpstreamClient, database: Database, about: About
) -> None:
    said = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await tell(upstream, in_doubt(about))
        await case_when(database, about, CaseStatus.IN_DOUBT)
        asked = await actions.ask(database, about["payment_id"], who="ann")
        question = await said.next()
    assert (question.type, question.data["payment_id"]) == (messages.InquirePayment.wire_name, str(about["payment_id"]))
    assert question.event["causationid"] == str(asked.entry)
    assert (await actions.ask(database, uuid4(), who="ann")).refusal is ActionRefusal.UNKNOWN


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
    found = await actions.show_case(database, case.payment_id)
    assert found is not None
    assert (found[0].case.version, found[0].correlation_id) == (4, "theirs")
