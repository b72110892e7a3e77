"""One tiny model of each family of routers, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

VOCABULARY, EXPERTS = 64, 8

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "use_cache": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_DEEPSEEK: dict[str, Any] = {
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8},
    "olmoe": {"num_experts": EXPERTS, "num_experts_per_tok": 4},
    "mixtral": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
    "deepseek_v3": _DEEPSEEK,
    "gpt_oss": {
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "granitemoe": {"num_local_experts": EXPERTS, "num_experts_per_tok": 3},
    "jetmoe": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "kv_channels": 8},
    "llama4_text": {
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 16,
        "head_dim": 8,
        "interleave_moe_layer_step": 1,
    },
    "switch_transformers": {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "num_heads": 2,
        "num_experts": EXPERTS,
        "expert_capacity": 2,
        "dropout_rate": 0.0,
        "router_jitter_noise": 0.0,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    },
}


def tiny_model(family: str, seed: int = 0) -> nn.Module:
    """A tiny model in training mode."""
    common = {} if family == "switch_transformers" else _COMMON
    config = AutoConfig.for_model(family, **{"vocab_size": VOCABULARY, **common, **CONFIGS[family]})
    torch.manual_seed(seed)
    maker = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: nn.Module = maker.from_config(config)
    return model.train()


def tiny_batch(sequences: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of one forward pass with its loss: 16 tokens per sequence."""
    tokens = torch.randint(1, VOCABULARY, (sequences, 16), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": tokens, "labels": tokens}


class Sequences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """64 random sequences of 16 tokens."""

    def __init__(self) -> None:
        self.tokens = torch.randint(1, VOCABULARY, (64, 16), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}
