"""What upstream systems send during a trial: the demo's scenes, and a late success with its refund, which the demo leaves to the tests."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from deploy.demo.scenes import SCENES, Play, Played, Scene, Stage
from deploy.sandbox.faults import Deed
from services.staff.actions import payments as payment_actions
from services.staff.domain import DecisionRefusal
from services.staff.people import at_terminal
from shared.persistence.database import Database
from tests.support.databases import rows
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.faults.testbed import Testbed

REFUNDED = "refunded in two parts"
LATE_SUCCESS = "late success, refunded"
WAITS = "waits for a person"
PATIENCE_S = 120.0
TOO_LATE = {
    DecisionRefusal.DECISION_ON_ITS_WAY,
    DecisionRefusal.VERSION_DIFFERS,
    DecisionRefusal.NOTHING_TO_DECIDE,
}
"""Why a decision may be refused here: our own is stored already, or the gateway was asked again meanwhile."""

MIX: tuple[str, ...] = (
    "paid by token",
    "paid by token",
    "paid by encrypted card",
    "declined",
    "command sent three times",
    "void against pay",
    "payment id used twice",
    "paid before issued",
    "not JSON",
    "version of the future",
    "pm_remit_charged_then_timeout",
    "pm_remit_reset_after_charge",
    "pm_remit_reset_before_charge",
    "pm_remit_late_success",
    REFUNDED,
)
"""One round: paid, declined, in doubt, duplicates, void against pay, a dead letter, refunds."""
AFTERWARDS: tuple[str, ...] = ("paid by token", "version of the future")
"""Played when the fault is over: every service gets a message, and recovery is measured by it."""
LOAD: tuple[str, ...] = (
    *MIX,
    LATE_SUCCESS,
    "declined, then another card",
    "pm_remit_charged_then_500",
    "known id, other data",
)
"""The scenes that random mode plays again and again."""


def scene(name: str, testbed: "Testbed") -> Scene:
    """The scene of that name."""
    if name == LATE_SUCCESS:
        return Scene(name, late_success_refunded(testbed), ("refunded", "paid"))
    return next(one for one in SCENES if one.name == name)


def tolerable(one: Scene, result: str) -> bool:
    """Whether a scene may have this result while something fails.

    A payment that was not sent in time is closed, and one that the gateway does not answer for waits for a person. Neither is a guess, and
    the audit knows which payments were charged.
    """
    return result in {*one.results, "not_charged", WAITS}


def late_success_refunded(testbed: "Testbed") -> Play:
    """A person decides `not charged`, then the gateway reports a charge: the money goes back. If the gateway was asked again before the
    decision came, the invoice is simply paid, and the person is told."""

    async def play(stage: Stage, invoice_id: str) -> Played:
        await stage.issue(invoice_id)
        command = stage.pay(invoice_id, "pm_remit_never_answers__refund_then_500")
        result = await stage.pay_and_wait(command)
        if result != WAITS:
            return Played(result, (command.payment_id,))
        version = await case_version(testbed, command.payment_id)
        await asyncio.to_thread(_heal, testbed, command.payment_id)
        await resolve(testbed, command.payment_id, version)
        return Played(await end_of(testbed, stage, command.payment_id), (command.payment_id,))

    return play


async def case_version(testbed: "Testbed", payment_id: UUID) -> int:
    """The version of a case that waits for a decision."""

    async def known() -> list[dict[str, object]]:
        query = "SELECT version FROM cases WHERE payment_id = $1 AND status = 'needs_decision'"
        return await testbed.ask_database(lambda: rows(testbed.database("staff"), query, payment_id)) or []

    found = await until(known, within_s=PATIENCE_S, what=f"the case of {payment_id}")
    return int(str(found[0]["version"]))


async def resolve(testbed: "Testbed", payment_id: UUID, version: int) -> None:
    """Decide `not charged`, as `remit payments resolve` does."""

    async def decide() -> bool:
        database = await Database.open(testbed.database("staff"), name="faults", connections_max=1)
        try:
            done = await payment_actions.resolve(
                database,
                payment_id,
                resolution="not_charged",
                expected_version=version,
                evidence="the bank's statement shows nothing",
                reason="fault run",
                who=at_terminal("faults"),
            )
        finally:
            await database.close()
        return done.ok or done.refusal in TOO_LATE

    async def decided() -> bool | None:
        return await testbed.ask_database(decide)

    await until(decided, within_s=PATIENCE_S, what=f"the decision about {payment_id}")


async def end_of(testbed: "Testbed", stage: Stage, payment_id: UUID) -> str:
    """`refunded` or `paid`, once it is one of them."""

    async def ended() -> str | None:
        query = "SELECT 1 FROM payments WHERE payment_id = $1 AND status = 'refunded'"
        if await testbed.ask_database(lambda: rows(testbed.database("payment_gateway"), query, payment_id)):
            return "refunded"
        return "paid" if stage.upstream.payments[payment_id].outcome == "paid" else None

    return str(await until(ended, within_s=PATIENCE_S, what=f"the refund of {payment_id}"))


def _heal(testbed: "Testbed", payment_id: UUID) -> None:
    intents: Sequence[dict[str, str]] = testbed.system.sandbox.show(str(payment_id))["payment_intents"]
    for intent in intents:  # after a crash there may be an orphan beside the one that was confirmed
        if intent["status"] == "succeeded":
            testbed.system.sandbox.do(Deed.HEAL, intent["id"])
