"""The audit's own table of a saga's legal steps, compared with what the saga does: two independent readings of one rule."""

import itertools
from uuid import UUID

import pytest

from services.audit.sagas import LEGAL
from services.saga import domain
from services.saga.domain import Saga, SagaStatus, transition
from tests.unit.audit.facts import facts

PATIENCE = domain.ReminderSchedule((1.0,))
CAPTURE = domain.Capture(1, "EUR", "r")


@pytest.mark.parametrize("status", SagaStatus)
def test_the_saga_makes_only_legal_steps(status: SagaStatus) -> None:
    for fact, failed in itertools.product(facts(), (None, domain.Failure("declined", "r"))):
        before = Saga(UUID(int=1), "INV-1", status, capture=CAPTURE, failure=failed, deadline=1, deadline_s=1.0)
        after = transition(before, fact, PATIENCE).saga
        if after.version != before.version:
            assert f"{status}>{after.status}" in LEGAL


@pytest.mark.parametrize("step", ["completed>refunding", "refunded>settling", "failed>settling", "settling>in_doubt"])
def test_the_table_forbids_something(step: str) -> None:
    assert step not in LEGAL
