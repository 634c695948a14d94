"""Builds of our services without one guarantee: `python -m tests.faults.builds NAME SERVICE` runs one.

The product has no switch for this. The code is changed in that process only, before the service starts. Each build proves that the audit
would notice if the guarantee were lost one day.
"""

import asyncio
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from services.invoice import answers
from services.invoice.answers import StoredAnswer
from services.payment_gateway import domain, store
from services.payment_gateway.charging import STEPS_MAX, Charging
from services.payment_gateway.domain import (
    GatewayAnswer,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Policy,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.store import PaymentRow
from shared.batch.worker import QueueWorker
from shared.messaging import publisher
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import Tx
from shared.persistence.outbox import OutboxBatch
from shared.persistence.writes import WriteBatch

WRITTEN_S: Final = 0.2
"""Longer than an ack waits for others (`shared.messaging.consumer.ACK_WITHIN_S`) and than the client takes to write it to the socket."""


def _put(owner: object, name: str, by: object) -> None:
    """Replace the attribute. It must exist, or no guarantee would be removed."""
    assert callable(getattr(owner, name)), name
    setattr(owner, name, by)


def _inbox_off() -> None:
    """A command that is delivered again is handled again."""
    insert = answers.insert

    async def load(_tx: Tx, _ids: object) -> dict[Any, StoredAnswer]:
        return {}

    async def replace_all(writes: WriteBatch, rows: Sequence[StoredAnswer], _also: object = None) -> None:
        if rows:
            ids = [row.command_id for row in rows]
            await writes.execute("DELETE FROM answers WHERE command_id = ANY($1::uuid[])", ids)
            await insert(writes, rows)

    _put(answers, "load", load)
    _put(answers, "insert", replace_all)


def _ack_before_commit() -> None:
    """Deliveries are acknowledged as they arrive."""
    ack, handle = Consumer.ack, QueueWorker.handle

    async def ack_and_handle(worker: "QueueWorker[Any, Any, Any]", batch: Sequence[Delivery]) -> None:
        await ack(worker._consumer, batch)
        await asyncio.sleep(WRITTEN_S)
        await handle(worker, batch)

    async def acknowledged(_consumer: Consumer, _batch: Sequence[Delivery]) -> None:
        """Do nothing: the batch was acknowledged before."""

    _put(Consumer, "ack", acknowledged)
    _put(QueueWorker, "handle", ack_and_handle)


def _deleted_before_the_confirm() -> None:
    """A row of the outbox is deleted, then its messages are published."""
    publish = Relay.publish

    async def delete_and_publish(relay: Relay, outbox_batches: Sequence[OutboxBatch]) -> int:
        async with relay._database.connection() as connection:
            await outbox.delete(connection, [outbox_batch.id for outbox_batch in outbox_batches])
        return await publish(relay, outbox_batches)

    _put(Relay, "publish", delete_and_publish)


def _returned_message_ignored() -> None:
    """A message that the broker returned counts as published."""
    _put(publisher._Confirms, "on_message", lambda _confirms, _method, _header, _body: None)


def _confirmed_before_recorded() -> None:
    """The gateway's id is recorded only together with the answer to its confirm."""

    async def work_on(charging: Charging, row: PaymentRow) -> None:
        step = domain.next_step(row.payment)
        for seq in range(1, STEPS_MAX + 1):
            result = await charging._take_step(step, row, seq)
            if step is not GatewayStep.PREPARE and not await charging.commit.record(result):
                return
            step = result.transition.then
            if step is None:
                return
            row = replace(row, payment=result.transition.payment)

    _put(Charging, "_work_on", work_on)


def _not_charged_without_a_cancel() -> None:
    """A payment to be cancelled is recorded as if it were cancelled."""

    def settle(payment: Payment, pending: domain.PendingOutcome) -> PaymentTransition:
        return domain._cancelled(replace(payment, pending=pending), Policy(ladder_s=(1.0,), remind_s=1.0))

    _put(domain, "_cancel", settle)


def _timeout_is_declined() -> None:
    """A confirm without an answer is taken for a decline."""

    doubt = domain._doubt

    def decline(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
        if payment.status is PaymentStatus.PREPARED and isinstance(answer, port.Unknown):
            return PaymentTransition(domain.move(payment, PaymentStatus.DECLINED, reason="timeout"), Outcome.DECLINED)
        return doubt(payment, answer, policy)

    _put(domain, "_doubt", decline)


def _differences_not_seen() -> None:
    """Whatever the gateway says of a capture later, it is taken for what was ordered."""
    _put(domain, "difference_of", lambda _answer, _payment: None)


def _fencing_off() -> None:
    """The last writer wins, even if another instance holds the row."""
    fence = " AND p.fence = u.held_fence"
    assert fence in store._UPDATE, "there is no fence to take out"
    store._UPDATE = store._UPDATE.replace(fence, "")


BUILDS: Final[dict[str, Callable[[], None]]] = {
    "inbox-off": _inbox_off,
    "ack-before-commit": _ack_before_commit,
    "outbox-row-deleted-before-the-confirm": _deleted_before_the_confirm,
    "returned-message-ignored": _returned_message_ignored,
    "confirmed-before-the-id-is-recorded": _confirmed_before_recorded,
    "not-charged-without-a-cancel": _not_charged_without_a_cancel,
    "timeout-recorded-as-declined": _timeout_is_declined,
    "fencing-off": _fencing_off,
    "differences-not-seen": _differences_not_seen,
}
"""The guarantees that can be removed, by name."""


def main() -> None:
    """Remove the guarantee, then run the service."""
    name, service = sys.argv[1:]
    BUILDS[name]()
    sys.argv = [service]
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
