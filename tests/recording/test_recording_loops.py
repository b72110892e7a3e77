"""Any PyTorch loop is recorded by a context manager, and recording never costs a training run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from moeload_bench.errors import NotFoundError, RecordingError
from moeload_bench.recording.recorder import Recorder, RecordingWarning, record
from moeload_bench.recording.timing import TIMES
from moeload_bench.traces.store import read_trace
from tests.support.recording.families import tiny_batch, tiny_model

torch.set_num_threads(1)


def train(model: torch.nn.Module, steps: int, each: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        loss = model(**tiny_batch(seed=step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        each(step, loss.item())


def test_any_loop_is_recorded_by_a_context_manager(tmp_path: Path) -> None:
    """One `with` and one call per step give a valid trace with what was measured."""
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path, name="mine", meta={"licence": "CC0-1.0"}) as r:
        train(model, 5, lambda step, loss: r.step(loss=loss, lr=0.1))
    trace = read_trace(tmp_path / "mine/test/seed0.parquet")
    assert trace.steps == 5
    assert trace.meta.licence == "CC0-1.0"
    assert trace.meta.family == "qwen3_moe"
    assert set(trace.columns) == {"loss", "lr", "load_half", *TIMES}
    model(**tiny_batch())  # the hooks are gone: nothing is counted any more


def test_a_loop_says_what_to_do_if_its_trace_is_there_already(tmp_path: Path) -> None:
    """The words of the Trainer's callback: refuse, take the next number, or overwrite."""
    model = tiny_model("qwen3_moe")

    def run(steps: int, **how: Any) -> None:
        with record(model, tmp_path, **how) as r:
            train(model, steps, lambda step, loss: r.step(loss=loss))

    run(2)
    with pytest.raises(RecordingError, match="there already"):
        run(3)
    run(3, if_exists="number")
    assert [read_trace(tmp_path / f"own/test/seed{n}.parquet").steps for n in (0, 1)] == [2, 3]
    assert read_trace(tmp_path / "own/test/seed1.parquet").meta.run == 1
    with pytest.raises(ZeroDivisionError), record(model, tmp_path, if_exists="number") as r:
        train(model, 2, lambda step, loss: r.step(loss=loss) if step < 1 else 1 / 0)
    run(2, if_exists="number")
    assert (tmp_path / "own/test/seed2.parts").is_dir()
    assert read_trace(tmp_path / "own/test/seed3.parquet").meta.run == 3
    run(4, if_exists="overwrite")
    assert read_trace(tmp_path / "own/test/seed0.parquet").steps == 4
    with pytest.raises(NotFoundError, match="unknown if_exists 'replace'; there is: error, number, overwrite"):
        run(1, if_exists="replace")


def test_an_exception_in_the_loop_leaves_an_unfinished_recording(tmp_path: Path) -> None:
    """A crash of the training loop keeps every closed step; the recording can go on from there."""
    model = tiny_model("qwen3_moe")
    with pytest.raises(ZeroDivisionError), record(model, tmp_path) as r:
        train(model, 5, lambda step, loss: r.step(loss=loss) if step < 3 else 1 / 0)
    with record(model, tmp_path, at_step=3) as r:
        train(model, 2, lambda step, loss: r.step(loss=loss))
    assert read_trace(tmp_path / "own/test/seed0.parquet").step_S.tolist() == [0, 1, 2, 3, 4]


def test_an_error_in_recording_does_not_stop_training(tmp_path: Path) -> None:
    """By default the first error is a warning, training goes on, and the trace says that it was cut short."""
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path) as r:
        train(model, 2, lambda step, loss: r.step(loss=loss))
        with pytest.warns(RecordingWarning, match="no training pass went through"):
            r.step(loss=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, 2, lambda step, loss: r.step(loss=loss))
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert trace.steps == 2
    assert not trace.meta.complete
    assert "no training pass" in trace.meta.notes[0]


def test_the_auxiliary_loss_of_a_model_is_in_the_metadata(tmp_path: Path) -> None:
    """Mixtral with its loss on: method, factor and scope are known; off, nothing is claimed."""
    for on in (True, False):
        model = tiny_model("mixtral")
        model.config.output_router_logits, model.config.router_aux_loss_coef = on, 0.02
        with record(model, tmp_path, name=f"on-{on}".lower()) as r:
            train(model, 2, lambda step, loss: r.step(loss=loss))
        balancing = read_trace(tmp_path / f"on-{on}".lower() / "test/seed0.parquet").meta.balancing
        known = ("aux_loss", 0.02, "pooled_over_layers") if on else ("unknown", 0.0, "unknown")
        assert (balancing.method, balancing.coefficient, balancing.scope) == known


def test_a_forgotten_step_is_named(tmp_path: Path) -> None:
    """A loop that never calls `step` is told so, instead of "nothing was recorded"."""
    model = tiny_model("qwen3_moe")
    with (
        pytest.warns(RecordingWarning, match=r"no step was closed: call r\.step\(\) after each optimizer\.step\(\)"),
        record(model, tmp_path),
    ):
        train(model, 2, lambda step, loss: None)


def test_a_step_that_was_not_trained_can_be_dropped(tmp_path: Path) -> None:
    """`discard` forgets passes that belong to no optimizer step."""
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path) as r:
        model(**tiny_batch()).loss.backward()
        r.discard()
        model(**tiny_batch(sequences=2)).loss.backward()
        r.step()
    assert read_trace(tmp_path / "own/test/seed0.parquet").tokens_SL.tolist() == [[32, 32]]


@pytest.mark.parametrize(("name", "split"), [("../up", "test"), ("mine", "my split"), ("", "test")])
def test_a_name_that_would_not_be_found_again_is_refused(tmp_path: Path, name: str, split: str) -> None:
    """Traces lie where `load_trace` looks: other names are refused before training."""
    with (
        pytest.raises(RecordingError, match="a trace's id is"),
        record(tiny_model("qwen3_moe"), tmp_path, name=name, split=split),
    ):
        pass


def test_a_router_that_changes_does_not_stop_training(tmp_path: Path) -> None:
    """Top-k that changes in mid-run ends the recording at the step's close, never in the forward pass."""
    model = tiny_model("qwen3_moe")
    routers = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]

    with record(model, tmp_path) as r:
        train(model, 2, lambda step, loss: r.step(loss=loss))
        for router in routers:
            router.top_k = 3
        with pytest.warns(RecordingWarning, match=r"changed from \(8, 2\) to \(8, 3\)"):
            train(model, 2, lambda step, loss: r.step(loss=loss))
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert (trace.steps, trace.meta.complete) == (2, False)


def test_an_adapter_that_fails_does_not_stop_training(tmp_path: Path) -> None:
    """An error in anybody's adapter is named at the step's close."""
    model = tiny_model("qwen3_moe")
    gate = type(next(module for name, module in model.named_modules() if name.endswith("mlp.gate")))
    with (
        pytest.raises(RecordingError, match=r"the adapter of model\.layers\.0\.mlp\.gate failed with KeyError"),
        record(model, tmp_path, adapters={gate: lambda module, args, output: {}["x"]}, on_error="raise") as r,
    ):
        train(model, 1, lambda step, loss: r.step(loss=loss))


def test_a_disk_that_is_full_at_the_end_keeps_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the trace cannot be put together, training still ends well and the steps stay on disk."""

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    model = tiny_model("qwen3_moe")
    recorder = Recorder(model, tmp_path / "own/test/seed0.parquet")
    recorder.start()
    train(model, 2, lambda step, loss: recorder.step(loss=loss))
    recorder.flush()
    monkeypatch.setattr("moeload_bench.recording.parts.merge_shards", full)
    with pytest.warns(RecordingWarning, match="No space left"):
        assert recorder.finish() is None
    assert (tmp_path / "own/test/seed0.parts/0000000000.parquet").is_file()


def test_measured_tensors_are_taken_as_they_come(tmp_path: Path) -> None:
    """A loss that still requires grad, in half precision or of shape [1], is recorded as its number."""
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path, on_error="raise") as r:
        for given in (torch.tensor(1.5, requires_grad=True), torch.tensor([2.5], dtype=torch.bfloat16), 3.5):
            model(**tiny_batch()).loss.backward()
            r.step(loss=given, router_entropy=torch.ones(2, requires_grad=True))
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert trace.columns["loss"].tolist() == [1.5, 2.5, 3.5]
    assert trace.columns["router_entropy"].shape == (3, 2)


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ({"loss": [1, 2]}, r"column loss: got shape \(2,\), expected one float32"),
        ({"loss": [[1], [1, 2]]}, r"column loss: got list \[\[1\], \[1, 2\]\], expected one float32"),
        ({"loss": "low"}, "column loss: got str 'low', expected one float32"),
        ({"router_entropy": [1, 2, 3]}, r"got shape \(3,\), expected float32 of shape \(2,\)"),
        ({"speed": 1}, "unknown column 'speed'; there is: load_half"),
        ({"loss": 1, "lr": 1}, r"step 2 has columns .*'lr'.*, the steps before have"),
    ],
)
def test_a_value_that_does_not_fit_costs_its_own_step_only(tmp_path: Path, measured: Any, says: str) -> None:
    """What cannot be a cell of its column is named at once, and every step before it is in the trace."""
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path) as r:
        train(model, 2, lambda step, loss: r.step(loss=loss))
        with pytest.warns(RecordingWarning, match=says):
            train(model, 1, lambda step, loss: r.step(**measured))
        train(model, 1, lambda step, loss: r.step(loss=loss))
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert (trace.steps, trace.meta.complete) == (2, False)


def test_an_error_of_any_kind_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a mistake in the recorder itself: the warning names its type."""
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path) as r:
        train(model, 1, lambda step, loss: r.step(loss=loss))
        monkeypatch.setattr(r, "_close_step", lambda step, measured: {}["x"])
        with pytest.warns(RecordingWarning, match="recording stopped: KeyError: 'x'; training goes on"):
            train(model, 2, lambda step, loss: r.step(loss=loss))
    assert read_trace(tmp_path / "own/test/seed0.parquet").steps == 1


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"licens": "MIT"}, "unknown metadata field licens; there is: .*licence"),
        ({"seed": "one"}, "metadata field seed: Input should be a valid integer.*got 'one'"),
        ({"balancing": {"method": "luck"}}, r"metadata field balancing\.method: .*got 'luck'"),
        ({"optimizer": {"lr": object()}}, "metadata cannot be stored as JSON"),
    ],
)
def test_metadata_is_checked_before_training(tmp_path: Path, meta: Any, says: str) -> None:
    """A field that the metadata does not have, or another type, is refused when recording starts."""
    with pytest.raises(RecordingError, match=says), record(tiny_model("qwen3_moe"), tmp_path, meta=meta):
        pass


def test_a_recording_that_cannot_start_leaves_no_hook(tmp_path: Path) -> None:
    """Refused at a target that cannot be written, the model is as it was."""
    model = tiny_model("qwen3_moe")
    with pytest.raises(RecordingError, match="cannot be made or written"), record(model, "/proc/none"):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_unfinished_recording_says_how_to_go_on(tmp_path: Path) -> None:
    """The way out is named in the words of `record`, not of the command line."""
    model = tiny_model("qwen3_moe")
    with pytest.raises(ZeroDivisionError), record(model, tmp_path) as r:
        train(model, 2, lambda step, loss: r.step(loss=loss) if step < 1 else 1 / 0)
    with pytest.raises(RecordingError, match=r"continue it with at_step=N.*choose another out, name or run"):
        record(model, tmp_path).__enter__()
    with (
        pytest.raises(RecordingError, match="goes on at step 9, but only steps before 1"),
        record(model, tmp_path, at_step=9),
    ):
        pass


def test_a_recording_may_begin_in_the_middle_of_training(tmp_path: Path) -> None:
    """`at_step` where nothing was recorded numbers steps as training does, with a warning; a second attempt too."""
    model = tiny_model("qwen3_moe")
    for attempt in range(2):
        recorder = Recorder(model, tmp_path / "own/test/seed0.parquet", shard_steps=2)
        with pytest.warns(RecordingWarning, match="no unfinished recording to go on with; this one begins at step 7"):
            recorder.start(at_step=7)
        train(model, 3 if attempt else 1, lambda step, loss, recorder=recorder: recorder.step(loss=loss))
    recorder.finish()
    assert read_trace(tmp_path / "own/test/seed0.parquet").step_S.tolist() == [7, 8, 9]


def one_sequence(model: torch.nn.Module, r: Any, steps: int, then: Any = lambda: None) -> None:
    """Steps of one sequence each, which cannot be halved."""
    for step in range(steps):
        model(**{name: value[:1] for name, value in tiny_batch(seed=step).items()}).loss.backward()
        r.step()
    then()


def test_a_recording_without_halves_is_gone_on_with(tmp_path: Path) -> None:
    """What was recorded says which columns come, before the first new step does."""
    model = tiny_model("qwen3_moe")
    with pytest.raises(ZeroDivisionError), record(model, tmp_path) as r:
        one_sequence(model, r, 3, lambda: 1 / 0)
    with record(model, tmp_path, at_step=3, on_error="raise") as r:
        one_sequence(model, r, 2)
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert (trace.steps, trace.meta.complete, "load_half" in trace.columns) == (5, True, False)


def masked_step(model: torch.nn.Module, r: Any) -> None:
    """A step whose attention mask hides nothing."""
    batch = tiny_batch()
    model(**batch, attention_mask=torch.ones_like(batch["input_ids"])).loss.backward()
    r.step()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"layers": [0]}, r"layers is \['0'\] now, its steps have \['0', '1'\]: another run\?"),
        ({"meta": {"seed": 7}}, r"seed is 7 now, its steps have None"),
        ({"count": "attended"}, r"counted is 'attended' now, its steps have 'all'"),
    ],
)
def test_a_recording_that_counts_otherwise_does_not_go_on(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    """Other layers, another seed, other tokens: named at the first step, and what was recorded stays."""
    model = tiny_model("qwen3_moe")
    with pytest.raises(ZeroDivisionError), record(model, tmp_path) as r:
        train(model, 3, lambda step, loss: r.step() if step < 2 else 1 / 0)
    going_on = record(model, tmp_path, at_step=2, on_error="raise", **changed)
    with pytest.raises(RecordingError, match=says), going_on as r:
        masked_step(model, r)
    with record(model, tmp_path, at_step=2, on_error="raise") as r:
        train(model, 1, lambda step, loss: r.step())
    assert read_trace(tmp_path / "own/test/seed0.parquet").steps == 3


def test_a_trace_is_on_the_disk_before_its_parts_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards, manifest and trace are written through, each with its folder: a power cut loses no step."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    model = tiny_model("qwen3_moe")
    with record(model, tmp_path, shard_steps=2) as r:
        train(model, 2, lambda step, loss: r.step())
    names = [Path(path).name for path in synced]
    for part in (".0000000000.parquet.", ".manifest.json.", ".seed0.parquet."):
        assert any(name.startswith(part) for name in names), part
    assert names[-1] == "test", "the folder of the trace, last"
