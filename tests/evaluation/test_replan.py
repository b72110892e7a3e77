"""Re-planning policies: the cost model, who acts when, moves, break-even, the command."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, PlacementError, TargetError
from moeload_bench.evaluation.replanning import compare_policies
from moeload_bench.placement.cost import replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import POLICIES, CostModel, Simulation, with_fewest_moves
from moeload_bench.plots.replanning import draw_policies
from moeload_bench.traces.meta import LayerMeta
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need

SHAPE = ClusterShape("test", 2, 6)
COST = CostModel(step_ms=100, expert_mb=50, bandwidth_gb_s=25, expert_fraction=0.5)


def stepwise(levels, rows=40):
    """Shares [S, 1, 4] that hold each level for so many rows."""
    return np.repeat(np.array(levels, dtype=float), rows, axis=0)[:, None]


def simulation(share=None, transient=None, shape=SHAPE, cost=COST, stride=1):
    share = stepwise([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]]) if share is None else share
    transient = np.zeros(share.shape[:2], dtype=bool) if transient is None else transient
    return Simulation(share, transient, shape, cost, stride)


def true_means(sim, policy, every):
    """The mean true shares [N, L, E] of the steps after each of a policy's decisions: what an oracle would forecast."""
    rows = sim.decisions(policy, every)[0]
    means_at = sim._true_means({every: rows})
    return np.array([means_at(row)[every] for row in rows.tolist()]).reshape(-1, *sim.share_SLE.shape[1:])


def test_the_static_layout_is_the_measured_step_time():
    """`step_ms` is what was measured in the static layout: no gain, no migration, no break-even."""
    run = simulation().run("static", 10)
    assert (run.step_ms, run.saved_percent, run.replans) == (100, 0, 0)
    assert run.break_even_steps is None


def test_costs_by_hand():
    """Step time follows imbalance over static imbalance; a re-plan costs what the busiest receiver needs."""
    sim = simulation(cost=CostModel(100, 50, 25, expert_fraction=0.4, overlap=0.5, replan_ms=3))
    hat = true_means(sim, "every", 40)
    run = sim.run("every", 40, hat)
    static = sim.layout().static_LR
    wanted = with_fewest_moves(static, plan(sim.share_SLE[40], SHAPE), SHAPE)
    received = replicas_moved(static, wanted, 2)
    before = step_imbalance(static, sim.share_SLE, 2)
    after = np.concatenate([before[:40], step_imbalance(wanted, sim.share_SLE[40:], 2)])
    gain = 100 * 0.4 * (1 - after.mean() / before.mean())
    migration = 3 + 0.5 * received.max() * 50 / 25
    assert run.replans == 1
    assert run.replicas_moved == received.sum()
    assert run.gain_percent == pytest.approx(gain)
    assert run.migration_ms == pytest.approx(migration / 80)
    assert run.saved_percent == pytest.approx(gain - migration / 80)
    assert run.break_even_steps == pytest.approx(migration / gain)


def test_bytes_moved_are_the_replicas_times_their_size():
    """`moved_mb`: every replica that a device receives weighs `expert_mb`, hidden behind training or not."""
    sim = simulation(cost=CostModel(100, 350, 25, overlap=1))
    run = sim.run("every", 40, true_means(sim, "every", 40))
    assert run.replicas_moved > 0
    assert run.moved_mb == 350 * run.replicas_moved
    assert sim.run("static", 40).moved_mb == 0


def test_at_the_break_even_size_a_policy_saves_nothing():
    """With experts of `break_even_mb` the same policy saves exactly nothing; smaller ones save, larger ones cost."""
    hat = true_means(simulation(), "every", 20)
    size = simulation().run("every", 20, hat).break_even_mb
    saved = [simulation(cost=CostModel(100, size * f, 25)).run("every", 20, hat).saved_percent for f in (0.9, 1, 1.1)]
    assert saved[0] > 0 > saved[2]
    assert saved[1] == pytest.approx(0, abs=1e-9)


def test_who_acts_when():
    """every: all layers at multiples of k; by state: stable layers only; on_change: the layer whose label changed."""
    transient = np.zeros((60, 2), dtype=bool)
    transient[:25, 0] = True
    transient[41:, 1] = True
    sim = simulation(np.full((60, 2, 4), 0.25), transient)
    rows, acts = sim.decisions("every", 20)
    assert rows.tolist() == [20, 40]
    assert acts.all()
    rows, acts = sim.decisions("stable_only", 20)
    assert acts.tolist() == [[False, True], [True, True]]
    rows, acts = sim.decisions("on_change", 20)
    assert rows.tolist() == [25, 41]
    assert acts.tolist() == [[True, False], [False, True]]
    assert len(sim.decisions("static", 20)[0]) == 0


def test_intervals_are_training_steps():
    """With a stride of 5, k = 20 acts every 4 rows; an interval that the stride does not divide is refused."""
    sim = simulation(stride=5)
    assert sim.decisions("every", 20)[0].tolist() == list(range(4, 80, 4))
    with pytest.raises(PlacementError, match="stride of 5"):
        sim.decisions("every", 12)


def test_reserve_allocate_returns_to_the_even_spread():
    """In the transient the uniform plan is in force again; stable_only keeps the plan it had."""
    transient = np.zeros((80, 1), dtype=bool)
    transient[50:] = True
    sim = simulation(transient=transient)
    hats = {p: true_means(sim, p, 10) for p in ("stable_only", "reserve_allocate")}
    kept = sim.history("stable_only", 10, hats["stable_only"])
    reserved = sim.history("reserve_allocate", 10, hats["reserve_allocate"])
    assert (reserved[3].slot_expert_LR == kept[3].slot_expert_LR).all()
    assert (np.sort(reserved[-1].slot_expert_LR) == np.sort(sim.layout().static_LR)).all()
    assert (kept[-1].slot_expert_LR == kept[4].slot_expert_LR).all()


def test_if_pays_weighs_the_promise_against_the_migration():
    """Free moves are made where they help; moves that cost more than k steps can save are not made."""
    free, dear = (simulation(cost=CostModel(100, mb, 25)) for mb in (0, 1e9))
    hat = true_means(free, "if_pays", 20)
    assert free.run("if_pays", 20, hat).saved_percent >= free.run("every", 20, hat).saved_percent > 5
    assert dear.run("if_pays", 20, hat).replans == 0
    assert dear.run("every", 20, hat).saved_percent < 0


def test_a_missing_forecast_changes_nothing():
    """Where a forecast is NaN, the plan stays."""
    sim = simulation()
    hat = true_means(sim, "every", 10)
    hat[2:] = np.nan
    history = sim.history("every", 10, hat)
    assert all((part.slot_expert_LR == history[2].slot_expert_LR).all() for part in history[3:])
    assert not any(part.moved_LD.any() for part in history[3:])


def test_history_covers_every_step_once_and_device_loads_add_up():
    """Segments are contiguous; device loads of a step average to 1."""
    sim = simulation()
    history = sim.history("oracle", 30)
    assert history[0].start == 0
    assert history[-1].stop == 80
    assert all(a.stop == b.start for a, b in itertools.pairwise(history))
    np.testing.assert_allclose(sim.device_loads(history, 0).mean(axis=1), 1)


def test_steps_without_load_are_left_out():
    """NaN shares count neither in a mean nor in a plan."""
    share = stepwise([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
    share[10:15] = np.nan
    run = simulation(share).run("oracle", 20)
    assert np.isfinite(run.saved_percent)
    assert np.isfinite(run.imbalance)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(4, 12, 1, 1), (4, 8, 2, 4), (6, 18, 3, 6), (2, 12, 1, 1)]))
def test_settling_never_changes_a_plan_and_never_moves_more(seed, size):
    """Renumbering devices keeps the set of devices and nodes, and moves at most as many replicas."""
    devices, slots, nodes, groups = size
    shape = ClusterShape("x", devices, slots, nodes, groups)
    experts = 8 if groups in (1, 4) else 12
    rng = np.random.default_rng(seed)
    before, after = (plan(rng.dirichlet(np.ones(experts), size=2), shape) for _ in "ab")
    settled = with_fewest_moves(before, after, shape)
    moved = [replicas_moved(before, x, devices).sum(axis=1) for x in (after, settled)]
    assert (moved[1] <= moved[0]).all()
    assert (with_fewest_moves(after, after, shape) == np.sort(after.reshape(2, devices, -1)).reshape(2, -1)).all()

    def nodes_of(row):
        return sorted(
            tuple(sorted(tuple(sorted(slots)) for slots in node))
            for node in row.reshape(nodes, devices // nodes, -1).tolist()
        )

    assert [nodes_of(row) for row in settled] == [nodes_of(row) for row in after]


@pytest.mark.parametrize("field", ["step_ms", "bandwidth_gb_s", "expert_fraction"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_constants_that_must_be_positive(field, value):
    """Zero, negative or infinite constants are refused by name."""
    with pytest.raises(PlacementError, match=f"{field} is {value}"):
        CostModel(**{"step_ms": 1, "expert_mb": 1, "bandwidth_gb_s": 1, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("expert_mb", -1), ("expert_mb", float("inf")), ("overlap", 1.5), ("overlap", -0.1), ("replan_ms", -1),
     ("expert_fraction", 1.1)],
)  # fmt: skip
def test_constants_out_of_range(field, value):
    """Negative sizes and fractions above 1 are refused by name."""
    with pytest.raises(PlacementError, match=f"{field} is {value}"):
        CostModel(**{"step_ms": 1, "expert_mb": 1, "bandwidth_gb_s": 1, field: value})


def skewed_trace(steps=600, stride=1):
    """A settled, unequal run of two layers and eight experts."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(8), size=2)
    return Trace.from_arrays(
        rng.multinomial(2000, p, size=(steps, 2)), 1000, 2, step_S=np.arange(steps) * stride, stride=stride
    )


def test_a_forecaster_is_compared_with_truth_on_a_settled_run():
    """On a settled, unequal run every policy finds what there is to find: within a little of the oracle."""
    trace = skewed_trace()
    done = compare_policies(trace, "sw_avg", ClusterShape("x", 2, 10), COST, every=[50, 100], level="none")
    assert {run.policy for run in done.runs} == set(POLICIES)
    saved = {(run.policy, run.every): run.saved_percent for run in done.runs}
    assert saved["static", 50] == 0
    assert saved["if_pays", 50] == pytest.approx(saved["oracle", 50], abs=0.5)
    assert done.best.saved_percent == max(v for (policy, _), v in saved.items() if policy != "oracle") > 1
    assert not done.failures


def test_policies_cost_the_same_together_alone_and_in_small_pieces(monkeypatch):
    """One pass for all policies gives what a pass for each gives; so do stretches of one row."""
    share = np.random.default_rng(1).dirichlet(np.full(8, 0.3), size=(90, 3))
    share[20:22, 1] = np.nan
    transient = np.random.default_rng(2).random((90, 3)) < 0.5
    asked = [("static", 10), *((p, k) for p in POLICIES if p != "static" for k in (10, 30))]

    def costs():
        sim = simulation(share, transient, ClusterShape("x", 4, 12))
        hats = {(p, k): true_means(sim, p, k) for p, k in asked}
        at = {k: dict(zip(sim.decisions(p, k)[0].tolist(), hat, strict=True)) for (p, k), hat in hats.items()}
        at = {
            k: {
                **at[k],
                **dict(zip(sim.decisions("on_change", k)[0].tolist(), hats["on_change", k], strict=True)),
                **dict(zip(sim.decisions("every", k)[0].tolist(), hats["every", k], strict=True)),
            }
            for k in (10, 30)
        }
        together = sim.runs(asked, lambda row: {k: means[row] for k, means in at.items() if row in means})
        alone = [sim.run(p, k, hats[p, k]) for p, k in asked]
        return together, alone

    together, alone = costs()
    assert together == alone
    assert len({run.saved_percent for run in together}) > len(POLICIES)
    monkeypatch.setattr("moeload_bench.placement.replan.CELLS_AT_ONCE", 1)
    for run, whole in zip(costs()[0], together, strict=True):
        assert run.saved_percent == pytest.approx(whole.saved_percent, abs=1e-9)
        assert run.replicas_moved == whole.replicas_moved


def test_short_intervals_of_a_large_model_are_left_out_and_named(monkeypatch):
    """By default, with a note that says which; whoever asks for them gets them."""
    monkeypatch.setattr("moeload_bench.evaluation.replanning.MOST_PLANNED", 12 * 16)
    done = compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, level="none")
    assert sorted({run.every for run in done.runs}) == [50, 100, 200]
    assert done.notes == ("k = 10, 20 left out at this size; --every 10,20,50,100,200 tries them too",)
    asked = compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, every=[20], level="none")
    assert ({run.every for run in asked.runs}, asked.notes) == ({20}, ())


def test_a_trace_that_cannot_be_labelled_still_gets_an_answer():
    """Without states (a stride of 50) the policies by state are left out, with the reason; no imbalance has a state."""
    done = compare_policies(skewed_trace(stride=50), "sw_avg", SHAPE_8, COST, every=[500], level="none")
    assert {run.policy for run in done.runs} == {"static", "every", "if_pays", "oracle"}
    assert "stride" in done.notes[0]
    assert {(run.imbalance_transient, run.imbalance_stable) for run in done.runs} == {(None, None)}


SHAPE_8 = ClusterShape("x", 2, 10)


class Moody:
    """Fails at every other question."""

    def __init__(self, info, seed):
        self.asked, self.info = 0, info

    def observe(self, block):
        self.asked += 1

    def forecast(self, request):
        from moeload_bench.forecaster import Forecast

        if self.asked % 2:
            raise ValueError("not now")
        return Forecast.constant(np.full((self.info.num_layers, self.info.num_experts), 0.125), request.horizon)


def test_failed_forecasts_are_named_and_keep_the_plan(tmp_path):
    """A decision without a forecast is listed with its step and reason; the others go on."""
    source = tmp_path / "moody.py"
    source.write_text("import numpy as np\n\n\n" + _source(Moody))
    done = compare_policies(skewed_trace(), f"{source}:Moody", SHAPE_8, COST, every=[100], level="none")
    assert done.failures
    assert all("step" in line and "not now" in line for line in done.failures)


def _source(cls):
    import inspect

    return inspect.getsource(cls)


@pytest.mark.parametrize("every", [[0], [7, 600], [-10], [50.5], []])
def test_intervals_that_do_not_fit_are_refused(every):
    """An interval below 1, with a fraction or as long as the trace is refused, and so is none, with those that fit."""
    with pytest.raises(PlacementError, match="fitting: \\[10, 20, 50, 100, 200\\]"):
        compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, every=every, level="none")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"seed": 0.5}, "seed is 0.5, expected a whole number from 0"),
        ({"seed": True}, "seed is True, expected a whole number from 0"),
        ({"level": "Sandbox"}, "Sandbox.*none, process, sandbox"),
    ],
)
def test_words_that_do_not_exist_are_refused_by_name(words, said):
    """A seed that is no whole number or an unknown level: before the forecaster sees anything."""
    with pytest.raises(MoeloadError, match=said):
        compare_policies(skewed_trace(), "sw_avg", SHAPE_8, COST, every=[100], **words)


def test_a_trace_without_any_load_is_refused():
    """Nothing can be planned or compared where no layer-step has load: the trace is named."""
    silent = Trace.from_arrays(np.zeros((60, 2, 8), dtype=np.int64), 0, 2, recipe="silent")
    with pytest.raises(PlacementError, match=r"silent/.*: no layer has load in any of 60 rows, expected"):
        compare_policies(silent, "sw_avg", SHAPE_8, COST, every=[20], level="none")


def test_an_unknown_forecaster_is_refused_by_name():
    """As everywhere."""
    with pytest.raises((TargetError, Exception), match="no_such"):
        compare_policies(skewed_trace(), "no_such", SHAPE_8, COST, every=[100], level="none")


def plan_command(path, *more):
    base = ["plan", str(path), "--devices", "2", "--slots", "10", "--expert-mb", "50", "--bandwidth", "25"]
    return CliRunner().invoke(app, [*base, "--step-ms", "100", "--every", "50,200", "--level", "none", *more])


def test_the_command_answers_and_draws(tmp_path):
    """`plan` leads with the decision, prints every policy if asked, and writes the figure."""
    path = tmp_path / "own.parquet"
    write_trace(skewed_trace(), path)
    figure = tmp_path / "plan.svg"
    done = plan_command(path, "--wide", "--figure", str(figure))
    assert done.exit_code == 0, done.output
    for policy in POLICIES:
        assert policy in done.output
    assert done.stdout.startswith("Decision at step 600: forecast with ")
    assert figure.stat().st_size > 10_000
    record = json.loads(plan_command(path, "--wide", "--json").stdout)
    assert {run["policy"] for run in record["policies"]} == set(POLICIES)
    take = record["decision"]["take"]
    assert take["saved_percent"] > 0
    assert {one["every"] for one in record["decision"]["candidates"]} == {50, 200}
    assert record["cost"]["expert_mb"] == 50


def drawn(axes, label):
    """The points of a line by its label."""
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def later_trace():
    """An unequal run from step 5000 on whose layers are 3 (without load) and 7 of a stack."""
    load = skewed_trace().load_SLE.copy()
    load[:, 0] = 0
    layers = [LayerMeta(index=index, experts=8, top_k=2) for index in (3, 7)]
    step_S, tokens_SL = 5000 + np.arange(600), load.sum(axis=2) // 2
    return Trace.from_arrays(load, tokens_SL, 2, step_S=step_S, layers=layers, recipe="later")


def test_the_figure_shows_the_busiest_device_of_a_layer_that_has_load():
    """Lower panels: the mean of the largest device load, at the trace's own steps, of a layer named as in the trace."""
    need("matplotlib", "pip install -e '.[plot]'")
    trace = later_trace()
    done = compare_policies(trace, "sw_avg", SHAPE_8, COST, every=[50, 100], level="none")
    curve, left, right = draw_policies(done, trace).axes
    assert left.get_ylabel() == "layer 7: device load / mean\n(busiest - 1: MaxVio)"
    assert left.get_xlim() == right.get_xlim() == (5000, 5600)
    step, peak = drawn(left, "busiest device")
    largest = done.simulation.device_loads(done.simulation.history("static", 50), 1).max(axis=1)
    np.testing.assert_allclose(step, 5001 + 2 * np.arange(300))
    np.testing.assert_allclose(peak, largest.reshape(300, 2).mean(axis=1))
    strip = [patch for patch in left.patches if str(patch.get_gid()).startswith("state-")]
    assert strip[0].get_x() == 5000
    assert curve.get_xlabel().startswith("k: steps")


def test_the_figure_names_all_that_it_draws():
    """The legend has the circle around the best policy, its break-even, the device loads and the states."""
    need("matplotlib", "pip install -e '.[plot]'")
    trace = skewed_trace()
    done = compare_policies(trace, "sw_avg", SHAPE_8, COST, every=[50, 100], level="none")
    figure = draw_policies(done, trace)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    best, low = done.best, figure.axes[0].get_xlim()[0]
    assert f"best: {best.policy}, k = {best.every:,}" in texts
    even = f"its break-even: {best.break_even_steps:,.1f} steps"
    assert drawn(figure.axes[0], even)[0].tolist() == [best.break_even_steps] * 2
    assert best.break_even_steps > low
    assert {even, "busiest device", "from the least to the most loaded device", "state: stable"} <= set(texts)


def test_a_figure_without_states_shows_none():
    """Where a trace cannot be labelled, no strip claims a state."""
    need("matplotlib", "pip install -e '.[plot]'")
    trace = skewed_trace(stride=50)
    figure = draw_policies(compare_policies(trace, "sw_avg", SHAPE_8, COST, every=[500], level="none"), trace)
    assert not any(text.get_text().startswith("state") for text in figure.legends[0].get_texts())
    assert not any(str(patch.get_gid()).startswith("state-") for ax in figure.axes for patch in ax.patches)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--slots", "9"], "10 would"),
        (["--devices", "1"], "every plan costs the same"),
        (["--expert-mb", "-1"], "expert_mb is -1"),
        (["--bandwidth", "0"], "bandwidth_gb_s is 0"),
        (["--every", "ten"], "--every is 'ten'"),
        (["--nodes", "2", "--groups", "3"], "multiple of 2"),
        (["--groups", "0"], "groups is 0"),
    ],
)
def test_the_command_refuses_what_makes_no_plan(tmp_path, more, says):
    """Impossible requests end before any work, with what would fit."""
    path = tmp_path / "own.parquet"
    write_trace(skewed_trace(), path)
    done = plan_command(path, *more)
    assert done.exit_code != 0
    assert says in str(done.exception)
