"""`remit version`, and `remit completion`."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from deploy.cli.output import Json, write_json, write_line

COMPLETE = "_REMIT_COMPLETE"
"""The variable by which a shell's script asks for completions."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"


def register(to: typer.Typer) -> None:
    """Add the commands to the application."""
    to.command("version")(version)
    to.command("completion")(completion)


def version(*, json: Json = False) -> None:
    """Show which build this is, and the versions of what it stands on."""
    from dataclasses import asdict  # noqa: PLC0415 - `--help` need not pay

    from shared.build import libraries, this_build  # noqa: PLC0415

    build = this_build()
    if json:
        write_json({**asdict(build), "libraries": dict(libraries())})
        return
    write_line(f"remit {build.version}, revision {build.revision}, Python {build.python}")
    for name, found in libraries().items():
        write_line(f"{name} {found}")


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell's.", show_default=False)]) -> None:
    """Print the script by which a shell completes `remit`: `eval "$(remit completion bash)"`."""
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - as above

    write_script(get_completion_script(prog_name="remit", complete_var=COMPLETE, shell=shell.value))


def write_script(text: str) -> None:
    """Write a script of ours to stdout as it is."""
    for line in text.splitlines():
        write_line(line)


def is_completing() -> bool:
    """Whether a shell asks what could be typed next."""
    return COMPLETE in os.environ


def word_to_complete() -> str | None:
    """The command that is typed so far, if a shell asks: bash and zsh tell the words in different variables."""
    words = (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()
    return next((word for word in words[1:] if not word.startswith("-")), None)
