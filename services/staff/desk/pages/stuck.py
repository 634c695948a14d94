"""What is stuck, with what it means for money and what to do; and everything that is watched."""

from datetime import datetime

from pydantic import BaseModel

from services.staff import seen_store
from services.staff.desk.desk import Desk
from services.staff.desk.frame import Count
from services.staff.desk.routing import Room
from services.staff.desk.said import SaidPart, said
from services.staff.people import Actor
from services.staff.stuck import Stuck, WatchedWork, stuck, watched_in_words
from shared.persistence.database import Connection

room = Room(__name__)


class StuckView(BaseModel):
    """Something that is stuck. `since`: absent if nobody knows."""

    key: str
    what: str
    how_much: str
    means: list[SaidPart]
    todo: str
    since: datetime | None
    place: str | None


class StuckNow(BaseModel):
    """What is stuck, the longest first."""

    stuck: list[StuckView]


class StuckPage(StuckNow):
    """What is stuck, and what is watched. `hears_instances`: whether instances say how they are."""

    watched: list[str]
    hears_instances: bool


@room.page("/stuck", "stuck.html")
async def what_is_stuck(desk: Desk) -> StuckPage:
    """What should have gone on by itself and has not."""
    return StuckPage(
        stuck=[as_view(one) for one in await _found(desk)],
        watched=watched_in_words(desk.settings.pending_after_s),
        hears_instances=desk.settings.heartbeats == "on",
    )


@room.region("stuck", "_stuck.html")
async def stuck_now(key: str, desk: Desk, viewer: Actor) -> StuckNow:  # noqa: ARG001 - there is one, the same for everybody
    """The same, when it changes."""
    return StuckNow(stuck=[as_view(one) for one in await _found(desk)])


@room.count("stuck")
async def count_stuck(desk: Desk) -> Count | None:
    """How many things are stuck, for the menu."""
    number = len(await _found(desk))
    return Count(number, "look", "stuck") if number else None


async def _found(desk: Desk) -> list[Stuck]:
    async with desk.read() as connection:
        return stuck(await watched_by(desk, connection))


async def watched_by(desk: Desk, connection: Connection) -> WatchedWork:
    """What this desk looks at to see whether something is stuck."""
    hears, after_s = desk.settings.heartbeats == "on", desk.settings.pending_after_s
    return await seen_store.watched(connection, desk.clock(), pending_after_s=after_s, hears_instances=hears)


def as_view(one: Stuck) -> StuckView:
    """The view of something that is stuck."""
    return StuckView(
        key=one.key,
        what=one.what,
        how_much=one.how_much,
        means=said(one.means),
        todo=one.todo,
        since=one.since,
        place=one.place,
    )
