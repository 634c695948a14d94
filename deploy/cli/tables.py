"""Tables and panels of a terminal page. A sender's text goes through `plain`: it acts neither as markup nor as an escape sequence."""

from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.cli.ids import SHORT_ID_LENGTH
from deploy.cli.output import is_whole
from shared.observability.visible import visible

WIDE = 120
"""On a terminal with at least so many columns, ids are shown whole."""
ID_LENGTH = 36


def plain(text: str | None, style: str = "", *, lines: bool = False) -> Text:
    """The text without any markup, and with all that is made visible that acts on a terminal. With `lines`, it may have several."""
    return Text(visible(text or "", lines=lines), style=style)


def table(*, expand: bool = False) -> Table:
    """A list with column titles; `expand`: as wide as the terminal, if there is one."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=expand and not is_whole())


def id_column(to: Table, title: str, *, wide: bool) -> None:
    """A column of ids, whole on a wide terminal."""
    to.add_column(title, no_wrap=True, style="cyan", min_width=ID_LENGTH if wide else SHORT_ID_LENGTH)


def facts(*named: tuple[str, str | None]) -> Table:
    """A row a fact; facts without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in named:
        if value:
            grid.add_row(plain(name), plain(value, lines=True))
    return grid


def panel(content: RenderableType, title: str, *, style: str = "dim") -> Panel:
    """A part of a page with its title."""
    return Panel(content, title=title, title_align="left", border_style=style, expand=not is_whole())
