"""`moeload-bench merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.progress import say
from moeload_bench.errors import counted
from moeload_bench.recording.stages import merge_stages
from moeload_bench.traces.store import read_trace


def merge(
    paths: Annotated[list[Path], typer.Argument(help="The stages: .parquet, or .parts of an unfinished recording.")],
    out: Annotated[Path, typer.Option(help="The trace to write (.parquet).")],
) -> None:
    """Put the traces of pipeline stages together: one trace with the layers of all, by their numbers in the model.

    [bold]moeload-bench merge runs/my-run/test/seed0.stage*.parquet --out runs/my-run/test/seed0.parquet[/bold]
    """
    trace = read_trace(merge_stages(paths, out), verify=False)
    size = ((trace.steps, "step"), (trace.num_layers, "layer"), (trace.num_experts, "expert"))
    say(f"{out}: {', '.join(counted(*one) for one in size)}")
