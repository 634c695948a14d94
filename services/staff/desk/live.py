"""Live numbers: parts of pages that are sent anew to browsers when they change, by server-sent events.

Each second one round reads every part that somebody looks at, once for all browsers, and sends it to those to whom it looks different. So
a part is sent at most once a second, and the cost does not grow with the number of browsers. A browser that goes away is forgotten; a
round that fails is tried again a second later, and browsers say meanwhile since when they are not live.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection, Hashable, Mapping
from typing import Any

import structlog
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import StreamingResponse

from services.staff.desk.desk import Desk
from services.staff.desk.frame import MenuCounts, PageFrame, frame_of, render_part
from services.staff.desk.problems import Refused, too_often
from services.staff.desk.routing import Region, desk_of
from services.staff.desk.sessions import Visitor, visitor_of, why_not
from services.staff.desk.shown import count_short
from services.staff.people import Actor, Role
from shared.observability import metrics
from shared.outage_log import OutageLog
from shared.persistence.database import AWAY_ERRORS
from shared.records import replace

log = structlog.get_logger(__name__)

EVERY_S = 1.0
PING_S = 15.0
"""How often something is sent when nothing changes, so that both ends notice when the connection is gone."""
CHECK_S = 30.0
"""How often it is asked whether the session of a stream still holds."""
TELL_EVERY_S = 5.0
REGIONS_MAX = 20
"""Regions of one page."""
STREAMS_MAX = 500
STREAMS_OF_ONE_MAX = 30
"""Pages of one person or program: nobody keeps the others from what is live."""
TOO_MANY_AGAIN_S = 30
WAITING_MAX = 60
"""Messages that wait for one browser. One that reads nothing for so long is cut off; it comes again by itself."""


class Stream:
    """One browser: what it looks at, what it has, and what waits to be sent to it."""

    def __init__(self, keys: Collection[str], visitor: Visitor, frame: PageFrame) -> None:
        self.keys, self.visitor, self.frame = keys, visitor, frame
        self.has: dict[str, int] = {}
        self.told: object = None
        self.told_at = 0.0
        self.waiting: asyncio.Queue[str | None] = asyncio.Queue(WAITING_MAX)

    def send(self, event: str) -> None:
        """Have this sent. A browser that does not read is cut off."""
        try:
            self.waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """End the stream, after what waits already."""
        while True:
            try:
                self.waiting.put_nowait(None)
            except asyncio.QueueFull:
                self.waiting.get_nowait()
            else:
                return


class LivePart:
    """A part of a page as some of those who look at it see it: read, and drawn, once for all of them.

    What has forms is drawn for each session alone, since they carry its key.
    """

    def __init__(self, key: str, region: Region, view: BaseModel | None) -> None:
        self._key, self._region, self._view = key, region, view
        self._events: dict[str, str | None] = {}
        self.digest = hash(None if view is None else view.model_dump_json())
        """By which a change is noticed."""

    def event(self, frame: PageFrame) -> str | None:
        """What is sent to the browser with this frame; None if the part cannot be drawn, which keeps no other one back."""
        look = f"{frame.form_key} {frame.zone_text}" if self._region.has_forms else frame.zone_text
        if look not in self._events:
            self._events[look] = self._drawn(frame if self._region.has_forms else frame.for_all())
        return self._events[look]

    def _drawn(self, frame: PageFrame) -> str | None:
        try:
            html = "" if self._view is None else render_part(self._region.template, self._view, frame)
        except Exception as error:
            log.exception("live_part_failed", part=self._region.name, error=type(error).__name__)
            return None
        return _event("part", {"key": self._key, "html": html})


class Live:
    """All streams of this process, and the rounds that feed them."""

    def __init__(self, desk: Desk, regions: Collection[Region], counts: MenuCounts) -> None:
        self._desk, self._counts = desk, counts
        self._regions: Mapping[str, Region] = {region.name: region for region in regions}
        self._streams: set[Stream] = set()
        self._rounds: asyncio.Task[None] | None = None
        self._outage = OutageLog(log, "not_live", "live_again")

    # -- one browser -------------------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> StreamingResponse:
        """The stream of the regions that `on` names, separated by commas. Raises `Refused`."""
        desk = desk_of(request)
        visitor = await visitor_of(desk, request, by_click=False)
        if (why := why_not(visitor.actor, Role.VIEWER, [])) is not None:
            raise Refused("not_allowed", why, 403)
        keys = [key for key in request.query_params.get("on", "").split(",") if key]
        if len(keys) > REGIONS_MAX:
            raise Refused("invalid", f"A page has at most {REGIONS_MAX} live parts.", 422)
        of_visitor = sum(stream.visitor.id == visitor.id for stream in self._streams)
        if len(self._streams) >= STREAMS_MAX or of_visitor >= STREAMS_OF_ONE_MAX:
            raise too_often(TOO_MANY_AGAIN_S, "Too many pages are live. Refresh it by hand.")
        known = [key for key in keys if key.partition(":")[0] in self._regions]
        frame = replace(await frame_of(desk, request, visitor), done=None)
        events = self._events(Stream(known, visitor, frame), request)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _events(self, stream: Stream, request: Request) -> AsyncIterator[str]:
        self._streams.add(stream)
        metrics.DESK_LIVE_BROWSERS.set(len(self._streams))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._run(), name="live rounds")
        checked_at = time.monotonic()
        try:
            yield "retry: 3000\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(stream.waiting.get(), PING_S)
                except TimeoutError:
                    event = ": ping\n\n"
                if event is None:
                    return
                if time.monotonic() - checked_at > CHECK_S:
                    checked_at = time.monotonic()
                    if not await self._still_holds(stream, request):
                        yield _event("signed-out", {})
                        return
                yield event
        finally:
            self._streams.discard(stream)
            metrics.DESK_LIVE_BROWSERS.set(len(self._streams))

    async def _still_holds(self, stream: Stream, request: Request) -> bool:
        """Whether somebody is still signed in, with the same roles. To look at live numbers is no click."""
        try:
            visitor = await visitor_of(self._desk, request, by_click=False)
        except AWAY_ERRORS:
            return True
        except Refused:
            return False
        return visitor.actor.roles == stream.visitor.actor.roles

    # -- the rounds --------------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """A round a second, as long as somebody looks."""
        while self._streams:
            begun = time.monotonic()
            try:
                await self.round()
                self._outage.succeeded()
            except AWAY_ERRORS as error:
                self._outage.failed(error)
            except Exception as error:
                log.exception("live_round_failed", error=type(error).__name__)
            await asyncio.sleep(max(EVERY_S - (time.monotonic() - begun), EVERY_S / 10))

    async def round(self) -> None:
        """Read every part that somebody looks at, and send it to those who have another one. Without a change only the moment is sent."""
        now = self._desk.clock()
        counts = await self._counts.now(self._desk)
        told = {key: [count_short(one.number), one.kind, one.word] for key, one in counts.items()}
        parts = await self._parts()
        for stream in list(self._streams):
            frame = replace(stream.frame, as_of=now, counts=counts)
            for key in stream.keys:
                part = parts.get((key, stream.visitor.actor))
                if part is None or stream.has.get(key) == part.digest:
                    continue  # it cannot be read now, the stream has come since, or nothing is new
                if (event := part.event(frame)) is not None:
                    stream.has[key] = part.digest
                    stream.send(event)
            self._tell_moment(stream, frame, told)

    @staticmethod
    def _tell_moment(stream: Stream, frame: PageFrame, counts: Mapping[str, object]) -> None:
        """Tell of which moment the page is, and the counts of the menu: when they change, and every few seconds."""
        now_s = time.monotonic()
        if stream.told == counts and now_s - stream.told_at < TELL_EVERY_S:
            return
        stream.told, stream.told_at = counts, now_s
        clock = f"{frame.as_of.astimezone(frame.zone):%H:%M:%S}"
        stream.send(_event("now", {"at": frame.as_of.isoformat(), "clock": clock, "counts": counts}))

    async def _parts(self) -> dict[tuple[str, Actor], LivePart]:
        """Each part for each who looks at it. It is read once for all of them, and made once for all who see the same.

        A part that cannot be read keeps no other one back.
        """
        read: dict[str, Any] = {}
        made: dict[tuple[str, Hashable], LivePart] = {}
        found: dict[tuple[str, Actor], LivePart] = {}
        failed: set[str] = set()
        for stream in list(self._streams):
            viewer = stream.visitor.actor
            for key in stream.keys:
                if (key, viewer) in found or key in failed:
                    continue
                region = self._regions[key.partition(":")[0]]
                try:
                    if key not in read:
                        read[key] = await self._read(region, key, viewer)
                    found[key, viewer] = _part_of(read[key], key, region, viewer, made)
                except AWAY_ERRORS:
                    raise
                except Exception as error:
                    log.exception("live_part_failed", part=region.name, error=type(error).__name__)
                    failed.add(key)
        return found

    async def _read(self, region: Region, key: str, viewer: Actor) -> Any:
        try:
            return await region.load(key=key.partition(":")[2], desk=self._desk, viewer=viewer)
        except Refused:  # there is no such thing any more
            return None

    async def close(self) -> None:
        """End all streams, so that the desk can stop."""
        for stream in list(self._streams):
            stream.end()
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)


def _part_of(
    read: Any, key: str, region: Region, viewer: Actor, made: dict[tuple[str, Hashable], LivePart]
) -> LivePart:
    """The part as this viewer sees it: the one made before for somebody who sees the same, if there is one."""
    seen = region.seen
    same = key, None if seen is None or read is None else seen.alike(read, viewer)
    if same not in made:
        made[same] = LivePart(key, region, read if seen is None or read is None else seen.view(read, viewer))
    return made[same]


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
