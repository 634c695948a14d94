"""States as this process stored them last, so that the next message about one need not read it.

Deciding on a cached state is safe where a wrong one cannot be stored: every write of an optimistic handler is checked by a unique key or a
version. What another instance stored meanwhile is a conflict: the batch reads and decides again, and the cache rests for a while, since two
instances that share a queue would be wrong half of the time.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State")

KEPT_MAX: Final = 5_000
"""States, the oldest forgotten first: at 1 000 payments/s five seconds, longer than a healthy payment takes; some 3 MiB."""
REST_BATCHES: Final = 500
"""Batches that read everything after a guess was wrong."""


class StateCache(Generic[Key, State]):
    """`epoch` is that of the database's connections: whoever lost one may be talking to a server that was restored to an older state."""

    def __init__(self) -> None:
        self._states: dict[Key, State] = {}
        self._epoch = 0
        self._resting = 0

    def get(self, keys: Iterable[Key], *, epoch: int) -> dict[Key, State]:
        """Those of the keys that are state_cache."""
        if epoch != self._epoch:
            self._states.clear()
            self._epoch = epoch
        if self._resting:
            self._resting -= 1
            return {}
        return {key: self._states[key] for key in keys if key in self._states}

    def holds(self, key: Key) -> bool:
        """Whether a state of that key was stored here, recalled or not: then it is known to exist."""
        return key in self._states

    @property
    def is_resting(self) -> bool:
        """Whether a guess was wrong lately: nothing should be guessed now."""
        return self._resting > 0

    def put(self, states: Mapping[Key, State]) -> None:
        """These are stored now."""
        for key, state in states.items():
            self._states.pop(key, None)  # else it would keep its old place
            self._states[key] = state
        while len(self._states) > KEPT_MAX:
            del self._states[next(iter(self._states))]

    def invalidate(self) -> None:
        """Something went wrong with a batch: whatever it was, read again."""
        self._states.clear()
        self._resting = REST_BATCHES
