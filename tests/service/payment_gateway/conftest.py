"""An instance of the service with a scripted gateway, and the reads that tests need."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import Policy
from services.payment_gateway.settings import ChargingSettings
from shared.card_data.encryption import CardKeyring
from shared.contracts import invoice, payment_gateway
from shared.service import Runtime
from tests.service.payment_gateway.scripted import ScriptedGateway
from tests.support.card_keys import Keyset, card_keys
from tests.support.databases import outbox_is_empty, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received
from tests.support.waiting import until

Start = Callable[..., AbstractAsyncContextManager[None]]


class PaymentGatewayFixture:
    """The service's database, read from outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def row(self, payment_id: UUID) -> dict[str, Any]:
        found = await rows(self.url, "SELECT * FROM payments WHERE payment_id = $1", payment_id)
        return found[0] if found else {"status": None}

    async def until(self, payment_id: UUID, *statuses: str) -> dict[str, Any]:
        """The row once it has one of these statuses."""

        async def stands() -> dict[str, Any] | None:
            row = await self.row(payment_id)
            return row if row["status"] in statuses else None

        found = await until(stands, what=f"{payment_id} {' or '.join(statuses)}")
        assert found is not None
        return found

    async def until_handled(self, *message_ids: UUID) -> None:
        """Wait until these messages were handled."""

        async def handled() -> bool:
            query = "SELECT message_id FROM inbox WHERE message_id = ANY($1::uuid[])"
            return len(await rows(self.url, query, list(message_ids))) == len(message_ids)

        await until(handled, what=f"{len(message_ids)} messages to be handled")

    async def until_attempted(self, payment_id: UUID, number: int) -> None:
        """Wait until so many answers of the gateway are recorded."""

        async def recorded() -> bool:
            return len(await self.attempts(payment_id)) >= number

        await until(recorded, what=f"{number} attempts")

    async def until_at_rest(self, payment_id: UUID) -> None:
        """Wait until nothing is to be done about it any more."""

        async def rests() -> bool:
            return (await self.row(payment_id))["due_at"] is None

        await until(rests, what=f"{payment_id} at rest")

    async def attempts(self, payment_id: UUID) -> list[tuple[str, str]]:
        found = await rows(
            self.url, "SELECT step, answer FROM attempts WHERE payment_id = $1 ORDER BY fence, seq", payment_id
        )
        return [(row["step"], row["answer"]) for row in found]

    async def outbox_is_empty(self) -> None:
        await outbox_is_empty(self.url)


@pytest.fixture(scope="session")
def keyset() -> Keyset:
    return card_keys()


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
def payments(environment: Environment) -> PaymentGatewayFixture:
    return PaymentGatewayFixture(environment.databases["payment_gateway"])


@pytest.fixture
def start(environment: Environment, gateway: ScriptedGateway) -> Start:
    """`async with start():` runs an instance. Calls and leases last longer than the slowest machine needs. A test in which instances crash
    shortens both, so that it does not wait for the leases of a dead instance."""

    def running(
        *,
        ladder_s: tuple[float, ...] = (0.05, 0.05, 0.05),
        remind_s: float = 3_600.0,
        timeout_s: float = 20.0,
        keyring: CardKeyring | None = None,
        lease_margin_s: float = 10.0,
        watch_s: float = 86_400.0,
    ) -> AbstractAsyncContextManager[None]:
        settings = ChargingSettings(
            "memory://",
            "",
            timeout_s,
            20,
            Policy(ladder_s, remind_s, watch_s),
            keyring,
            lease_margin_s,
            requests_per_s=10_000,
            endpoint_requests_per_s=10_000,
        )

        async def assemble(runtime: Runtime) -> None:
            assemble_with(runtime, settings, gateway)

        return environment.running("payment_gateway", assemble)

    return running


def about(asking: invoice.InvoicePaymentRequested, version: int) -> dict[str, Any]:
    """The fields that every event about the payment begins with."""
    return {"invoice_id": asking.invoice_id, "payment_id": asking.payment_id, "version": version}


def captured_of(asking: invoice.InvoicePaymentRequested, version: int, **more: Any) -> payment_gateway.PaymentCaptured:
    """The event by which the scripted gateway's capture is published."""
    gateway_id = f"pi_memory_{asking.payment_id}:prepare:1"
    return payment_gateway.PaymentCaptured(
        **about(asking, version),
        amount_minor=asking.amount_minor,
        currency=asking.currency,
        gateway_id=gateway_id,
        **{"receipt_number": gateway_id.replace("pi_", "ch_", 1)} | more,
    )


def kind(wire_name: str) -> str:
    """`remit.payment_gateway.PaymentCaptured.v1` -> `PaymentCaptured`."""
    return wire_name.split(".")[-2]


def version(event: Received) -> int:
    """The version of a payment of which the event tells."""
    return int(event.data["version"])


def requested(
    payment_id: UUID | None = None, *, amount_minor: int = 1_250, method: str = "pm_card_visa"
) -> invoice.InvoicePaymentRequested:
    return invoice.InvoicePaymentRequested(
        invoice_id="INV-1",
        payment_id=payment_id or uuid4(),
        amount_minor=amount_minor,
        currency="EUR",
        method=invoice.TokenMethod(token=method),
    )


def asked(payment_id: UUID) -> payment_gateway.InquirePayment:
    return payment_gateway.InquirePayment(invoice_id="INV-1", payment_id=payment_id)


def to_refund(payment_id: UUID) -> payment_gateway.RefundPayment:
    return payment_gateway.RefundPayment(invoice_id="INV-1", payment_id=payment_id, reason="the invoice is void")


JOURNAL_HEAD = f"17:{'0a' * 32}"


def decision(
    payment_id: UUID, resolution: payment_gateway.Resolution, version: int, *, by: str = "ann"
) -> payment_gateway.ResolvePayment:
    return payment_gateway.ResolvePayment(
        invoice_id="INV-1",
        payment_id=payment_id,
        resolution=resolution,
        expected_version=version,
        evidence="statement of 22 November, line 4",
        decided_by=by,
        reason="asked the acquirer",
        receipt_number="R-77" if resolution == "captured" else None,
        journal_head=JOURNAL_HEAD,
    )
