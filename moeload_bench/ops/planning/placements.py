"""A plan as the file that an engine loads. What each was read from, and what was run: docs/guide/interchange.md.

Slots are numbered over all devices, device d owning slots d * R/D to (d + 1) * R/D - 1, as in every format here.

Axis letters: L MoE layers, E experts, R slots, D devices, N devices of all layers, C slots of one, X most
replicas of one expert.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import MissingExtraError, PlacementError, counted, not_found
from moeload_bench.files import write_whole
from moeload_bench.ops.interchange.forecast_files import Ahead, check_sglang_name, put_about, rows_of_model
from moeload_bench.placement.cost import replicas_moved
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import with_fewest_moves


@dataclass(frozen=True, eq=False)
class Placement:
    """Which expert sits in which slot of each MoE layer, and what the plan was made from.

    ``slot_expert_LR``; ``layers`` are the indices of the layers in the model; ``model_layers`` is their number with
    dense ones.
    """

    slot_expert_LR: IntArray
    experts: int
    shape: ClusterShape
    layers: tuple[int, ...]
    model_layers: int
    about: dict[str, Any]

    @property
    def other_rows(self) -> tuple[int, ...]:
        """Return the layers of the model that the plan is not for."""
        return tuple(sorted(set(range(self.model_layers)) - set(self.layers)))

    @property
    def count_LE(self) -> IntArray:
        """Return the number of replicas of each expert."""
        return np.stack([np.bincount(slot_R, minlength=self.experts) for slot_R in self.slot_expert_LR])

    @property
    def by_device_L(self) -> list[list[list[int]]]:
        """Return the experts of each device, by layer."""
        return self.slot_expert_LR.reshape(len(self.layers), self.shape.devices, -1).tolist()

    @property
    def slots_LEX(self) -> IntArray:
        """Return the slots of each expert, filled up with -1."""
        most = int(self.count_LE.max())
        slots_LEX = np.full((len(self.layers), self.experts, most), -1, dtype=np.int64)
        for m, e in np.ndindex(slots_LEX.shape[:2]):
            slots = np.flatnonzero(self.slot_expert_LR[m] == e)
            slots_LEX[m, e, : len(slots)] = slots
        return slots_LEX


def place_forecast(
    ahead: Ahead, shape: ClusterShape, model_layers: int | None = None, first_layer: int | None = None
) -> Placement:
    """Return the plan for a forecast. Raise `PlacementError` for a shape that does not fit, and as `placement_of`."""
    silent_L1 = ahead.weight_LE.sum(axis=1, keepdims=True) == 0
    slot_expert_LR = plan(np.where(silent_L1, ahead.share_LE, ahead.weight_LE), shape)
    experts = ahead.weight_LE.shape[1]
    return placement_of(slot_expert_LR, experts, shape, ahead.layers, ahead.about, model_layers, first_layer)


def placement_of(
    slot_expert_LR: IntArray,
    experts: int,
    shape: ClusterShape,
    layers: tuple[int, ...],
    about: Mapping[str, Any],
    model_layers: int | None = None,
    first_layer: int | None = None,
) -> Placement:
    """Return an existing plan as a `Placement`. Raise `PlacementError` as `rows_of_model`."""
    layers, number = rows_of_model(layers, model_layers, first_layer)
    whence = {**about, "shape": {k: v for k, v in asdict(shape).items() if k != "name"}}
    return Placement(slot_expert_LR, experts, shape, layers, number, whence)


def write_placement(placement: Placement, path: Path, kind: str) -> Path:
    """Write a plan in one of the FORMATS.

    `FILE.about.json` goes next to it and says what it was made from; `json` holds that itself. Raise `NotFoundError`
    for a name that is not one of the FORMATS, `PlacementError` for a plan that a format cannot hold.
    """
    check_format(kind)
    write_whole(path, FORMATS[kind](placement, path))
    if kind != "json":
        put_about(path, placement.about)
    return path


def check_format(kind: str) -> None:
    """Raise `NotFoundError` for a name that is not one of the FORMATS."""
    if kind not in FORMATS:
        raise not_found("placement format", kind, FORMATS)


def renumbered(placement: Placement, current_LR: IntArray, name: str) -> tuple[Placement, str]:
    """Return the plan, its devices and slots numbered so that the fewest replicas move from the layout in force, and in
    words what it changes. ``name``: what that layout is called.
    """
    after_LR = _slots_beside(current_LR, placement.slot_expert_LR, placement.shape)
    moved = counted(int(replicas_moved(current_LR, after_LR, placement.shape.devices).sum()), "replica")
    changed = counted(int((current_LR != after_LR).sum()), "slot")
    words = f"{moved} to move, {changed} different from the {name} layout"
    return replace(placement, slot_expert_LR=after_LR, about={**placement.about, "current": name}), words


def _slots_beside(before_LR: IntArray, after_LR: IntArray, shape: ClusterShape) -> IntArray:
    """Return the same plans, numbered so that the fewest replicas move, each expert that stays in its slot."""
    settled_LR = with_fewest_moves(before_LR, after_LR, shape)
    before_NC, after_NC = (each_LR.reshape(-1, shape.slots_per_device) for each_LR in (before_LR, settled_LR))
    out_NC = np.full_like(after_NC, -1)
    for before_C, after_C, out_C in zip(before_NC.tolist(), after_NC.tolist(), out_NC, strict=True):
        for slot, expert in enumerate(before_C):
            if expert in after_C:
                after_C.remove(expert)
                out_C[slot] = expert
        out_C[out_C < 0] = after_C
    return out_NC.reshape(after_LR.shape)


def _json(placement: Placement, path: Path) -> bytes:
    """Write this project's own format: per layer the experts of each device, and what the plan was made from."""
    by_layer = zip(placement.layers, placement.by_device_L, strict=True)
    layers = [{"layer": index, "devices": devices} for index, devices in by_layer]
    return json.dumps({"placement_version": 1, "layers": layers, "about": placement.about}, indent=1).encode()


def _eplb(placement: Placement, path: Path) -> bytes:
    """Write the three results of EPLB's `rebalance_experts`, one row per MoE layer."""
    maps = {
        "physical_to_logical_map": placement.slot_expert_LR,
        "logical_to_physical_map": placement.slots_LEX,
        "expert_count": placement.count_LE,
    }
    return _tensors(maps, path)


def _sglang(placement: Placement, path: Path) -> bytes:
    """Write sglang's file: one key, since sglang passes each on as an argument; dense layers have experts in order."""
    check_sglang_name(path)
    R = placement.shape.slots
    rows = np.tile(np.arange(R) % placement.experts, (placement.model_layers, 1))
    rows[list(placement.layers)] = placement.slot_expert_LR
    return _tensors({"physical_to_logical_map": rows}, path)


def _tensors(maps: Mapping[str, IntArray], path: Path) -> bytes:
    """Write JSON lists or, for a name that ends in .pt, tensors by `torch.save`."""
    if path.suffix != ".pt":
        return json.dumps({name: array.tolist() for name, array in maps.items()}).encode()
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtraError("torch", "torch", "writing a .pt file") from None
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array.copy()) for name, array in maps.items()}, buffer)
    return buffer.getvalue()


def _vllm(placement: Placement, path: Path) -> bytes:
    """Write one list of logical experts per MoE layer, by physical expert."""
    return json.dumps(placement.slot_expert_LR.tolist()).encode()


def _vllm_ascend(placement: Placement, path: Path) -> bytes:
    """Write the experts of each device, per MoE layer; none may be there twice: the engine keeps one slot for it."""
    layers = []
    for number, (index, devices) in enumerate(zip(placement.layers, placement.by_device_L, strict=True)):
        for d, held in enumerate(devices):
            twice = [expert for expert in sorted(held) if held.count(expert) > 1]
            if twice:
                raise PlacementError(
                    f"vllm-ascend keeps one slot of an expert on a device, layer {index} has expert {twice[0]} twice "
                    f"on device {d}; expected fewer --slots, or other --devices"
                )
        listed = [{"device_id": d, "device_expert": experts} for d, experts in enumerate(devices)]
        layers.append({"layer_id": number, "device_count": len(devices), "device_list": listed})
    return json.dumps({"moe_layer_count": len(layers), "layer_list": layers}, indent=1).encode()


def _tensorrt_llm(placement: Placement, path: Path) -> bytes:
    """Write the YAML of `moe_config.load_balancer`, keyed by the layer's index in the model."""
    lines = ["initial_global_assignments:"]
    for index, slot_R in zip(placement.layers, placement.slot_expert_LR, strict=True):
        lines.append(f"  {index}: [{', '.join(map(str, slot_R.tolist()))}]")
    lines += [f"num_slots: {placement.shape.slots}", "layer_updates_per_iter: 0", ""]
    return "\n".join(lines).encode()


def _megatron(placement: Placement, path: Path) -> bytes:
    """Write the experts of each expert-parallel rank, in their local order; Megatron-LM has no replicas."""
    shape = placement.shape
    if shape.slots != placement.experts:
        raise PlacementError(
            f"Megatron-LM holds each expert once, got {shape.slots} slots for {placement.experts} experts; expected "
            f"--slots {placement.experts}"
        )
    layers = dict(zip(map(str, placement.layers), placement.by_device_L, strict=True))
    return json.dumps({"expert_parallel_size": shape.devices, "experts_of_rank": layers}, indent=1).encode()


FORMATS: Mapping[str, Callable[[Placement, Path], bytes]] = {
    "json": _json,
    "eplb": _eplb,
    "sglang": _sglang,
    "vllm": _vllm,
    "vllm-ascend": _vllm_ascend,
    "tensorrt-llm": _tensorrt_llm,
    "megatron": _megatron,
}
