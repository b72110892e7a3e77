"""Progress of long work on standard error: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moeload_bench.errors import printable
from moeload_bench.words import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 15.0
WIDE = 180
PIPED = 100
"""Columns of what is read by people and goes where there is no terminal."""


def plain_console(*, wide: bool = False) -> Console:
    """Return a console on standard output that prints text as it is: text from a file is never markup.

    It is as wide as the terminal; ``wide``: wide enough for any table, on any terminal.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPED
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    if wide:
        console.width = max(WIDE, console.width)
    return console


def print_entries(entries: Iterable[tuple[str, str]]) -> None:
    """Print each entry's name, and below it, indented, its description, which is too long for cells of 80 columns."""
    from rich.padding import Padding
    from rich.text import Text

    console = plain_console()
    for name, about in entries:
        console.print(Text(printable(name), style="bold"))
        console.print(Padding(Text(printable(about)), (0, 0, 0, 4)))


def command_lines(command: str, width: int) -> str:
    """Return a command over as many lines as it needs, all but the last ending in a backslash; it begins a new line."""
    words = [shlex.quote(word) for word in shlex.split(command)]
    pieces: list[str] = []
    for word in words:
        if pieces and not word.startswith("-") and pieces[-1].startswith("-") and " " not in pieces[-1]:
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    lines, line = [], " "
    for piece in pieces:
        if len(line) + 1 + len(piece) + 2 > width and line.strip():
            lines.append(f"{line} \\")
            line = "   "
        line += f" {piece}"
    return "\n".join([*lines, line])


@contextmanager
def pair_progress(quiet: bool = False, unit: str = "pairs") -> Iterator[Progress]:
    """Yield ``report(done, total, what)``; on no terminal a line is printed every few seconds at most."""
    if quiet or not sys.stderr.isatty():
        yield silent if quiet else _lines(unit)
        return
    with terminal_bar(transient=True) as report:
        yield report


@contextmanager
def terminal_bar(*, transient: bool) -> Iterator[Progress]:
    """Yield ``report(done, total, what)`` that moves a bar with an estimate; ``transient``: it vanishes at the end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=transient) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=printable(what))

        yield report


def _lines(unit: str) -> Progress:
    started = last = time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_EVERY_S:
            return
        last = now
        left = (now - started) / max(done, 1) * (total - done)
        print(f"{done}/{total} {unit}, about {left:.0f} s left, finished {printable(what)}", file=sys.stderr)

    return report
