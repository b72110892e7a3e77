"""What comes after a trace: one forecast made from the whole trace, as window means that a planner reads.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import PlacementError
from moeload_bench.files import write_whole
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import parse_target
from moeload_bench.traces.store import data_sha256
from moeload_bench.traces.trace import Trace

MAX_LAYERS = 10_000
LEVEL_ROWS = 100
"""Rows at the end of a trace; their mean total load turns shares into tokens."""


@dataclass(frozen=True, eq=False)
class Ahead:
    """The forecast for the steps after a trace.

    ``share_LE`` sums to 1 in each layer; ``weight_LE`` is the same in routed tokens per step; ``about`` says what it
    was made from.
    """

    share_LE: FloatArray
    weight_LE: FloatArray
    layers: tuple[int, ...]
    about: dict[str, Any]


def forecast_ahead(trace: Trace, forecaster: str, horizon: int, *, level: Level = "process", seed: int = 0) -> Ahead:
    """Return mean shares of the ``horizon`` steps after the last one, forecast from every step of the trace.

    The forecaster gets no plan for these steps (learning rate, data stage), because the trace does not hold one. Raise
    `PlacementError` for a horizon that is not a multiple of the stride, and whatever the forecaster's process raises.
    """
    stride = trace.meta.stride
    if horizon < 1 or horizon % stride:
        raise PlacementError(f"--horizon is {horizon}, expected a multiple of the trace's stride, {stride}")
    origin = int(trace.step_S[-1]) + stride
    with follow(parse_target(forecaster), trace, seed=seed, level=level) as feed:
        share_LE = feed.at(origin, (horizon,)).window_means((horizon,))[0]
    total_L = trace.load_SLE[-LEVEL_ROWS:].sum(axis=2).mean(axis=0)
    about = {
        "made_by": made_by(),
        "trace": trace.id,
        "data_sha256": data_sha256(trace),
        "forecaster": forecaster,
        "seed": seed,
        "first_step": origin,
        "horizon": horizon,
        "layers": [layer.model_dump(mode="json") for layer in trace.meta.layers],
        "experts": trace.num_experts,
    }
    return Ahead(share_LE, share_LE * total_L[:, None], tuple(m.index for m in trace.meta.layers), about)


def made_by() -> str:
    """Return this package's name and version."""
    return f"moeload-bench {version('moeload-bench')}"


def write_forecast(
    ahead: Ahead, path: Path, kind: str, model_layers: int | None = None, first_layer: int | None = None
) -> Path:
    """Write ``weight`` [L, E] (and ``share``) as `npz` or `json`, or as sglang's `logical_count` (`sglang`).

    sglang takes the counts by `--init-expert-location` and makes its own plan from them. They are whole tokens of the
    window, in a row for each of ``model_layers``, as in `rows_of_model`. sglang would ignore further keys, so the
    record of what they were made from is a separate file next to it.
    """
    if kind == "json":
        record = {"weight": ahead.weight_LE.tolist(), "share": ahead.share_LE.tolist(), "about": ahead.about}
        write_whole(path, json.dumps(record, indent=1).encode())
        return path
    layers, number = rows_of_model(ahead.layers, model_layers, first_layer)
    if kind == "npz":
        buffer = io.BytesIO()
        np.savez(buffer, weight=ahead.weight_LE, share=ahead.share_LE, layer=np.array(layers))
        write_whole(path, buffer.getvalue())
    else:
        check_sglang_name(path, (".json",))
        rows = np.ones((number, ahead.weight_LE.shape[1]), dtype=np.int64)  # dense layers have ones, an even load
        rows[list(layers)] = np.rint(ahead.weight_LE * ahead.about["horizon"])
        write_whole(path, json.dumps({"logical_count": rows.tolist()}).encode())
    put_about(path, ahead.about)
    return path


def rows_of_model(
    layers: tuple[int, ...], model_layers: int | None, first_layer: int | None = None
) -> tuple[tuple[int, ...], int]:
    """Return the MoE layers' numbers in the model, and the number of its layers: as given, else up to the last of them.

    ``first_layer`` is the number of the first MoE layer, for a trace that numbers them from 0. Raise `PlacementError`
    for too few layers, for MoE layers that share an index, and for a trace that numbers its layers from 0 in a model
    that has more: which of them are dense is not known then.
    """
    counted_only = layers == tuple(range(len(layers)))
    if first_layer is not None:
        if not counted_only:
            raise PlacementError(f"--first-layer is {first_layer}, but the trace has its layers' numbers: {layers}")
        layers = tuple(first_layer + m for m in layers)
    elif counted_only and model_layers is not None and model_layers > len(layers):
        raise PlacementError(
            f"the trace numbers its {len(layers)} MoE layers from 0 and the model has {model_layers} layers: expected "
            "--first-layer, the number of the first MoE layer in the model (0 if dense layers come after them)"
        )
    least = max(layers) + 1
    if max(least, model_layers or 0) > MAX_LAYERS:
        raise PlacementError(f"a model of {max(least, model_layers or 0)} layers, at most {MAX_LAYERS} are written")
    if model_layers is not None and model_layers < least:
        raise PlacementError(
            f"--model-layers is {model_layers}, the trace has layer {least - 1}; expected {least} or more"
        )
    if len(set(layers)) < len(layers):
        raise PlacementError("two MoE layers stand in one block (attention and mlp), which no engine's file can hold")
    return layers, model_layers or least


def check_sglang_name(path: Path, endings: tuple[str, ...] = (".json", ".pt")) -> None:
    """Raise `PlacementError` for a file name that sglang would not read."""
    if path.suffix not in endings:
        raise PlacementError(f"{path}: sglang goes by the name, expected a name that ends in {' or '.join(endings)}")


def put_about(path: Path, about: dict[str, Any]) -> None:
    """Write `FILE.about.json`: what a file was made from, for formats that have no room for it."""
    write_whole(path.with_name(path.name + ".about.json"), json.dumps(about, indent=1).encode())
