"""`python -m leaderboard paper`: the page is what its tables give, the tables what the runs give."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from leaderboard.__main__ import app
from leaderboard.paper import claims
from leaderboard.paper.claims import Study, findings, judge, read_study
from leaderboard.paper.facts import paper
from leaderboard.paper.measuring import (
    FORECASTERS,
    KEYS,
    METRICS,
    describe_run,
    in_blocks,
    mean_errors,
    score_run,
    sliding_means,
)
from leaderboard.paper.page import folder_of, paper_page
from moeload_bench.states.rule import label_states
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.lookup import find_trace, list_traces, load_trace
from moeload_bench.traces.meta import BalancingMeta
from moeload_bench.traces.store import stored_hash, stored_meta, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, needs_traces, synthetic_load_SLE

REPORTS = Path(__file__).resolve().parents[3] / "docs" / "reports"
MINI = "qwen3moe-tiny-8e/test/seed1"
PLAIN = ("sw_avg", "uniform")


def own_trace(steps: int = 900) -> Trace:
    load = synthetic_load_SLE(steps, 3, 8)
    half = np.random.default_rng(1).binomial(load, 0.5)
    balancing = BalancingMeta(method="aux_loss", coefficient=0.01, scope="per_layer")
    return Trace.from_arrays(load, columns={"load_half": half}, recipe="own", balancing=balancing, top_k=2)


@pytest.fixture(scope="module")
def committed() -> Study:
    return read_study(REPORTS / "paper")


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Errors of two forecasters on a synthetic run, at short horizons."""
    return score_run(own_trace(), [], horizons=(20, 40), every=20, forecasters=PLAIN, level="none")


@pytest.fixture(scope="module")
def small(scores: pd.DataFrame) -> Study:
    return Study(pd.DataFrame([describe_run(own_trace(), [])]).set_index("run"), mean_errors(scores, 0))


# ---------------------------------------------------------------- what is committed


def test_the_committed_page_is_what_its_tables_give(committed: Study) -> None:
    """No number of docs/reports/paper.md was typed."""
    assert (REPORTS / "paper.md").read_text() == paper_page(committed), "run `make paper`"


def test_the_committed_figures_are_those_of_the_page(committed: Study) -> None:
    """The page links no picture that is missing, and no other picture is kept."""
    linked = {f"{folder_of(run)}/{name}.png" for run in paper().runs[: paper().pictures] for name in paper().figures}
    assert {path.relative_to(REPORTS / "paper").as_posix() for path in (REPORTS / "paper").rglob("*.png")} == linked
    assert all(f"](paper/{name})" in (REPORTS / "paper.md").read_text() for name in linked)


@needs_traces
def test_the_committed_tables_are_of_the_listed_runs_as_they_are(committed: Study) -> None:
    """A changed trace or list makes them stale; each run that decides claims meets the rule that the page states."""
    listed = [*paper().runs, *(setup.run for setup in paper().setups)]
    assert list(committed.runs.index) == listed, "run `make paper`"
    assert list(dict.fromkeys(committed.errors["run"])) == listed, "run `make paper`"
    for run in listed:
        assert stored_hash(find_trace(run)) == committed.runs.loc[run, "data_sha256"], run
    for run in paper().runs:
        meta = stored_meta(find_trace(run))
        assert (meta.balancing.method, meta.balancing.coefficient) == ("aux_loss", 0.01), run
        assert meta.balancing.scope in ("per_layer", "per_micro_batch"), run
        assert meta.top_k in (1, 2), run
        assert 8 <= meta.experts <= 128, run
        assert meta.stride == 1, run


@needs_traces
def test_no_listed_run_has_a_planned_shift() -> None:
    """The page says so."""
    assert not planned_shifts(load_trace(paper().runs[0], verify=False))


@needs_traces
def test_each_setup_of_the_paper_has_a_run_of_its_shape(committed: Study) -> None:
    """As many MoE layers and experts; the LSTM learns from a second seed of 6 x 16, and online on 12 x 128."""
    for setup in paper().setups:
        row = committed.runs.loc[setup.run]
        assert (row["layers"], row["experts"]) == (setup.moe_layers, setup.experts)
    learned = [committed.runs.loc[setup.run, "lstm"] for setup in paper().setups]
    assert learned == ["shape-gpt3-125m-w64/train/seed302", "online"]


def test_runs_of_the_papers_shapes_decide_no_claim(committed: Study) -> None:
    """Their errors stand in a table of their own: without them, everything below it is the same."""
    page, without = paper_page(committed), paper_page(committed.only(paper().runs))
    assert "own shapes" in page
    assert "own shapes" not in without
    rests = "<details><summary>What this rests on"
    assert page.partition(rests)[2] == without.partition(rests)[2] != ""
    claims = without.partition("Of the paper's")[2].partition("![loads]")[0].strip()
    assert claims in page


def test_a_committed_row_is_what_the_run_gives(committed: Study) -> None:
    """Facts, onset and statistics of the bundled run, straight from its loads."""
    trace = load_trace(MINI)
    train = [ref for ref in list_traces() if ref.id.startswith("qwen3moe-tiny-8e/train/")]
    row, again = committed.runs.loc[MINI], describe_run(trace, train)
    for name in committed.runs.columns:
        assert row[name] == (pytest.approx(again[name], rel=1e-5) if isinstance(again[name], float) else again[name])
    assert row["onset"] == label_states(trace.load_SLE).onset_L.max()
    value_L = sliding_means(trace, "range", 100)[100:].mean(axis=0)
    assert row["first range w=100"] == pytest.approx(value_L[0] / value_L[1:].max(), rel=1e-5)


@pytest.mark.slow
def test_committed_errors_are_what_the_run_gives(committed: Study) -> None:
    """SW_Avg and uniform on the bundled run again: the committed rows in both protocols and all states."""
    again = mean_errors(score_run(load_trace(MINI), [], forecasters=PLAIN, level="none"), 0)
    rows = committed.errors[(committed.errors["run"] == MINI) & committed.errors["forecaster"].isin(PLAIN)]
    pd.testing.assert_frame_equal(rows.reset_index(drop=True), again, rtol=1e-4, check_dtype=False)


# ---------------------------------------------------------------- what is measured


def test_errors_are_means_over_the_origins_of_a_state(scores: pd.DataFrame, small: Study) -> None:
    """Sliding over all of them, in blocks over those whose windows are disjoint."""
    for row in small.errors.to_dict("records"):
        mine = scores[(scores[KEYS[2:]] == [row[key] for key in KEYS[2:]]).all(axis=1)]
        mine = mine[mine["origin"] % row["horizon"] == 0] if row["protocol"] == "blocks" else mine
        assert len(mine) == row["origins"]
        assert np.allclose(mine[list(METRICS)].mean(), [row[metric] for metric in METRICS])
    blocks = in_blocks(scores[scores["forecaster"] == "uniform"], 0)
    for horizon, rows in blocks.groupby("horizon"):
        assert set(rows["origin"].diff().dropna()) == {horizon}


def test_a_study_survives_its_files(small: Study, tmp_path: Path) -> None:
    """The page is the same from what is written as from what was measured."""
    small.write(tmp_path)
    assert paper_page(read_study(tmp_path)) == paper_page(small)


def test_few_origins_give_no_figure(small: Study) -> None:
    """A mean over fewer than LEAST_ORIGINS origins stands in the table of errors and decides nothing."""
    assert small.error("sw_avg", "window_tv", 20).notna().all()
    few = small._replace(errors=small.errors.assign(origins=claims.LEAST_ORIGINS - 1))
    assert few.error("sw_avg", "window_tv", 20).isna().all()


def test_without_a_forecaster_its_claims_cannot_be_told(small: Study) -> None:
    """The page is made all the same, and says so."""
    assert {one.verdict for one in findings(small) if one.claim == "arima-lstm"} == {"cannot tell"}
    assert "cannot tell: no figure" in paper_page(small)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("runs", "figures", "verdict"),
    [
        ("a", [1.2], "holds"),
        ("a", [0.8], "does not hold"),
        ("a", [1.0], "cannot tell"),
        ("a", [None], "cannot tell"),
        ("ab", [1.2, None], "holds"),
        ("ab", [1.2, 1.0], "cannot tell"),
        ("abcde", [1.2, 1.2, 1.2, 1.2, 0.8], "holds"),
        ("abcde", [1.2, 1.2, 1.2, 1.0, 1.0], "cannot tell"),
        ("abcde", [0.8, 0.8, 0.8, 0.8, 1.2], "does not hold"),
        ("aaaabc", [1.2, 1.2, 1.2, 1.2, 1.2, 0.8], "cannot tell"),
        ("aaabcde", [1.2, 0.8, 0.8, 1.2, 1.2, 1.2, 1.2], "holds"),
    ],
)
def test_a_verdict_needs_four_votes_in_five(runs: str, figures: list[float | None], verdict: str) -> None:
    """Runs of one recipe share a vote; runs without a figure have none; those between the bounds vote for neither."""
    index = [f"{recipe}/test/seed{i}" for i, recipe in enumerate(runs)]
    found = judge("x", "y", "z", pd.Series(figures, index=index, dtype=float), claims.ABOVE)
    assert found.verdict == verdict
    assert found.yes == sum(figure == 1.2 for figure in figures)


def test_the_order_of_two_forecasters_is_read_from_their_errors(committed: Study) -> None:
    """Swapping the errors of SW_Avg and ARIMA turns the verdict around."""
    swapped = committed.errors.replace({"forecaster": {"sw_avg": "arima", "arima": "sw_avg"}})
    turned = {"holds": "does not hold", "does not hold": "holds"}
    for one, two in zip(findings(committed), findings(committed._replace(errors=swapped)), strict=True):
        if one.claim == "sw-arima" and one.variant.startswith("sw_avg,"):
            assert np.allclose(one.figures * two.figures, 1.0)
            assert two.verdict == turned.get(one.verdict, one.verdict)


# ---------------------------------------------------------------- figures and command


def test_curves_are_the_errors_at_the_origins(scores: pd.DataFrame) -> None:
    """A panel per horizon and reading; a line is each origin's error in percent."""
    need("matplotlib", "pip install -e '.[plot]'")
    from leaderboard.paper.figures import draw_errors
    from moeload_bench.plots.panels import view_trace

    figure = draw_errors(view_trace(own_trace()), scores)
    titles = [
        f"{metric}, next {horizon} steps" for horizon in (20, 40) for metric in ("error_rate", "window_error_rate")
    ]
    assert [ax.get_title() for ax in figure.axes] == titles
    (curve,) = [line for line in figure.axes[3].get_lines() if line.get_label() == "sw_avg"]
    mine = scores[(scores["forecaster"] == "sw_avg") & (scores["horizon"] == 40)]
    assert np.array_equal(curve.get_xdata(), mine["origin"])
    assert np.allclose(curve.get_ydata(), 100 * mine["window_error_rate"])


@pytest.mark.slow
def test_the_command_writes_page_tables_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All forecasters on a trace named on the command line, at short horizons."""
    need("matplotlib", "pip install -e '.[plot]'")
    short = partial(score_run, horizons=(100, 200), every=100, level="none")
    monkeypatch.setattr("leaderboard.paper.command.score_run", short)
    path, out = write_trace(own_trace(), tmp_path / "own.parquet"), tmp_path / "out"
    done = CliRunner().invoke(app, ["paper", "--trace", str(path), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    written = {one.relative_to(out).as_posix() for one in out.rglob("*.*")}
    figures = {f"paper/own-test-seed0/{name}.png" for name in paper().figures}
    assert written == {"paper.md", "paper/runs.csv", "paper/errors.csv", *figures}
    assert set(read_study(out / "paper").errors["forecaster"]) == set(FORECASTERS)
    assert "| `own/test/seed0` | 900 | 3 x 8 | 2 |" in (out / "paper.md").read_text()
