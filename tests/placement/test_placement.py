"""Planners: shapes, invariants, EPLB's behaviour, the exact optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.peers import PEER_SHAPES, balance, imbalance, loop_plan, random_loads, recorded_loads
from moeload_bench.errors import PlacementError
from moeload_bench.placement.cost import device_weights
from moeload_bench.placement.plans import ClusterShape, expert_capacity, headline_shapes, plan, replicate
from moeload_bench.placement.vllm_eplb import VllmEplb

README_LOAD = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
)
README_PLAN = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]

# Max / mean device load that the public EPLB code (deepseek-ai/EPLB, 2025) reaches on `_peer_loads`, run once.
PEER = {
    (8, 2, 10, 1, 1): [1.0014, 1.0007, 1.0003, 1.0049, 1.0118, 1.0139, 1.026, 1.0003, 1.0866, 1.0019, 1.0051, 1.0,
                       1.0009, 1.03, 1.0117, 1.0035, 1.0049, 1.0077, 1.0123, 1.0836, 1.0112, 1.0133, 1.0, 1.0049],
    (8, 4, 12, 1, 1): [1.074, 1.0759, 1.1134, 1.147, 1.0104, 1.1667, 1.1758, 1.0412, 1.0975, 1.0627, 1.1467, 1.133,
                       1.0868, 1.1169, 1.0998, 1.0935, 1.147, 1.0329, 1.0952, 1.1025, 1.0151, 1.1123, 1.1821, 1.1468],
    (16, 4, 20, 1, 1): [1.052, 1.032, 1.0104, 1.0074, 1.0275, 1.0365, 1.0551, 1.0107, 1.0775, 1.032, 1.024, 1.0033,
                        1.0165, 1.0479, 1.0161, 1.0269, 1.0302, 1.0143, 1.0219, 1.0312, 1.0032, 1.0069, 1.0314, 1.024],
    (64, 16, 80, 4, 8): [1.0545, 1.0982, 1.0497, 1.0947, 1.0635, 1.0452, 1.0525, 1.0716, 1.1242, 1.1138, 1.206, 1.0525,
                         1.0543, 1.083, 1.1035, 1.0521, 1.0427, 1.1665, 1.0457, 1.1154, 1.1966, 1.05, 1.0389, 1.1104],
    (256, 32, 288, 4, 8): [1.0078, 1.0072, 1.0091, 1.013, 1.0077, 1.0147, 1.0162, 1.003, 1.0537, 1.0214, 1.0095,
                           1.0099, 1.008, 1.0254, 1.0066, 1.0064, 1.0083, 1.0103, 1.0106, 1.0487, 1.016, 1.0186,
                           1.0083, 1.0271],
}  # fmt: skip


@st.composite
def shape_and_load(draw):
    """A shape that fits, flat or over nodes, and loads [plans, E] with ties, zeros and heavy experts among them."""
    nodes = draw(st.sampled_from([1, 1, 2, 3]))
    groups = nodes * draw(st.integers(1, 2))
    experts = groups * draw(st.integers(1, 6))
    fitting = [d for d in range(max(2, nodes), experts + 1) if d % nodes == 0]
    if experts < 2 or not fitting:
        nodes, groups, experts, fitting = 1, 1, 6, [2, 3]
    devices = draw(st.sampled_from(fitting))
    most = -(-experts // devices)
    room = draw(st.integers(most + (experts == devices), min(most + 2, experts)))
    level = st.one_of(st.integers(0, 3), st.integers(0, 1000), st.floats(0, 1e6, allow_subnormal=False))
    load = draw(arrays(np.float64, (draw(st.integers(1, 4)), experts), elements=level))
    load[:, draw(st.integers(0, experts - 1))] += 1.0
    return ClusterShape("any", devices, devices * room, nodes, groups), load


@settings(max_examples=80)
@given(shape_and_load(), st.integers(-20, 20))
def test_the_rules_of_every_plan(case, exponent):
    """Every expert has a slot, as greedy replication counts them when flat; two of its replicas share a device only
    where each device of their node has one; a group stays on one node, and nodes have equally many; a plan depends on
    neither the unit nor the company of a load.
    """
    shape, load = case
    plans = plan(load, shape)
    assert plans.shape == (len(load), shape.slots)
    counts = np.stack([np.bincount(row, minlength=load.shape[1]) for row in plans])
    assert (counts >= 1).all()
    assert shape.nodes > 1 or (counts == replicate(load, shape.slots)).all()
    for row in plans.reshape(-1, shape.devices // shape.nodes, shape.slots_per_device):
        for expert in np.unique(row):
            held = (row == expert).sum(axis=1)
            assert held.max() <= 1 or held.min() >= 1
    for row in plans:
        groups = [np.unique(slots // (load.shape[1] // shape.groups)) for slots in row.reshape(shape.nodes, -1)]
        assert sorted(np.concatenate(groups)) == list(range(shape.groups))
        assert len({len(of_node) for of_node in groups}) == 1
    assert (plan(load * 2.0**exponent, shape) == plans).all()
    assert (np.stack([plan(row, shape) for row in load]) == plans).all()
    assert (plan(load[:, None, None], shape)[:, 0, 0] == plans).all()


@settings(max_examples=40)
@given(arrays(np.int64, (3, 7), elements=st.integers(1, 50)), st.integers(0, 9))
def test_greedy_replication_lowers_the_largest_load_per_replica_as_far_as_possible(load, spare):
    """No other division of the spare slots has a lower largest load per replica: greedy is optimal here."""
    count = replicate(load, 7 + spare)
    assert (count.sum(axis=1) == 7 + spare).all()
    worst = (load / count).max(axis=1)
    just_below = worst * (1 - 1e-9)
    needed = np.maximum(np.ceil(load / just_below[:, None]), 1).sum(axis=1)
    assert (needed > 7 + spare).all()


def test_the_published_example_of_eplb():
    """The example in EPLB's README (two layers, 16 slots, 8 devices, 2 nodes, 4 groups) comes out as printed there."""
    assert plan(README_LOAD, ClusterShape("readme", 8, 16, nodes=2, groups=4)).tolist() == README_PLAN


def _peer_loads(plans, experts):
    i, e = np.arange(plans)[:, None], np.arange(experts)[None]
    return np.floor(1 + ((e + 1) * (i + 3) * 7919 % 1009) ** 2 / 97.0)


@pytest.mark.parametrize("case", PEER, ids=str)
def test_the_loop_stands_for_the_public_eplb(case):
    """The loop kept in `benchmarks/` reaches the maximum of the public code on the same loads, to the digits kept."""
    experts, devices, slots, nodes, groups = case
    load, shape = _peer_loads(24, experts), ClusterShape("peer", devices, slots, nodes, groups)
    loops = np.array([loop_plan(row, shape) for row in load])
    np.testing.assert_allclose(imbalance(loops, load, devices), PEER[case], atol=5.1e-5, rtol=0)
    assert (imbalance(plan(load, shape), load, devices) / np.array(PEER[case])).mean() < 1.01


@pytest.mark.parametrize("shape", PEER_SHAPES, ids=lambda shape: shape.name)
def test_no_worse_than_eplb(shape):
    """Our most loaded device carries on average at most 1 % more than EPLB's: on Dirichlet and on recorded loads."""
    for alpha in (1.0, 0.5):
        assert balance(shape, random_loads(PEER_SHAPES[shape], alpha), "random").mean <= 1.01
    if PEER_SHAPES[shape] == 8:
        assert balance(shape, recorded_loads(), "recorded").mean <= 1.01


@pytest.mark.parametrize("shape", PEER_SHAPES, ids=lambda shape: shape.name)
def test_the_price_on_skewed_loads_is_that_of_keeping_replicas_apart(shape):
    """With alpha 0.1 it may be up to 2 %; where EPLB puts no two replicas of an expert together, there is none."""
    found = balance(shape, random_loads(PEER_SHAPES[shape], 0.1), "skewed")
    assert found.mean <= 1.02
    assert found.ours_doubles < found.loop_doubles
    assert found.mean_undoubled == pytest.approx(1, abs=1e-6)


def _exact(load, devices, replicas):
    """The lowest possible maximum load with the given replicas: a mixed-integer programme over (expert, device)."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    size, each_ED = len(load) * devices, np.eye(len(load) * devices)
    held_EX = each_ED.reshape(len(load), devices, size).sum(axis=1)
    room_DX = each_ED.reshape(len(load), devices, size).sum(axis=0)
    load_DX = room_DX * np.repeat(load / replicas, devices)
    rows = np.block(
        [[held_EX, np.zeros((len(load), 1))], [room_DX, np.zeros((devices, 1))], [load_DX, -np.ones((devices, 1))]]
    )
    room = np.full(devices, replicas.sum() // devices)
    low, high = np.concatenate([replicas, room, np.full(devices, -np.inf)]), np.concatenate([replicas, room, 0 * room])
    upper = np.append(np.repeat(np.where(replicas > devices, replicas, 1), devices), np.inf)
    out = milp(
        np.eye(size + 1)[-1], integrality=np.append(np.ones(size), 0), bounds=Bounds(0, upper),
        constraints=LinearConstraint(rows, low, high),
    )  # fmt: skip
    assert out.success, out.message
    return out.fun


@pytest.mark.parametrize(("devices", "slots"), [(2, 6), (3, 6), (2, 8), (3, 9), (4, 8)])
def test_close_to_the_exact_optimum(devices, slots):
    """On small cases: never below the exact optimum for the same replicas, at most 4/3 of it, within 3 % on average."""
    load = np.random.default_rng(7).integers(1, 100, size=(8, 6)).astype(float)
    count = replicate(load, slots)
    weight = device_weights(plan(load, ClusterShape("small", devices, slots)), 6, devices)
    ours = (weight @ load[..., None])[..., 0].max(axis=1)
    ratio = ours / [_exact(row, devices, replicas) for row, replicas in zip(load, count, strict=True)]
    assert ratio.min() > 1 - 1e-9
    assert ratio.max() <= 4 / 3
    assert ratio.mean() < 1.03


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ClusterShape("x", 4, 10), "12 would"),
        (lambda: ClusterShape("x", 4, 3), "4 would"),
        (lambda: ClusterShape("x", 4, 12, nodes=3, groups=3), "fitting: [1, 2, 4]"),
        (lambda: ClusterShape("x", 4, 12, nodes=2, groups=3), "multiple of 2"),
        (lambda: ClusterShape("x", 0, 10), "at least 1"),
        (lambda: plan([1, 2, 3], ClusterShape("x", 2, 2)), "4 would do"),
        (lambda: plan([1, 2, 3], ClusterShape("x", 4, 4)), "at most 3 fit"),
        (lambda: plan([1, 2, 3], ClusterShape("x", 3, 3)), "every plan costs the same"),
        (lambda: plan([1, 2, 3], ClusterShape("x", 1, 4)), "every plan costs the same"),
        (lambda: plan(np.ones(10), ClusterShape("x", 4, 12, 2, 4)), "fitting: [2, 10]"),
        (lambda: plan(np.zeros(4), ClusterShape("x", 2, 4)), "zero for every expert"),
        (lambda: plan([[1, 1], [0, 0]], ClusterShape("x", 2, 4)), "load[1] is zero"),
        (lambda: plan([1, -2, 3, 4], ClusterShape("x", 2, 4)), "load[1] is -2.0"),
        (lambda: plan([1, np.nan, 3, 4], ClusterShape("x", 2, 4)), "load[1] is nan"),
        (lambda: plan([1, np.inf, 3, 4], ClusterShape("x", 2, 4)), "load[1] is inf"),
        (lambda: replicate([1, 2, 3], 2), "at least 3 would do"),
        (lambda: expert_capacity([1, 2], 0.0), "above 0"),
        (lambda: expert_capacity([1, 2], float("inf")), "above 0"),
    ],
)
def test_impossible_requests_say_what_would_fit(make, says):
    """A shape or load that makes no plan is refused by name, with what would fit."""
    with pytest.raises(PlacementError) as error:
        make()
    assert says in str(error.value)


def test_headline_shapes_fit_any_number_of_experts():
    """Every headline shape makes a plan for its E; names mean the same for every E; 64 experts have a nodes shape."""
    for experts in range(1, 70):
        by_name = {shape.name: shape for shape in headline_shapes(experts)}
        assert len(by_name) == len(headline_shapes(experts))
        for shape in by_name.values():
            shape.check(experts)
        if experts % 4 == 0 and experts >= 8:
            assert by_name["quarter"] == ClusterShape("quarter", experts // 4, experts + experts // 4)
            assert by_name["half"].devices == experts // 2
            assert by_name["plain"].slots == experts
        assert ("nodes" in by_name) == (experts == 64)


def test_expert_buffers_follow_the_forecast():
    """All buffers together hold the capacity factor; each expert's part is its expected share."""
    capacity = expert_capacity([[1, 1, 2]], 1.25)
    np.testing.assert_allclose(capacity, [[0.3125, 0.3125, 0.625]])


def test_vllms_default_takes_the_last_thousand_steps_every_three_thousand() -> None:
    """First at 750: loads of older blocks do not count; a layer without load is planned as if it were even."""
    shape = ClusterShape("two", 2, 4)
    policy, current_LR = VllmEplb(shape, 250), np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    replanned_at = []
    for block in range(1, 31):
        load_SLE = np.full((250, 2, 4), np.nan)
        load_SLE[:, 0] = [9, 8, 1, 1] if block <= 11 else [1, 1, 1, 30]
        policy.add(load_SLE)
        wanted_LR = policy.replan(current_LR, 250 * block)
        if wanted_LR is not None:
            replanned_at.append(250 * block)
            recent_LE = np.ones((2, 4))
            recent_LE[0] = [9, 8, 1, 1] if block <= 11 else [1, 1, 1, 30]
            loads = [recent_LE[m][wanted_LR[m].reshape(2, 2)].sum(axis=1).max() for m in range(2)]
            assert loads == ([10, 2] if block <= 11 else [31, 2])
            current_LR = wanted_LR
    assert replanned_at == [750, 3750, 6750]
