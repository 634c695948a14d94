"""`python -m tests.bench.fast_idle saga`: a service with short pauses, which does within minutes what it does in hours of rest.

What a service does when there is nothing to do, it does for ever: a few bytes kept each time are a leak that no load shows. What only waits
for the garbage collector's next full round, which would take days to come by itself, is collected: it is no leak.
"""

import gc
import sys
import threading
import time
from importlib import import_module
from typing import Final

from shared.messaging import consumer

QUICKER: Final = 50
"""All pauses alike: whatever grows, an hour of it is an hour."""
COLLECT_EVERY_S: Final = 1.0
BACKGROUND_TASKS: Final = (
    ("shared.messaging.outbox_cleaner", "OutboxCleaner"),
    ("shared.messaging.outbox_sweeper", "OutboxSweeper"),
    ("shared.messaging.publisher_probe", "PublisherProbe"),
    ("shared.persistence.retention", "RetentionCleaner"),
    ("services.invoice.reminders", "RequestReminder"),
    ("services.payment_gateway.backlog_sampler", "BacklogSampler"),
    ("services.payment_gateway.lease_claimer", "LeaseClaimer"),
    ("services.saga.deadlines", "DeadlineScheduler"),
)
"""All there are, by module and class: tests/unit/test_background.py holds this list against the code."""


def main() -> None:
    """Run the service that the command line names."""
    service = f"services.{sys.argv[1]}"
    consumer.WATCH_INTERVAL_S /= QUICKER  # a consumer that hears nothing takes a new channel
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
