"""The API of the desk keeps what its description says, whatever a program sends: schemathesis makes requests from the description."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode

from deploy.local.stack import Stack
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.people import Role
from shared.persistence.database import Database
from tests.support.databases import truncate
from tests.support.desk_browser import DeskClock, DeskUnderTest, desk_settings
from tests.support.environment import Environment

EXAMPLES = 4
"""Of each operation, and of each way: as described, and otherwise."""
TOO_OFTEN = 429


class Caller:
    """A program with all roles, that waits for each answer."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.database = self.runner.run(Database.open(url, name="test", connections_max=4))
        self.clock = DeskClock()
        desk = Desk(self.database, desk_settings(), self.clock)
        app = make_app(desk)
        self.description: dict[str, Any] = app.openapi()
        self.client: httpx.AsyncClient = self.runner.run(DeskUnderTest(desk, self.clock, app).token("tests", *Role))

    def call(self, case: Any) -> httpx.Response:
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1:8600")
        sent = {name: value for name, value in sent.items() if name in ("method", "url", "params", "json", "data")}
        if isinstance(sent.get("data"), bytes):
            sent["content"] = sent.pop("data")
        self.clock.forward(seconds=10)  # so that it is never too often
        return self.runner.run(self.client.request(**sent))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.run(self.database.close())
        self.runner.close()


@pytest.fixture
def caller(environment_urls: Environment, stack: Stack) -> Iterator[Caller]:
    url = environment_urls.databases["staff"]
    asyncio.run(truncate(url))
    opened = Caller(url)
    yield opened
    opened.close()


def test_every_operation_answers_as_the_api_says(caller: Caller) -> None:
    schema = schemathesis.openapi.from_dict(caller.description)
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) > 5
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.POSITIVE or operation.body or operation.query or operation.path_parameters:
                _try(caller, operation, mode)


def _try(caller: Caller, operation: Any, mode: GenerationMode) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        answer = caller.call(case)
        where = f"{case.method} {answer.request.url}"
        assert answer.status_code < 500, where
        assert answer.status_code != TOO_OFTEN, where
        if answer.status_code >= 400:
            problem = answer.json()
            assert answer.headers["content-type"] == "application/problem+json", where
            assert problem["code"], where
            assert problem["sentence"].endswith((".", "?", ")")), where
        elif answer.headers["content-type"] == "application/json":
            case.operation.validate_response(Response.from_any(answer))

    answers()
