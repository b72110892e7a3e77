"""What recording and watching cost at real size, on CPU tensors: a part of docs/reports/performance.md.

    python benchmarks/live_size.py [--layers 58] [--experts 256] [--steps 400] [--out docs/reports/performance.md]

The model is made of routers alone, whose choices are drawn beforehand: all that a step costs is the recorder's, and
with a monitor the monitor's. Each variant runs in a process of its own, with one thread. Milliseconds are of CPU, means
over all steps, so that shards, snapshots, states, forecasts and advice are in them by their share; the longest step
shows what one of these takes at once. Memory: how much the process's peak grows while it records.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compare_common import machine, new_forecaster, table, write_part

from moeload_bench.forecaster import ForecastRequest, StepBlock
from moeload_bench.ops.planning.decision import compared_forecasters

TOKENS, TOP_K = 4096, 8
DRAWN = 8
"""Different choices of each router, which come in turn."""
WARM_UP = 60
"""Steps before the clock starts: the first snapshot imports what forecasts and advice need."""
VARIANTS = {"": "routers alone", "record": "recorded", "monitor": "recorded, with a `LoadMonitor` that advises"}
FORECAST_MS = 600.0
BEGIN = "<!-- live size -->\n"


def routers(layers: int, experts: int) -> tuple[Any, Any]:
    """Return a model of routers alone, and what reads their output."""
    import torch

    from moeload_bench.recording.routers import Routing

    random = torch.Generator().manual_seed(0)

    weight_E = torch.softmax(torch.randn(experts, generator=random), 0).expand(TOKENS, -1)
    drawn = [torch.multinomial(weight_E, TOP_K, generator=random).ravel() for _ in range(DRAWN)]

    class Router(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            of_layer_E = torch.randperm(experts, generator=random)  # which experts are popular differs by layer
            self.drawn = [of_layer_E[expert_P] for expert_P in drawn]
            self.step = 0

        def forward(self, hidden: Any) -> Any:
            self.step += 1
            return self.drawn[self.step % DRAWN]

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({"router": Router()}) for _ in range(layers))

        def forward(self, hidden: Any) -> Any:
            for layer in self.layers.children():
                layer.get_submodule("router")(hidden)

    return Model().train(), {Router: lambda _, __, expert_P: Routing(expert_P, None, TOKENS, experts, TOP_K)}


def measure(variant: str, layers: int, experts: int, steps: int) -> dict[str, float]:
    """Return mean and greatest CPU milliseconds of a step, and by how many MB the peak grew."""
    import torch

    from moeload_bench.ops.live.monitor import LoadMonitor
    from moeload_bench.ops.planning.planner import Settings
    from moeload_bench.recording.recorder import record

    torch.set_num_threads(1)
    model, adapters = routers(layers, experts)
    hidden, spent = torch.zeros(1), []
    with tempfile.TemporaryDirectory() as folder:
        before = peak_mb()
        recording = None
        if variant:
            monitor = (
                LoadMonitor(Settings(follow=True), sinks=[f"{folder}/moe.jsonl"]) if variant == "monitor" else None
            )
            recording = record(model, folder, adapters=adapters, on_error="raise", monitor=monitor)
        recorder = recording.__enter__() if recording else None
        for step in range(-WARM_UP, steps):
            start = time.process_time()
            model(hidden)
            if recorder is not None:
                recorder.step(loss=1.0, lr=1e-3)
            if step >= 0:
                spent.append(1000 * (time.process_time() - start))
        if recording:
            recording.__exit__(None, None, None)
        return {"ms": float(np.mean(spent)), "most_ms": max(spent), "mb": peak_mb() - before}


def peak_mb() -> float:
    """Return the most memory that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forecast_ms(target: str, layers: int, experts: int) -> tuple[float, float]:
    """Return CPU milliseconds of five forecasts of 200 steps: of the longest, and the median with 50 steps shown."""
    forecaster, rng, spent = new_forecaster(target, layers, experts), np.random.default_rng(0), []
    share_LE = rng.dirichlet(np.full(experts, 3.0), layers)
    for first in range(0, 600, 50):
        load_SLE = rng.multinomial(TOKENS * TOP_K, share_LE, size=(50, layers))
        before = time.process_time()
        forecaster.observe(StepBlock(np.arange(first, first + 50), load_SLE, load_SLE.sum(axis=2)))
        start = time.process_time()
        forecaster.forecast(ForecastRequest(first + 50, 200, (200,)))
        end = time.process_time()
        spent.append((1000 * (end - start), 1000 * (end - before)))
    alone, shown = np.array(spent[-5:]).T
    return float(alone.max()), float(np.median(shown))


def part(rows: Sequence[Sequence[str]], forecasts: Sequence[Sequence[str]], size: str, steps: int) -> str:
    """Return the page's part."""
    about = (
        f"Routers of {size} experts on CPU tensors, {TOKENS:,} tokens a step, top-{TOP_K}, choices drawn beforehand; "
        f"one core of {machine()}. CPU milliseconds per step, mean over {steps:,} steps: shards, and a monitor's "
        "snapshots, states, forecasts and advice (every 50 steps) are in it by their share. The longest step holds one "
        "of these as a whole. Memory: growth of the process's peak (`benchmarks/live_size.py`). A row is a way of "
        "running: less is better."
    )
    below = (
        "Greatest CPU milliseconds of a forecast of 200 steps at 60 x 256, as a monitor asks for it; at most "
        f"{FORECAST_MS:g}. Median with the 50 steps before it shown to the forecaster: decisions call forecasters "
        "cheap in this order. A row is a forecaster: less is better."
    )
    heads = ["forecaster", "greatest, ms", "median with the steps shown, ms"]
    return "\n".join(["## Recorder and monitor at real size", "", about, "",
                      *table(["what", "ms per step", "longest step, ms", "MB"], rows), "", below, "",
                      *table(heads, forecasts), ""])  # fmt: skip


def main() -> int:
    """Measure each variant in a process of its own; exit 1 if a forecast takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="the page whose part is replaced")
    given = parser.parse_args()
    size = (given.layers, given.experts, given.steps)
    if given.variant is not None:
        print(json.dumps(measure(given.variant, *size)))
        return 0
    rows = []
    for variant, words in VARIANTS.items():
        options = [f"--{name}={value}" for name, value in zip(("layers", "experts", "steps"), size, strict=True)]
        command = [sys.executable, __file__, f"--variant={variant}", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        result = json.loads(done.stdout.splitlines()[-1])
        rows.append([words, f"{result['ms']:.2f}", f"{result['most_ms']:.0f}", f"{result['mb']:.0f}"])
        print(" | ".join(rows[-1]), flush=True)
    taken = {name: forecast_ms(name, 60, 256) for name in compared_forecasters()}
    forecasts = [[f"`{name}`", *(f"{ms:.1f}" for ms in both)] for name, both in taken.items()]
    print("\n".join(map(" | ".join, forecasts)))
    if given.out is not None:
        made = part(rows, forecasts, f"{given.layers} x {given.experts}", given.steps)
        write_part(given.out, BEGIN, f"\n{made}\n")
    return int(max(alone for alone, _ in taken.values()) > FORECAST_MS)


if __name__ == "__main__":
    sys.exit(main())
