"""What the doctor says of a staff desk or a door that answers, of something else at its address, and of nothing there."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from deploy.doctor.diagnosis import Condition
from deploy.doctor.web import DESK, DOOR, WebLook, look_at_web
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
    ("one", "status", "body", "condition"),
    [
        (DESK, 401, b'{"code": "signed_out", "sentence": "Sign in first."}', Condition.WELL),
        (DESK, 401, b'{"code": "token_unknown"}', Condition.BROKEN),
        (DESK, 401, b'{"code": "no_key"}', Condition.BROKEN),
        (DESK, 401, b"[]", Condition.BROKEN),
        (DESK, 404, b"<html>", Condition.BROKEN),
        (DESK, 200, b"{}", Condition.BROKEN),
        (DOOR, 401, b'{"code": "token_unknown"}', Condition.WELL),
        (DOOR, 401, b'{"code": "signed_out"}', Condition.BROKEN),
    ],
)
async def test_only_what_it_is_is_taken_for_one(one: WebLook, status: int, body: bytes, condition: Condition) -> None:
    with answering(status, body) as url:
        assert (await look_at_web(one, url)).condition is condition


async def test_what_does_not_answer_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await look_at_web(DESK, url)
    assert (found.condition, url in found.says, "ConnectionRefusedError" in found.says) == (
        Condition.BROKEN,
        True,
        True,
    )
