"""`moeload-bench inspect`."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import INT, RunArgument, check_ending, no_trace, refuse_unused
from moeload_bench.cli.progress import plain_console, say, say_json
from moeload_bench.errors import NotFoundError, TraceError, printable
from moeload_bench.ops.facts.against import compare, comparison
from moeload_bench.ops.facts.capacity import DROP, RERUNS, Capacity, capacity_of, capacity_sentences, capacity_tables
from moeload_bench.ops.facts.following import Follower
from moeload_bench.ops.facts.inspector import Inspection, Inspector
from moeload_bench.ops.facts.terminal import WIDTH, details, overview
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.recording.parts import Parts
from moeload_bench.results.render import plain_table
from moeload_bench.traces.lookup import Place, find_run
from moeload_bench.traces.trace import Trace

REFRESH_S = 2.0
"""Seconds between looks of `--follow`, where no number is given."""
RANGE = re.compile(r"(\d+)-(\d+)")
"""A range of steps, as `0-5000`: no run is called so."""


def inspect(
    run: RunArgument,
    steps: Annotated[
        str | None, typer.Option(metavar="A-B", help="Only steps A to B - 1 of the run, as in 5000-10000.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Compare with another run, or with steps A-B of this one: which is better?"),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Refresh while the run trains; Ctrl-C ends.")] = False,
    tables: Annotated[bool, typer.Option("--details", help="All layers, sizes and experts, in tables.")] = False,
    ranks: Annotated[
        str | None, typer.Option(metavar="R,R", help="Expert-parallel sizes to show, as in 8,16,32,64.")
    ] = None,
    token_bytes: Annotated[
        float | None, typer.Option(min=0, help="Bytes of one token at an expert: adds MB to the table of ranks.")
    ] = None,
    html: Annotated[Path | None, typer.Option(callback=no_trace, help="Write the run as one page to send.")] = None,
    capacity: Annotated[
        bool,
        typer.Option(
            "--capacity",
            help="Say which capacity factors drop few tokens, with tables. The screen of a run that can drop says it "
            "anyway.",
        ),
    ] = False,
    drop: Annotated[
        str | None, typer.Option(metavar="P%", help="Part of tokens that --capacity may drop. 0.1% by default.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(metavar=INT, min=1, help="Expert-parallel size, for --capacity: adds the factor of a rank."),
    ] = None,
    reruns: Annotated[
        float | None, typer.Option(min=0, help="Steps of 1,000 that may run again with --devices. 1 by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All facts as JSON.")] = False,
    refresh: Annotated[
        float | None, typer.Option(min=0.2, help="Seconds between looks of --follow.", show_default=str(REFRESH_S))
    ] = None,
) -> None:
    """See whether a run is healthy: settled, balanced, what to do.

    \b
    moeload-bench inspect runs/my-run/test/seed0.parquet   one screen
    moeload-bench inspect RUN --against OTHER   which of two balances better
    moeload-bench inspect RUN --steps 5000-9000 --against 0-5000
      did a switch at step 5,000 hurt

    Facts alone: nothing is forecast and nothing of a cluster is assumed. Balance is that of the last 200 rows, capacity
    that of the last 1,000 steps or of --steps. With --against, OTHER is the first and RUN the second: a placement made
    on the first is tried on the second.

    Exit status: 0 shown, 2 nothing could be read.
    """
    if html is not None:
        check_ending("--html", html, ".html")
    if not follow:
        refuse_unused("one look at a run", {"--refresh": refresh}, expected="--follow with it")
    if follow and (steps or against):
        raise TraceError("--follow takes a whole run, got --steps or --against")
    if not capacity and (drop, devices, reruns) != (None, None, None):
        raise TraceError("--drop, --devices and --reruns are about capacity, expected --capacity")
    if reruns is not None and devices is None:
        raise TraceError("--reruns is about the buffers of ranks, expected --devices EP too")
    if capacity and (follow or against):
        raise TraceError("--capacity takes one run, got --follow or --against")
    sizes = _sizes(ranks)
    if against is not None:
        unused = {"--details": tables, "--ranks": ranks, "--token-bytes": token_bytes, "--html": html}
        refuse_unused("--against compares two runs", unused, expected="--steps or --json alone")
        _compare(run, steps, against, as_json)
        return
    for facts, status in (
        _followed(run, refresh or REFRESH_S) if follow else [(_inspector(run, steps).inspection(), "")]
    ):
        _refuse_silent(facts, run)
        needed = None
        if capacity or (_drops(facts) and not (follow or steps or as_json)):
            trace = open_trace(run)
            least = RERUNS if reruns is None else reruns
            needed = capacity_of(trace, _part(drop), least, devices, token_bytes, _rows(trace, steps))
        _show(
            facts,
            needed,
            run,
            status,
            tables=tables,
            asked=capacity,
            token_bytes=token_bytes,
            ranks=sizes,
            as_json=as_json,
        )
    if html is not None:
        _write_page(facts, html, needed)


def _drops(facts: Inspection) -> bool:
    """Return whether the recipe drops tokens, so that it has a capacity to choose, and says before drops which."""
    capacity = facts.meta.capacity_factor is not None or facts.dropped_L is not None
    return capacity and facts.meta.count_semantics != "post_drop"


def _part(text: str | None) -> float:
    """Return a part given in percent, as `0.1%`; raise `TraceError` for another text."""
    if text is None:
        return DROP
    match = re.fullmatch(r"(\d+\.?\d*) ?%", text)
    if match is None:
        raise TraceError(f"--drop is {text!r}, expected percent, as in --drop 0.1%")
    return float(match[1]) / 100


def _rows(trace: Trace, steps: str | None) -> range | None:
    """Return the rows of a range of steps, None without one."""
    bounds = _bounds(steps)
    return range(*(int(row) for row in trace.step_S.searchsorted(bounds))) if bounds else None


def _show(
    facts: Inspection, capacity: Capacity | None, run: str, status: str, *, tables: bool, asked: bool,
    token_bytes: float | None, ranks: Sequence[int], as_json: bool,
) -> None:  # fmt: skip
    """Print one moment of a run: JSON, the tables, or the screen; capacity below it, with its tables if asked for."""
    following = _following(facts, run)
    if as_json:
        needed = {} if capacity is None else {"capacity": asdict(capacity)}
        say_json({**facts.record, **assess(facts)._asdict(), **needed, "next": following})
        return
    console = plain_console()
    if tables:
        for part in details(facts, token_bytes, ranks):
            console.print(part)
        return
    if status and console.is_terminal:
        console.clear()
    width = min(console.width, WIDTH)
    console.print(overview(facts, following, token_bytes=token_bytes, status=status, width=width, ranks=ranks))
    if capacity is not None:
        _print_capacity(capacity, tables=asked)


def _print_capacity(needs: Capacity, *, tables: bool) -> None:
    """Print the answer, and its tables."""
    console = plain_console()
    console.print("")
    for line in capacity_sentences(needs):
        console.print(printable(line))
    for table in capacity_tables(needs) if tables else ():
        printed = plain_table(*table.columns)
        for row in table.rows:
            printed.add_row(*row)
        console.print("", printed, table.caption, sep="\n")


def _following(facts: Inspection, run: str) -> str:
    """Return the next command: a plan for loads that settled, else a closer look."""
    if facts.state == "settled" and not facts.dead_LE.any():
        return f"moeload-bench plan {shlex.quote(run)}"
    return f"moeload-bench inspect {shlex.quote(run)} --details"


def _refuse_silent(facts: Inspection, run: str) -> None:
    """Raise `TraceError` for a run without any load."""
    past = facts.timeline
    if facts.silent_L.all() and (past is None or not (past.busiest_NL > 0).any()):
        raise TraceError(f"{run}: every count is zero, so there is nothing to inspect; was the router counted?")


def _inspector(run: str, steps: str | None = None) -> Inspector:
    """Return the inspector of a run, or of some of its steps, shard by shard for a recording in progress."""
    place = find_run(run)
    if place.unfinished:
        parts = Parts(place.trace)
        parts.look()
        traces: Iterator[Trace] = parts.shards()
    else:
        traces = iter([open_trace(run)])
    inspector, bounds = None, _bounds(steps)
    for trace in traces:
        inspector = inspector or Inspector(trace.meta)
        start, stop = (int(row) for row in trace.step_S.searchsorted(bounds)) if bounds else (0, trace.steps)
        inspector.add(trace, start, stop)
    if inspector is None:
        raise TraceError(f"{run}: nothing is on disk yet")
    if not inspector.rows:
        raise TraceError(f"{run}: no row in steps {steps}")
    return inspector


def _sizes(ranks: str | None) -> tuple[int, ...]:
    """Return the sizes in `8,16`, none for None; raise `TraceError` for other text."""
    if ranks is None:
        return ()
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", ranks):
        raise TraceError(f"--ranks is {ranks[:80]!r}, expected whole numbers such as 8,16,32,64")
    return tuple(sorted({int(size) for size in ranks.split(",")}))


def _bounds(steps: str | None) -> tuple[int, int] | None:
    """Return a range of steps; raise `TraceError` for a text that is none."""
    if steps is None:
        return None
    match = RANGE.fullmatch(steps)
    if match is None or int(match[1]) >= int(match[2]):
        raise TraceError(f"--steps is {steps!r}, expected two numbers such as 0-5000, the smaller one first")
    return int(match[1]), int(match[2])


def _compare(run: str, steps: str | None, against: str, as_json: bool) -> None:
    """Print how a run compares with another one, or with some of its own steps."""
    part = RANGE.fullmatch(against) is not None
    first = _inspector(run, against) if part else _inspector(against)
    pair = compare(first, _inspector(run, steps))
    names = f"steps {against} of {run}" if part else against, f"steps {steps} of {run}" if steps else run
    if as_json:
        say_json({"names": list(names), **pair.record})
    else:
        console = plain_console()
        console.print(comparison(pair, names, console.width))


def _followed(run: str, refresh: float) -> Iterator[tuple[Inspection, str]]:
    """Yield what the rows on disk say, each time that there are new ones, until the recording ends."""
    follower = Follower(_place(run, refresh))
    inspector: Inspector | None = None
    generation = follower.generation
    while True:
        new = 0
        for rows in follower.poll():
            if inspector is None or generation != follower.generation:
                inspector, generation = Inspector(rows.meta), follower.generation
            inspector.add(rows)
            new += 1
        if inspector is not None and new:
            yield inspector.inspection(), follower.status
        if follower.status == "finished":
            return
        if inspector is None and follower.problem and not sys.stdout.isatty():
            raise TraceError(follower.problem)
        time.sleep(refresh)


def _place(run: str, refresh: float) -> Place:
    """Return where a recording is; wait for it where training has not started yet, and say so."""
    waits = False
    while True:
        with contextlib.suppress(NotFoundError):
            return find_run(run)
        if not waits:
            say(f"{run} is not there yet: a recording appears when training starts. Waiting (Ctrl-C ends).", err=True)
            waits = True
        time.sleep(refresh)


def _write_page(facts: Inspection, path: Path, capacity: Capacity | None) -> None:
    """Write the page of a run."""
    from moeload_bench.ops.facts.page import write_page  # its template takes time to load

    write_page(facts, path, capacity)
    say(f"page: {path}", err=True)
