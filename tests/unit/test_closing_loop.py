"""A test that leaves a connection open fails. It does not stop the run."""

import subprocess
import sys

LEAVES_A_CONNECTION_OPEN = """
import asyncio, socket
from tests.support.closing_loop import ClosingLoop

async def leave_open():
    await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)

ours, theirs = socket.socketpair()
runner = asyncio.Runner(loop_factory=ClosingLoop)
runner.run(leave_open())
try:
    runner.close()
finally:
    theirs.setblocking(False)
    print("was closed:", theirs.recv(1) == b"")
"""


def test_a_connection_left_open_is_closed_and_is_an_error() -> None:
    """In a process of its own, since a loop that waits for ever cannot be interrupted."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEAVES_A_CONNECTION_OPEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "was closed: True\n"
    assert "ResourceWarning: unclosed resource" in ended.stderr
    assert ended.returncode == 1
