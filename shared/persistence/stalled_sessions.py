"""Ends sessions of stopped processes that PostgreSQL does not end by itself.

A process that is stopped (SIGSTOP, a frozen machine) keeps its locks. If its transaction is idle, `idle_in_transaction_session_timeout`
ends it. But asyncpg prepares a statement before it runs it, and between the two its session is not idle: it reads from the client. There
that timeout does not count, and PostgreSQL puts the statement's timeout off until the client writes again (measured with 15). Payments
that such a transaction had locked waited until the process went on. `transaction_timeout` of PostgreSQL 17 would do as well.
"""

import structlog

from shared.persistence.database import AWAY_ERRORS, IDLE_IN_TRANSACTION_S, Database

log = structlog.get_logger(__name__)

_END_STALLED = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
        AND application_name = current_setting('application_name')
        AND state = 'active' AND wait_event = 'ClientRead' AND state_change <= now() - make_interval(secs => $1)"""


class StalledSessions:
    """Ends those sessions of this service, of any instance, that have waited for their client within a statement for too long."""

    name = "stalled_sessions"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, *, after_s: float = IDLE_IN_TRANSACTION_S) -> None:
        self._database = database
        self._after_s = after_s

    async def run_once(self) -> float:
        """End what is stalled now. Whoever it belonged to does its work again when it goes on."""
        async with self._database.connection() as connection:
            ended = await connection.fetchval(_END_STALLED, float(self._after_s))
        if ended:
            log.warning("stalled_sessions_ended", sessions=ended)
        return self.interval_s
