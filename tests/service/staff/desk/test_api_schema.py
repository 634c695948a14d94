"""The API of the desk keeps what its description says, whatever a program sends: schemathesis makes requests from the description."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from schemathesis.core.transport import Response

from deploy.local.stack import Stack
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.people import Role
from tests.support.api_requests import AS_DESCRIBED, OTHERWISE, ApiCaller, draw
from tests.support.databases import truncate
from tests.support.desk_browser import DeskClock, DeskUnderTest, desk_settings
from tests.support.environment import Environment

EXAMPLES = 4
"""Of each operation, and of each way: as described, and otherwise."""
TOO_OFTEN = 429


class DeskCaller(ApiCaller):
    """A program with all roles."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.clock = DeskClock()
        desk = Desk(self.database, desk_settings(), self.clock)
        app = make_app(desk)
        self.description = app.openapi()
        self.client = self.run(DeskUnderTest(desk, self.clock, app).token("tests", *Role))

    def call(self, case: Any) -> httpx.Response:
        self.clock.forward(seconds=10)  # so that it is never too often
        return super().call(case)


@pytest.fixture
def caller(environment_urls: Environment, stack: Stack) -> Iterator[DeskCaller]:
    url = environment_urls.databases["staff"]
    asyncio.run(truncate(url))
    opened = DeskCaller(url)
    yield opened
    opened.close()


def test_every_operation_answers_as_the_api_says(caller: DeskCaller) -> None:
    def check(case: Any) -> None:
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

    operations = caller.operations()
    assert len(operations) > 5
    for operation in operations:
        for mode in (AS_DESCRIBED, OTHERWISE):
            if mode is AS_DESCRIBED or operation.body or operation.query or operation.path_parameters:
                draw(operation, mode, EXAMPLES, check)
