"""The card gateway misbehaves in every way (row 9) at once; also while the service that calls it is killed again and again. And it is
silent for longer than any payment is tried again, or it refuses the service."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import UUID

from deploy.demo.scenes import SCENES
from tests.faults.network import Line
from tests.faults.proxy import BlackHole
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import LATE_SUCCESS
from tests.support.databases import rows

FAMILY: Final = "gateway"
BEHAVIOURS: Final = tuple(scene.name for scene in SCENES if scene.name.startswith("pm_remit_"))
KILLS: Final = 4
SLOW: Final = "pm_remit_slow"
AT_THE_GATEWAY: Final = 10
BETWEEN_KILLS_S: Final = 1.5
"""Seconds between kills: about as long as a rung of the ladder, so that each time other payments are in the middle of a call."""


async def _misbehaving(testbed: Testbed, note: Note, *, kills: int) -> None:
    testbed.play(*BEHAVIOURS, LATE_SUCCESS)
    for _ in range(kills):
        await asyncio.sleep(BETWEEN_KILLS_S)
        await testbed.kill("payment_gateway")
        await testbed.start("payment_gateway")
    await testbed.played()
    note.fired(len(BEHAVIOURS) + kills)
    note.mended()


async def _silent(testbed: Testbed, note: Note) -> None:
    """Payments that the gateway never answers for wait for a person in the end. When it is back, a person has it asked."""
    line = await Line.lay(testbed, "payment_gateway", "gateway")
    testbed.play(*(SLOW,) * AT_THE_GATEWAY)

    async def charging() -> bool:
        query = "SELECT 1 FROM payments WHERE status = 'prepared'"
        return bool(await testbed.until_answered(lambda: rows(testbed.database("payment_gateway"), query)))

    await testbed.until(charging, what="a charge that waits for its answer")
    line.proxy.become(to_client=BlackHole())
    testbed.play()
    await testbed.until(lambda: _some(testbed), what="a payment that waits for a person")
    await testbed.played()
    line.proxy.heal()
    note.mended()
    waiting = await _waiting(testbed)
    for payment_id in waiting:
        asked = await (await testbed.remit("payments", "ask", str(payment_id), "--who", "faults")).result()
        assert asked.code == 0, asked
    note.fired(len(waiting))
    note.remark(f"{len(waiting)} payments were left to a person, who had the gateway asked")

    async def none() -> bool:
        return not await _waiting(testbed)

    await testbed.until(none, what="the gateway's answer about each of them")


async def _waiting(testbed: Testbed) -> list[UUID]:
    query = "SELECT payment_id FROM cases WHERE status = 'needs_decision'"
    return [row["payment_id"] for row in await testbed.until_answered(lambda: rows(testbed.database("staff"), query))]


async def _some(testbed: Testbed) -> bool:
    return bool(await _waiting(testbed))


async def _refusing(testbed: Testbed, note: Note, *, mode: str) -> None:
    """Payments wait while the gateway refuses the service, lose nothing, and go on by themselves when an operator has mended that."""
    testbed.play()
    await testbed.until_under_load()
    await asyncio.to_thread(testbed.system.sandbox.mode, mode)
    testbed.play()

    async def refused() -> bool:
        query = "SELECT 1 FROM attempts WHERE answer = 'misconfigured'"
        return bool(await testbed.until_answered(lambda: rows(testbed.database("payment_gateway"), query)))

    await testbed.until(refused, what="an answer that refuses the service")
    note.fired(1)
    await asyncio.to_thread(testbed.system.sandbox.mode, "normal")
    await testbed.played()
    note.mended()


def trials() -> Sequence[Trial]:
    """The misbehaving gateway alone and with kills, the silent gateway, and one that refuses the service."""
    silent = Trial(
        f"{FAMILY}/silent-for-good",
        FAMILY,
        "the gateway is silent for longer than the whole ladder; people have it asked when it is back",
        _silent,
        estimate_s=45.0,
        touches=frozenset({"payment_gateway"}),
    )
    refusing = [
        Trial(
            f"{FAMILY}/{name}",
            FAMILY,
            injects,
            partial(_refusing, mode=mode),
            estimate_s=30.0,
            touches=frozenset({"payment_gateway"}),
        )
        for name, mode, injects in (
            ("key-rotated", "unauthorised", "401 to everything, while payments are under way; then the key is mended"),
            ("wrong-url", "elsewhere", "404 to everything, as from a proxy that leads elsewhere; then it is mended"),
        )
    ]
    return [silent, *refusing, *_every_behaviour()]


def _every_behaviour() -> list[Trial]:
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
