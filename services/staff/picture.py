"""The picture of what caused what in a story: where its boxes and lines are. Pure; a template draws it."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from services.staff.story import PARTIES, StoryStep
from shared.records import dataclass

LANE_WIDTH, NODE_WIDTH, NODE_HEIGHT, ROW_HEIGHT = 186, 172, 42, 56
LEFT, TOP, LANES_TOP, DAY_HEIGHT, PAUSE_HEIGHT = 112, 64, 26, 24, 22
LINE_CHARACTERS: Final = 21
ROW_STEPS_MAX: Final = 120
"""Steps that the picture shows. The list shows all of them."""


@dataclass(frozen=True, slots=True)
class Node:
    """A step in the picture: a box with one or two lines of text, and the delay. `x`, `y`: its middle."""

    x: int
    y: int
    lines: tuple[str, ...]
    delay: str
    kind: str
    at: datetime

    @property
    def left(self) -> float:
        return self.x - NODE_WIDTH / 2

    @property
    def top(self) -> float:
        return self.y - NODE_HEIGHT / 2


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from a cause to what it brought about, as the `d` of a path. `against`: it contradicts."""

    path: str
    against: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """What caused what: a column a party, a row a step. Sizes are in units of the drawing."""

    width: int
    height: int
    lanes: tuple[tuple[int, str], ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    days: tuple[tuple[int, datetime], ...]
    pauses: tuple[tuple[int, tuple[timedelta, int]], ...]
    left_out: int = 0


def picture_of(steps: Sequence[StoryStep], day_of: Callable[[datetime], object] = datetime.date) -> Picture:
    """The picture of these steps. `day_of` says on which day a moment is, in the zone of whoever looks."""
    shown = steps[:ROW_STEPS_MAX]
    parties = [party for party in PARTIES if any(step.party == party for step in shown)]
    lanes = {party: LEFT + NODE_WIDTH // 2 + 7 + LANE_WIDTH * number for number, party in enumerate(parties)}
    y = TOP
    nodes: list[Node] = []
    days: list[tuple[int, datetime]] = []
    pauses: list[tuple[int, tuple[timedelta, int]]] = []
    day: object = None
    for step in shown:
        if step.pause is not None:
            pauses.append((y - 12, step.pause))
            y += PAUSE_HEIGHT
        if day_of(step.at) != day:
            day = day_of(step.at)
            days.append((y - 20, step.at))
            y += DAY_HEIGHT if nodes else 0
        nodes.append(Node(lanes[step.party], y, _lines(step), span(step.delay), step.kind, step.at))
        y += ROW_HEIGHT
    edges = [edge for step in shown for edge in _edges(step, nodes)]
    width = LEFT + LANE_WIDTH * max(1, len(parties))
    return Picture(
        width,
        y + 8,
        tuple((x, party) for party, x in lanes.items()),
        tuple(nodes),
        tuple(edges),
        tuple(days),
        tuple(pauses),
        len(steps) - len(shown),
    )


def _lines(step: StoryStep) -> tuple[str, ...]:
    """The number and the title, on two lines at most."""
    words, lines = f"{step.number}. {step.title}".split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE_CHARACTERS:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) > 2:  # noqa: PLR2004 - a box has room for two
        lines = [lines[0], f"{lines[1][: LINE_CHARACTERS - 1]}…"]
    return tuple(line if len(line) <= LINE_CHARACTERS else f"{line[: LINE_CHARACTERS - 1]}…" for line in lines)


def _edges(step: StoryStep, nodes: Sequence[Node]) -> Iterable[Edge]:
    here = nodes[step.number - 1]
    for number, against in ((step.cause, False), (step.against, True)):
        if number is not None and number < step.number:
            yield Edge(_path(nodes[number - 1], here), against)


def _path(start: Node, end: Node) -> str:
    half = NODE_WIDTH // 2
    if start.x == end.x:
        if end.y - start.y <= ROW_HEIGHT + DAY_HEIGHT + PAUSE_HEIGHT:
            return f"M{start.x} {start.y + NODE_HEIGHT // 2} L{end.x} {end.y - NODE_HEIGHT // 2}"
        out = start.x + half + 26
        return f"M{start.x + half} {start.y} C{out} {start.y} {out} {end.y} {end.x + half} {end.y}"
    side = start.x + half if end.x > start.x else start.x - half
    return f"M{side} {start.y} C{end.x} {start.y} {end.x} {start.y + 8} {end.x} {end.y - NODE_HEIGHT // 2}"


def span(delay: timedelta | None) -> str:
    """How long after its cause: `+16 ms`, `+10.1 s`, `+3 h 2 min`; empty if it has none."""
    if delay is None:
        return ""
    seconds = delay.total_seconds()
    if seconds < 1:
        return f"+{round(seconds * 1000)} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"+{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if days:
        return f"+{days} d {hours % 24} h"
    return f"+{hours} h {minutes % 60} min" if hours else f"+{minutes} min"
