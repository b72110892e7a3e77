"""Progress of long work on standard error: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moeload_bench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 15.0
WIDE = 180


def table_width() -> int | None:
    """The terminal's width; where there is no terminal, wide enough that no table is squeezed."""
    return None if sys.stdout.isatty() else WIDE


def plain_console() -> Console:
    """A console on standard output that prints text as text: what stands in a file is never markup."""
    from rich.console import Console

    return Console(width=table_width(), markup=False, emoji=False, highlight=False)


@contextmanager
def pair_progress(quiet: bool = False, unit: str = "pairs") -> Iterator[Callable[[int, int, str], None]]:
    """Yield ``report(done, total, what)``; on no terminal a line is printed every few seconds at most."""
    if quiet or not sys.stderr.isatty():
        yield _silent if quiet else _lines(unit)
        return
    with terminal_bar(transient=True) as report:
        yield report


@contextmanager
def terminal_bar(*, transient: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Yield ``report(done, total, what)`` that moves a bar with an estimate; ``transient``: it vanishes at the end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=transient) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=printable(what))

        yield report


def _silent(done: int, total: int, what: str) -> None:
    return


def _lines(unit: str) -> Callable[[int, int, str], None]:
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
