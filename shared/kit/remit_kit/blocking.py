"""The same client for programs without asyncio: its event loop runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from remit_kit.client import ANSWER_WITHIN_S, OUTCOME_WITHIN_S, Remit
from remit_kit.commands import Command, EncryptedCard, Token
from remit_kit.outcomes import PaymentOutcome, RefundOutcome

_Result = TypeVar("_Result")


class BlockingRemit:
    """`Remit` whose methods wait. Any number of threads may use it at once.

    with BlockingRemit(Remit("amqp://shop:PASSWORD@broker/%2F")) as remit:
        outcome = remit.pay("INV-1", amount_minor=12500, currency="EUR", method=Token("pm_card_visa"))
    """

    def __init__(self, remit: Remit) -> None:
        self._remit = remit
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remit-kit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._remit.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._remit.__aexit__(kind, error, trace))
        finally:
            self._end()

    def issue(
        self,
        invoice_id: str,
        *,
        customer_id: str,
        amount_minor: int,
        currency: str,
        command_id: UUID | None = None,
        within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        """As `Remit.issue`."""
        self._run(
            self._remit.issue(
                invoice_id,
                customer_id=customer_id,
                amount_minor=amount_minor,
                currency=currency,
                command_id=command_id,
                within_s=within_s,
            )
        )

    def pay(
        self,
        invoice_id: str,
        *,
        amount_minor: int,
        currency: str,
        method: Token | EncryptedCard,
        payment_id: UUID | None = None,
        command_id: UUID | None = None,
        within_s: float = OUTCOME_WITHIN_S,
    ) -> PaymentOutcome:
        """As `Remit.pay`."""
        return self._run(
            self._remit.pay(
                invoice_id,
                amount_minor=amount_minor,
                currency=currency,
                method=method,
                payment_id=payment_id,
                command_id=command_id,
                within_s=within_s,
            )
        )

    def void(
        self, invoice_id: str, *, reason: str, command_id: UUID | None = None, within_s: float = ANSWER_WITHIN_S
    ) -> None:
        """As `Remit.void`."""
        self._run(self._remit.void(invoice_id, reason=reason, command_id=command_id, within_s=within_s))

    def refund(
        self,
        invoice_id: str,
        *,
        currency: str,
        reason: str,
        amount_minor: int | None = None,
        refund_id: UUID | None = None,
        command_id: UUID | None = None,
        within_s: float = OUTCOME_WITHIN_S,
    ) -> RefundOutcome:
        """As `Remit.refund`."""
        return self._run(
            self._remit.refund(
                invoice_id,
                currency=currency,
                reason=reason,
                amount_minor=amount_minor,
                refund_id=refund_id,
                command_id=command_id,
                within_s=within_s,
            )
        )

    def answer(self, command: Command, *, within_s: float = ANSWER_WITHIN_S) -> None:
        """As `Remit.answer`."""
        self._run(self._remit.answer(command, within_s=within_s))

    def outcome(self, command: Command, *, within_s: float = OUTCOME_WITHIN_S) -> PaymentOutcome | RefundOutcome:
        """As `Remit.outcome`."""
        return self._run(self._remit.outcome(command, within_s=within_s))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run the work in the loop's thread, and wait. Ctrl-C here cancels it there."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
