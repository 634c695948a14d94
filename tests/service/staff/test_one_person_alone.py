"""No sequence of clicks by one person moves money above the limit, by whichever doors, and however it is cut into pieces."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal, get_args
from uuid import UUID

import orjson
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from services.staff.actions import cases, dead_letters, payments, proposals
from services.staff.actions.results import ActionResult
from services.staff.domain import CaseStatus, Resolution, Settled
from services.staff.people import Actor, Role, Via, at_terminal
from services.staff.store import Selection
from shared.persistence.database import Database
from shared.records import dataclass, field
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, keep_case, keep_request, tell_case

EVERYTHING = frozenset(Role)
DOORS = (
    Actor("mia", Via.DESK, EVERYTHING),
    Actor("MIA ", Via.API, EVERYTHING),
    Actor("mia's robot", Via.API, EVERYTHING, is_program=True),
    at_terminal("mia"),
    at_terminal("Mia"),
)
"""One person: signed in twice, with a token for a program, and at a terminal."""
AMOUNTS = (LIMIT, LIMIT + 1, LIMIT * 3, None)
PAYMENTS = len(AMOUNTS)
REFUND_IDS = tuple(UUID(int=number) for number in range(1, 5))
Kind = Literal["decide", "refund", "agree", "disagree", "withdraw", "discard", "event", "claim"]


@dataclass(frozen=True, slots=True)
class Click:
    """One click: what, through which door, on which payment, and further choices."""

    kind: Kind
    door: int
    payment: int
    resolution: Resolution = "not_charged"
    amount_minor: int | None = LIMIT
    refund: int = 0
    proposal: int = 0


@dataclass(slots=True)
class OnePersonAtWork:
    """The payments and letters that one sequence of clicks is about, and the proposals that it has seen."""

    database: Database
    payments: dict[UUID, int | None] = field(default_factory=dict)
    letters: list[UUID] = field(default_factory=list)
    proposals: list[UUID] = field(default_factory=list)

    async def begin(self) -> None:
        for amount_minor in AMOUNTS:
            self.payments[await keep_case(self.database, amount_minor)] = amount_minor
            requested = amount_minor or LIMIT * 2
            letter, payment = await keep_request(self.database, requested)
            self.letters.append(letter)
            self.payments[payment] = requested

    async def click(self, click: Click) -> None:
        payment_id = list(self.payments)[click.payment % len(self.payments)]
        result = await ACTS[click.kind](self, payment_id, click, DOORS[click.door % len(DOORS)])
        if result is not None and result.proposal is not None:
            self.proposals.append(result.proposal)

    def proposal(self, click: Click) -> UUID:
        return self.proposals[click.proposal % len(self.proposals)] if self.proposals else UUID(int=9)


async def _decide(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    kept = await payments.show_case(played.database, payment_id)
    return await payments.resolve(
        played.database,
        payment_id,
        resolution=click.resolution,
        expected_version=max(1, kept[0].case.version if kept else 1),
        evidence="seen",
        reason="why",
        who=who,
        receipt_number="R-1",
    )


async def _refund(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    return await payments.refund(
        played.database,
        payment_id,
        refund_id=REFUND_IDS[click.refund % len(REFUND_IDS)],
        reason="why",
        who=who,
        amount_minor=click.amount_minor,
        currency="EUR",
        invoice_id="INV-1",
    )


async def _agree(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    return await proposals.agree(played.database, payment_id, proposal_id=played.proposal(click), saw="seen", who=who)


async def _disagree(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    return await proposals.disagree(
        played.database, payment_id, proposal_id=played.proposal(click), saw="seen", who=who
    )


async def _withdraw(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    return await proposals.withdraw(played.database, payment_id, who=who)


async def _discard(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    letter = played.letters[click.payment % len(played.letters)]
    (result,) = await dead_letters.discard(played.database, Selection(ids=(letter,)), who=who, reason="why")
    return result


async def _event(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    """The gateway moves the payment on, or a decision has its effect."""
    if (found := await payments.show_case(played.database, payment_id)) is not None:
        status = (CaseStatus.CAPTURED, CaseStatus.NOT_CHARGED)[click.proposal % 2]
        by = (None, "mia")[click.refund % 2]
        await tell_case(played.database, payment_id, Settled(found[0].case.version + 1, status, decided_by=by))
    return None


async def _claim(played: OnePersonAtWork, payment_id: UUID, click: Click, who: Actor) -> ActionResult | None:
    return await cases.claim(played.database, payment_id, who=who)


ACTS: dict[Kind, Callable[[OnePersonAtWork, UUID, Click, Actor], Awaitable[ActionResult | None]]] = {
    "decide": _decide,
    "refund": _refund,
    "agree": _agree,
    "disagree": _disagree,
    "withdraw": _withdraw,
    "discard": _discard,
    "event": _event,
    "claim": _claim,
}

clicks = st.builds(
    Click,
    st.sampled_from(get_args(Kind)),
    st.integers(0, len(DOORS) - 1),
    st.integers(0, 2 * PAYMENTS - 1),
    st.sampled_from(get_args(Resolution)),
    st.sampled_from([None, 1, LIMIT // 2, LIMIT, LIMIT + 1]),
    st.integers(0, len(REFUND_IDS) - 1),
    st.integers(0, 3),
)
LARGE = 2
"""The first payment that is above the limit."""


@example([Click("refund", 0, 4, refund=number, amount_minor=LIMIT // 2) for number in range(3)])
@example([Click("decide", 3, LARGE), Click("agree", 0, LARGE), Click("agree", 1, LARGE), Click("agree", 2, LARGE)])
@example([Click("decide", 2, LARGE), Click("agree", 2, LARGE), Click("agree", 3, LARGE)])
@example([Click("decide", 2, LARGE), Click("agree", 0, LARGE)])
@example([Click("refund", 2, LARGE, amount_minor=None), Click("agree", 0, LARGE)])
@example([Click("discard", 2, 1), Click("agree", 0, 3)])
@example([Click("discard", 0, 1), Click("agree", 1, 3), Click("decide", 0, 3)])
@settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(clicks, min_size=1, max_size=12))
async def test_no_sequence_of_clicks_by_one_person_moves_money_above_the_limit(
    environment: Environment, database: Database, sequence: list[Click]
) -> None:
    played = OnePersonAtWork(database)
    await played.begin()
    for click in sequence:
        await played.click(click)
    moved = await _moved(environment, played.payments)
    for payment_id, messages in moved.items():
        amount = played.payments[payment_id]
        decisions = [one for one in messages if "resolution" in one]
        assert not decisions or (amount is not None and amount <= LIMIT), decisions
        refunds = {one["refund_id"]: one.get("amount_minor") or amount for one in messages if "refund_id" in one}
        assert None not in refunds.values(), "all that is left of nobody knows how much"
        total = sum(one or 0 for one in refunds.values())
        assert min(total, amount or total) <= LIMIT, refunds


async def _moved(environment: Environment, about: Collection[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """What was sent about these payments and can move money: decisions and refunds."""
    found = await rows(environment.databases["staff"], "SELECT unnest(bodies) AS body FROM outbox")
    sent = [orjson.loads(row["body"])["data"] for row in found]
    return {
        payment_id: moving
        for payment_id in about
        if (
            moving := [
                data
                for data in sent
                if data.get("payment_id") == str(payment_id) and ("resolution" in data or "refund_id" in data)
            ]
        )
    }
