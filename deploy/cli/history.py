"""A sender's own record of what it sent, which `remit audit` compares with what became of it."""

from pathlib import Path
from typing import Final, TextIO
from uuid import UUID

HISTORY: Final = "REMIT_HISTORY"
"""The variable that names the file. `remit invoice ...` adds a line a command, and `remit audit` reads it."""


def open_history(path: str | None) -> TextIO | None:
    """The file, opened before a command is sent, so that one that cannot be written stops it. None: no record is kept. Raises OSError."""
    return Path(path).open("a", encoding="utf-8") if path else None


def note(history: TextIO | None, command_id: UUID, wire_name: str, *, confirmed: bool) -> None:
    """Add a line: the broker confirmed this command, or nobody knows whether it has it."""
    import orjson  # noqa: PLC0415 - `--help` need not pay

    if history is not None:
        line = {"command_id": str(command_id), "type": wire_name, "confirmed": confirmed}
        history.write(f"{orjson.dumps(line).decode()}\n")
        history.flush()
