"""Requests that schemathesis makes from an OpenAPI document, to an application in this process, one after the other."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import httpx
import schemathesis
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from shared.persistence.database import Database

AS_DESCRIBED, OTHERWISE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
"""The two ways to draw a request."""

_Result = TypeVar("_Result")


class ApiCaller:
    """A program that waits for each answer, with a database and an event loop for the application.

    Who makes one sets `client`, and `description`, the OpenAPI document.
    """

    client: httpx.AsyncClient
    description: dict[str, Any]

    def __init__(self, database_url: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.database = self.run(Database.open(database_url, name="test", connections_max=4))

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do the work in the loop of the application."""
        return self._runner.run(work)

    def operations(self) -> list[Any]:
        """The operations of the document, as schemathesis knows them."""
        schema = schemathesis.openapi.from_dict(self.description)
        return [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]

    def call(self, case: Any) -> httpx.Response:
        """Send a drawn request."""
        sent = case.as_transport_kwargs(base_url=str(self.client.base_url))
        sent = {name: value for name, value in sent.items() if name in ("method", "url", "params", "json", "data")}
        if isinstance(sent.get("data"), bytes):
            sent["content"] = sent.pop("data")
        return self.run(self.client.request(**sent))

    def close(self) -> None:
        """Close all of it."""
        self.run(self.client.aclose())
        self.run(self.database.close())
        self._runner.close()


def draw(operation: Any, mode: GenerationMode, examples: int, check: Callable[[Any], None]) -> None:
    """Give so many drawn requests of the operation to `check`: the same ones each time."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check_one(case: Any) -> None:
        check(case)

    check_one()
