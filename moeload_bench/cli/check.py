"""`moeload-bench check`."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Annotated

import typer

from moeload_bench.cli.options import TARGET, Seed
from moeload_bench.cli.progress import pair_progress, say, say_json
from moeload_bench.harness.conformance import check_forecaster
from moeload_bench.harness.scenarios import CALL_S, CHECK_S
from moeload_bench.isolation.hosts import Limits, parse_level


def check(
    target: Annotated[str, typer.Argument(help=TARGET)],
    level: Annotated[
        str,
        typer.Option(
            help="Isolation: none (your own code; the strictest, because instances share a process), process or "
            "sandbox (a stranger's code)."
        ),
    ] = "none",
    traceback: Annotated[
        bool, typer.Option("--traceback", help="In the sandbox too, say at which lines the forecaster failed.")
    ] = False,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list: rule, passed, message, required.")] = False,
) -> None:
    """Check that a forecaster keeps the contract, on small synthetic runs.

    A few seconds for a fast one. Shapes, sums, determinism, block sizes, purity of forecast, horizons, dead experts and
    more, one line per rule.

    \b
    moeload-bench check my.py:Mine
    moeload-bench check sw_avg@window=500

    A call that takes over 30 s, or rules that take over ten minutes together, are ended and named.
    Exit status 0 when every required rule is kept, else 1.
    """
    limits = Limits(traceback=traceback, wall_s_per_call=CALL_S, run_wall_s=CHECK_S)
    with pair_progress(quiet=True):  # what the forecaster prints is no part of the answer
        results = check_forecaster(target, level=parse_level(level), seed=seed, limits=limits)
    if as_json:
        say_json([dataclasses.asdict(result) for result in results])
    else:
        for result in results:
            word = "ok    " if result.passed else "FAILED" if result.required else "note  "
            say(f"{word} {result.rule:22} {result.message if not result.passed else ''}".rstrip())
    if any(result.required and not result.passed for result in results):
        raise typer.Exit(1)
    if not as_json:
        say(
            "Every rule is kept. Next:", f"  moeload-bench run {shlex.quote(target)}" + " sw_avg" * (target != "sw_avg")
        )
