"""`moeload-bench traces list|meta`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import AsJson, RunArgument
from moeload_bench.cli.progress import plain_console, print_next, say, say_json
from moeload_bench.errors import TraceError, printable
from moeload_bench.results.render import plain_table
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import data_sha256, stored_outline
from moeload_bench.words import shown

app = typer.Typer(help="See which traces there are and what is in them.", no_args_is_help=True)


@app.command("list")
def list_(
    folder: Annotated[Path | None, typer.Argument(help="Only the traces of this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the traces that can be named by id.

    They lie in the package, in the folders of $MOELOAD_TRACES, in ./traces and, in a checkout, in its seasons. A file
    that is no trace is named, and the others are listed. Exit status 1 when there is one.
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
        say_json(rows)
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
    print_next(f"moeload-bench inspect {rows[0]['id']}")


COUNTS = ("steps", "layers", "experts", "top_k", "tokens_per_step")


@app.command("meta")
def meta(trace: RunArgument, as_json: AsJson = False) -> None:
    """Show what was trained, on what, with which versions.

    The metadata of a trace, and the hash of its counts. What the counts say: moeload-bench inspect.
    """
    loaded = open_trace(trace)
    record = {**loaded.meta.model_dump(mode="json"), "data_sha256": data_sha256(loaded), "steps": loaded.steps}
    if as_json:
        say_json({"id": loaded.id, **record})
        return
    console = plain_console()
    console.print(loaded.id, style="bold")
    for key, value in record.items():
        if key != "layers" and value not in (None, "", [], {}):
            console.print(f"  {key:22} {printable(str(value))}", overflow="fold")
