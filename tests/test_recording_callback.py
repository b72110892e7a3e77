"""transformers' Trainer records by one callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from moeload_bench.recording.callback import LoadRecorder
from moeload_bench.store import read_trace
from tests.recording.families import VOCABULARY, tiny_model

torch.set_num_threads(1)


class Sequences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """64 random sequences of 16 tokens."""

    def __init__(self) -> None:
        self.tokens = torch.randint(1, VOCABULARY, (64, 16), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


def trainer(folder: Path, recorder: LoadRecorder, **arguments: Any) -> Trainer:
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
        model=tiny_model("gpt_oss"),
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


def test_loss_is_missing_where_it_was_not_logged(tmp_path: Path) -> None:
    """The Trainer averages losses between logs: rather none than another step's number."""
    recorder = LoadRecorder(tmp_path)
    trainer(tmp_path, recorder, max_steps=4, logging_steps=2).train()
    assert np.isnan(read_trace(recorder.target).columns["loss"]).all()


def test_a_resumed_trainer_goes_on_with_its_recording(tmp_path: Path) -> None:
    """Stopped at step 7, resumed from the Trainer's checkpoint at step 5: no step is lost and none is there twice."""
    whole = LoadRecorder(tmp_path / "whole")
    trainer(tmp_path / "whole", whole, max_steps=12).train()

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
    got, expected = read_trace(resumed.target), read_trace(whole.target)
    np.testing.assert_array_equal(got.step_S, expected.step_S)
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
