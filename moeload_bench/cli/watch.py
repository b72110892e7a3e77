"""`moeload-bench watch`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from moeload_bench.cli.console import PlainConsole
from moeload_bench.cli.options import check_ending, no_trace, with_options
from moeload_bench.cli.progress import say
from moeload_bench.cli.watching import watching
from moeload_bench.errors import NotFoundError, TraceError, not_found
from moeload_bench.inspection.following import Follower, Place
from moeload_bench.inspection.planning import Settings
from moeload_bench.inspection.screen import screen, worst_layer
from moeload_bench.inspection.snapshots import Snapshot, Watch

FIRST_WORDS = "no step is on disk yet: the recorder writes every 250 steps, or once a minute"
EVERYTHING = 10_000
"""A height at which every layer is shown."""


@with_options(settings=watching)
def watch(
    path: Annotated[
        str, typer.Argument(help="A recording in progress (.parts), a .parquet trace, a folder of them, or an id.")
    ],
    once: Annotated[bool, typer.Option("--once", help="Print what is known now and stop.")] = False,
    layer: Annotated[int | None, typer.Option(help="The layer drawn first; the most unbalanced by default.")] = None,
    *,
    settings: Settings,
    follow: Annotated[bool, typer.Option("--follow", help="Assume that advice is carried out at once.")] = False,
    svg: Annotated[
        Path | None, typer.Option(callback=no_trace, help="Draw what is known now into this .svg file, and stop.")
    ] = None,
    refresh: Annotated[float, typer.Option(min=0.2, help="Seconds between looks at the recording.")] = 2.0,
) -> None:
    """Watch a run on the terminal, while it trains or later.

    \b
    moeload-bench watch runs/my-run           refreshes; j, k: layer, q: quit
    moeload-bench watch runs/my-run --once    prints and exits, for scripts

    Reads what the recorder has put on disk (every 250 steps, or once a minute) and never writes. Waits for a recording
    that is not there yet. Advice is for the cluster that the options name.

    Exit status: 0 shown, 2 nothing could be read.
    """
    if svg is not None:
        check_ending("--svg", svg, ".svg")
    at_once = once or svg is not None or not sys.stdout.isatty()
    place = Place.of(path) if at_once else _appearing(path, refresh)
    view = _View(place, dataclasses.replace(settings, follow=follow), layer)
    if at_once:
        view.print_once(svg)
    else:
        view.run(refresh)


def _appearing(path: str, refresh: float) -> Place:
    """Return the recording at a path; wait for it where training has not started yet, and say so."""
    said = False
    while True:
        with contextlib.suppress(NotFoundError):
            return Place.of(path)
        if not said:
            say(f"{path} is not there yet: a recording appears when training starts. Waiting (Ctrl-C ends).")
            said = True
        time.sleep(refresh)


class _View:
    """A recording that is followed, watched and shown."""

    def __init__(self, place: Place, settings: Settings, layer: int | None) -> None:
        self._follower = Follower(place)
        self._settings = settings
        self._layer = layer
        self._generation = 0
        self._watch: Watch | None = None
        self._snapshot: Snapshot | None = None

    def print_once(self, svg: Path | None) -> None:
        """Show what is on disk now, on standard output or as a picture; raise `TraceError` if nothing can be read."""
        self._take_in(lambda: False)
        if self._watch is None:
            raise TraceError(self._follower.problem or f"{self._follower.place.parts}: nothing is recorded there yet")
        # for a pipe: $COLUMNS, or 80
        width = None if sys.stdout.isatty() else shutil.get_terminal_size((80, 24)).columns
        if svg is None:
            console = PlainConsole(width=width)
            console.print(self.screen(console.width, EVERYTHING, keys=False))
            return
        console = PlainConsole(width=width, record=True, file=io.StringIO(), color_system="truecolor")
        console.print(self.screen(console.width, EVERYTHING, keys=False))
        picture = console.export_svg(title="moeload-bench watch", unique_id="watch")
        # its fonts would come from the network; without them the reader's own fixed-width font is used
        svg.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8")
        say(f"figure: {svg}", err=True)

    def run(self, refresh: float) -> None:
        """Refresh the view until q or Ctrl-C."""
        console = PlainConsole()
        with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            quit_ = False
            looked = 0.0
            while not quit_:
                if time.monotonic() - looked >= refresh:
                    self._take_in(lambda: _draw(live, self, console))
                    looked = time.monotonic()
                key = pressed(0.2)
                quit_ = key in ("q", "\x03")
                self._scroll(key)
                _draw(live, self, console)

    def _take_in(self, draw: Callable[[], object]) -> None:
        """Read what is new; while reading a long trace, draw it now and then."""
        drawn = time.monotonic()
        for row in (row for new in self._follower.poll() for row in new.each()):
            meta = self._follower.meta
            assert meta is not None
            if self._watch is None or self._generation != self._follower.generation:
                self._generation = self._follower.generation
                self._watch, self._snapshot = Watch(meta, self._settings, int(row["tokens"].max())), None
            self._snapshot = self._watch.add(row) or self._snapshot
            if time.monotonic() - drawn > 1:
                draw()
                drawn = time.monotonic()

    def _scroll(self, key: str | None) -> None:
        step = {"j": 1, "k": -1, "\x1b[B": 1, "\x1b[A": -1}.get(key or "", 0)
        if step and self._snapshot is not None:
            self._layer = (self._shown() + step) % len(self._snapshot.names_L)

    def _shown(self) -> int:
        assert self._snapshot is not None
        if self._layer is None:
            return worst_layer(self._snapshot)
        if not 0 <= self._layer < len(self._snapshot.names_L):
            raise not_found("layer", str(self._layer), [str(i) for i in range(len(self._snapshot.names_L))])
        return self._layer

    def screen(self, width: int, height: int, *, keys: bool) -> RenderableType:
        """Return what is known now, for a window of that size."""
        follower, watch = self._follower, self._watch
        seen = FIRST_WORDS if watch is None else f"{watch.rows * watch.info.stride:,} steps read"
        if watch is not None and self._snapshot is None:
            seen += f"; the first numbers come after {self._settings.every_at(watch.info.stride):,}"
        if follower.status == "finished" and watch is None:
            seen = ""
        parts = (follower.status, seen, follower.problem or "")
        return screen(
            self._snapshot,
            None if watch is None else watch.history.past(),
            title=str(follower.place.trace.with_suffix("")),
            status=", ".join(part for part in parts if part),
            width=width,
            height=height,
            layer=0 if self._snapshot is None else self._shown(),
            keys=keys,
        )


def _draw(live: Live, view: _View, console: Console) -> None:
    live.update(view.screen(console.width, console.height, keys=True), refresh=True)


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Yield ``pressed(seconds)``: the key pressed within that time, None for none; without a keyboard it only waits."""
    try:
        import select
        import termios
        import tty

        file = sys.stdin.fileno()
        before = termios.tcgetattr(file)
    except (ImportError, OSError, ValueError):
        yield lambda seconds: time.sleep(seconds)
        return

    def pressed(seconds: float) -> str | None:
        if not select.select([file], [], [], seconds)[0]:
            return None
        return os.read(file, 8).decode(errors="replace")

    try:
        tty.setcbreak(file)
        yield pressed
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
