"""Refunds that upstream or a person asked for, as a saga follows them. Pure: no I/O, clock, randomness, logging.

They do not change the status of the saga: the invoice stays paid by the payment. The refund of the whole payment, which the saga itself
asks for because the invoice cannot take the money, is not among them: the status of the saga is about it.
"""

from enum import StrEnum
from typing import assert_never
from uuid import UUID

from shared.records import dataclass, replace

REMINDED_MAX = 10
"""Refunds that one deadline reminds of. The others follow when these have ended: the gateway service makes them one by one anyway."""


class AskedRefundStatus(StrEnum):
    ASKED = "asked"
    IN_DOUBT = "in_doubt"
    FAILED = "failed"  # it waits for a person, and the invoice need not hear of it
    MADE = "made"
    UNMADE = "unmade"  # the bank sent the money back, or a person decided that it stays: the invoice hears of it


@dataclass(frozen=True, slots=True)
class AskedRefund:
    """One refund. `asked_minor` is None for all that is left, `amount_minor` what was given back.

    `version` is that of the payment in the newest fact about it. `is_recorded` says that the invoice has recorded the present outcome.
    `code` says why it is unmade. `decided_by` is the person who decided that it was made, or had it made, if one did.
    """

    refund_id: UUID
    reason: str = ""
    asked_minor: int | None = None
    currency: str = ""
    status: AskedRefundStatus = AskedRefundStatus.ASKED
    version: int = 0
    amount_minor: int | None = None
    code: str | None = None
    is_recorded: bool = False
    decided_by: str | None = None


AskedRefunds = tuple[AskedRefund, ...]

# -- facts -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RefundAsked:
    """The invoice wants a refund. `amount_minor` is None for all that is left."""

    refund_id: UUID
    amount_minor: int | None
    currency: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefundRecorded:
    """The invoice has recorded the outcome of a refund, at this version of the payment."""

    refund_id: UUID
    version: int


@dataclass(frozen=True, slots=True)
class RefundMade:
    """The refund was made. It may be one that nobody asked for: people gave the money back at the gateway."""

    version: int
    refund_id: UUID
    amount_minor: int
    currency: str
    decided_by: str | None = None


@dataclass(frozen=True, slots=True)
class RefundDoubted:
    """Nobody knows whether the refund was made."""

    version: int
    refund_id: UUID


@dataclass(frozen=True, slots=True)
class RefundUnmade:
    """The refund was not made, or came back. `closed` means that a person decided that the money stays."""

    version: int
    refund_id: UUID
    code: str
    closed: bool


RefundFact = RefundAsked | RefundRecorded | RefundMade | RefundDoubted | RefundUnmade
RefundOutcome = RefundMade | RefundDoubted | RefundUnmade
"""Facts from the payment-gateway service."""

# -- commands --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeRefund:
    """To the payment gateway: make this refund, once."""

    refund: AskedRefund


@dataclass(frozen=True, slots=True)
class RecordRefund:
    """To the invoice: this refund was made."""

    refund: AskedRefund


@dataclass(frozen=True, slots=True)
class RecordRefundFailure:
    """To the invoice: this refund was not made, or came back."""

    refund: AskedRefund


RefundCommand = MakeRefund | RecordRefund | RecordRefundFailure

# -- transitions -----------------------------------------------------------------------------------------------------------------------


def after(refunds: AskedRefunds, fact: RefundFact) -> tuple[AskedRefunds, tuple[RefundCommand, ...]]:
    """The refunds after a fact, and what is said. A fact that is older than what is known changes nothing."""
    known = next((refund for refund in refunds if refund.refund_id == fact.refund_id), None)
    changed = _after(known, fact)
    if changed == known or changed is None:
        return refunds, ()
    others = tuple(changed if refund is known else refund for refund in refunds)
    says = () if isinstance(fact, RefundRecorded | RefundDoubted) else reminders((changed,))
    is_silent = changed.status is AskedRefundStatus.FAILED or (known is not None and isinstance(fact, RefundAsked))
    return (others if known else (*refunds, changed)), (() if is_silent else says)


def said_before(refunds: AskedRefunds, fact: RefundFact) -> tuple[RefundCommand, ...]:
    """What the invoice has recorded and asks for again: it has lost its last commit. No deadline says it any more."""
    if not isinstance(fact, RefundAsked):
        return ()
    return reminders(
        tuple(replace(r, is_recorded=False) for r in refunds if r.refund_id == fact.refund_id and r.is_recorded)
    )


def _after(known: AskedRefund | None, fact: RefundFact) -> AskedRefund | None:
    match fact:
        case RefundAsked():
            asked = known or AskedRefund(fact.refund_id)
            return replace(asked, reason=fact.reason, asked_minor=fact.amount_minor, currency=fact.currency)
        case RefundRecorded():
            return replace(known, is_recorded=True) if known and known.version == fact.version else known
        case RefundDoubted() | RefundUnmade() if known is None:
            return None  # the request is on its way, and the invoice repeats it; then the gateway service repeats this fact
        case RefundMade() | RefundDoubted() | RefundUnmade():
            before = known or AskedRefund(fact.refund_id)
            return before if fact.version <= before.version else _outcome(before, fact)
        case _:
            assert_never(fact)


def _outcome(before: AskedRefund, fact: RefundOutcome) -> AskedRefund:
    newer = replace(before, version=fact.version, is_recorded=False, code=None)
    match fact:
        case RefundMade() if _is_told(before, fact):
            return replace(before, version=fact.version)  # the gateway service had forgotten it, and found it again
        case RefundMade():
            made = replace(newer, status=AskedRefundStatus.MADE, amount_minor=fact.amount_minor)
            return replace(made, currency=fact.currency, decided_by=fact.decided_by)
        case RefundDoubted():
            return replace(newer, status=AskedRefundStatus.IN_DOUBT)
        case RefundUnmade():
            told_as_made = before.status in {AskedRefundStatus.MADE, AskedRefundStatus.UNMADE}
            status = AskedRefundStatus.UNMADE if fact.closed or told_as_made else AskedRefundStatus.FAILED
            return replace(newer, status=status, code=fact.code)
        case _:
            assert_never(fact)


def _is_told(known: AskedRefund, fact: RefundMade) -> bool:
    """Whether the invoice has recorded the refund as this fact says it."""
    recorded = (
        (known.amount_minor, known.currency) if known.status is AskedRefundStatus.MADE and known.is_recorded else None
    )
    return recorded == (fact.amount_minor, fact.currency)


def reminders(refunds: AskedRefunds) -> tuple[RefundCommand, ...]:
    """The commands that a deadline sends about these refunds."""
    says: list[RefundCommand] = []
    for refund in refunds:
        match refund.status:
            case AskedRefundStatus.IN_DOUBT | AskedRefundStatus.FAILED if not refund.reason:
                pass  # nobody asked for it here: people made it at the gateway, and the gateway service tells what becomes of it
            case AskedRefundStatus.ASKED | AskedRefundStatus.IN_DOUBT | AskedRefundStatus.FAILED:
                says.append(MakeRefund(refund))
            case AskedRefundStatus.MADE if not refund.is_recorded:
                says.append(RecordRefund(refund))
            case AskedRefundStatus.UNMADE if not refund.is_recorded:
                says.append(RecordRefundFailure(refund))
            case AskedRefundStatus.MADE | AskedRefundStatus.UNMADE:
                pass
            case _:
                assert_never(refund.status)
    return tuple(says[:REMINDED_MAX])
