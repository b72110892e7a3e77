"""traces/, the folder that is published: what it may take, and that it holds no training twice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from leaderboard.suites.plan import twin_problem
from moeload_bench.states.origins import FIRST
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.parquet import open_parquet
from tests.conftest import needs_traces

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "traces"

# `shift` trains as `aux0` does until its data switches, and here both have one seed. The train runs are both open for
# fitting. The test run of `aux0` is that of `shift` without its switch: the plans name it `beside`, it is not scored.
KNOWN_TWINS = {
    "qwen3moe-16e-shift/train/seed0": "qwen3moe-16e-aux0/train/seed0",
    "qwen3moe-16e-shift/test/seed1": "qwen3moe-16e-aux0/test/seed1",
}


def test_the_published_folder_keeps_its_bound() -> None:
    """All files of traces/ together take no more than CONTRIBUTING.md allows."""
    stated = re.search(r"`traces/`[^.]* at most (\d+) MB", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert sum(path.stat().st_size for path in TRACES.rglob("*") if path.is_file()) <= int(stated[1]) * 10**6


def first_loads(path: Path) -> np.ndarray:
    """Loads of the first rows [S, L x E]; no more of the file is decoded than it takes."""
    with open_parquet(path) as file:
        batch = next(file.iter_batches(FIRST, row_groups=[0], columns=["load"], use_threads=False))
        return np.asarray(batch.column("load").flatten().flatten()).reshape(FIRST, -1)


@needs_traces
def test_no_two_published_runs_are_one_training_at_first() -> None:
    """Over all recipes at once, those of the ladder too, which no suite is frozen of: none but the known twins."""
    starts: dict[str, np.ndarray] = {}
    twins: dict[str, str] = {}
    for ref in list_traces(TRACES):
        start = first_loads(ref.path)
        # asked for as a scored run: two open ones may be twins, and are to be known all the same
        said = twin_problem(ref.id.replace("/train/", "/test/"), start, starts)
        starts[ref.id] = start
        found = re.search(r"begins as (\S+) does", said or "")
        if found is not None:
            twins[ref.id] = found[1]
    assert len(starts) > 50
    assert twins == KNOWN_TWINS
