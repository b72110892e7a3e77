"""`moeload-bench report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.watch import (
    Bandwidth,
    Devices,
    ExpertMB,
    Forecaster,
    Horizon,
    Nodes,
    Slots,
    StepMs,
    cluster_settings,
)


def report(
    trace: Annotated[str, typer.Argument(help="An id (RECIPE/SPLIT/seedN) or a .parquet file.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    forecaster: Forecaster = "sw_avg",
    horizon: Horizon = 200,
    devices: Devices = None,
    slots: Slots = None,
    nodes: Nodes = 1,
    expert_mb: ExpertMB = 200.0,
    bandwidth: Bandwidth = 25.0,
    step_ms: StepMs = 100.0,
) -> None:
    """A run on one page to send to a colleague: what it is, when it stabilised, and what to do.

    [bold]moeload-bench report runs/my-run/test/seed0.parquet --out report.html[/bold]

    The page needs no network and no script, is light or dark as the reader's screen, and prints. The options name the
    cluster that its advice is for.

    Exit status: 0 written, 2 the request cannot be served.
    """
    from moeload_bench.cli.progress import pair_progress
    from moeload_bench.live.page import report as make

    settings = cluster_settings(forecaster, horizon, devices, slots, nodes, expert_mb, bandwidth, step_ms, follow=True)
    with pair_progress(unit="forecasts") as progress:
        page = make(trace, settings, source=trace, progress=progress)
    typer.echo(f"written: {page.save(out)}")
