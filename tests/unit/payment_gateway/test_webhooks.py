"""The endpoint of webhooks: what it does with an event while others come, and what it answers if it cannot look now."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast
from uuid import UUID

import pytest
from aiohttp import web
from stripe import WebhookSignature

from services.payment_gateway import store, webhooks
from services.payment_gateway.charging import Charging
from services.payment_gateway.gateways import port
from services.payment_gateway.settings import WebhookSettings
from services.payment_gateway.store import RowState
from services.payment_gateway.webhooks import LOOKS_AT_ONCE, TIMEOUT_S, Webhooks
from shared.persistence.database import Database
from tests.support.virtual_time import run_in_virtual_time

SECRET = "whsec_test"
ID = UUID(int=1)
T = TypeVar("T")


async def our_own(gateway_id: str) -> port.MadeFor | port.NoAnswer:
    return port.MadeFor(ID)


class HookedService:
    """The endpoint's gateway, its database, and whoever looks for due rows. `done` is what it did, in order."""

    def __init__(self, owner: Callable[[str], Awaitable[port.MadeFor | port.NoAnswer]] = our_own) -> None:
        self.owner = owner
        self.gateway = self
        self.done: list[str] = []

    def wake(self) -> None:
        self.done.append("woken")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield
        self.done.append("stored")

    def endpoint(self) -> Webhooks:
        return Webhooks(
            WebhookSettings("127.0.0.1", 0, (SECRET,)), cast(Charging, self), cast(Database, self), livemode=False
        )


class Event:
    """A request with an event about a refund, as Stripe signs it."""

    def __init__(self) -> None:
        event = {"type": "refund.updated", "livemode": False}
        event |= {"data": {"object": {"object": "refund", "id": "re_1", "payment_intent": "pi_1"}}}
        self.body = json.dumps(event).encode()
        signature = WebhookSignature.generate_signature_header(self.body.decode(), SECRET)
        self.headers: Mapping[str, str] = {"Stripe-Signature": signature}

    async def read(self) -> bytes:
        return self.body


class SlowEvent(Event):
    """Its body never comes."""

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError


async def answered(endpoint: Webhooks, event: Event) -> tuple[int, str]:
    answer = await endpoint._receive(cast(web.Request, event))
    return answer.status, str(answer.text).strip()


def in_time(work: Callable[[], Awaitable[T]]) -> T:
    """What comes of it, with a deadline far beyond every wait of the endpoint."""

    async def bounded() -> T:
        async with asyncio.timeout(100 * TIMEOUT_S):
            return await work()

    return run_in_virtual_time(bounded())


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The payment is in doubt, and nobody holds it."""

    async def state_of(*_: Any) -> RowState:
        return RowState("in_doubt", is_held=False)

    async def hurry(*_: Any) -> None:
        """The row is due now."""

    monkeypatch.setattr(store, "state_of", state_of)
    monkeypatch.setattr(store, "hurry", hurry)


def test_a_look_begins_as_soon_as_it_is_stored() -> None:
    service = HookedService()
    assert in_time(lambda: answered(service.endpoint(), Event())) == (200, "looked")
    assert service.done == ["stored", "woken"]


def test_an_event_that_was_handled_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "AT_WORK_MAX", 1)
    endpoint = HookedService().endpoint()
    for _ in range(3):
        assert in_time(lambda: answered(endpoint, Event())) == (200, "looked")


def test_whoever_sends_an_event_slowly_is_not_waited_for() -> None:
    async def sent() -> tuple[tuple[int, str], float]:
        answer = await answered(HookedService().endpoint(), SlowEvent())
        return answer, asyncio.get_running_loop().time()

    answer, took_s = in_time(sent)
    assert answer == (400, "forged"), "nobody signed what is there"
    assert took_s == pytest.approx(TIMEOUT_S)


def test_events_leave_connections_for_payments() -> None:
    at_the_gateway = 0
    answers = asyncio.Event()

    async def owner(_: str) -> port.MadeFor | port.NoAnswer:
        nonlocal at_the_gateway
        at_the_gateway += 1
        await answers.wait()
        return port.MadeFor(ID)

    async def sent() -> tuple[int, int]:
        endpoint = HookedService(owner).endpoint()
        events = [asyncio.create_task(answered(endpoint, Event())) for _ in range(LOOKS_AT_ONCE + 2)]
        await asyncio.sleep(TIMEOUT_S / 2)
        at_once = at_the_gateway
        answers.set()
        return at_once, sum(status == 200 for status, _ in await asyncio.gather(*events))

    assert in_time(sent) == (LOOKS_AT_ONCE, LOOKS_AT_ONCE + 2)


def test_an_event_of_which_the_gateway_does_not_say_whose_it_is_comes_again() -> None:
    async def owner(_: str) -> port.MadeFor | port.NoAnswer:
        return port.NotSent("the gateway is away")

    service = HookedService(owner)
    assert in_time(lambda: answered(service.endpoint(), Event())) == (503, "away")
    assert service.done == []
