"""Records the gateway's answers: all results that have arrived go into one transaction, however many payments they belong to.

An answer is never dropped. While the database is away, the result is held and tried again until it is recorded. If the row has another
holder by then, the answer is still stored. If that answer says that money moved, the same transaction also changes the row. A process that
dies with unrecorded answers loses nothing either: the gateway is asked again when the lease ends.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

import structlog
from prometheus_client import Histogram

from services.payment_gateway import domain, ledger, refund_store, store
from services.payment_gateway.domain import GatewayAnswer, GatewayStep, Outcome, PaymentTransition, Policy
from services.payment_gateway.handlers import SOURCE, TELLS_ATTEMPTS, inquired, published_outcome, republished
from services.payment_gateway.ledger import GatewayAttempt, PublishedOutcome
from services.payment_gateway.store import Lease, PaymentRow, PaymentUpdate
from shared import crash_points
from shared.batch.commit import CommitLoop
from shared.batch.retry import BatchRetry, RetryState
from shared.messaging import facts
from shared.messaging.codec import encode
from shared.messaging.envelope import Outgoing
from shared.messaging.relay import Relay
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.persistence.outbox import OutboxBatch
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

RESULTS_MAX = 200
"""Results in one transaction: as many as messages in one batch of the pipeline."""
TRIES_MAX = 20
"""Tries of a result that is alone in its batch. It gets more of them than a message: the broker would deliver a message again."""
UNPUBLISHED_MAX = 2_000
"""Messages kept in memory for publishing. Beyond that, outbox batches are left to the sweeper, which reads them from the outbox."""


_CHARGE_OUTCOMES = frozenset({Outcome.CAPTURED, Outcome.DECLINED, Outcome.NOT_CHARGED})
_CONTRADICTING = frozenset({Outcome.NEEDS_DECISION, Outcome.REFUND_FAILED})


class UnrecordableError(Exception):
    """The database refused this result in every try. The gateway is asked again when the lease ends."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step for the payment in `row`. `attempt` and `answer` are None if the gateway was not asked."""

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

    @property
    def is_told(self) -> bool:
        """Whether staff hear what the gateway answered."""
        return self.attempt is not None and domain.is_told_to_staff(self.transition, GatewayStep(self.attempt.step))


ShownAttempts = Mapping[UUID, tuple[GatewayAttempt, ...]]


@dataclass(frozen=True, slots=True)
class _WaitingResult:
    result: StepResult
    recorded: "asyncio.Future[bool]"


class GroupCommit:
    """The one writer of results for all payments at work in this process."""

    def __init__(
        self,
        *,
        database: Database,
        relay: Relay,
        readiness: Readiness,
        lease: Lease,
        policy: Policy,
        liveness: Liveness | None = None,
    ) -> None:
        self._database = database
        self._relay = relay
        self._lease = lease
        self._policy = policy
        retry = BatchRetry("charging", database, readiness, tries_max=TRIES_MAX, liveness=liveness)
        self._committing = CommitLoop(self._commit_waiting, give_up=_give_up, retry=retry)
        self._waiting: deque[_WaitingResult] = deque()  # bounded by the payments at work: each waits for its record
        self._arrived = asyncio.Event()
        self._unpublished: deque[OutboxBatch] = deque()
        self._unpublished_arrived = asyncio.Event()
        self._all_published = asyncio.Event()
        self._all_published.set()

    async def record(self, result: StepResult) -> bool:
        """Record a result. It is durable when this returns. Raises `UnrecordableError`.

        Returns False if the row has another holder now, which goes on with the payment. The answer is stored in that case as well.
        """
        waiting = _WaitingResult(result, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.recorded

    async def all_published(self) -> None:
        """Wait until the messages of all recorded results were sent to the broker once."""
        await self._all_published.wait()

    async def run(self) -> None:
        """Record results until cancelled."""
        while True:
            while self._waiting:
                await self._committing.run(
                    [self._waiting.popleft() for _ in range(min(RESULTS_MAX, len(self._waiting)))]
                )
            self._arrived.clear()
            await self._arrived.wait()

    async def publish(self) -> None:
        """Publish the messages of recorded results until cancelled. `run` does not wait for it, so a lost broker delays no record."""
        while True:
            while self._unpublished:
                outbox_batches = [self._unpublished.popleft() for _ in range(len(self._unpublished))]
                await self._relay.publish(outbox_batches)
            self._all_published.set()
            self._unpublished_arrived.clear()
            await self._unpublished_arrived.wait()

    # -- the transaction -------------------------------------------------------------------------------------------------------------

    async def _commit_waiting(self, batch: Sequence[_WaitingResult], *, carefully: bool) -> None:
        held, outbox_batches = await self._commit([waiting.result for waiting in batch], carefully=carefully)
        self._conclude(batch, held, outbox_batches)

    def _conclude(
        self, batch: Sequence[_WaitingResult], held: Sequence[bool], outbox_batches: Sequence[OutboxBatch]
    ) -> None:
        facts.committed(outbox_batches)
        if outbox_batches:
            self._unpublished.extend(outbox_batches)
            while sum(len(outbox_batch.messages) for outbox_batch in self._unpublished) > UNPUBLISHED_MAX:
                self._unpublished.popleft()
            self._all_published.clear()
            self._unpublished_arrived.set()
        for waiting, is_held in zip(batch, held, strict=True):
            if not waiting.recorded.done():  # its task may have been cancelled meanwhile
                waiting.recorded.set_result(is_held)

    async def _commit(self, results: Sequence[StepResult], *, carefully: bool) -> tuple[list[bool], list[OutboxBatch]]:
        """Store the results. Returns for each whether its row is still held, and the outbox batches to publish."""
        if carefully or not all(map(_is_plain, results)):
            return await self._commit_in_transaction(results)
        return [True] * len(results), await self._commit_at_once(results)

    async def _commit_at_once(self, results: Sequence[StepResult]) -> list[OutboxBatch]:
        """Store the results with one statement, which is a transaction of its own: one round trip instead of five.

        Nothing is stored if a row is no longer held, or if an attempt or outcome is stored already. Then the results are stored again by
        `_commit_in_transaction`, which handles these cases.
        """
        outcomes = [
            published_outcome(r.transition, r.row.origin.at(r.at)) for r in results if r.transition.outcome is not None
        ]
        async with self._database.connection() as connection:
            writes = WriteBatch(connection)
            await store.update_all(writes, [result.update for result in results], self._lease)
            await ledger.insert_attempts(writes, [r.attempt for r in results if r.attempt is not None])
            await ledger.insert_outcomes(writes, outcomes)
            outbox_batches = await outbox.insert(writes, [outcome.message for outcome in outcomes])
            crash_points.reach("charging.at_once.before_commit")
            await writes.flush()
        crash_points.reach("charging.at_once.after_commit")
        _measure(results)
        return outbox_batches

    async def _commit_in_transaction(self, results: Sequence[StepResult]) -> tuple[list[bool], list[OutboxBatch]]:
        """Store the results in a transaction. If it is repeated after a lost reply to a commit, it stores the same again."""
        async with self._database.transaction() as tx:
            crash_points.reach("charging.before_record")
            writes = WriteBatch(tx)
            await ledger.save_attempts(writes, [r.attempt for r in results if r.attempt is not None])
            stored = await store.update(tx, [result.update for result in results], self._lease)
            held = [(r.row.payment.payment_id, r.row.fence) in stored for r in results]
            effective = [result for result, is_held in zip(results, held, strict=True) if is_held]
            late = [result for result, is_held in zip(results, held, strict=True) if not is_held]
            await store.note_sides(tx, [result.update.row for result in effective])
            told = [result for result in effective if result.is_told]
            effective += await self._store_late_answers(tx, late)
            await refund_store.save(writes, [(r.row.payment, r.transition.payment) for r in effective])
            attempts = await _shown_attempts(writes, effective, told)
            outgoing = await ledger.save_outcomes(tx, _outcomes(effective, attempts))
            outgoing += await ledger.outcomes_of(tx, republished(r.transition for r in effective))
            outgoing += _answers(told, attempts)
            outbox_batches = await outbox.insert(writes, outgoing)
            await writes.flush()
            crash_points.reach("charging.before_record_commit")
        crash_points.reach("charging.after_record_commit")
        _measure(effective)
        return held, outbox_batches

    async def _store_late_answers(self, tx: Connection, late: Sequence[StepResult]) -> list[StepResult]:
        """Change the rows whose late answer says that money moved, no matter who holds them now. Returns the results that had an effect.

        An answer is late if its row has another holder since the gateway was asked.
        """
        about_money = {r.row.payment.payment_id: r for r in late if isinstance(r.answer, domain.TELLS_OF_MONEY)}
        if not about_money:
            return []
        rows = await store.load(tx, about_money.keys())
        found: list[StepResult] = []
        for payment_id, row in rows.items():
            result = about_money[payment_id]
            transition = domain.on_late_answer(row.payment, result.answer, self._policy, asked=result.row.payment)
            if transition is not None:
                found.append(replace(result, row=row, transition=transition))
                log.warning(
                    "found_out", payment_id=str(payment_id), was=row.payment.status, now=transition.payment.status
                )
        updates = [_with_new_fence(result) for result in found]
        await store.update(tx, updates, self._lease)
        await store.note_sides(tx, [update.row for update in updates])
        return found


def _is_plain(result: StepResult) -> bool:
    """Whether the result can be stored with one statement, without reading anything."""
    transition = result.transition
    reads = transition.republish or transition.outcome in TELLS_ATTEMPTS or result.is_told
    writes_more = store.has_sides(transition.payment) or transition.payment.refunds is not result.row.payment.refunds
    return not reads and not writes_more


def _measure(effective: Sequence[StepResult]) -> None:
    """Count what became of the payments, and how long a charge took."""
    for result in effective:
        outcome, row = result.transition.outcome, result.row
        if outcome is Outcome.CAPTURED_LATE:
            metrics.LATE_CAPTURES.inc()
        elif outcome in _CONTRADICTING and domain.is_settled(row.payment):
            metrics.CONTRADICTIONS.inc()
        elif outcome in _CHARGE_OUTCOMES:
            took_s = (result.at - row.requested_at).total_seconds()
            _charge_seconds(outcome).observe(max(took_s, 0.0))  # by two clocks


@cache
def _charge_seconds(outcome: Outcome) -> Histogram:
    """What measures charges of this outcome. To look it up anew costs more than to observe."""
    return metrics.CHARGE_SECONDS.labels(outcome=outcome.value)


def _with_new_fence(result: StepResult) -> PaymentUpdate:
    """The update for a late answer, after which nothing is due at once. It raises the fence, so that the present holder stops."""
    update = result.update
    return replace(update, row=replace(update.row, fence=update.row.fence + 1))


async def _shown_attempts(
    writes: WriteBatch, effective: Sequence[StepResult], told: Sequence[StepResult]
) -> ShownAttempts:
    """The last attempts of each payment whose message shows them."""
    shown = {r.row.payment.payment_id for r in effective if r.transition.outcome in TELLS_ATTEMPTS}
    shown.update(result.row.payment.payment_id for result in told)
    if shown:
        await writes.flush()  # a message shows the attempts of this transaction, too
    return await ledger.last_attempts(writes, shown)


def _outcomes(effective: Sequence[StepResult], attempts: ShownAttempts) -> list[PublishedOutcome]:
    """The outcomes of these results, ready to publish."""
    return [
        published_outcome(r.transition, r.row.origin.at(r.at), _shown(r, attempts))
        for r in effective
        if r.transition.outcome is not None
    ]


def _shown(result: StepResult, attempts: ShownAttempts) -> tuple[GatewayAttempt, ...]:
    is_shown = result.transition.outcome in TELLS_ATTEMPTS
    return attempts.get(result.row.payment.payment_id, ()) if is_shown else ()


def _answers(told: Sequence[StepResult], attempts: ShownAttempts) -> list[Outgoing]:
    """What the gateway answered about payments that staff follow, ready to publish."""
    return [
        encode(
            inquired(result.transition.payment, attempts[result.row.payment.payment_id], number=result.row.fence),
            result.row.origin.at(result.at),
            0,
            source=SOURCE,
        )
        for result in told
    ]


async def _give_up(waiting: _WaitingResult, error: Exception, _: RetryState) -> None:
    payment_id = str(waiting.result.row.payment.payment_id)
    log.error("result_unrecordable", payment_id=payment_id, exc_info=error)
    if not waiting.recorded.done():
        waiting.recorded.set_exception(UnrecordableError(payment_id))
