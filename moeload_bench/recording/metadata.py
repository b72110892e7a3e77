"""The metadata of a recorded trace, and what a training loop measures in a step, as cells of the trace.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from moeload_bench.arrays import Array
from moeload_bench.environment import package_versions, processor_name
from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router
from moeload_bench.traces.meta import wrong_field
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, LayerMeta, TraceMeta

_PACKAGES = ("moeload-bench", "torch", "transformers", "accelerate", "tokenizers", "numpy")


def layer_metas(
    routers: Sequence[Router], experts: int, top_k_L: Sequence[int | None], offset: int = 0
) -> tuple[LayerMeta, ...]:
    """Return one record per router; ``offset`` is added to the numbers of their blocks."""
    return tuple(
        LayerMeta.model_validate(
            {"index": r.block + offset, "stack": r.stack, "kind": r.kind, "experts": experts, "top_k": k}
        )
        for r, k in zip(routers, top_k_L, strict=True)
    )


def recorded_metadata(
    model: Any, routers: Sequence[Router], experts: int, top_k_L: Sequence[int | None], offset: int
) -> dict[str, Any]:
    """Return what model and machine say of a recording, as fields of the metadata."""
    config = getattr(model, "config", None)
    return {
        "recipe": "own",
        "layers": layer_metas(routers, experts, top_k_L, offset),
        "experts": experts,
        "count_semantics": "pre_drop",
        "gate": type(routers[0].module).__name__,
        "family": getattr(config, "model_type", type(model).__name__),
        "config": _config_payload(config),
        "versions": recorded_versions(),
        "hardware": hardware(),
        **_balancing(config),
    }


def recorded_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers of a run."""
    return {"python": platform.python_version(), **package_versions(_PACKAGES)}


def hardware() -> dict[str, Any]:
    """Return machine, processor and accelerator, without names of hosts or users."""
    facts: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cpu": processor_name()}
    facts["cpu_count"] = os.cpu_count()
    facts["threads"] = torch.get_num_threads()
    facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _balancing(config: Any) -> dict[str, Any]:
    """Return the auxiliary loss that a transformers model adds to its own loss; empty if that is not known.

    transformers takes its means over all layers together.
    """
    coefficient = getattr(config, "router_aux_loss_coef", None)
    if not (getattr(config, "output_router_logits", False) and isinstance(coefficient, float) and coefficient > 0):
        return {}
    return {"balancing": {"method": "aux_loss", "coefficient": coefficient, "scope": "pooled_over_layers"}}


def _config_payload(config: Any) -> dict[str, Any]:
    """Return a transformers configuration as plain JSON, without the defaults; {} for other models."""
    return dict(json.loads(config.to_json_string(use_diff=True))) if hasattr(config, "to_json_string") else {}


def measured_cells(measured: Mapping[str, Any], layers: int, experts: int) -> dict[str, Array]:
    """Return each measured value (also tensors on any device) in its column's dtype and shape.

    Raise `RecordingError` for a name that is not an optional column, and for a value that does not fit its column.
    """
    return {name: _cell(name, value, layers, experts) for name, value in measured.items()}


def _cell(name: str, value: Any, layers: int, experts: int) -> Array:
    if name not in OPTIONAL_COLUMNS:
        raise RecordingError(f"unknown column {name!r}; there is: {', '.join(OPTIONAL_COLUMNS)}")
    spec = OPTIONAL_COLUMNS[name]
    expected = tuple({"L": layers, "E": experts}[axis] for axis in spec.axes)
    plain = value.detach().cpu().tolist() if hasattr(value, "detach") else value  # numpy knows no bfloat16
    try:
        cell = np.array(plain, dtype=spec.dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise RecordingError(
            f"column {name}: got {_shown(value)}, expected {_kind(expected, spec.dtype)}: {error}"
        ) from None
    if cell.shape != expected and not (expected == () and cell.size == 1):
        raise RecordingError(f"column {name}: got shape {cell.shape}, expected {_kind(expected, spec.dtype)}")
    return cell.reshape(expected)


def _kind(shape: tuple[int, ...], dtype: str) -> str:
    return f"one {dtype}" if not shape else f"{dtype} of shape {shape}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"


def check_given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Check metadata fields that the user gave, before the first step is recorded, and return them.

    Raise `RecordingError` for a field that the metadata does not have or that holds something else.
    """
    try:
        required = {"recipe": "own", "layers": (), "experts": 1}
        TraceMeta.model_validate({**required, **fields}).canonical_json()
    except ValidationError as error:
        raise RecordingError(wrong_field(error)) from None
    except ValueError as error:
        raise RecordingError(f"metadata cannot be stored as JSON: {error}") from None
    return dict(fields)
