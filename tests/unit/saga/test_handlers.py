"""The inbound surface of the saga: every message of its queue has a route, and the setting is checked."""

import pytest

from services.saga.domain import RefundFailed
from services.saga.handlers import ROUTES
from services.saga.settings import SagaSettings
from shared.contracts.catalogue import MESSAGES
from shared.contracts.invoice import InvoicePaymentRequested
from shared.contracts.payment_gateway import PaymentRefundFailed
from shared.messaging.topology import WORK_QUEUES
from shared.settings import ConfigurationError, EnvironmentVariables

URLS = {"RABBITMQ_URL": "amqp://localhost", "SAGA_DATABASE_URL": "postgresql://localhost/saga"}


def read(value: str) -> tuple[float, ...]:
    return SagaSettings.read(EnvironmentVariables(URLS | {"SAGA_DEADLINE_S": value})).deadline_s


def test_every_message_bound_to_the_queue_is_a_fact() -> None:
    (queue,) = (queue for queue in WORK_QUEUES if queue.name == "saga.events")
    keys = {binding.routing_key for binding in queue.bindings}
    brought = {message for message in MESSAGES if message.wire_name in keys}
    assert brought | {InvoicePaymentRequested} == set(ROUTES), "and what an invoice service of the build before sends"


@pytest.mark.parametrize(("decided_by", "closed"), [(None, False), ("kim", True)])
def test_a_refund_that_failed_is_closed_if_a_person_decided(decided_by: str | None, closed: bool) -> None:
    message = PaymentRefundFailed(
        invoice_id="INV-1",
        payment_id="6d0c3d1e-0d2f-4a0e-9a35-8a0f4a2b7d11",
        amount_minor=1,
        currency="EUR",
        version=3,
        reason="refused",
        decided_by=decided_by,
    )
    assert ROUTES[PaymentRefundFailed](message) == RefundFailed(3, closed=closed)


@pytest.mark.parametrize(
    ("value", "ladder_s"),
    [("", (120, 300, 900, 3600)), ("5", (5,)), ("0.1, 2,2,86400", (0.1, 2, 2, 86_400))],
)
def test_the_ladder_is_read_in_seconds(value: str, ladder_s: tuple[float, ...]) -> None:
    assert read(value) == ladder_s


@pytest.mark.parametrize("value", ["soon", "1,", "0", "-1", "nan", "inf", "86401", "20,10", ",".join("1" * 11)])
def test_a_wrong_ladder_names_its_variable(value: str) -> None:
    with pytest.raises(ConfigurationError, match="SAGA_DEADLINE_S"):
        read(value)
