"""The real processes: four services, the sandbox gateway, RabbitMQ and PostgreSQL."""

from collections.abc import Iterator

import pytest

from deploy.local.stack import SERVICES, Stack
from deploy.local.system import System, open_system_on


@pytest.fixture(scope="session")
def whole_system(stack: Stack) -> Iterator[System]:
    """Everything but the services, which each test starts as it needs them."""
    with open_system_on(stack) as opened:
        yield opened


@pytest.fixture
def system(whole_system: System) -> Iterator[System]:
    """One instance of each service runs; all are stopped at the end."""
    for service in SERVICES:
        whole_system.fleet.start(service)
    yield whole_system
    whole_system.fleet.stop_all()
