"""Writes the head of the journal into the log, where the role of this service cannot change it."""

import structlog

from services.staff import store
from shared.observability import metrics
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

INTERVAL_S = 60.0
"""An entry that is taken out sooner, before its head stands in a log, leaves no trace there. Decisions take their head along at once."""


class JournalHeadLog:
    """Logs each new head of the journal. The audit compares the journal with the heads in the logs that it is given."""

    name = "journal_head"
    interval_s = INTERVAL_S
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database
        self._logged: str | None = None

    async def run_once(self) -> float:
        """Log the head if it is a new one. If the one before is gone, the journal was rewritten: that is an error until it is back."""
        try:
            async with self._database.connection() as connection:
                is_intact = self._logged is None or await store.has_journal_head(connection, self._logged)
                head = await store.journal_head(connection)
        except AWAY_ERRORS:
            metrics.JOURNAL_INTACT.hide()
            raise
        metrics.JOURNAL_INTACT.show({(): int(is_intact)})
        if not is_intact:
            log.error(
                "journal_broken", head=self._logged, advice="run `remit journal verify` with heads that you trust"
            )
        elif head is not None and head != self._logged:
            log.info("journal_head", head=head)
            self._logged = head
        return self.interval_s
