"""The recorder's part of a step in expert modules, against torch's profiler in the same steps.

    python benchmarks/expert_time.py [--steps 20]

The profiler knows nothing of the recorder's hooks: forward, a range is put around the experts' `forward`; backward, a
node belongs to the experts if the forward operator with its sequence number ran in that range; what is computed once
more under activation checkpointing has a range of its own. One line for each way to
train a small Qwen3-MoE on the CPU: both parts of the step, as medians over measured steps, with their largest distance.
Then what a timed step costs: CPU time of steps with the hooks and without, taken alternately.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, AutoModelForCausalLM

from moeload_bench.recording.routers import find_routers
from moeload_bench.recording.timing import ExpertTimer, expert_modules
from moeload_bench.results.skill import interval_of

WARM_UP = 2
NODE = "autograd::engine::evaluate_function: "
"""The profiler's prefix of a node of the backward pass: `autograd::engine::evaluate_function: MulBackward0`."""
Span = tuple[float, float]


def build(layers: int, how: str = "grouped_mm") -> Any:
    """Make a small Qwen3-MoE whose experts are computed in this way."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=1024, hidden_size=128, intermediate_size=256, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, head_dim=32, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=128, max_position_embeddings=128, use_cache=False, experts_implementation=how,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).train()


def train_step(model: Any, optimizer: Any) -> None:
    """Make one optimizer step on random tokens."""
    tokens = torch.randint(0, 1024, (12, 128))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def ranged(module: Any) -> None:
    """Put the range `experts` around a module's forward."""
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function("experts"):
            return forward(*args, **kwargs)

    module.forward = run


def profiled_part(events: list[Any]) -> float:
    """Return the part of the range `step` that is spent in the experts, from the events of a profile."""
    step, experts, again = (spans(events, name) for name in ("step", "experts", "again"))
    ours = {event.sequence_nr for event in events if event.sequence_nr >= 0 and within(span(event), experts)}
    inside = sum(end - begin for begin, end in experts)
    own = False
    nodes = (event for event in events if event.name.startswith(NODE))
    for event in sorted(nodes, key=lambda node: node.time_range.start):
        if "AccumulateGrad" not in event.name:  # it follows the node whose gradient it takes
            own = event.sequence_nr in ours
        begin, end = span(event)
        repeated_s = sum(stop - start for start, stop in again if begin <= start and stop <= end)
        inside += (end - begin - repeated_s) * own
    return inside / (step[0][1] - step[0][0])


def spans(events: list[Any], name: str) -> list[Span]:
    """Return begin and end of the ranges of a name, in microseconds."""
    return [span(event) for event in events if event.name == name]


def span(event: Any) -> Span:
    """Return begin and end of an event."""
    return event.time_range.start, event.time_range.end


def within(inner: Span, ranges: list[Span]) -> bool:
    """Return whether a span lies in one of the ranges."""
    return any(begin <= inner[0] and inner[1] <= end for begin, end in ranges)


def compare(layers: int, how: str, checkpointed: bool, steps: int) -> Iterator[tuple[float, float]]:
    """Yield the part in experts by the recorder and by the profiler, step by step."""
    model = build(layers, how)
    if checkpointed:
        again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), record_function("again"))}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    experts = [expert.module for expert in expert_modules(model, find_routers(model))]
    for module in experts:
        ranged(module)
    timer = ExpertTimer(model, experts)
    for step in range(-WARM_UP, steps):
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            timer.begin()
            with record_function("step"):
                train_step(model, optimizer)
            part = timer.end()
        if step >= 0 and part is not None:
            yield part, profiled_part(list(profiler.events()))


def cost(layers: int, steps: int) -> tuple[float, float, float]:
    """Return the CPU time of a timed step over that of another one: the mean over pairs, with a 95 % t interval."""
    model = build(layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    timer = ExpertTimer(model, [expert.module for expert in expert_modules(model, find_routers(model))])
    log_ratio = []
    for step in range(-WARM_UP, steps):
        spent = {}
        for timed in (True, False) if step % 2 else (False, True):
            start = time.process_time()
            if timed:
                timer.begin()
            train_step(model, optimizer)
            timer.end()
            spent[timed] = time.process_time() - start
        if step >= 0:
            log_ratio.append(np.log(spent[True] / spent[False]))
    low, high = np.exp(interval_of(log_ratio))
    return float(np.exp(np.mean(log_ratio))), float(low), float(high)


def main() -> None:
    """Print one line for each way to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for how in ("grouped_mm", "eager"):
        for checkpointed in (False, True):
            part_S2 = np.array(list(compare(given.layers, how, checkpointed, given.steps)))
            ours, theirs = np.median(part_S2, axis=0)
            far = np.abs(part_S2[:, 0] - part_S2[:, 1]).max()
            words = f"{how}, {'checkpointed' if checkpointed else 'all activations kept'}"
            apart = f"at most {far:.3f} apart in {len(part_S2)} steps"
            print(f"{words}: recorder {ours:.3f}, profiler {theirs:.3f}, {apart}")
    ratio, low, high = cost(given.layers, 4 * given.steps)
    print(f"a timed step: {ratio:.3f} [{low:.3f}, {high:.3f}] times the CPU time of another, {4 * given.steps} pairs")


if __name__ == "__main__":
    main()
