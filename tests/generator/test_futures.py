"""`moeload-bench record --fork`: futures of one past, with the text in another order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from moeload_bench.cli.app import app
from moeload_bench.errors import InterruptedRecordingError, RecipeError, RecordingError
from moeload_bench.generator.futures import Fork, record_futures
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.generator.training import Job, TrainingRun, record_recipe
from moeload_bench.traces.store import read_trace
from tests.support.recording.recipes import use_small_text, write_recipe

AT, STEPS = 4, 5
"""The step at which the small recipe of 12 steps forks, and how long each future is: its text changes at step 6."""


@pytest.fixture(autouse=True)
def small_text(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_text(monkeypatch)


def fork_of(folder: Path, out: str = "runs", seed: int = 3) -> Fork:
    recipe = load_recipe(str(write_recipe(folder)))
    return Fork(Job(recipe, seed, "test", recipe.steps, folder / out), AT, STEPS)


def loads(paths: list[Path]) -> list[np.ndarray]:
    return [read_trace(path).load_SLE[:] for path in paths]


def test_futures_share_weights_past_and_plan_and_not_the_text(tmp_path: Path) -> None:
    """The text in its own order gives the recorded run again bit for bit; in another order it is another future."""
    fork = fork_of(tmp_path)
    one, other = (read_trace(path) for path in record_futures(fork, 2))
    straight_run = read_trace(record_recipe(fork.job, resume=True))
    assert one.id == "small/test_seed3_fork4/seed0"
    assert one.meta.seed == 3
    assert one.meta.notes[-1].startswith("fork of small/test/seed3 from step 4 on: the text in another order")
    for name in ("lr", "stage"):
        np.testing.assert_array_equal(one.columns[name], straight_run.columns[name][AT : AT + STEPS])
    assert one.step_S.tolist() == list(range(AT, AT + STEPS))
    futures = [one.load_SLE, other.load_SLE, straight_run.load_SLE[AT : AT + STEPS]]
    assert len({future[0].tobytes() for future in futures}) == 3


def test_a_run_that_is_past_the_step_gives_the_same_futures(tmp_path: Path) -> None:
    """Its past is trained again beside the futures, and nothing of it stays there; the run's own trace is kept."""
    fresh, finished = fork_of(tmp_path), fork_of(tmp_path, "finished")
    record_recipe(finished.job)
    before = finished.job.target.read_bytes()
    for one, other in zip(loads(record_futures(fresh, 2)), loads(record_futures(finished, 2)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert finished.job.target.read_bytes() == before
    files = {path.name for path in finished.target(0).parent.iterdir()}
    assert files == {"seed0.parquet", "seed1.parquet", finished.checkpoint.name}


@pytest.mark.parametrize("steps", [2, AT + 2])
def test_it_goes_on_where_it_was_stopped(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the past or in a future: the files are the same, and a finished future is not made again."""
    expected = loads(record_futures(fork_of(tmp_path, "whole"), 2))
    fork, taken = fork_of(tmp_path), list[int]()
    with pytest.raises(InterruptedRecordingError):
        record_futures(fork, 2, progress=lambda number, row: taken.append(number), stop=lambda: len(taken) == steps)
    for one, other in zip(expected, loads(record_futures(fork, 2)), strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(TrainingRun, "step", lambda run, number: pytest.fail("nothing is left to train"))
    record_futures(fork, 2)


def test_more_futures_leave_the_first_as_they_are(tmp_path: Path) -> None:
    """A future's order comes from its number; another length at the same place is refused."""
    fork = fork_of(tmp_path)
    (first,) = loads(record_futures(fork, 1))
    np.testing.assert_array_equal(loads(record_futures(fork, 3))[0], first)
    with pytest.raises(RecordingError, match="has 5 steps from step 4 on, of version 1 of the recipe; expected 3"):
        record_futures(Fork(fork.job, AT, 3), 3)


def test_futures_beyond_the_recipe_are_refused(tmp_path: Path) -> None:
    """There is no plan for them; nor is there a past before step 1."""
    job = fork_of(tmp_path).job
    for step, steps in ((8, 5), (0, 5), (12, 1)):
        with pytest.raises(RecordingError, match="a run can fork from step 1 on"):
            Fork(job, step, steps)


def test_settings_change_the_future_and_not_the_past(tmp_path: Path) -> None:
    """The learning rate is another from the fork on; the name and the notes say so, and the past is shared."""
    plain = fork_of(tmp_path)
    (before,) = map(read_trace, record_futures(plain, 1))
    fork = replace(plain, settings=("optimizer.lr=0.5", "balancing.method=none", "balancing.coefficient=0"))
    (changed,) = map(read_trace, record_futures(fork, 1))
    assert fork.checkpoint.read_bytes() == plain.checkpoint.read_bytes()
    assert changed.meta.split.startswith("test_seed3_fork4_set")
    assert changed.meta.notes[-1].endswith("optimizer.lr=0.5, balancing.method=none, balancing.coefficient=0")
    assert changed.columns["lr"][-1] == 0.5
    np.testing.assert_array_equal(changed.load_SLE[0], before.load_SLE[0])
    assert (changed.load_SLE != before.load_SLE).any()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.rate=1", "cannot change optimizer.rate, expected one of balancing"),
        ("model.config.num_experts=8", "cannot change model.config.num_experts"),
        ("optimizer.lr.peak=1", "lr is a value, expected the key of a recipe"),
        ("schedule.warm=1", "schedule.warm: Extra inputs are not permitted"),
        ("optimizer.lr=fast", "optimizer.lr: Input should be a valid number"),
        ("balancing.method=none", "method 'none' does not go with coefficient 0.01"),
    ],
)
def test_a_key_that_no_future_can_have_is_refused_by_name(setting: str, said: str, tmp_path: Path) -> None:
    """The recipe's schema checks keys and values, before anything is trained."""
    with pytest.raises(RecipeError, match=re.escape(said)):
        replace(fork_of(tmp_path), settings=(setting,))


def record(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["record", str(write_recipe(folder)), "--out", str(folder / "runs"), *words])


def test_the_command_prints_the_futures(tmp_path: Path) -> None:
    """With --steps of each, by default to the recipe's end."""
    found = record(tmp_path, "--fork", "4", "--futures", "2")
    assert found.exit_code == 0, found.output
    paths = [Path(line) for line in found.stdout.split()]
    assert paths == [tmp_path / f"runs/small/test_seed0_fork4/seed{j}.parquet" for j in (0, 1)]
    assert [read_trace(path).steps for path in paths] == [8, 8]
    alone = record(tmp_path, "--set", "optimizer.lr=1")
    assert "--set is for --fork" in str(alone.exception)
    refused = record(tmp_path, "--fork", "4", "--push", "a/b")
    assert isinstance(refused.exception, RecordingError)
    assert "--fork is for one process" in str(refused.exception)
