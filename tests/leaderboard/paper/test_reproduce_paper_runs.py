"""`reproduce paper`: what is measured on which traces, what is drawn, and what the command writes."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from leaderboard.__main__ import app
from leaderboard.paper import claims, measuring, verdicts
from leaderboard.paper.choice import Chosen, choose_runs, needed_steps
from leaderboard.paper.files import error_sheet, files_of, to_csv
from leaderboard.paper.forecasts import ask_forecasters, middle_origin
from leaderboard.paper.measuring import Request, measure_run
from leaderboard.paper.page import study_page
from leaderboard.paper.sizes import sized_runs
from leaderboard.paper.study import METRICS, SIZED_FORECASTERS, ErrorRow, SizedRun, Study, excess_over
from moeload_bench.cache import cache_dir
from moeload_bench.errors import MissingExtraError, NotFoundError, SuiteError, TraceError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.evaluation.harness import row_of
from moeload_bench.results.grid import run_means
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.states.drift import sliding_variance
from moeload_bench.suites.suite import sliding_suite
from moeload_bench.traces.meta import BalancingMeta
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE

SHORT = Request(every=20, horizons=(20, 40), level="none")
UNSCORED = replace(SHORT, horizons=(1000,))
"""For which the runs here are too short: what is asked of them costs no forecast."""
PLAIN = {"sw_avg": "sw_avg", "uniform": "uniform"}


def own_trace(steps: int = 900, experts: int = 8, **more: Any) -> Trace:
    load = synthetic_load_SLE(steps, 3, experts)
    half = np.random.default_rng(1).binomial(load, 0.5)
    balancing = BalancingMeta(method="aux_loss", coefficient=0.01, scope="per_layer")
    fields = {"recipe": "own", "balancing": balancing, "top_k": 2, **more}
    return Trace.from_arrays(load, columns={"load_half": half}, **fields)


def write(folder: Path, trace: Trace) -> Path:
    return write_trace(trace, folder / f"{trace.id}.parquet")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Any, Trace]:
    """A study of a synthetic run by two forecasters, with the results behind it."""
    trace = own_trace()
    path = write(tmp_path_factory.mktemp("own"), trace)
    run, results = measure_run(Chosen(trace.id, path, ()), PLAIN, ["left out: for the test"], SHORT)
    return Study(every=20, horizons=SHORT.horizons, runs=(run,)), results, trace


def sized(recipe: str, hidden: int, lr: float | str, **more: Any) -> Trace:
    """A run of a model of some size; all else is alike unless ``more`` says so."""
    config = {"hidden_size": hidden, "num_hidden_layers": hidden // 16, "num_experts": 8, **more.pop("config", {})}
    schedule = {"kind": "constant", "decay": None} if hidden == 64 else {"kind": "constant"}
    return own_trace(recipe=recipe, config=config, optimizer={"lr": lr}, schedule=schedule, **more)


# ---------------------------------------------------------------- what is measured


def test_runs_of_several_sizes_are_those_that_differ_in_nothing_else(tmp_path: Path) -> None:
    """Width, depth and learning rate may differ; a run of other text, balancing or configuration is left out."""
    for trace in (
        sized("wide", 64, 1e-3),
        sized("narrow", 32, 2e-3),
        sized("narrow", 32, 2e-3, split="train", run=7),
        sized("longer", 64, 1e-3, sequence_length=77),
        sized("plain", 32, 1e-3, balancing=BalancingMeta(method="none")),
        sized("other", 32, 1e-3, config={"norm_topk_prob": True}),
        own_trace(recipe="bare"),
    ):
        write(tmp_path, trace)
    found = sized_runs(tmp_path, UNSCORED)
    assert [run.id for run in found] == ["narrow/test/seed0", "narrow/train/seed7", "wide/test/seed0"]
    assert [(run.hidden_size, run.learning_rate, run.balancing) for run in found[1:]] == [
        (32, 2e-3, "aux_loss 0.01"),
        (64, 1e-3, "aux_loss 0.01"),
    ]


@pytest.mark.slow
def test_runs_of_several_sizes_are_scored_as_the_chosen_ones_are(tmp_path: Path) -> None:
    """The sliding errors of `sw_avg` and `arima` at the shortest horizon; none where a run is too short for it."""
    for trace in (sized("wide", 64, 1e-3), sized("narrow", 32, 1e-3)):
        write(tmp_path, trace)
    targets = {name: name for name in SIZED_FORECASTERS}
    found = sized_runs(tmp_path, SHORT)
    for run in found:
        path = tmp_path / f"{run.id}.parquet"
        whole, _ = measure_run(Chosen(run.id, path, ()), targets, [], replace(SHORT, horizons=SHORT.horizons[:1]))
        same = [row for row in whole.errors if row.protocol == "sliding"]
        assert run.errors == tuple(row.model_copy(update={"per_layer": {}}) for row in same)
        assert run.error("arima", "window_tv", state="stable", horizon=SHORT.horizons[0]) is not None
    assert all(run.errors == () for run in sized_runs(tmp_path, UNSCORED))


def test_sizes_and_rates_that_are_no_numbers_end_nothing(tmp_path: Path) -> None:
    """Configurations of others hold whatever they hold: such a run is left out, such a rate is not known."""
    for trace in (sized("wide", 64, 1e-3), sized("odd", 32, "cosine"), own_trace(config={"hidden_size": "large"})):
        write(tmp_path, trace)
    assert [(run.recipe, run.learning_rate) for run in sized_runs(tmp_path, UNSCORED)] == [
        ("odd", None),
        ("wide", 1e-3),
    ]


def test_the_page_says_what_four_claims_become_with_size(small: tuple[Study, Any, Trace]) -> None:
    """The last onsets, how many runs have none, in how many the first layer moves most, and whose errors are larger."""
    study, _, trace = small
    states, fluctuation = study.runs[0].states, study.runs[0].fluctuation
    first = [one.model_copy(update={"value_L": (9.0, *one.value_L[1:])}) for one in fluctuation]
    row = ErrorRow(
        protocol="sliding", horizon=study.horizons[0], state="", forecaster="", origins=claims.LEAST_ORIGINS, errors={}
    )
    errors = [
        row.model_copy(update={"state": state, "forecaster": name, "errors": {"window_tv": value}})
        for state, name, value in (("stable", "sw_avg", 0.1), ("stable", "arima", 0.2), ("transient", "sw_avg", 0.05))
    ]  # fmt: skip
    one = SizedRun(
        id="a/test/seed0", data_sha256="0" * 64, steps=trace.steps, states=states, fluctuation=tuple(first),
        hidden_size=32, learning_rate=1e-3, balancing="none", errors=tuple(errors),
    )  # fmt: skip
    never = tuple(layer.model_copy(update={"onset": None}) for layer in states)
    other = one.model_copy(
        update={"hidden_size": 64, "states": never, "fluctuation": fluctuation, "id": "b/test/seed0"}
    )
    page = study_page(study.model_copy(update={"sizes": (one, other)}))
    settled = study.runs[0].settled
    assert "2 runs of 2 sizes" in page
    assert f"becomes stable between steps {settled:,} and {settled:,}, in 1 never." in page
    lead = verdicts.lead(study.runs[0].fluctuates("variance", 10, "all"))
    assert f"*The first MoE layer fluctuates most*: so in {1 + (lead > 1)} of 2 runs" in page
    assert "harder to forecast than the stable one*: so in 0 of 2 runs" in page
    assert "more accurate than ARIMA in the stable state*: so in 2 of 2 runs" in page
    assert page.count(" | 0.5 | 0.5 |") == 2
    assert "## With the size of the model" not in study_page(study)


def test_blocks_are_the_block_evaluation(small: tuple[Study, Any, Trace], tmp_path: Path) -> None:
    """The sliding origins a horizon apart score what an evaluation in blocks scores."""
    study, _, trace = small
    suite = measuring.task_list(Chosen(trace.id, Path(), ()), trace, SHORT)
    blocks = sliding_suite(suite, {trace.id: trace}, 40, (40,))
    path = write_trace(trace, tmp_path / "own.parquet")
    (result,) = evaluate(["sw_avg"], blocks, paths={trace.id: path}, level="none", fresh=True)
    assert any(row.protocol == "blocks" and row.horizon == 40 for row in study.runs[0].errors)
    for state in ("transient", "stable"):
        expected = run_means(result.runs[0], state, "window_tv")
        got = study.runs[0].error("sw_avg", "window_tv", state=state, horizon=40, protocol="blocks")
        assert got == pytest.approx(expected[0], rel=1e-5)


def test_fluctuation_is_split_at_the_last_onset(small: tuple[Study, Any, Trace]) -> None:
    """A window counts before or after the step at which the last layer settles when it lies there as a whole."""
    study, _, trace = small
    run = study.runs[0]
    assert run.settled is not None
    row = run.settled - int(trace.step_S[0])
    value_S = sliding_variance(trace.share_SLE(), 100).mean(axis=2)[:, 0]
    assert run.fluctuates("variance", 100, "before")[0] == pytest.approx(value_S[100 : row + 1].mean(), rel=1e-5)
    assert run.fluctuates("variance", 100, "after")[0] == pytest.approx(value_S[row + 100 :].mean(), rel=1e-5)


def test_every_error_stands_beside_its_floors(small: tuple[Study, Any, Trace]) -> None:
    """The flat table has every definition, floor and excess for every row of a state."""
    study, results, _ = small
    rows = list(csv.DictReader(io.StringIO(to_csv(error_sheet(study)))))
    assert {row["error"] for row in rows} == set(METRICS)
    assert {row["protocol"] for row in rows} == {"sliding", "blocks"}
    floors = results[0].runs[0].floors["stable"]["floor_batch"]["tv"]
    row = next(r for r in rows if (r["state"], r["error"], r["horizon"]) == ("stable", "tv", "40"))
    assert float(row["floor_batch"]) == pytest.approx(floors[1], rel=1e-5)
    assert float(row["excess"]) == pytest.approx(math.sqrt(float(row["value"]) ** 2 - floors[1] ** 2), rel=1e-3)
    assert excess_over(0.1, None) is None


def test_a_study_survives_its_file(small: tuple[Study, Any, Trace]) -> None:
    """What is written can be read back, to the last number."""
    study = small[0]
    assert Study.model_validate_json(files_of(study)["paper/study.json"]) == study


def test_origins_must_divide_the_horizons() -> None:
    """Else there would be no blocks among the sliding origins."""
    with pytest.raises(SuiteError, match="a divisor of the horizon 1,000"):
        Request(every=300)


def test_a_forecaster_without_its_packages_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others run, and the study says what is missing."""

    def refuse(target: Any) -> None:
        if "lstm" in target.text:
            raise MissingExtraError("torch", "torch", "the forecaster `lstm`")

    monkeypatch.setattr("moeload_bench.evaluation.evaluate.preflight", refuse)
    targets, missing = measuring.available(Chosen("own/test/seed0", Path(), ()))
    assert "lstm" not in targets
    assert "sw_avg" in targets
    assert "moeload-bench[torch]" in missing[0]


# ---------------------------------------------------------------- which traces


def test_the_rule_chooses_the_closest_first_and_says_why_others_are_passed_over(tmp_path: Path) -> None:
    """Balancing, top-k, experts and length are checked; 16 experts come before 8, a loss per micro-batch is one."""
    within = BalancingMeta(method="aux_loss", coefficient=0.01, scope="per_micro_batch")
    write(tmp_path, own_trace(100, experts=16, recipe="sixteen-micro", balancing=within, format_version="1.2"))
    write(tmp_path, own_trace(100, recipe="eight"))
    write(tmp_path, own_trace(100, experts=16, recipe="sixteen"))
    write(tmp_path, own_trace(100, recipe="free", balancing=BalancingMeta(method="none")))
    write(tmp_path, own_trace(100, experts=4, recipe="few"))
    write(tmp_path, own_trace(70, recipe="brief"))
    write(tmp_path, own_trace(100, recipe="eight", split="train"))
    choice = choose_runs(tmp_path, horizons=(20, 40))
    assert [run.id for run in choice.runs] == ["sixteen-micro/test/seed0", "sixteen/test/seed0", "eight/test/seed0"]
    assert [ref.id for ref in choice.runs[2].train] == ["eight/train/seed0"]
    reasons = dict(choice.passed_over)
    assert "balancing is none" in reasons["free/test/seed0"]
    assert reasons["few/test/seed0"] == "4 experts"
    assert "too short: 70 steps, needed are 80" in reasons["brief/test/seed0"]


def test_a_trace_that_is_too_short_is_refused_by_name(tmp_path: Path) -> None:
    """With what is needed; naming a trace does not help it."""
    write(tmp_path, own_trace(100))
    with pytest.raises(SuiteError, match=r"own/test/seed0: too short: 100 steps, needed are 4,000"):
        choose_runs(tmp_path, ["own/test/seed0"])
    with pytest.raises(SuiteError, match=r"no trace is close enough.*own/test/seed0 \(too short"):
        choose_runs(tmp_path)
    with pytest.raises(TraceError, match="no such folder"):
        choose_runs(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SuiteError, match="no trace there"):
        choose_runs(tmp_path / "empty")
    with pytest.raises(NotFoundError):
        choose_runs(tmp_path, ["nobody/test/seed0"])
    assert needed_steps() == 4000


def test_a_named_trace_need_not_meet_the_rule(tmp_path: Path) -> None:
    """By id or by file."""
    path = write(tmp_path, own_trace(100, experts=4))
    for name in ("own/test/seed0", str(path)):
        assert [run.path for run in choose_runs(tmp_path, [name], horizons=(20,)).runs] == [path]


def test_few_origins_give_no_figure(small: tuple[Study, Any, Trace]) -> None:
    """A mean over fewer than LEAST_ORIGINS origins stands in the table and decides nothing."""
    run = small[0].runs[0]
    kept = run.error("sw_avg", "tv", state="stable", horizon=20)
    assert kept is not None
    rows = tuple(row.model_copy(update={"origins": claims.LEAST_ORIGINS - 1}) for row in run.errors)
    assert verdicts.mean_error(run.model_copy(update={"errors": rows}), "sw_avg", "tv", 20) is None
    assert verdicts.mean_error(run, "sw_avg", "tv", 20) == kept


def test_without_the_forecasters_a_claim_cannot_be_told(small: tuple[Study, Any, Trace]) -> None:
    """The page is made all the same, and says so."""
    found = [one for one in verdicts.findings(small[0]) if one.claim == "arima-lstm"]
    assert found
    assert {one.verdict for one in found} == {"cannot tell"}
    assert "cannot tell: no figure" in study_page(small[0])


def test_the_first_layer_is_compared_with_the_largest_other(small: tuple[Study, Any, Trace]) -> None:
    """The figure is a ratio to the maximum of the others, whatever their order."""
    run = small[0].runs[0]
    value_L = run.fluctuates("range", 100, "all")
    (one,) = [
        finding
        for finding in verdicts.findings(small[0])
        if (finding.claim, finding.variant, finding.column) == ("first", "all steps", "range w=100")
    ]
    assert one.figures[0] == pytest.approx(value_L[0] / max(value_L[1:]))


# ---------------------------------------------------------------- figures and command


def test_forecasts_are_those_that_were_scored(small: tuple[Study, Any, Trace], tmp_path: Path) -> None:
    """The forecast drawn at an origin scores what the study's task there scored; from the cache the second time."""
    study, results, trace = small
    origin = middle_origin(results)
    assert origin is not None
    run = Chosen(trace.id, write(tmp_path, trace), ())
    (one,), (again,) = (
        list(ask_forecasters(run, trace, study.runs[0].targets, origin, SHORT).values()) for _ in range(2)
    )
    assert np.array_equal(one.share_BLE, again.share_BLE)
    row = row_of(trace, origin)
    truth_HLE = trace.share_SLE()[row : row + 40]
    expected = next(task.metrics["window_tv"] for task in results[0].runs[0].tasks if task.origin == origin)
    assert score_forecast(one, truth_HLE, (20, 40))["window_tv"].mean(axis=1) == pytest.approx(expected)


def test_a_forecast_is_kept_for_its_level(small: tuple[Study, Any, Trace], tmp_path: Path) -> None:
    """Work finished at one isolation level answers for no other, for a single forecast as for a run."""
    study, results, trace = small
    origin = middle_origin(results)
    assert origin is not None
    run = Chosen(trace.id, write(tmp_path, trace), ())
    for level in ("none", "process"):
        ask_forecasters(run, trace, study.runs[0].targets, origin, replace(SHORT, level=level))
    paths = [path for path in cache_dir().rglob("*.json") if "share" in json.loads(path.read_bytes())["value"]]
    assert len(paths) == 2


def test_curves_are_the_errors_of_the_tasks(small: tuple[Study, Any, Trace]) -> None:
    """What is drawn against the origins is each task's error in percent; every panel names its definition."""
    need("matplotlib", "pip install -e '.[plot]'")
    from leaderboard.paper.figures import curve, draw_errors
    from moeload_bench.plots.panels import view_trace

    _, results, trace = small
    origin_O, error_O = curve(results[0].runs[0], "tv", 1)
    figure = draw_errors(view_trace(trace), {"sw_avg": results[0]}, 40)
    assert [ax.get_title() for ax in figure.axes] == ["error_rate", "window_error_rate", "tv", "window_tv"]
    assert "[%]" in figure.get_supylabel()
    (drawn,) = [one for one in figure.axes[2].get_lines() if one.get_label() == "sw_avg"]
    assert np.array_equal(drawn.get_xdata(), origin_O)
    assert np.allclose(drawn.get_ydata(), error_O)
    assert error_O[0] == pytest.approx(100 * results[0].runs[0].tasks[0].metrics["tv"][1])


@pytest.mark.slow
def test_every_figure_is_drawn_with_the_same_bytes_twice(small: tuple[Study, Any, Trace], tmp_path: Path) -> None:
    """One file per figure of the paper that the forecasters at hand allow."""
    need("matplotlib", "pip install -e '.[plot]'")
    from leaderboard.paper.figures import draw_figures
    from moeload_bench.style import save_figure

    study, results, trace = small
    origin = middle_origin(results)
    assert origin is not None
    path = write(tmp_path, trace)
    forecasts = ask_forecasters(Chosen(trace.id, path, ()), trace, study.runs[0].targets, origin, SHORT)
    for folder in ("a", "b"):
        for name, figure in draw_figures(trace, study.runs[0], results, forecasts, origin):
            save_figure(figure, tmp_path / folder / f"{name}.png")
    names = {path.stem for path in (tmp_path / "a").iterdir()}
    expected = {"loads", "variance-10", "variance-100", "range-100", "forecasts", "errors-20"}
    expected |= {"sw_avg-20", "sw_avg-40", "layers"}
    assert names == expected
    for name in names:
        first, again = ((tmp_path / folder / f"{name}.png").read_bytes() for folder in ("a", "b"))
        assert first == again, name


@pytest.mark.slow
def test_the_command_writes_everything_and_prints_json(tmp_path: Path) -> None:
    """From a folder of traces to page, tables and JSON, without a figure."""
    write(tmp_path / "traces", own_trace(4000))
    options = [
        "--traces",
        str(tmp_path / "traces"),
        "--out",
        str(tmp_path / "out"),
        "--every",
        "500",
        "--level",
        "none",
    ]
    done = CliRunner().invoke(app, ["paper", *options, "--figures", "0", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert record["study"]["runs"][0]["id"] == "own/test/seed0"
    assert {row["verdict"] for row in record["verdicts"]} <= set(claims.VERDICTS)
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"paper.md", "paper/study.json", "paper/errors.csv", "paper/verdicts.csv"}
    assert "## Figures" not in (tmp_path / "out" / "paper.md").read_text()
