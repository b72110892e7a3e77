"""The weights that `gated` and `guarded` ship with: an archive beside each module, which pins its hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from moeload_bench.baselines.gated import Gated
from moeload_bench.baselines.guarded import Guarded

from leaderboard.committed import ROOT, recipe_name
from leaderboard.fit.lists import FitList
from moeload_bench.forecaster import FitRuns, step_block, trace_info
from moeload_bench.traces.trace import Trace

PINNED = re.compile(r'^SHIPPED_SHA256 = "\w*"$', re.MULTILINE)


def gated(listed: FitList) -> dict[Path, bytes]:
    """Return the weights of `gated`, and the module that pins their hash; a minute of one core."""
    return _shipped("_gate", Gated.fit(fit_runs(list(listed.traces())), listed.seed))


def guarded(listed: FitList) -> dict[Path, bytes]:
    """Return the weights of `guarded`, and the module that pins their hash; some minutes of one core."""
    return _shipped("_guard", Guarded.fit(fit_runs(list(listed.traces())), listed.seed))


def fit_runs(traces: Sequence[Trace]) -> FitRuns:
    """Return whole runs as `fit` takes them; runs of one recipe and their probes are one group."""
    recipes = sorted({recipe_name(one.id) for one in traces})
    return [(trace_info(one, recipes.index(recipe_name(one.id))), step_block(one, 0, one.steps)) for one in traces]


def _shipped(module: str, weights: bytes) -> dict[Path, bytes]:
    archive, source = (ROOT / "baselines" / f"{module}.{suffix}" for suffix in ("npz", "py"))
    pinned = PINNED.sub(f'SHIPPED_SHA256 = "{hashlib.sha256(weights).hexdigest()}"', source.read_text())
    return {archive: weights, source: pinned.encode()}
