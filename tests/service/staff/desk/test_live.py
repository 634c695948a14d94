"""Live numbers: each part is read once a second for all who look, and sent to those to whom it looks different."""

import json
from collections.abc import AsyncIterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from jinja2 import ChoiceLoader, DictLoader
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import StreamingResponse

from services.staff.actions import accounts
from services.staff.desk.frame import ENVIRONMENT, Count, PageFrame, render_part
from services.staff.desk.problems import Refused
from services.staff.desk.routing import Desk, Room, SeenBy
from services.staff.people import Actor, Role, at_terminal
from shared.persistence.database import AWAY_ERRORS
from tests.support.desk_browser import DeskBrowser, DeskUnderTest, open_desk
from tests.support.environment import Environment


class NumberView(BaseModel):
    number: int


class Numbers:
    """A region whose number the test changes, which counts how often it is read."""

    def __init__(self) -> None:
        self.now, self.reads, self.views, self.waiting, self.is_away = 1, 0, 0, 7, False
        self.room = Room("test.numbers")

        @self.room.region("number", "_test_number.html", has_forms=True)
        async def number(key: str, desk: Desk, viewer: Actor) -> NumberView | None:
            self.reads += 1
            if key == "gone":
                raise Refused("unknown", "There is no such number.", 404)
            if key == "broken":
                raise ValueError(key)
            return NumberView(number=self.now)

        def is_ben(number: NumberView, viewer: Actor) -> bool:
            return viewer.name == "ben"

        def seen_by(number: NumberView, viewer: Actor) -> NumberView:
            self.views += 1
            return NumberView(number=number.number + is_ben(number, viewer))

        @self.room.region("own", "_test_number.html", seen=SeenBy(alike=is_ben, view=seen_by))
        async def own(key: str, desk: Desk, viewer: Actor) -> NumberView:
            self.reads += 1
            return NumberView(number=self.now)

        @self.room.region("form", "_test_form.html")
        async def form(key: str, desk: Desk, viewer: Actor) -> NumberView:
            return NumberView(number=self.now)

        @self.room.count("cases")
        async def cases(desk: Desk) -> Count:
            if self.is_away:
                raise OSError("the database is away")
            return Count(self.waiting, "act", "open")


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
async def desk(
    environment: Environment, numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DeskUnderTest]:
    template = "{% if view %}<b>{{ view.number | count }}</b> for {{ frame.account }} at {{ frame.as_of | moment('clock') }}{% endif %}"
    parts = DictLoader({"_test_number.html": template, "_test_form.html": "{{ frame.new_once() }}"})
    monkeypatch.setattr(ENVIRONMENT, "loader", ChoiceLoader([parts, ENVIRONMENT.loader]))  # type: ignore[list-item]
    async with open_desk(environment.databases["staff"], [numbers.room]) as opened:
        yield opened
        await opened.app.state.live.close()


class LiveBrowser:
    """One browser's stream, whose events the test takes one after the other. It starts no rounds of its own."""

    def __init__(self, desk: DeskUnderTest, browser: DeskBrowser, on: str) -> None:
        cookies = "; ".join(f"{one.name}={one.value}" for one in browser.client.cookies.jar)
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/live",
            "query_string": f"on={on}".encode(),
            "headers": [(b"cookie", cookies.encode())],
            "app": desk.app,
        }
        self._request = Request(scope)
        self._live: Any = desk.app.state.live

    async def open(self) -> "LiveBrowser":
        response = await self._live.answer(self._request)
        assert isinstance(response, StreamingResponse)
        events: Any = response.body_iterator
        self.events = events
        first: object = await anext(self.events)
        assert first == "retry: 3000\n\n"
        return self

    async def hear(self) -> tuple[str, dict[str, Any]]:
        name, data = (await anext(self.events)).rstrip().split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def hear_part(self) -> tuple[str, str]:
        """The key and the markup of the next part; other events are passed over."""
        while True:
            name, told = await self.hear()
            if name == "part":
                return told["key"], told["html"]

    async def close(self) -> None:
        await self.events.aclose()


async def listen(desk: DeskUnderTest, name: str, on: str) -> LiveBrowser:
    return await LiveBrowser(desk, await desk.browser(name, Role.VIEWER), on).open()


@pytest.fixture
def quiet(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rounds happen when the test says so."""
    live = desk.app.state.live

    async def nothing() -> None:
        return

    monkeypatch.setattr(live, "_run", nothing)
    return live


async def test_nothing_is_told_to_be_live_while_the_database_is_away(
    desk: DeskUnderTest, numbers: Numbers, quiet: Any
) -> None:
    """Also not to a page without live parts, of which only the menu is live. A page that is opened meanwhile has no counts."""
    ann = await listen(desk, "ann", "")
    numbers.is_away = True
    desk.clock.forward(seconds=1)
    for _ in range(2):  # also within the second in which counts hold
        with pytest.raises(AWAY_ERRORS):
            await quiet.round()
    ben = await listen(desk, "ben", "")
    numbers.is_away = False
    desk.clock.forward(seconds=1)
    await quiet.round()
    for browser in (ann, ben):
        name, told = await browser.hear()
        assert (name, told["counts"]) == ("now", {"cases": ["7", "act", "open"]})
        await browser.close()


async def test_a_part_is_read_once_for_all_and_sent_when_it_changes(
    desk: DeskUnderTest, numbers: Numbers, quiet: Any
) -> None:
    ann, ben = await listen(desk, "ann", "number:x"), await listen(desk, "ben", "number:x,unknown:y")
    await quiet.round()
    assert numbers.reads == 1
    assert await ann.hear() == (
        "part",
        {
            "key": "number:x",
            "html": '<b><span class="number">1</span></b> for ann at <time datetime="2026-11-28T02:14:07Z">02:14:07</time>',
        },
    )
    assert (await ann.hear())[1]["counts"] == {"cases": ["7", "act", "open"]}
    assert "for ben" in (await ben.hear())[1]["html"]
    await ben.hear()
    await quiet.round()
    numbers.now, numbers.waiting = 2, 8
    desk.clock.forward(seconds=5)
    await quiet.round()
    assert numbers.reads == 3
    for one in (ann, ben):
        assert ">2<" in (await one.hear())[1]["html"]
        name, told = await one.hear()
        assert (name, told["clock"], told["counts"]["cases"][0]) == ("now", "02:14:12", "8")
        await one.close()
    await quiet.round()
    assert numbers.reads == 3


async def test_what_is_gone_is_sent_empty(desk: DeskUnderTest, quiet: Any) -> None:
    ann = await listen(desk, "ann", "number:gone")
    await quiet.round()
    assert await ann.hear() == ("part", {"key": "number:gone", "html": ""})


async def test_a_part_that_cannot_be_read_keeps_no_other_back(desk: DeskUnderTest, quiet: Any) -> None:
    mal, ann = await listen(desk, "mal", "number:broken,number:x"), await listen(desk, "ann", "number:x")
    await quiet.round()
    for one in (mal, ann):
        assert (await one.hear_part())[0] == "number:x"


async def test_a_part_is_made_and_drawn_once_for_all_who_see_the_same(
    desk: DeskUnderTest, numbers: Numbers, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(template: str, view: NumberView, frame: PageFrame) -> str:
        drawn.append(view.number)
        return render_part(template, view, frame)

    monkeypatch.setattr("services.staff.desk.live.render_part", draw)
    ann, ben, cy = [await listen(desk, name, "own:x") for name in ("ann", "ben", "cy")]
    await quiet.round()
    assert [">1<" in (await one.hear_part())[1] for one in (ann, ben, cy)] == [True, False, True]
    assert (numbers.reads, numbers.views, sorted(drawn)) == (1, 2, [1, 2])


async def test_what_is_drawn_for_all_has_nothing_of_one_visitor(desk: DeskUnderTest, quiet: Any) -> None:
    ann = await listen(desk, "ann", "own:x")
    await quiet.round()
    assert "for None at" in (await ann.hear_part())[1]


async def test_a_part_that_cannot_be_drawn_keeps_no_other_back(desk: DeskUnderTest, quiet: Any) -> None:
    ann = await listen(desk, "ann", "form:x,number:x")
    await quiet.round()
    assert (await ann.hear_part())[0] == "number:x"


async def test_to_look_takes_a_role(desk: DeskUnderTest, quiet: Any) -> None:
    with pytest.raises(Refused, match="not_allowed"):
        await LiveBrowser(desk, await desk.browser("ann"), "number:x").open()


async def test_nobody_takes_all_streams(desk: DeskUnderTest, quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.staff.desk.live.STREAMS_OF_ONE_MAX", 2)
    streams = [await listen(desk, "mal", "") for _ in range(2)]
    with pytest.raises(Refused, match="too_often"):
        await listen(desk, "mal", "")
    await listen(desk, "ann", "")
    await streams.pop().close()
    await listen(desk, "mal", "")


async def test_a_stream_ends_when_the_roles_change(
    desk: DeskUnderTest, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.staff.desk.live.CHECK_S", -1.0)
    ann = await listen(desk, "ann", "")
    await accounts.set_roles(desk.desk.database, "ann", roles=(), who=at_terminal("run"))
    await quiet.round()
    assert await ann.hear() == ("signed-out", {})


async def test_each_sees_the_moment_in_the_own_zone(desk: DeskUnderTest, quiet: Any) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    browser.client.cookies.set("remit-zone", "Europe/Berlin")
    ann = await LiveBrowser(desk, browser, "").open()
    await quiet.round()
    assert (await ann.hear())[1]["clock"] == f"{desk.clock.now.astimezone(ZoneInfo('Europe/Berlin')):%H:%M:%S}"


async def test_a_browser_that_does_not_read_is_cut_off(desk: DeskUnderTest, numbers: Numbers, quiet: Any) -> None:
    ann = await listen(desk, "ann", "number:x")
    for number in range(100):
        numbers.now = number
        await quiet.round()
    assert len([event async for event in ann.events]) <= 60


async def test_to_look_is_no_click_and_needs_a_session(desk: DeskUnderTest, quiet: Any) -> None:
    browser = await desk.browser("ann", Role.VIEWER)
    desk.clock.forward(minutes=29)
    await (await LiveBrowser(desk, browser, "").open()).close()
    desk.clock.forward(minutes=1)
    with pytest.raises(Refused, match="signed_out"):
        await LiveBrowser(desk, browser, "").open()
    with pytest.raises(Refused, match="signed_out"):
        await LiveBrowser(desk, await desk.browser(), "").open()


async def test_a_stream_ends_when_its_session_does(
    desk: DeskUnderTest, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.staff.desk.live.CHECK_S", -1.0)
    ann = await listen(desk, "ann", "")
    desk.clock.forward(minutes=31)
    await quiet.round()
    assert await ann.hear() == ("signed-out", {})
    with pytest.raises(StopAsyncIteration):
        await ann.hear()


async def test_rounds_run_by_themselves_and_end_with_the_desk(desk: DeskUnderTest) -> None:
    ann = await listen(desk, "ann", "number:x")
    assert (await ann.hear())[0] == "part"
    assert (await ann.hear())[0] == "now"
    await desk.app.state.live.close()
    with pytest.raises(StopAsyncIteration):
        await ann.hear()
