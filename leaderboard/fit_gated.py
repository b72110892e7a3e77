"""`python -m leaderboard fit-gated`."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from moeload_bench.baselines.gated import Gated

from leaderboard.committed import ROOT
from moeload_bench.forecaster import step_block, trace_info
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import read_trace

SUITE = "v1"
WEIGHTS = ROOT / "baselines" / "_gate.npz"
MODULE = ROOT / "baselines" / "_gate.py"
PINNED = re.compile(r'^SHIPPED_SHA256 = "(\w*)"$', re.MULTILINE)


def _pinned() -> str:
    found = PINNED.search(MODULE.read_text())
    return found[1] if found else ""


def fit_gated(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing, compare the file with its pinned hash.")
    ] = False,
) -> None:
    """Fit the weights that `gated` ships with.

    On the `train` runs of suite v1, as `evaluate` fits them.

    Writes baselines/_gate.npz and pins its hash in baselines/_gate.py. About a minute of one core. Another processor
    may round otherwise, so a fit there need not give the same bytes; that the file is the pinned one can be checked
    everywhere: exit status 1 with --check when it is not.
    """
    if check:
        raise typer.Exit(0 if _pinned() == bytes_sha256(WEIGHTS) else 1)
    suite = load_suite(SUITE)
    runs = []
    for entry in suite.fit:
        trace = read_trace(ROOT / "traces" / f"{entry.id}.parquet", expected_sha256=entry.data_sha256)
        runs.append((trace_info(trace, suite.group_of(entry.id)), step_block(trace, 0, trace.steps)))
    data = Gated.fit(runs, suite.seed)
    WEIGHTS.write_bytes(data)
    sha256 = bytes_sha256(WEIGHTS)
    MODULE.write_text(PINNED.sub(f'SHIPPED_SHA256 = "{sha256}"', MODULE.read_text()))
    print(f"{WEIGHTS.name}: {len(data)} bytes, {sha256}")
