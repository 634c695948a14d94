"""`python -m deploy.local`: keeps a stack running until interrupted, and prints its addresses as `export` lines for a shell."""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deploy.local.errors import StackError
from deploy.local.stack import open_stack
from shared.observability.visible import visible


class _Stop(BaseException):
    """SIGTERM or SIGINT: unwinds like KeyboardInterrupt, so that no `except Exception` holds it up."""


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("--env-file", type=Path, metavar="PATH", help="also write the lines to this file while running")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stop)
    try:
        with open_stack(say=_say) as stack, _announced(stack.environment(), options.env_file):
            while True:
                signal.pause()
    except _Stop:
        return 0
    except StackError as error:
        _say(str(error))
        return 1


def _raise_stop(_number: int, _frame: FrameType | None) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a second signal must not interrupt the clean-up, which takes a second
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def _say(line: str) -> None:
    sys.stderr.write(f"{visible(line)}\n")


@contextmanager
def _announced(environment: Mapping[str, str], env_file: Path | None) -> Iterator[None]:
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    sys.stdout.write(lines)
    sys.stdout.flush()
    if env_file is None:
        yield
        return
    _write_whole(env_file, lines)
    try:
        yield
    finally:
        env_file.unlink(missing_ok=True)  # the servers that it names have ended


def _write_whole(path: Path, text: str) -> None:
    """Write the file so that it appears complete or not at all. Only its owner may read it: it holds passwords."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    with open(unfinished, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    unfinished.rename(path)


if __name__ == "__main__":
    sys.exit(main())
