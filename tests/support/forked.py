"""Runs `remit` in a fork of a process that has imported the libraries of others and `shared`, which takes longer than most commands.

The command line itself and all of `services` are imported anew by each command, as at a terminal: so a command that forgot an import fails
here, too. This module imports nothing of ours for the same reason.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_LIBRARIES = """aio_pika aiohttp.web alembic.command asyncpg joserfc.jwe orjson prometheus_client pydantic.type_adapter rich.console
    rich.table sqlalchemy.ext.asyncio structlog tenacity typer.rich_utils uuid_utils.compat uvloop"""
_SHARED = "shared.contracts.catalogue shared.messaging.topology shared.service"
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([*_LIBRARIES.split(), *_SHARED.split()])


def run(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, within_s: float) -> int:
    """Run one command. The files `stdin`, `stdout` and `stderr` of `folder` are its own. Returns its exit code, or minus the signal that
    ended it. Raises TimeoutError."""
    process = _FORKS.Process(target=_become_remit, args=(tuple(arguments), dict(environment), folder))
    process.start()
    process.join(within_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"`remit {' '.join(arguments)}` did not end within {within_s:g} s")
    return process.exitcode


def _become_remit(arguments: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
    sys.dont_write_bytecode = False  # else each command compiles what is ours, whatever the tests were started with
    os.environ.clear()
    os.environ.update(environment)
    for number, (name, flags) in enumerate(
        (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY | os.O_CREAT), ("stderr", os.O_WRONLY | os.O_CREAT))
    ):
        opened = os.open(folder / name, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put an empty one in its place
    from deploy.cli.main import main

    try:
        main([*arguments])
    except Exception:  # noqa: BLE001 - as the interpreter does, which multiprocessing would not do
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
