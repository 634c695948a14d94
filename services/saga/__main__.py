"""`python -m services.saga` runs the service."""

from pathlib import Path

from services.saga import store
from services.saga.deadlines import DeadlineScheduler
from services.saga.domain import ReminderSchedule
from services.saga.handlers import SagaHandler
from services.saga.settings import SagaSettings
from shared.service import Runtime, run_service

MIGRATIONS = Path(__file__).parent / "migrations"


async def assemble(runtime: Runtime) -> None:
    """Assemble the service: one queue, and the deadlines."""
    schedule = ReminderSchedule(runtime.settings_as(SagaSettings).deadline_s)
    runtime.consume("saga.events", SagaHandler(schedule))
    runtime.in_background(DeadlineScheduler(runtime.database, runtime.relay, runtime.clock, schedule))
    runtime.sample(store.AT_WORK)
    runtime.vitals.count_overdue = store.count_overdue
    runtime.add_retention(store.FIRED_RETENTION, store.JOURNAL_RETENTION)


def main() -> None:
    """Run the service until it is told to stop."""
    run_service(SagaSettings, MIGRATIONS, assemble)


if __name__ == "__main__":
    main()
