"""The layout in force: engines hold experts by number, and savings are measured from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from moeload_bench.errors import MoeloadError, NotFoundError, PlacementError
from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.interchange.expert_orders import read_orders
from moeload_bench.ops.interchange.placement_files import read_slots
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.placements import placement_of, write_placement
from moeload_bench.ops.planning.planner import Planner, Settings, decided, plans_of
from moeload_bench.placement.cost import device_weights
from moeload_bench.placement.layouts import LAYOUTS, LINEAR, ROUND_ROBIN, checked_layout, layout
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.trace import Trace
from tests.cli.test_cli import moeload
from tests.conftest import TRACES, needs_traces, synthetic_trace

COST = CostModel(step_ms=100, expert_mb=200, bandwidth_gb_s=25)
TWELVE = (
    *("qwen3moe-16e-aux0", "qwen3moe-16e-shift", "qwen3moe-16e-restart", "qwen3moe-16e-drift", "ladder-8m"),
    *("deepseekv3-32e-lossfree", "deepseekv3-16e-shift", "deepseekv3-16e-quantile", "granitemoe-16e-ramp"),
    *("mixtral-8e-pooled", "olmoe-64e-top8", "qwen3moe-8e-long"),
)


def dealt_trace(steps: int = 1500, experts: int = 16) -> Trace:
    """Every fourth expert has twice the load: balanced on 4 devices by number, and all on one device if dealt round."""
    rng = np.random.default_rng(0)
    share_E = np.where(np.arange(experts) % 4 == 0, 2.0, 1.0)
    load_SLE = rng.multinomial(8192, share_E / share_E.sum(), size=(steps, 2))
    return Trace.from_arrays(load_SLE, 4096, 2, recipe="dealt")


def replayed(slot_LR: Any, share_SLE: Any, devices: int) -> Any:
    """Max / mean device load [S, L], by loops over devices and slots."""
    S, L, E = share_SLE.shape
    per_device = slot_LR.shape[1] // devices
    load_SLD = np.zeros((S, L, devices))
    for m in range(L):
        count_E = np.bincount(slot_LR[m], minlength=E)
        for slot, expert in enumerate(slot_LR[m]):
            load_SLD[:, m, slot // per_device] += share_SLE[:, m, expert] / count_E[expert]
    return load_SLD.max(axis=2) * devices


@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 5))
def test_every_layout_holds_every_expert_and_devices_own_consecutive_slots(devices: int, each: int, spare: int) -> None:
    """linear: slot s holds expert s mod E. round_robin: expert e is on device e mod D. Spare slots begin again."""
    experts, per_device = devices * each, each + spare
    shape = ClusterShape("any", devices, devices * per_device)
    linear, dealt = (layout(name, experts, shape) for name in LAYOUTS)
    assert linear.tolist() == [slot % experts for slot in range(shape.slots)]
    for name in LAYOUTS:
        checked_layout(layout(name, experts, shape)[None], experts)
    for device in range(devices):
        assert dealt[device * per_device : device * per_device + each].tolist() == list(range(device, experts, devices))


def test_another_layout_is_refused() -> None:
    """By name, with those that there are; a file by its slots and its layers."""
    shape = ClusterShape("two", 2, 4)
    with pytest.raises(NotFoundError, match="unknown layout 'even'; there is: linear, round_robin"):
        layout("even", 4, shape)
    with pytest.raises(NotFoundError, match=r"unknown layout 'nowhere\.json'; there is: FILE, linear, round_robin"):
        Cluster(current="nowhere.json").layout_LR([0], 4, shape)


def test_a_trace_that_is_balanced_by_number_saves_nothing() -> None:
    """`plan` says so, and nothing that it advises could pay; dealt round, the same trace has a device with 1.6 times
    the mean load."""
    decision = decided(dealt_trace(), Settings("sw_avg", cluster=Cluster(ClusterShape("four", 4, 16), COST)))[1]
    assert decision.start == pytest.approx(1.02, abs=0.01)
    assert decision.verdict == "leave"
    assert abs(decision.take.saved_percent) < 0.1
    assert (
        "leave the experts where they are (max/mean over steps 0 to 1,499: 1.02 (linear layout))" in decision.lines()[0]
    )
    round_robin = Cluster(ClusterShape("four", 4, 16), COST, current=ROUND_ROBIN)
    other = decided(dealt_trace(), Settings("sw_avg", cluster=round_robin))[1]
    assert other.start == pytest.approx(1.6, abs=0.02)
    assert other.take.saved_percent > 14


def test_inspect_plan_and_numpy_give_one_imbalance() -> None:
    """For one layout and one window: the rows that `inspect` looks at are all that `plan` has seen."""
    trace, L, E, size = synthetic_trace(200), 2, 4, 2
    shape = ClusterShape("all", size, E)
    linear_LR = np.tile(layout(LINEAR, E, shape), (L, 1))
    by_numpy = replayed(linear_LR, trace.share_SLE(), size).mean(axis=0)
    ranks = inspect_trace(trace).ranks
    by_inspect = ranks.busiest_KL[list(ranks.size_K).index(size)]
    by_plan = decided(trace, Settings("sw_avg", cluster=Cluster(shape, COST)))[1].start
    assert by_inspect == pytest.approx(by_numpy)
    assert by_plan == pytest.approx(by_numpy.mean())


@pytest.mark.slow
@needs_traces
@pytest.mark.parametrize("restart", [False, True], ids=["live", "restart"])
@pytest.mark.parametrize("recipe", TWELVE)
def test_numpy_s_replay_from_the_linear_layout_gives_the_numbers_of_plan(recipe: str, restart: bool) -> None:
    """Imbalance before and with the plans, and what is saved net of the moves: each candidate's plans as they stood,
    costed row by row."""
    trace = load_trace(min((TRACES / recipe / "test").glob("*.parquet")))
    cluster = Cluster(None, {"step_ms": 100, "expert_fraction": 0.5} if restart else COST, 0.1 if restart else None)
    settings = Settings("sw_avg", cluster=cluster, intervals=(100,), steps_left=trace.steps)
    plans: list[tuple[int, Any]] = []
    planner: Planner | None = None
    for planner, planned in plans_of(trace, settings):
        plans.append((planned.step, planner.race.tried[0].current_LR))
        decision = planned.decision
    assert planner is not None
    share_SLE = trace.share_SLE()[: decision.step]
    L, E = share_SLE.shape[1:]
    devices = planner.shape.devices
    linear_LR = np.tile(np.arange(E), (L, 1))
    before_SL = replayed(linear_LR, share_SLE, devices)
    with_SL, standing_LR, first = np.zeros_like(before_SL), linear_LR, 0
    for step, slot_LR in plans:
        with_SL[first:step] = replayed(standing_LR, share_SLE[first:step], devices)
        standing_LR, first = slot_LR, step
    take, cost = decision.take, planner.costs().model
    assert decision.start == pytest.approx(np.nanmean(before_SL))
    assert take.imbalance == pytest.approx(np.nanmean(with_SL))
    gain = 100 * 0.5 * (1 - np.nanmean(with_SL) / np.nanmean(before_SL))
    assert take.gain_percent == pytest.approx(gain)
    before = [linear_LR, *(slot_LR for _, slot_LR in plans)]
    moves = [
        (step, most_received(old_LR, new_LR, devices)) for (step, new_LR), old_LR in zip(plans, before, strict=False)
    ]
    price_ms = charged_ms([move for move in moves if move[1]], decision.step, trace.steps, cost)
    assert take.saved_percent == pytest.approx(gain - price_ms / decision.step)


def most_received(old_LR: Any, new_LR: Any, devices: int) -> int:
    """The most experts, over all layers, that one device gets and did not have."""
    held = [each_LR.reshape(len(old_LR), devices, -1).tolist() for each_LR in (old_LR, new_LR)]
    return max(sum(len(set(new[d]) - set(old[d])) for old, new in zip(*held, strict=True)) for d in range(devices))


def charged_ms(moves: list[tuple[int, int]], end: int, steps_left: int, cost: CostModel) -> float:
    """What moves cost until the end: each evenly over as many steps as the plan before it served (the first over the
    steps left, never more than those), what is left of it when the next one comes at once."""
    total = 0.0
    for number, (step, received) in enumerate(moves):
        span = steps_left if number == 0 else min(steps_left, max(200, step - moves[number - 1][0]))
        part = 1.0 if number + 1 < len(moves) else min(1.0, (end - step) / span)
        total += part * float(cost.price_ms(1, received))
    return total


@pytest.mark.parametrize("kind", ["json", "eplb", "sglang", "vllm", "vllm-ascend", "megatron"])
def test_what_plan_writes_is_read_as_the_layout_in_force(kind: str, tmp_path: Path) -> None:
    """Every format in JSON; a file with a row for each layer of the model is indexed by the layers' numbers."""
    shape = ClusterShape("two", 2, 8)
    slots_LR = np.array([[3, 1, 2, 0, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]])
    placement = placement_of(slots_LR, 8, shape, (1, 3), {}, model_layers=4)
    path = tmp_path / "placement.json"
    write_placement(placement, path, kind)
    assert read_slots(path, [1, 3]).tolist() == slots_LR.tolist()
    cluster = Cluster(shape, current=str(path))
    assert cluster.layout_LR([1, 3], 8, shape).tolist() == slots_LR.tolist()
    with pytest.raises(PlacementError, match="8 slots in a layer, expected 10: say --slots 8"):
        cluster.layout_LR([1, 3], 8, ClusterShape("two", 2, 10))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[[0, 1], [0]]", '[["a"]]', "[[0.5, 1]]", '{"layers": 5}', '{"layer_list": [{}]}',
             '{"experts_of_rank": {"x": [[0]]}}', "[" * 5000, '{"physical_to_logical_map": [[true, false]]}', "\xff"]
)  # fmt: skip
def test_a_file_that_is_no_placement_is_refused(text: str, tmp_path: Path) -> None:
    """In one line that names the file and the formats, or what is wrong in it."""
    path = tmp_path / "p.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(MoeloadError, match=r"p\.json"):
        checked_layout(read_slots(path, [0, 1]), 2, str(path))


def test_a_permuted_checkpoint_fits_how_the_engine_places_numbers(tmp_path: Path) -> None:
    """Under either layout of the new numbers each device gets the experts that the plan gives it."""
    devices = [[3, 1], [0, 2]]
    (tmp_path / "plan.json").write_text(
        json.dumps({"placement_version": 1, "layers": [{"layer": 0, "devices": devices}], "about": {}})
    )
    shape = ClusterShape("two", 2, 4)
    for name in LAYOUTS:
        order = read_orders(tmp_path / "plan.json", name)[0]
        held = np.array(order)[layout(name, 4, shape)].reshape(2, 2)
        assert [sorted(each) for each in held.tolist()] == [sorted(each) for each in devices]


def test_plan_names_the_layout_and_what_spare_slots_cost(tmp_path: Path) -> None:
    """Terminal, JSON and written file; slots default to the experts, or to the next multiple of the devices."""
    from moeload_bench.traces.store import write_trace

    path = write_trace(synthetic_trace(1300), tmp_path / "own.parquet")
    words = ("plan", str(path), "--level", "none", "--expert-mb", "10", "--forecaster", "sw_avg")
    said = " ".join(moeload(*words, "--devices", "2", "--current", "round_robin").stdout.split())
    assert "round_robin layout" in said
    assert "2 devices with 4 slots, " in said
    three = " ".join(moeload(*words, "--devices", "3").stdout.split())
    assert "3 devices with 6 slots (the spare ones take 13 MB more on a device)" in three
    out = tmp_path / "plan.json"
    shown = moeload(*words, "--devices", "2", "--json", "--write", str(out))
    decision = json.loads(shown.stdout)["decision"]
    assert (decision["layout"], decision["first_step"]) == ("linear", 0)
    assert json.loads(out.read_text())["about"]["current"] == "linear"
    weights = device_weights(np.arange(4), 4, 2)
    share_SLE = synthetic_trace(1300).share_SLE()[: decision["step"]]
    device_SLD = share_SLE @ weights.T
    assert decision["imbalance"] == pytest.approx(2 * device_SLD.max(axis=2).mean())
