"""`moeload-bench verify-trace`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def verify_trace(
    path: Annotated[Path, typer.Argument(help="A contributed trace (.parquet), or a folder of them.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of traces that it must not repeat; may be given again.",
            show_default="all traces found on this machine",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of what is wrong.")] = False,
) -> None:
    """Check a trace that somebody else recorded, before it is published.

    Nothing but traces, hashes, conservation of counts, an open licence, no names of machines or persons, and no
    training that is there already, also with experts in another order, cut, sampled or thinned. Exit status 1 when
    anything is wrong, a line for each reason.
    """
    from moeload_bench.errors import TraceError
    from moeload_bench.publishing.contribution import contribution_problems
    from moeload_bench.recipes.recipe import list_recipes
    from moeload_bench.traces.store import list_traces

    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    known = [ref for folder in against for ref in list_traces(folder)] if against else list_traces()
    wrong = []
    for line in contribution_problems(path, known, list_recipes()):
        wrong.append(line)
        if not as_json:
            typer.echo(f"refused {line}")
    if as_json:
        typer.echo(json.dumps(wrong, indent=1))
    elif not wrong:
        typer.echo(f"ok      {path}: compared with {len(known)} traces")
    if wrong:
        raise typer.Exit(1)
