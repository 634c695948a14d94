"""One stack a session, clean queues and tables for each test. Nothing here sleeps: every wait has a condition and a deadline."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from deploy.local.stack import SERVICES, Stack, open_stack
from shared.messaging.apply import apply_topology
from shared.observability.logs import configure_logs
from shared.persistence.migrate import migrate
from tests.support.databases import truncate
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

ROOT = Path(__file__).parent.parent
GIVEN = "REMIT_TEST_GIVEN"
"""Tests empty the queues, so they use a given broker only if this variable is `yes`."""

configure_logs("tests", level="WARNING", format="console")
# No deadline for an example: its time shows how busy the machine is. pytest's own timeout ends an example that hangs.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A real RabbitMQ and PostgreSQL."""
    if os.environ.get(GIVEN) != "yes":
        for name in ("RABBITMQ_URL", "POSTGRES_URL", *(f"{service.upper()}_DATABASE_URL" for service in SERVICES)):
            os.environ.pop(name, None)
    with open_stack(say=lambda _: None) as opened:
        yield opened


@pytest.fixture(scope="session")
def environment_urls(stack: Stack) -> Iterator[Environment]:
    """A virtual host with the topology, and a migrated database for each service, for all tests in this process."""
    suffix = uuid.uuid4().hex[:8]
    given = stack.kind == "given"
    rabbitmq_url = stack.rabbitmq_url if given else stack.create_vhost(f"tests-{suffix}")
    databases: dict[str, str] = {service: stack.create_database(f"test_{service}_{suffix}") for service in SERVICES}

    async def prepare() -> None:
        await apply_topology(rabbitmq_url)
        for service, url in databases.items():
            await migrate(url, ROOT / "services" / service / "migrations")

    asyncio.run(prepare())
    yield Environment(rabbitmq_url, databases)
    for service in SERVICES:
        stack.drop_database(f"test_{service}_{suffix}")
    if not given:
        stack.drop_vhost(f"tests-{suffix}")


@pytest.fixture
async def environment(environment_urls: Environment) -> Environment:
    """The environment with empty queues and tables."""
    async with UpstreamClient.open(environment_urls.rabbitmq_url) as upstream:
        await upstream.purge()
    await asyncio.gather(*(truncate(url) for url in environment_urls.databases.values()))
    return environment_urls


@pytest.fixture
async def upstream(environment: Environment) -> AsyncIterator[UpstreamClient]:
    """An upstream system: it sends commands and receives what the services publish."""
    async with UpstreamClient.open(environment.rabbitmq_url) as opened:
        yield opened


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Use uvloop, as in production."""
    return {"uvloop": uvloop.new_event_loop}
