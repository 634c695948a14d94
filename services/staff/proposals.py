"""The second person: above a limit, what one person asks for waits until another one agrees. Pure: no I/O, clock, randomness, logging.

A limit holds for the money that is at stake, whatever is asked for: a decision, a refund, a discarded request. Nothing leaves while a
proposal is open.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.staff.domain import Case
from services.staff.people import Actor, Role, Via
from shared.contracts.base import AMOUNT_MINOR_MAX
from shared.contracts.currencies import ISO_4217, in_major_units
from shared.records import dataclass

# -- limits ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stake:
    """Money that an act may move: an amount in the minor unit of `currency`. None: it is not known."""

    amount_minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class SecondPersonLimits:
    """Amounts in minor units by currency, above which a second person must agree. A currency that is not named has no amount below."""

    above_minor: Mapping[str, int]

    def need_second(self, stakes: Iterable[Stake]) -> bool:
        """Whether one person alone may not move this money. What is not known may be any amount."""
        return any(
            stake.amount_minor is None
            or stake.currency is None
            or stake.amount_minor > self.above_minor.get(stake.currency, -1)
            for stake in stakes
        )

    def in_words(self, currency: str | None) -> str:
        """From when on a second person must agree: `above 500.00 EUR`."""
        if currency is None or currency not in self.above_minor:
            return f"for any amount in {currency}" if currency else "for an amount that is not known"
        return f"above {in_major_units(self.above_minor[currency], currency)}"


def read_limits(text: str) -> SecondPersonLimits:
    """The limits that `EUR:50000,USD:50000` names. `none`: always a second person. Raises ValueError with words that follow the name."""
    above: dict[str, int] = {}
    if text.strip().lower() == "none":
        return SecondPersonLimits(above)
    for part in filter(None, (part.strip() for part in text.split(","))):
        currency, _, amount = part.partition(":")
        if currency not in ISO_4217:
            raise ValueError("names a currency that ISO 4217 does not have: write EUR:50000,USD:50000")
        if currency in above:
            raise ValueError(f"names {currency} twice")
        if not (amount.isascii() and amount.isdecimal() and int(amount) <= AMOUNT_MINOR_MAX):
            raise ValueError(
                f"must give a whole number in the minor unit for {currency}, at most {AMOUNT_MINOR_MAX}: EUR:50000 is 500.00 EUR"
            )
        above[currency] = int(amount)
    return SecondPersonLimits(above)


def stakes_of(case: Case) -> list[Stake]:
    """The money that a decision about this case may move: the payment's, and what the gateway shows, if that is something else."""
    stakes = [Stake(case.amount_minor, case.currency)]
    if case.gateway is not None and case.gateway.captured_minor is not None:
        stakes.append(Stake(case.gateway.captured_minor, case.gateway.currency))
    return stakes


# -- proposals -------------------------------------------------------------------------------------------------------------------------


class ProposalState(StrEnum):
    OPEN = "open"
    AGREED = "agreed"
    DISAGREED = "refused"
    WITHDRAWN = "withdrawn"
    OUTDATED = "outdated"  # the payment moved on meanwhile


class ProposedAct(StrEnum):
    """What is done once somebody agrees."""

    DECIDE = "resolve"
    REFUND = "refund"
    DISCARD = "discard"  # of the request of a payment, which decides that it was not charged


class ProposalRefusal(StrEnum):
    """Why something is not done that has to do with proposals, or with who works on a case."""

    PROPOSAL_OPEN = "proposal_open"
    PROPOSAL_OUTDATED = "proposal_outdated"
    NO_PROPOSAL = "no_proposal"
    SAME_PERSON = "same_person"
    NOT_ALLOWED = "not_allowed"
    CLAIMED = "claimed"
    NOTHING_TO_NOTE = "nothing_to_note"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What `by` asks for, made on `version` of the payment. `asks` is what is said once another person agrees, without names.

    `id` is that of its journal entry. `answer` is what the second person saw, in their words.
    """

    id: UUID
    payment_id: UUID
    version: int
    act: ProposedAct
    asks: Mapping[str, object]
    by: str
    via: Via
    at: datetime
    state: ProposalState = ProposalState.OPEN
    answered_by: str | None = None
    answered_at: datetime | None = None
    answer: str | None = None

    @property
    def evidence(self) -> str:
        """What the first person saw."""
        return str(self.asks.get("evidence") or self.asks.get("reason") or "")

    @property
    def resolution(self) -> str:
        """What is proposed, as a code: a resolution, or `refund`."""
        return "not_charged" if self.act is ProposedAct.DISCARD else str(self.asks.get("resolution") or self.act)


def is_same_person(one: str, other: str) -> bool:
    """Whether two names are one person's. Case, spaces around and ways to write the same letters make no other person."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def refusal_of_answer(proposal: Proposal | None, version: int, who: Actor) -> ProposalRefusal | None:
    """Why `who` may not agree or disagree with a proposal about a payment that stands at `version`. None: they may."""
    if proposal is None:
        return ProposalRefusal.NO_PROPOSAL
    if proposal.version != version:
        return ProposalRefusal.PROPOSAL_OUTDATED
    if is_same_person(proposal.by, who.name):
        return ProposalRefusal.SAME_PERSON
    if not who.can_be_second or Role.RESOLVER not in who.roles:
        return ProposalRefusal.NOT_ALLOWED
    return None


def together(proposal: Proposal, second: Actor) -> Actor:
    """Both people as the one who acts. Their names are those that the decision carries."""
    return Actor(f"{proposal.by}, {second.name} agreed", second.via, second.roles, second.is_program, second.request)


# -- refunds ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantedRefund:
    """A refund that people ask for. `amount_minor` None: all that is left of the payment."""

    refund_id: UUID
    amount_minor: int | None
    currency: str


def _largest(stakes: Iterable[Stake], currency: str) -> int | None:
    """The largest of these amounts. None if one of them is not known, or is in another currency."""
    amounts = [stake.amount_minor if stake.currency == currency else None for stake in stakes]
    known = [amount for amount in amounts if amount is not None]
    return max(known) if len(known) == len(amounts) else None


def refund_stake(case: Case, wanted: WantedRefund, asked: Iterable[WantedRefund]) -> Stake:
    """The money of this refund and of all that people `asked` for before, since small refunds add up. Never more than the payment.

    Asked for again, a refund counts once. That two people agreed with it before makes it no smaller: they agreed with what was sent then.
    """
    of_payment = _largest(stakes_of(case), wanted.currency)
    amounts: dict[UUID, int | None] = {}
    for one in (*asked, wanted):
        known = amounts.get(one.refund_id, 0)
        is_known = one.amount_minor is not None and one.currency == wanted.currency and known is not None
        amounts[one.refund_id] = max(known or 0, one.amount_minor or 0) if is_known else None
    if any(amount is None for amount in amounts.values()):
        return Stake(of_payment, wanted.currency)
    total = sum(amount or 0 for amount in amounts.values())
    return Stake(total if of_payment is None else min(total, of_payment), wanted.currency)
