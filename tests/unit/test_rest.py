"""How long the public lane rests after the broker took long."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from shared.messaging.publisher import Published
from shared.messaging.rest import LONG_S, LONGEST_S, SHARE, Rest

ONE = UUID(int=1)


class RestClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> RestClock:
    return RestClock()


@pytest.fixture
def rest(clock: RestClock) -> Rest:
    return Rest(clock)


def took(seconds: float, **fates: list[UUID]) -> Published:
    published = Published(**(fates or {"confirmed": [ONE]}))
    published.slowest_s = seconds
    return published


def lengths(rest: Rest, clock: RestClock, *results: Published) -> Iterator[float]:
    """How long each of these results makes it rest."""
    for published in results:
        begun = clock.now
        rest.after(published)
        while rest.is_on:
            clock.now += 1.0
        yield clock.now - begun


def test_it_rests_ever_longer_while_copies_take_long(rest: Rest, clock: RestClock) -> None:
    assert list(lengths(rest, clock, *[took(LONG_S)] * 9)) == [4, 8, 16, 32, 64, 128, 256, 256, 256]


def test_it_rests_several_times_as_long_as_the_broker_took(rest: Rest, clock: RestClock) -> None:
    assert list(lengths(rest, clock, took(10.0), took(1_000.0))) == [SHARE * 10, LONGEST_S]


def test_copies_that_leave_soon_end_the_row(rest: Rest, clock: RestClock) -> None:
    nothing_tried = took(0.0, refused=[ONE])
    results = [took(LONG_S), took(LONG_S), nothing_tried, took(LONG_S), took(0.1), took(LONG_S)]
    assert list(lengths(rest, clock, *results)) == [4, 8, 0, 16, 0, 4]


@pytest.mark.parametrize(
    ("fates", "seconds"),
    [({"failed": [ONE]}, 0), ({"failed": [ONE], "silent": [ONE]}, 4), ({"failed": [ONE], "unclear": [ONE]}, 4)],
    ids=["outage", "silent", "unclear"],
)
def test_an_outage_shows_nothing(rest: Rest, clock: RestClock, fates: dict[str, list[UUID]], seconds: int) -> None:
    assert list(lengths(rest, clock, took(LONG_S, **fates))) == [seconds]
