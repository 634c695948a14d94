"""One list of scenarios against two servers: `localstripe`, which others wrote, and our sandbox.

What holds on both shows that the sandbox agrees with others' understanding of Stripe. localstripe lacks some features, which are tested on
the sandbox alone (tests/service/test_sandbox.py): idempotency keys (a key sent twice acts twice), the `created` window of lists (400),
cards without a CVC (400), 402 for a decline (it answers 200 with the declined payment), and the refusal of a second refund.
"""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest

from deploy.sandbox.server import Sandbox
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.choose import open_gateway
from services.payment_gateway.gateways.port import Gateway

TIMEOUT_S = 15.0  # the first request waits in the listener's backlog until localstripe is up

LOCALSTRIPE = """
import socket, sys
from aiohttp import web
from localstripe import resources

resources.Store.dump_to_disk = lambda store: None  # it would write one fixed path that all runs share

create = resources.PaymentIntent._api_create.__func__

def create_for_cards(cls, allowed_payment_method_types=None, **data):  # a parameter of 2026, younger than localstripe
    return create(cls, **data)

confirm = resources.PaymentIntent._api_confirm.__func__

def confirm_alone(cls, id, off_session=None, mandate=None, **data):  # it knows no customer who has gone, and asks nobody
    return confirm(cls, id, **data)

resources.PaymentIntent._api_create = classmethod(create_for_cards)
resources.PaymentIntent._api_confirm = classmethod(confirm_alone)
at = "/v1/payment_intents/{id}/confirm"
resources.extra_apis[:] = [(m, p, resources.PaymentIntent._api_confirm if p == at else api) for m, p, api in resources.extra_apis]

from localstripe import server  # it takes the routes as they are now

web.run_app(server.app, sock=socket.socket(fileno=int(sys.argv[1])), print=None)
"""

ORDER = port.Order(UUID(int=1), "inv-1", 1250, "EUR", "pm_card_visa")


@dataclass(frozen=True)
class ForeignGateway:
    """A server to test against: its address, and a token for which the customer must act."""

    url: str
    action_token: str


@pytest.fixture(scope="module")
def localstripe() -> Iterator[str]:
    """Runs localstripe. Its socket listens before it starts, so that nobody has to poll, and no other process can take the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.set_inheritable(True)
        number = listener.fileno()
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", LOCALSTRIPE, str(number)],
            pass_fds=[number],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield address
    finally:
        child.kill()
        child.wait()


@pytest.fixture(params=[pytest.param("localstripe", marks=pytest.mark.foreign), "sandbox"])
async def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ForeignGateway]:
    if request.param == "localstripe":
        url = request.getfixturevalue("localstripe")
        yield ForeignGateway(url, await _card_that_asks(url))
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
    opened = open_gateway(foreign.url, api_key="sk_test_1", timeout_s=TIMEOUT_S, connections=4)
    yield opened
    await opened.close()


async def prepared(gateway: Gateway, method: str = "pm_card_visa") -> str:
    answer = await gateway.prepare(replace(ORDER, method_token=method), key="prepare")
    assert isinstance(answer, port.Prepared), answer
    return answer.gateway_id


async def captured(gateway: Gateway) -> port.Captured:
    answer = await gateway.execute(await prepared(gateway), key="execute")
    assert isinstance(answer, port.Captured), answer
    return answer


async def test_a_prepared_payment_is_unconfirmed_until_it_is_executed(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway)
    assert isinstance(await gateway.inquire(gateway_id), port.Unconfirmed)
    answer = await gateway.execute(gateway_id, key="execute")
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
    second = await gateway.execute(first.gateway_id, key="execute again")
    assert isinstance(second, port.Captured)
    assert second.receipt_number == first.receipt_number


async def test_a_declined_payment_is_declined_until_it_is_cancelled(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway, "pm_card_chargeCustomerFail")
    assert isinstance(await gateway.execute(gateway_id, key="execute"), port.Declined)
    assert isinstance(await gateway.inquire(gateway_id), port.Declined)
    assert isinstance(await gateway.cancel(gateway_id, key="cancel"), port.Cancelled)
    assert isinstance(await gateway.inquire(gateway_id), port.Cancelled)


async def test_a_cancelled_payment_cannot_be_charged_any_more(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway)
    assert isinstance(await gateway.cancel(gateway_id, key="cancel"), port.Cancelled)
    assert isinstance(await gateway.execute(gateway_id, key="execute"), port.Cancelled)
    assert isinstance(await gateway.cancel(gateway_id, key="cancel again"), port.Cancelled)


async def test_cancelling_a_succeeded_payment_gives_captured(gateway: Gateway) -> None:
    told = await captured(gateway)
    answer = await gateway.cancel(told.gateway_id, key="cancel")
    assert isinstance(answer, port.Captured)
    assert answer.receipt_number == told.receipt_number


async def test_a_payment_that_asks_the_customer_to_act_can_be_cancelled(
    gateway: Gateway, foreign: ForeignGateway
) -> None:
    gateway_id = await prepared(gateway, foreign.action_token)
    assert isinstance(await gateway.execute(gateway_id, key="execute"), port.ActionRequired)
    assert isinstance(await gateway.inquire(gateway_id), port.ActionRequired)
    assert isinstance(await gateway.cancel(gateway_id, key="cancel"), port.Cancelled)


async def test_a_refund_gives_the_whole_amount_back(gateway: Gateway) -> None:
    told = await captured(gateway)
    assert isinstance(await gateway.inquire_refund(told.gateway_id), port.NoRefund)
    refund = await gateway.refund(told.gateway_id, key="refund")
    assert isinstance(refund, port.Refunded)
    known = await gateway.inquire_refund(told.gateway_id)
    assert isinstance(known, port.Refunded)
    assert known.refund_id == refund.refund_id


async def test_a_payment_that_was_never_charged_is_not_refunded(gateway: Gateway) -> None:
    gateway_id = await prepared(gateway, "pm_card_chargeCustomerFail")
    await gateway.execute(gateway_id, key="execute")
    assert isinstance(await gateway.inquire_refund(gateway_id), port.NoRefund)
    assert isinstance(await gateway.refund(gateway_id, key="refund"), port.RefundFailed)


async def test_an_unknown_payment_is_not_found(gateway: Gateway) -> None:
    answers = [
        await gateway.inquire("pi_unknown"),
        await gateway.execute("pi_unknown", key="execute"),
        await gateway.cancel("pi_unknown", key="cancel"),
        await gateway.refund("pi_unknown", key="refund"),
        await gateway.inquire_refund("pi_unknown"),
    ]
    assert {type(answer) for answer in answers} == {port.NotFound}


@pytest.mark.parametrize("order", [replace(ORDER, method_token="pm_unknown"), replace(ORDER, amount_minor=0)])
async def test_an_order_that_can_never_be_charged_is_refused(gateway: Gateway, order: port.Order) -> None:
    assert isinstance(await gateway.prepare(order, key="prepare"), port.Refused)


async def test_a_wrong_api_key_sends_nothing(foreign: ForeignGateway) -> None:
    gateway = open_gateway(foreign.url, api_key="rk_test_nothing", timeout_s=TIMEOUT_S, connections=1)
    assert isinstance(await gateway.prepare(ORDER, key="prepare"), port.Misconfigured)
    assert isinstance(await gateway.check(), port.Misconfigured)
    await gateway.close()


async def test_a_check_changes_nothing(gateway: Gateway) -> None:
    assert await gateway.check() == port.Usable()
    told = await captured(gateway)
    assert await gateway.check() == port.Usable()
    assert isinstance(await gateway.inquire_refund(told.gateway_id), port.NoRefund)
