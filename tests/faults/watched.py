"""`python -m tests.faults.watched SERVICE`: a service that reads its gauges twice a second, for trials in which an hour is a minute."""

import runpy
import sys
from typing import Final

from services.staff.journal import JournalSeals
from services.staff.unreadable import UnreadableWatch
from shared.persistence.store_sampler import StoreSampler

EVERY_S: Final = 0.5


def main() -> None:
    """Change how often it looks, and nothing else; then run the service."""
    for task in (StoreSampler, UnreadableWatch, JournalSeals):
        assert task.interval_s > EVERY_S
        task.interval_s = EVERY_S
    sys.argv = sys.argv[1:]
    runpy.run_module(f"services.{sys.argv[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
