"""The commit loop: it repeats a batch after a conflict or an outage, and halves one that cannot be stored to isolate the bad item.

All code that commits in batches uses it: the queue workers, the payment gateway's recorder of answers, staff's intake of dead letters.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from shared.batch.retry import BatchRetry, RetryState

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class HandlerErrors(Exception):
    """The handler raised an error for these items, which is a bug. Nothing was stored. The others are then committed without them."""

    def __init__(self, errors: Sequence[tuple[Any, Exception]]) -> None:
        super().__init__()
        self.items = [item for item, _ in errors]
        self.__cause__ = errors[0][1]


class Commit(Protocol[Item_contra, Result_co]):
    """Stores a batch, whole or not at all. `carefully` is true if the same batch has failed before."""

    async def __call__(self, items: Sequence[Item_contra], /, *, carefully: bool) -> Result_co: ...


class CommitLoop(Generic[Item, Result]):
    """Commits items until each is stored or given up.

    `give_up` receives an item that kept failing although it was tried alone. It returns an item to try in its place, or None.
    """

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
        """Store or give up every item, and return the result of each commit. Raises `Stopped` if the service stops meanwhile."""
        state = RetryState()
        while items:
            try:
                with self._retry.at_work():
                    result = await self._commit(items, carefully=state.failures > 0)
            except Exception as error:  # noqa: BLE001 - a batch must end somewhere after any error: `BatchRetry` tells them apart
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
        """Commit the other items first, then the offenders, each alone."""
        results = await self.run([item for item in items if item not in offenders])
        for offender in offenders:
            results += await self.run([offender])
        return results

    async def _halves(self, items: Sequence[Item]) -> list[Result]:
        """Commit each half by itself, because an item among these can never be stored. Halving goes on until that item is alone."""
        middle = len(items) // 2
        return [*await self.run(items[:middle]), *await self.run(items[middle:])]


def _cause_of(error: Exception) -> Exception:
    cause = error.__cause__ if isinstance(error, HandlerErrors) else None
    return cause if isinstance(cause, Exception) else error
