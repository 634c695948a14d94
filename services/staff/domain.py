"""A case: a payment that a person may have to look at. Pure: no I/O, clock, randomness, logging.

Messages about a payment arrive in any order, some of them twice. Each has the version of the payment that it is about. The message with the
highest version gives the status of the case. Older messages only fill gaps, such as the amount or the attempts. So every order of arrival
gives the same case.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

from services.staff.refunds import Refunds, RefundTold, told
from shared.records import dataclass, replace

Resolution = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again"]

REFUSALS_KEPT_MAX = 20
"""The latest refusals of a case that are kept. Nobody makes more decisions in vain about one payment."""


class CaseStatus(StrEnum):
    UNKNOWN = "unknown"  # only a refused decision has arrived yet
    IN_DOUBT = "in_doubt"
    NEEDS_DECISION = "needs_decision"
    REFUND_IN_DOUBT = "refund_in_doubt"
    REFUND_FAILED = "refund_failed"
    CAPTURED = "captured"
    DECLINED = "declined"
    NOT_CHARGED = "not_charged"
    REFUNDED = "refunded"
    NOT_REFUNDED = "not_refunded"


OPEN = frozenset({CaseStatus.IN_DOUBT, CaseStatus.NEEDS_DECISION, CaseStatus.REFUND_IN_DOUBT, CaseStatus.REFUND_FAILED})

_DECISIONS: dict[CaseStatus, frozenset[Resolution]] = {
    CaseStatus.IN_DOUBT: frozenset({"captured", "not_charged"}),
    CaseStatus.NEEDS_DECISION: frozenset({"captured", "not_charged"}),
    CaseStatus.REFUND_IN_DOUBT: frozenset({"refunded", "not_refunded"}),
    CaseStatus.REFUND_FAILED: frozenset({"refunded", "not_refunded", "refund_again"}),
}


def decisions_for(status: CaseStatus) -> frozenset[Resolution]:
    """The decisions that a person can make while a case has this status. There are none once it is settled."""
    return _DECISIONS.get(status, frozenset())


class DecisionRefusal(StrEnum):
    """Why a decision is not sent."""

    NOTHING_TO_DECIDE = "nothing_to_decide"
    DOES_NOT_FIT = "does_not_fit"
    VERSION_DIFFERS = "version_differs"
    RECEIPT_NUMBER_REQUIRED = "receipt_number_required"
    DECISION_ON_ITS_WAY = "decision_on_its_way"


# -- facts -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CaseAttempt:
    """One call to the gateway, and its answer."""

    at: datetime
    step: str
    answer: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Doubted:
    """The payment is a case, and may need a decision. `decided_by` is set if a person decided that the money is not given back.

    `refund` is the one that is in doubt or failed, if the case is about one.
    """

    version: int
    status: CaseStatus
    amount_minor: int
    currency: str
    reason: str
    gateway_id: str | None
    attempts: tuple[CaseAttempt, ...]
    decided_by: str | None = None
    refund: RefundTold | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The payment is no longer in doubt. `refund` is the one that was made, if the message is about one."""

    version: int
    status: CaseStatus
    reason: str | None = None
    decided_by: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    gateway_id: str | None = None
    refund: RefundTold | None = None


@dataclass(frozen=True, slots=True)
class DecisionRefused:
    """A decision came too late or did not fit. `version` and `state` are the payment's. `decision_id` is the decision's message id."""

    id: UUID
    version: int
    state: str
    reason: str
    decided_by: str
    resolution: Resolution
    decision_id: UUID | None


Fact = Doubted | Settled | DecisionRefused | RefundTold


# -- the case --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SentDecision:
    """The last decision that a person sent. `id` is its message id, `version` the version of the payment that the person saw."""

    id: UUID
    version: int
    resolution: Resolution
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Case:
    """A case. `version` is the highest version of the payment in any message, `attempts_version` that of the attempts. 0 means none."""

    payment_id: UUID
    invoice_id: str
    status: CaseStatus = CaseStatus.UNKNOWN
    version: int = 0
    reason: str | None = None
    decided_by: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    gateway_id: str | None = None
    attempts: tuple[CaseAttempt, ...] = ()
    attempts_version: int = 0
    refusals: tuple[DecisionRefused, ...] = ()
    decision: SentDecision | None = None
    refunds: Refunds = ()

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def decision_on_its_way(self) -> SentDecision | None:
        """The decision that was sent for the present version, if it is not refused and has no effect yet."""
        decision = self.decision
        if decision is None or decision.version != self.version or not self.is_open:
            return None
        return None if any(refused.decision_id == decision.id for refused in self.refusals) else decision


def evolve(case: Case, fact: Fact) -> Case:
    """The case after one more fact. The order of facts does not matter."""
    match fact:
        case Doubted():
            return _doubted(case, fact)
        case Settled():
            return _settled(case, fact)
        case DecisionRefused():
            return _decision_refused(case, fact)
        case RefundTold():
            return _with_refund(case, fact)
        case _:
            assert_never(fact)


def _with_refund(case: Case, refund: RefundTold | None) -> Case:
    return case if refund is None else replace(case, refunds=told(case.refunds, refund))


def _doubted(case: Case, fact: Doubted) -> Case:
    case = _with_refund(_fill(case, fact), fact.refund)
    if fact.version > case.attempts_version:
        case = replace(case, attempts=fact.attempts, attempts_version=fact.version)
    if fact.version <= case.version:
        return case
    status = CaseStatus.NOT_REFUNDED if fact.status is CaseStatus.REFUND_FAILED and fact.decided_by else fact.status
    return replace(case, status=status, version=fact.version, reason=fact.reason, decided_by=fact.decided_by)


def _settled(case: Case, fact: Settled) -> Case:
    case = _with_refund(_fill(case, fact), fact.refund)
    if fact.version <= case.version:
        return case
    return replace(case, status=fact.status, version=fact.version, reason=fact.reason, decided_by=fact.decided_by)


def _fill(case: Case, fact: Doubted | Settled) -> Case:
    """Take what never changes about a payment from the first message that has it."""
    return replace(
        case,
        amount_minor=fact.amount_minor if case.amount_minor is None else case.amount_minor,
        currency=case.currency or fact.currency,
        gateway_id=case.gateway_id or fact.gateway_id,
    )


def _decision_refused(case: Case, fact: DecisionRefused) -> Case:
    """Note a refused decision. It does not change the status: that comes in a message of its own."""
    known = {refused.id: refused for refused in case.refusals} | {fact.id: fact}
    ordered = sorted(known.values(), key=lambda refused: (refused.version, refused.id))
    return replace(case, refusals=tuple(ordered[-REFUSALS_KEPT_MAX:]))


# -- a person decides ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resolve:
    """A person's decision about a case, made on `expected_version`."""

    resolution: Resolution
    expected_version: int
    receipt_number: str | None


def refusal_of(command: Resolve, case: Case) -> DecisionRefusal | None:
    """Why a decision is not sent, or None if it is.

    The payment-gateway service has the last word. This check only saves people from decisions that the service would refuse.
    """
    if not case.is_open:
        return DecisionRefusal.NOTHING_TO_DECIDE
    if command.expected_version != case.version:
        return DecisionRefusal.VERSION_DIFFERS
    if command.resolution not in decisions_for(case.status):
        return DecisionRefusal.DOES_NOT_FIT
    if command.resolution == "captured" and not (command.receipt_number or "").strip():
        return DecisionRefusal.RECEIPT_NUMBER_REQUIRED
    if case.decision_on_its_way is not None:
        return DecisionRefusal.DECISION_ON_ITS_WAY
    return None
