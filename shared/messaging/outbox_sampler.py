"""Counts what waits in the outbox because of others, for the operator."""

from shared.observability import metrics
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database


class OutboxSampler:
    """Sets the gauges of messages that are quarantined, and of public copies that wait."""

    name = "outbox_sampler"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> float:
        """Count once, with one statement."""
        async with self._database.connection() as connection:
            quarantined, public_copies = await outbox.counts(connection)
        metrics.OUTBOX_QUARANTINED.set(quarantined)
        metrics.PUBLIC_COPIES_WAITING.set(public_copies)
        return self.interval_s
