"""A few recorded steps of a paper-shaped recipe at full architecture with a tiny batch: what it takes.

    python benchmarks/paper_size.py gpt3-125m-16e [--sequences 1] [--length 128] [--steps 3] [--expert-width W]

Random tokens, fp32, AdamW, activation checkpointing as in the recipe. Printed: parameters, seconds per step, peak
memory of the process, and that every recorded step conserved its counts. ``--expert-width`` narrows the experts where
memory does not hold them; layers, experts and routing stay.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any


def narrowed(recipe: Any, width: int | None) -> Any:
    """Return the recipe with experts of another width."""
    if width is None:
        return recipe
    config = {**recipe.model.config, "moe_intermediate_size": width}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": config})})


def run(name: str, sequences: int, length: int, steps: int, width: int | None) -> None:
    """Train and record; raises when a step's counts do not add up."""
    import torch

    from moeload_bench.recipes.models import build_model, build_optimizer
    from moeload_bench.recipes.recipe import load_recipe
    from moeload_bench.recording.recorder import record
    from moeload_bench.traces.store import read_trace

    torch.set_num_threads(1)
    recipe = narrowed(load_recipe(name), width)
    model: Any = build_model(recipe, seed=0)
    optimizer = build_optimizer(recipe, model)
    count = sum(p.numel() for p in model.parameters())
    print(f"{name}: {count / 1e9:.3f} billion parameters, {sequences} x {length} tokens per step", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        with record(model, folder, on_error="raise") as recorder:
            for step in range(steps):
                start, cpu = time.perf_counter(), time.process_time()
                tokens = torch.randint(0, recipe.data.vocabulary, (sequences, length))
                loss = model(input_ids=tokens, labels=tokens).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                recorder.step(loss=loss.item())
                spent = f"{time.perf_counter() - start:.1f} s wall, {time.process_time() - cpu:.1f} s CPU"
                print(f"step {step}: loss {loss.item():.3f}, {spent}", flush=True)
        trace = read_trace(Path(folder) / "own/test/seed0.parquet")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = f"{trace.steps} steps x {trace.num_layers} MoE layers x {trace.num_experts} experts"
    print(f"recorded {shape}, all conserved; peak memory {peak:.1f} GiB", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--expert-width", type=int)
    given = parser.parse_args()
    run(given.recipe, given.sequences, given.length, given.steps, given.expert_width)


if __name__ == "__main__":
    main()
