"""One of each kind of fact that a saga can hear."""

from services.saga import domain


def facts(version: int = 9, deadline: int = 1) -> tuple[domain.Fact, ...]:
    """`version`: of the payment, for what the payment gateway service tells; `deadline`: the number of the one that fires."""
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
