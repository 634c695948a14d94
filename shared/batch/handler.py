"""What a service gives to the batch pipeline for one queue: which state a message is about, how it changes the state, how that is stored.

`react` is pure and sees one message. `load` and `save` see the whole batch, and use one statement a table. A handler knows nothing of
retries, duplicates, publishing or acknowledgements: they are the pipeline's work.
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
    """The effects of one message: the new state, `effects` to store besides the state, and `says`, the messages to publish."""

    state: State
    effects: tuple[Effect, ...] = ()
    says: tuple[Draft, ...] = ()


@dataclass(frozen=True, slots=True)
class Change(Generic[Key, State, Effect]):
    """A reaction, with the message and the state key it belongs to. `cause` gives every effect its id, time and correlation id."""

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
        """The key of the state that the message is about."""
        ...

    async def load(self, tx: Connection, messages: Sequence[Inbound]) -> Mapping[Key, State]:
        """The state of every key of `messages`. Its rows are locked in sorted order until the transaction ends."""
        ...

    def react(self, state: State, message: Inbound) -> Reaction[State, Effect]:
        """Decide what the message does to the state. An exception is a bug, and makes this one message a dead letter."""
        ...

    async def save(self, writes: WriteBatch, changes: Sequence[Change[Key, State, Effect]]) -> Sequence[Outgoing]:
        """Collect the writes of all changes, one or two a table.

        Returns messages to publish besides the drafts of the reactions, for instance one that is published again.
        """
        ...


@runtime_checkable
class OptimisticHandler(MessageHandler[Key, State, Effect], Protocol[Key, State, Effect]):
    """A handler whose every write is checked by a unique key or by the version of a row.

    Such a key is an event's stream and version, or a payment's id. A decision cannot be stored if its state has changed since it was read.
    So the state need not be locked, and may come from a cache.
    """

    @property
    def state_cache(self) -> StateCache[Key, State] | None:
        """A cache of states that need not be read, or None. All handlers in the process that work on the same states share one cache."""
        ...

    async def load_unlocked(
        self, connection: Connection, messages: Sequence[Inbound], cached: Mapping[Key, State]
    ) -> Mapping[Key, State] | None:
        """Like `load`, but without locks. Returns None if these messages need a transaction.

        A state that is in `cached` need not be read, and neither need one that probably does not exist yet.
        """
        ...

    def is_conflict_checked(self, reaction: Reaction[State, Effect]) -> bool:
        """Whether storing the reaction fails if its state has changed since it was read.

        A reaction that changes nothing writes nothing, so no conflict would show. It is never decided on a cached state.
        """
        ...


@runtime_checkable
class CommitListener(Protocol[Key, State, Effect]):
    """A handler that is told when its changes are durable."""

    def committed(self, changes: Sequence[Change[Key, State, Effect]]) -> None:
        """The changes are stored. Must not raise."""
        ...
