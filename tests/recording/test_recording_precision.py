"""Mixed precision and steps that a gradient scaler skips leave counts exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moeload_bench.recording.counting import RouterCounter
from moeload_bench.recording.recorder import record
from moeload_bench.recording.routers import find_routers
from moeload_bench.traces.store import read_trace
from tests.support.recording.families import CONFIGS, EXPERTS, tiny_batch, tiny_model

torch.set_num_threads(1)


@pytest.mark.parametrize("family", CONFIGS)
def test_autocast_conserves_counts(family: str) -> None:
    """Under bfloat16 autocast every family's loads are whole numbers that sum to tokens x top-k."""
    model = tiny_model(family)
    counter = RouterCounter(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tiny_batch()).loss
    loss.backward()
    counts = counter.take()
    assert counts.load_LE.dtype == np.int64
    assert (counts.load_LE.sum(axis=1) == 64 * counter.top_k[0]).all()


def test_switch_drops_are_its_mask_under_autocast() -> None:
    """The choice before drops is taken in the router's own precision, so it agrees with the mask that it returned."""
    model = tiny_model("switch_transformers")
    kept: list[np.ndarray] = []
    for router in find_routers(model):
        router.module.register_forward_hook(
            lambda m, args, output: kept.append(output[0].reshape(-1, EXPERTS).sum(0).numpy())
        )
    counter = RouterCounter(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tiny_batch(8)).loss
    loss.backward()
    counts = counter.take()
    assert counts.dropped_LE is not None
    np.testing.assert_array_equal(counts.load_LE - counts.dropped_LE, np.stack(kept))


def test_a_step_that_the_scaler_skips_is_a_step(tmp_path: Path) -> None:
    """Infinite gradients in step 2: the scaler changes no weight, the batch was routed and has its row, and the next
    row holds the next batch only."""
    model = tiny_model("qwen3_moe")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    skipped = []
    with record(model, tmp_path, on_error="raise") as r:
        for step in range(5):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**tiny_batch(sequences=2 + step, seed=step)).loss
            scaler.scale(loss * torch.inf if step == 2 else loss).backward()
            before = [p.detach().clone() for p in model.parameters()]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            skipped.append(all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)))
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert skipped == [False, False, True, False, False]
    assert trace.tokens_SL[:, 0].tolist() == [16 * (2 + step) for step in range(5)]
    assert (trace.load_SLE.sum(axis=2) == 2 * trace.tokens_SL).all()
