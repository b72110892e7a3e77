"""A small MoE model that is cut into pipeline stages, and the loops that train it whole or in stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moeload_bench.recording.distributed import RankSum
from moeload_bench.recording.recorder import record
from moeload_bench.recording.routers import top_k_routing
from moeload_bench.recording.stages import Stage

LAYERS, EXPERTS, WIDTH, MICRO, BATCH, TOKENS = 4, 8, 16, 4, 8, 6


class TinyRouter(nn.Module):
    """The common contract: (logits [T, E], weights [T, 2], indices [T, 2])."""

    def __init__(self, experts: int = EXPERTS) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, experts, bias=False)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.gate(hidden.reshape(-1, WIDTH))
        weights, index = logits.softmax(-1).topk(2, dim=-1)
        return logits, weights, index


class TinyBlock(nn.Module):
    """A layer whose experts are scalings, so that routing has a gradient and the next layer sees other tokens."""

    def __init__(self, experts: int = EXPERTS) -> None:
        super().__init__()
        self.router = TinyRouter(experts)
        self.scale = nn.Parameter(torch.randn(experts, WIDTH))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        _, weights, index = self.router(hidden)
        mixed = (weights[..., None] * self.scale[index]).sum(1).reshape(hidden.shape)
        return hidden + torch.tanh(hidden * mixed)


class TinyModel(nn.Module):
    """Some of the layers of one model, under their numbers in the whole."""

    def __init__(self, first: int = 0, stop: int = LAYERS, experts: tuple[int, ...] = (EXPERTS,) * LAYERS) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [TinyBlock(experts[i]) for i in range(LAYERS)]
        self.layers = nn.ModuleDict({str(i): blocks[i] for i in range(first, stop)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            hidden = layer(hidden)
        return hidden


ADAPTERS: dict[type, Any] = {TinyRouter: top_k_routing}


def batch(step: int) -> torch.Tensor:
    """The inputs of a step [BATCH, TOKENS, WIDTH]."""
    return torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(step))


def without_stages(out: Path, steps: int, **options: Any) -> None:
    """One process, the micro-batches one after another, at learning rate 0."""
    model = TinyModel()
    with record(model, out, adapters=ADAPTERS, on_error="raise", **options) as r:
        for step in range(steps):
            for part in batch(step).chunk(MICRO):
                model(part).square().mean().backward()
            r.step(lr=0.0)


def staged(rank: int, out: Path, steps: int, schedule: str, copies: int = 1) -> dict[str, np.ndarray]:
    """A stage of a real schedule of `torch.distributed.pipelining`; ``copies`` pipelines share the batch."""
    import torch.distributed as dist
    from torch.distributed import pipelining
    from torch.distributed.pipelining import PipelineStage

    world = dist.get_world_size()
    stages = world // copies
    copy, index = divmod(rank, stages)
    pipes = [dist.new_group([c * stages + s for s in range(stages)]) for c in range(copies)]
    same = [dist.new_group([c * stages + s for c in range(copies)]) for s in range(stages)]
    size = LAYERS // stages
    model = TinyModel(index * size, (index + 1) * size).train()
    pipe = PipelineStage(model, index, stages, torch.device("cpu"), group=pipes[copy])
    maker = getattr(pipelining, schedule)
    runner = maker(pipe, n_microbatches=MICRO // copies, loss_fn=lambda output, target: output.square().mean())
    sums = RankSum(same[index], index=copy, batches=copies) if copies > 1 else None
    stage = Stage(index, stages)
    with record(model, out, adapters=ADAPTERS, reduce=sums, stage=stage, on_error="raise", imbalance_rank=True) as r:
        for step in range(steps):
            mine = batch(step).chunk(copies)[copy]
            given = {"target": mine} if index == stages - 1 else {}
            runner.step(*([mine] if index == 0 else []), **given)
            r.step(lr=0.0)
    return {}
