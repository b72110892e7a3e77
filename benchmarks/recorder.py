"""What recording costs: CPU time of training steps with and without it, in interleaved pairs.

    python benchmarks/recorder.py [--layers 6 24] [--pairs 200] [--json]

Two copies of a model are trained on the same batches, one recorded and one not, and change roles half-way. A pair is
one step of each, in random order, so that drifts of the machine hit both. Shards are written to a temporary folder as
in a real recording. Printed: the ratio of CPU times as the interquartile mean over pairs (a busy machine slows single
steps by a third), and its 95 % interval from a bootstrap over pairs.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
from typing import Any

import numpy as np

WARM_UP = 3  # the first steps allocate


def build(layers: int) -> Any:
    """A Qwen3-MoE of the mini suite's width."""
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


def train_step(model: Any, optimizer: Any, tokens: Any) -> float:
    """One optimizer step; returns the loss, as a loop that logs it does."""
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def measure(layers: int, pairs: int, sequences: int) -> dict[str, Any]:
    """CPU seconds of ``pairs`` steps with and as many without recording, and their ratio."""
    import torch

    from moeload_bench.recording.recorder import record

    torch.set_num_threads(1)
    models = [build(layers)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in models]
    spent: dict[bool, list[float]] = {True: [], False: []}
    order = random.Random(0)
    for chosen in (0, 1):  # each copy is recorded in half of the pairs: where it lies in memory matters too
        with tempfile.TemporaryDirectory() as folder, record(models[chosen], folder, on_error="raise") as recorder:
            for pair in range(pairs // 2 + WARM_UP):
                tokens = torch.randint(0, 1024, (sequences, 128))
                for i in order.sample([0, 1], 2):
                    start = time.process_time()
                    loss = train_step(models[i], optimizers[i], tokens)
                    if i == chosen:
                        recorder.step(loss=loss, lr=1e-3)
                    if pair >= WARM_UP:
                        spent[i == chosen].append(time.process_time() - start)
    return {"layers": layers, "pairs": pairs, **ratio(np.array(spent[True]), np.array(spent[False]))}


def ratio(with_: np.ndarray, without: np.ndarray) -> dict[str, float]:
    """Interquartile mean of the pairs' log ratios, as a ratio, with a 95 % percentile bootstrap interval."""
    rng = np.random.default_rng(0)
    log_ratio = np.log(with_ / without)
    pick = rng.integers(0, len(with_), size=(4000, len(with_)))
    low, high = np.quantile(interquartile_mean(log_ratio[pick]), [0.025, 0.975])
    return {
        "seconds_without": float(np.median(without)),
        "ratio": float(np.exp(interquartile_mean(log_ratio[None])[0])),
        "low": float(np.exp(low)),
        "high": float(np.exp(high)),
    }


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis."""
    count = values.shape[-1]
    middle: np.ndarray = np.sort(values, axis=-1)[..., count // 4 : count - count // 4].mean(axis=-1)
    return middle


def main() -> None:
    """Print one line per model size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for layers in given.layers:
        found = measure(layers, given.pairs, given.sequences)
        if given.json:
            print(json.dumps(found), flush=True)
            continue
        print(
            f"{layers:2} layers: {found['ratio']:.4f} [{found['low']:.4f}, {found['high']:.4f}] times the CPU time of "
            f"{found['seconds_without']:.3f} s per step, {given.pairs} pairs",
            flush=True,
        )


if __name__ == "__main__":
    main()
