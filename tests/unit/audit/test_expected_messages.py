"""What the checker expects a saga to have said, against what the saga says: two independent readings of DESIGN 6."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit.expected_messages import WIRE_NAMES, first_command
from services.audit.routes import SERVICE_OF, queues_for
from services.saga import domain
from services.saga.domain import Fact, Saga, transition
from services.saga.handlers import say
from shared.contracts.catalogue import MESSAGES
from shared.messaging.topology import WORK_QUEUES

PATIENCE = domain.ReminderSchedule((1.0, 2.0))
VERSIONS = st.integers(1, 9)
FACTS = st.one_of(
    st.just(domain.PaymentRequested()),
    st.just(domain.Paid()),
    st.just(domain.PaymentFailed("declined", "r")),
    st.just(domain.SettlementRejected("r")),
    st.builds(domain.Captured, VERSIONS, st.just(1), st.just("EUR"), st.just("r")),
    st.builds(domain.Declined, VERSIONS, st.just("r")),
    st.builds(domain.NotCharged, VERSIONS, st.just("r")),
    st.builds(domain.InDoubt, VERSIONS),
    st.builds(domain.NeedsDecision, VERSIONS),
    st.builds(domain.Refunded, VERSIONS),
    st.builds(domain.RefundInDoubt, VERSIONS),
    st.builds(domain.RefundFailed, VERSIONS, closed=st.booleans()),
    st.builds(domain.DeadlineFired, st.integers(1, 4)),
)


@settings(max_examples=500)
@given(st.lists(FACTS, max_size=20))
def test_the_journal_of_a_saga_tells_what_it_said(facts: list[Fact]) -> None:
    saga, before = Saga(UUID(int=1), "INV-1"), set[str]()
    for fact in facts:
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
        }
        said = [say(command, step.saga) for command in step.says]
        queues = [queue for message in said[:1] for queue in queues_for(message.exchange, message.wire_name)]
        assert first_command(row) == (queues[0] if queues else None)
        saga, before = step.saga, before | {name}


def test_no_queue_and_no_event_is_overlooked() -> None:
    """A queue or a binding that is added must be followed, too."""
    assert set(SERVICE_OF) == {queue.name for queue in WORK_QUEUES}
    bound = {m.wire_name for m in MESSAGES if m.exchange == "invoice.events" and queues_for(m.exchange, m.wire_name)}
    assert set(WIRE_NAMES.values()) == bound


@pytest.mark.parametrize(
    ("key", "queues"),
    [
        ("remit.payment_gateway.PaymentCaptured.v1", ("saga.events",)),
        ("remit.payment_gateway.PaymentCaptured.v1.case", ("saga.events", "staff.cases")),
        ("remit.payment_gateway.PaymentCaptured.v2", ()),
    ],
)
def test_a_qualifier_brings_staff_in(key: str, queues: tuple[str, ...]) -> None:
    assert queues_for("payment.events", key) == queues
