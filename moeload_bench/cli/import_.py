"""`moeload-bench import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    no_args_is_help=True, help="Turn counts that you have already into a trace: NumPy arrays or a CSV table."
)

Source = Annotated[Path, typer.Argument(help="The file to read.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Experts per token; leave it out when it varies or is unknown.")]
Tokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens entering each layer in each step; else a column, else loads divided by top-k."),
]
Out = Annotated[Path, typer.Option(help="The trace to write (.parquet).")]
Name = Annotated[str, typer.Option(help="The trace's recipe name.")]
Split = Annotated[str, typer.Option(help="train or test.")]
RunNumber = Annotated[int, typer.Option("--run", min=0, help="Number of the run within its split.")]
Counted = Annotated[
    Literal["pre_drop", "post_drop"], typer.Option(help="Whether tokens over an expert's capacity are in the counts.")
]
Licence = Annotated[str, typer.Option(help="Licence of the numbers.")]


@app.command("npz")
def from_npz(
    path: Source,
    out: Out,
    top_k: TopK = None,
    tokens: Tokens = None,
    name: Name = "own",
    split: Split = "test",
    run: RunNumber = 0,
    counted: Counted = "pre_drop",
    licence: Licence = "unknown",
) -> None:
    """Import a NumPy archive.

    Arrays: load [steps, layers, experts], and optionally step [steps], tokens [steps] or [steps, layers], and the
    format's columns (load_half, dropped, loss, lr, ...) with the steps first.

    [bold]moeload-bench import npz counts.npz --top-k 2 --tokens 4096 --out my-run.parquet[/bold]
    """
    from moeload_bench.interchange.npz import import_npz

    _import(import_npz, path, out, top_k, tokens, name, split, run, counted, licence)


@app.command("csv")
def from_csv(
    path: Source,
    out: Out,
    top_k: TopK = None,
    tokens: Tokens = None,
    name: Name = "own",
    split: Split = "test",
    run: RunNumber = 0,
    counted: Counted = "pre_drop",
    licence: Licence = "unknown",
) -> None:
    """Import a CSV table with a header line.

    Columns: step,layer,expert,load (one count per row) or step,layer,load_0,load_1,... (one layer-step per row), each
    with an optional column tokens. Zeros are written too; rows may come in any order.

    [bold]moeload-bench import csv counts.csv --top-k 2 --out my-run.parquet[/bold]
    """
    from moeload_bench.interchange.table import import_csv

    _import(import_csv, path, out, top_k, tokens, name, split, run, counted, licence)


def _import(
    read: Callable[..., Any],
    path: Path,
    out: Path,
    top_k: int | None,
    tokens: int | None,
    name: str,
    split: str,
    run: int,
    counted: str,
    licence: str,
) -> None:
    from moeload_bench.traces.store import write_trace

    # without top-k nothing can be said about drops, and nothing is checked against the tokens
    semantics = counted if top_k is not None or counted == "post_drop" else "unknown"
    meta = {"recipe": name, "split": split, "run": run, "group": name, "licence": licence}
    trace = read(path, top_k, tokens, count_semantics=semantics, **meta)
    typer.echo(
        f"{write_trace(trace, out)}: {trace.steps} steps, {trace.num_layers} layers, {trace.num_experts} experts"
    )
