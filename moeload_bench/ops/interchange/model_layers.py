"""Which layers of a model are MoE layers, from its `config.json` as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from moeload_bench.bounds import parse_json
from moeload_bench.errors import TraceError, printable
from moeload_bench.files import read_at_most

MAX_LAYERS = 10_000
MAX_CONFIG = 16 << 20


class ModelLayers(NamedTuple):
    """The numbers of the MoE layers; ``predicting`` are those of multi-token prediction, behind the decoder's."""

    decoder: tuple[int, ...]
    predicting: tuple[int, ...]


def read_layers(path: Path) -> ModelLayers:
    """Return the MoE layers that a model's configuration names; raise `TraceError` for a file that is none."""
    try:
        config = parse_json(read_at_most(path, MAX_CONFIG))
        return layers_of(config.get("text_config", config))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = printable(str(error))[:200]
        raise TraceError(f"{printable(str(path))}: expected the config.json of a MoE model: {reason}") from None


def layers_of(config: dict[str, Any]) -> ModelLayers:
    """Return the MoE layers by the fields of DeepSeek, Qwen, GLM and Llama 4; without such fields, all layers."""
    count, first = _number(config, "num_hidden_layers", None), _number(config, "first_k_dense_replace", 0)
    steps = _number(config, "decoder_sparse_step", 1), _number(config, "moe_layer_freq", 1)
    dense, kinds = config.get("mlp_only_layers") or (), config.get("mlp_layer_types") or ["sparse"] * count
    decoder = config.get("moe_layers") or [
        m
        for m in range(first, count)
        if m not in dense and (m + 1) % steps[0] == 0 and m % steps[1] == 0 and kinds[m : m + 1] == ["sparse"]
    ]
    more = _number(config, "num_nextn_predict_layers", 0)
    if not decoder or not all(type(m) is int and 0 <= m < count for m in decoder):
        raise ValueError(f"its MoE layers are {decoder[:8]} of {count}")
    return ModelLayers(tuple(sorted(set(decoder))), tuple(range(count, count + more)))


def _number(config: dict[str, Any], name: str, default: int | None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or not (default != 0) <= value <= MAX_LAYERS:
        raise ValueError(f"{name} is {str(value)[:40]}, expected a whole number")
    return value
