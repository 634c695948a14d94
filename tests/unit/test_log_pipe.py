"""A reader of the log that stands still stops nobody, and is told what it missed."""

import fcntl
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from shared.observability.log_pipe import BACKLOG_BYTES_MAX, LogPipe
from shared.observability.logs import configure_logs

LINE = "x" * 999 + "\n"
ROOM = 64 * 1024
"""Bytes that the pipe takes while nobody reads."""


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The descriptors to read from and to write to."""
    if request.param == "pipe":
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, ROOM)
    else:
        pair = socket.socketpair()
        reading, writing = (one.detach() for one in pair)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_all(descriptor: int) -> bytes:
    """All that is there now."""
    found = b""
    while select.select([descriptor], [], [], 0)[0]:
        found += os.read(descriptor, ROOM)
    return found


def test_what_the_reader_takes_arrives_whole_and_in_order(ends: tuple[int, int]) -> None:
    reading, writing = ends
    pipe = LogPipe.before(writing)
    assert pipe is not None
    for number in range(5):
        pipe.write(f"{number}\n")
    assert read_all(reading) == b"0\n1\n2\n3\n4\n"
    assert pipe.lost() == 0


def test_a_reader_that_stands_still_stops_nobody_and_hears_how_much_it_missed(ends: tuple[int, int]) -> None:
    reading, writing = ends
    pipe = LogPipe.before(writing)
    assert pipe is not None
    count = 3 * BACKLOG_BYTES_MAX // len(LINE)
    for _ in range(count):
        pipe.write(LINE)
    assert pipe.lost() == 0, "there is no room to tell"
    taken = b""
    while found := read_all(reading):
        taken += found
        pipe.flush() if not found else pipe.write("")
    lost = pipe.lost()
    assert 0 < lost < count
    assert taken.decode() == LINE * (count - lost), "what was kept is whole"
    assert pipe.lost() == 0


def test_a_file_needs_no_such_care(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert LogPipe.before(file.fileno()) is None


def test_the_log_itself_tells_what_was_dropped() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        configure_logs("invoice", format="json", stream=stream)
        try:
            log = structlog.stdlib.get_logger("a")
            for _ in range(2 * BACKLOG_BYTES_MAX // 900):
                log.info("much", text="x" * 900)
            told = b""
            for _ in range(2 * BACKLOG_BYTES_MAX // ROOM):
                told += read_all(reading)
                log.info("little")
            assert b'"event":"log_lines_dropped"' in told
        finally:
            configure_logs("tests", level="WARNING", format="console")
    os.close(reading)
