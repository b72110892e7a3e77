"""A word of a closed set that is mistyped is refused by name, before any work: never taken for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeload_bench.errors import (
    IsolationError,
    MoeloadError,
    NotFoundError,
    PlacementError,
    SuiteError,
    TargetError,
    counted,
)
from moeload_bench.forecaster import trace_info
from moeload_bench.harness.conformance import check_forecaster
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.hosts import fit_target, level_available, open_host
from moeload_bench.isolation.targets import parse_target
from moeload_bench.ops.planning.planner import compare_policies
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.suites.suite import load_suite, suite_for_trace
from moeload_bench.words import ordinal
from tests.conftest import need, synthetic_trace

TRACE = synthetic_trace(400)
SUITE = suite_for_trace(TRACE, horizons=(1, 10), per_state=2)
SHAPE, COST = ClusterShape("two", slots=4, devices=2), CostModel(100, 10, 10)


def open_at(level: Any) -> None:
    """The context is entered, as a caller would."""
    with open_host(parse_target("sw_avg"), trace_info(TRACE), seed=0, level=level):
        pass


@pytest.mark.parametrize("word", ["Sandbox", "sandbox ", "SANDBOX", "", None, "local"])
@pytest.mark.parametrize(
    "call",
    [
        lambda word: evaluate("sw_avg", SUITE, level=word),
        lambda word: check_forecaster("sw_avg", level=word),
        lambda word: fit_target(parse_target("sw_avg"), [], seed=0, level=word),
        lambda word: compare_policies(TRACE, "sw_avg", SHAPE, COST, level=word),
        level_available,
        open_at,
    ],
    ids=["evaluate", "check_forecaster", "fit_target", "compare_policies", "level_available", "open_host"],
)
def test_a_level_that_does_not_exist_runs_nothing(call: Callable[[Any], object], word: Any) -> None:
    """`Sandbox` is not `none`: a stranger's code would run outside the box."""
    with pytest.raises(IsolationError, match=r"unknown isolation level .*; there is: none, process, sandbox"):
        call(word)


def test_no_code_runs_at_a_mistyped_level(tmp_path: Path) -> None:
    """Not even the import of the module."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Mine: pass\n")
    for call in (lambda text: evaluate(text, SUITE, level="Sandbox"), lambda text: check_forecaster(text, level="box")):
        with pytest.raises(IsolationError):
            call(f"{tmp_path / 'mine.py'}:Mine")
    assert not (tmp_path / "ran").exists()


def test_other_words_are_refused_too() -> None:
    """A group of a summary, a metric, a forecaster of results."""
    results = evaluate("sw_avg", SUITE, traces=[TRACE], level="none", shapes=())
    with pytest.raises(NotFoundError, match=r"unknown group 'layer'; there is: .*horizon, .*state"):
        results.summarize(["layer"])
    with pytest.raises(NotFoundError, match=r"unknown metric 'windowtv'; there is: .*window_tv"):
        results.summarize(metric="windowtv")
    with pytest.raises(NotFoundError, match="unknown forecaster 'uniform'; there is: sw_avg"):
        results.select(["uniform"])


@pytest.mark.parametrize("jobs", [0, -3, 1.5, True, "2"])
def test_jobs_are_a_whole_number_from_one(jobs: Any) -> None:
    """Refused by name before any work: -3 was taken for "all cores but two", 1.5 and True for 1."""
    with pytest.raises(MoeloadError, match=r"jobs is .*, expected a whole number from 1"):
        evaluate("sw_avg", SUITE, paths={TRACE.id: "x.parquet"}, jobs=jobs)


@pytest.mark.parametrize("seed", [1.5, -1, True, "0"])
def test_a_seed_is_a_whole_number_from_zero(seed: Any) -> None:
    """In `evaluate` and in `check_forecaster`."""
    for call in (lambda: evaluate("sw_avg", SUITE, seed=seed), lambda: check_forecaster("sw_avg", seed=seed)):
        with pytest.raises(MoeloadError, match=r"seed is .*, expected a whole number from 0"):
            call()


def test_a_list_needs_a_forecaster() -> None:
    """An empty list is not taken for the suite's baselines."""
    with pytest.raises(MoeloadError, match="forecasters is an empty list, expected at least one"):
        evaluate([], SUITE, paths={TRACE.id: "x.parquet"})


def test_one_is_not_said_in_the_plural() -> None:
    """1 expert, 1,200 experts."""
    assert [counted(number, "expert") for number in (0, 1, 1200)] == ["0 experts", "1 expert", "1,200 experts"]


def test_an_argument_is_given_once() -> None:
    """Of two windows neither wins in silence."""
    with pytest.raises(TargetError, match="window is given twice"):
        parse_target("sw_avg@window=1,window=2")


def test_there_are_no_more_replicas_than_experts_times_devices() -> None:
    """More slots would hold an expert twice on one device; a hundred million of them take all memory."""
    for slots in (10, 100_000_000):
        with pytest.raises(PlacementError, match=rf"at most 8 replicas, .*; got {slots} slots"):
            compare_policies(TRACE, "sw_avg", ClusterShape("two", slots=slots, devices=2), COST)


def test_a_suite_file_that_is_not_there_is_said_to_be_missing() -> None:
    """Not "unknown suite x.toml; there is: FILE.toml"."""
    with pytest.raises(SuiteError, match=r"^x\.toml: no such file; the package's suites are named 2027-02, mini"):
        load_suite("x.toml")


@pytest.mark.parametrize("levels", [(2.0,), (0.9, 0.1), (0.5, 0.5)])
def test_quantiles_of_a_suite_rise_between_0_and_1(levels: tuple[float, ...]) -> None:
    """Refused as the suite is read."""
    with pytest.raises(ValueError, match="quantiles"):
        SUITE.model_validate({**SUITE.model_dump(), "quantiles": levels})


def test_words_of_figures_and_recorders_are_refused_too(tmp_path: Path) -> None:
    """They need more packages."""
    need("matplotlib", "pip install 'moeload-bench[plot]'")
    torch = need("torch", "pip install 'moeload-bench[torch]'")
    from moeload_bench.plots import draw_sliding, view_trace
    from moeload_bench.recording import record

    with pytest.raises(NotFoundError, match="unknown statistic 'mean'; there is: range, variance"):
        draw_sliding(view_trace(TRACE), "mean")  # type: ignore[arg-type]
    with (
        pytest.raises(NotFoundError, match="unknown on_error 'Raise'; there is: raise, warn"),
        record(torch.nn.Linear(1, 1), tmp_path, on_error="Raise"),  # type: ignore[arg-type]
    ):
        pass


# ---------------------------------------------------------------- ordinal numbers


ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (20, "20th"),
     (21, "21st"), (22, "22nd"), (111, "111th"), (1002, "1,002nd")],
)  # fmt: skip
def test_an_ordinal_ends_as_its_number_is_said(number: int, words: str) -> None:
    """Teens end in th, whatever their last digit."""
    assert ordinal(number) == words
