"""`python -m services.staff` runs the service: it stores dead letters and cases, and publishes what people decide."""

from datetime import timedelta
from pathlib import Path

from services.staff import run_store, store, story_store
from services.staff.decisions import DecisionRepeater
from services.staff.handlers import CaseHandler
from services.staff.instances import HeartbeatHandler, QueueWatch
from services.staff.intake import Intake
from services.staff.journal import JournalSeals
from services.staff.journal_check import JournalCheck
from services.staff.letter_reader import LetterReader
from services.staff.listening import JournalHandler, NoInbox, WeekKeeper
from services.staff.proposals import read_limits
from services.staff.replays import ReplayHandler
from services.staff.run_sender import RunSender
from services.staff.second_person import SecondPersonLimitsKeeper
from services.staff.settings import StaffSettings
from services.staff.unreadable import UnreadableWatch
from shared.messaging.topology import DEAD_LETTERS, HEARTBEATS, JOURNAL, REPLAYS, UNREADABLE_DEAD_LETTERS
from shared.service import Runtime, run_service

MIGRATIONS = Path(__file__).parent / "migrations"

DEAD_LETTERS_PREFETCH = 50
"""How many dead letters are in memory at once. A crash counts a delivery against each of them."""

JOURNAL_GATHER_S = 0.25
"""How long what staff hear waits for more. Nobody waits for it, and few large batches leave processors and disk to payments."""
JOURNAL_PREFETCH = 1_000
"""How much of what staff hear may come meanwhile: at 1 500 payments/s, 750 messages."""


async def assemble(runtime: Runtime) -> None:
    """Assemble the service: the queues of staff and a watch over another one, which nobody consumes, each with a connection of its own.

    Actions of people put their messages into the outbox, and the sweeper publishes them.
    """
    runtime.consume("staff.cases", CaseHandler())
    runtime.consume(REPLAYS, ReplayHandler())
    consumer = runtime.add_consumer(DEAD_LETTERS, prefetch=DEAD_LETTERS_PREFETCH, wary=True)
    user = consumer.link.user
    intake = Intake(
        consumer, runtime.database, runtime.clock, runtime.readiness, staff_user=user, liveness=runtime.liveness
    )
    runtime.workers.append(intake)
    runtime.in_background(UnreadableWatch(runtime.link(UNREADABLE_DEAD_LETTERS)))
    settings = runtime.settings_as(StaffSettings)
    runtime.in_background(JournalSeals(runtime.database, runtime.relay, runtime.clock, settings.seals_file))
    runtime.in_background(JournalCheck(runtime.database, runtime.clock, settings.seals_file))
    runtime.in_background(LetterReader(runtime.database))
    sender = RunSender(
        runtime.database,
        runtime.relay,
        runtime.clock,
        old_after=timedelta(seconds=settings.replay_charges_within_s),
        is_told=settings.staff_replays == "on",
    )
    runtime.in_background(sender)
    runtime.in_background(SecondPersonLimitsKeeper(runtime.database, read_limits(settings.second_person)))
    runtime.in_background(DecisionRepeater(runtime.database, runtime.relay, runtime.clock))
    runtime.sample(store.OPEN_LETTERS, store.OPEN_CASES)
    runtime.add_retention(store.BODY_RETENTION, run_store.ITEM_RETENTION, *story_store.RETENTION)
    runtime.in_background(WeekKeeper(runtime.database))
    if settings.heartbeats == "on":
        runtime.consume(HEARTBEATS, HeartbeatHandler(), inbox=NoInbox())
        runtime.in_background(QueueWatch(runtime.link("queues"), runtime.database))
    if settings.staff_journal == "on":
        runtime.consume(
            JOURNAL,
            JournalHandler(),
            inbox=NoInbox(),
            prefetch=JOURNAL_PREFETCH,
            gather_s=JOURNAL_GATHER_S,
        )


def main() -> None:
    """Run the service until it is told to stop."""
    run_service(StaffSettings, MIGRATIONS, assemble)


if __name__ == "__main__":
    main()
