"""`python -m leaderboard fit-weights NAME`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from moeload_bench.baselines.gated import Gated
from moeload_bench.baselines.guarded import Guarded

from leaderboard.committed import ROOT, TRACES, recipe_name
from moeload_bench.forecaster import FitRuns, step_block, trace_info
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import list_traces, read_trace
from moeload_bench.traces.trace import Trace

SEED = 0
FORECASTERS = {"gated": (Gated, "_gate"), "guarded": (Guarded, "_guard")}
"""Class, and the module that pins the hash of the archive beside it."""
PINNED = re.compile(r'^SHIPPED_SHA256 = "(\w*)"$', re.MULTILINE)

Name = Literal["gated", "guarded"]


def runs_of(name: Name) -> list[str]:
    """Return the runs that the weights of a forecaster are learned from: names below traces/."""
    if name == "gated":
        return [entry.id for entry in load_suite("v1").fit]
    return [ref.id for ref in list_traces(TRACES) if ref.id.split("/")[1] == "train"]


def fit_runs(traces: Sequence[Trace]) -> FitRuns:
    """Return whole runs as `fit` takes them; runs of one recipe and their probes are one group."""
    recipes = sorted({recipe_name(one.id) for one in traces})
    return [(trace_info(one, recipes.index(recipe_name(one.id))), step_block(one, 0, one.steps)) for one in traces]


def fit_weights(
    name: Annotated[Name, typer.Argument(help="The forecaster whose weights are fitted.")],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing, compare the file with its pinned hash.")
    ] = False,
) -> None:
    """Fit the weights that a forecaster ships with.

    `gated`: on the `train` runs of suite v1, as `evaluate` fits them; a minute of one core. `guarded`: on every `train`
    run of traces/ and its probe; some minutes.

    Writes the archive and pins its hash in the module beside it. Another processor may round otherwise, so a fit there
    need not give the same bytes; that the file is the pinned one can be checked everywhere: exit status 1 with --check
    when it is not.
    """
    forecaster, module = FORECASTERS[name]
    archive, source = (ROOT / "baselines" / f"{module}.{suffix}" for suffix in ("npz", "py"))
    if check:
        found = PINNED.search(source.read_text())
        raise typer.Exit(0 if found and found[1] == bytes_sha256(archive) else 1)
    data = forecaster.fit(fit_runs([read_trace(TRACES / f"{run}.parquet") for run in runs_of(name)]), SEED)
    archive.write_bytes(data)
    source.write_text(PINNED.sub(f'SHIPPED_SHA256 = "{bytes_sha256(archive)}"', source.read_text()))
    print(f"{archive.name}: {len(data)} bytes, {bytes_sha256(archive)}")
