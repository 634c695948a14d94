"""`python -m services.invoice` runs the service; `python -m services.invoice rebuild [--repair]` folds its events again."""

import asyncio
import sys
from pathlib import Path
from typing import NoReturn

from services.invoice import set_aside
from services.invoice.books import BOOKS
from services.invoice.command_inbox import CommandInbox
from services.invoice.handlers import InvoiceHandler
from services.invoice.rebuild import rebuild
from services.invoice.reminders import RequestReminder
from services.invoice.settings import InvoiceSettings
from shared.clock import system_clock
from shared.messaging.topology import COMMANDS, SUSPECT_COMMANDS
from shared.observability.redaction import describe_error, show_uncaught
from shared.observability.visible import visible
from shared.persistence.database import AWAY_ERRORS, Database, mistake_of
from shared.service import EXIT_FAILED, EXIT_MISCONFIGURED, Runtime, run_service
from shared.settings import ConfigurationError, EnvironmentVariables, database_variable

NAME = "invoice"
MIGRATIONS = Path(__file__).parent / "migrations"


async def assemble(runtime: Runtime) -> None:
    """Assemble the service: its queues, and the reminder."""
    settings = runtime.settings_as(InvoiceSettings)
    senders = settings.of_senders()
    handler, inbox = InvoiceHandler(senders), CommandInbox(senders)
    runtime.consume(COMMANDS, handler, inbox=inbox)
    runtime.consume(SUSPECT_COMMANDS, handler, inbox=inbox)
    runtime.consume("invoice.settlement", handler)
    reminder = RequestReminder(runtime.database, runtime.relay, older_than_s=settings.remind_after_s)
    runtime.add_retention(set_aside.RETENTION)
    runtime.seal(BOOKS)
    runtime.in_background(reminder, first_in_s=reminder.interval_s)  # outcomes that wait in our queue are handled first


async def _rebuild(*, repair: bool) -> int:
    database = await Database.open(EnvironmentVariables().database_url(NAME), name="remit rebuild", connections_max=2)
    try:
        rebuilt = await rebuild(database, system_clock, repair=repair)
    finally:
        await database.close()
    sys.stdout.write(f"{rebuilt.streams} streams folded, {len(rebuilt.differing)} differ\n")
    for invoice_id in rebuilt.differing:
        sys.stdout.write(f"{visible(invoice_id)}\n")
    return 1 if rebuilt.differing and not repair else 0


def main() -> None:
    """Run the service, or rebuild its states from their events."""
    if sys.argv[1:2] != ["rebuild"]:
        run_service(InvoiceSettings, MIGRATIONS, assemble)
    sys.excepthook = show_uncaught
    try:
        sys.exit(asyncio.run(_rebuild(repair="--repair" in sys.argv)))
    except ConfigurationError as error:
        _stop(str(error), EXIT_MISCONFIGURED)
    except AWAY_ERRORS as error:
        if (mistake := mistake_of(error)) is not None:
            _stop(f"{database_variable(NAME)}: {mistake}", EXIT_MISCONFIGURED)
        _stop(describe_error(error), EXIT_FAILED)


def _stop(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"{visible(f'{NAME}: {sentence}')}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
