"""A fair loop: work on many messages leaves the event loop its turns, and no body costs much, whatever is in it."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from shared.batch.turns import TURN_S, in_turns
from shared.messaging.codec import BODY_BYTES_MAX, STRUCTURED, decode
from tests.support.yardstick import slowness

WITHIN_S = 0.0075
"""On the machine of the yardstick, where the dearest of these bodies takes 3.5 ms. Quadratic work takes seconds."""
TRIES_MAX = 20
"""How often a body is measured, until it is fast enough once: the core may be busy with others."""

PIECES = (
    *(
        "1",
        "4 ",
        "4-",
        "0.",
        "4242 ",
        "42424242 ",
        "4242424242424241 x ",
        "4 4 4 4 4 4 4 4 4 4 4 x ",
        "(4242)4242 4242 4242",
    ),
    *("order 4242424242424242 ", "visa 4242424242424242 ", "4000000000000exp 12/26 ", "ORD-4242424242424242 "),
    *(
        "GB82 WEST 1234 5698 7654 32 ",
        "NO9386011117947 ",
        "12:34:56.123456+00:00 ",
        "0123456789abcdef ",
        "9999999999999999999,",
    ),
    *(
        "\\u200b",
        "\\u0034",
        "\\ud83d",
        "\\u0000",
        "\\",
        '\\"',
        "\\n",
        "&",
        "&#52;",
        "&nbsp;",
        "%34",
        "%2534",
        "NDI0",
        "MzQ0",
        "3432",
    ),
    *("\u200b", "4\u200b", "\uff14", "a\u00e9", "\U000e0020", "\x01", "\x7f"),
    *('"cvv":', "cvv ", "cv", "cvv2 code", "card security code ", "pin: ", "track2=;", "value ", "payment ", "verif"),
    *('"', '""', "{", "[", "]", "[]", '{"a":', "1,", "null,", '"",', '{"a":1},', "0.4242424242424242,", "1e5,"),
)


def bodies() -> Iterator[tuple[str, bytes]]:
    """64 KiB of a piece: alone, in a string, and as members and lists of JSON that is read to its end."""
    for piece in PIECES:
        raw = piece.encode()
        repeated = raw * (BODY_BYTES_MAX // len(raw))
        yield f"{piece!r}", repeated
        yield f"string of {piece!r}", b'{"data":"' + repeated[: BODY_BYTES_MAX - 11] + b'"}'
    for item in (
        "1",
        '"a"',
        "1.5",
        "{}",
        "[]",
        '{"a":1}',
        '{"cvv":1}',
        '"4242424242424241"',
        "4242424242424241",
        "[[[[[[]]]]]]",
    ):
        count = (BODY_BYTES_MAX - 20) // (len(item) + 1)
        yield f"list of {item}", b"[" + b",".join([item.encode()] * count) + b"]"
        yield f"list with an escape and {item}", b'["\\u0041",' + b",".join([item.encode()] * count) + b"]"
    for member in (
        '"m%d":1',
        '"cvv%d":123',
        '"card%d":"4242424242424241"',
        '"\\u0061%d":"\\n"',
        '"m%d":{"a":{"b":[1]}}',
    ):
        members, size = list[str](), 0
        while size < BODY_BYTES_MAX - 60:
            members.append(member % len(members))
            size += len(members[-1]) + 1
        yield f"members like {member}", ("{" + ",".join(members) + "}").encode()


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in bodies()])
def test_no_body_of_64_kib_costs_much(body: bytes) -> None:
    assert len(body) <= BODY_BYTES_MAX
    fastest_s = float("inf")
    for _ in range(TRIES_MAX):
        started = time.thread_time()
        decode(body, content_type=STRUCTURED)
        fastest_s = min(fastest_s, (time.thread_time() - started) / slowness())
        if fastest_s < WITHIN_S:
            return
    pytest.fail(f"it took {fastest_s * 1_000:.1f} ms of the quick machine")


class SteppedClock:
    """A clock that the work itself moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_the_event_loop_has_its_turn_after_a_moment_of_work() -> None:
    clock = SteppedClock()
    turns: list[float] = []

    async def other() -> None:
        while True:
            turns.append(clock.now_s)
            await asyncio.sleep(0)

    def work(number: int) -> int:
        clock.now_s += TURN_S if number % 4 == 3 else 0.0
        return -number

    waiting = asyncio.create_task(other())
    assert await in_turns(work, range(12), clock=clock) == [-number for number in range(12)]
    waiting.cancel()
    assert turns == pytest.approx([TURN_S, 2 * TURN_S, 3 * TURN_S])


async def test_a_usual_batch_is_done_in_one_turn() -> None:
    clock = SteppedClock()
    turns: list[str] = []
    asyncio.get_running_loop().call_soon(turns.append, "another")
    assert await in_turns(str, range(200), clock=clock) == [str(number) for number in range(200)]
    assert turns == []
