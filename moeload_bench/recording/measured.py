"""What a training loop measured in a step, as cells of the trace.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from moeload_bench.errors import RecordingError
from moeload_bench.traces.meta import wrong_field
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, Array, TraceMeta


def measured_cells(measured: Mapping[str, Any], layers: int, experts: int) -> dict[str, Array]:
    """Each measured value, tensors of any device included, in its column's dtype and shape.

    Raises `RecordingError` for a name that is no optional column and for a value that does not fit its column.
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


def checked_meta(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the metadata that somebody gave, before there is a step to go with them.

    Raises `RecordingError` for a field that the metadata does not have or that holds something else.
    """
    try:
        TraceMeta.model_validate({"recipe": "own", "layers": (), "experts": 1, **given}).canonical_json()
    except ValidationError as error:
        raise RecordingError(wrong_field(error)) from None
    except ValueError as error:
        raise RecordingError(f"metadata that JSON does not hold: {error}") from None
    return dict(given)
