"""The routing of chosen steps is what the trace counts, token by token, however the step was trained."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.cli.record import steps_named
from moeload_bench.errors import HubError, RecordingError, TraceError
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.publishing.release import collect_files
from moeload_bench.recording.recorder import record
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.routing import MAX_STEPS, StepRouting, read_routing, routing_files, routing_folder
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording import loops
from tests.support.recording.families import tiny_batch, tiny_model
from tests.support.recording.ranks import run_ranks
from tests.support.recording.recipes import interrupt, small_recipe, use_small_text

torch.set_num_threads(1)
CHOSEN, STEPS = (1, 3), 5
MODES = ("plain", "checkpointing", "reentrant checkpointing", "bfloat16")
FAMILIES = ("deepseek_v3", "qwen3_moe", "gpt_oss", "switch_transformers", "jetmoe", "llama4_text")
WITH_WEIGHTS = {"deepseek_v3", "qwen3_moe", "gpt_oss"}


def routed(trace: Path) -> dict[tuple[int, int], StepRouting]:
    return {key: read_routing(path) for key, path in routing_files(routing_folder(trace)).items()}


def trained(out: Path, family: str, mode: str = "plain", **options: Any) -> Path:
    """Five steps of three micro-batches under `record`; returns the trace's file."""
    model: Any = tiny_model(family)
    if "checkpointing" in mode:
        model.activation_checkpointing_enable({"use_reentrant": mode.startswith("reentrant")})
    with record(model, out, on_error="raise", routing_steps=CHOSEN, **options) as r:
        for step, part in itertools.product(range(STEPS), range(3)):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "bfloat16"):
                loss = model(**tiny_batch(2 + part, seed=3 * step + part)).loss
            loss.backward()
            if part == 2:
                r.step()
    return out / "own/test/seed0.parquet"


def assert_counted(trace: Trace, *routing: StepRouting) -> None:
    """The ids of all ranks together give the trace's loads, and no token has an expert twice."""
    for layer in range(len(trace.meta.layers)):
        ids_TK = np.concatenate([each.topk_ids_LTK[layer] for each in routing])
        assert all(len({*row}) == len(row) for row in ids_TK.tolist())
        counted_E = np.bincount(ids_TK.ravel(), minlength=trace.meta.experts)
        np.testing.assert_array_equal(counted_E, trace.load_SLE[routing[0].step, layer])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_counted_ids_are_the_loads_of_the_trace(tmp_path: Path, family: str, mode: str) -> None:
    """For each chosen step bincount gives the loads; micro-batches end where they did, recomputed or not."""
    if family == "jetmoe" and "checkpointing" in mode:
        pytest.skip("the class refuses checkpointing")
    path = trained(tmp_path, family, mode)
    found, trace = routed(path), read_trace(path)
    assert [*found] == [(step, 0) for step in CHOSEN]
    for routing in found.values():
        assert_counted(trace, routing)
        assert routing.layer_L.tolist() == [layer.index for layer in trace.meta.layers]
        assert np.diff(routing.end_M, prepend=0).tolist() == [16 * 2, 16 * 3, 16 * 4]
        assert routing.topk_ids_LTK.dtype == np.int16
        assert (routing.weights_LTK is not None) == (family in WITH_WEIGHTS)


def test_weights_are_those_that_the_experts_were_given(tmp_path: Path) -> None:
    """In half precision, in the order of the ids; tokens of the second micro-batch follow those of the first."""
    given: list[torch.Tensor] = []
    model: Any = tiny_model("deepseek_v3")
    gates = [module for module in model.modules() if type(module).__name__ == "DeepseekV3TopkRouter"]
    gates[0].register_forward_hook(lambda module, args, output: given.append(output[1].detach().clone()))
    with record(model, tmp_path, on_error="raise", routing_steps=[0]) as r:
        for part in range(2):
            model(**tiny_batch(3, seed=part)).loss.backward()
        r.step()
    (routing,) = routed(tmp_path / "own/test/seed0.parquet").values()
    assert routing.weights_LTK is not None
    assert routing.weights_LTK.dtype == np.float16
    np.testing.assert_array_equal(routing.weights_LTK[0], torch.cat(given).half().numpy())


def test_only_attended_tokens_are_kept(tmp_path: Path) -> None:
    """Under `attended` padding is neither counted nor kept."""
    mask_BT = torch.ones(4, 16, dtype=torch.int64)
    mask_BT[0, 10:] = 0
    model: Any = tiny_model("qwen3_moe")
    with record(model, tmp_path, on_error="raise", routing_steps=[0], count="attended") as r:
        model(**tiny_batch(4), attention_mask=mask_BT).loss.backward()
        r.step()
    path = tmp_path / "own/test/seed0.parquet"
    (routing,) = routed(path).values()
    assert routing.topk_ids_LTK.shape[1] == int(mask_BT.sum())
    assert_counted(read_trace(path), routing)


@pytest.mark.slow
def test_every_rank_keeps_its_own_tokens(tmp_path: Path) -> None:
    """Two processes write a file each, of half of the tokens; together they are what the trace counts."""
    run_ranks(2, loops.ddp, tmp_path / "results", "deepseek_v3", tmp_path / "out", STEPS, 0.0, CHOSEN)
    path = tmp_path / "out/own/test/seed0.parquet"
    found, trace = routed(path), read_trace(path)
    assert [*found] == [(step, rank) for step in CHOSEN for rank in (0, 1)]
    for step in CHOSEN:
        assert_counted(trace, found[step, 0], found[step, 1])
        assert found[step, 0].topk_ids_LTK.shape == found[step, 1].topk_ids_LTK.shape


@pytest.mark.parametrize("at_step", [2, 4])
def test_a_resumed_recording_keeps_the_same_routing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    """Broken off before or after a chosen step whose shard was lost, files and loads are those of a run without."""
    use_small_text(monkeypatch)
    job = Job(small_recipe(tmp_path), 0, "test", 9, tmp_path / "whole", shard_steps=3, routing_steps=(0, 3, 7))
    whole = record_recipe(job)
    broken = dataclasses.replace(job, out=tmp_path / "broken")
    interrupt(broken, at_step=at_step)
    resumed = record_recipe(broken, resume=True)
    assert [*routed(resumed)] == [(0, 0), (3, 0), (7, 0)]
    for got, expected in zip(routed(resumed).values(), routed(whole).values(), strict=True):
        assert_counted(read_trace(resumed), got)
        for mine, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))


def test_a_recording_cut_short_keeps_no_routing_of_later_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was trained, but whose row was lost, is not in the trace, so its routing is not beside it."""
    from moeload_bench.recording.parts import Parts
    from moeload_bench.recording.writer import finish_parts

    use_small_text(monkeypatch)
    job = Job(small_recipe(tmp_path), 0, "test", 9, tmp_path, shard_steps=3, routing_steps=(1, 3))
    interrupt(job, at_step=4)
    parts = Parts(job.target)
    parts.reopen()
    assert parts.next_step == 3
    assert [*routing_files(parts.routing)] == [(1, 0), (3, 0)]
    path = finish_parts(parts, complete=False)
    assert [*routed(path)] == [(1, 0)]
    assert not parts.folder.exists()


def test_routing_is_beside_the_traces_and_none_of_them(tmp_path: Path) -> None:
    """Readers of a folder find the trace alone; `publish` refuses routing by name; overwriting replaces it."""
    path = trained(tmp_path, "qwen3_moe")
    assert [ref.path for ref in list_traces(tmp_path)] == [path]
    with pytest.raises(HubError, match=r"seed0\.routing/step000000001-rank0000\.npz"):
        collect_files(tmp_path)
    again = trained(tmp_path, "qwen3_moe", if_exists="overwrite", name="own")
    assert [*routed(again)] == [(step, 0) for step in CHOSEN]


def test_steps_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    """Numbers from 0, not too many, with a place to write, and from a router that says what each token chose."""
    for steps, says in (([-1], "got -1"), ([1.5], "got 1.5"), (range(MAX_STEPS + 1), f"got {MAX_STEPS + 1} steps")):
        with (
            pytest.raises(RecordingError, match=f"{says}, expected at most {MAX_STEPS} numbers"),
            record(tiny_model("qwen3_moe"), tmp_path, routing_steps=steps),  # type: ignore[arg-type]
        ):
            pass
    with (
        pytest.raises(RecordingError, match="no out given, expected a place"),
        record(tiny_model("qwen3_moe"), None, routing_steps=[0]),
    ):
        pass
    with (
        pytest.raises(RecordingError, match="got step 7, expected the next one, 0"),
        record(tiny_model("qwen3_moe"), tmp_path, routing_steps=[0], on_error="raise") as r,
    ):
        r.step(7)


def test_steps_are_named_by_numbers_and_ranges() -> None:
    """On the command line: 0,40,998-1000; what is no step of the run is refused, and so are too many at once."""
    assert steps_named("0, 40,998-1000", 1001) == (0, 40, 998, 999, 1000)
    assert steps_named("", 10) == ()
    for text in ("1001", "-1", "5-3", "a", "1,,2", "0-64", "1e3", "0-99999999999"):
        with pytest.raises(RecordingError, match=r"expected steps from 0 to 1000 as 0,40,1299-1301, 64 at most"):
            steps_named(text, 1001)


def test_a_file_that_is_no_routing_is_refused(tmp_path: Path) -> None:
    """Missing arrays, shapes that do not fit, ends that do not rise and pickles: the error names the file."""
    good = {
        "step": np.array(3),
        "rank": np.array(0),
        "layer": np.array([0, 1]),
        "micro_batch_end": np.array([2, 4]),
        "topk_ids": np.zeros((2, 4, 2), dtype=np.int16),
    }
    path = tmp_path / "step.npz"
    np.savez(path, **{**good, "micro_batch_end": np.array([1, 4])})
    assert read_routing(path).end_M.tolist() == [1, 4]  # a micro-batch may be one token
    for change, says in (
        ({"layer": None}, "no array 'layer'"),
        ({"topk_ids": np.zeros((3, 4, 2), dtype=np.int16)}, "expected whole numbers topk_ids"),
        ({"topk_ids": np.zeros((2, 4, 2))}, "expected whole numbers topk_ids"),
        ({"topk_ids": np.full((2, 4, 2), -1)}, "expected to rise"),
        ({"weights": np.zeros((2, 4))}, "expected whole numbers topk_ids"),
        ({"micro_batch_end": np.array([2, 3])}, "expected to rise to 4"),
        ({"micro_batch_end": np.array([4, 4])}, "expected to rise to 4"),
        ({"other": np.zeros(3)}, "unknown array 'other'"),
    ):
        arrays = {name: value for name, value in {**good, **change}.items() if value is not None}
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(TraceError, match=says) as refused:
            read_routing(path)
        assert str(path) in str(refused.value)
    np.savez(path, allow_pickle=True, **{**good, "layer": np.array([{}, {}], dtype=object)})
    with pytest.raises(TraceError, match="expected plain numbers"):
        read_routing(path)
