"""Progress of long work on standard error: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import printable
from moeload_bench.words import FineProgress, silent

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 5.0
WIDE = 180
PIPED = 100
"""Columns of what is read by people and goes where there is no terminal."""


def say(*lines: str, err: bool = False) -> None:
    """Print lines on standard output, or standard error: all that commands print but tables goes through here.

    No line moves a cursor or begins another one, whatever a file or a folder is called.
    """
    print("\n".join(map(printable, lines)), file=sys.stderr if err else sys.stdout, flush=True)


def say_document(text: str) -> None:
    """Print a document of many lines, as JSON or TOML; escapes in its text are valid in both."""
    say(*text.removesuffix("\n").split("\n"))


def say_json(payload: Any) -> None:
    """Print a payload as JSON of many lines."""
    say_document(json.dumps(payload, indent=1))


def print_next(command: str, head: str = "Next:") -> None:
    """Print the command to run next, below what it is for."""
    console = plain_console()
    console.print(head)
    console.print(command_lines(printable(command), console.width), soft_wrap=True)


def plain_console(*, wide: bool = False) -> Console:
    """Return a console on standard output that prints text as it is: text from a file is never markup.

    It is as wide as the terminal; ``wide``: wide enough for any table, on any terminal.
    """
    from moeload_bench.cli.console import PlainConsole

    console = PlainConsole(width=None if sys.stdout.isatty() else PIPED)
    if wide:
        console.width = max(WIDE, console.width)
    return console


def print_entries(entries: Iterable[tuple[str, str]]) -> None:
    """Print each entry's name, and below it, indented, its description, which is too long for cells of 80 columns."""
    from rich.padding import Padding
    from rich.text import Text

    console = plain_console()
    for name, about in entries:
        console.print(Text(name, style="bold"))
        console.print(Padding(Text(about), (0, 0, 0, 4)))


def command_lines(command: str, width: int) -> str:
    """Return a command over as many lines as it needs, all but the last ending in a backslash; it begins a new line."""
    words = [shlex.quote(word) for word in shlex.split(command)]
    text = words[0]
    for before, word in itertools.pairwise(words):  # an option and its value stay together, by a \0 between them
        together = before.startswith("-") and not word.startswith("-")
        text += ("\0" if together else " ") + word.replace(" ", "\0")
    wrapper = textwrap.TextWrapper(width - 2, "  ", "    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(wrapper.wrap(text)).replace("\0", " ")


@contextmanager
def pair_progress(quiet: bool = False, unit: str = "pairs", first: str = "preparing") -> Iterator[FineProgress]:
    """Yield ``report(done, total, what)``; on no terminal a line is printed as a stage begins, and every few
    seconds at most.

    ``first``: what is done until the first report. Another total, or less done than before, begins another stage.
    What a forecaster prints meanwhile goes to standard error: it is no part of the command's answer.
    """
    with redirect_stdout(sys.stderr):
        if quiet or not sys.stderr.isatty():
            yield silent if quiet else _lines(unit)
            return
        with terminal_bar(transient=True, first=first) as report:
            yield report


@contextmanager
def print_on_interrupt(text: str) -> Iterator[None]:
    """Print ``text``, what is kept and how to go on, if Ctrl-C or a signal ends what is inside."""
    try:
        yield
    except KeyboardInterrupt:
        say(text, err=True)
        raise


@contextmanager
def terminal_bar(*, transient: bool, first: str = "preparing") -> Iterator[FineProgress]:
    """Yield ``report(done, total, what)`` that moves a bar with an estimate; ``transient``: it vanishes at the end.

    A thread draws it, so that it shows that work goes on between two reports too.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    from moeload_bench.cli.console import PlainConsole

    columns = (
        BarColumn(10),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False, table_column=Column()),  # over two lines if need be: none is cut
    )
    with Bar(*columns, console=PlainConsole(stderr=True), transient=transient) as bar:
        task, pace = bar.add_task(first, total=None, left=""), _Pace()

        def report(done: float, total: int, what: str) -> None:
            left = pace.left(done, total)  # none when a stage begins, which is shown at once, however short it is
            bar.update(task, completed=done, total=total, left=left, description=what, refresh=not left)

        yield report


class _Pace:
    """How long the rest of a stage takes at the pace of what is done of it."""

    def __init__(self) -> None:
        self._started, self._from, self._done, self._total = time.monotonic(), 0.0, 0.0, 0

    def left(self, done: float, total: int) -> str:
        """Return `about 8 min left`; nothing as long as nothing is done."""
        now = time.monotonic()
        starting = not done or (not self._done and done < 1)  # how long a process takes to start is no pace
        if total != self._total or done < self._done or starting:
            self._started, self._from = now, done
        self._done, self._total = done, total
        if done <= self._from:
            return ""
        left_s = (now - self._started) / (done - self._from) * (total - done)
        return f"about {left_s:.0f} s left" if left_s < 100 else f"about {left_s / 60:.0f} min left"


def _lines(unit: str) -> FineProgress:
    last, pace = time.monotonic(), _Pace()

    def report(done: float, total: int, what: str) -> None:
        nonlocal last
        now, left = time.monotonic(), pace.left(done, total)
        if left and done < total and now - last < LINE_EVERY_S:  # a stage that begins is said at once
            return
        last = now
        say(f"{int(done)}/{total} {unit}{left and f', {left}'}: {what}", err=True)

    return report
