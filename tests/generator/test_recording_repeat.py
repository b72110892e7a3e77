"""A committed trace is what its recipe and seed give: recorded again on the same kind of machine, it is the same."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leaderboard.committed import recipe_of_run
from moeload_bench.generator.corpora import find_corpus, text_path
from moeload_bench.generator.processes import keep_freed_memory
from moeload_bench.generator.provenance import probe_name
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.recording.metadata import hardware, recorded_versions
from moeload_bench.traces.lookup import bundled_folder, load_trace
from moeload_bench.traces.trace import SourceMeta, Trace

STEPS, STEPS_OF_SLOW = 50, 10
SLOW_S = 0.5
"""Seconds per step from which a recipe is slow."""
FOLDERS = (bundled_folder(), Path("traces"))
COMMITTED = [
    min(test.glob("seed*.parquet"))
    for folder in FOLDERS
    for test in sorted(folder.glob("*/test"))
    if not test.parent.name.endswith(".probe")
]
"""One run of each recipe: others of it differ in the seed alone. A probe is recorded again with its run."""


def reason_to_skip(trace: Trace) -> str | None:
    """All that this machine lacks to be asked for the same bits, None when it can be."""
    reasons = []
    for what, current, then in (
        ("processor", hardware(), trace.meta.hardware),
        ("versions", recorded_versions(), trace.meta.versions),
    ):
        differ = [f"{key} {then.get(key)} -> {current.get(key)}" for key in then if then.get(key) != current.get(key)]
        if differ:
            said = ", ".join(differ)
            reasons.append(f"recorded elsewhere ({what}: {said}); floating point may differ in the last place")
    missing = [source.name for source in trace.meta.sources if not text_path(find_corpus(source.name)).is_file()]
    if missing:
        reasons.append(f"text is not cached and tests fetch nothing: moeload-bench corpora fetch {' '.join(missing)}")
    return "; and ".join(reasons) or None


def recorded_again(committed: Trace, steps: int, out: Path) -> Trace:
    """By as many processes as then: a sum over two of them has other last digits than the sum of one."""
    meta = committed.meta
    processes = meta.parallel.get("processes", 1)
    job = Job(recipe_of_run(meta.recipe), meta.run, meta.split, steps, out)
    if processes == 1:
        return load_trace(record_recipe(job))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    asked = ["--seed", str(meta.run), "--split", meta.split, "--steps", str(steps), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, "-m", "moeload_bench", "record", meta.recipe, *asked], env=environment, check=True)
    return load_trace(job.target)


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_committed_trace_can_be_recorded_again(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 50 steps (10 of a slow recipe), from recipe and seed alone, equal the committed ones in every column
    but the wall time; so does a probe.
    """
    monkeypatch.delenv("MOELOAD_CACHE", raising=False)
    committed = load_trace(path)
    reason = reason_to_skip(committed)
    if reason is not None:
        pytest.skip(reason)
    steps = STEPS if np.median(committed.columns["step_time_s"]) < SLOW_S else STEPS_OF_SLOW
    again = recorded_again(committed, steps, tmp_path)
    assert_begins_with(committed, again)
    assert again.meta.tokenizer_sha256 == committed.meta.tokenizer_sha256
    assert [texts(source) for source in again.meta.sources] == [texts(source) for source in committed.meta.sources]
    probe = probe_name(recipe_of_run(committed.meta.recipe))
    if (tmp_path / probe).is_dir():
        there = Path(probe, *path.parts[-2:])
        assert_begins_with(load_trace(path.parents[2] / there), load_trace(tmp_path / there))


def assert_begins_with(continued: Trace, beginning: Trace) -> None:
    """Every column but the wall time."""
    rows = beginning.steps
    np.testing.assert_array_equal(beginning.load_SLE, continued.load_SLE[:rows])
    for name in beginning.columns.keys() - {"step_time_s"}:
        np.testing.assert_array_equal(beginning.columns[name], continued.columns[name][:rows], err_msg=name)


def texts(source: SourceMeta) -> SourceMeta:
    """What was trained on; how often, older traces do not say."""
    return source.model_copy(update={"passes": None})


# ---------------------------------------------------------------- memory that is freed


FIVE_STEPS_TWICE = """
import resource
import torch
from moeload_bench.generator.processes import keep_freed_memory

def steps(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(16 << 20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

steps(2)
print(steps(5))
assert keep_freed_memory()
steps(2)
print(steps(5))
"""


def faults() -> list[int]:
    """Pages that five further steps asked the system for, left alone and kept, in one fresh process."""
    done = subprocess.run([sys.executable, "-c", FIVE_STEPS_TWICE], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_a_step_takes_the_pages_that_the_last_one_freed() -> None:
    """With glibc, steps after the first ask the system for no memory; left alone, each asks for all of it again."""
    if platform.libc_ver()[0] == "glibc":
        alone, memory_saver = faults()
        assert memory_saver < 100 < alone
    else:
        assert not keep_freed_memory()
