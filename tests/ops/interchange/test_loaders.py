"""Placement files go through the functions of the engines that load them, taken from their published packages."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import PlacementError
from moeload_bench.ops.interchange.forecast_files import Ahead, write_forecast
from moeload_bench.ops.planning.placements import Placement, placement_of, write_placement
from moeload_bench.placement.cost import step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from tests.conftest import need
from tests.support.foreign.loaders import functions

pytestmark = pytest.mark.loaders
torch = need("torch", "pip install '.[torch]'")
DEVICES, SLOTS, EXPERTS, LAYERS, MODEL = 2, 6, 4, (1, 3), 5
LOAD = np.array([[9.0, 1, 1, 1], [1, 5, 1, 5]])


@pytest.fixture
def placed() -> Placement:
    """Layers 1 and 3 of a model of five; some experts are there twice, on different devices."""
    shape = ClusterShape("test", DEVICES, SLOTS)
    slot_LR = np.array([[0, 1, 2, 0, 3, 1], [3, 1, 0, 2, 1, 3]])
    return placement_of(slot_LR, EXPERTS, shape, LAYERS, {}, MODEL)


class OurModel:
    """What sglang asks the class of a model for."""

    @staticmethod
    def from_model_config(config: Any) -> Any:
        return SimpleNamespace(num_layers=MODEL, num_logical_experts=EXPERTS, num_groups=None)


def sglang_location(path: Path) -> Any:
    """`ExpertLocationMetadata` as a server with --init-expert-location makes it."""
    wanted = (
        "ExpertLocationMetadata", "_compute_logical_to_all_physical_map", "_pad_nested_array",
        "compute_initial_expert_location_metadata",
    )  # fmt: skip
    moe = SimpleNamespace(
        init_expert_location=str(path),
        ep_num_redundant_experts=SLOTS - EXPERTS,
        ep_dispatch_algorithm=None,
        moe_a2a_backend="none",
        ep_join_mode=None,
        eplb_algorithm="deepseek",
    )
    parallel = SimpleNamespace(ep_size=DEVICES, nnodes=1, elastic_ep_initial_size=None)
    stubs = {
        "torch": torch,
        "F": torch.nn.functional,
        "json": json,
        "Path": Path,
        "dataclass": dataclass,
        "logger": SimpleNamespace(info=lambda *words: None),
        "ModelConfigForExpertLocation": OurModel,
        "get_exec": lambda: SimpleNamespace(moe=moe),
        "get_parallel": lambda: parallel,
        "get_device": lambda: SimpleNamespace(device="cpu"),
    }
    made = functions("sglang", wanted, stubs)
    return made["compute_initial_expert_location_metadata"](SimpleNamespace(), moe_ep_rank=0)


def eplb_rebalance() -> Any:
    """EPLB's `rebalance_experts`, as sglang ships it."""
    wanted = ("balanced_packing", "replicate_experts", "rebalance_experts_hierarchical", "rebalance_experts")
    return functions("eplb", wanted, {"torch": torch})["rebalance_experts"]


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_sglang_loads_the_plan(ending: str, placed: Placement, tmp_path: Path) -> None:
    """Its maps of our layers are the plan's, those of dense layers hold the experts in order."""
    found = sglang_location(write_placement(placed, tmp_path / f"p.{ending}", "sglang"))
    assert found.physical_to_logical_map.shape == (MODEL, SLOTS)
    np.testing.assert_array_equal(found.physical_to_logical_map[list(LAYERS)], placed.slot_expert_LR)
    np.testing.assert_array_equal(found.physical_to_logical_map[0], np.arange(SLOTS) % EXPERTS)
    np.testing.assert_array_equal(found.logical_to_all_physical_map_num_valid[list(LAYERS)], placed.count_LE)
    most = placed.slots_LEX.shape[2]
    np.testing.assert_array_equal(found.logical_to_all_physical_map[list(LAYERS)][..., :most], placed.slots_LEX)


def test_sglang_plans_from_the_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`export forecast --format sglang`: its planner gets our loads, at the layers' indices in the model."""
    rebalance, seen = eplb_rebalance(), []

    def planned(tokens_per_expert: Any, **given: Any) -> Any:
        seen.append(tokens_per_expert.sum(dim=0))
        return rebalance(seen[-1], given["num_physical_experts"], 1, 1, DEVICES, False)

    engine, inner = ModuleType("sglang.srt.eplb"), ModuleType("sglang.srt.eplb.eplb_algorithms")
    engine.eplb_algorithms = inner  # type: ignore[attr-defined]
    inner.rebalance_experts, inner.compute_algorithm = planned, lambda **given: None  # type: ignore[attr-defined]
    for module in (ModuleType("sglang"), ModuleType("sglang.srt"), engine, inner):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    ahead = Ahead(share_LE=LOAD / LOAD.sum(axis=1, keepdims=True), weight_LE=LOAD, layers=LAYERS, about={"horizon": 1})
    path = tmp_path / "forecast.json"
    write_forecast(ahead, path, "sglang", model_layers=MODEL)
    found = sglang_location(path)
    np.testing.assert_allclose(seen[0][list(LAYERS)] / seen[0][list(LAYERS)].sum(1, keepdim=True), ahead.share_LE)
    assert found.physical_to_logical_map.shape == (MODEL, SLOTS)


def test_vllm_takes_the_map(placed: Placement, tmp_path: Path) -> None:
    """`compute_logical_maps`, by which vLLM makes its maps from such rows, finds the plan's slots and replicas."""
    rows = json.loads(write_placement(placed, tmp_path / "p.json", "vllm").read_text())
    take = functions("vllm", ("compute_logical_maps",), {"torch": torch})["compute_logical_maps"]
    slots_LEX, count_LE = take(torch.tensor(rows), EXPERTS)
    np.testing.assert_array_equal(slots_LEX, placed.slots_LEX)
    np.testing.assert_array_equal(count_LE, placed.count_LE)


def ascend() -> dict[str, Any]:
    """vllm-ascend's reader of the file, and what it makes of it."""
    stubs = {"torch": torch, "json": json, "np": np, "defaultdict": defaultdict, "logger": SimpleNamespace()}
    return functions("vllm-ascend", ("expert_file_to_tensor", "generate_log2phy_map"), stubs)


def ascend_slots(made: dict[str, Any], device_RX: Any, rank: int) -> Any:
    """The slot to which a rank sends each expert, as `init_eplb_config` derives it."""
    maps = []
    for experts in device_RX.long():
        local = torch.full((EXPERTS,), -1, dtype=torch.int32)
        local[experts] = torch.arange(len(experts), dtype=torch.int32)
        maps.append(local)
    return made["generate_log2phy_map"](maps, rank)


def test_vllm_ascend_loads_the_plan(placed: Placement, tmp_path: Path) -> None:
    """Every MoE layer's devices, and a slot for each expert that holds it."""
    made, path = ascend(), write_placement(placed, tmp_path / "p.json", "vllm-ascend")
    for m, slot_R in enumerate(placed.slot_expert_LR):
        devices, slots = made["expert_file_to_tensor"](str(path), m)
        np.testing.assert_array_equal(devices, slot_R.reshape(DEVICES, -1))
        assert slots == SLOTS
        for rank in range(DEVICES):
            np.testing.assert_array_equal(slot_R[ascend_slots(made, devices, rank)], np.arange(EXPERTS))


def test_a_plan_that_vllm_ascend_would_misread_is_refused(tmp_path: Path) -> None:
    """An expert twice on a device: its loader counts it once, and sends tokens to slots of other experts."""
    twice_R = np.array([0, 0, 1, 2, 3, 1])
    slot_E = ascend_slots(ascend(), torch.from_numpy(twice_R.reshape(DEVICES, -1)), 0)
    assert (twice_R[slot_E] != np.arange(EXPERTS)).any()
    placed = placement_of(twice_R[None], EXPERTS, ClusterShape("test", DEVICES, SLOTS), (0,), {})
    with pytest.raises(PlacementError, match="layer 0 has expert 0 twice on device 0"):
        write_placement(placed, tmp_path / "p.json", "vllm-ascend")


def test_eplbs_own_function_agrees(tmp_path: Path) -> None:
    """On our `weight` its replica counts are ours, and no device of ours carries 1 % more than its most loaded one."""
    load = np.random.default_rng(0).dirichlet(np.full(64, 0.5), size=16)
    shape, layers = ClusterShape("test", 8, 72), tuple(range(16))
    ours = placement_of(plan(load, shape), 64, shape, layers, {})
    path = write_placement(ours, tmp_path / "p.json", "eplb")
    slots, inverse, count = eplb_rebalance()(torch.from_numpy(load), 72, 1, 1, 8, False)
    record = json.loads(path.read_text())
    assert count.tolist() == record["expert_count"]
    assert list(inverse.shape) == list(np.shape(record["logical_to_physical_map"]))
    theirs_L, ours_L = (step_imbalance(np.asarray(one), load[None], 8) for one in (slots, ours.slot_expert_LR))
    assert (ours_L <= 1.01 * theirs_L).all()
