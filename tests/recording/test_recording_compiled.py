"""A model compiled by `torch.compile` is recorded like any other, and recording compiles nothing again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moeload_bench.recording.recorder import record
from moeload_bench.recording.timing import FIRST
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording.families import tiny_batch, tiny_model

torch.set_num_threads(1)
STEPS = FIRST + 2


def accumulated(out: Path, backend: str | None, passes: int) -> Trace:
    """Steps of so many passes; from the second step on nothing may be compiled again."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    model = tiny_model("qwen3_moe")
    with record(model, out, on_error="raise") as r:
        running = model if backend is None else torch.compile(model, backend=backend)
        for step in range(STEPS):
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                for part in range(passes):
                    running(**tiny_batch(seed=passes * step + part)).loss.backward()
            r.step()
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == graphs[:1] * STEPS
    assert (graphs[0] > 0) == (backend is not None)
    return read_trace(out / "own/test/seed0.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "passes"), [("eager", 1), ("eager", 4), pytest.param("inductor", 2, marks=pytest.mark.compiler)]
)  # inductor writes C++
def test_gradient_accumulation_compiles_nothing_again(backend: str, passes: int, tmp_path: Path) -> None:
    """The number of passes is no guard of the compiled code, and what is counted is what an uncompiled model counts."""
    compiled, plain = (
        accumulated(tmp_path / name, one, passes) for name, one in (("compiled", backend), ("plain", None))
    )
    assert compiled.steps == STEPS
    for column in ("tokens_SL", "load_SLE"):
        assert np.array_equal(getattr(compiled, column), getattr(plain, column))
    assert np.array_equal(compiled.columns["load_half"], plain.columns["load_half"])
    assert np.isnan(compiled.columns["expert_fraction"]).all()
    assert compiled.meta.expert is not None
    assert compiled.meta.expert.not_timed.startswith("no expert module was called in a measured step")
    assert plain.columns["expert_fraction"][FIRST] > 0
