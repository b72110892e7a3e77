"""transformers' Trainer records by one callback."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from moeload_bench.errors import NotFoundError, RecordingError
from moeload_bench.recording.callback import LoadRecorder
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import RecordingWarning
from moeload_bench.traces.store import read_trace
from tests.support.recording.families import Sequences, tiny_model

torch.set_num_threads(1)


def trainer(folder: Path, recorder: LoadRecorder, model: Any = None, **arguments: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(folder / "trainer"),
        "max_steps": 30,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        **arguments,
    }
    return Trainer(
        # GPT-OSS: transformers 5.24's Trainer does not load back the experts of families whose checkpoints it converts
        model=tiny_model("gpt_oss") if model is None else model,
        args=TrainingArguments(**given),
        train_dataset=Sequences(),
        eval_dataset=Sequences(),
        callbacks=[recorder],
    )


def test_thirty_steps_with_accumulation_and_evaluation_are_conserved(tmp_path: Path) -> None:
    """Two micro-batches of two sequences a step, an evaluation pass every ten: every step conserves its counts."""
    recorder = LoadRecorder(tmp_path, name="mine")
    trainer(tmp_path, recorder, eval_strategy="steps", eval_steps=10).train()
    trace = read_trace(recorder.target)
    assert recorder.target == tmp_path / "mine/test/seed0.parquet"
    assert trace.step_S.tolist() == list(range(30))
    assert (trace.load_SLE.sum(axis=2) == 4 * 16 * 2).all()
    assert (trace.columns["load_half"].sum(axis=2) == 2 * 16 * 2).all()
    assert np.isfinite(trace.columns["loss"]).all()
    assert np.isfinite(trace.columns["grad_norm"]).all()
    np.testing.assert_allclose(trace.columns["lr"], 1e-3 * (1 - np.arange(30) / 30), rtol=1e-5)
    assert trace.meta.complete


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_loss_is_kept_in_every_row_however_seldom_the_trainer_logs(tmp_path: Path, accumulation: int) -> None:
    """The same numbers as with a log of each step, to the four digits that the Trainer logs."""
    losses = []
    for steps in (1, 500):
        recorder = LoadRecorder(tmp_path, name=f"every-{steps}")
        torch.manual_seed(0)
        given = {"logging_steps": steps, "max_steps": 4, "gradient_accumulation_steps": accumulation}
        trainer(tmp_path, recorder, **given).train()
        losses.append(read_trace(recorder.target).columns["loss"])
    assert np.isfinite(losses[1]).all()
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_what_the_trainer_knows_is_in_the_metadata(tmp_path: Path) -> None:
    """Seed, precision, optimizer and schedule are the Trainer's own; what the user says of them comes first."""
    recorder = LoadRecorder(tmp_path, meta={"precision": "mine"})
    given = {"seed": 7, "lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "max_steps": 3}
    trainer(tmp_path, recorder, **given).train()
    meta = read_trace(recorder.target).meta
    assert (meta.seed, meta.precision) == (7, "mine")
    assert meta.schedule == {"kind": "cosine", "warmup": 2, "steps": 3}
    assert meta.optimizer.items() >= {"name": "AdamW", "lr": 1e-3, "clip": 1.0, "betas": [0.9, 0.999]}.items()
    assert meta.expert is not None
    assert meta.expert.state_bytes == 2 * (meta.expert.weight_bytes or 0)  # AdamW's two moments
    other = LoadRecorder(tmp_path, name="other")
    trainer(tmp_path, other, max_steps=1).train()
    assert read_trace(other.target).meta.precision == "fp32"


def test_metadata_is_checked_when_the_callback_is_made(tmp_path: Path) -> None:
    """A misspelt field is refused before the Trainer exists."""
    with pytest.raises(RecordingError, match="unknown metadata field licens"):
        LoadRecorder(tmp_path, meta={"licens": "MIT"})


class Interrupted(TrainerCallback):
    """Ctrl-C in the eighth step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_an_interrupted_trainer_leaves_its_steps_and_no_hook(tmp_path: Path) -> None:
    """Once nobody holds the interrupted Trainer, its closed steps are on disk and the model is as it was."""
    broken = trainer(tmp_path, LoadRecorder(tmp_path))
    model, before = broken.model, hooks(broken.model)
    broken.add_callback(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert hooks(model) > before
    del broken
    gc.collect()
    assert hooks(model) == before
    parts = Parts(tmp_path / "own/test/seed0.parquet")
    parts.reopen()
    assert parts.next_step == 7


def test_a_trace_in_the_way_is_said_when_the_callback_is_made(tmp_path: Path) -> None:
    """Not after the model was built and the data loaded; a mistyped word is refused too."""
    trainer(tmp_path, LoadRecorder(tmp_path), max_steps=2).train()
    with pytest.raises(RecordingError, match=r"seed0\.parquet: a trace is there already; if_exists="):
        LoadRecorder(tmp_path)
    with pytest.raises(NotFoundError, match="unknown if_exists 'replace'; there is: error, number, overwrite"):
        LoadRecorder(tmp_path, if_exists="replace")  # type: ignore[arg-type]


def test_a_resumed_trainer_goes_on_with_its_recording(tmp_path: Path) -> None:
    """Stopped at step 7, resumed from the Trainer's checkpoint at step 5: no step is lost and none is there twice."""
    full_recorder = LoadRecorder(tmp_path / "whole")
    trainer(tmp_path / "whole", full_recorder, max_steps=12).train()

    class Stop(LoadRecorder):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == 7:
                raise KeyboardInterrupt

    saving = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5}
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", Stop(tmp_path / "cut"), **saving).train()
    resumed = LoadRecorder(tmp_path / "cut")
    trainer(tmp_path / "cut", resumed, **saving).train(resume_from_checkpoint=True)
    got, expected = read_trace(resumed.target), read_trace(full_recorder.target)
    np.testing.assert_array_equal(got.step_S, expected.step_S)
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_resume_that_lost_its_experts_is_noted_in_the_trace(loaded: bool, tmp_path: Path) -> None:
    """transformers 5.24 loads no stacked experts when it resumes: a note, unless the model came from the checkpoint."""
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    first = trainer(tmp_path, LoadRecorder(None), tiny_model("qwen3_moe"), **saving)
    first.train()
    checkpoint = tmp_path / "trainer/checkpoint-2"
    model = type(first.model).from_pretrained(checkpoint) if loaded else tiny_model("qwen3_moe")
    again = trainer(tmp_path, LoadRecorder(tmp_path), model, **saving)
    again.args.resume_from_checkpoint = str(checkpoint)
    with pytest.warns(RecordingWarning) as said:
        again.train(resume_from_checkpoint=str(checkpoint))
    assert any("without the experts' weights" in str(one.message) for one in said) != loaded
    notes = read_trace(tmp_path / "own/test/seed0.parquet").meta.notes
    assert ["at step 2 without the experts" in note for note in notes] == ([] if loaded else [True])


def test_a_training_broken_off_between_steps_leaves_no_step_to_the_next_one(tmp_path: Path) -> None:
    """Stopped in the evaluation after a step that is not closed, and resumed by the same callback: no step is lost."""
    recorder = LoadRecorder(tmp_path, on_error="raise")
    saving = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 7}
    run = trainer(tmp_path, recorder, **saving)

    class Stop(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    run.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.remove_callback(Stop)
    run.train(resume_from_checkpoint=True)
    assert read_trace(recorder.target).step_S.tolist() == list(range(12))


class Padded(Sequences):
    """The same with the last tokens of every sequence masked: 10 of 16 count."""

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {**super().__getitem__(i), "attention_mask": (torch.arange(16) < 10).long()}


def test_a_trainer_counts_attended_tokens_of_some_layers(tmp_path: Path) -> None:
    """The callback's arguments are those of `record`: padding left out, one layer of two, unevenness beside it."""
    recorder = LoadRecorder(tmp_path, count="attended", layers=[1], imbalance_rank=True, on_error="raise")
    run = trainer(tmp_path, recorder, max_steps=2)
    run.train_dataset = Padded()
    run.train()
    trace = read_trace(recorder.target)
    assert (trace.tokens_SL == 2 * 2 * 10).all()
    assert [layer.index for layer in trace.meta.layers] == [1]
    assert (trace.columns["imbalance_rank"] >= 1).all()
    assert trace.meta.counted == "attended"
