"""Counts the payments that wait or are at risk, for the operator."""

from services.payment_gateway import store
from shared.observability import metrics
from shared.persistence.database import AWAY_ERRORS, Database


class BacklogSampler:
    """Sets the gauges of payments that are due, in doubt, or in need of a decision."""

    name = "backlog_sampler"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> float:
        """Count once, with one statement."""
        async with self._database.connection() as connection:
            counts = await store.counts(connection)
        metrics.PAYMENTS_DUE.set(counts.due)
        metrics.PAYMENTS_IN_DOUBT.set(counts.in_doubt)
        metrics.PAYMENTS_NEEDING_DECISION.set(counts.needs_decision)
        return self.interval_s
