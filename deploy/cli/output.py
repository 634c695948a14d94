"""How a command speaks: results to stdout (one JSON value with `--json`), one sentence for a person to stderr, and an exit code."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

OK: Final = 0
REFUSED: Final = 1
"""Refused, broken, not answered: the command was understood and the answer is no."""
MISUSED: Final = 2
"""Wrong usage or configuration."""

Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


class CliError(Exception):
    """One sentence for the person at the terminal, and the exit code."""

    def __init__(self, sentence: str, code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def console() -> "Console":
    """Of the terminal, or of a pipe, without colours."""
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that `--help` need not pay

    return Console(highlight=False)


def write_json(value: Any) -> None:
    """One value, indented; times in ISO 8601, ids as text."""
    import orjson  # noqa: PLC0415 - as above

    text = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    sys.stdout.write(f"{text.decode()}\n")


def say(sentence: str) -> None:
    """To the person, beside the result."""
    sys.stderr.write(f"{sentence}\n")


def fail(sentence: str, code: int = REFUSED) -> NoReturn:
    raise CliError(sentence, code)
