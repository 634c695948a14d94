"""One fact of each kind that a saga can receive."""

from services.saga import domain


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
        domain.DeadlineFired(deadline),
    )
