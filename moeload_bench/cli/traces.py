"""`moeload-bench traces list|show`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from moeload_bench.cli.progress import plain_console
from moeload_bench.errors import printable
from moeload_bench.scoring.description import about_columns, describe_layers
from moeload_bench.traces.store import data_sha256, list_traces, load_trace, read_trace

app = typer.Typer(help="See which traces there are and what is in them.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command("list")
def list_(
    folder: Annotated[Path | None, typer.Argument(help="Only the traces of this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """List traces: those in the package, in the folders of $MOELOAD_TRACES and in ./traces."""
    rows = []
    for ref in list_traces(folder):
        trace = read_trace(ref.path, verify=False)
        meta = trace.meta
        rows.append(
            {
                "id": ref.id,
                "where": ref.origin,
                "steps": trace.steps,
                "layers": trace.num_layers,
                "experts": trace.num_experts,
                "top_k": meta.top_k,
                "tokens_per_step": meta.global_batch_tokens,
                "balancing": f"{meta.balancing.method} {meta.balancing.coefficient:g}",
                "bytes": ref.path.stat().st_size,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(*(rows[0] if rows else ("no traces",)))
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    plain_console().print(table)


@app.command("show")
def show(
    trace: Annotated[str, typer.Argument(help="An id (RECIPE/SPLIT/seedN) or a .parquet file.")],
    as_json: AsJson = False,
) -> None:
    """Show a trace's metadata, and per layer its states, imbalance, dead experts, over-dispersion and floors."""
    loaded = load_trace(trace)
    described = describe_layers(loaded)
    layers = [{**dataclasses.asdict(one), "onset": one.onset and str(one.onset)} for one in described]
    about = about_columns(loaded)
    meta = {**loaded.meta.model_dump(mode="json"), "data_sha256": data_sha256(loaded), "steps": loaded.steps}
    if as_json:
        typer.echo(
            json.dumps({"id": loaded.id, "meta": meta, "layers": layers, "about": about}, indent=1, default=list)
        )
        return
    _print_trace(loaded.id, meta, layers, about)


def _print_trace(name: str, meta: dict[str, Any], layers: list[dict[str, Any]], about: str) -> None:
    console = plain_console()
    console.print(name, style="bold")
    for key, value in meta.items():
        if key != "layers" and value not in (None, "", [], {}):
            console.print(f"  {key:22} {printable(str(value))}", overflow="fold")
    table = Table(*(layers[0] if layers else ()))
    for layer in layers:
        table.add_row(*(_cell(value) for value in layer.values()))
    console.print(table)
    console.print(about)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
