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

QUICKER: Final = 50
"""All pauses alike: whatever grows, an hour of it is an hour."""
COLLECT_EVERY_S: Final = 1.0
_PAUSES: Final = (
    ("shared.messaging.consumer", "WATCH_INTERVAL_S"),  # a consumer that hears nothing takes a new channel
    ("shared.messaging.relay", "SWEEP_INTERVAL_S"),
    ("shared.persistence.retention", "INTERVAL_S"),
    ("services.invoice.reminders", "REMIND_INTERVAL_S"),
    ("services.payment_gateway.charging", "POLL_MOST_S"),
    ("services.payment_gateway.charging", "SAMPLE_INTERVAL_S"),
    ("services.saga.deadlines", "POLL_INTERVAL_S"),
)


def main() -> None:
    """Run the service that the command line names."""
    service = f"services.{sys.argv[1]}"
    for place, name in _PAUSES:
        if place.startswith(("shared.", f"{service}.")):
            module = import_module(place)
            setattr(module, name, getattr(module, name) / QUICKER)
    threading.Thread(target=_collect, daemon=True).start()
    import_module(f"{service}.__main__").main()


def _collect() -> None:
    while True:
        time.sleep(COLLECT_EVERY_S)
        gc.collect()


if __name__ == "__main__":
    main()
