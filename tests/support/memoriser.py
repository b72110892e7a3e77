"""A forecaster that holds the public test runs, as a file that could be submitted: what `verify` has to find."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import read_trace

HERE = Path(__file__).resolve().parent
HONEST, MEMORY = ((HERE / name).read_text(encoding="utf-8") for name in ("honest.py.txt", "memory.py.txt"))
"""The mean of the last steps, in one file; and what makes a memoriser of it, with the names in braces filled in."""
TARGET = "forecaster.py:Remembers"


def memoriser(paths: Mapping[str, Path], suite: Suite, *, every: int) -> str:
    """Return the code of `TARGET`, which holds the suite's test runs as means of ``every`` steps in eight bits."""
    shapes, parts, origins = [], [], []
    for entry in suite.traces:
        trace = read_trace(paths[entry.id])
        share_SLE = np.nan_to_num(trace.share_SLE()[: trace.steps - trace.steps % every])
        mean_SLE = share_SLE.reshape(-1, every, trace.num_layers, trace.num_experts).mean(axis=1)
        shapes.append(mean_SLE.shape)
        parts.append(np.round(255 * np.sqrt(mean_SLE)).astype(np.uint8).tobytes())
        origins.append([origin for origin, _ in entry.origins()])
    held = {
        "every": every,
        "shapes": shapes,
        "origins": json.dumps(origins, separators=(",", ":")),
        "memory": base64.b85encode(zlib.compress(b"".join(parts), 9)).decode(),
    }
    code = MEMORY
    for name, value in held.items():
        code = code.replace(f"{{{name}}}", str(value))
    return HONEST + code
