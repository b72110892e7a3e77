"""Several processes record what one process records on the same global batch.

The ranks are real gloo processes on this machine; FSDP2, expert and tensor parallelism are transformers' own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moeload_bench.recording.distributed import parallel_layout, rank_sum
from moeload_bench.recording.timing import FIRST
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording import loops
from tests.support.recording.families import CONFIGS
from tests.support.recording.ranks import run_ranks

torch.set_num_threads(1)

FSDP_EP = {"fsdp_size": 2, "ep_size": 2}
TP = {"tp_size": 2}
# What transformers 5.24 says to a layout that a class does not have. Llama 4's tensor-parallel plan loads, but its
# backward pass modifies a view.
REFUSED = {
    ("jetmoe", "ep"): "has no `ep_plan`",
    ("llama4_text", "ep"): "has no `ep_plan`",
    ("switch_transformers", "ep"): "has no `ep_plan`",
    ("jetmoe", "tp"): "has no `tp_plan`",
    ("llama4_text", "tp"): "is a view and is being modified inplace",
    ("switch_transformers", "tp"): "has no `tp_plan`",
}


def trace_in(folder: Path) -> Trace:
    return read_trace(folder / "own/test/seed0.parquet")


def one_process(family: str, folder: Path, steps: int, lr: float) -> Trace:
    loops.train(loops.tiny_model(family), folder, steps=steps, lr=lr)
    return trace_in(folder)


def assert_same(got: Trace, expected: Trace, steps: int | None = None) -> None:
    """All counts of the first steps are the same, halves and drops included."""
    np.testing.assert_array_equal(got.tokens_SL[:steps], expected.tokens_SL[:steps])
    np.testing.assert_array_equal(got.load_SLE[:steps], expected.load_SLE[:steps])
    assert got.columns.keys() == expected.columns.keys()
    for name in got.columns.keys() & {"load_half", "dropped"}:
        np.testing.assert_array_equal(got.columns[name][:steps], expected.columns[name][:steps])


def sharded_trace(family: str, folder: Path, sizes: dict[str, int], steps: int, lr: float, world: int = 2) -> Trace:
    """The trace of a sharded model; the refusal is asserted where the table has one."""
    loops.save_tiny_model(family, folder / "weights")
    args = (folder / "weights", folder / "ranks", steps, lr, sizes)
    results = run_ranks(world, loops.sharded, folder / "results", *args)
    refused = REFUSED.get((family, "ep" if "ep_size" in sizes else "tp"))
    for result in results:
        assert (refused is not None) == ("refused" in result)
        assert refused is None or refused in str(result["refused"])
    if refused is not None:
        pytest.skip(f"transformers refuses, which the table asserts: {refused}")
    return trace_in(folder / "ranks")


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_data_parallel_processes_record_the_trace_of_one(family: str, tmp_path: Path) -> None:
    """DDP over two processes, nothing learnt: every count of every step equals that of one process."""
    run_ranks(2, loops.ddp, tmp_path / "results", family, tmp_path / "ranks", 4, 0.0)
    got = trace_in(tmp_path / "ranks")
    assert_same(got, one_process(family, tmp_path / "one", 4, 0.0))
    assert got.meta.parallel == {"processes": 2}


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_expert_parallel_processes_record_the_trace_of_one(family: str, tmp_path: Path) -> None:
    """FSDP2 with expert parallelism: a rank holds half of the experts, its router's counts are over all of them."""
    got = sharded_trace(family, tmp_path, FSDP_EP, 4, 0.0)
    assert_same(got, one_process(family, tmp_path / "one", 4, 0.0))
    assert got.meta.parallel == {"processes": 2, "fsdp": 2, "expert": 2}


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_tensor_parallel_processes_count_their_batch_once(family: str, tmp_path: Path) -> None:
    """Both ranks of a tensor-parallel pair see the same tokens; the trace is that of one process, not twice it."""
    assert_same(sharded_trace(family, tmp_path, TP, 4, 0.0), one_process(family, tmp_path / "one", 4, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"fsdp_size": 2, "tp_size": 2}, {"fsdp_size": 2, "tp_size": 2, "ep_size": 4}])
def test_batches_are_counted_once_on_a_mesh(sizes: dict[str, int], tmp_path: Path) -> None:
    """Two batches, each on a tensor-parallel pair, four processes: summed over the data-parallel ranks only."""
    got = sharded_trace("qwen3_moe", tmp_path, sizes, 4, 0.0, world=4)
    assert_same(got, one_process("qwen3_moe", tmp_path / "one", 4, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp", "fsdp2+ep"])
def test_training_processes_conserve_counts_and_agree_at_first(layout: str, tmp_path: Path) -> None:
    """With learning, sums differ in the last place from one process: five steps agree, and all are conserved."""
    steps, lr = 30, 0.1
    if layout == "ddp":
        run_ranks(2, loops.ddp, tmp_path / "results", "qwen3_moe", tmp_path / "ranks", steps, lr)
        got = trace_in(tmp_path / "ranks")
    else:
        got = sharded_trace("qwen3_moe", tmp_path, FSDP_EP, steps, lr)
    assert_same(got, one_process("qwen3_moe", tmp_path / "one", steps, lr), steps=5)
    assert got.steps == steps
    assert (got.load_SLE.sum(axis=2) == loops.SEQUENCES * 16 * 2).all()
    assert (got.columns["load_half"].sum(axis=2) == loops.SEQUENCES * 8 * 2).all()
    assert 0 < got.columns["expert_fraction"][FIRST] <= got.columns["expert_fraction_max"][FIRST] < 1
    moved = (got.load_SLE[-1] != one_process("qwen3_moe", tmp_path / "still", steps, 0.0).load_SLE[-1]).any()
    assert moved, "nothing was learnt, so agreement would say nothing"


@pytest.mark.slow
def test_one_all_reduce_per_step(tmp_path: Path) -> None:
    """Closing a step costs one collective; the first step takes one more, to agree on what is counted."""
    for result in run_ranks(2, loops.all_reduces, tmp_path / "results", tmp_path / "ranks", 4):
        assert result["calls"].tolist() == [2, 1, 1, 1]


@pytest.mark.slow
def test_single_sequences_of_the_ranks_alternate_between_halves(tmp_path: Path) -> None:
    """One sequence per rank: the first rank's is in one half, the second's in the other."""
    run_ranks(2, loops.one_sequence_each, tmp_path / "results", tmp_path / "ranks", 3)
    got = trace_in(tmp_path / "ranks")
    assert (got.load_SLE.sum(axis=2) == 2 * 16 * 2).all()
    assert (got.columns["load_half"].sum(axis=2) == 16 * 2).all()


@pytest.mark.parametrize(
    ("silent_at", "full_at", "first", "second"),
    [
        pytest.param(2, None, "another rank stopped", "no training pass went through", marks=pytest.mark.slow),
        pytest.param(0, None, "another rank stopped", "no training pass went through", marks=pytest.mark.slow),
        pytest.param(None, 2, "cannot write steps 2 to 2", "another rank stopped", marks=pytest.mark.slow),
    ],
)
def test_ranks_stop_together(
    silent_at: int | None, full_at: int | None, first: str, second: str, tmp_path: Path
) -> None:
    """A rank that cannot go on tells the others in its last sum: all stop recording, none waits, training goes on."""
    args = (tmp_path / "ranks", 5, silent_at, full_at)
    results = run_ranks(2, loops.breaking, tmp_path / "results", *args)
    assert first in str(results[0]["stopped"])
    assert second in str(results[1]["stopped"])


@pytest.mark.slow
def test_ranks_that_count_different_layers_stop(tmp_path: Path) -> None:
    """Vectors of different lengths are never summed: both ranks learn of it before the first sum."""
    for result in run_ranks(2, loops.unequal, tmp_path / "results", tmp_path / "ranks"):
        assert "ranks count different layers or experts: 17 numbers on one rank, 34 on another" in str(
            result["stopped"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, FSDP_EP], ids=["ddp", "fsdp2+ep"])
def test_trainer_records_over_processes(sizes: dict[str, int] | None, tmp_path: Path) -> None:
    """The callback needs nothing for DDP or a sharded model: two ranks with half the batch give one process's trace."""
    loops.save_tiny_model("gpt_oss", tmp_path / "weights")
    loops.trainer(0, tmp_path / "weights", tmp_path / "one", None)
    run_ranks(2, loops.trainer, tmp_path / "results", tmp_path / "weights", tmp_path / "ranks", sizes)
    got, expected = trace_in(tmp_path / "ranks"), trace_in(tmp_path / "one")
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
    assert (got.load_SLE.sum(axis=2) == 8 * 16 * 2).all()


def test_one_process_sums_nothing() -> None:
    """Outside a process group there is no sum and no collective."""
    model = loops.tiny_model("qwen3_moe")
    assert rank_sum(model) is None
    assert parallel_layout(model) == {"processes": 1}
