"""A cache of the states that this process stored last, so that the next message about a state need not read it.

It is safe to decide on a cached state, because a decision on an outdated state cannot be stored: a unique key or a version checks every
write of an optimistic handler. If another instance has changed the state, the write is a conflict. The batch then reads the states and
decides again, and the cache rests for a while. It rests because two instances that share a queue find half of their cached states outdated.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State")

KEPT_MAX: Final = 5_000
"""States in the cache, about 3 MiB. The oldest is deleted first. At 1 000 payments/s a state stays five seconds, longer than a healthy
payment takes."""
REST_BATCHES: Final = 500
"""Batches that read all their states after a conflict."""


class StateCache(Generic[Key, State]):
    """The states that were stored last, by key.

    `epoch` counts lost connections to the database (`Database.epoch`). When it changes, the server may have been restored to an older
    state, so the cache is emptied.
    """

    def __init__(self) -> None:
        self._states: dict[Key, State] = {}
        self._epoch = 0
        self._resting = 0

    def get(self, keys: Iterable[Key], *, epoch: int) -> dict[Key, State]:
        """The cached states of `keys`. Empty while the cache rests."""
        if epoch != self._epoch:
            self._states.clear()
            self._epoch = epoch
        if self._resting:
            self._resting -= 1
            return {}
        return {key: self._states[key] for key in keys if key in self._states}

    def holds(self, key: Key) -> bool:
        """Whether the cache has a state of this key, also while it rests. Such a state is known to exist in the database."""
        return key in self._states

    @property
    def is_resting(self) -> bool:
        """Whether there was a conflict lately, so that nobody should rely on guesses now."""
        return self._resting > 0

    def put(self, states: Mapping[Key, State]) -> None:
        """Keep these states, which were just stored."""
        for key, state in states.items():
            self._states.pop(key, None)  # otherwise the key would keep its old place in the order of deletion
            self._states[key] = state
        while len(self._states) > KEPT_MAX:
            del self._states[next(iter(self._states))]

    def invalidate(self) -> None:
        """A batch failed, for whatever reason: empty the cache, and let it rest."""
        self._states.clear()
        self._resting = REST_BATCHES
