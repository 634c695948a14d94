"""What is known about routes that refuse or may be deadly, and which messages are tried there."""

import os
from base64 import b64encode
from collections.abc import Sequence
from uuid import uuid4

import pytest

from shared.messaging import routes as routing
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published
from shared.messaging.reply_address import DIRECT
from shared.messaging.routes import APART_MAX, FAILED, Routes


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
    """The addresses of messages that are tried together, that are tried apart, and of the rest."""
    together, apart, rest = routes.to_try([to(address) for address in addresses], untried=())
    assert all(len(group) == 1 for group in apart)
    return names(together), names([message for group in apart for message in group]), names(rest)


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


def test_routes_under_suspicion_are_tried_apart_before_those_that_were_silent(
    routes: Routes, clock: RouteClock
) -> None:
    learn(routes, "silent", fate="silent")
    learn(routes, "a", "b", fate="unclear")
    clock.now = FAILED.delay_s(0)
    assert tried(routes, "silent", "a", "a", "b") == ([], ["a", "b", "silent"], ["a"])
    assert [routes.has_refused(to(address)) for address in ("silent", "a", "b")] == [True, False, False]
    learn(routes, "a", fate="confirmed")
    assert tried(routes, "a", "b") == (["a"], ["b"], [])


def test_a_silent_queue_is_tried_ever_more_rarely(routes: Routes, clock: RouteClock) -> None:
    for silences in range(5):
        learn(routes, "silent", "silent", fate="silent")
        assert tried(routes, "silent") == ([], [], ["silent"])
        clock.now += FAILED.delay_s(silences)
        assert tried(routes, "silent", "silent") == ([], ["silent"], ["silent"])
    learn(routes, "silent", fate="refused")
    assert tried(routes, "silent") == (["silent"], [], []), "it says no: that costs nobody any time"


@pytest.mark.parametrize("fate", ["refused", "silent"])
def test_what_was_never_tried_is_sent_along_when_it_is_time(routes: Routes, clock: RouteClock, fate: str) -> None:
    """A public copy has several receivers, and perhaps only one of them takes none."""
    learn(routes, "public", fate=fate)
    clock.now += FAILED.delay_s(0)
    first, again, new = (to("public") for _ in range(3))
    together, apart, rest = routes.to_try([first, again, new], untried={new.id})
    assert (together, apart, rest) == (
        ([first, new], [], [again]) if fate == "refused" else ([], [[first, new]], [again])
    )


def direct(node: int) -> str:
    """An address of direct reply-to."""
    name = b"reply@%d" % node
    process_id = b64encode(b"\x83Xw" + bytes([len(name)]) + name + bytes(12)).decode()
    return f"{DIRECT}.{process_id}.{b64encode(os.urandom(16)).decode()}"


@pytest.mark.parametrize("fate", ["confirmed", "unroutable"])
def test_direct_reply_to_is_tried_apart_until_one_address_of_a_node_has_shown_that_it_is_harmless(
    routes: Routes, fate: str
) -> None:
    here, also_here, elsewhere = direct(1), direct(1), direct(2)
    assert routes.refuses(to(here))
    assert tried(routes, here, also_here, elsewhere) == ([], [here, elsewhere], [also_here])
    learn(routes, here, fate=fate)
    assert tried(routes, here, also_here, elsewhere) == ([here, also_here], [elsewhere], [])
    assert not routes.refuses(to(direct(1)))
    learn(routes, also_here, fate="poison")
    assert routes.refuses(to(here)), "the node is gone, say"


def test_an_address_that_the_broker_wrote_needs_no_trial(routes: Routes) -> None:
    routes.trust(direct(1))
    one, unknown, two = direct(1), direct(2), direct(1)
    assert tried(routes, one, unknown, two) == ([one, two], [unknown], [])
    routes.trust("amq.gen-nobody")
    assert routes.refuses(to(direct(3)))


def test_the_address_for_which_most_is_waiting_is_tried_first(routes: Routes) -> None:
    """Of true nodes there are few, and whoever forges addresses has few messages for each."""
    true = [direct(1_000) for _ in range(3)]
    forged = [direct(node) for node in range(2 * APART_MAX)]
    _, apart, rest = routes.to_try([to(address) for address in (*forged, *true)], untried=())
    assert [message.routing_key for message in apart[0]] == true[:1]
    assert (len(apart), len(rest)) == (APART_MAX, len(forged) + len(true) - APART_MAX)


def test_a_true_address_has_refused_nothing_while_forged_ones_are_tried(routes: Routes) -> None:
    """Each sweep brings more fresh forged kinds than are tried at once, and they even come in pairs. The true one has its turn, too."""
    true, forged = to(direct(1_000)), list[Outgoing]()
    for sweep in range(3):
        forged = [to(direct(100 * sweep + node)) for node in range(2 * APART_MAX) for _ in range(2)]
        _, apart, rest = routes.to_try([*forged, true], untried=())
        assert true in rest
        sent = [group[0] for group in apart]
        routes.learn(sent, Published(poison=[message.id for message in sent]))
        assert routes.has_refused(sent[0])
        assert not routes.has_refused(true)
    _, apart, _ = routes.to_try([true, *forged], untried=())
    assert [true] in apart, "the oldest are tried, whoever else waits"


def test_forged_addresses_make_no_room_for_themselves_where_a_true_one_is_used(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later brokers than RabbitMQ 3.10 only drop what goes to an unknown node, so each seems harmless."""
    monkeypatch.setattr(routing, "ROUTES_MAX", 3)
    routes.trust(direct(0))
    for node in range(1, 10):
        learn(routes, direct(node), fate="confirmed")
        assert not routes.refuses(to(direct(0)))


def test_addresses_that_end_the_connection_are_tried_ever_more_rarely(routes: Routes, clock: RouteClock) -> None:
    for losses in range(3):
        one, other = direct(1), direct(1)
        assert tried(routes, one, other) == ([], [one], [other])
        learn(routes, one, fate="poison")
        assert (tried(routes, other), routes.has_refused(to(other))) == (([], [], [other]), True)
        clock.now += FAILED.delay_s(losses)


def test_an_answer_that_was_never_sent_shows_nothing_of_its_address(routes: Routes) -> None:
    learn(routes, one := direct(1), fate="unencodable")
    assert routes.refuses(to(one))


def test_few_routes_are_tried_apart_at_once(routes: Routes) -> None:
    together, apart, rest = tried(routes, *(direct(node) for node in range(2 * APART_MAX)), "other")
    assert (together, len(apart), len(rest)) == (["other"], APART_MAX, APART_MAX)


def test_the_oldest_refusal_is_forgotten_when_there_are_too_many(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "ROUTES_MAX", 2)
    learn(routes, "a", "b", "c", fate="refused")
    assert [routes.refuses(to(address)) for address in "abc"] == [False, True, True]
