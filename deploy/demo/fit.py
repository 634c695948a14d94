"""What `make up` and `make demo` print fits into a terminal, and is whole in a pipe."""

import re
from typing import Final

from rich.text import Text

from deploy.cli.output import is_whole
from deploy.cli.terminal import SafeConsole

_WORD: Final = re.compile(r"\S+")
_WORD_OF_A_COMMAND: Final = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")
"""What stands in quotes is one."""
_NAMED: Final = re.compile(r"\s*\S+ {2,}")
"""A name, and the space up to the column behind it."""
_COMMANDS: Final = ("remit ", "curl ", "$ ")


def show(console: SafeConsole, text: Text | str) -> None:
    """Print the text: in a terminal broken between words, in a pipe as it is."""
    whole = Text(text) if isinstance(text, str) else text
    console.print(whole if is_whole() else fit(whole, console.width), soft_wrap=True)


def fit(text: Text, width: int) -> Text:
    """The text with no line longer than `width` columns, but for a word that is longer. A line has one style."""
    lines = []
    for line in text.split("\n", allow_blank=True):
        style = line.spans[0].style if line.spans else line.style
        is_long = len(line) > width
        lines.append(Text("\n".join(broken(line.plain, width)), style=style) if is_long else line)
    return Text("\n").join(lines)


def broken(line: str, width: int) -> list[str]:
    """The line in pieces. A command goes on behind a backslash, so that all of it can be copied into a shell."""
    is_command = line.lstrip().startswith(_COMMANDS)
    more = " \\" if is_command else ""
    indent = " " * (len(line) - len(line.lstrip()))
    named = _NAMED.match(line)
    head = named[0] if named else indent
    goes_on = " " * len(head) if named else indent + "    " * is_command
    pieces = [head]
    for word in (_WORD_OF_A_COMMAND if is_command else _WORD).findall(line[len(head) :]):
        if pieces[-1] in {head, goes_on}:
            pieces[-1] += word
        elif len(pieces[-1]) + len(word) + len(more) < width:
            pieces[-1] += f" {word}"
        else:
            pieces[-1] += more
            pieces.append(goes_on + word)
    return pieces
