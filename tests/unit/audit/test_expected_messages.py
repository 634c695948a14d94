"""The commands that the audit expects of a saga, compared with those that the saga sends: two independent readings of one rule."""

from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit.expected_messages import first_command
from services.audit.routes import SERVICE_OF, queues_for
from services.saga import domain
from services.saga.domain import Fact, Saga, transition
from services.saga.handlers import say
from services.saga.refunds import RefundFact
from shared.messaging.topology import WORK_QUEUES
from tests.unit.audit.facts import facts

PATIENCE = domain.ReminderSchedule((1.0, 2.0))
FACTS = st.tuples(st.integers(1, 9), st.integers(1, 4)).flatmap(lambda numbers: st.sampled_from(facts(*numbers)))


@settings(max_examples=500)
@given(st.lists(FACTS, max_size=20))
def test_the_journal_of_a_saga_tells_its_first_commands(history: list[Fact]) -> None:
    saga, before = Saga(UUID(int=1), "INV-1"), set[str]()
    for fact in history:
        step = transition(saga, fact, PATIENCE)
        if step.saga == saga:
            continue
        name = type(fact).__name__
        row: dict[str, Any] = {
            "from_status": saga.status.value,
            "to_status": step.saga.status.value,
            "fact": name,
            "doubted_before": bool(before & {"InDoubt", "NeedsDecision"}),
            "failed_before": "PaymentFailed" in before,
            "refunds_asked": bool(saga.refunds),
        }
        said = [say(command, step.saga) for command in step.says]
        queues = [queue for message in said[:1] for queue in queues_for(message.exchange, message.wire_name)]
        expected = queues[0] if queues else None
        if isinstance(fact, get_args(RefundFact)) or (saga.refunds and isinstance(fact, domain.DeadlineFired)):
            expected = None  # what is said depends on the refund, of which the journal tells nothing
        assert first_command(row) == expected
        saga, before = step.saga, before | {name}


def test_no_queue_is_overlooked() -> None:
    queues = {queue.name for queue in WORK_QUEUES}
    assert set(SERVICE_OF) == queues, "services/audit/routes.py: SERVICE_OF must name the service of every work queue"


@pytest.mark.parametrize(
    ("key", "queues"),
    [
        ("remit.payment_gateway.PaymentCaptured.v1", ("saga.events",)),
        ("remit.payment_gateway.PaymentCaptured.v1.case", ("saga.events", "staff.cases")),
        ("remit.payment_gateway.PaymentCaptured.v2", ()),
    ],
)
def test_a_routing_suffix_also_reaches_staff(key: str, queues: tuple[str, ...]) -> None:
    assert queues_for("payment.events", key) == queues
