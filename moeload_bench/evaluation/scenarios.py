"""What conformance checks are run on: small synthetic runs, and a forecaster that is shown them.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ForecastError
from moeload_bench.evaluation.harness import Feed, follow
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.hosts import Level, Limits, fit_target
from moeload_bench.isolation.targets import Target

FIT_STEPS = 300
SHORTEST_FIT = 8
"""Steps of the shortest run that `fit` may get, here or from a suite."""


@dataclass(frozen=True)
class Scenario:
    """A small synthetic run and what is asked after it."""

    steps: int = 90
    layers: int = 2
    experts: int = 3
    stride: int = 1
    tokens: int = 512
    dead: int = 0
    empty_step: bool = False
    covariates: bool = True
    horizons: tuple[int, ...] = (1, 10, 60)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)

    @property
    def info(self) -> TraceInfo:
        """What the forecaster is told of the run."""
        L, E = self.layers, self.experts
        return TraceInfo(L, E, 1, tuple(range(L)), self.tokens, self.stride, "none", 0.0, 0)

    def block(self, seed: int = 0) -> StepBlock:
        """The whole run: shares that drift from one random mix to another, counts drawn from them."""
        rng = np.random.default_rng(seed)
        S, L, E = self.steps, self.layers, self.experts
        start, end = rng.dirichlet(np.full(E, 2.0), size=(2, L))
        mix_S = np.exp(-np.arange(S) / 40)[:, None, None]
        p_SLE = mix_S * start + (1 - mix_S) * end
        p_SLE[:, :, E - self.dead :] = 0
        load = rng.multinomial(self.tokens, p_SLE / p_SLE.sum(axis=2, keepdims=True)).astype(np.int64)
        if self.empty_step:
            load[S // 2, 0] = 0
        columns: dict[str, NDArray[Any]] = {
            "loss": np.linspace(6, 3, S, dtype=np.float32),
            "load_half": rng.binomial(load, 0.5),
        }
        return StepBlock(np.arange(S) * self.stride, load, load.sum(axis=2), columns if self.covariates else {})

    def request(self, horizons: tuple[int, ...] | None = None) -> ForecastRequest:
        """The question after the last step."""
        asked = horizons or self.horizons
        lr = np.full(asked[-1], 1e-3) if self.covariates else None
        return ForecastRequest(self.steps * self.stride, asked[-1], asked, self.quantiles, lr)


BASIC = Scenario()


class Subject:
    """The forecaster under test, at a level of isolation."""

    def __init__(self, target: Target, level: Level, seed: int, limits: Limits | None) -> None:
        self.target, self.level, self.seed, self.limits = target, level, seed, limits
        self._fits: dict[TraceInfo, bytes | None] = {}
        self._basic: Forecast | ForecastError | None = None

    def basic(self) -> Forecast:
        """What it forecasts after the basic run; the same answer, or the same error, for every rule that asks."""
        if self._basic is None:
            try:
                self._basic = self.ask(BASIC)
            except ForecastError as error:
                self._basic = error
        if isinstance(self._basic, ForecastError):
            raise self._basic
        return self._basic

    def open(self, scenario: Scenario) -> Feed:
        """A new instance, fitted on two other runs of the same shape when its class learns from runs."""
        fitted = self.fitted(scenario)
        return follow(self.target, scenario.info, seed=self.seed, fitted=fitted, level=self.level, limits=self.limits)

    def ask(self, scenario: Scenario, sizes: Sequence[int] = (), horizons: tuple[int, ...] | None = None) -> Forecast:
        """Show a new instance the whole run, in blocks of these sizes (in turn), and ask."""
        with self.open(scenario) as feed:
            run, start = scenario.block(), 0
            for size in itertools.cycle(sizes or (scenario.steps,)):
                feed.rows(run.rows(start, start + size))
                start += size
                if start >= scenario.steps:
                    break
            return feed.ask(scenario.request(horizons))

    def fitted(self, scenario: Scenario) -> bytes | None:
        """What its `fit` returns for runs of this shape, None when it has none."""
        if scenario.info not in self._fits:
            self._fits[scenario.info] = self.fit(scenario)
        return self._fits[scenario.info]

    def fit(self, scenario: Scenario) -> bytes | None:
        """Fit anew."""
        longer = replace(scenario, steps=max(scenario.steps, FIT_STEPS if scenario.experts < 32 else SHORTEST_FIT))
        runs = [(scenario.info, longer.block(seed)) for seed in (1, 2)]
        try:
            out = fit_target(self.target, runs, seed=self.seed, level=self.level, limits=self.limits)
        except ForecastError as error:
            given = f"it was given runs of {longer.steps} steps, and may get runs of {SHORTEST_FIT}"
            raise ForecastError(f"{error} ({given})", error.rule) from error
        return None if out is None else out[0]
