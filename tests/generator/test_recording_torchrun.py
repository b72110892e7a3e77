"""`torchrun -m moeload_bench record`: the processes of one machine share each step's sequences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import RecordingError
from moeload_bench.generator.provenance import check_same_recipe
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.recording.parts import Parts
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording.recipes import RECIPE, small_recipe, text_recipe, write_recipe

STEPS = 60


def long_recipe(folder: Path, text: str = RECIPE) -> str:
    return text_recipe(folder, text).replace("steps = 12", f"steps = {STEPS}")


def torchrun(recipe: Path, out: Path, *more: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launch, "-m", "moeload_bench", "record", str(recipe), "--out", str(out), "--shard-steps", "3", *more]


def environment(folder: Path) -> dict[str, str]:
    cleared = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    own = {"MOELOAD_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**cleared, **own}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=400, check=False)


def kill_after(command: list[str], folder: Path, manifest: Path, steps: int) -> None:
    """Start a recording and kill all of its processes once ``steps`` are on disk."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(command, env=environment(folder), stdout=log, stderr=log, text=True)
        until = time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            if manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["next_step"] >= steps:
                break
            time.sleep(0.05)
        assert process.poll() is None, (folder / "killed.log").read_text(encoding="utf-8")
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split():
            os.kill(int(child), signal.SIGKILL)
        assert process.wait(60) != 0


def assert_same(got: Trace, expected: Trace, steps: int | None = None) -> None:
    for name in ("tokens_SL", "load_SLE"):
        np.testing.assert_array_equal(getattr(got, name)[:steps], getattr(expected, name)[:steps])
    np.testing.assert_array_equal(got.columns["load_half"][:steps], expected.columns["load_half"][:steps])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A recipe of which two processes recorded a run, in the folder `two` beside it, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    recipe = write_recipe(folder, long_recipe(folder))
    done = run(torchrun(recipe, folder / "two"), folder)
    assert done.returncode == 0, done.stderr
    return recipe, done


@pytest.mark.slow
def test_two_processes_share_a_recipe(two: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Two processes train what one trains with twice the micro-batches; rank 0 alone writes and reports."""
    recipe, done = two
    text = recipe.read_text(encoding="utf-8")
    target = recipe.parent / "two/small/test/seed0.parquet"
    assert done.stdout.split() == [str(target)]
    assert done.stderr.count(f"{STEPS}/{STEPS} steps") == 1
    got = read_trace(target)
    one = small_recipe(tmp_path, text.replace("micro_batches = 2", "micro_batches = 4"))
    expected = read_trace(record_recipe(Job(one, 0, "test", STEPS, tmp_path / "one")))
    assert_same(got, expected, steps=5)
    assert (got.load_SLE.sum(axis=2) == 8 * 16 * 2).all()
    assert (got.columns["load_half"].sum(axis=2) == 8 * 16).all()
    assert got.meta.complete
    assert got.meta.parallel == {"processes": 2}
    for name in ("loss", "aux_loss", "router_entropy", "grad_norm", "lr"):
        np.testing.assert_allclose(got.columns[name][:5], expected.columns[name][:5], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of torchrun in /proc")
def test_two_killed_processes_go_on(two: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Killed and resumed, the trace is the uninterrupted one; another number of processes may not go on."""
    recipe, _ = two
    target = tmp_path / "killed/small/test/seed0.parquet"
    kill_after(torchrun(recipe, tmp_path / "killed"), tmp_path, target.with_suffix(".parts") / "manifest.json", 6)
    job = Job(small_recipe(tmp_path, recipe.read_text(encoding="utf-8")), 0, "test", STEPS, tmp_path / "killed")
    with pytest.raises(RecordingError, match="begun by 2 processes, these are 1"):
        record_recipe(job, resume=True)
    refused = run(torchrun(recipe, tmp_path / "killed"), tmp_path)
    assert refused.returncode != 0
    assert "an unfinished recording is there; continue with --resume" in refused.stderr
    assert "process 1 stops because process 0 stopped" in refused.stderr
    assert "SIGABRT" not in refused.stderr
    done = run(torchrun(recipe, tmp_path / "killed", "--resume"), tmp_path)
    assert done.returncode == 0, done.stderr
    got, expected = read_trace(target), read_trace(recipe.parent / "two/small/test/seed0.parquet")
    assert got.step_S.tolist() == list(range(STEPS))
    assert_same(got, expected)
    np.testing.assert_array_equal(got.columns["loss"], expected.columns["loss"])


def test_processes_must_share_a_step_equally(tmp_path: Path) -> None:
    """Eight sequences cannot be shared by three processes with equal weights."""
    with pytest.raises(RecordingError, match="trains 8 sequences per step from step 0 on, which 3 processes cannot"):
        check_same_recipe(small_recipe(tmp_path), Parts(tmp_path / "seed0.parquet"), 3)
    with pytest.raises(RecordingError, match="which 8 processes with 2 micro-batches each cannot share equally"):
        check_same_recipe(small_recipe(tmp_path), Parts(tmp_path / "seed0.parquet"), 8)
