"""Small real trainings that a `LoadMonitor` watches: a Trainer and a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from moeload_bench.ops.live.monitor import LoadMonitor, replay
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.planner import Settings
from moeload_bench.placement.replan import CostModel
from moeload_bench.recording.recorder import record
from moeload_bench.traces.trace import Trace
from tests.support.recording.families import VOCABULARY, Sequences, tiny_model
from tests.support.snapshots import numbers

torch.set_num_threads(1)

OFTEN = Settings(horizon=20, every=10, cluster=Cluster(None, CostModel(100, 200, 25)))  # whatever steps take
FAMILY = "gpt_oss"  # whose checkpoints the Trainer loads back whole


def trainer(folder: Path, **arguments: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(folder / "trainer"), "max_steps": 60, "per_device_train_batch_size": 4, "logging_steps": 5,
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2, "save_strategy": "no",
        **arguments,
    }  # fmt: skip
    args = TrainingArguments(**given)
    return Trainer(model=tiny_model(FAMILY), args=args, train_dataset=Sequences(), eval_dataset=Sequences())


def loop(monitor: LoadMonitor, out: Path | None, steps: int = 60, **options: Any) -> Any:
    """A PyTorch loop of its own, watched; returns the model."""
    torch.manual_seed(0)
    model = tiny_model(FAMILY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    with record(model, out, monitor=monitor, **options) as r:
        for _ in range(steps):
            tokens = torch.randint(1, VOCABULARY, (4, 16), generator=generator)
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            r.step(loss=loss.item())
    return model


def unbalanced(steps: int = 400) -> Trace:
    """Two layers with one hot expert each, from the first step on."""
    rng = np.random.default_rng(0)
    share_LE = np.array([[*[0.08] * 5, 0.44, 0.08, 0.08], [*[0.08] * 7, 0.44]])
    load_SLE = np.stack([rng.multinomial(40960, share_LE) for _ in range(steps)])
    return Trace.from_arrays(load_SLE, 20480, 2)


def fed(monitor: LoadMonitor, trace: Trace) -> None:
    from moeload_bench.recording.writer import rows_of

    for row in rows_of(trace):
        monitor.add(row, lambda: trace.meta)


def assert_same(monitor: LoadMonitor, trace: Trace, settings: Settings) -> None:
    said = list(replay(trace, settings))
    assert [s.step for s in monitor.snapshots] == [s.step for s in said]
    for live, again in zip(monitor.snapshots, said, strict=True):
        np.testing.assert_equal(numbers(live), numbers(again))
