"""A case: a payment that a person may have to look at. Pure: no I/O, clock, randomness, logging.

Messages about a payment arrive in any order, some of them twice. Each has the version of the payment that it is about. The message with the
highest version gives the status of the case. Older messages only fill gaps, such as the amount or the attempts. So every order of arrival
gives the same case.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

from services.staff.refunds import Refunds, RefundTold, told
from shared.records import dataclass, replace

Resolution = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again", "give_back", "reopen"]

DECIDE_ANEW_MINUTES = 5
DECIDE_ANEW_AFTER = timedelta(minutes=DECIDE_ANEW_MINUTES)
"""How long a decision that shows no effect keeps others from deciding. It is said again by then. The payment-gateway service goes by the
version, so of two decisions at most one takes effect."""
REPEAT_AFTER = timedelta(minutes=1)
"""When a decision that shows no effect is said again. The wait doubles each time. A decision that is not lost takes a second."""
REPEAT_WAIT_MAX = timedelta(hours=1)
DOUBLINGS_MAX = 6
"""After so many, the wait is the longest."""
REFUSALS_KEPT_MAX = 20
"""The latest refusals of a case that are kept. Nobody makes more decisions in vain about one payment."""


class CaseStatus(StrEnum):
    UNKNOWN = "unknown"  # only an answer to a question, or a refused decision, has arrived yet
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

ASKING = ("inquire", "inquire_refund")
"""The calls to the gateway that ask, and change nothing."""

CASE_REASONS = frozenset(
    {
        "gateway_unavailable",
        "not_confirmed",
        "cancelled_at_gateway",
        "authentication_required",
        "decided_by_person",
        "capture_differs",
        "unknown_here",
        "refunded_at_gateway",
        "disputed",
        "not_captured",
        "not_refunded",
        "reopened_by_person",
        "cancel_unconfirmed",
        "no_readable_answer",
        "processing",
        "unconfirmed",
        "unknown_to_gateway",
        "refund_pending",
        "refund_too_large",
        "nothing_left",
    }
)
"""The reasons that the payment-gateway service gives of its own. All others are codes of the gateway, of which there is no list."""
CAPTURED, ANOTHER_AMOUNT = "captured", "capture_differs"
"""The gateway's answer that shows a capture, as our outcome is called, too; and the reason of a case whose capture is not of our amount: it
cannot be booked as ours."""
_TOLD_AS_CAPTURED: frozenset[Resolution] = frozenset({"captured", "refunded"})
"""Its invoice is paid, and only a refund puts the sums right. So it cannot become not charged."""
_GIVEN_BACK: frozenset[Resolution] = frozenset({"refunded"})
"""Its money went back, and the charge is disputed all the same, or a part came back to us. A person sees to that at the gateway, and says
that it stands as given back."""
_ABOUT_A_CAPTURE: frozenset[Resolution] = frozenset({"captured", "refunded", "give_back"})
_ABOUT_ANOTHER_AMOUNT: frozenset[Resolution] = frozenset({"refunded", "give_back"})
_NOT_THERE: frozenset[str] = frozenset({"not_captured", "not_refunded"})
"""Reasons of a case whose money is not where a decision said."""
_REOPENED = "reopened_by_person"
_DECISIONS: dict[CaseStatus, frozenset[Resolution]] = {
    CaseStatus.IN_DOUBT: frozenset({"captured", "not_charged"}),
    CaseStatus.NEEDS_DECISION: frozenset({"captured", "not_charged"}),
    CaseStatus.REFUND_IN_DOUBT: frozenset({"refunded", "not_refunded"}),
    CaseStatus.REFUND_FAILED: frozenset({"refunded", "not_refunded", "refund_again"}),
}


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
class Dispute:
    """How a dispute of the charge stands, in the gateway's words. Evidence has to be there by `evidence_due_at`, if that is known."""

    status: str
    reason: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    evidence_due_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody can say yet whose the money will be."""
        return self.status.endswith(("_response", "_review"))


@dataclass(frozen=True, slots=True)
class GatewaySide:
    """What the gateway says about the payment. `answer` is the kind of its answer; the amounts are in the minor unit of `currency`."""

    answer: str
    captured_minor: int | None = None
    refunded_minor: int | None = None
    currency: str | None = None
    disputed: bool = False
    dispute: Dispute | None = None
    lost_minor: int | None = None


@dataclass(frozen=True, slots=True)
class Doubted:
    """The payment is a case, and may need a decision. `decided_by` is set if a person decided that the money is not given back.

    `settled_as` is the outcome that it had before, and `gateway` the gateway's side, where the two contradict each other. `refund` is the
    one that is in doubt or failed, if the case is about one.
    """

    version: int
    status: CaseStatus
    amount_minor: int
    currency: str
    reason: str
    gateway_id: str | None
    attempts: tuple[CaseAttempt, ...]
    decided_by: str | None = None
    settled_as: str | None = None
    gateway: GatewaySide | None = None
    refund: RefundTold | None = None


@dataclass(frozen=True, slots=True)
class Inquired:
    """The gateway was asked, and answered. The payment stood at `version` then. A higher `number` is a newer answer."""

    version: int
    number: int
    amount_minor: int
    currency: str
    gateway_id: str | None
    attempts: tuple[CaseAttempt, ...]
    settled_as: str | None = None
    gateway: GatewaySide | None = None


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


Fact = Doubted | Inquired | Settled | DecisionRefused | RefundTold


# -- the case --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SentDecision:
    """The last decision that a person sent. `id` is its message id, `version` the version of the payment that the person saw.

    `times` counts how often it was said. It is said again at `repeat_at`. None: at once, because an earlier build sent it.
    """

    id: UUID
    version: int
    resolution: Resolution
    by: str
    at: datetime
    times: int = 1
    repeat_at: datetime | None = None

    def said_again(self, now: datetime) -> "SentDecision":
        """The decision after it was said once more."""
        wait = min(REPEAT_AFTER * 2 ** min(self.times, DOUBLINGS_MAX), REPEAT_WAIT_MAX)
        return replace(self, times=self.times + 1, repeat_at=now + wait)


@dataclass(frozen=True, slots=True)
class LastDecision:
    """The newest outcome that a person decided, or that one took back. `version` is that of the payment there."""

    version: int
    status: CaseStatus
    by: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """A case. `version` is the highest version of the payment in any message, `attempts_version` that of the attempts. 0 means none.

    `inquiry` is the number of the newest answer at that version, or 0. Attempts, `settled_as` and `gateway` are as of that answer.

    `found_captured` and `found_missing` are the highest versions at which the gateway, and no person, said that the money is there, and
    that it is not where it was said to be; 0 means never. `noted_version` is that of the contradiction of which a person took note.
    """

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
    inquiry: int = 0
    settled_as: str | None = None
    gateway: GatewaySide | None = None
    refusals: tuple[DecisionRefused, ...] = ()
    decision: SentDecision | None = None
    refunds: Refunds = ()
    decided: LastDecision | None = None
    found_captured: int = 0
    found_missing: int = 0
    noted_version: int = 0

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def contradicted_version(self) -> int | None:
        """The version at which the gateway contradicted the last decision of a person. None if it did not."""
        if self.decided is None:
            return None
        match self.decided.status:
            case CaseStatus.NOT_CHARGED:
                found = self.found_captured
            case CaseStatus.CAPTURED | CaseStatus.REFUNDED | CaseStatus.NOT_REFUNDED:
                found = self.found_missing
            case _:
                found = 0
        return found if found > self.decided.version else None

    @property
    def is_contradicted(self) -> bool:
        """Whether the gateway contradicts the last decision, and nobody took note of it yet."""
        return self.contradicted_version not in {None, self.noted_version}

    @property
    def decision_on_its_way(self) -> SentDecision | None:
        """The decision that was sent for the present version, if it is not refused and has no effect yet."""
        decision = self.decision
        if decision is None or decision.version != self.version:
            return None
        if self.is_open is (decision.resolution == "reopen"):
            return None
        return None if any(refused.decision_id == decision.id for refused in self.refusals) else decision


def evolve(case: Case, fact: Fact) -> Case:
    """The case after one more fact. The order of facts does not matter."""
    match fact:
        case Doubted():
            return _doubted(case, fact)
        case Inquired():
            return _last_answer(_fill(case, fact), fact, fact.number)
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
    case = _who_doubted(_last_answer(_with_refund(_fill(case, fact), fact.refund), fact, 0), fact)
    if fact.version <= case.version:
        return case
    status = CaseStatus.NOT_REFUNDED if fact.status is CaseStatus.REFUND_FAILED and fact.decided_by else fact.status
    return replace(case, status=status, version=fact.version, reason=fact.reason, decided_by=fact.decided_by)


def _settled(case: Case, fact: Settled) -> Case:
    case = _who_settled(_with_refund(_fill(case, fact), fact.refund), fact)
    if fact.version <= case.version:
        return case
    return replace(case, status=fact.status, version=fact.version, reason=fact.reason, decided_by=fact.decided_by)


def _who_settled(case: Case, fact: Settled) -> Case:
    """Note a person's decision, or what the gateway found without one."""
    if fact.decided_by is not None:
        return _decided(case, LastDecision(fact.version, fact.status, fact.decided_by))
    is_captured = fact.status is CaseStatus.CAPTURED
    return replace(case, found_captured=max(case.found_captured, fact.version)) if is_captured else case


def _who_doubted(case: Case, fact: Doubted) -> Case:
    """The same of a doubt: a person kept the money of a refund, or took a decision back; or the money is not where it was said to be."""
    if fact.reason == _REOPENED:
        return _decided(case, LastDecision(fact.version, fact.status, None))
    if fact.decided_by is not None and fact.status is CaseStatus.REFUND_FAILED:
        return _decided(case, LastDecision(fact.version, CaseStatus.NOT_REFUNDED, fact.decided_by))
    is_missing = fact.reason in _NOT_THERE
    return replace(case, found_missing=max(case.found_missing, fact.version)) if is_missing else case


def _decided(case: Case, decision: LastDecision) -> Case:
    is_newer = case.decided is None or decision.version > case.decided.version
    return replace(case, decided=decision) if is_newer else case


def _last_answer(case: Case, fact: Doubted | Inquired, number: int) -> Case:
    """Note what the gateway said, if nothing newer is known."""
    if (fact.version, number) <= (case.attempts_version, case.inquiry):
        return case
    return replace(
        case,
        attempts=fact.attempts,
        attempts_version=fact.version,
        inquiry=number,
        settled_as=fact.settled_as,
        gateway=fact.gateway,
    )


def _fill(case: Case, fact: Doubted | Inquired | Settled) -> Case:
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


def decisions_for(case: Case) -> frozenset[Resolution]:
    """The decisions that a person can make about a case. If a person settled it, that decision can be taken back."""
    if not case.is_open:
        return frozenset({"reopen"}) if case.decided_by else frozenset()
    if case.status is CaseStatus.NEEDS_DECISION and case.settled_as == CaseStatus.REFUNDED:
        return _GIVEN_BACK
    if case.status is CaseStatus.NEEDS_DECISION and case.gateway is not None and case.gateway.answer == CAPTURED:
        fitting = _ABOUT_ANOTHER_AMOUNT if case.reason == ANOTHER_AMOUNT else _ABOUT_A_CAPTURE
        return fitting - {"refunded"} if _may_be_won(case.gateway) else fitting
    if case.status is CaseStatus.NEEDS_DECISION and case.settled_as == CAPTURED:
        return _TOLD_AS_CAPTURED
    return _DECISIONS[case.status]


def _may_be_won(side: GatewaySide) -> bool:
    """Whether a dispute goes on and nothing was given back, so that the money may stay ours."""
    return side.dispute is not None and side.dispute.is_open and not (side.refunded_minor or side.lost_minor)


@dataclass(frozen=True, slots=True)
class Resolve:
    """A person's decision about a case, made on `expected_version`."""

    resolution: Resolution
    expected_version: int
    receipt_number: str | None


def is_decided(case: Case, now: datetime) -> bool:
    """Whether somebody has decided a short while ago, so that nobody else can."""
    coming = case.decision_on_its_way
    return coming is not None and now < coming.at + DECIDE_ANEW_AFTER


def refusal_of(command: Resolve, case: Case, now: datetime) -> DecisionRefusal | None:
    """Why a decision is not sent, or None if it is.

    The payment-gateway service has the last word. This check only saves people from decisions that the service would refuse.
    """
    fits = command.resolution in decisions_for(case)
    if not case.is_open and not fits:
        return DecisionRefusal.NOTHING_TO_DECIDE
    if command.expected_version != case.version:
        return DecisionRefusal.VERSION_DIFFERS
    if not fits:
        return DecisionRefusal.DOES_NOT_FIT
    if command.resolution == "captured" and not (command.receipt_number or "").strip():
        return DecisionRefusal.RECEIPT_NUMBER_REQUIRED
    return DecisionRefusal.DECISION_ON_ITS_WAY if is_decided(case, now) else None
