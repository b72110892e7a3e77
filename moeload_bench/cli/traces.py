"""`moeload-bench traces list|show`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.progress import plain_console, print_next, say, say_document, say_record
from moeload_bench.errors import SuiteError, TraceError, printable
from moeload_bench.results.console import plain_table
from moeload_bench.scoring.description import LayerDescription, about_columns, answer, describe_layers, steps_at_end
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.suites.suite import fitting_horizons
from moeload_bench.traces.store import data_sha256, list_traces, stored_outline
from moeload_bench.traces.trace import Trace
from moeload_bench.words import shown

app = typer.Typer(help="See which traces there are and what is in them.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command("list")
def list_(
    folder: Annotated[Path | None, typer.Argument(help="Only the traces of this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the traces that can be named by id.

    They lie in the package, in the folders of $MOELOAD_TRACES and in ./traces. A file that is no trace is named, and
    the others are listed. Exit status 1 when there is one.
    """
    rows, refused = [], False
    for ref in list_traces(folder):
        try:
            meta, steps = stored_outline(ref.path)
        except TraceError as error:
            say(f"refused {error}", err=True)
            refused = True
            continue
        rows.append(
            {
                "id": ref.id,
                "where": ref.origin,
                "steps": steps,
                "layers": len(meta.layers),
                "experts": meta.experts,
                "top_k": meta.top_k,
                "tokens_per_step": meta.global_batch_tokens,
                "balancing": f"{meta.balancing.method} {meta.balancing.coefficient:g}",
                "bytes": ref.path.stat().st_size,
            }
        )
    if as_json:
        say_record(rows)
    else:
        _print_list(rows)
    if refused:
        raise typer.Exit(1)


def _print_list(rows: Sequence[dict[str, Any]]) -> None:
    console = plain_console()
    if not rows:
        console.print("no traces")
        return
    table = plain_table("id", "steps", "layers", "experts", "k", "tokens", "MB", fold="id")
    for row in rows:
        table.add_row(row["id"], *(shown(row[key], ",") for key in COUNTS), f"{row['bytes'] / 1e6:.1f}")
    console.print(table)
    console.print("k: experts per token; tokens: of a step. Where they lie and their balancing: --json.")
    console.print("Next:")
    console.print(f"  moeload-bench traces show {rows[0]['id']}")


COUNTS = ("steps", "layers", "experts", "top_k", "tokens_per_step")


@app.command("show")
def show(
    trace: Annotated[
        str, typer.Argument(help="An id (RECIPE/SPLIT/seedN), a .parquet file, or a recording in progress (.parts).")
    ],
    as_json: AsJson = False,
    meta: Annotated[bool, typer.Option("--meta", help="The metadata instead of the layers.")] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Spans of states, over-dispersion and floors too; wider than 80 columns.")
    ] = False,
) -> None:
    """Show what a trace says, then layer by layer.

    \b
    moeload-bench traces show run.parquet          an answer, and the layers
    moeload-bench traces show run.parquet --meta   what was trained, on what
    """
    loaded = open_trace(trace)
    described = describe_layers(loaded)
    record = {**loaded.meta.model_dump(mode="json"), "data_sha256": data_sha256(loaded), "steps": loaded.steps}
    if as_json:
        layers = [{**dataclasses.asdict(one), "onset": one.onset and str(one.onset)} for one in described]
        whole = {"id": loaded.id, "meta": record, "layers": layers, "about": about_columns(loaded)}
        say_document(json.dumps(whole, indent=1, default=list))
    elif meta:
        _print_meta(loaded.id, record)
    else:
        _print_layers(loaded, described, wide)
        with contextlib.suppress(SuiteError):  # too short for any horizon: there is no next command
            fitting_horizons(loaded)
            print_next(f"moeload-bench run --trace {shlex.quote(trace)}")


def _print_meta(name: str, meta: dict[str, Any]) -> None:
    console = plain_console()
    console.print(name, style="bold")
    for key, value in meta.items():
        if key != "layers" and value not in (None, "", [], {}):
            console.print(f"  {key:22} {printable(str(value))}", overflow="fold")


def _print_layers(trace: Trace, layers: Sequence[LayerDescription], wide: bool) -> None:
    console = plain_console()
    console.print(trace.id, style="bold")
    for line in answer(trace, layers):
        console.print(line)
    console.print("")
    if wide:
        records = [{**dataclasses.asdict(one), "onset": one.onset and str(one.onset)} for one in layers]
        full = Table(*(records[0] if records else ()))
        for record in records:
            full.add_row(*(_cell(value) for value in record.values()))
        plain_console(wide=True).print(full)
        console.print(about_columns(trace))
        return
    heads = ("layer", "state", "onset", "band", "balance first", "last", "dead", "noise floor")
    table = plain_table(*heads, left=("state",), fold="layer")
    for layer in layers:
        table.add_row(*layer_cells(layer))
    console.print(table)
    ends = steps_at_end(trace)
    console.print(
        "onset: first stable step, and the band that looser and stricter thresholds give. balance: largest / mean load "
        f"of the first and of the last {ends} steps, 1 is even. dead: experts below {DEAD_SHARE:g} / E at the end. "
        f"noise floor: misplaced tokens at h = {ends} that no forecast avoids. All columns: --wide; metadata: --meta."
    )


def layer_cells(layer: LayerDescription) -> tuple[str, ...]:
    """Return a layer's row: its state at the end, since when, how balanced it was and is."""
    onset = layer.onset
    return (
        printable(layer.layer),
        layer.end_state or "-",
        shown(onset and onset.step, ","),
        "-" if onset is None else onset.band(),
        shown(layer.imbalance_first, ".2f"),
        shown(layer.imbalance_last, ".2f"),
        shown(layer.dead_experts, ""),
        shown(layer.floor_window_tv, ".4f"),
    )


def _cell(value: Any) -> str:
    return shown(value, ".4g") if value is None or isinstance(value, float) else printable(str(value))
