"""The same client for programs without asyncio: its event loop runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from remit_kit.client import Remit

_Result = TypeVar("_Result")
_Given = ParamSpec("_Given")


def _waiting(
    method: Callable[Concatenate[Remit, _Given], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate["BlockingRemit", _Given], _Result]:
    """The same method, with the same parameters, that returns when its work is done."""

    def waits(self: "BlockingRemit", /, *given: _Given.args, **named: _Given.kwargs) -> _Result:
        return self._run(method, *given, **named)

    update_wrapper(waits, method)
    return waits


class BlockingRemit:
    """`Remit` whose methods wait. Any number of threads may use it at once.

        with BlockingRemit(Remit("amqp://shop:PASSWORD@broker/%2F")) as remit:
            outcome = remit.pay("INV-1", amount_minor=12500, currency="EUR", method=Token("pm_card_visa"))

    The `on_event` of that `Remit` is asynchronous and runs in the thread of the event loop: there await the methods of the `Remit` itself.
    Those of this class raise RuntimeError there, since they would wait for themselves.
    """

    issue = _waiting(Remit.issue)
    pay = _waiting(Remit.pay)
    void = _waiting(Remit.void)
    refund = _waiting(Remit.refund)
    answer = _waiting(Remit.answer)
    outcome = _waiting(Remit.outcome)

    def __init__(self, remit: Remit) -> None:
        self._remit = remit
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remit-kit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(Remit.__aenter__)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(Remit.__aexit__, kind, error, trace)
        finally:
            self._end()

    def _run(
        self,
        method: Callable[Concatenate[Remit, _Given], Coroutine[Any, Any, _Result]],
        /,
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Result:
        """Run the method in the loop's thread, and wait. Ctrl-C here cancels it there."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "in on_event await the method of the Remit, not that of the BlockingRemit: this one would wait for itself"
            )
        running = asyncio.run_coroutine_threadsafe(method(self._remit, *given, **named), self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
