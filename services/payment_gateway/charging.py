"""Works on payments: decide the next step, call the gateway, record the answer.

Each payment at work is an asyncio task of its own, outside any transaction. A lost broker connection cannot cancel it. The task decides the
step, calls the gateway, and records the answer in a group commit. It goes on while a next step is due at once. Later steps are rows with a
due time. A gateway id is always durable before it is confirmed: the record of `prepare` is awaited before `execute` is called.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import assert_never
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram

from services.payment_gateway import afterwards, domain, store
from services.payment_gateway.domain import (
    GatewayAnswer,
    GatewayStep,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Policy,
)
from services.payment_gateway.gateway_watch import GatewayWatch
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.evidence import without_token
from services.payment_gateway.group_commit import GroupCommit, StepResult
from services.payment_gateway.ledger import GatewayAttempt
from services.payment_gateway.pace import Pace, follow_up_within_s
from services.payment_gateway.store import Lease, PaymentRow
from services.payment_gateway.tracing import GatewayTracing
from shared import crash_points
from shared.card_data.encryption import CardKeyring, CardRefusal
from shared.clock import Clock
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import redact
from shared.persistence.database import AWAY_ERRORS, Database
from shared.records import dataclass, field, replace

log = structlog.get_logger(__name__)

WAITING_PER_CALL = 0.25
"""Extra payments at work for each call in flight: while the answer for one payment is recorded, another payment calls the gateway. Without
extra ones, and with less frequent claims while there was no room, 60 calls of 300 ms carried 71 payments/s (measured). They allow 100."""
BEGUN_PER_CALL = 0.25
"""Further payments at work for each call in flight that only begun payments take, so that these go on while many new ones wait."""
AHEAD_S = 1.0
"""How far ahead turns at the gateway are given to new payments. Longer than a claim takes; and short, since a 429 makes turns void."""
JITTER = 0.2
"""A wait is up to so much longer, so that what failed together is not tried again together."""
STEPS_MAX = 12
"""Steps in a row for one payment without a wait. The longest path (find, tokenise, prepare, execute, cancel) has five."""
FINISH_TIMEOUT_S = 12.0
"""How long a stopping service waits for calls in flight. The whole drain has 20 s."""
RELEASE_TIMEOUT_S = 3.0
"""How long a stopping service waits for its leases to be released, and for its last messages to be published."""
REQUESTS_A_CALL = 3
"""The most HTTP requests that one call of the port makes, but for a payment that is disputed or has more than a hundred refunds. After a
refused refund, the adapter asks for the payment and for its refunds."""
EVIDENCE_LENGTH_MAX = 400

GATEWAY_COMPONENT = "gateway"
SILENT_PAYMENTS_MAX = 3
"""Payments in a row without a usable answer, after which the gateway counts as away. Fewer do not count: one payment may be broken for
good."""


@cache
def _measures(step: GatewayStep, answer: str) -> tuple[Counter, Histogram]:
    """The metrics of a call. They are cached, because prometheus_client takes a few microseconds to find each by its labels."""
    return metrics.GATEWAY_CALLS.labels(step=step, answer=answer), metrics.GATEWAY_CALL_SECONDS.labels(step=step)


def longest_call_s(timeout_s: float, follow_up_s: float) -> float:
    """How long one call of the port takes at most: its requests, and the turns that all but the first wait for."""
    return REQUESTS_A_CALL * timeout_s + (REQUESTS_A_CALL - 1) * follow_up_s


def lease_for(holder: UUID, timeout_s: float, margin_s: float) -> Lease:
    """A lease that outlasts a call which begins just before the lease would be renewed, with all the turns that it waits for."""
    call_s = longest_call_s(timeout_s, follow_up_within_s(margin_s))
    return Lease(holder, seconds=call_s + margin_s, renew_below_s=call_s + margin_s / 2)


@dataclass(slots=True)
class Charging:
    """All payments at work in this process.

    `calls_in_flight` limits the connections to the gateway, and with them the payments in memory. `pace` limits the calls a second.
    """

    gateway: port.Gateway
    keyring: CardKeyring | None
    policy: Policy
    lease: Lease
    calls_in_flight: int
    call_timeout_s: float
    database: Database
    commit: GroupCommit
    readiness: Readiness
    clock: Clock
    watch: GatewayWatch
    pace: Pace
    tracing: GatewayTracing | None = None
    jitter: Callable[[], float] = random.random
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when this instance made rows due, so that the lease claimer looks for them at once."""
    is_stopping: bool = False
    _tasks: dict[asyncio.Task[None], PaymentRow] = field(default_factory=dict)
    _calls: asyncio.Semaphore = field(init=False)
    _at_work_max: int = field(init=False)
    _kept_for_begun: int = field(init=False)
    _silent: set[UUID] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._calls = asyncio.Semaphore(self.calls_in_flight)
        self._kept_for_begun = math.ceil(BEGUN_PER_CALL * self.calls_in_flight)
        waiting = math.ceil(WAITING_PER_CALL * self.calls_in_flight)
        self._at_work_max = self.calls_in_flight + waiting + self._kept_for_begun

    # -- the payments at work --------------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more payments this instance can begin now, so that each has its turn while its lease is young."""
        return min(self.free_for_begun - self._kept_for_begun, self.pace.room(min(AHEAD_S, self._turn_within_s / 2)))

    @property
    def free_for_begun(self) -> int:
        """How many more payments that were begun before it can work on. There are none while the gateway refuses this service."""
        return 0 if self.is_stopping or self.watch.is_refused else self._at_work_max - len(self._tasks)

    @property
    def _turn_within_s(self) -> float:
        """How long a payment may wait for its turn. The rest of its lease is for the call."""
        return self.lease.seconds - self.lease.renew_below_s

    def at_work(self) -> int:
        """How many payments are leased to this instance."""
        return len(self._tasks)

    def accept(self, rows: Sequence[PaymentRow]) -> None:
        """Work on these payments, which are leased to this instance."""
        for row in rows:
            task = asyncio.create_task(self._work_on(row), name=f"payment {row.payment.payment_id}")
            self._tasks[task] = row
            task.add_done_callback(self._ended)

    def wake(self) -> None:
        """Make the lease claimer look for due rows now."""
        self.woken.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        row = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease runs out. The instance that claims the row then asks the gateway first.
            log.error("payment_task_failed", payment_id=str(row.payment.payment_id), exc_info=error)

    async def finish(self) -> None:
        """Stop: take no more payments, wait for calls in flight and their records, and release the leases of the rest."""
        self.is_stopping = True
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=FINISH_TIMEOUT_S)
            held = [(self._tasks[task].payment.payment_id, self._tasks[task].fence) for task in late]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            await self.release(held)
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self.commit.all_published()
        except TimeoutError:
            log.info("left_to_the_sweeper")
        await self.gateway.close()

    async def release(self, held: Sequence[tuple[UUID, int]]) -> None:
        """Release the leases of these rows (payment id, fence), so that other instances need not wait until the leases run out."""
        if not held:
            return
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S), self.database.connection() as connection:
                crash_points.reach("charging.before_release")
                await store.release(connection, held)
                crash_points.reach("charging.after_release")
        except AWAY_ERRORS as error:
            log.warning("release_failed", leases=len(held), error=type(error).__name__)  # they run out by themselves

    # -- one payment -----------------------------------------------------------------------------------------------------------------

    async def _work_on(self, row: PaymentRow) -> None:
        """Take step after step while the next one is due at once and the lease is held. Raises RuntimeError after `STEPS_MAX` steps."""
        age_s = (self.clock() - row.requested_at).total_seconds()
        step = domain.first_step(row.payment, age_s, self.policy)
        row = replace(row, payment=domain.aged(row.payment, age_s))
        for seq in range(1, STEPS_MAX + 1):
            result = await self._take_step(step, row, seq)
            if not await self.commit.record(result):
                log.info("lease_lost", payment_id=str(row.payment.payment_id), step=step)
                return
            step = result.transition.then
            if step is None:
                return
            row = replace(row, payment=result.transition.payment)
        raise RuntimeError(f"{STEPS_MAX} steps in a row: the gateway's answers lead nowhere")

    async def _take_step(self, step: GatewayStep | None, row: PaymentRow, seq: int) -> StepResult:
        """Call the gateway, and decide what its answer means. While the service stops, another instance takes the next step."""
        if step is None:
            return StepResult(row, domain.on_due(row.payment), self.clock())
        if not await self._has_turn(step):
            later = PaymentTransition(row.payment, delay_s=self._with_jitter(self.pace.wait_s(step)))
            return StepResult(row, later, self.clock())
        key = domain.idempotency_key(row.payment, step)
        answer = await self._limited_call(step, row, seq, key or "")
        at = self.clock()
        attempt = GatewayAttempt(
            payment_id=row.payment.payment_id,
            fence=row.fence,
            seq=seq,
            at=at,
            step=step,
            answer=domain.answer_code(answer),
            evidence=without_token(
                redact(answer.evidence, max_characters=EVIDENCE_LENGTH_MAX), row.payment.method_token
            ),
            idempotency_key=key,
        )
        transition = afterwards.on_answer(row.payment, step, answer, self.policy)
        if self.is_stopping and transition.then is not None:
            transition = replace(transition, then=None, delay_s=0.0)
        if transition.delay_s:
            transition = replace(transition, delay_s=self._with_jitter(transition.delay_s))
        return StepResult(row, transition, at, attempt, answer)

    def _with_jitter(self, delay_s: float) -> float:
        return delay_s * (1.0 + JITTER * self.jitter())

    async def _has_turn(self, step: GatewayStep) -> bool:
        """Wait for the turn of a call. Returns False if it comes too late for the lease, or if the service stops."""
        ends_s = self.pace.clock() + self._turn_within_s
        while not self.is_stopping and self.pace.clock() + self.pace.wait_s(step) <= ends_s:
            turn = self.pace.take_turn(step)
            if turn.wait_s:
                await asyncio.sleep(turn.wait_s)
            if turn.round == self.pace.round:
                return not self.is_stopping
        return False

    async def _limited_call(self, step: GatewayStep, row: PaymentRow, seq: int, key: str) -> GatewayAnswer:
        """One call to the gateway, measured. No more than `calls_in_flight` run at once, although more payments may be at work."""
        async with self._calls:
            started, sent_s = time.perf_counter(), self.pace.clock()
            answer = await self._guarded_call(step, row.payment, key)
        if isinstance(answer, port.Misconfigured):
            answer = await self.watch.meaning(answer)
        if isinstance(answer, port.Limited) and not answer.is_ours:
            self.pace.slow_down(sent_s=sent_s, retry_after_s=answer.retry_after_s)
        calls, seconds = _measures(step, type(answer).__name__)
        calls.inc()
        seconds.observe(took_s := time.perf_counter() - started)
        if self.tracing is not None:
            self.tracing.record(step, row, seq, answer, seconds=took_s)
        self._note(row.payment, answer)
        return answer

    def _note(self, payment: Payment, answer: GatewayAnswer) -> None:
        """Tell readiness whether the gateway is away. Payments in doubt are counted elsewhere: they do not mean that it is."""
        match answer:
            case port.Misconfigured() | port.Limited():
                pass  # the watch has told; the pace tells
            case port.NotSent() | port.Unknown():
                if len(self._silent) < SILENT_PAYMENTS_MAX:
                    self._silent.add(payment.payment_id)
                if len(self._silent) == SILENT_PAYMENTS_MAX:
                    self.readiness.set(GATEWAY_COMPONENT, ok=False, reason=answer.evidence)
            case _:
                self._silent.clear()
                self.readiness.set(GATEWAY_COMPONENT, ok=True)

    async def _guarded_call(self, step: GatewayStep, payment: Payment, key: str) -> GatewayAnswer:
        """One call with a timeout. If the adapter hangs or raises, the answer is `Unknown`, as after any unreadable answer."""
        try:
            async with asyncio.timeout(longest_call_s(self.call_timeout_s, self.pace.follow_up_within_s) + 1.0):
                return await self._call(step, payment, key)
        except TimeoutError:
            return port.Unknown("no answer within the time allowed")
        except crash_points.InjectedFault:
            raise
        except Exception as error:  # an adapter must not raise, so this is a bug in it
            log.exception("gateway_adapter_failed", payment_id=str(payment.payment_id), step=step)
            return port.Unknown(f"the adapter failed: {type(error).__name__}")

    async def _call(self, step: GatewayStep, payment: Payment, key: str) -> GatewayAnswer:
        """Make the call of a step, between its two crash points."""
        answer: GatewayAnswer
        match step:
            case GatewayStep.TOKENISE:
                answer = await self._tokenise(payment, key)
            case GatewayStep.FIND:
                crash_points.reach("charging.before_find")
                answer = await self.gateway.find(domain.sought(payment))
                crash_points.reach("charging.after_find")
            case GatewayStep.PREPARE:
                answer = await self._prepare(payment, key)
            case GatewayStep.EXECUTE:
                crash_points.reach("charging.before_execute")
                answer = await self.gateway.execute(_gateway_id(payment), mandate=payment.details.mandate, key=key)
                crash_points.reach("charging.after_execute")
            case GatewayStep.INQUIRE:
                crash_points.reach("charging.before_inquire")
                answer = await self._inquire(payment)
                crash_points.reach("charging.after_inquire")
            case GatewayStep.CANCEL:
                crash_points.reach("charging.before_cancel")
                answer = await self.gateway.cancel(_gateway_id(payment), key=key)
                crash_points.reach("charging.after_cancel")
            case GatewayStep.REFUND:
                order = domain.refund_order(payment)
                crash_points.reach("charging.before_refund")
                answer = await self.gateway.refund(_gateway_id(payment), order, key=key)
                crash_points.reach("charging.after_refund")
            case GatewayStep.INQUIRE_REFUND:
                refund_ids = domain.refunds_asked_about(payment)
                crash_points.reach("charging.before_inquire_refund")
                answer = await self.gateway.inquire_refund(_gateway_id(payment), *refund_ids)
                crash_points.reach("charging.after_inquire_refund")
            case _:
                assert_never(step)
        return answer

    async def _inquire(self, payment: Payment) -> port.ChargeAnswer:
        """Ask about the payment. A capture that the gateway denies counts only if it knows another one of ours.

        Else the key is of another account. Then it denies everything, which is the operator's fault and says nothing about a payment.
        """
        answer = await self.gateway.inquire(_gateway_id(payment))
        if not isinstance(answer, port.NotFound) or payment.status is not PaymentStatus.CAPTURED:
            return answer
        try:
            async with self.database.connection() as connection:
                others = await store.captures_beside(connection, payment.payment_id)
        except AWAY_ERRORS as error:
            return port.NotSent(f"whether it knows others could not be asked: {type(error).__name__}")
        for other in others:
            known = await self.gateway.owner(other)
            if not isinstance(known, port.NotFound):
                return answer if isinstance(known, port.MadeFor) else known
        if others:
            log.error("gateway_of_another_account", gateway_ids=[payment.gateway_id, *others])
            return port.Unknown(
                f"the gateway knows neither this payment nor {others[0]}: is the key of another account?"
            )
        return answer

    async def _tokenise(self, payment: Payment, key: str) -> port.TokeniseAnswer:
        """Decrypt the card and exchange it for a token. The card is in the clear within this method only."""
        card = await self._decrypt(payment)
        if isinstance(card, CardRefusal):
            return port.Refused(card.value, "the encrypted card could not be read")
        crash_points.reach("charging.before_tokenise")
        answer = await self.gateway.tokenise(card, key=key)
        crash_points.reach("charging.after_tokenise")
        return answer

    async def _decrypt(self, payment: Payment) -> port.Card | CardRefusal:
        if self.keyring is None:
            return CardRefusal.UNKNOWN_KEY
        # A private-key operation takes milliseconds, so it must not run on the event loop, which also keeps the heartbeats.
        details = await asyncio.to_thread(self.keyring.decrypt, payment.card_jwe or "", payment.payment_id)
        if isinstance(details, CardRefusal):
            return details
        return port.Card(details.number, details.exp_month, details.exp_year, details.name, details.postal_code)

    async def _prepare(self, payment: Payment, key: str) -> port.PrepareAnswer:
        assert payment.amount_minor is not None  # noqa: S101 - every request has these three
        assert payment.currency is not None  # noqa: S101
        assert payment.method_token is not None  # noqa: S101
        order = port.Order(
            payment.payment_id,
            payment.invoice_id,
            payment.amount_minor,
            payment.currency,
            payment.method_token,
            payment.details,
        )
        crash_points.reach("charging.before_prepare")
        answer = await self.gateway.prepare(order, key=key)
        crash_points.reach("charging.after_prepare")
        return answer


def _gateway_id(payment: Payment) -> str:
    assert payment.gateway_id is not None  # noqa: S101 - the database recorded it before any step that needs it
    return payment.gateway_id
