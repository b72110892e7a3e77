"""The conformance suite: sound forecasters pass, broken ones fail by the rule that they break."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.errors import TargetError
from moeload_bench.evaluation.conformance import REPORTED, RULES, check_forecaster
from moeload_bench.forecaster import Forecast
from moeload_bench.isolation.targets import baseline_names
from tests.support import broken

SLOW_BASELINES = ("arima", "lstm")
BROKEN = {
    broken.Raises: "answers",
    broken.WrongShape: "shape",
    broken.NotFinite: "finite",
    broken.Negative: "non_negative",
    broken.DoesNotSum: "sums",
    broken.CrossedQuantiles: "quantiles",
    broken.Unseeded: "deterministic",
    broken.LearnsPerBlock: "block_size",
    broken.LearnsInForecast: "forecast_is_pure",
    broken.LooksAtHorizon: "horizon_prefix",
    broken.SharesState: "independent_instances",
    broken.FitsByTheClock: "fit",
    broken.DividesByLoad: "dead_experts",
    broken.NeedsLoad: "empty_layer_step",
    broken.NeedsTwoExperts: "one_expert",
    broken.NeedsTwoSteps: "one_step",
    broken.SmallOnly: "many_experts",
    broken.IgnoresStride: "sampled",
    broken.NeedsLoss: "no_covariates",
}


def failed(target: object) -> list[str]:
    """The required rules that a forecaster breaks, in their order."""
    return [result.rule for result in check_forecaster(target) if not result.passed and result.required]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_BASELINES else name for name in baseline_names()],
)
def test_every_baseline_keeps_every_rule(name: str) -> None:
    """The required ones; whether the numbering of experts matters is reported only."""
    assert [result for result in check_forecaster(name) if result.required and not result.passed] == []


def test_a_sound_forecaster_passes() -> None:
    """Every rule, the reported one too."""
    assert all(result.passed for result in check_forecaster(broken.Sound))


@pytest.mark.parametrize(("cls", "rule"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_forecaster_fails_by_the_rule_it_breaks(cls: type, rule: str) -> None:
    """The first rule that fails is the one; for faults of a special run it is the only one."""
    found = failed(cls)
    assert found[0] == rule
    if list(RULES).index(rule) > list(RULES).index("fit"):
        assert found == [rule]


def test_every_rule_has_a_forecaster_that_breaks_it() -> None:
    """A rule that nothing can fail would be no rule."""
    assert sorted(BROKEN.values()) == sorted(RULES)


def test_the_numbering_of_experts_is_reported_and_not_required() -> None:
    """A forecaster may learn which expert is which."""
    results = check_forecaster(broken.FavoursFirstExpert)
    assert [result.rule for result in results if not result.passed] == ["expert_permutation"] == list(REPORTED)
    assert all(result.required for result in results if result.passed)


@pytest.mark.slow
def test_rules_are_found_broken_in_a_process_too() -> None:
    """The name of the broken rule crosses the pipe."""
    results = check_forecaster("tests/support/broken.py:DoesNotSum", level="process")
    assert next(result.rule for result in results if not result.passed) == "sums"


def test_an_argument_that_makes_no_sense_is_an_error_and_no_finding() -> None:
    """As everywhere else."""
    with pytest.raises(TargetError, match="window"):
        check_forecaster("sw_avg@window=0")


def test_the_command_names_the_rule_and_says_so_by_its_exit_status() -> None:
    """0 for a sound forecaster, 1 for a broken one; --json has one entry per rule."""
    from moeload_bench.cli.app import app

    assert CliRunner().invoke(app, ["check", "tests/support/broken.py:Sound"]).exit_code == 0
    found = CliRunner().invoke(app, ["check", "tests/support/broken.py:NeedsTwoSteps", "--json"])
    assert found.exit_code == 1
    assert [entry["rule"] for entry in json.loads(found.output) if not entry["passed"]] == ["one_step"]


class NeedsManySteps:
    """Learns from the hundredth step of a run, which not every run has."""

    def __init__(self, info, seed, fitted=None):
        self.shape = info.num_layers, info.num_experts

    @classmethod
    def fit(cls, runs, seed):
        return bytes(block.load_SLE[100, 0, 0] % 3 for _, block in runs)

    def observe(self, block):
        pass

    def forecast(self, request):
        return Forecast.constant(np.full(self.shape, 1 / self.shape[1]), request.horizon)


def test_a_fit_that_needs_longer_runs_is_told_how_short_they_may_be():
    """The message names the runs it was given, the shortest it may get and the line that failed."""
    failed = [result for result in check_forecaster(NeedsManySteps) if not result.passed and result.required]
    assert failed
    for result in failed:
        assert "fit raised IndexError" in result.message
        assert "it was given runs of 8 steps, and may get runs of 8" in result.message
        assert "test_conformance.py:" in result.message
