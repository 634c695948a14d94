"""The shape of every pure core (Chassaing's Decider): state from events, events from a command.

`decide(command, state)` gives the events that the command brings about, or a refusal, which is a value; `evolve(state, event)` gives the
state after one event. Both are pure: no I/O, clock, randomness or logging. An exception out of either is a bug.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import TypeVar

State = TypeVar("State")
Event = TypeVar("Event")


def fold(evolve: Callable[[State, Event], State], initial: State, events: Iterable[Event]) -> State:
    """The state after all `events`, in order."""
    return reduce(evolve, events, initial)
