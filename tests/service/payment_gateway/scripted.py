"""A gateway that keeps the true state and answers as a test scripts it."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast
from uuid import UUID

from services.payment_gateway.domain import GatewayAnswer, GatewayStep
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.memory import MemoryGateway

UNKNOWN = port.Unknown("HTTP 504 req_1")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Say:
    """Answer this. `done`: the gateway does what was asked all the same."""

    answer: GatewayAnswer
    done: bool = False


@dataclass(slots=True)
class Hold:
    """Do what was asked, and answer only when `let_go` is set. `reached` is set when the call arrived."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


Script = Say | Hold


class ScriptedGateway:
    """See `port.Gateway`. A step without a script gets a true answer."""

    def __init__(self) -> None:
        self.truth = MemoryGateway()
        self.calls: list[
            tuple[GatewayStep, str]
        ] = []  # the step, and its idempotency key (or gateway id if it has none)
        self.cards: list[port.Card] = []
        self.confirmed: list[str] = []
        self.orders: list[port.Order] = []
        self.refunds: list[port.RefundOrder] = []
        self.mandates: list[str | None] = []
        self.checks = 0
        self.checked: port.CheckAnswer = port.Usable()
        self._next: dict[GatewayStep, deque[Script]] = defaultdict(deque)
        self._always: dict[GatewayStep, Script] = {}

    def then(self, step: GatewayStep, *scripts: Script) -> None:
        """Script the next calls of this step, one by one."""
        self._next[step].extend(scripts)

    def always(self, step: GatewayStep, script: Script | None) -> None:
        """Script every call of this step from now on (None: true answers)."""
        if script is None:
            self._always.pop(step, None)
        else:
            self._always[step] = script

    def count(self, step: GatewayStep) -> int:
        return sum(called is step for called, _ in self.calls)

    async def _answer(self, step: GatewayStep, key: str, act: Callable[[], Awaitable[A]]) -> A:
        self.calls.append((step, key))
        script = self._next[step].popleft() if self._next[step] else self._always.get(step)
        match script:
            case None:
                return await act()
            case Say(answer=answer, done=done):
                if done:
                    await act()
                return cast("A", answer)
            case Hold():
                truth = await act()
                script.reached.set()
                await script.let_go.wait()
                return truth

    async def tokenise(self, card: port.Card, *, key: str) -> port.TokeniseAnswer:
        self.cards.append(card)
        return await self._answer(GatewayStep.TOKENISE, key, lambda: self.truth.tokenise(card, key=key))

    async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
        self.orders.append(order)
        return await self._answer(GatewayStep.PREPARE, key, lambda: self.truth.prepare(order, key=key))

    async def find(self, sought: port.Sought) -> port.FindAnswer:
        return await self._answer(GatewayStep.FIND, str(sought.payment_id), lambda: self.truth.find(sought))

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> port.ExecuteAnswer:
        self.confirmed.append(gateway_id)
        self.mandates.append(mandate)
        return await self._answer(
            GatewayStep.EXECUTE, key, lambda: self.truth.execute(gateway_id, mandate=mandate, key=key)
        )

    async def inquire(self, gateway_id: str) -> port.ChargeAnswer:
        return await self._answer(GatewayStep.INQUIRE, gateway_id, lambda: self.truth.inquire(gateway_id))

    async def cancel(self, gateway_id: str, *, key: str) -> port.ChargeAnswer:
        return await self._answer(GatewayStep.CANCEL, key, lambda: self.truth.cancel(gateway_id, key=key))

    async def refund(self, gateway_id: str, order: port.RefundOrder, *, key: str) -> port.RefundAnswer:
        self.refunds.append(order)
        return await self._answer(GatewayStep.REFUND, key, lambda: self.truth.refund(gateway_id, order, key=key))

    async def inquire_refund(self, gateway_id: str, *refund_ids: UUID) -> port.RefundAnswer:
        return await self._answer(
            GatewayStep.INQUIRE_REFUND, gateway_id, lambda: self.truth.inquire_refund(gateway_id, *refund_ids)
        )

    async def owner(self, gateway_id: str) -> port.OwnerAnswer:
        return await self.truth.owner(gateway_id)

    def pace_by(self, follow_up: port.FollowUp) -> None:
        """Nothing to do: each call is one request."""

    async def check(self) -> port.CheckAnswer:
        self.checks += 1
        answer = self.checked
        await asyncio.sleep(0)  # as over a network, others go on meanwhile
        return answer

    async def close(self) -> None:
        """Do nothing: other instances may still use this gateway."""
