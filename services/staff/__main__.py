"""`python -m services.staff` runs the service: it takes in dead letters and cases, and publishes what people decided."""

from pathlib import Path

from services.staff import store
from services.staff.handlers import CaseHandler
from services.staff.intake import Intake
from shared.messaging.consumer import Consumer
from shared.messaging.topology import DEAD_LETTERS
from shared.service import Runtime, run_service

NAME = "staff"
MIGRATIONS = Path(__file__).parent / "migrations"

DEAD_LETTERS_PREFETCH = 50
"""What the broker set aside may be large: so many bodies are in memory at once, and no more."""


async def assemble(runtime: Runtime) -> None:
    """Two queues; the actions of people come through the outbox, which the relay sweeps."""
    runtime.consume("staff.cases", CaseHandler())
    consumer = Consumer(runtime.consume_link, DEAD_LETTERS, readiness=runtime.readiness, prefetch=DEAD_LETTERS_PREFETCH)
    runtime.consumers.append(consumer)
    intake = Intake(consumer, runtime.database, runtime.clock, runtime.readiness)
    runtime.workers.append(intake)
    runtime.add_retention(store.BODY_RETENTION)


def main() -> None:
    """Run the service."""
    run_service(NAME, MIGRATIONS, assemble)


if __name__ == "__main__":
    main()
