"""A recipe whose model is cut over two gloo processes (FSDP2) records the trace of one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.errors import RecordingError
from moeload_bench.generator.processes import Ranks
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.generator.training import Job, TrainingRun, record_recipe
from moeload_bench.traces.store import read_trace
from tests.support.recording.ranks import run_ranks
from tests.support.recording.recipes import RECIPE, small_recipe, text_recipe, write_recipe

torch.set_num_threads(1)
STEPS = 12


def sharded(rank: int, recipe: Path, out: Path, stop_at: int) -> dict[str, np.ndarray]:
    """Record on two processes, broken off before a step and gone on with; how much of the weights is held here."""
    os.environ["MOELOAD_CACHE"] = str(recipe.parent / "cache")
    job = Job(load_recipe(str(recipe)), 0, "test", STEPS, out, shard_steps=3, sharded=True)
    ranks, held = Ranks(rank, 2), []
    original = TrainingRun.step

    def step(self: TrainingRun, number: int) -> dict[str, Any]:
        held.append(sum(p.to_local().numel() for p in self.model.parameters()))
        if number == stop_at and len(held) == stop_at + 1:  # the first time
            raise ZeroDivisionError
        return original(self, number)

    TrainingRun.step = step  # type: ignore[method-assign]
    try:
        record_recipe(job, ranks=ranks)
    except ZeroDivisionError:
        record_recipe(job, ranks=ranks, resume=True)
    return {"held": np.array(held), "all": np.array(sum(p.numel() for p in TrainingRun(job, ranks).model.parameters()))}


def both(folder: Path, text: str, stop_at: int = STEPS) -> tuple[Any, Any, list[dict[str, np.ndarray]]]:
    """The trace of two processes, that of one with twice the micro-batches, and what each of the two held."""
    # written here and only read by the two: each writing it for itself, one may read what the other has just emptied
    recipe = write_recipe(folder, text)
    results = run_ranks(2, sharded, folder / "ranks", recipe, folder / "two", stop_at)
    alone = small_recipe(folder, text.replace("micro_batches = 2", "micro_batches = 4"))
    expected = record_recipe(Job(alone, 0, "test", STEPS, folder / "one"))
    return read_trace(folder / "two/small/test/seed0.parquet"), read_trace(expected), results


def assert_same_counts(got: Any, expected: Any, steps: int) -> None:
    np.testing.assert_array_equal(got.load_SLE[:steps], expected.load_SLE[:steps])
    np.testing.assert_array_equal(got.columns["load_half"][:steps], expected.columns["load_half"][:steps])
    for name in ("loss", "aux_loss", "router_entropy", "grad_norm", "lr"):
        np.testing.assert_allclose(got.columns[name][:steps], expected.columns[name][:steps], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sharded_recipe_that_learns_nothing_is_that_of_one_process(tmp_path: Path, checkpointing: bool) -> None:
    """At a learning rate of almost zero every step agrees, also where it was broken off and gone on with."""
    text = text_recipe(tmp_path, RECIPE.replace("lr = 1e-2", "lr = 1e-30"))
    text = text.replace('family = "qwen3_moe"', f'family = "qwen3_moe"\ncheckpointing = {str(checkpointing).lower()}')
    got, expected, results = both(tmp_path, text, stop_at=8)
    assert got.step_S.tolist() == list(range(STEPS))
    assert_same_counts(got, expected, STEPS)
    assert got.meta.parallel == {"processes": 2, "fsdp": 2}
    for held in results:
        assert (held["held"] < 0.6 * held["all"]).all()


@pytest.mark.slow
def test_a_sharded_recipe_that_learns_goes_on_where_it_was(tmp_path: Path) -> None:
    """Weights and moments come back: broken off and gone on with, every number is that of the uninterrupted one."""
    text = text_recipe(tmp_path)
    straight_run, expected, _ = both(tmp_path / "whole", text)
    broken, _, _ = both(tmp_path / "broken", text, stop_at=8)
    assert_same_counts(straight_run, expected, 5)
    np.testing.assert_array_equal(broken.load_SLE, straight_run.load_SLE)
    for name in ("loss", "grad_norm"):
        np.testing.assert_array_equal(broken.columns[name], straight_run.columns[name], err_msg=name)


def test_one_process_has_nobody_to_share_with(tmp_path: Path) -> None:
    """`--shard` without torchrun is refused before anything is built."""
    job = Job(small_recipe(tmp_path), 0, "test", 4, tmp_path / "out", sharded=True)
    with pytest.raises(RecordingError, match="--shard needs several processes"):
        record_recipe(job)
