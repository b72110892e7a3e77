"""`moeload-bench capacity`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import TraceArgument
from moeload_bench.cli.progress import plain_console, print_next, say_record
from moeload_bench.errors import printable
from moeload_bench.inspection.capacity import RISK, STEPS, Capacity, capacity_of, capacity_sentences, capacity_tables
from moeload_bench.results.console import plain_table


def capacity(
    trace: TraceArgument,
    steps: Annotated[int, typer.Option(min=1, help="Steps that the capacity is kept for.")] = STEPS,
    risk: Annotated[float, typer.Option(help="Part of such windows that may exceed it: 0.05 is one in twenty.")] = RISK,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices that hold equally many experts, by number.")
    ] = None,
    token_bytes: Annotated[
        int | None, typer.Option(min=1, help="Bytes of one token in a buffer: 2 x the width, in bfloat16.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record instead of text.")] = False,
) -> None:
    """Find the capacity factor and the memory that the next steps need.

    \b
    moeload-bench capacity run.parquet --devices 8 --token-bytes 4096

    The need of a window is the largest load of an expert over the even share, over its steps, experts and layers. It is
    forecast from the run's own past windows and from those of other runs; how well: docs/reports/capacity.md in the
    project's repository.
    """
    loaded = open_trace(trace)
    found = capacity_of(loaded, steps, risk, devices, token_bytes)
    stated = "" if devices is None else f" --devices {devices} --slots {loaded.num_experts + devices}"
    following = f"moeload-bench plan {shlex.quote(trace)}{stated}"
    if as_json:
        say_record({**asdict(found), "next": following})
        return
    print_capacity(found)
    print_next(following)


def print_capacity(found: Capacity) -> None:
    """Print the answer and its tables."""
    console = plain_console()
    for line in capacity_sentences(found):
        console.print(printable(line))
    for table in capacity_tables(found):
        console.print("")
        printed = plain_table(*table.columns)
        for row in table.rows:
            printed.add_row(*row)
        console.print(printed)
        console.print(table.caption)
