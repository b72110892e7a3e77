"""A console of rich, imported where something is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from moeload_bench.errors import printable


class PlainConsole(Console):
    """A console that prints text as it is: text from a file is never markup, and moves no cursor."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is drawn, all text printable; rich's own moves of the cursor are no text."""
        for segment in super().render(renderable, options):
            lines = map(printable, segment.text.split("\n"))
            yield segment if segment.control else segment._replace(text="\n".join(lines))
