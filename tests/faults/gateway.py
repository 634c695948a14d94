"""Every way in which the card gateway misbehaves (FAULTS 9), at once; also while the service that calls it is killed again and again."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from deploy.demo.scenes import SCENES
from tests.faults.bed import Bed
from tests.faults.trial import Note, Trial
from tests.faults.workload import LATE_SUCCESS

FAMILY: Final = "gateway"
BEHAVIOURS: Final = tuple(scene.name for scene in SCENES if scene.name.startswith("pm_remit_"))
KILLS: Final = 4
BETWEEN_KILLS_S: Final = 1.5
"""About as long as a rung of the ladder: each time others are in the middle of a call."""


async def _misbehaving(bed: Bed, note: Note, *, kills: int) -> None:
    bed.play(*BEHAVIOURS, LATE_SUCCESS)
    for _ in range(kills):
        await asyncio.sleep(BETWEEN_KILLS_S)
        await bed.kill("payment_gateway")
        await bed.start("payment_gateway")
    await bed.played()
    note.fired(len(BEHAVIOURS) + kills)
    note.mended()


def trials() -> Sequence[Trial]:
    """Left alone, and killed."""
    return [
        Trial(
            f"{FAMILY}/{name}",
            FAMILY,
            injects,
            partial(_misbehaving, kills=kills),
            estimate_s=25.0,
            touches=frozenset({"payment_gateway"}),
        )
        for name, injects, kills in (
            (
                "every-behaviour",
                f"{len(BEHAVIOURS)} ways to misbehave: late, silent, 429, 500, cut, malformed, crossing",
                0,
            ),
            ("every-behaviour-killed", f"the same, and kill -9 of the service {KILLS} times in the middle", KILLS),
        )
    ]
