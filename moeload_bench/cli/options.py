"""Options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.errors import MoeloadError, TraceError, printable


def check_ending(option: str, path: Path, *endings: str) -> None:
    """Raise `TraceError` for the name of a file to write that has another ending."""
    if path.suffix not in endings:
        raise TraceError(f"{option} is {printable(str(path))}, expected a file name that ends in {endings[0]}")


def refuse_unused(what: str, given: Mapping[str, object], *, expected: str) -> None:
    """Raise `MoeloadError` for options that would change nothing; one that is None or False was not given."""
    if unused := [option for option, value in given.items() if value is not None and value is not False]:
        raise MoeloadError(f"{what}: got {', '.join(unused)} too, expected {expected}")


def no_trace(target: Path | None) -> Path | None:
    """Return the file to write, as given; raise `TraceError` if a trace lies there, the command's own or another.

    An earlier output of that name is replaced. Only recordings are protected, because they cannot be made again.
    """
    if target is not None and target.exists():
        from moeload_bench.traces.store import refuse_trace_at

        refuse_trace_at(target)
    return target


RUN = "A run: its id, its .parquet file, its .parts folder, or a folder above."
RunArgument = Annotated[str, typer.Argument(help=RUN)]
TARGET = "A baseline's name, FILE.py:Class or package.module:Class, with optional @key=value,..."
Forecaster = Annotated[str, typer.Option(help=TARGET)]
ModelLayers = Annotated[
    int | None,
    typer.Option(metavar="<int>", min=1, help="Layers of the model, dense ones included: sglang's file has them all."),
]
Seed = Annotated[int, typer.Option(help="Seed of the forecaster.")]
Level = Annotated[str, typer.Option(help="Isolation: none, process or sandbox.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many runs at a time.")]
FindLinks = Annotated[Path | None, typer.Option(help="A folder of wheels for the requirements.")]
NoIndex = Annotated[bool, typer.Option("--no-index", help="Take wheels from --find-links only.")]

INT = "<int>"
"""Shorter than `<int range>`, so that the longest option's name has its place in 80 columns."""
FirstLayer = Annotated[
    int | None,
    typer.Option(metavar=INT, min=0, help="Number in the model of the first MoE layer, if the source numbers from 0."),
]
