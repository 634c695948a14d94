"""Records what the gateway answered: one transaction for the results that have arrived, however many payments they belong to.

An answer is never dropped. While the database is away it is held and offered again until it is recorded; if the row has another holder
by then, the answer is still kept, and if it says that money moved, the row learns it in the same transaction. A process that dies with
answers in hand loses nothing either: the gateway is asked again when the lease ends.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog

from services.payment_gateway import domain, ledger, store
from services.payment_gateway.domain import GatewayAnswer, Outcome, PaymentTransition, Policy
from services.payment_gateway.handlers import TELLS_ATTEMPTS, said_by
from services.payment_gateway.ledger import GatewayAttempt, PublishedOutcome
from services.payment_gateway.store import Lease, PaymentRow, PaymentUpdate
from shared import crash_points
from shared.batch.commit import CommitLoop
from shared.batch.retry import BatchRetry, RetryState
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.persistence.outbox import OutboxBatch
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

RESULTS_MAX = 200
"""Results in one transaction, as many as messages in one batch of the shell."""
TRIES_MAX = 20
"""Tries of a result alone. An answer of the gateway is worth more of them than a message, which would only come again."""
SAY_MAX = 2_000
"""Messages kept in memory for publishing; beyond, parcels are left to the sweeper, who reads them from the outbox."""


class Publishes(Protocol):
    """`shared.messaging.relay.Relay`."""

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int: ...


class UnrecordableError(Exception):
    """The database refuses this result, whatever we try. The gateway is asked again when the lease ends."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a step that was decided on `row`. `attempt` and `answer` are None where nothing was asked."""

    row: PaymentRow
    transition: PaymentTransition
    at: datetime
    attempt: GatewayAttempt | None = None
    answer: GatewayAnswer | None = None

    @property
    def update(self) -> PaymentUpdate:
        transition = self.transition
        after = replace(self.row, payment=transition.payment)
        return PaymentUpdate(after, self.row.fence, transition.delay_s, kept=transition.then is not None)


@dataclass(frozen=True, slots=True)
class _WaitingResult:
    result: StepResult
    recorded: "asyncio.Future[bool]"


class GroupCommit:
    """One writer for all payments at work in this process."""

    def __init__(
        self, *, database: Database, relay: Publishes, readiness: Readiness, lease: Lease, policy: Policy
    ) -> None:
        self._database = database
        self._relay = relay
        self._lease = lease
        self._policy = policy
        retry = BatchRetry("charging", database, readiness, tries_max=TRIES_MAX)
        self._committing = CommitLoop(self._commit_waiting, give_up=_give_up, retry=retry)
        self._waiting: deque[_WaitingResult] = deque()  # bounded by the payments at work: each waits for its record
        self._arrived = asyncio.Event()
        self._unsaid: deque[OutboxBatch] = deque()
        self._unsaid_arrived = asyncio.Event()
        self._all_said = asyncio.Event()
        self._all_said.set()

    async def record(self, result: StepResult) -> bool:
        """Durable when this returns. False: the row has another holder now, who goes on with it; the answer is kept all the same.

        Raises `UnrecordableError`.
        """
        waiting = _WaitingResult(result, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.recorded

    async def all_said(self) -> None:
        """Wait until what was recorded has been offered to the broker."""
        await self._all_said.wait()

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            while self._waiting:
                await self._committing.run(
                    [self._waiting.popleft() for _ in range(min(RESULTS_MAX, len(self._waiting)))]
                )
            self._arrived.clear()
            await self._arrived.wait()

    async def say(self) -> None:
        """Publish what was recorded, until cancelled: a broker that is away holds up no record."""
        while True:
            while self._unsaid:
                outbox_batches = [self._unsaid.popleft() for _ in range(len(self._unsaid))]
                await self._relay.publish(outbox_batches)
            self._all_said.set()
            self._unsaid_arrived.clear()
            await self._unsaid_arrived.wait()

    # -- the transaction -------------------------------------------------------------------------------------------------------------

    async def _commit_waiting(self, batch: Sequence[_WaitingResult], *, carefully: bool) -> None:
        held, outbox_batches = await self._commit([waiting.result for waiting in batch], carefully=carefully)
        self._conclude(batch, held, outbox_batches)

    def _conclude(
        self, batch: Sequence[_WaitingResult], held: Sequence[bool], outbox_batches: Sequence[OutboxBatch]
    ) -> None:
        if outbox_batches:
            self._unsaid.extend(outbox_batches)
            while sum(len(outbox_batch.messages) for outbox_batch in self._unsaid) > SAY_MAX:
                self._unsaid.popleft()
            self._all_said.clear()
            self._unsaid_arrived.set()
        for waiting, is_held in zip(batch, held, strict=True):
            if not waiting.recorded.done():  # its task may have been cancelled meanwhile
                waiting.recorded.set_result(is_held)

    async def _commit(self, results: Sequence[StepResult], *, carefully: bool) -> tuple[list[bool], list[OutboxBatch]]:
        """Make them durable; which rows are still held, and what is to be published."""
        if carefully or not all(map(_is_plain, results)):
            return await self._commit_in_transaction(results)
        return [True] * len(results), await self._commit_at_once(results)

    async def _commit_at_once(self, results: Sequence[StepResult]) -> list[OutboxBatch]:
        """One statement, which is a transaction of its own: one round trip instead of five. If a row is not held any more, or an attempt or
        outcome is there already, nothing is stored, and the results are repeated in a transaction that finds out more."""
        said = [said_by(r.transition, r.row.origin.at(r.at)) for r in results if r.transition.outcome is not None]
        async with self._database.connection() as connection:
            writes = WriteBatch(connection)
            await store.update_all(writes, [result.update for result in results], self._lease)
            await ledger.insert_attempts(writes, [r.attempt for r in results if r.attempt is not None])
            await ledger.insert_outcomes(writes, said)
            outbox_batches = await outbox.insert(writes, [one.message for one in said])
            crash_points.reach("charging.at_once.before_commit")
            await writes.flush()
        crash_points.reach("charging.at_once.after_commit")
        _count_late_captures(results)
        return outbox_batches

    async def _commit_in_transaction(self, results: Sequence[StepResult]) -> tuple[list[bool], list[OutboxBatch]]:
        """Repeated after a commit whose reply was lost, it stores the same again."""
        async with self._database.transaction() as tx:
            crash_points.reach("charging.before_record")
            writes = WriteBatch(tx)
            await ledger.save_attempts(writes, [r.attempt for r in results if r.attempt is not None])
            stored = await store.update(tx, [result.update for result in results], self._lease)
            held = [(r.row.payment.payment_id, r.row.fence) in stored for r in results]
            told = [result for result, is_held in zip(results, held, strict=True) if is_held]
            lost = [result for result, is_held in zip(results, held, strict=True) if not is_held]
            told += await self._found_out(tx, lost)
            said = await ledger.save_outcomes(tx, await _said(writes, told))
            said += await ledger.outcomes_of(tx, [_version(r.transition) for r in told if r.transition.again])
            outbox_batches = await outbox.insert(writes, said)
            await writes.flush()
            crash_points.reach("charging.before_record_commit")
        crash_points.reach("charging.after_record_commit")
        _count_late_captures(told)
        return held, outbox_batches

    async def _found_out(self, tx: Connection, lost: Sequence[StepResult]) -> list[StepResult]:
        """The row moved on while we asked. If the answer says that money moved, the row learns it now, whoever holds it."""
        telling = {r.row.payment.payment_id: r for r in lost if isinstance(r.answer, domain.TELLS_OF_MONEY)}
        if not telling:
            return []
        rows = await store.load(tx, telling.keys())
        found: list[StepResult] = []
        for payment_id, row in rows.items():
            result = telling[payment_id]
            transition = domain.on_late_answer(row.payment, result.answer, self._policy)
            if transition is not None:
                found.append(replace(result, row=row, transition=transition))
                log.warning(
                    "found_out", payment_id=str(payment_id), was=row.payment.status, now=transition.payment.status
                )
        await store.update(tx, [_taken_over(result) for result in found], self._lease)
        return found


def _is_plain(result: StepResult) -> bool:
    """Whether it can be stored without reading anything."""
    return not result.transition.again and result.transition.outcome not in TELLS_ATTEMPTS


def _count_late_captures(told: Sequence[StepResult]) -> None:
    metrics.LATE_CAPTURES.inc(sum(result.transition.outcome is Outcome.CAPTURED_LATE for result in told))


def _taken_over(result: StepResult) -> PaymentUpdate:
    update = result.update
    return replace(update, row=replace(update.row, fence=update.row.fence + 1), kept=False)


async def _said(writes: WriteBatch, told: Sequence[StepResult]) -> list[PublishedOutcome]:
    telling = [result for result in told if result.transition.outcome is not None]
    cases = {r.row.payment.payment_id for r in telling if r.transition.outcome in TELLS_ATTEMPTS}
    if cases:
        await writes.flush()  # the attempts that are told are those of this transaction, too
    attempts = await ledger.last_attempts(writes, cases)
    return [said_by(r.transition, r.row.origin.at(r.at), attempts.get(r.row.payment.payment_id, ())) for r in telling]


def _version(transition: PaymentTransition) -> tuple[UUID, int]:
    return transition.payment.payment_id, transition.payment.version


async def _give_up(waiting: _WaitingResult, error: Exception, _: RetryState) -> None:
    payment_id = str(waiting.result.row.payment.payment_id)
    log.error("result_unrecordable", payment_id=payment_id, exc_info=error)
    if not waiting.recorded.done():
        waiting.recorded.set_exception(UnrecordableError(payment_id))
