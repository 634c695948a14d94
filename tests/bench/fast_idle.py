"""`python -m tests.bench.fast_idle saga`: runs a service with short pauses, so that it does in minutes its idle work of hours.

Idle work goes on for ever: a few bytes kept each time are a leak that no load shows. Garbage that only waits for the collector's next full
round, which would take days to come by itself, is collected first: it is no leak.
"""

import gc
import sys
import threading
import time
from importlib import import_module
from typing import Final

from shared.messaging import consumer

QUICKER: Final = 50
"""All pauses are shortened by this factor, so that an hour's growth stays an hour's growth."""
COLLECT_EVERY_S: Final = 1.0
BACKGROUND_TASKS: Final = (
    ("shared.messaging.outbox_keeper", "OutboxKeeper"),
    ("shared.messaging.outbox_sweeper", "OutboxSweeper"),
    ("shared.messaging.publisher_probe", "PublisherProbe"),
    ("shared.persistence.retention", "RetentionCleaner"),
    ("shared.persistence.seals", "Sealer"),
    ("shared.persistence.stalled_sessions", "StalledSessions"),
    ("shared.persistence.store_sampler", "StoreSampler"),
    ("shared.heartbeat", "HeartbeatSender"),
    ("shared.web.connections", "Connections"),
    ("shared.web.pulse", "DatabasePulse"),
    ("services.invoice.door.waiting", "WaitingRoom"),
    ("services.invoice.reminders", "RequestReminder"),
    ("services.payment_gateway.gateway_watch", "GatewayWatch"),
    ("services.payment_gateway.lease_claimer", "LeaseClaimer"),
    ("services.saga.deadlines", "DeadlineScheduler"),
    ("services.staff.decisions", "DecisionRepeater"),
    ("services.staff.instances", "QueueWatch"),
    ("services.staff.journal", "JournalSeals"),
    ("services.staff.journal_check", "JournalCheck"),
    ("services.staff.listening", "WeekKeeper"),
    ("services.staff.letter_reader", "LetterReader"),
    ("services.staff.run_sender", "RunSender"),
    ("services.staff.second_person", "SecondPersonLimitsKeeper"),
    ("services.staff.unreadable", "UnreadableWatch"),
)
"""All background tasks, by module and class. tests/unit/test_background.py compares this list with the code."""


def main() -> None:
    """Run the service that the command line names."""
    service = f"services.{sys.argv[1]}"
    consumer.WATCH_INTERVAL_S /= QUICKER  # an idle consumer takes a new channel at this interval
    for module, name in BACKGROUND_TASKS:
        if module.startswith(("shared.", f"{service}.")):
            task = getattr(import_module(module), name)
            task.interval_s /= QUICKER
    threading.Thread(target=_collect, daemon=True).start()
    import_module(f"{service}.__main__").main()


def _collect() -> None:
    while True:
        time.sleep(COLLECT_EVERY_S)
        gc.collect()


if __name__ == "__main__":
    main()
