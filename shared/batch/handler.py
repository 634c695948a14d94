"""What a service gives to the pipeline for one queue: which state a message is about, what the message does to it, how that is stored.

`react` is pure and sees one message. `load` and `save` see the whole batch and are set-based. Nobody here knows of batches, retries,
duplicates, publishing or acknowledgements: that is the pipeline's work.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from shared.batch.state_cache import StateCache
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.persistence.database import Connection
from shared.persistence.writes import WriteBatch
from shared.records import dataclass

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State")
Effect = TypeVar("Effect")


@dataclass(frozen=True, slots=True)
class Reaction(Generic[State, Effect]):
    """What one message brings about: the state after it, what is to be stored beside the state, what is to be said."""

    state: State
    effects: tuple[Effect, ...] = ()
    says: tuple[Draft, ...] = ()


@dataclass(frozen=True, slots=True)
class Change(Generic[Key, State, Effect]):
    """A reaction with what it was about. `cause` gives every effect its id, time and correlation."""

    key: Key
    message: Inbound
    cause: Cause
    reaction: Reaction[State, Effect]


class MessageHandler(Protocol[Key, State, Effect]):
    """What a service does with the messages of one queue."""

    @property
    def source(self) -> str:
        """The service's name, as in CloudEvents `source`."""
        ...

    def key(self, message: Inbound) -> Key:
        """Which state the message is about."""
        ...

    async def load(self, tx: Connection, messages: Sequence[Inbound]) -> Mapping[Key, State]:
        """The state behind every key of `messages`. Its rows are locked in sorted order until the transaction ends."""
        ...

    def react(self, state: State, message: Inbound) -> Reaction[State, Effect]:
        """Decide. An exception is a bug: the message becomes a dead letter, alone."""
        ...

    async def save(self, writes: WriteBatch, changes: Sequence[Change[Key, State, Effect]]) -> Sequence[Outgoing]:
        """Collect a write or two a table. Returns what is to be said beside the drafts of the reactions, for instance again."""
        ...


@runtime_checkable
class OptimisticHandler(MessageHandler[Key, State, Effect], Protocol[Key, State, Effect]):
    """A handler whose writes are all checked by a unique key (an event's stream and version, a payment's id) or by the version of a row.

    A decision on a state that has moved meanwhile cannot be stored, so the state need not be locked, and may come from a cache.
    """

    @property
    def state_cache(self) -> StateCache[Key, State] | None:
        """States that may be taken instead of read. All handlers of the process on the same states share one."""
        ...

    async def load_unlocked(
        self, connection: Connection, messages: Sequence[Inbound], cached: Mapping[Key, State]
    ) -> Mapping[Key, State] | None:
        """As `load`, without locks. What is in `cached`, or guessed to be absent, need not be read. None: these need a transaction."""
        ...

    def is_conflict_checked(self, reaction: Reaction[State, Effect]) -> bool:
        """Whether storing the reaction fails if the state is not the one it was decided on.

        A message that changes nothing is not checked, so it is never decided on a cached state.
        """
        ...


@runtime_checkable
class CommitListener(Protocol[Key, State, Effect]):
    """A handler that has to know when its changes are durable."""

    def committed(self, changes: Sequence[Change[Key, State, Effect]]) -> None:
        """The changes are stored. Must not raise."""
        ...
