"""A gateway inside the process, for measurements: the same port and tokens, no HTTP, a set latency.

It always gives the true answer (`pm_card_*` tokens are captured or declined). It deletes its oldest payments, and all of them when the
process ends. Other instances cannot see its payments. So it is never for real money, and never for two instances.
"""

import asyncio
from enum import Enum
from uuid import UUID

from services.payment_gateway.gateways import port
from shared.records import dataclass, replace

DECLINED_TOKENS = {
    "pm_card_chargeDeclined": "generic_decline",
    "pm_card_visa_chargeDeclined": "generic_decline",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
}
"""Stripe's own test tokens for declines, each with its decline code."""

PAYMENTS_MAX = 5_000
"""Far more payments than are ever at work. They count as the service's memory when that is measured: 20 000 took 10 MiB."""

DECLINED_NUMBER = "4000000000000002"  # Stripe's published test card for a decline


class _Status(Enum):
    UNCONFIRMED = "unconfirmed"
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class _Payment:
    order: port.Order
    status: _Status = _Status.UNCONFIRMED
    refunds: tuple[port.RefundOrder, ...] = ()

    @property
    def refunded_minor(self) -> int:
        """What was given back."""
        return sum(refund.amount_minor for refund in self.refunds)

    @property
    def standing(self) -> tuple[port.StandingRefund, ...]:
        """Its refunds, as `port.Captured` tells of them."""
        return tuple(
            port.StandingRefund(_refund_id(refund.refund_id), refund.amount_minor, refund.payment_id, refund.refund_id)
            for refund in self.refunds
        )


class MemoryGateway:
    """A gateway in memory (see `port.Gateway`). Every request takes `latency_s` seconds."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s
        self._payments: dict[str, _Payment] = {}

    async def tokenise(self, card: port.Card, *, key: str) -> port.TokeniseAnswer:  # noqa: ARG002 - the signature is the port's
        await self._wait()
        token = "pm_card_chargeDeclined" if card.number == DECLINED_NUMBER else "pm_card_visa"
        return port.Tokenised(token, "memory")

    async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
        await self._wait()
        if not order.method_token.startswith("pm_"):
            return port.Refused("resource_missing", "memory")
        gateway_id = f"pi_memory_{key}"
        self._payments.setdefault(gateway_id, _Payment(order))
        if len(self._payments) > PAYMENTS_MAX:
            del self._payments[next(iter(self._payments))]
        return port.Prepared(gateway_id, "memory")

    async def find(self, sought: port.Sought) -> port.FindAnswer:
        await self._wait()
        ids = (id_ for id_, payment in self._payments.items() if payment.order.payment_id == sought.payment_id)
        gateway_id = next(ids, None)
        return port.NotFound("memory") if gateway_id is None else port.Found(gateway_id, "memory")

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> port.ExecuteAnswer:  # noqa: ARG002 - the signature is the port's
        await self._wait()
        payment = self._payments.get(gateway_id)
        if payment and payment.status in {_Status.UNCONFIRMED, _Status.DECLINED}:
            declined = payment.order.method_token in DECLINED_TOKENS
            self._payments[gateway_id] = replace(payment, status=_Status.DECLINED if declined else _Status.CAPTURED)
        return self._charge_answer(gateway_id)

    async def inquire(self, gateway_id: str) -> port.ChargeAnswer:
        await self._wait()
        return self._charge_answer(gateway_id)

    async def cancel(self, gateway_id: str, *, key: str) -> port.ChargeAnswer:  # noqa: ARG002 - the signature is the port's
        await self._wait()
        payment = self._payments.get(gateway_id)
        if payment and payment.status in {_Status.UNCONFIRMED, _Status.DECLINED}:
            self._payments[gateway_id] = replace(payment, status=_Status.CANCELLED)
        return self._charge_answer(gateway_id)

    async def refund(self, gateway_id: str, order: port.RefundOrder, *, key: str) -> port.RefundAnswer:  # noqa: ARG002 - the signature is the port's
        known = await self.inquire_refund(gateway_id, order.refund_id)
        if not isinstance(known, port.NoRefund):
            return known
        payment = self._payments[gateway_id]
        if known.left_minor is None or order.amount_minor > known.left_minor:
            return port.RefundFailed("amount_too_large", "memory", left_minor=known.left_minor)
        self._payments[gateway_id] = replace(payment, refunds=(*payment.refunds, order))
        return port.Refunded(_refund_id(order.refund_id), "memory", order.amount_minor)

    async def inquire_refund(self, gateway_id: str, *refund_ids: UUID) -> port.RefundAnswer:
        await self._wait()
        payment = self._payments.get(gateway_id)
        if payment is None:
            return port.NotFound("memory")
        made = {refund.refund_id: refund.amount_minor for refund in payment.refunds}
        unmade = next((refund_id for refund_id in refund_ids if refund_id not in made), None)
        if unmade is None:
            return port.Refunded(_refund_id(refund_ids[-1]), "memory", made[refund_ids[-1]])
        if payment.status is not _Status.CAPTURED:
            return port.NoRefund("memory")
        left_minor = payment.order.amount_minor - payment.refunded_minor
        return port.NoRefund("memory", left_minor, unmade, payment.standing)

    async def owner(self, gateway_id: str) -> port.OwnerAnswer:
        await self._wait()
        payment = self._payments.get(gateway_id)
        return port.NotFound("memory") if payment is None else port.MadeFor(payment.order.payment_id)

    def pace_by(self, follow_up: port.FollowUp) -> None:
        """Nothing to do: each call is one request."""

    async def check(self) -> port.CheckAnswer:
        return port.Usable()

    async def close(self) -> None:
        self._payments.clear()

    async def _wait(self) -> None:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)

    def _charge_answer(self, gateway_id: str) -> port.ChargeAnswer:
        payment = self._payments.get(gateway_id)
        if payment is None:
            return port.NotFound("memory")
        order = payment.order
        match payment.status:
            case _Status.UNCONFIRMED:
                return port.Unconfirmed("memory")
            case _Status.CAPTURED:
                receipt = gateway_id.replace("pi_", "ch_", 1)
                captured = port.Captured(gateway_id, order.amount_minor, order.currency, receipt, "memory")
                if not payment.refunds:
                    return captured
                return replace(captured, refunded_minor=payment.refunded_minor, standing=payment.standing)
            case _Status.DECLINED:
                return port.Declined(DECLINED_TOKENS[order.method_token], "memory")
            case _Status.CANCELLED:
                return port.Cancelled("memory")


def _refund_id(refund_id: UUID) -> str:
    return f"re_memory_{refund_id.hex}"
