"""`moeload-bench report`, the former spelling of `moeload-bench inspect --html`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import TraceArgument, check_ending, no_trace, with_options
from moeload_bench.cli.progress import say
from moeload_bench.cli.watching import watching
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

    Former spelling of [bold]moeload-bench inspect RUN --html FILE[/bold]. The options of a cluster change nothing.
    """
    check_ending("--out", out, ".html", ".htm")
    page = make(open_trace(trace))
    instead = f"moeload-bench inspect {shlex.quote(trace)} --html {shlex.quote(str(out))}"
    say(f"report is now: {instead}; what a cluster saves: moeload-bench plan", err=True)
    say(f"written: {page.save(out)}")
