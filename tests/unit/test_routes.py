"""What is known about routes that refuse, and which messages are tried there."""

from collections.abc import Sequence
from uuid import uuid4

import pytest

from shared.messaging import routes as routing
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published
from shared.messaging.routes import SILENT, Routes


def to(address: str) -> Outgoing:
    return Outgoing(uuid4(), "", address, "t", "c", b"{}", droppable=True)


class RouteClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> RouteClock:
    return RouteClock()


@pytest.fixture
def routes(clock: RouteClock) -> Routes:
    return Routes(clock)


def tried(routes: Routes, *addresses: str) -> tuple[list[str], list[str], list[str]]:
    """The addresses of messages that are tried together, that are tried alone, and of the rest."""
    together, alone, rest = routes.to_try([to(address) for address in addresses])
    return names(together), names(alone), names(rest)


def names(messages: Sequence[Outgoing]) -> list[str]:
    return [message.routing_key for message in messages]


def learn(routes: Routes, *addresses: str, fate: str) -> None:
    messages = [to(address) for address in addresses]
    routes.learn(messages, Published(**{fate: [message.id for message in messages]}))


def test_one_message_is_tried_at_a_full_queue(routes: Routes) -> None:
    learn(routes, "full", fate="refused")
    assert tried(routes, "full", "full", "other", "full", "other") == (["full", "other", "other"], [], ["full", "full"])
    assert (routes.refuses(to("full")), routes.refuses(to("other"))) == (True, False)
    learn(routes, "full", fate="confirmed")
    assert tried(routes, "full", "full") == (["full", "full"], [], [])


@pytest.mark.parametrize("fate", ["unroutable", "unencodable"])
def test_a_queue_that_is_gone_refuses_nothing(routes: Routes, fate: str) -> None:
    learn(routes, "full", fate="refused")
    learn(routes, "full", fate=fate)
    assert not routes.refuses(to("full"))


@pytest.mark.parametrize("fate", ["failed", "poison"])
def test_nothing_is_learnt_from_an_outage_or_from_one_message(routes: Routes, fate: str) -> None:
    learn(routes, "full", fate="refused")
    learn(routes, "full", "other", fate=fate)
    assert (routes.refuses(to("full")), routes.refuses(to("other"))) == (True, False)


def test_routes_under_suspicion_are_tried_alone_before_those_that_were_silent(
    routes: Routes, clock: RouteClock
) -> None:
    learn(routes, "silent", fate="silent")
    learn(routes, "a", "b", fate="unclear")
    clock.now = SILENT.delay_s(0)
    assert tried(routes, "silent", "a", "a", "b") == ([], ["a", "b", "silent"], ["a"])
    assert [routes.has_refused(to(address)) for address in ("silent", "a", "b")] == [True, False, False]
    learn(routes, "a", fate="confirmed")
    assert tried(routes, "a", "b") == (["a"], ["b"], [])


def test_a_silent_queue_is_tried_ever_more_rarely(routes: Routes, clock: RouteClock) -> None:
    for silences in range(5):
        learn(routes, "silent", "silent", fate="silent")
        assert tried(routes, "silent") == ([], [], ["silent"])
        clock.now += SILENT.delay_s(silences)
        assert tried(routes, "silent", "silent") == ([], ["silent"], ["silent"])
    learn(routes, "silent", fate="refused")
    assert tried(routes, "silent") == (["silent"], [], []), "it says no: that costs nobody any time"


def test_the_oldest_refusal_is_forgotten_when_there_are_too_many(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "ROUTES_MAX", 2)
    learn(routes, "a", "b", "c", fate="refused")
    assert [routes.refuses(to(address)) for address in "abc"] == [False, True, True]
