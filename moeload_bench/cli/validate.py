"""`moeload-bench validate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.progress import say, say_json
from moeload_bench.errors import TraceError
from moeload_bench.traces.lookup import find_run
from moeload_bench.traces.store import stored_hash, validate_path


def validate(
    run: Annotated[str, typer.Argument(help="A run as for `inspect`, or a folder with any number of traces.")],
    public: Annotated[
        bool, typer.Option("--public", help="Check also whether they may be published: see above.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list: file, ok, message.")] = False,
) -> None:
    """Check traces against the format, and both hashes.

    Shapes, conservation of counts, gaps. Prints one line per file, with file, step and layer of the first thing that is
    wrong. Exit status 1 when any is.

    With --public a trace is refused, too, without an open licence, without a statement of what its counts are, if its
    metadata names a machine or a person, and if it is a copy of a trace that is found here (equal `data_sha256`).
    """
    path = Path(run) if Path(run).is_dir() else find_run(run).path
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    rows = []
    for file, message in _checked(path, public):
        rows.append({"file": str(file), "ok": message is None, "message": message})
        if not as_json:
            say(f"ok      {file}" if message is None else f"refused {message}")
    if as_json:
        say_json(rows)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _checked(path: Path, public: bool) -> Iterator[tuple[Path, str | None]]:
    """Yield each trace file with the reason why it is refused, or None; once for each reason."""
    from moeload_bench.publishing.admission import published_hashes, publishing_problems

    held = published_hashes() if public else {}
    for file, error in validate_path(path):
        if error is not None:
            yield file, str(error)
            continue
        reasons = list(publishing_problems(file, held)) if public else []
        yield from ((file, f"{file}: {reason}") for reason in reasons)
        if not reasons:
            yield file, None
        if public:
            held[file] = stored_hash(file)
