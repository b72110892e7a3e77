"""Arrays by what they hold, as annotations name them, and as JSON has them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_AXES = re.compile(r"_[A-Z]+\d*$")


def json_value(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, NaN as None, names without the letters of their axes."""
    if isinstance(value, np.ndarray):
        return json_value(value.tolist())
    if hasattr(value, "_asdict"):
        return json_value(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_value({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {_AXES.sub("", name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
