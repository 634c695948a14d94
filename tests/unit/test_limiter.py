"""How often something may be tried."""

import pytest

from shared.web.limiter import KEYS_MAX, Limiter, network_of
from tests.support.desk_browser import DeskClock


def test_a_burst_then_one_after_the_other() -> None:
    clock = DeskClock()
    limiter = Limiter(burst=3, every_s=10, clock=clock)
    assert [limiter.wait_s("ann") for _ in range(5)] == [0, 0, 0, 10, 10]
    assert limiter.wait_s("ben") == 0
    clock.forward(seconds=4)
    assert limiter.wait_s("ann") == 6
    clock.forward(seconds=6)
    assert [limiter.wait_s("ann"), limiter.wait_s("ann")] == [0, 10]
    clock.forward(seconds=1000)
    assert [limiter.wait_s("ann") for _ in range(4)] == [0, 0, 0, 10]


def test_to_ask_how_long_is_no_try() -> None:
    clock = DeskClock()
    limiter = Limiter(burst=2, every_s=10, clock=clock)
    assert [limiter.left_wait_s("ann") for _ in range(5)] == [0] * 5
    assert [limiter.wait_s("ann"), limiter.wait_s("ann"), limiter.left_wait_s("ann"), limiter.wait_s("ann")] == [
        0,
        0,
        10,
        10,
    ]
    clock.forward(seconds=4)
    assert limiter.left_wait_s("ann") == 6
    clock.forward(seconds=6)
    assert [limiter.left_wait_s("ann"), limiter.wait_s("ann"), limiter.left_wait_s("ann")] == [0, 0, 10]
    clock.forward(days=-3)
    assert limiter.left_wait_s("ann") == 10


def test_who_is_let_go_may_try_again() -> None:
    limiter = Limiter(burst=1, every_s=60, clock=DeskClock())
    assert [limiter.wait_s("ann"), limiter.wait_s("ann")] == [0, 60]
    limiter.forget("ann")
    assert limiter.wait_s("ann") == 0


def test_a_clock_that_jumps_back_locks_nobody_out() -> None:
    clock = DeskClock()
    limiter = Limiter(burst=2, every_s=10, clock=clock)
    assert [limiter.wait_s("ann") for _ in range(2)] == [0, 0]
    clock.forward(days=-3)
    assert 0 < limiter.wait_s("ann") <= 10


def test_so_many_are_remembered() -> None:
    limiter = Limiter(burst=1, every_s=60, clock=DeskClock())
    for number in range(KEYS_MAX + 1):
        limiter.wait_s(str(number))
    assert limiter.wait_s("0") == 0
    assert limiter.wait_s(str(KEYS_MAX)) == 60


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_tries_are_counted_by_what_somebody_has_one_of(address: str, counted: str) -> None:
    assert network_of(address) == counted
