"""The file of seals: a copy of each seal where the owner of the database cannot write.

A line is a seal: the time in UTC, and `POSITION:HASH`. Lines are only added, each with one write. A line that a crash left unfinished is
passed over, and its seal is written again.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from pathlib import Path

from services.staff.journal_store import Seal

_LINE = re.compile(rb"\S+ ([0-9]{1,18}):([0-9a-f]{64})\r?")
_TAIL_BYTES = 4_096
"""More than any line is long."""


def last_position(path: Path) -> int:
    """The entry of the newest seal in the file. 0 if there is none. Raises OSError."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return max((position for position, _ in _seals(file.read().split(b"\n")[:-1])), default=0)
    except FileNotFoundError:
        return 0


def add(path: Path, seals: Sequence[Seal]) -> None:
    """Add these seals, so that they outlast a power cut. The file is made if there is none. Raises OSError."""
    lines = "".join(f"{seal.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {seal.head}\n" for seal in seals)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        if (size := os.fstat(file).st_size) and os.pread(file, 1, size - 1) != b"\n":
            lines = f"\n{lines}"  # a crash left a line unfinished
        if seals:
            os.write(file, lines.encode())
            os.fsync(file)
    finally:
        os.close(file)


def between(path: Path, after: int, until: int) -> dict[int, set[bytes]]:
    """The hashes of the seals of the entries after `after` and up to `until`, by the entries' numbers. Raises OSError.

    A file that was written by several can say different things of one entry.
    """
    found: dict[int, set[bytes]] = {}
    try:
        with path.open("rb") as lines:
            for position, hash_ in _seals(line.rstrip(b"\n") for line in lines):
                if after < position <= until:
                    found.setdefault(position, set()).add(hash_)
    except FileNotFoundError:
        return {}
    return found


def _seals(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for line in lines:
        if seal := _LINE.fullmatch(line):
            yield int(seal[1]), bytes.fromhex(seal[2].decode())
