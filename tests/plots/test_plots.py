"""Figures: what is drawn is the data, labelled with units, in any shape of trace, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from moeload_bench import plots
from moeload_bench.errors import MissingExtraError, NotFoundError, PlotError, ResultError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.ops.commands.export import app
from moeload_bench.results.columns import run_costs
from moeload_bench.results.results import Results
from moeload_bench.scoring.catalogue import METRICS
from moeload_bench.states.drift import sliding_range, sliding_variance
from moeload_bench.style import forecaster_looks
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE, synthetic_trace

need("matplotlib", "pip install -e '.[plot]'")
ROOT = Path(__file__).resolve().parents[2]


def own_trace(steps: int = 420, layers: int = 2, experts: int = 4, **more: Any) -> Trace:
    load = synthetic_load_SLE(steps, layers, experts)
    half = np.random.default_rng(1).binomial(load, 0.5)
    columns = {"load_half": half, **more.pop("columns", {})}
    return Trace.from_arrays(load, top_k=more.pop("top_k", 1), columns=columns, recipe="own", **more)


def silent_trace(steps: int = 420) -> Trace:
    """Layer 0 has load, layer 1 none at all, layer 2 none for a while."""
    load = synthetic_load_SLE(steps, 3, 4)
    load[:, 1] = 0
    load[50:150, 2] = 0
    return Trace.from_arrays(load, load.sum(axis=2), 1, recipe="silent")


def line_points(ax: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a line by its label."""
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def legend_texts(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def all_trace_figures(trace: Trace) -> dict[str, Any]:
    view = plots.view_trace(trace)
    return {
        "heatmap": plots.draw_heatmap(view),
        "shares": plots.draw_shares(view),
        "states": plots.draw_states(view),
        "variance": plots.draw_sliding(view, "variance", 10),
        "range": plots.draw_sliding(view, "range", 10),
    }


@pytest.fixture(scope="module")
def own_results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    path = write_trace(synthetic_trace(900, recipe="own"), tmp_path_factory.mktemp("plots") / "own.parquet")
    suite = suite_for_trace(synthetic_trace(900, recipe="own"), horizons=(1, 10, 100), per_state=3)
    return evaluate(["uniform", "sw_avg"], suite, paths={suite.traces[0].id: path}, level="none", fresh=True)


def test_every_panel_is_a_layer_with_labelled_axes() -> None:
    """One panel per layer named as the metadata names it, training steps below, a unit at the side."""
    for kind, figure in all_trace_figures(own_trace(layers=3)).items():
        if kind != "states":
            assert [ax.get_title() for ax in figure.axes[:3]] == ["layer 0", "layer 1", "layer 2"], kind
            assert figure.get_supxlabel() == "training step"
            assert figure.get_supylabel()
        assert "state: transient" in legend_texts(figure), kind
    assert "[fraction" in plots.draw_shares(plots.view_trace(own_trace())).get_supylabel()


def test_shares_are_the_means_of_their_bins() -> None:
    """A line is the mean share of the rows of each bin, drawn at the bin's middle."""
    trace = own_trace(840, layers=1)
    ax = plots.draw_shares(plots.view_trace(trace)).axes[0]
    x, y = line_points(ax, "expert 2")
    share_S = trace.share_SLE()[:, 0, 2]
    assert len(y) == 280
    np.testing.assert_allclose(y, share_S.reshape(280, 3).mean(axis=1))
    np.testing.assert_allclose(x, np.arange(280) * 3 + 1.5)


def test_heat_map_is_the_load_over_an_even_load() -> None:
    """Colours are powers of two of the load over the layer's mean; an expert without a token lies under the scale."""
    load = np.tile(np.array([[[8, 4, 2, 2, 0]]]), (300, 1, 1))
    figure = plots.draw_heatmap(plots.view_trace(Trace.from_arrays(load, top_k=1, recipe="flat")))
    image = figure.axes[0].get_images()[0]
    shown = np.asarray(image.get_array())[:, 0]
    np.testing.assert_allclose(shown[:4], np.log2(np.array([8, 4, 2, 2]) / 3.2))
    assert shown[4] < image.norm.vmin
    assert "expert without a token" in legend_texts(figure)


@pytest.mark.parametrize(("statistic", "function"), [("variance", sliding_variance), ("range", sliding_range)])
def test_sliding_figures_draw_the_statistic(statistic: Any, function: Any) -> None:
    """The lines are the functions of `states`, for the window asked for, on a logarithmic axis."""
    trace = own_trace(120, layers=1)
    figure = plots.draw_sliding(plots.view_trace(trace), statistic, 10)
    _, y = line_points(figure.axes[0], "expert 1")
    np.testing.assert_allclose(y, function(trace.share_SLE(), 10)[:-1, 0, 1])
    assert figure.axes[0].get_yscale() == "log"
    assert "10 steps" in figure.legends[0].get_title().get_text()


def test_the_strip_shows_the_labels() -> None:
    """The strip's patches are the spans of the layer's labels, in training steps."""
    view = plots.view_trace(own_trace(600, layers=1))
    assert view.labels is not None
    figure = plots.draw_shares(view)
    patches = [p for p in figure.axes[0].patches if str(p.get_gid()).startswith("state-")]
    shown = [(p.get_x(), p.get_x() + p.get_width(), p.get_gid()) for p in patches]
    assert shown == [(s.start, s.stop, f"state-{s.state}") for s in view.labels.spans(0)]
    assert len(shown) == 2


def test_a_planned_shift_is_marked() -> None:
    """A new data stage is a dotted line in every panel and an entry of the legend."""
    stage = np.repeat([0, 1], 210)
    for kind, figure in all_trace_figures(own_trace(columns={"stage": stage})).items():
        marks = [line for ax in figure.axes[:2] for line in ax.get_lines() if line.get_gid() == "shift"]
        assert [line.get_xdata()[0] for line in marks] == [210, 210], kind
        assert "planned shift" in legend_texts(figure)


def test_steps_and_layers_can_be_chosen() -> None:
    """`--first`, `--last` and `--layer` select; labels stay those of the whole trace; what is not there is refused."""
    trace = own_trace(600)
    view = plots.view_trace(trace, ["1"], 400, 499)
    assert view.span == (400, 500)
    assert [state for _, _, state in view.spans(1)] == ["stable"]
    with pytest.raises(NotFoundError, match="unknown layer '7'; there is: 0, 1"):
        plots.view_trace(trace, ["7"])
    with pytest.raises(PlotError, match="no row in the steps from 700 to the end; the trace has 0 to 599"):
        plots.view_trace(trace, first=700)


@pytest.mark.parametrize("trace", [own_trace(60, 1, 1), silent_trace(), own_trace(3, 1, 4)], ids=["one", "silent", "3"])
def test_odd_traces_are_drawn(trace: Trace, tmp_path: Path) -> None:
    """One expert, layers without load, a trace shorter than every window: drawn, or said why not."""
    figures = all_trace_figures(trace)
    for kind in ("heatmap", "states", "variance"):
        assert plots.save_figure(figures[kind], tmp_path / f"{kind}.png").stat().st_size > 1000
    remarks = {kind: [text.get_text() for ax in f.axes for text in ax.texts] for kind, f in figures.items()}
    if trace.id.startswith("silent"):
        assert remarks["shares"] == ["no load"]
        assert remarks["variance"] == ["no window with load"]
        assert "layer without load" in legend_texts(figures["heatmap"])
    else:
        assert remarks["variance"] == [
            "no variation" if trace.num_experts == 1 else "shorter than the window of 10 rows"
        ]


def test_a_stride_without_states_is_said() -> None:
    """A trace that the rule cannot label is drawn without a strip, and the title says why."""
    trace = own_trace(60, step_S=np.arange(60) * 30)
    for figure in all_trace_figures(trace).values():
        titles = [legend.get_title().get_text() for legend in figure.legends]
        assert "states are not defined at a stride of 30 steps" in "".join([*titles, figure.get_suptitle()])
        assert "state: transient" not in legend_texts(figure)


def test_error_over_training_is_the_score_of_each_layer() -> None:
    """One panel per layer; the mean over layers equals what `evaluate` records for the same origin."""
    trace = synthetic_trace(600, recipe="own")
    errors = [plots.training_errors(trace, n, every=100, horizon=100, level="none") for n in ("uniform", "sw_avg")]
    assert errors[0].origin_O.tolist() == [100, 200, 300, 400, 500]
    share_SLE = trace.share_SLE()
    expected_L = 0.5 * np.abs(share_SLE[300:400].mean(axis=0) - 0.25).sum(axis=1)
    np.testing.assert_allclose(errors[0].error_OL[2], expected_L)
    figure = plots.draw_training(plots.view_trace(trace), errors)
    assert figure.get_supylabel() == "window_tv over the next 100 steps\n[fraction of tokens]"
    np.testing.assert_array_equal(line_points(figure.axes[1], "sw_avg")[1], errors[1].error_OL[:, 1])
    assert {"uniform", "sw_avg", "floor_batch of the state"} <= set(legend_texts(figure))
    assert any(line.get_gid() == "floor-stable" for line in figure.axes[0].get_lines())


def test_a_failed_forecast_is_a_gap_with_its_reason() -> None:
    """The other origins are drawn."""
    target = f"{ROOT / 'tests' / 'support' / 'forecasters.py'}:RaisesOnce"
    errors = plots.training_errors(synthetic_trace(400), target, every=100, horizon=100, level="none")
    assert np.isnan(errors.error_OL).all(axis=1).tolist() == [False, True, False]
    assert "not at 200" in errors.failures[0]


def test_errors_of_unlike_kind_are_refused() -> None:
    """One metric and one horizon per figure; a metric that does not exist is named."""
    trace = synthetic_trace(400)
    one, two = (plots.training_errors(trace, "uniform", every=100, horizon=h, level="none") for h in (10, 100))
    with pytest.raises(PlotError, match="one metric and horizon"):
        plots.draw_training(plots.view_trace(trace), [one, two])
    with pytest.raises(NotFoundError, match=r"unknown metric 'mase'; there is: .*window_tv"):
        plots.training_errors(trace, "uniform", every=100, horizon=10, metric="mase", level="none")


def means(table: pd.DataFrame, forecaster: str, state: str) -> pd.Series:
    """Means of window_tv over the origins of a state, by horizon."""
    rows = table[(table["forecaster"] == forecaster) & (table["state"] == state)]
    return rows.groupby("horizon")["window_tv"].mean()


def test_error_against_horizon_is_the_table_with_its_floors(own_results: Results) -> None:
    """Lines are the means of the result table, and the floors are drawn in under their own names."""
    figure = plots.draw_horizon(own_results)
    for ax, state in zip(figure.axes, ("transient", "stable"), strict=True):
        assert ax.get_title() == f"{state}: mean over 1 run, 3 origins"
        x, y = line_points(ax, "sw_avg")
        assert x.tolist() == [1, 10, 100]
        np.testing.assert_allclose(y, means(own_results.table, "sw_avg", state))
        floor, facts = line_points(ax, "floor_batch")[1], own_results.facts
        np.testing.assert_allclose(floor, facts.loc[facts["state"] == state, "floor_batch.window_tv"])
    assert figure.get_supxlabel() == "horizon [training steps]"
    assert figure.get_supylabel() == "window_tv\n[fraction of tokens]"
    assert {"floor_batch", "floor_level (approximate)"} <= set(legend_texts(figure)), "as in the result table"
    for metric, unit in ((spec.name, spec.unit) for spec in METRICS.values() if spec.per == "plan"):
        assert plots.draw_horizon(own_results, f"{metric}@half").get_supylabel() == f"{metric}@half\n[{unit}]"


def test_sizes_of_batches_are_drawn_apart_and_points_of_a_line_are_over_the_same_runs(own_results: Results) -> None:
    """A panel for each size and state; a horizon that some run lacks is not drawn."""
    names = {trace: f"{trace}-large" for trace in own_results.traces}
    large = own_results.table.assign(trace=own_results.table["trace"].map(names), stratum="large")
    short = large["horizon"] == 100
    table = pd.concat(
        [own_results.table.assign(stratum="small"), large.assign(window_tv=large["window_tv"].mask(short))]
    )
    costs, facts = (
        pd.concat([frame, frame.assign(trace=frame["trace"].map(names))])
        for frame in (run_costs(own_results.table), own_results.facts)
    )
    figure = plots.draw_horizon(Results(own_results.entries, table, costs, facts))
    titles = [ax.get_title() for ax in figure.axes]
    assert [title.split("\n")[1] for title in titles] == ["small batches"] * 2 + ["large batches"] * 2
    assert [line_points(ax, "sw_avg")[0].tolist() for ax in figure.axes] == [[1, 10, 100]] * 2 + [[1, 10]] * 2


def test_accuracy_against_cost_draws_each_forecaster_once(own_results: Results) -> None:
    """CPU time per forecast in milliseconds against the metric at the horizon asked for; unknown ones are refused."""
    figure = plots.draw_cost(own_results, horizon=10)
    for cost in run_costs(own_results.table).itertuples():
        x, y = line_points(figure.axes[1], cost.forecaster)
        np.testing.assert_allclose(x, 1e3 * (cost.forecast_cpu_s + cost.observe_cpu_s) / cost.forecasts)
        np.testing.assert_allclose(y, means(own_results.table, cost.forecaster, "stable")[10])
    assert "[ms of CPU time]" in figure.get_supxlabel()
    assert "at a horizon of 10 steps" in figure.get_supylabel()
    with pytest.raises(NotFoundError, match="unknown horizon '7'; there is: 1, 10, 100"):
        plots.draw_cost(own_results, horizon=7)
    with pytest.raises(NotFoundError, match="unknown metric 'mase'"):
        plots.draw_horizon(own_results, "mase")
    with pytest.raises(ResultError, match="no result"):
        plots.draw_horizon(own_results.select([]))


def test_a_forecaster_without_a_measured_cost_is_named_and_not_drawn(own_results: Results) -> None:
    """No point is made up for it; the others are drawn."""
    known = own_results.table["forecaster"] != "uniform"
    table = own_results.table.assign(observe_cpu_s=own_results.table["observe_cpu_s"].where(known))
    figure = plots.draw_cost(dataclasses.replace(own_results, table=table), horizon=10)
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert "uniform" not in labels
    assert "sw_avg" in labels
    assert "CPU time not measured: uniform" in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_same_figure_is_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    """No date, no random ids: a committed figure changes only with its data."""
    files = []
    for name in ("a", "b"):
        figure = plots.draw_shares(plots.view_trace(own_trace(60, layers=1)))
        files.append(plots.save_figure(figure, tmp_path / name / f"figure.{suffix}").read_bytes())
    assert files[0] == files[1]
    assert b"Matplotlib v" not in files[0]


def test_what_cannot_be_drawn_or_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suffix with those that exist, and nothing is written; without matplotlib, how to get it."""
    view = plots.view_trace(own_trace(60))
    with pytest.raises(PlotError, match=r"written as \.svg, \.png, \.pdf, got the suffix '\.jpg'"):
        plots.save_figure(plots.draw_shares(view), tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"moeload-bench\[plot\]"):
        plots.draw_shares(view)


def test_drawing_leaves_the_settings_of_others_alone() -> None:
    """Settings of matplotlib are those of before; theirs do not reach our figures."""
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31}):
        figure = plots.draw_shares(plots.view_trace(own_trace(60, layers=1)))
        assert mpl.rcParams["font.size"] == 31
        assert figure.axes[0].title.get_fontsize() == 8


def test_the_command_writes_the_figure_it_names(own_results: Results, tmp_path: Path) -> None:
    """A trace from a file, and results from files, become figures; an unknown kind is refused with those that exist."""
    path, run = str(write_trace(own_trace(60), tmp_path / "own.parquet")), CliRunner()
    done = run.invoke(app, ["figure", "shares", path, "--layer", "1", "--out", str(tmp_path / "deep" / "shares.svg")])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).read_text().startswith("<?xml")
    saved = [str(own_results.select([name]).save(tmp_path / f"{name}.parquet")) for name in own_results.names]
    assert run.invoke(app, ["figure", "horizon", *saved, "--out", str(tmp_path / "horizon.png")]).exit_code == 0
    unknown = run.invoke(app, ["figure", "pie", path, "--out", "pie.svg"])
    assert unknown.exit_code == 2
    late = run.invoke(app, ["figure", "training", path, "uniform", "--out", "figure.bmp"])
    assert isinstance(late.exception, PlotError)


def test_a_forecaster_keeps_its_colour_across_charts() -> None:
    """In whatever company and order it is drawn; up to ten have a colour each."""
    few, many = forecaster_looks(["gated", "sw_avg"]), forecaster_looks(["my.py:Mine", "uniform", "sw_avg", "gated"])
    assert few["gated"] == many["gated"]
    assert few["sw_avg"] == many["sw_avg"]
    ten = forecaster_looks([f"one-{i}" for i in range(10)])
    assert len({look["color"] for look in ten.values()}) == 10
    assert forecaster_looks(["my.py:Mine"])["my.py:Mine"] == many["my.py:Mine"]
