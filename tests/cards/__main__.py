"""`make cards`: how much of what must be caught is caught, and how much of what must pass is refused, kind by kind and place by place.

Ends with 1 if anything slips through, or more of a kind is refused than may be. `--samples` of each kind that must pass are tried at the
border; a twentieth of them, and of what must be caught, everywhere else: there is one scanner.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from random import Random
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.cards import caught, passing
from tests.cards.places import PLACES, in_a_header

ELSEWHERE = 20
PROCESSES = 2


class Row(NamedTuple):
    """Of one kind: samples at the border and elsewhere, and the share that was stopped in each place."""

    kind: str
    samples: int
    elsewhere: int
    stopped: dict[str, float]
    is_as_it_must_be: bool
    note: str = ""


def of_caught(kind: str, samples: int) -> Row:
    source, make = Random(kind), caught.kinds()[kind]
    texts = [make(source) for _ in range(samples)]
    stopped = {place: sum(map(looks, texts)) / samples for place, looks in PLACES.items()}
    return Row(kind, samples, samples, stopped, min(stopped.values()) == 1)


def of_passing(kind: str, samples: int) -> Row:
    source, one = Random(kind), passing.kinds()[kind]
    places = {"border": in_a_header} if one.is_header else PLACES
    elsewhere = max(1, samples // ELSEWHERE)
    counts = dict.fromkeys(places, 0)
    for at in range(samples):
        value = one.make(source)
        for place, looks in places.items():
            if place == "border" or at < elsewhere:
                counts[place] += looks(value, one.name)
    stopped = {place: count / (samples if place == "border" else elsewhere) for place, count in counts.items()}
    return Row(
        kind, samples, elsewhere, stopped, stopped["border"] <= one.refused_max, "gives way" if one.gives_way else ""
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cards", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    samples = parser.parse_args().samples
    console = Console(width=140)
    wrong = 0
    with ProcessPoolExecutor(PROCESSES) as pool:
        few = max(1, samples // ELSEWHERE // 10)
        for title, work, names, each in (
            ("must be caught: % that was", of_caught, caught.kinds(), few),
            ("must pass: % that was refused", of_passing, passing.kinds(), samples),
        ):
            table = Table("kind", "samples", *PLACES, "", title=title)
            for row in pool.map(work, names, [each] * len(names)):
                wrong += not row.is_as_it_must_be
                shown = [f"{100 * row.stopped[place]:.3g}" if place in row.stopped else "" for place in PLACES]
                table.add_row(row.kind, f"{row.samples:,}", *shown, row.note if row.is_as_it_must_be else "WRONG")
            console.print(table)
    console.print(f"{wrong} kinds are not as they must be" if wrong else "all kinds are as they must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
