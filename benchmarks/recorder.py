"""What recording costs: CPU time of training steps with and without it, in interleaved pairs.

    python benchmarks/recorder.py [--layers 6 24] [--pairs 200]

Two copies of a model are trained on the same batches, one recorded and one not, and change roles half-way. A pair is
one step of each; of every two pairs one begins with the first copy and one with the second, which of them is drawn, so
that drifts of the machine and what a step leaves in the caches hit both. Shards are written to a temporary folder as in
a real recording. Printed: the ratio of CPU times as the interquartile mean over pairs (a busy machine slows single
steps by a third), and its 95 % interval from a bootstrap over pairs. Such a mean passes over the one step in 250 that
writes a shard, so a shard is timed by itself and its share added to every recorded step; shards that are due by time
(one a minute) are put off meanwhile. The garbage collector is left as it is in training.
"""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

WARM_UP = 3  # the first steps allocate
SHARD_STEPS = 250


class Cost(NamedTuple):
    """CPU seconds of a step without recording, the ratio with it, and the ratio's 95 % interval."""

    seconds: float
    ratio: float
    low: float
    high: float


def build(layers: int) -> Any:
    """Make a Qwen3-MoE of the mini suite's width."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe",
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        max_position_embeddings=128,
        use_cache=False,
        tie_word_embeddings=True,
        experts_implementation="grouped_mm",
    )
    return AutoModelForCausalLM.from_config(config).train()


def two_copies(layers: int) -> tuple[list[Any], list[Any]]:
    """Make one model twice, and an optimizer for each."""
    import torch

    torch.set_num_threads(1)
    model = build(layers)
    models = [model, copy.deepcopy(model)]
    return models, [torch.optim.AdamW(one.parameters(), lr=1e-3) for one in models]


def train_step(model: Any, optimizer: Any, tokens: Any) -> float:
    """Make one optimizer step; return the loss, as a loop that logs it does."""
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def measure(layers: int, pairs: int, sequences: int) -> Cost:
    """Measure CPU seconds of ``pairs`` steps with and as many without recording, and their ratio."""
    import torch

    from moeload_bench.recording.recorder import record

    models, optimizers = two_copies(layers)
    spent: dict[bool, list[float]] = {True: [], False: []}
    shards: list[float] = []
    for chosen in (0, 1):  # each copy is recorded in half of the pairs: where it lies in memory matters too
        with tempfile.TemporaryDirectory() as folder, record(models[chosen], folder, on_error="raise") as recorder:
            for pair, order in zip(range(-WARM_UP, pairs // 2), orders(chosen), strict=False):
                if pair == 0:
                    recorder.flush()  # the first shard of a process imports its writer
                tokens = torch.randint(0, 1024, (sequences, 128))
                for i in order:
                    start = time.process_time()
                    loss = train_step(models[i], optimizers[i], tokens)
                    if i == chosen:
                        recorder.step(loss=loss, lr=1e-3)
                    if pair >= 0:
                        spent[i == chosen].append(time.process_time() - start)
            start = time.process_time()
            recorder.flush()
            shards.append(time.process_time() - start)
    return cost(np.array(spent[True]) + np.mean(shards) / SHARD_STEPS, np.array(spent[False]))


def orders(seed: int) -> Iterator[tuple[int, int]]:
    """Yield which copy begins: drawn for every second pair, the other one in the pair that follows."""
    draw = random.Random(seed)
    while True:
        first = draw.randrange(2)
        yield first, 1 - first
        yield 1 - first, first


def cost(recorded: np.ndarray, bare: np.ndarray) -> Cost:
    """Return the interquartile mean of the pairs' log ratios, as a ratio, with a 95 % percentile bootstrap interval."""
    rng = np.random.default_rng(0)
    log_ratio = np.log(recorded / bare)
    pick = rng.integers(0, len(log_ratio), size=(4000, len(log_ratio)))
    low, high = np.quantile(np.exp(interquartile_mean(log_ratio[pick])), [0.025, 0.975])
    return Cost(float(np.median(bare)), float(np.exp(interquartile_mean(log_ratio[None])[0])), float(low), float(high))


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis."""
    count = values.shape[-1]
    middle: np.ndarray = np.sort(values, axis=-1)[..., count // 4 : count - count // 4].mean(axis=-1)
    return middle


def main() -> None:
    """Print one line per model size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--sequences", type=int, default=12)
    given = parser.parse_args()
    for layers in given.layers:
        with mock.patch("moeload_bench.recording.recorder.SHARD_SECONDS", None):
            found = measure(layers, given.pairs, given.sequences)
        print(
            f"{layers:2} layers: {found.ratio:.4f} [{found.low:.4f}, {found.high:.4f}] times the CPU time of "
            f"{found.seconds:.3f} s per step, {given.pairs} pairs",
            flush=True,
        )


if __name__ == "__main__":
    main()
