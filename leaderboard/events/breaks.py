"""Breaks planted in forks of small runs: what each changes, and the traces of 300 steps after it.

A fork has weights, optimizer and past of its run, and the text in another order; the break is all else that differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from moeload_bench.files import replacing
from moeload_bench.generator.futures import Fork, record_futures
from moeload_bench.generator.recipe import Recipe, load_recipe, with_settings
from moeload_bench.generator.training import Job

FAMILIES = (
    *("qwen3moe-16e-aux", "olmoe-16e-zloss", "mixtral-8e-pooled"),
    *("deepseekv3-32e-lossfree", "granitemoe-16e-ramp", "gptoss-32e-top4"),
)
"""Recipes that the base runs are made from: two MoE layers and 512 tokens a step, else as they are."""
FORKS = (800, 1200)
STEPS = 300
"""Steps after each break."""
PROSE = ("kjv", "factbook", "django-docs", "sqlalchemy-docs")
CODE = ("sympy-code", "django-code", "sqlalchemy-code", "networkx-code")
ROUTER = re.compile(r"(gate|router)(\.layer)?\.weight$")
"""The name of a router's weights in the checkpoint of a model, [E, hidden size]."""


class Break(NamedTuple):
    """A change at the fork. ``rate``: times the learning rate; ``row``: times expert 0's row of the first router."""

    name: str
    rate: float = 1.0
    row: float = 1.0
    balanced: bool = True
    same_text: bool = True

    def settings(self, recipe: Recipe) -> tuple[str, ...]:
        """Return what a recipe has otherwise."""
        found: list[str] = []
        if self.rate != 1:
            found.append(f"optimizer.lr={self.rate * recipe.optimizer.lr:g}")
        if not self.balanced:
            found += ["balancing.method=none", "balancing.coefficient=0"]
        if not self.same_text:
            sources = CODE if recipe.data.stages[0].sources[0] in PROSE else PROSE
            found.append(f"data.stages=[{{start=0, sources={list(sources)}}}]")
        return tuple(found)


NO_BREAK = Break("nothing")
BREAKS = (
    *(Break(f"learning rate x{rate}", rate=rate) for rate in (2, 5, 30)),
    *(Break(f"router row x{row:g}", row=row) for row in (0.3, 0.0)),
    Break("balancing off", balanced=False),
    Break("another text", same_text=False),
)


def base_job(folder: Path, name: str) -> Job:
    """Return the recording of a base run: a dense layer, which DeepSeek's models begin with, is not counted."""
    recipe = load_recipe(name)
    layers = 2 + int(recipe.model.config.get("first_k_dense_replace", 0))
    small = with_settings(recipe, (f"model.config.num_hidden_layers={layers}", "data.sequences=4"))
    return Job(small, 0, "test", small.steps, folder)


def fork_of(folder: Path, name: str, at: int, one: Break) -> Fork:
    """Return the fork of a base run with a break; a changed router is in a folder of its own."""
    job = base_job(folder if one.row == 1 else folder / f"row{one.row:g}", name)
    return Fork(job, at, STEPS, one.settings(job.recipe))


def record(folder: Path) -> Iterator[str]:
    """Record the runs and forks that are not there yet; yield the name of each fork."""
    for at in FORKS:
        for name in FAMILIES:
            plain = fork_of(folder, name, at, NO_BREAK)
            for one in (NO_BREAK, *BREAKS):
                fork = fork_of(folder, name, at, one)
                if one.row != 1 and not fork.checkpoint.is_file():
                    scale_row(plain.checkpoint, fork.checkpoint, one.row)
                record_futures(fork, 1)
                yield f"{name}, step {at}: {one.name}"


def scale_row(source: Path, target: Path, factor: float) -> None:
    """Copy a checkpoint, with expert 0's row of the first router times a factor."""
    state = torch.load(source, weights_only=True)
    router = next(key for key in state["model"] if ROUTER.search(key))
    state["model"][router][0] *= factor
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        torch.save(state, scratch)
