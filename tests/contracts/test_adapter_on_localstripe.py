"""One list of scenarios against three servers: `localstripe`, which others wrote, our sandbox, and Stripe itself in test mode.

Stripe is asked if STRIPE_TEST_KEY has a key of its test mode (`sk_test_...`); no money moves there. What holds on all shows that the
sandbox agrees with Stripe, and with others' understanding of it. localstripe lacks some features, which are tested without it:
idempotency keys (a key sent twice acts twice), the `created` window of lists (400), cards without a CVC (400), customers who are not there
(`off_session`), minimum amounts, 402 for a decline (it answers 200 with the declined payment), and the refusal of a second refund.
"""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from deploy.sandbox.server import Sandbox
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.choose import open_gateway
from services.payment_gateway.gateways.port import Gateway
from tests.support.localstripe import running_localstripe
from tests.support.waiting import until

TIMEOUT_S = 15.0  # the first request waits in the listener's backlog until localstripe is up
LATER_S = 60.0
"""Within this time Stripe's test mode does what its test cards do later."""

ORDER = port.Order(UUID(int=1), "inv-1", 1250, "EUR", "pm_card_visa")
REFUND = port.RefundOrder(uuid4(), ORDER.payment_id, ORDER.amount_minor, ORDER.currency)


@dataclass(frozen=True)
class ForeignGateway:
    """A server to test against: its address, its key, a token for which the customer must act, and whether it is as strict as Stripe."""

    url: str
    action_token: str
    key: str = "sk_test_1"
    restricted_key: str = "rk_test_intents_readrefunds"
    strict: bool = True

    @property
    def is_stripe(self) -> bool:
        return self.url.endswith(".stripe.com")

    async def post(self, path: str, **data: str) -> dict[str, Any]:
        """What our service never does: what upstream's own systems do at the gateway."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(self.url + path, data=data) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            assert answer.status == 200, found
            return found


@pytest.fixture(scope="module")
def localstripe() -> Iterator[str]:
    with running_localstripe() as url:
        yield url


@pytest.fixture(params=[pytest.param("localstripe", marks=pytest.mark.foreign), "sandbox", "stripe"])
async def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ForeignGateway]:
    if request.param == "localstripe":
        url = request.getfixturevalue("localstripe")
        yield ForeignGateway(url, await _card_that_asks(url), strict=False)
    elif request.param == "stripe":
        key = os.environ.get("STRIPE_TEST_KEY", "")
        if not key:
            pytest.skip(
                "STRIPE_TEST_KEY is not set: with a key of Stripe's test mode, this case is tried at Stripe itself"
            )
        yield ForeignGateway("https://api.stripe.com", "", key, os.environ.get("STRIPE_RESTRICTED_TEST_KEY", ""))
    else:
        async with Sandbox(tmp_path / "ledger.sqlite") as sandbox:
            yield ForeignGateway(sandbox.url, "pm_remit_action_required")


async def _card_that_asks(url: str) -> str:
    """A card for which the customer must act. localstripe takes cards only with a CVC, which our adapter never sends."""
    card = {"card[number]": "4000002500003155", "card[exp_month]": 12, "card[exp_year]": 2030, "card[cvc]": "123"}
    headers = {"Authorization": "Bearer sk_test_1"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/payment_methods", data={"type": "card"} | card) as answer,
    ):
        token: str = (await answer.json())["id"]
        return token


@pytest.fixture
async def gateway(foreign: ForeignGateway) -> AsyncIterator[Gateway]:
    opened = open_gateway(foreign.url, api_key=foreign.key, timeout_s=TIMEOUT_S, connections=4)
    yield opened
    await opened.close()


@pytest.fixture
def strict(foreign: ForeignGateway) -> ForeignGateway:
    if not foreign.strict:
        pytest.skip("localstripe does not know this rule")
    return foreign


def a_key() -> str:
    """A key that was never used: Stripe remembers those of earlier runs."""
    return str(uuid4())


async def prepared(gateway: Gateway, method: str = "pm_card_visa") -> str:
    answer = await gateway.prepare(replace(ORDER, method_token=method), key=a_key())
    assert isinstance(answer, port.Prepared), answer
    return answer.gateway_id


async def captured(gateway: Gateway, method: str = "pm_card_visa") -> port.Captured:
    answer = await gateway.execute(await prepared(gateway, method), key=a_key())
    assert isinstance(answer, port.Captured), answer
    return answer


async def test_a_prepared_payment_is_unconfirmed_until_it_is_executed(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway)
    assert isinstance(await gateway.inquire(gateway_id), port.Unconfirmed)
    answer = await gateway.execute(gateway_id, key=a_key())
    assert isinstance(answer, port.Captured)
    assert (answer.gateway_id, answer.amount_minor, answer.currency) == (gateway_id, 1250, "EUR")
    assert answer.receipt_number.startswith("ch_")


async def test_inquiring_gives_the_result_of_executing(gateway: Gateway) -> None:
    told = await captured(gateway)
    again = await gateway.inquire(told.gateway_id)
    assert isinstance(again, port.Captured)
    assert replace(again, evidence="") == replace(told, evidence="")


async def test_confirmed_twice_is_charged_once(gateway: Gateway) -> None:
    first = await captured(gateway)
    second = await gateway.execute(first.gateway_id, key=a_key())
    assert isinstance(second, port.Captured)
    assert second.receipt_number == first.receipt_number


async def test_a_declined_payment_is_declined_until_it_is_cancelled(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway, "pm_card_chargeCustomerFail")
    assert isinstance(await gateway.execute(gateway_id, key=a_key()), port.Declined)
    assert isinstance(await gateway.inquire(gateway_id), port.Declined)
    assert isinstance(await gateway.cancel(gateway_id, key=a_key()), port.Cancelled)
    assert isinstance(await gateway.inquire(gateway_id), port.Cancelled)


async def test_a_cancelled_payment_cannot_be_charged_any_more(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway)
    assert isinstance(await gateway.cancel(gateway_id, key=a_key()), port.Cancelled)
    assert isinstance(await gateway.execute(gateway_id, key=a_key()), port.Cancelled)
    assert isinstance(await gateway.cancel(gateway_id, key=a_key()), port.Cancelled)


async def test_cancelling_a_succeeded_payment_gives_captured(gateway: Gateway) -> None:
    told = await captured(gateway)
    answer = await gateway.cancel(told.gateway_id, key=a_key())
    assert isinstance(answer, port.Captured)
    assert answer.receipt_number == told.receipt_number


async def test_a_payment_that_asks_the_customer_to_act_can_be_cancelled(
    gateway: Gateway, foreign: ForeignGateway
) -> None:
    if not foreign.action_token:
        pytest.skip("Stripe has no token for which the customer must act although nobody is there: it declines")
    gateway_id = await prepared(gateway, foreign.action_token)
    assert isinstance(await gateway.execute(gateway_id, key=a_key()), port.ActionRequired)
    assert isinstance(await gateway.inquire(gateway_id), port.ActionRequired)
    assert isinstance(await gateway.cancel(gateway_id, key=a_key()), port.Cancelled)


async def test_a_part_is_given_back_and_the_rest_is_left(gateway: Gateway) -> None:
    told = await captured(gateway)
    part = replace(REFUND, amount_minor=100)
    assert isinstance(await gateway.refund(told.gateway_id, part, key=a_key()), port.Refunded)
    assert isinstance(await gateway.inquire_refund(told.gateway_id, part.refund_id), port.Refunded)
    other = await gateway.inquire_refund(told.gateway_id, uuid4())
    assert isinstance(other, port.NoRefund)
    assert other.left_minor == ORDER.amount_minor - 100


async def test_a_refund_gives_the_whole_amount_back(gateway: Gateway) -> None:
    told = await captured(gateway)
    assert isinstance(await gateway.inquire_refund(told.gateway_id, REFUND.refund_id), port.NoRefund)
    refund = await gateway.refund(told.gateway_id, REFUND, key=a_key())
    assert isinstance(refund, port.Refunded)
    known = await gateway.inquire_refund(told.gateway_id, REFUND.refund_id)
    assert isinstance(known, port.Refunded)
    assert known.refund_id == refund.refund_id


async def test_a_payment_that_was_never_charged_is_not_refunded(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway, "pm_card_chargeCustomerFail")
    await gateway.execute(gateway_id, key=a_key())
    assert isinstance(await gateway.inquire_refund(gateway_id, REFUND.refund_id), port.NoRefund)
    assert isinstance(await gateway.refund(gateway_id, REFUND, key=a_key()), port.RefundFailed)


async def test_an_unknown_payment_is_not_found(gateway: Gateway) -> None:
    answers = [
        await gateway.inquire("pi_unknown"),
        await gateway.execute("pi_unknown", key=a_key()),
        await gateway.cancel("pi_unknown", key=a_key()),
        await gateway.refund("pi_unknown", REFUND, key=a_key()),
        await gateway.inquire_refund("pi_unknown", REFUND.refund_id),
    ]
    assert {type(answer) for answer in answers} == {port.NotFound}


@pytest.mark.parametrize("order", [replace(ORDER, method_token="pm_unknown"), replace(ORDER, amount_minor=0)])
async def test_an_order_that_can_never_be_charged_is_refused(gateway: Gateway, order: port.Order) -> None:
    assert isinstance(await gateway.prepare(order, key=a_key()), port.Refused)


async def test_a_wrong_api_key_sends_nothing(foreign: ForeignGateway) -> None:
    gateway = open_gateway(foreign.url, api_key="rk_test_nothing", timeout_s=TIMEOUT_S, connections=1)
    assert isinstance(await gateway.prepare(ORDER, key=a_key()), port.Misconfigured)
    assert isinstance(await gateway.check(), port.Misconfigured)
    await gateway.close()


async def test_a_check_changes_nothing(gateway: Gateway) -> None:
    assert await gateway.check() == port.Usable()
    told = await captured(gateway)
    assert await gateway.check() == port.Usable()
    assert isinstance(await gateway.inquire_refund(told.gateway_id, REFUND.refund_id), port.NoRefund)


# -- rules of Stripe that localstripe does not know


@pytest.mark.usefixtures("strict")
async def test_authentication_that_the_bank_wants_is_a_reason_of_its_own(gateway: Gateway) -> None:
    answer = await gateway.execute(await prepared(gateway, "pm_card_authenticationRequired"), key=a_key())
    assert isinstance(answer, port.Declined), answer
    assert answer.code == "authentication_required"


async def test_a_saved_card_is_charged_with_its_customer_and_never_without(
    gateway: Gateway, strict: ForeignGateway
) -> None:
    customer = (await strict.post("/v1/customers"))["id"]
    token = (await strict.post("/v1/payment_methods/pm_card_visa/attach", customer=customer))["id"]
    order = replace(ORDER, method_token=token)
    assert isinstance(await gateway.prepare(order, key=a_key()), port.Refused)
    other = (await strict.post("/v1/customers"))["id"]
    of_another = replace(order, details=port.ChargeDetails(customer=other))
    assert isinstance(await gateway.prepare(of_another, key=a_key()), port.Refused)
    for _ in range(2):  # unlike a card that is not saved, it can be charged often
        answer = await gateway.prepare(replace(order, details=port.ChargeDetails(customer=customer)), key=a_key())
        assert isinstance(answer, port.Prepared), answer
        assert isinstance(await gateway.execute(answer.gateway_id, key=a_key()), port.Captured)


@pytest.mark.usefixtures("strict")
async def test_texts_of_the_sender_are_taken(gateway: Gateway) -> None:
    texts = port.ChargeDetails(
        description="Hosting in May", statement_descriptor="HOSTING 05", metadata=(("contract", "C-7"),)
    )
    answer = await gateway.prepare(replace(ORDER, details=texts), key=a_key())
    assert isinstance(answer, port.Prepared), answer


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("amount_minor", "currency", "code"),
    [(49, "EUR", "amount_too_small"), (100_000_000, "EUR", "amount_too_large"), (49, "JPY", "amount_too_small")],
)
async def test_an_amount_out_of_bounds_is_refused(
    gateway: Gateway, amount_minor: int, currency: str, code: str
) -> None:
    answer = await gateway.prepare(replace(ORDER, amount_minor=amount_minor, currency=currency), key=a_key())
    assert isinstance(answer, port.Refused), answer
    assert answer.code == code


@pytest.mark.usefixtures("strict")
async def test_a_currency_without_decimals_is_counted_as_stripe_does(gateway: Gateway) -> None:
    answer = await gateway.prepare(replace(ORDER, amount_minor=5_000, currency="ISK"), key=a_key())
    assert isinstance(answer, port.Prepared), answer
    told = await gateway.execute(answer.gateway_id, key=a_key())
    assert isinstance(told, port.Captured), told
    assert (told.amount_minor, told.currency) == (5_000, "ISK")


async def test_a_payment_of_a_saved_card_is_found_by_our_id(gateway: Gateway, strict: ForeignGateway) -> None:
    """By the list of its customer, which is never outdated. A search is tried at the sandbox only, since its index lags at Stripe."""
    customer = (await strict.post("/v1/customers"))["id"]
    token = (await strict.post("/v1/payment_methods/pm_card_visa/attach", customer=customer))["id"]
    order = replace(ORDER, payment_id=uuid4(), method_token=token, details=port.ChargeDetails(customer=customer))
    sought = port.Sought(order.payment_id, order.amount_minor, order.currency, customer)
    assert isinstance(await gateway.find(sought), port.NotFound)
    answer = await gateway.prepare(order, key=a_key())
    assert isinstance(answer, port.Prepared), answer
    found = await gateway.find(sought)
    assert isinstance(found, port.Found), found
    assert found.gateway_id == answer.gateway_id


async def test_a_card_in_the_clear_is_exchanged_for_a_token_that_can_be_charged(
    gateway: Gateway, strict: ForeignGateway
) -> None:
    answer = await gateway.tokenise(port.Card("4242424242424242", 12, 2040, "A. Holder", "10115"), key=a_key())
    if strict.is_stripe and isinstance(answer, port.Refused | port.Misconfigured):
        pytest.skip("this account of Stripe may not send card numbers")
    assert isinstance(answer, port.Tokenised), answer
    assert "4242424242424242" not in answer.evidence
    await captured(gateway, answer.method_token)


@pytest.mark.usefixtures("strict")
async def test_a_dispute_is_seen_by_a_look(gateway: Gateway) -> None:
    told = await captured(gateway, "pm_card_createDispute")

    async def disputed() -> port.Captured | None:
        seen = await gateway.inquire(told.gateway_id)
        return seen if isinstance(seen, port.Captured) and seen.disputed else None

    seen = await until(disputed, within_s=LATER_S, what="the dispute")
    assert seen is not None
    assert seen.is_contested
    assert seen.dispute is not None
    assert (seen.dispute.amount_minor, seen.dispute.currency) == (ORDER.amount_minor, ORDER.currency)


@pytest.mark.usefixtures("strict")
async def test_a_refund_that_fails_later_is_seen_by_a_look_and_the_money_is_there_again(gateway: Gateway) -> None:
    told = await captured(gateway, "pm_card_refundFail")
    assert isinstance(await gateway.refund(told.gateway_id, REFUND, key=a_key()), port.Refunded)

    async def failed() -> port.RefundFailed | None:
        seen = await gateway.inquire_refund(told.gateway_id, REFUND.refund_id)
        return seen if isinstance(seen, port.RefundFailed) else None

    seen = await until(failed, within_s=LATER_S, what="the failure")
    assert seen is not None
    assert seen.left_minor == ORDER.amount_minor


@pytest.mark.usefixtures("strict")
async def test_a_refund_that_takes_its_time_is_pending_until_it_is_made(gateway: Gateway) -> None:
    told = await captured(gateway, "pm_card_pendingRefund")
    assert isinstance(await gateway.refund(told.gateway_id, REFUND, key=a_key()), port.RefundPending)

    async def made() -> bool:
        return isinstance(await gateway.inquire_refund(told.gateway_id, REFUND.refund_id), port.Refunded)

    await until(made, within_s=LATER_S, what="the refund")


async def test_a_restricted_key_does_what_it_may_and_no_payment_suffers_from_the_rest(
    gateway: Gateway, strict: ForeignGateway
) -> None:
    """What the key may not do is the operator's to mend: it is no refusal, and nothing was given back."""
    if not strict.restricted_key:
        pytest.skip("STRIPE_RESTRICTED_TEST_KEY is not set: a key that may write payments and only read refunds")
    restricted = open_gateway(strict.url, api_key=strict.restricted_key, timeout_s=TIMEOUT_S, connections=1)
    try:
        told = await captured(restricted)
        refused = await restricted.refund(told.gateway_id, REFUND, key=a_key())
        assert isinstance(refused, port.Misconfigured), refused
        assert isinstance(await restricted.inquire_refund(told.gateway_id, REFUND.refund_id), port.NoRefund)
    finally:
        await restricted.close()
    assert isinstance(await gateway.refund(told.gateway_id, REFUND, key=a_key()), port.Refunded)


async def test_the_gateway_says_for_which_payment_of_ours_a_payment_was_made(gateway: Gateway) -> None:
    assert await gateway.owner(await prepared(gateway)) == port.MadeFor(ORDER.payment_id)
    assert isinstance(await gateway.owner("pi_of_nobody"), port.NotFound)
