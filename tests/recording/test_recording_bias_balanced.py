"""The 17 models of transformers whose outputs lack their router logits (issue 48911): each is recorded exactly.

They balance by a bias. Their routers return the indices all the same, and the recorder reads routers, not outputs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from moeload_bench.recording.counting import RouterCounter
from tests.support.recording.families import _COMMON, _DEEPSEEK, EXPERTS, tiny_batch

torch.set_num_threads(1)
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "recording.md"
LATENT = {**_DEEPSEEK, "n_group": 1}
SPARSE = {**LATENT, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
PLAIN = {
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "head_dim": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": SPARSE,
    "dots1": PLAIN,
    "exaone_moe": {
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "num_shared_experts": 1,
        "first_k_dense_replace": 0,
        "head_dim": 8,
    },
    "glm4_moe": PLAIN,
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": SPARSE,
    "hy_v4": PLAIN,
    "kimi_linear": {**LATENT, "num_experts": EXPERTS},
    "lfm2_moe": {
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "num_dense_layers": 0,
        "layer_types": ["full_attention", "conv"],
    },
    "longcat_flash": {**LATENT, "moe_topk": 2, "head_dim": 4, "zero_expert_num": 4, "expert_ffn_hidden_size": 8},
    "mimo_v2_flash": {**PLAIN, "head_dim": 12, "num_key_value_heads": 1},
    "nemotron_h": PLAIN,
    "solar_open": PLAIN,
    "step3p7": {
        "pad_token_id": 0,
        "sliding_window": 8,
        "num_local_experts": EXPERTS,
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "share_expert_dim": 8,
        "head_dim": 8,
        "layer_types": ["full_attention"] * 2,
        "mlp_layer_types": ["sparse"] * 2,
    },
}
SLOW = ("kimi_linear", "nemotron_h", "hy_v4", "longcat_flash")
"""Without their kernels, or with sizes that no option makes small: seconds each."""
ZERO = {"longcat_flash": 4}
"""Experts that compute nothing and are chosen like others."""


def model_of(name: str) -> nn.Module:
    """A tiny model without its head, in training mode."""
    given = {**_COMMON, **CONFIGS[name]}
    torch.manual_seed(0)
    if name == "step3p7":  # of text and images: its text model is no auto class
        from transformers.models.step3p7 import modeling_step3p7 as step

        return step.Step3p7TextModel(step.Step3p7TextConfig(**given)).train()
    model: nn.Module = AutoModel.from_config(AutoConfig.for_model(name, **given))
    return model.train()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS])
def test_every_choice_is_counted(name: str) -> None:
    """Of two passes: what the routers returned as indices, at least one MoE layer, the bias among its buffers."""
    model = model_of(name)
    assert any("bias" in buffer for buffer, _ in model.named_buffers())
    counter = RouterCounter(model)
    seen: list[list[torch.Tensor]] = [[] for _ in counter.routers]
    for index, router in zip(seen, counter.routers, strict=True):
        router.module.register_forward_hook(lambda m, args, output, index=index: index.append(output[-1].flatten()))
    for seed in range(2):
        model(input_ids=tiny_batch(seed=seed)["input_ids"])
    experts = EXPERTS + ZERO.get(name, 0)
    load_LE = counter.take().load_LE
    assert load_LE.shape == (len(seen), experts)
    assert (load_LE.sum(axis=1) == 2 * 64 * 2).all()
    np.testing.assert_array_equal(load_LE, [np.bincount(torch.cat(index), minlength=experts) for index in seen])


def test_the_page_lists_all_seventeen() -> None:
    """docs/guide/recording.md names each of them in its table, and no other."""
    part = PAGE.read_text().split("### Models that balance by a bias")[1].split("\n#")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in part.splitlines() if "|" in line)))
    assert named == set(CONFIGS)
    assert len(CONFIGS) == 17
