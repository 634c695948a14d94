"""Counts the payments that wait or are at risk, and tells the pace of the calls, for the operator."""

from services.payment_gateway import store
from services.payment_gateway.pace import Pace
from shared.observability import metrics
from shared.persistence.database import AWAY_ERRORS, Database


class BacklogSampler:
    """Sets the gauges of payments that are due, in doubt, or in need of a decision, and that of the pace."""

    name = "backlog_sampler"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, pace: Pace) -> None:
        self._database = database
        self._pace = pace

    async def run_once(self) -> float:
        """Count once, with one statement."""
        metrics.GATEWAY_PACE.set(self._pace.speed)
        async with self._database.connection() as connection:
            counts = await store.counts(connection)
        metrics.PAYMENTS_DUE.set(counts.due)
        metrics.PAYMENTS_IN_DOUBT.set(counts.in_doubt)
        metrics.PAYMENTS_NEEDING_DECISION.set(counts.needs_decision)
        return self.interval_s
