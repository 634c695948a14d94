"""`python -m tests.bench.quickened saga`: a service with short pauses, which does within minutes what it does in hours of rest.

What a service does when there is nothing to do, it does for ever: a few bytes kept each time are a leak that no load shows.
"""

import sys
from importlib import import_module
from typing import Final

CHANNELS_QUICKER: Final = 300
"""A consumer that hears nothing takes a new channel; rows beyond their retention are looked for."""
POLLS_QUICKER: Final = 50
"""Tables are asked for what is due."""

_PAUSES: Final = (
    ("shared.messaging.consumer", "WATCH_INTERVAL_S", CHANNELS_QUICKER),
    ("shared.persistence.retention", "INTERVAL_S", CHANNELS_QUICKER),
    ("shared.messaging.relay", "SWEEP_INTERVAL_S", POLLS_QUICKER),
    ("services.invoice.reminders", "REMIND_INTERVAL_S", POLLS_QUICKER),
    ("services.saga.deadlines", "POLL_INTERVAL_S", POLLS_QUICKER),
)


def main() -> None:
    """Run the service that the command line names."""
    service = f"services.{sys.argv[1]}"
    for place, name, quicker in _PAUSES:
        if place.startswith(("shared.", f"{service}.")):
            module = import_module(place)
            setattr(module, name, getattr(module, name) / quicker)
    import_module(f"{service}.__main__").main()


if __name__ == "__main__":
    main()
