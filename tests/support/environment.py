"""The servers that a test uses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.service import Assemble, ServiceSettings, serve

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT_S = 25.0


@dataclass(frozen=True, slots=True)
class Environment:
    """A broker with the topology, and a migrated database for each service (by its name)."""

    rabbitmq_url: str
    databases: dict[str, str]

    def settings(self, service: str) -> ServiceSettings:
        return ServiceSettings(
            service, self.rabbitmq_url, self.databases[service], "WARNING", "console", "127.0.0.1", 0
        )

    @asynccontextmanager
    async def running(self, service: str, assemble: Assemble) -> AsyncIterator[None]:
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
