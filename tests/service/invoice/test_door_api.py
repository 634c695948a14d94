"""The door keeps what its OpenAPI document says, whatever a sender asks: schemathesis makes requests from the document."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.core.transport import Response

from services.invoice import sender_tokens
from services.invoice.door.app import Door, make_app
from services.invoice.door.reader import Reader
from services.invoice.door.waiting import WaitingRoom
from services.invoice.senders import Senders
from shared.clock import system_clock
from tests.service.audit.books import command, payment, write_books
from tests.support.api_requests import AS_DESCRIBED, OTHERWISE, ApiCaller, draw
from tests.support.environment import Environment

EXAMPLES = 20
"""Of each operation, and of each way: as described, and otherwise."""
URL = "http://127.0.0.1:8700"


class DoorCaller(ApiCaller):
    """A sender that everybody trusts, and that waits for no outcome: nothing happens here meanwhile."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        reader, room = Reader(self.database, Senders()), WaitingRoom(lambda _: asyncio.sleep(0, ()))
        self.run(room.close())
        app = make_app(Door(self.database, reader, room, system_clock))
        self.description = app.openapi()
        token = self.run(sender_tokens.make(self.database, "tests", days=1)).secret
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url=URL, headers={"authorization": f"Bearer {token}"}
        )

    def get(self, path: str) -> httpx.Response:
        return self.run(self.client.get(path))


@pytest.fixture
def caller(environment_urls: Environment, environment: Environment, tmp_path: Any) -> Iterator[DoorCaller]:
    asyncio.run(write_books(environment_urls.databases, tmp_path))
    opened = DoorCaller(environment_urls.stack.database_url_of("invoice", "invoice"))
    yield opened
    opened.close()


def test_every_operation_answers_as_the_document_says(caller: DoorCaller) -> None:
    def check(case: Any) -> None:
        answered = caller.call(case)
        assert answered.status_code < 500, (case.formatted_path, answered.text)
        case.validate_response(Response.from_any(answered))

    operations = caller.operations()
    assert [operation.path for operation in operations] == ["/commands/{id}", "/payments/{id}", "/invoices/{id}"]
    for operation in operations:
        for mode in (AS_DESCRIBED, OTHERWISE):
            draw(operation, mode, EXAMPLES, check)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/commands/{command('issue paid')}", 200),
        (f"/commands/{command('poison')}", 200),
        (f"/payments/{payment('paid')}", 200),
        ("/invoices/INV-paid", 200),
        ("/invoices/INV-never", 404),
    ],
)
def test_what_there_is_has_the_form_that_the_document_gives(path: str, status: int, caller: DoorCaller) -> None:
    """Examples that are drawn hardly meet what there is."""
    schema = schemathesis.openapi.from_dict(caller.description)
    told = caller.get(path)
    schema[f"{path.rpartition('/')[0]}/{{id}}"]["GET"].validate_response(Response.from_any(told))
    assert told.status_code == status
