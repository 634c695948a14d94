"""How every command reports: results on stdout (one JSON value with `--json`), one sentence for people on stderr, and an exit code."""

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from shared.observability.visible import visible, visible_json

if TYPE_CHECKING:
    from deploy.cli.terminal import SafeConsole

OK: Final = 0
REFUSED: Final = 1
"""The command was understood, and the answer is no: refused, broken or not answered. One such result among several is enough."""
MISUSED: Final = 2
"""Wrong usage or configuration."""

INTERRUPTED: Final = 130
"""Ctrl-C, as shells count it."""
NOBODY_READS: Final = 141
"""Whoever read the output has gone (`remit ... | head`), as shells count it."""

LISTED: Final = 50
"""Rows that a list shows by default: two screens."""
LISTED_MAX: Final = 10_000

Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=LISTED_MAX, help="Rows at most.")]
Who = Annotated[
    str, typer.Option(envvar=["REMIT_WHO", "USER"], show_envvar=False, help="Who acts. Default: you ($USER).")
]


class CliError(Exception):
    """One sentence for the person at the terminal, and the exit code."""

    def __init__(self, sentence: str, code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


WHOLE = 100_000
"""Columns of a pipe: more than any row of ours has, and a row of a table is padded to them nowhere."""


def is_whole() -> bool:
    """Whether stdout is a pipe or a file. Then nothing is shortened or wrapped, unless COLUMNS says how wide its reader is."""
    return not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdecimal()


def console(*, stderr: bool = False) -> "SafeConsole":
    """A console for the terminal; without colours if the output goes to a pipe, and then as wide as what is printed."""
    from deploy.cli.terminal import SafeConsole  # noqa: PLC0415 - rich takes a tenth of a second, which `--help` need not pay

    return SafeConsole(stderr=stderr, highlight=False, width=WHOLE if is_whole() and not stderr else None)


def write_json(value: Any) -> None:
    """Write one value to stdout as indented JSON, with times in ISO 8601 and ids as text. It is safe on a terminal as well."""
    import orjson  # noqa: PLC0415 - as above

    text = visible_json(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())
    if not sys.stdout.encoding.lower().startswith("utf"):
        text = _ascii_json(text)
    sys.stdout.write(f"{text}\n")


def _ascii_json(text: str) -> str:
    """The same JSON for a terminal that cannot show all letters."""
    import json  # noqa: PLC0415 - as above

    return re.sub(r"[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], text)


def write_line(text: str) -> None:
    """Write one line to stdout, as it is for programs: never wrapped, never coloured."""
    sys.stdout.write(f"{visible(text)}\n")


def say(sentence: str, *, style: str = "") -> None:
    """Print a sentence for people to stderr, so that stdout holds results only."""
    from rich.text import Text  # noqa: PLC0415 - as above

    console(stderr=True).print(Text(visible(sentence), style=style), soft_wrap=True)


def fail(sentence: str, code: int = REFUSED) -> NoReturn:
    """End the command with this sentence and this exit code. Raises CliError."""
    raise CliError(sentence, code)
