"""`moeload-bench validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.progress import say, say_record
from moeload_bench.errors import TraceError
from moeload_bench.traces.store import validate_path


def validate(
    path: Annotated[Path, typer.Argument(help="A trace (.parquet) or a folder that holds traces.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list: file, ok, message.")] = False,
) -> None:
    """Check traces against the format: shapes, conservation of counts, gaps, both hashes.

    Prints one line per file, with file, step and layer of the first thing that is wrong. Exit status 1 when any is.
    """
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    found = []
    for file, error in validate_path(path):
        found.append({"file": str(file), "ok": error is None, "message": str(error) if error else None})
        if not as_json:
            say(f"ok      {file}" if error is None else f"refused {error}")
    if as_json:
        say_record(found)
    if not all(entry["ok"] for entry in found):
        raise typer.Exit(1)
