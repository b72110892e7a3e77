"""A model compiled by `torch.compile` is recorded like any other, and recording compiles nothing again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from moeload_bench.recording.recorder import record
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording.families import tiny_batch, tiny_model

torch.set_num_threads(1)
STEPS, PASSES = 5, 3


def accumulated(out: Path, backend: str | None) -> Trace:
    """Steps of several passes; from the second one on nothing may be compiled again."""
    torch._dynamo.reset()
    model = tiny_model("qwen3_moe")
    with record(model, out, on_error="raise") as r:
        running = model if backend is None else torch.compile(model, backend=backend)
        for step in range(STEPS):
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                for part in range(PASSES):
                    running(**tiny_batch(seed=PASSES * step + part)).loss.backward()
            r.step()
    return read_trace(out / "own/test/seed0.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_gradient_accumulation_compiles_nothing_again(backend: str, tmp_path: Path) -> None:
    """The number of passes is no guard of the compiled code, and what is counted is what an uncompiled model counts."""
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("g++ is not installed: apt install g++")
    compiled, plain = accumulated(tmp_path / "compiled", backend), accumulated(tmp_path / "plain", None)
    assert compiled.steps == STEPS
    for column in ("tokens_SL", "load_SLE"):
        assert np.array_equal(getattr(compiled, column), getattr(plain, column))
    assert np.array_equal(compiled.columns["load_half"], plain.columns["load_half"])
