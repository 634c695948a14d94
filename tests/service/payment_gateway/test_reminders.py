"""A payment that waits for a person, or for its refund, is announced again and again."""

from services.payment_gateway.domain import GatewayStep
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, decision, kind, requested, to_refund
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.upstream_client import Received, Subscription, UpstreamClient


async def test_a_case_that_waits_for_a_person_is_asked_about_and_announced_again(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start(ladder_s=(0.05,), remind_s=0.2):
        await upstream.send(asking)
        _, needs, again = await cases.take(3)
        assert kind(needs.type) == "PaymentNeedsDecision"
        assert (again.id, again.message.body) == (needs.id, needs.message.body)
        gateway.always(GatewayStep.INQUIRE, None)  # the gateway answers again, so nobody need decide
        await payments.until(asking.payment_id, "captured")


async def test_a_late_capture_is_announced_again_until_it_is_refunded(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The saga has ended in failure and asks no more: if the announcement were lost, the money would stay taken."""
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(0.05,), remind_s=0.2):
        await upstream.send(asking)
        needs = await payments.until(asking.payment_id, "needs_decision")
        await upstream.send(decision(asking.payment_id, "not_charged", needs["version"]))
        lost = await payments.until(asking.payment_id, "captured")
        late, again, and_again = await _heard(events, 3, "PaymentCaptured")
        assert late.data["late"]
        assert {(received.id, received.message.body) for received in (again, and_again)} == {
            (late.id, late.message.body)
        }
        assert (late.data["version"], lost["due_at"] is not None) == (lost["version"], True)
        await upstream.send(to_refund(asking.payment_id))
        await _heard(events, 1, "PaymentRefunded")
    refunded = await payments.row(asking.payment_id)
    assert (refunded["status"], refunded["due_at"]) == ("refunded", None), "no further announcement is due"


async def _heard(tap: Subscription, count: int, wanted: str) -> list[Received]:
    """The next messages of this type, among others."""
    found: list[Received] = []
    while len(found) < count:
        received = await tap.next()
        found += [received] if kind(received.type) == wanted else []
    return found
