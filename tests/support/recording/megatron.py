"""Megatron-core's `TopKRouter` as it is, on CPU and gloo, and its recording on two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from moeload_bench.recording.engines import megatron_routing
from moeload_bench.recording.recorder import record
from moeload_bench.recording.stages import Stage

EXPERTS, WIDTH, TOKENS, STEPS, MICRO = 8, 16, (6, 4), 3, 2


@contextmanager
def on_cpu() -> Iterator[None]:
    """Let the router's `gating`, which moves its weights to the current GPU, find the CPU there.

    Version 0.16.1 without Transformer Engine lacks a name that it asks for: that it is None is what later versions say.
    """
    from megatron.core.transformer.moe import moe_utils

    on_device = mock.patch.object(torch.cuda, "current_device", return_value="cpu")
    with on_device, mock.patch.object(moe_utils, "te_general_gemm", None, create=True):
        yield


def router(group: Any, **config: Any) -> nn.Module:
    """A router of `EXPERTS` experts; call it within `on_cpu`."""
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.moe.router import TopKRouter
    from megatron.core.transformer.transformer_config import TransformerConfig

    shape = {
        "num_layers": 2,
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "num_moe_experts": EXPERTS,
        "moe_router_topk": 2,
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "alltoall",
        "add_bias_linear": False,
        "use_cpu_initialization": True,
    }
    groups = ProcessGroupCollection()
    for name in ("tp", "cp", "tp_cp", "tp_dp_cp"):
        setattr(groups, name, group)
    made: nn.Module = TopKRouter(TransformerConfig(**{**shape, **config}), pg_collection=groups)
    return made


def ranks(rank: int, out: Path, pipeline: bool) -> dict[str, np.ndarray]:
    """Record two ranks, of one expert-parallel group or the stages of a pipeline; return what each router chose.

    In expert parallelism a rank routes tokens of its own with the same weights; a stage has weights of its own.
    """
    torch.manual_seed(rank if pipeline else 0)
    with on_cpu():
        alone = [dist.new_group([index]) for index in range(2)][rank]
        layers = nn.Module()
        layers.layers = nn.ModuleList([router(alone), router(alone)])
        generator = torch.Generator().manual_seed(5 if pipeline else rank)
        stage = Stage(rank, 2, layer_offset=2 * rank) if pipeline else None
        options: dict[str, Any] = {"stage": stage} if pipeline else {"micro_max": True}
        chosen = np.zeros((STEPS, MICRO, 2, EXPERTS), dtype=np.int64)
        adapters = {type(layers.layers[0]): megatron_routing}
        with record(layers, out, adapters=adapters, on_error="raise", **options) as r:
            for step, micro in np.ndindex(STEPS, MICRO):
                for layer, one in enumerate(layers.layers):
                    _, choice = one(torch.randn(*TOKENS, WIDTH, generator=generator).requires_grad_())
                    chosen[step, micro, layer] = choice.sum(dim=0)
                if micro == MICRO - 1:
                    r.step()
    return {"chosen": chosen}
