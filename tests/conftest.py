"""One stack a session, clean queues and tables for each test. Nothing here sleeps: every wait has a condition and a deadline."""

import asyncio
import gc
import os
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import authlib.deprecate  # noqa: F401 - it has its warnings shown always; imported here, what pyproject.toml says of them comes later and counts
import pytest
from hypothesis import HealthCheck, settings

from deploy.local.stack import SERVICES, Stack, open_stack
from deploy.local.system import prepare
from shared.observability.logs import configure_logs
from shared.persistence.database import Database
from tests.faults.proxy import Network, open_network
from tests.support import emptying
from tests.support.closing_loop import ClosingLoop
from tests.support.databases import truncate
from tests.support.environment import Environment
from tests.support.publishing_lanes import PublishingLanes
from tests.support.scheduling import FileByFile, longest_first, shuffle
from tests.support.upstream_client import UpstreamClient

GIVEN = "REMIT_TEST_GIVEN"
"""Tests empty the queues, so they use a given broker only if this variable is `yes`."""
YOUNG_OBJECTS = 10_000
"""So many new objects, and the collector looks for cycles among them. Python's own 700 cost a tenth of the CPU of the unit tests."""

configure_logs("tests", level="WARNING", format="console")
# No deadline for an example: its time shows how busy the machine is. pytest's own timeout ends an example that hangs.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are CPUs, since tests wait for servers. Two more were no faster (measured on two)."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    """See `tests.support.scheduling`."""
    config.option.loadscopereorder = False  # it would begin with the files of most tests
    return FileByFile(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--shuffle SEED`: no test may need another one before it."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in an order that is drawn by this seed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See `tests.support.scheduling`."""
    if (seed := config.getoption("shuffle")) is not None:
        shuffle(items, seed)
    longest_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, None, None]:
    """Thousands of tests and all modules live as long as the process: the collector does not look at them, now or later."""
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    gc.enable()


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
    with stack.part(f"tests_{uuid.uuid4().hex[:8]}") if stack.kind == "given" else nullcontext(stack) as own:
        asyncio.run(prepare(own))
        yield Environment.of(own)
        asyncio.run(emptying.end())


@pytest.fixture
def empty_vhost(stack: Stack) -> Stack:
    """The stack with an empty virtual host, in which our users may do what they may in any. It ends with the stack."""
    if stack.kind == "given":
        pytest.skip("it makes a virtual host, which we do not do on a given broker")
    return replace(stack, rabbitmq_url=stack.create_vhost(f"empty_{uuid.uuid4().hex[:8]}"))


@pytest.fixture
async def environment(environment_urls: Environment, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The environment with empty queues and tables. An invoice service in this process takes commands of senders without a name."""
    monkeypatch.setenv("SENDERS", "trusted")
    await asyncio.gather(
        emptying.empty_queues(environment_urls.rabbitmq_url),
        *(truncate(url) for url in environment_urls.databases.values()),
    )
    return environment_urls


@pytest.fixture
async def lanes(environment: Environment) -> AsyncIterator[PublishingLanes]:
    """The publishing lanes of the invoice service."""
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=2)
    opened = PublishingLanes(environment.rabbitmq_url, database)
    try:
        yield opened
    finally:
        await opened.close()
        await database.close()


@pytest.fixture
async def upstream(environment: Environment) -> AsyncIterator[UpstreamClient]:
    """An upstream system: it sends commands and receives what the services publish."""
    async with UpstreamClient.open(environment.rabbitmq_url) as opened:
        yield opened


@pytest.fixture
def network() -> Iterator[Network]:
    """Proxies that break connections on command."""
    with open_network() as opened:
        yield opened


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Use uvloop, as in production."""
    return {"uvloop": ClosingLoop}
