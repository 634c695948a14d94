"""One fact of each kind that a saga can receive."""

from uuid import UUID

from services.saga import domain, refunds

REFUND = UUID(int=71)


def facts(version: int = 9, deadline: int = 1) -> tuple[domain.Fact, ...]:
    """`version`: of the payment, for facts from the payment gateway service; `deadline`: the number of the deadline that fires."""
    return (
        domain.PaymentRequested(),
        domain.Paid(),
        domain.PaymentFailed("declined", "r"),
        domain.SettlementRejected("r"),
        domain.Captured(version, 1, "EUR", "r"),
        domain.Declined(version, "r"),
        domain.NotCharged(version, "r"),
        domain.InDoubt(version),
        domain.NeedsDecision(version),
        domain.Refunded(version),
        domain.RefundInDoubt(version),
        domain.RefundFailed(version, closed=False),
        domain.RefundFailed(version, closed=True),
        refunds.RefundAsked(REFUND, 1, "EUR", "r"),
        refunds.RefundMade(version, REFUND, 1, "EUR"),
        refunds.RefundDoubted(version, REFUND),
        refunds.RefundUnmade(version, REFUND, "r", closed=False),
        refunds.RefundRecorded(REFUND, version),
        domain.DeadlineFired(deadline),
    )
