"""Works on payments: decide, act, record.

Each payment at work is a task of its own, outside any transaction, that no lost broker connection can cancel. It decides the step, calls
the gateway, records the answer in a group commit and goes on while there is something to do at once; the rest are rows that come due.
A gateway id is durable before it is confirmed: the record of `prepare` is awaited before `execute` is called.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from functools import cache
from typing import assert_never
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram

from services.payment_gateway import domain, store
from services.payment_gateway.domain import GatewayAnswer, GatewayStep, Payment, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.group_commit import GroupCommit, StepResult
from services.payment_gateway.ledger import GatewayAttempt
from services.payment_gateway.store import Lease, PaymentRow
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
"""Payments taken beyond the calls in flight, for each of them: while the answer of one is recorded, another one calls. (With none, and
ever rarer looks for due rows while there is no room, 60 calls of 300 ms carried 71 payments a second; they allow 100.)"""
STEPS_MAX = 12
"""Calls in a row for one payment without a wait; the longest way (tokenise, prepare, execute, cancel) has four."""
FINISH_TIMEOUT_S = 12.0
"""How long a stopping service waits for calls in hand; the whole drain has 20 s."""
RELEASE_TIMEOUT_S = 3.0
REQUESTS_A_CALL = 3
"""Requests that one call of the port may come to (a refund that was refused asks for the payment and its refunds)."""
EVIDENCE_LENGTH_MAX = 400

GATEWAY_COMPONENT = "gateway"
SILENT_PAYMENTS_MAX = 3
"""Payments in a row about which nothing could be heard before the gateway itself counts as away: one alone may be broken for good."""


@cache
def _measures(step: GatewayStep, answer: str) -> tuple[Counter, Histogram]:
    """prometheus_client looks children up by their labels at a price of a few microseconds each."""
    return metrics.GATEWAY_CALLS.labels(step=step, answer=answer), metrics.GATEWAY_CALL_SECONDS.labels(step=step)


def lease_for(holder: UUID, timeout_s: float, margin_s: float) -> Lease:
    """A lease that outlives a call made just before it would be renewed."""
    call_s = REQUESTS_A_CALL * timeout_s
    return Lease(holder, seconds=call_s + margin_s, renew_below_s=call_s + margin_s / 2)


@dataclass(slots=True)
class Charging:
    """All payments at work in this process. `calls_in_flight` bounds the gateway's connections and, with a few that wait beside them, our
    memory."""

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
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when rows became due here: whoever looks for due rows need not wait."""
    is_stopping: bool = False
    _tasks: dict[asyncio.Task[None], PaymentRow] = field(default_factory=dict)
    _calls: asyncio.Semaphore = field(init=False)
    _at_work_max: int = field(init=False)
    _silent: set[UUID] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._calls = asyncio.Semaphore(self.calls_in_flight)
        self._at_work_max = self.calls_in_flight + math.ceil(WAITING_PER_CALL * self.calls_in_flight)

    # -- which payments --------------------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more payments can be worked on now."""
        return 0 if self.is_stopping else self._at_work_max - len(self._tasks)

    def accept(self, rows: Sequence[PaymentRow]) -> None:
        """Work on these: they are leased to us."""
        for row in rows:
            task = asyncio.create_task(self._carry(row), name=f"payment {row.payment.payment_id}")
            self._tasks[task] = row
            task.add_done_callback(self._ended)

    def wake(self) -> None:
        """Look for due rows now."""
        self.woken.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        row = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out, and whoever claims the row then asks the gateway first.
            log.error("payment_task_failed", payment_id=str(row.payment.payment_id), exc_info=error)

    async def finish(self) -> None:
        """Take nothing more, let calls in hand end and be recorded, give up the leases of the rest."""
        self.is_stopping = True
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=FINISH_TIMEOUT_S)
            left = [(self._tasks[task].payment.payment_id, self._tasks[task].fence) for task in late]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            await self.release(left)
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self.commit.all_said()
        except TimeoutError:
            log.info("left_to_the_sweeper")
        await self.gateway.close()

    async def release(self, held: Sequence[tuple[UUID, int]]) -> None:
        """Give up the leases of these rows, by their payments and fences, so that others need not wait until they run out."""
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

    async def _carry(self, row: PaymentRow) -> None:
        """Step after step, as long as the next one is due at once and the row is ours."""
        step = domain.next_step(row.payment)
        for seq in range(1, STEPS_MAX + 1):
            result = await self._take(step, row, seq)
            if not await self.commit.record(result):
                log.info("lease_lost", payment_id=str(row.payment.payment_id), step=step)
                return
            step = result.transition.then
            if step is None:
                return
            row = replace(row, payment=result.transition.payment)
        raise RuntimeError(f"{STEPS_MAX} steps in a row: the gateway's answers lead nowhere")

    async def _take(self, step: GatewayStep | None, row: PaymentRow, seq: int) -> StepResult:
        """Ask the gateway and decide what the answer means. A service that stops decides the same, and leaves the next step to others."""
        if step is None:
            return StepResult(row, domain.on_due(row.payment, self.policy), self.clock())
        key = domain.idempotency_key(row.payment, step)
        answer = await self._ask(step, row.payment, key or "")
        at = self.clock()
        attempt = GatewayAttempt(
            payment_id=row.payment.payment_id,
            fence=row.fence,
            seq=seq,
            at=at,
            step=step,
            answer=domain.answer_code(answer),
            evidence=redact(answer.evidence, max_characters=EVIDENCE_LENGTH_MAX),
            idempotency_key=key,
        )
        transition = domain.on_answer(row.payment, step, answer, self.policy)
        if self.is_stopping and transition.then is not None:
            transition = replace(transition, then=None, delay_s=0.0)
        return StepResult(row, transition, at, attempt, answer)

    async def _ask(self, step: GatewayStep, payment: Payment, key: str) -> GatewayAnswer:
        """One call, bounded; intake and poll may together have taken a few payments too many."""
        async with self._calls:
            started = time.perf_counter()
            answer = await self._guarded(step, payment, key)
        calls, seconds = _measures(step, type(answer).__name__)
        calls.inc()
        seconds.observe(time.perf_counter() - started)
        self._note(payment, answer)
        return answer

    def _note(self, payment: Payment, answer: GatewayAnswer) -> None:
        """Readiness says when the gateway is away; payments in doubt are another matter, and counted elsewhere."""
        match answer:
            case port.NotSent() | port.Unknown():
                if len(self._silent) < SILENT_PAYMENTS_MAX:
                    self._silent.add(payment.payment_id)
                if len(self._silent) == SILENT_PAYMENTS_MAX:
                    self.readiness.set(GATEWAY_COMPONENT, ok=False, reason=answer.evidence)
            case _:
                self._silent.clear()
                self.readiness.set(GATEWAY_COMPONENT, ok=True)

    async def _guarded(self, step: GatewayStep, payment: Payment, key: str) -> GatewayAnswer:
        """What an adapter does wrong is in doubt like anything else that nobody can read."""
        try:
            async with asyncio.timeout(REQUESTS_A_CALL * self.call_timeout_s + 1.0):
                return await self._call(step, payment, key)
        except TimeoutError:
            return port.Unknown("no answer within the time allowed")
        except crash_points.InjectedFault:
            raise
        except Exception as error:  # the adapter promised not to
            log.exception("gateway_adapter_failed", payment_id=str(payment.payment_id), step=step)
            return port.Unknown(f"the adapter failed: {type(error).__name__}")

    async def _call(self, step: GatewayStep, payment: Payment, key: str) -> GatewayAnswer:
        """The call that the step is, between its two crash points."""
        answer: GatewayAnswer
        match step:
            case GatewayStep.TOKENISE:
                answer = await self._tokenise(payment, key)
            case GatewayStep.PREPARE:
                answer = await self._prepare(payment, key)
            case GatewayStep.EXECUTE:
                crash_points.reach("charging.before_execute")
                answer = await self.gateway.execute(_gateway_id(payment), key=key)
                crash_points.reach("charging.after_execute")
            case GatewayStep.INQUIRE:
                crash_points.reach("charging.before_inquire")
                answer = await self.gateway.inquire(_gateway_id(payment))
                crash_points.reach("charging.after_inquire")
            case GatewayStep.CANCEL:
                crash_points.reach("charging.before_cancel")
                answer = await self.gateway.cancel(_gateway_id(payment), key=key)
                crash_points.reach("charging.after_cancel")
            case GatewayStep.REFUND:
                crash_points.reach("charging.before_refund")
                answer = await self.gateway.refund(_gateway_id(payment), key=key)
                crash_points.reach("charging.after_refund")
            case GatewayStep.INQUIRE_REFUND:
                crash_points.reach("charging.before_inquire_refund")
                answer = await self.gateway.inquire_refund(_gateway_id(payment))
                crash_points.reach("charging.after_inquire_refund")
            case _:
                assert_never(step)
        return answer

    async def _tokenise(self, payment: Payment, key: str) -> port.TokeniseAnswer:
        """The card is in the clear between these lines only."""
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
        # A private-key operation takes milliseconds: not on the loop that keeps the heartbeats.
        details = await asyncio.to_thread(self.keyring.decrypt, payment.card_jwe or "", payment.payment_id)
        if isinstance(details, CardRefusal):
            return details
        return port.Card(details.number, details.exp_month, details.exp_year)

    async def _prepare(self, payment: Payment, key: str) -> port.PrepareAnswer:
        assert payment.amount_minor is not None  # noqa: S101 - a request has all of these
        assert payment.currency is not None  # noqa: S101
        assert payment.method_token is not None  # noqa: S101
        order = port.Order(
            payment.payment_id, payment.invoice_id, payment.amount_minor, payment.currency, payment.method_token
        )
        crash_points.reach("charging.before_prepare")
        answer = await self.gateway.prepare(order, key=key)
        crash_points.reach("charging.after_prepare")
        return answer


def _gateway_id(payment: Payment) -> str:
    assert payment.gateway_id is not None  # noqa: S101 - the database holds it recorded before any such step
    return payment.gateway_id
