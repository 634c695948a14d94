"""The one loop that commits: repeats what met a conflict or an outage, halves what cannot be stored, and isolates the offender.

Whoever commits in batches uses it: the queue workers, the payment gateway's recorder of answers, staff's intake of dead letters.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from shared.batch.retry import BatchRetry, RetryState

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class HandlerErrors(Exception):
    """The handler raised for these items: a bug. Nothing was stored; the others are committed without them."""

    def __init__(self, errors: Sequence[tuple[Any, Exception]]) -> None:
        super().__init__()
        self.items = [item for item, _ in errors]
        self.__cause__ = errors[0][1]


class Commit(Protocol[Item_contra, Result_co]):
    """Stores a batch, whole or not at all. `carefully`: the same batch has failed before."""

    async def __call__(self, items: Sequence[Item_contra], /, *, carefully: bool) -> Result_co: ...


class CommitLoop(Generic[Item, Result]):
    """Commits until every item is stored or given up. `give_up` sees to an item that failed alone and again: it returns what to try in its
    place, or None."""

    def __init__(
        self,
        commit: Commit[Item, Result],
        *,
        give_up: Callable[[Item, Exception, RetryState], Awaitable[Item | None]],
        retry: BatchRetry,
    ) -> None:
        self._commit = commit
        self._give_up = give_up
        self._retry = retry

    async def run(self, items: Sequence[Item]) -> list[Result]:
        """Every item is stored or given up when this returns; what each commit returned. Raises `Stopped`."""
        state = RetryState()
        while items:
            try:
                result = await self._commit(items, carefully=state.failures > 0)
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch must end somewhere: `BatchRetry` tells errors apart
                if isinstance(error, HandlerErrors) and len(items) > 1:
                    return await self._without(items, error.items)
                if await self._retry.can_repeat(error, state, alone=len(items) == 1):
                    continue
                if len(items) > 1:
                    return await self._halves(items)
                replacement = await self._give_up(items[0], _cause_of(error), state)
                items = [] if replacement is None else [replacement]
            else:
                self._retry.succeeded()
                return [result]
        return []

    async def _without(self, items: Sequence[Item], offenders: Sequence[Item]) -> list[Result]:
        """Commit the others first; then the offenders, each alone."""
        results = await self.run([item for item in items if item not in offenders])
        for offender in offenders:
            results += await self.run([offender])
        return results

    async def _halves(self, items: Sequence[Item]) -> list[Result]:
        """Some of this data can never be stored: halve until the offender is alone."""
        middle = len(items) // 2
        return [*await self.run(items[:middle]), *await self.run(items[middle:])]


def _cause_of(error: Exception) -> Exception:
    cause = error.__cause__ if isinstance(error, HandlerErrors) else None
    return cause if isinstance(cause, Exception) else error
