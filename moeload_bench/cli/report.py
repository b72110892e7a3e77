"""`moeload-bench report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import TraceArgument, check_ending, no_trace, with_options
from moeload_bench.cli.progress import pair_progress, plain_console, said_if_stopped, say
from moeload_bench.cli.watching import watching
from moeload_bench.errors import printable
from moeload_bench.inspection.page import report as make
from moeload_bench.inspection.planning import Settings


@with_options(settings=watching)
def report(
    trace: TraceArgument,
    out: Annotated[Path, typer.Option(callback=no_trace, help="The page to write.")] = Path("report.html"),
    *,
    settings: Settings,
) -> None:
    """Write a run on one page to send to a colleague.

    \b
    moeload-bench report runs/my-run/test/seed0.parquet --out report.html

    The page needs no network and no script, follows the reader's light or dark mode, and can be printed. The options
    name the cluster that its advice is for.

    Exit status: 0 written, 2 the request cannot be served.
    """
    check_ending("--out", out, ".html", ".htm")
    loaded = open_trace(trace)
    stopped = "stopped: no page is written; finished forecasters are kept, and the same command goes on with the others"
    with said_if_stopped(stopped), pair_progress(unit="parts") as progress:
        page = make(loaded, settings, source=trace, progress=progress)
    for line in page.found.decision.lines() if page.found.decision else ():
        plain_console().print(printable(line))
    say(f"written: {page.save(out)}")
