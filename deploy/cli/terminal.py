"""The console of every command: whatever is printed on it, only its own sequences reach the terminal."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from shared.observability.visible import visible


class SafeConsole(Console):
    """A console that makes visible what a text of others would do to the terminal.

    Pages pass such texts through `tables.plain`, because a table is laid out before. This catches what a page forgot.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)
