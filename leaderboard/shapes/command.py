"""`python -m leaderboard shapes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from leaderboard.committed import TRACES, committed_results
from leaderboard.shapes.board import board_words, draw_board, run_errors
from leaderboard.shapes.measuring import measure_layers, measure_run
from leaderboard.shapes.page import FIGURES, Layers, draw_depth, read_layers, shapes_page
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.files import write_whole
from moeload_bench.style import save_figure
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import read_trace


def shapes(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for shapes.md, and shapes/ with tables and figures.")
    ],
) -> None:
    """Measure what layers do at the depth of models that people train.

    On each test run of a recipe shape-* in traces/: when a layer becomes stable, how it drifts, how balanced and how
    hard to forecast it is, by depth; and whether layers move together. Takes some seconds a run. Works offline.
    """
    refs = [ref for ref in list_traces(TRACES) if ref.id.startswith("shape-") and "/test/" in ref.id]
    runs, layers = [], []
    with pair_progress(unit="runs") as report:
        for done, ref in enumerate(refs):
            report(done, len(refs), ref.id)
            trace = read_trace(ref.path)
            runs.append(measure_run(trace))
            layers.append(measure_layers(trace))
    Layers(pd.DataFrame(runs), pd.concat(layers)).write(out / "shapes")
    found = read_layers(out / "shapes")
    for quantity in FIGURES:
        save_figure(draw_depth(found, quantity), out / "shapes" / f"{quantity}.svg")
    results = committed_results("shapes")
    save_figure(draw_board(run_errors(results)), out / "shapes" / "board.svg")
    board = board_words(results, committed_results("v3"))
    write_whole(out / "shapes.md", shapes_page(found, board).encode())
    say(str(out / "shapes.md"))
