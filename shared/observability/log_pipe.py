"""Writes lines to a pipe or socket without ever waiting for whoever reads it: a reader that stands still must not stop payments.

What the reader has not taken waits in memory, up to a limit. Further lines are dropped, counted, and told of once the reader goes on.
"""

import os
import select
import stat
from collections import deque
from typing import Final

BACKLOG_BYTES_MAX: Final = 1024**2
"""Some thousand lines: what a reader misses that stands still for a second or two under load."""
LAST_WORDS_S: Final = 1.0
"""How long a process that ends waits for a reader that stands still."""


class LogPipe:
    """The way to the reader of `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._backlog = deque[bytes]()
        self._bytes = 0
        self._dropped = 0

    @classmethod
    def before(cls, descriptor: int) -> "LogPipe | None":
        """The way to the reader of this descriptor, or None if it is a file or a terminal, which take everything."""
        mode = os.fstat(descriptor).st_mode
        return cls(descriptor) if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None

    def write(self, lines: str) -> None:
        """Write these lines, or keep or drop them. Raises OSError if nobody reads any more."""
        data = lines.encode("utf-8", "backslashreplace")
        if self._backlog and self._bytes + len(data) > BACKLOG_BYTES_MAX:
            self._drain(0.0)
        if self._backlog and self._bytes + len(data) > BACKLOG_BYTES_MAX:
            self._dropped += lines.count("\n")
            return
        self._backlog.append(data)
        self._bytes += len(data)
        self._drain(0.0)

    def flush(self) -> None:
        """Wait a moment for the reader to take what is kept."""
        self._drain(LAST_WORDS_S)

    def lost(self) -> int:
        """How many lines were dropped since the last call. 0 as long as there is no room to tell."""
        if self._backlog:
            return 0
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _drain(self, wait_s: float) -> None:
        while self._backlog and self._room.poll(wait_s * 1_000):
            first = self._backlog[0]
            # Linux reports room in a pipe or socket only where there is so much of it.
            taken = os.write(self._descriptor, first[: select.PIPE_BUF])
            self._bytes -= taken
            if taken < len(first):
                self._backlog[0] = first[taken:]
            else:
                self._backlog.popleft()
