"""Conformance: does a forecaster keep the contract? For people's own tests, and behind `moeload-bench check`.

Each rule is one small function that returns None or what is wrong. They run on small synthetic loads; a forecaster that
passes them all cannot fail a suite for reasons of form.

Axis letters: S steps, L MoE layers, E experts, K horizons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moeload_bench.bounds import whole_number
from moeload_bench.errors import ForecastError, TargetError
from moeload_bench.forecaster import FORECAST_RULES, Forecast, StepBlock
from moeload_bench.harness.scenarios import BASIC, FIT_RUNS, OTHER_RUN, Scenario, Subject
from moeload_bench.isolation.hosts import Level, Limits, parse_level
from moeload_bench.isolation.targets import Target, class_target, parse_target
from moeload_bench.words import Progress

EMPTY_ROWS = {"middle": BASIC.steps // 2, "first": 0, "last": BASIC.steps - 1}
LONG_STEPS = 600
RELATIVE_TOLERANCE = 1e-9
SAME_AS = "the same cause as "
ABSOLUTE_TOLERANCE = 1e-12  # shares of dead experts may be 1e-300 in one order of summation and 0 in another


@dataclass(frozen=True)
class CheckResult:
    """What came of one rule. A rule that is not ``required`` is reported only."""

    rule: str
    passed: bool
    message: str
    required: bool = True


def check_forecaster(
    forecaster: str | type[Any] | Target,
    *,
    level: Level = "none",
    seed: int = 0,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """Run every rule of conformance on a forecaster; one result per rule, in the order of `RULES`.

    ``forecaster`` is a target (`"sw_avg"`, `"my.py:Mine@window=5"`) or a class of this process. Level `none` is the
    strictest: only there do instances share a process. ``progress`` is called as each rule begins. Raises `TargetError`
    for a target that cannot be used, `IsolationError` for an unknown level.
    """
    parse_level(level)
    seed = whole_number(seed, "seed", 0)
    if isinstance(forecaster, str):
        forecaster = parse_target(forecaster)
    target = forecaster if isinstance(forecaster, Target) else class_target(forecaster)
    subject = Subject(target, level, seed, limits)
    results, rules = [], RULES | REPORTED
    for number, (name, rule) in enumerate(rules.items()):
        if progress is not None:
            progress(number, len(rules), name)
        results.append(_run(name, rule, subject, required=name in RULES))
    return list(_causes_once(results))


def _causes_once(results: Sequence[CheckResult]) -> Iterator[CheckResult]:
    """Yield the results; where a rule fails for the reason of an earlier one, the message names that one."""
    first: dict[str, str] = {}
    for result in results:
        earlier = next((rule for cause, rule in first.items() if cause in result.message), None)
        if not result.passed and earlier is None:
            first[result.message.partition(FIT_RUNS)[0]] = result.rule
        yield result if result.passed or earlier is None else replace(result, message=f"{SAME_AS}{earlier}")


def _run(name: str, rule: Rule, subject: Subject, required: bool) -> CheckResult:
    try:
        wrong = rule(subject)
    except ForecastError as error:
        # A forecast of the wrong form is reported once, by the rule that it breaks on the basic run.
        wrong = str(error)
    except TargetError:
        if name == "answers":
            raise
        wrong = "the constructor refuses this run"
    return CheckResult(name, wrong is None, wrong or "ok", required)


# ------------------------------------------------------------------------------------------------ the rules

Rule = Callable[[Subject], str | None]


def answers(subject: Subject) -> str | None:
    """Check that it raises nothing when it is constructed, shown a run and asked."""
    try:
        subject.basic()
    except ForecastError as error:
        return None if error.rule in FORECAST_RULES else str(error)
    return None


def form(rule: str) -> Rule:
    """Return the check that the forecast after the basic run keeps this one of `FORECAST_RULES`."""

    def check(subject: Subject) -> str | None:
        try:
            subject.basic()
        except ForecastError as error:
            return str(error) if error.rule == rule else None
        return None

    return check


def deterministic(subject: Subject) -> str | None:
    """Check that two instances with one seed forecast the same, bit for bit."""
    return differs(subject.basic(), subject.ask(BASIC), BASIC.horizons, exact=True)


def block_size(subject: Subject) -> str | None:
    """Check that the sizes of the blocks that `observe` is given do not matter, to 1e-9 relative."""
    at_once = subject.basic()
    for sizes in ((1,), (7, 1, 30)):
        wrong = differs(at_once, subject.ask(BASIC, sizes), BASIC.horizons)
        if wrong is not None:
            return f"blocks of {sizes} steps and one of {BASIC.steps}: {wrong}"
    return None


def forecast_is_pure(subject: Subject) -> str | None:
    """Check that `forecast` does not change what later calls return: the next one, or one after more steps."""
    run, half = BASIC.block(), BASIC.steps // 2
    with subject.open(BASIC) as asked, subject.open(BASIC) as quiet:
        for feed in (asked, quiet):
            feed.rows(run.rows(0, half))
        first = asked.ask(BASIC.request())
        asked.ask(BASIC.request(BASIC.horizons[:2]))
        again = differs(first, asked.ask(BASIC.request()), BASIC.horizons, exact=True)
        if again is not None:
            return f"asked twice: {again}"
        for feed in (asked, quiet):
            feed.rows(run.rows(half, BASIC.steps))
        wrong = differs(asked.ask(BASIC.request()), quiet.ask(BASIC.request()), BASIC.horizons)
        return wrong and f"asked half-way or not: {wrong}"


def horizon_prefix(subject: Subject) -> str | None:
    """Check that, asked for a longer horizon, it says the same of the shorter ones."""
    shorter = BASIC.horizons[:2]
    return differs(subject.ask(BASIC, horizons=shorter), subject.basic(), shorter)


def independent_instances(subject: Subject) -> str | None:
    """Check that an instance does not care that its process has, or had, another one, which follows another run."""
    cuts = ((0, 40), (40, BASIC.steps))
    with subject.open(BASIC) as instance:  # in the same blocks: whether these matter is a rule of its own
        for start, stop in cuts:
            instance.rows(BASIC.block(0).rows(start, stop))
        alone = instance.ask(BASIC.request())
    with subject.open(BASIC) as instance, subject.open(BASIC) as neighbour:
        for start, stop in cuts:
            for seed, feed in ((0, instance), (OTHER_RUN, neighbour)):
                feed.rows(BASIC.block(seed).rows(start, stop))
        neighbour.ask(BASIC.request())
        wrong = differs(alone, instance.ask(BASIC.request()), BASIC.horizons)
    first = subject.first_in_process()
    if wrong is None and first is not None:
        wrong = differs(first, subject.second_in_process(), BASIC.horizons)
    return wrong and f"another instance before or beside it: {wrong}; is state kept in a class, a module, os.environ?"


def copes_with(**scenarios: Scenario) -> Rule:
    """Return the check that unusual runs get a valid forecast."""

    def check(subject: Subject) -> str | None:
        for which, scenario in scenarios.items():
            try:
                subject.ask(scenario)
            except ForecastError as error:
                if len(scenarios) == 1:
                    raise
                return f"{which}: {error}"
        return None

    return check


def fit(subject: Subject) -> str | None:
    """Check that `fit` (where there is one) returns the same bytes for the same runs and seed."""
    return None if subject.fitted(BASIC) == subject.fit(BASIC) else "two fits on the same runs return different bytes"


def expert_permutation(subject: Subject) -> str | None:
    """Report whether other numbers for the experts give the same forecast, renumbered."""
    order = np.roll(np.arange(BASIC.experts), 1)
    plain, run = subject.basic(), BASIC.block()
    columns = {"loss": run.covariates["loss"], "load_half": run.covariates["load_half"][:, :, order]}
    with subject.open(BASIC) as feed:
        feed.rows(StepBlock(run.step_S, run.load_SLE[:, :, order], run.tokens_SL, columns))
        permuted = feed.ask(BASIC.request())
    expected = Forecast(plain.share_BLE[:, :, order], plain.edges_B)
    return differs(expected, permuted, BASIC.horizons)


RULES: dict[str, Rule] = {
    "answers": answers,
    **{rule: form(rule) for rule in FORECAST_RULES},
    "deterministic": deterministic,
    "block_size": block_size,
    "forecast_is_pure": forecast_is_pure,
    "horizon_prefix": horizon_prefix,
    "independent_instances": independent_instances,
    "fit": fit,
    "dead_experts": copes_with(run=replace(BASIC, experts=4, dead=2)),
    "empty_layer_step": copes_with(
        **{f"in the {which} step": replace(BASIC, empty_row=row) for which, row in EMPTY_ROWS.items()}
    ),
    "one_expert": copes_with(run=replace(BASIC, experts=1)),
    "one_step": copes_with(run=replace(BASIC, steps=1)),
    "many_experts": copes_with(run=replace(BASIC, steps=4, layers=128, experts=128, tokens=4096)),
    "long_run": copes_with(run=replace(BASIC, steps=LONG_STEPS)),
    "sampled": copes_with(run=replace(BASIC, stride=10)),
    "no_covariates": copes_with(run=replace(BASIC, covariates=False)),
}
REPORTED: dict[str, Rule] = {"expert_permutation": expert_permutation}


# ------------------------------------------------------------------------------------------------ helpers


def differs(first: Forecast, second: Forecast, horizons: Sequence[int], exact: bool = False) -> str | None:
    """Return where two forecasts differ; None if they say the same over every horizon (``exact``: bit for bit)."""
    same = np.array_equal(first.share_BLE, second.share_BLE) and np.array_equal(first.edges_B, second.edges_B)
    if exact and same:
        return None
    means = zip(horizons, first.window_means(horizons), second.window_means(horizons), strict=True)
    for h, first_LE, second_LE in means:
        if exact or not np.allclose(first_LE, second_LE, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE):
            worst = float(np.abs(first_LE - second_LE).max())
            return f"the mean share over {h} steps differs by up to {worst:.3g}"
    return None
