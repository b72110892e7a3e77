"""Models from recipes, with random weights that depend only on the seed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from moeload_bench.errors import MissingExtraError, RecipeError
from moeload_bench.generator.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

# keys that transformers reads although not every family declares them in its configuration
_UNDECLARED = ("attn_implementation", "experts_implementation", "head_dim", "decoder_start_token_id")
_SIGMOID = (
    *("axk1", "deepseek_v3", "dots1", "exaone_moe", "glm4_moe", "glm4_moe_lite", "laguna", "llama4_text"),
    *("minimax_m2", "solar_open"),
)


def build_model(recipe: Recipe, seed: int) -> nn.Module:
    """Return the recipe's model in training mode, initialised from ``seed``.

    Raise `RecipeError` if transformers does not know the family or refuses the configuration, and if the model computes
    nothing.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "record", "recording a recipe") from None
    keywords: dict[str, Any] = {"vocab_size": recipe.data.vocabulary, "use_cache": False}
    keywords |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **recipe.model.config}
    if recipe.balancing.method == "pooled_aux_loss":
        keywords["router_aux_loss_coef"] = recipe.balancing.coefficient
    _check_keys(recipe)
    try:
        config = AutoConfig.for_model(recipe.model.family, **keywords)
        _check_top_k(config)
        torch.manual_seed(seed)
        maker = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model: Any = maker.from_config(config)
        tokens_BN = torch.zeros(1, 16, dtype=torch.int64)
        if not tokens_BN.is_meta:  # sizes that do not fit each other show in a pass
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                model(**model_inputs(model, tokens_BN))
    except Exception as error:  # each class checks its configuration in its own way
        last = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise RecipeError(f"recipe {recipe.name}: model {recipe.model.family}: {last}") from error
    if recipe.model.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained: nn.Module = model.train()
    return trained


def _check_keys(recipe: Recipe) -> None:
    """Raise for a family or key that does not exist: transformers would silently use its own default."""
    from transformers import CONFIG_MAPPING

    family = recipe.model.family
    if family not in CONFIG_MAPPING:
        raise RecipeError(f"recipe {recipe.name}: unknown model family {family!r}{_close(family, CONFIG_MAPPING)}")
    default = CONFIG_MAPPING[family]()
    keys = {*default.to_dict(), *default.attribute_map, *_UNDECLARED}
    for key in recipe.model.config:
        if key not in keys:
            raise RecipeError(f"recipe {recipe.name}: model.config: {family} has no key {key!r}{_close(key, keys)}")


def _close(got: str, names: Iterable[str]) -> str:
    matches = difflib.get_close_matches(got, list(names), n=3)
    return f"; there is: {', '.join(matches)}" if matches else "; see its configuration class in transformers"


def _check_top_k(config: Any) -> None:
    experts = (getattr(config, name, None) for name in ("n_routed_experts", "num_local_experts", "num_experts"))
    count = next((number for number in experts if number is not None), None)
    top_k = getattr(config, "num_experts_per_tok", 1)
    if count is not None and not 1 <= top_k <= count:
        raise RecipeError(f"num_experts_per_tok is {top_k}, expected 1 to {count}, the number of experts")


def model_inputs(model: nn.Module, token_BN: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return keyword arguments of one forward pass with its loss.

    A decoder predicts each next token; an encoder-decoder reads the first half of a sequence and predicts the second.
    """
    config: Any = model.config
    if not config.is_encoder_decoder:
        return {"input_ids": token_BN, "labels": token_BN}
    half = token_BN.shape[1] // 2
    return {"input_ids": token_BN[:, :half], "labels": token_BN[:, half:].contiguous()}


def score_function(recipe: Recipe) -> str:
    """Return `softmax` or `sigmoid`: how the recipe's router turns logits into scores."""
    return "sigmoid" if recipe.model.family in _SIGMOID else "softmax"


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimizer, with weight decay on matrices but not on vectors (norms, biases)."""
    import torch

    table = recipe.optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": table.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if table.kind == "SGD":
        return torch.optim.SGD(groups, lr=table.lr, momentum=table.beta1)
    adam: dict[str, Any] = {"lr": table.lr, "betas": (table.beta1, table.beta2), "eps": table.eps}
    if table.kind == "NAdam":
        return torch.optim.NAdam(groups, **adam, decoupled_weight_decay=True)
    return torch.optim.AdamW(groups, **adam)
