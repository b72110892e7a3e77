"""The conformance suite: sound forecasters pass, broken ones fail by the rule that they break."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, StepBlock
from moeload_bench.harness.conformance import REPORTED, RULES, check_forecaster
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.isolation.targets import baseline_names
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.support import broken

SLOW_BASELINES = ("arima", "average_tuned", "lstm", "sw_avg_conformal")
VARIANTS = (
    *("sw_avg@window=7", "since_plan@every=7", "since_plan@whole_blocks=true", "arima@order=[1,1,1],history=150"),
    "arima@order=[1,1,1],history=150,refit_every=160,engine=statsmodels",
)
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
    broken.CrashesLate: "long_run",
    broken.IgnoresStride: "sampled",
    broken.NeedsLoss: "no_covariates",
}


def failed(target: object) -> list[str]:
    """The required rules that a forecaster breaks, in their order."""
    return [result.rule for result in check_forecaster(target) if not result.passed and result.required]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW_BASELINES else name
        for name in (*baseline_names(), *VARIANTS)
    ],
)
def test_every_baseline_keeps_every_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reported one too: all but `lstm` take experts in any numbering. No rule asks how long it has learned."""
    if name == "lstm":
        monkeypatch.setattr("moeload_bench.baselines.lstm.OFFLINE_UPDATES", 8)
        monkeypatch.setattr("moeload_bench.baselines.lstm.ONLINE_UPDATES", 4)
    results = [result for result in check_forecaster(name) if result.required or name != "lstm"]
    assert [result for result in results if not result.passed] == []


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


@pytest.mark.parametrize("level", ["none", "process"])
def test_a_forecaster_that_ends_its_process_does_not_end_the_check(level: Level) -> None:
    """Every rule that asks it fails, and the first says how it ended."""
    found = check_forecaster(f"{broken.__file__}:EndsItsProcess", level=level)
    assert found[0].message.endswith("ended with status 0")
    assert not any(result.passed for result in found if result.rule in ("answers", "deterministic", "block_size"))


def test_every_rule_has_a_forecaster_that_breaks_it() -> None:
    """A rule that nothing can fail would be no rule."""
    assert sorted(BROKEN.values()) == sorted(RULES)


def test_the_numbering_of_experts_is_reported_and_not_required() -> None:
    """A forecaster may learn which expert is which."""
    results = check_forecaster(broken.FavoursFirstExpert)
    assert [result.rule for result in results if not result.passed] == ["expert_permutation"] == list(REPORTED)
    assert all(result.required for result in results if result.passed)


@pytest.mark.parametrize(
    ("place", "level"),
    [
        *(("Class", "none"), ("Module", "none"), ("Environment", "none")),
        pytest.param("Module", "process", marks=pytest.mark.slow),
    ],
)
def test_state_outside_the_instance_is_found_at_every_level(place: str, level: str) -> None:
    """In a class, a module or the environment, even if it is written once and never again; of a file and of a class."""
    environment = dict(os.environ)
    try:
        for target in (f"tests/support/broken.py:RememberedIn{place}", getattr(broken, f"RememberedIn{place}")):
            if level == "none" or isinstance(target, str):
                found = [r for r in check_forecaster(target, level=level) if r.required and not r.passed]
                assert [r.rule for r in found] == ["independent_instances"]
                assert "is state kept in a class, a module, os.environ?" in found[0].message
            os.environ.clear()
            os.environ.update(environment)
    finally:
        os.environ.clear()
        os.environ.update(environment)


@pytest.mark.parametrize("level", ["none", "process"])
def test_a_forecaster_that_sleeps_is_ended_by_a_clock(level: str) -> None:
    """The first rule says how long a call took; no later rule waits again."""
    began = time.monotonic()
    limits = Limits(wall_s_per_call=1, run_wall_s=60)
    first, *others = check_forecaster("tests/support/broken.py:Sleeps", level=level, limits=limits)
    assert time.monotonic() - began < 30
    assert first.rule == "answers"
    assert "observe takes over 1 s" in first.message or "observe took more than 1 s of wall time" in first.message
    assert {result.message for result in others if not result.passed} == {"the same cause as answers"}


def test_rules_that_take_too_long_together_are_ended() -> None:
    """One clock for all of them, for forecasters that sleep a little in every call."""
    results = check_forecaster(broken.Sound, limits=Limits(run_wall_s=0.01))
    assert any("the rules together take over 0.01 s of wall time" in result.message for result in results)


def test_an_empty_layer_is_looked_at_in_the_first_and_the_last_step_too() -> None:
    """The message says in which."""
    for which, row in (("first", 0), ("last", 89)):

        class NeedsThisRow(broken.Sound):
            row = 0

            def observe(self, block: StepBlock) -> None:
                for step, load_LE in zip(block.step_S, block.load_SLE, strict=True):
                    if step == self.row and not load_LE.sum(axis=1).all():
                        raise ZeroDivisionError("no load")
                super().observe(block)

        NeedsThisRow.row = row
        found = [result for result in check_forecaster(NeedsThisRow) if not result.passed]
        assert [result.rule for result in found] == ["empty_layer_step"]
        assert found[0].message.startswith(f"in the {which} step: observe raised ZeroDivisionError")


def test_one_cause_is_said_once() -> None:
    """Later rules name the first one that failed by it."""
    first, *others = [result for result in check_forecaster(broken.Raises) if not result.passed]
    assert "cannot observe" in first.message
    assert len(others) > 5
    assert {result.message for result in others} == {"the same cause as answers"}


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


@pytest.mark.parametrize("words", [("check",), ("run", "--level", "none", "--trace", "own.parquet")])
def test_what_a_forecaster_prints_is_no_part_of_the_answer(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to standard error, so that --json stays JSON."""
    from moeload_bench.cli.app import app

    target = f"{Path('tests/support/broken.py').resolve()}:Prints"
    monkeypatch.chdir(tmp_path)
    write_trace(synthetic_trace(300, recipe="own"), tmp_path / "own.parquet")
    done = CliRunner().invoke(app, [words[0], target, *words[1:], "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)
    assert "seen" in done.stderr


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
    for result in failed[:1]:
        assert "fit raised IndexError" in result.message
        assert "it was given runs of 8 steps, and may get runs of 8" in result.message
        assert "test_conformance.py:" in result.message


def test_a_forecaster_that_depends_on_blocks_keeps_nothing_outside_itself() -> None:
    """Instances are compared on the same blocks: what breaks one rule is not said to break another."""
    wrong = {result.rule for result in check_forecaster(broken.LearnsPerBlock, level="none") if not result.passed}
    assert "block_size" in wrong
    assert "independent_instances" not in wrong
