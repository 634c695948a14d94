"""How a command speaks: results to stdout (one JSON value with `--json`), one sentence for a person to stderr, and an exit code."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

OK: Final = 0
REFUSED: Final = 1
"""Refused, broken, not answered: the command was understood and the answer is no. Of several things one is enough."""
MISUSED: Final = 2
"""Wrong usage or configuration."""

LISTED: Final = 50
"""Rows that a list shows unless told otherwise: two screens."""
LISTED_MAX: Final = 10_000

Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=LISTED_MAX, help="At most so many rows.")]


class CliError(Exception):
    """One sentence for the person at the terminal, and the exit code."""

    def __init__(self, sentence: str, code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def console(*, stderr: bool = False) -> "Console":
    """Of the terminal, or of a pipe, without colours."""
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that `--help` need not pay

    return Console(stderr=stderr, highlight=False)


def write_json(value: Any) -> None:
    """One value, indented; times in ISO 8601, ids as text."""
    import orjson  # noqa: PLC0415 - as above

    text = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    sys.stdout.write(f"{text.decode()}\n")


def say(sentence: str, *, style: str = "") -> None:
    """To the person, beside the result."""
    from rich.text import Text  # noqa: PLC0415 - as above

    console(stderr=True).print(Text(sentence, style=style), soft_wrap=True)


def fail(sentence: str, code: int = REFUSED) -> NoReturn:
    """End the command with this sentence and this exit code. Raises CliError."""
    raise CliError(sentence, code)
