"""What the doctor says of a staff desk that answers, of something else at its address, and of nothing there."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from deploy.doctor.desk import look_at_desk
from deploy.doctor.diagnosis import Condition
from tests.support.ports import free_port


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize(
    ("status", "body", "condition"),
    [
        (401, b'{"code": "signed_out", "sentence": "Sign in first."}', Condition.WELL),
        (401, b'{"code": "no_key"}', Condition.BROKEN),
        (401, b"[]", Condition.BROKEN),
        (404, b"<html>", Condition.BROKEN),
        (200, b"{}", Condition.BROKEN),
    ],
)
async def test_only_a_desk_is_taken_for_one(status: int, body: bytes, condition: Condition) -> None:
    with answering(status, body) as url:
        assert (await look_at_desk(url)).condition is condition


async def test_what_does_not_answer_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await look_at_desk(url)
    assert (found.condition, url in found.says, "ConnectionRefusedError" in found.says) == (
        Condition.BROKEN,
        True,
        True,
    )
