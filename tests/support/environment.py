"""The servers that a test uses."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deploy.cli.config import settings_of
from deploy.local.stack import RABBITMQ_VARIABLE, SERVICES, Service, Stack, database_variable
from shared.service import Assemble, ServiceSettings, serve
from shared.settings import EnvironmentVariables

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT_S = 25.0
NO_GATEWAY = {"GATEWAY_URL": "memory://", "GATEWAY_MODE": "benchmark"}
"""A payment-gateway service of a test is given its gateway as an object."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A broker with the topology, and a migrated database for each service (by its name).

    A test looks at them through `rabbitmq_url` and `databases`, as the administrator. A service, and whoever types `remit`, has a user and
    roles of its own.
    """

    rabbitmq_url: str
    databases: dict[str, str]
    stack: Stack = field(repr=False)

    @classmethod
    def of(cls, stack: Stack) -> "Environment":
        return cls(
            stack.rabbitmq_url, {service: stack.administrator_database_url(service) for service in SERVICES}, stack
        )

    def settings(self, service: Service) -> ServiceSettings:
        """The settings of a service with its own user and role. The environment of the test gives the others."""
        own = self.stack.environment_of(service)
        addresses = {
            RABBITMQ_VARIABLE: _at_the_address_of(self.rabbitmq_url, own[RABBITMQ_VARIABLE]),
            database_variable(service): _at_the_address_of(self.databases[service], own[database_variable(service)]),
        }
        return settings_of(service).read(EnvironmentVariables(NO_GATEWAY | dict(os.environ) | addresses))

    @asynccontextmanager
    async def running(self, service: Service, assemble: Assemble) -> AsyncIterator[None]:
        """Run an instance of a service in this process. At the end it is drained, and its exit code must be 0. If it ends by itself, the
        body ends at once with an AssertionError."""
        stopping = asyncio.Event()
        task = asyncio.create_task(
            serve(self.settings(service), ROOT / "services" / service / "migrations", assemble, stopping)
        )
        body = asyncio.timeout(None)

        def end_body(_: "asyncio.Task[int]") -> None:
            if not stopping.is_set():
                body.reschedule(0)

        task.add_done_callback(end_body)
        try:
            async with body:
                yield
        except TimeoutError:
            if body.expired():
                raise AssertionError(f"{service} ended by itself") from None
            raise
        finally:
            stopping.set()
            async with asyncio.timeout(STOP_TIMEOUT_S):
                code = await task
        assert code == 0, f"{service} ended with exit code {code}"


def _at_the_address_of(other: str, url: str) -> str:
    """The URL with its own user, at the address of the other one. A test may have put a proxy there."""
    user, _, _ = urlsplit(url).netloc.rpartition("@")
    _, _, address = urlsplit(other).netloc.rpartition("@")
    return urlsplit(url)._replace(netloc=f"{user}@{address}").geturl()
