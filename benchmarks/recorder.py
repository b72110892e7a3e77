"""What recording costs: CPU time of training steps with and without it, in interleaved pairs.

    python benchmarks/recorder.py [--layers 6 24] [--pairs 200] [--json]
    python benchmarks/recorder.py --parts [--layers 6 24] [--pairs 200]
    python benchmarks/recorder.py --monitor [--layers 6 24] [--experts 8 64] [--pairs 200]
    python benchmarks/recorder.py --compile [--passes 1 2 4] [--layers 6 24] [--pairs 200]

Two copies of a model are trained on the same batches, one recorded and one not, and change roles half-way. A pair is
one step of each; of every two pairs one begins with the first copy and one with the second, which of them is drawn, so
that drifts of the machine and what a step leaves in the caches hit both. Shards are written to a temporary folder as in
a real recording. Printed: the ratio of CPU times as the interquartile mean over pairs (a busy machine slows single
steps by a third), and its 95 % interval from a bootstrap over pairs. Such a mean passes over the one step in 250 that
writes a shard, so a shard is timed by itself and its share added to every recorded step; shards that are due by time
(one a minute) are put off meanwhile. The garbage collector is left as it is in training.

``--monitor`` compares two recorded copies, one of them with a `LoadMonitor` that logs to a file. It works in one step
of ten and forecasts in one of fifty, which an interquartile mean would pass over. So the time inside the monitor is
taken by itself, in the running loop, and its mean over all steps is added; what is left of a pair says what the
monitor does to the steps around it. The interval is from a bootstrap over both.

``--compile`` trains models compiled by `torch.compile` (by inductor, which needs g++), in steps of ``--passes`` forward
and backward passes, and says how often something was compiled again after the first steps.

``--parts`` says where the time goes, by the thread's CPU clock around each part in the running loop: alone, with its
code and data in the caches, a part takes a fraction of that.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

WARM_UP = 3  # the first steps allocate
SHARD_STEPS = 250


def build(layers: int, experts: int = 8) -> Any:
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
        num_experts=experts,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        max_position_embeddings=128,
        use_cache=False,
        tie_word_embeddings=True,
        experts_implementation="grouped_mm",
    )
    return AutoModelForCausalLM.from_config(config).train()


def two_copies(layers: int, experts: int = 8) -> tuple[list[Any], list[Any]]:
    """Make one model twice, and an optimizer for each."""
    import torch

    torch.set_num_threads(1)
    model = build(layers, experts)
    models = [model, copy.deepcopy(model)]
    return models, [torch.optim.AdamW(one.parameters(), lr=1e-3) for one in models]


def train_step(model: Any, optimizer: Any, tokens: Any, passes: int = 1) -> float:
    """Make one optimizer step of so many passes; return the last loss, as a loop that logs it does."""
    for part in tokens.chunk(passes):
        loss = model(input_ids=part, labels=part).loss
        (loss / passes).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def measure(layers: int, pairs: int, sequences: int, passes: int = 1, compiled: bool = False) -> dict[str, Any]:
    """Measure CPU seconds of ``pairs`` steps with and as many without recording, and their ratio."""
    import torch

    from moeload_bench.recording.recorder import record

    models, optimizers = two_copies(layers)
    spent: dict[bool, list[float]] = {True: [], False: []}
    shards: list[float] = []
    again = 0
    for chosen in (0, 1):  # each copy is recorded in half of the pairs: where it lies in memory matters too
        with tempfile.TemporaryDirectory() as folder, record(models[chosen], folder, on_error="raise") as recorder:
            running = models
            if compiled:  # of two models of one class the compiler takes the code of the first, hooks or not
                torch._dynamo.config.skip_nnmodule_hook_guards = False
                running = [torch.compile(model) for model in models]
            for pair, order in zip(range(-WARM_UP, pairs // 2), orders(chosen), strict=False):
                if pair == 0:
                    recorder.flush()  # the first shard of a process imports its writer
                    again -= compilations()
                tokens = torch.randint(0, 1024, (sequences, 128))
                for i in order:
                    start = time.process_time()
                    loss = train_step(running[i], optimizers[i], tokens, passes)
                    if i == chosen:
                        recorder.step(loss=loss, lr=1e-3)
                    if pair >= 0:
                        spent[i == chosen].append(time.process_time() - start)
            again += compilations()
            start = time.process_time()
            recorder.flush()
            shards.append(time.process_time() - start)
    with_, without = np.array(spent[True]) + np.mean(shards) / SHARD_STEPS, np.array(spent[False])
    more = {"passes": passes, "compiled_again": again} if compiled else {}
    return {"layers": layers, "pairs": len(with_), **ratio(with_, without), **more}


def compilations() -> int:
    """Count the graphs that were compiled in this process so far."""
    import torch

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def measure_monitor(layers: int, experts: int, pairs: int, sequences: int) -> dict[str, Any]:
    """Measure CPU seconds of recorded steps with and without a monitor, and their ratio."""
    import torch

    from moeload_bench.inspection.monitor import LoadMonitor
    from moeload_bench.inspection.planning import replay
    from moeload_bench.recording.recorder import record
    from moeload_bench.traces.trace import Trace

    load_SLE = np.full((300, layers, experts), 8)
    assert list(replay(Trace.from_arrays(load_SLE)))  # the first forecast and advice of a process import what they need
    models, optimizers = two_copies(layers, experts)
    around: dict[bool, list[float]] = {True: [], False: []}
    inside: list[float] = []
    for chosen in (0, 1):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            monitor = Timed(LoadMonitor(sinks=[f"{folder}/moe.jsonl"]))
            recorders = [
                stack.enter_context(
                    record(models[i], f"{folder}/{i}", on_error="raise", monitor=monitor if i == chosen else None)
                )
                for i in (0, 1)
            ]
            for pair, order in zip(range(-WARM_UP, pairs // 2), orders(chosen), strict=False):
                tokens = torch.randint(0, 1024, (sequences, 128))
                for i in order:
                    monitor.seconds, start = 0.0, time.process_time()
                    loss = train_step(models[i], optimizers[i], tokens)
                    recorders[i].step(loss=loss, lr=1e-3)
                    spent = time.process_time() - start
                    if pair >= 0:
                        around[i == chosen].append(spent - monitor.seconds)
                        inside += [monitor.seconds] if i == chosen else []
            assert monitor.monitor.stopped is None
    with_, without = np.array(around[True]), np.array(around[False])
    return {"layers": layers, "experts": experts, "pairs": len(with_), **ratio(with_, without, np.array(inside))}


class Timed:
    """A monitor, with the CPU time of the thread that it takes."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor
        self.seconds = 0.0

    def add(self, row: Any, meta: Any) -> None:
        start = time.thread_time()
        self.monitor.add(row, meta)
        self.seconds += time.thread_time() - start

    def recall(self, rows: Any, meta: Any) -> None:
        self.monitor.recall(rows, meta)

    def close(self) -> None:
        self.monitor.close()


def orders(seed: int) -> Iterator[tuple[int, int]]:
    """Yield which copy begins: drawn for every second pair, the other one in the pair that follows."""
    draw = random.Random(seed)
    while True:
        first = draw.randrange(2)
        yield first, 1 - first
        yield 1 - first, first


def measure_parts(layers: int, steps: int, sequences: int) -> dict[str, float]:
    """Measure median CPU milliseconds per step of each part of recording, and of the training step without them."""
    import torch

    from moeload_bench.recording.recorder import record

    torch.set_num_threads(1)
    model = build(layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    spent: dict[str, float] = defaultdict(float)
    rows: list[dict[str, float]] = []
    with timed_parts(spent), tempfile.TemporaryDirectory() as folder, record(model, folder, on_error="raise") as r:
        for step in range(-WARM_UP, steps):
            if step == 0:
                r.flush()
            tokens = torch.randint(0, 1024, (sequences, 128))
            spent.clear()
            start = time.thread_time()
            r.step(loss=train_step(model, optimizer, tokens), lr=1e-3)
            whole = time.thread_time() - start
            rows.append({**spent, "training": whole - sum(spent.values())})
        spent.clear()
        r.flush()
    parts = {name: float(np.median([row[name] for row in rows[WARM_UP:]])) for name in rows[0]}
    return {name: 1000 * seconds for name, seconds in {**parts, "shard / 250": spent["shard"] / SHARD_STEPS}.items()}


@contextlib.contextmanager
def timed_parts(spent: dict[str, float]) -> Iterator[None]:
    """Add up in ``spent`` the CPU seconds of the recorder's parts."""
    from moeload_bench.recording.counting import RouterCounter
    from moeload_bench.recording.halves import Halves
    from moeload_bench.recording.recorder import Recorder

    def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            found = run(*args, **kwargs)
            spent[name] += time.thread_time() - start
            return found

        return wrapped

    hook = RouterCounter._hook
    with (
        mock.patch.object(RouterCounter, "_hook", lambda self, layer: timed("routers' hooks", hook(self, layer))),
        mock.patch.object(Halves, "see_inputs", timed("inputs' hook", Halves.see_inputs)),
        mock.patch.object(Recorder, "step", timed("closing the step", Recorder.step)),
        mock.patch.object(Recorder, "flush", timed("shard", Recorder.flush)),
    ):
        yield


def ratio(with_: np.ndarray, without: np.ndarray, inside: np.ndarray | None = None) -> dict[str, float]:
    """Return the interquartile mean of the pairs' log ratios, as a ratio, with a 95 % percentile bootstrap interval.

    ``inside``: seconds that were taken by themselves; their mean over the median step is added to the ratio.
    """
    rng = np.random.default_rng(0)
    log_ratio = np.log(with_ / without)
    step = float(np.median(without))
    added = np.zeros(len(with_)) if inside is None else inside / step
    pick = rng.integers(0, len(with_), size=(4000, len(with_)))
    low, high = np.quantile(np.exp(interquartile_mean(log_ratio[pick])) + added[pick].mean(axis=1), [0.025, 0.975])
    return {
        "seconds_without": step,
        "ratio": float(np.exp(interquartile_mean(log_ratio[None])[0]) + added.mean()),
        "low": float(low),
        "high": float(high),
        **({} if inside is None else {"inside_ms": 1000 * float(inside.mean())}),
    }


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
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 64], help="of each model, with --monitor")
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--monitor", action="store_true", help="what a monitor costs beside the recorder")
    parser.add_argument("--compile", action="store_true", help="models compiled by torch.compile")
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 2, 4], help="of each step, with --compile")
    parser.add_argument("--parts", action="store_true", help="where the time goes, over as many steps as pairs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    passes, experts = (
        given.passes if given.compile else [1],
        given.experts if given.monitor else [8] * len(given.layers),
    )
    for (layers, of_each), number in itertools.product(zip(given.layers, experts, strict=True), passes):
        with mock.patch("moeload_bench.recording.recorder.SHARD_SECONDS", None):
            if given.monitor:
                found = measure_monitor(layers, of_each, given.pairs, given.sequences)
            elif given.parts:
                found = measure_parts(layers, given.pairs, given.sequences)
            else:
                found = measure(layers, given.pairs, given.sequences, number, compiled=given.compile)
        print(json.dumps(found) if given.json else line(layers, found), flush=True)


def line(layers: int, found: dict[str, Any]) -> str:
    """Format a measurement for people."""
    if "ratio" not in found:
        return f"{layers:2} layers, ms per step: " + ", ".join(f"{name} {ms:.3f}" for name, ms in found.items())
    pairs = f"{found['pairs']} pairs"
    if "passes" in found:
        pairs += f" of {found['passes']} passes, compiled again {found['compiled_again']} times"
    inside = f", {found['inside_ms']:.2f} ms of it in the monitor" if "inside_ms" in found else ""
    return (
        f"{layers:2} layers: {found['ratio']:.4f} [{found['low']:.4f}, {found['high']:.4f}] times the CPU time of "
        f"{found['seconds_without']:.3f} s per step, {pairs}{inside}"
    )


if __name__ == "__main__":
    main()
