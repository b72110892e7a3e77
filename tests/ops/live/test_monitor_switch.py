"""A real training of 1,500 steps whose text switches to another script: what the monitor says, and where."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from moeload_bench.ops.live.monitor import LoadMonitor, replay
from moeload_bench.ops.planning.planner import Settings
from moeload_bench.recording.callback import LoadRecorder
from moeload_bench.traces.store import read_trace
from tests.conftest import need
from tests.support.snapshots import numbers

STEPS, SWITCH, BATCH, LENGTH = 1500, 1100, 16, 64
SETTINGS = Settings(horizon=100, every=50)


def prose() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pages of Python's own manual as bytes: no edit of this repository moves the training."""
    return np.frombuffer("".join(topics[name] for name in sorted(topics)).encode(), dtype=np.uint8)


class TwoScripts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Prose, and from the switch on prose in bytes that were never seen before, in the order of training."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        text = prose()
        first = rng.integers(0, len(text) - LENGTH, size=STEPS * BATCH)
        parts = text[first[:, None] + np.arange(LENGTH)]
        parts[SWITCH * BATCH :] = 255 - parts[SWITCH * BATCH :]
        self.tokens = torch.tensor(parts, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


def trainer(folder: Path, report_to: str) -> Trainer:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
        max_position_embeddings=LENGTH, use_cache=False, experts_implementation="grouped_mm",
    )  # fmt: skip
    args = TrainingArguments(
        str(folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=BATCH, logging_steps=100,
        report_to=report_to, use_cpu=True, disable_tqdm=True, learning_rate=2e-3,
        lr_scheduler_type="constant_with_warmup", warmup_steps=20,
        save_strategy="no", train_sampling_strategy="sequential",
    )  # fmt: skip
    return Trainer(model=AutoModelForCausalLM.from_config(config), args=args, train_dataset=TwoScripts())


class StopEarly(TrainerCallback):
    """Ends the training after 150 steps of the same schedule."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= 150


@pytest.mark.slow
def test_a_switch_of_the_text_is_seen_in_the_trainers_logs_and_in_tensorboard(tmp_path: Path) -> None:
    """Settled before, unsettled within 150 steps, drift rises in both logs; counts are those of an unwatched run."""
    need("tensorboard", "pip install -e '.[dev]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    torch.set_num_threads(1)
    watched = trainer(tmp_path / "watched", "tensorboard")
    monitor = LoadMonitor(SETTINGS).attach(watched, tmp_path / "watched")
    watched.train()
    name = "moe/drift"
    logged = {row["step"]: row[name] for row in watched.state.log_history if name in row}
    (events,) = (tmp_path / "watched/trainer").glob("runs/*")
    shown = EventAccumulator(str(events)).Reload().Scalars(f"train/{name}")
    assert {event.step: event.value for event in shown} == pytest.approx(logged)
    state = {snapshot.step: snapshot.inspection.state for snapshot in monitor.snapshots}
    after = range(SWITCH + 50, SWITCH + 151, 50)
    assert state[SWITCH] == "settled"
    assert any(state[step] != "settled" for step in after)
    assert max(logged[step] for step in after) > 2 * logged[SWITCH]
    trace = read_trace(tmp_path / "watched/own/test/seed0.parquet")
    for live, again in zip(monitor.snapshots, replay(trace, SETTINGS), strict=True):
        np.testing.assert_equal(numbers(live), numbers(again))
    alone = trainer(tmp_path / "alone", "none")
    alone.add_callback(LoadRecorder(tmp_path / "alone"))
    alone.add_callback(StopEarly())
    alone.train()
    unwatched = read_trace(tmp_path / "alone/own/test/seed0.parquet")
    np.testing.assert_array_equal(unwatched.load_SLE, trace.load_SLE[:150])
