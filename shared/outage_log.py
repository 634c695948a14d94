"""How an outage is logged: where it begins, where it changes and where it ends, and not at each try."""

import logging
import time
from collections.abc import Callable, Hashable
from typing import Final

from structlog.typing import FilteringBoundLogger

from shared.observability.logs import describe_error

REASON_MAX: Final = 200
"""Characters of what the server said: a sentence."""
STANDING_INTERVAL_S: Final = 60.0
"""How often something that stands is told again. A queue that is full may be so for days, and a person has to mend it."""


class OutageLog:
    """Logs the event `began` when an outage begins or turns into one of another kind, and `ended` when it is over.

    Both have `about`; the first one has the reason that the server gave, the second one the number of failures in between.
    """

    def __init__(self, log: FilteringBoundLogger, began: str, ended: str, **about: object) -> None:
        self._log = log
        self._began, self._ended, self._about = began, ended, about
        self._told: type[BaseException] | None = None
        self._failures = 0

    def failed(self, error: BaseException, *, is_mistake: bool = False, **more: object) -> None:
        """Something failed again. `is_mistake`: it does not go away by itself."""
        self._failures += 1
        if type(error) is self._told:
            return
        self._told = type(error)
        level = logging.ERROR if is_mistake else logging.WARNING
        reason = describe_error(error, max_characters=REASON_MAX)
        self._log.log(level, self._began, **self._about, **more, error=reason)

    def succeeded(self) -> None:
        """It works. This is called after every batch."""
        if self._told is not None:
            self._log.info(self._ended, **self._about, failures=self._failures)
            self._told, self._failures = None, 0


class OnceAMinute:
    """Says which lines about something that stands are due: the first one, and one a minute. The keys come from a closed list."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: dict[Hashable, float] = {}

    def is_due(self, key: Hashable) -> bool:
        """Whether to log it now. Then it counts as logged."""
        now = self._clock()
        if now - self._told_at.get(key, -STANDING_INTERVAL_S) < STANDING_INTERVAL_S:
            return False
        self._told_at[key] = now
        return True
