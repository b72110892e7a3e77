"""Read the slots of a placement file: what `plan --write` makes, EPLB's, sglang's and vLLM's maps.

Axis letters: L MoE layers, R replica slots.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.bounds import parse_json
from moeload_bench.errors import PlacementError, first_ten
from moeload_bench.files import read_at_most

MAX_PLAN_BYTES = 64 << 20
FORMS = "json, eplb, sglang, vllm, vllm-ascend or megatron as `plan --write FILE.json --format` writes them"


def read_slots(path: Path, layers: Sequence[int]) -> IntArray:
    """Return the expert in each slot [L, R] of the MoE layers with these numbers in the model.

    A file with a row for each MoE layer has them in order; one with a row for each layer of the model is indexed by the
    layers' numbers. Raise `PlacementError` for a file of another form, and for one that lacks a layer.
    """
    try:
        record = parse_json(read_at_most(path, MAX_PLAN_BYTES))
        rows = _rows(record)
    except OSError as error:
        raise PlacementError(f"{path}: {error.strerror}; expected a placement: {FORMS}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PlacementError(f"{path}: not a placement, expected {FORMS}") from None
    if isinstance(rows, dict):
        chosen = _numbered(rows, layers, path)
    elif len(rows) == len(layers):
        chosen = rows
    else:
        chosen = _numbered(dict(enumerate(rows)), layers, path)
    lengths = {len(slots) for slots in chosen}
    if len(lengths) != 1 or not all(type(expert) is int for slots in chosen for expert in slots):
        raise PlacementError(
            f"{path}: layers of {first_ten(sorted(lengths))} slots, expected numbers of experts, as many in each"
        )
    return np.array(chosen, dtype=np.int64)


def _numbered(rows: dict[int, list[int]], layers: Sequence[int], path: Path) -> list[list[int]]:
    """Return the rows of these layers; raise `PlacementError` for one that is not there."""
    missing = [layer for layer in layers if layer not in rows]
    if missing:
        there = first_ten(sorted(rows))
        raise PlacementError(f"{path}: no layer {missing[0]}, expected layers {first_ten(layers)}; there is: {there}")
    return [rows[layer] for layer in layers]


def _rows(record: Any) -> dict[int, list[int]] | list[list[int]]:
    """Return the slots of each layer, by its number in the model or in order; raise for a record of no known form."""
    if isinstance(record, list):
        return _lists(record)
    if "physical_to_logical_map" in record:
        return _lists(record["physical_to_logical_map"])
    if "layer_list" in record:
        return [_joined(device["device_expert"] for device in layer["device_list"]) for layer in record["layer_list"]]
    if "experts_of_rank" in record:
        return {int(layer): _joined(ranks) for layer, ranks in record["experts_of_rank"].items()}
    numbered = {int(layer["layer"]): _joined(layer["devices"]) for layer in record["layers"]}
    if len(numbered) != len(record["layers"]):
        raise ValueError("a layer is there twice")
    return numbered


def _lists(rows: Any) -> list[list[int]]:
    if not (isinstance(rows, list) and rows and all(isinstance(slots, list) for slots in rows)):
        raise ValueError("expected a list of lists")
    return rows


def _joined(devices: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(devices))
