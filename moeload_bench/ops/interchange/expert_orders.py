"""The order of a checkpoint's experts that a placement file asks for: which expert gets each number.

Axis letter: R slots.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from moeload_bench.bounds import parse_json
from moeload_bench.errors import PlacementError
from moeload_bench.files import read_at_most
from moeload_bench.ops.interchange.placement_files import read_slots
from moeload_bench.placement.layouts import LINEAR, layout
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.schema import read_json

MAX_PLAN_BYTES = 16 << 20
Number = Annotated[int, Field(strict=True, ge=0, lt=10**6)]


class _PlanLayer(BaseModel):
    layer: Number
    devices: list[list[Number]]


class _Plan(BaseModel):
    placement_version: Literal[1]
    layers: list[_PlanLayer] = Field(min_length=1)


def read_orders(path: Path, current: str = LINEAR, layers: Sequence[int] | None = None) -> dict[int, tuple[int, ...]]:
    """Return for each layer of a placement file which expert gets each number.

    ``current``: how the engine places experts by number, one of `layouts.LAYOUTS`; so it places the new numbers as the
    plan says. ``layers``: the MoE layers of the model, by which files of engines are read (`read_slots`); without them
    only a plan (format `json`) is. Raise `PlacementError` for another file, one in which a layer does not hold each
    expert once, and one that names no devices where ``current`` needs them.
    """
    if layers is not None and not _is_plan(path):
        if current != LINEAR:
            raise PlacementError(
                f"{path}: it does not say which device holds a slot, which --current {current} needs; expected a plan, "
                "as `plan --write FILE --format json` writes it"
            )
        slots_LR = read_slots(path, layers).tolist()
        return {n: _once_each(slots, f"{path}: layer {n}") for n, slots in zip(layers, slots_LR, strict=True)}
    orders: dict[int, tuple[int, ...]] = {}
    content = "a plan, as `plan --write FILE --format json` writes it"
    for entry in read_json(_Plan, path, MAX_PLAN_BYTES, content, PlacementError).layers:
        if entry.layer in orders:
            raise PlacementError(f"{path}: layer {entry.layer} is there twice, expected each layer's number once")
        slots = [expert for device in entry.devices for expert in device]
        slots = list(_once_each(slots, f"{path}: layer {entry.layer}"))
        number_R = layout(current, len(slots), ClusterShape("plan", len(entry.devices), len(slots)))
        orders[entry.layer] = tuple(expert for _, expert in sorted(zip(number_R.tolist(), slots, strict=True)))
    return orders


def _is_plan(path: Path) -> bool:
    """Return whether a file is one of this project's plans, which may leave layers out, rather than an engine's."""
    with contextlib.suppress(OSError, ValueError):
        record = parse_json(read_at_most(path, MAX_PLAN_BYTES))
        return isinstance(record, dict) and "placement_version" in record
    return False


def _once_each(slots: Sequence[int], where: str) -> tuple[int, ...]:
    """Return the order if it holds 0 .. E-1 once each; else raise and name the order without replicas."""
    replicas = Counter(slots)  # in the order of first replicas
    if not slots or max(replicas) >= len(replicas):
        raise PlacementError(f"{where}: got experts {sorted(replicas)[:8]}..., expected each of 0 to E - 1")
    expert, most = replicas.most_common(1)[0]
    if most > 1:
        raise PlacementError(
            f"{where}: {len(slots)} slots for {len(replicas)} experts, expert {expert} is there {most} times; a "
            f"checkpoint holds each once: plan with --slots {len(replicas)}. The order of the first replicas is "
            f"{','.join(map(str, replicas))[:2000]}"
        )
    return tuple(slots)
