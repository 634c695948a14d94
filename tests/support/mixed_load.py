"""A mix of good and bad payments, played by an upstream system while something is done to the processes behind it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.demo.scenes import SCENES, Scene, Stage
from deploy.demo.upstream import Upstream

BY_NAME = {scene.name: scene for scene in SCENES}
MIX = (
    "paid by token",
    "paid by token",
    "paid by token",
    "paid by encrypted card",
    "declined",
    "command sent three times",
    "void against pay",
    "payment id used twice",
    "paid before issued",
    "pm_remit_charged_then_timeout",
    "pm_remit_charged_then_500",
    "pm_remit_reset_after_charge",
    "pm_remit_reset_before_charge",
    "pm_remit_late_success",
)
ROUNDS = 4
AT_ONCE = 14
WITHIN_S = 120.0


@dataclass(slots=True)
class MixedRun:
    """A run of scenes, and their unexpected results."""

    total: int
    surprises: list[str] = field(default_factory=list)
    played: int = 0
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, surprise: str | None) -> None:
        """Note that one more has been played."""
        async with self.progress:
            self.played += 1
            self.surprises += [surprise] if surprise else []
            self.progress.notify_all()

    async def until_played(self, number: int) -> None:
        """Wait until so many have been played."""
        async with self.progress:
            await self.progress.wait_for(lambda: self.played >= number)


async def play_mix(
    url: str,
    *,
    name: str,
    history: Path,
    public_key: Mapping[str, object],
    disturb: Sequence[Callable[[], Awaitable[None]]] = (),
    rounds: int = ROUNDS,
    within_s: float = WITHIN_S,
) -> list[str]:
    """Play the mix `rounds` times as the user in `url`, and the disturbances one after the other, at equal distances within it.

    Returns what was unexpected.
    """
    run = MixedRun(total=len(MIX) * rounds)
    turns = asyncio.Semaphore(AT_ONCE)
    async with Upstream.open(url, name=name, history=history) as upstream:
        stage = Stage(upstream, dict(public_key))

        async def one(scene: Scene, number: int) -> None:
            async with turns:
                played = await scene.play(stage, f"{name}-{number}")
            await run.note(f"{scene.name}: {played.result}" if played.result not in scene.results else None)

        async def disturbances() -> None:
            for number, disturbance in enumerate(disturb, start=1):
                await run.until_played(run.total * number // (len(disturb) + 2))
                await disturbance()

        scenes = [BY_NAME[name_] for _ in range(rounds) for name_ in MIX]
        async with asyncio.timeout(within_s):
            await asyncio.gather(disturbances(), *(one(scene, number) for number, scene in enumerate(scenes)))
    return run.surprises
