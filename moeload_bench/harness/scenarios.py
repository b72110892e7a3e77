"""What conformance checks are run on: small synthetic runs, and a forecaster that is shown them.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ForecastError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.harness.replay import Feed
from moeload_bench.isolation.hosts import Host, Level, Limits, class_here, end_words, fit_target, open_host
from moeload_bench.isolation.targets import ClassTarget, Target

FIT_STEPS = 300
CALL_S, CHECK_S = 30.0, 600.0
"""Wall seconds of one call, and of all rules together, by default."""
OTHER_RUN = 5
FIT_RUNS = " (it was given runs of "
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
    empty_row: int | None = None
    covariates: bool = True
    horizons: tuple[int, ...] = (1, 10, 60)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)

    @property
    def info(self) -> TraceInfo:
        """Return what the forecaster knows of the run."""
        L, E = self.layers, self.experts
        return TraceInfo(L, E, 1, tuple(range(L)), self.tokens, self.stride, "none", 0.0, 0)

    def block(self, seed: int = 0) -> StepBlock:
        """Return the whole run: shares that drift from one random mix to another, counts drawn from them."""
        rng = np.random.default_rng(seed)
        S, L, E = self.steps, self.layers, self.experts
        start, end = rng.dirichlet(np.full(E, 2.0), size=(2, L))
        mix_S = np.exp(-np.arange(S) / 40)[:, None, None]
        p_SLE = mix_S * start + (1 - mix_S) * end
        p_SLE[:, :, E - self.dead :] = 0
        load = rng.multinomial(self.tokens, p_SLE / p_SLE.sum(axis=2, keepdims=True)).astype(np.int64)
        if self.empty_row is not None:
            load[self.empty_row, 0] = 0
        columns: dict[str, NDArray[Any]] = {
            "loss": np.linspace(6, 3, S, dtype=np.float32),
            "load_half": rng.binomial(load, 0.5),
        }
        return StepBlock(np.arange(S) * self.stride, load, load.sum(axis=2), columns if self.covariates else {})

    def request(self, horizons: tuple[int, ...] | None = None) -> ForecastRequest:
        """Return the question after the last step."""
        asked = horizons or self.horizons
        lr = np.full(asked[-1], 1e-3) if self.covariates else None
        return ForecastRequest(self.steps * self.stride, asked[-1], asked, self.quantiles, lr)


BASIC = Scenario()


class Subject:
    """The forecaster under test, at a level of isolation."""

    def __init__(self, target: Target, level: Level, seed: int, limits: Limits | None) -> None:
        self.target, self.level, self.seed = target, level, seed
        self.limits = limits or Limits(wall_s_per_call=CALL_S, run_wall_s=CHECK_S)
        self._ends = time.monotonic() + self.limits.run_wall_s
        self._over: ForecastError | None = None
        self._fits: dict[TraceInfo, bytes | None] = {}
        self._basic: Forecast | ForecastError | None = None
        self._loaded: Target | None = None
        # level `none` has one process for everything: only now has no instance been in it
        seconds = self.limits.wall_s_per_call
        self._first: Forecast | None = None
        if level == "none":
            try:
                self._first = in_fork(lambda: self.ask(BASIC, run=OTHER_RUN), seconds)
            except ForecastError as error:
                self._over = error  # here it would end the check too

    def basic(self) -> Forecast:
        """Return its forecast after the basic run: the same answer, or the same error, for every rule that asks."""
        if self._basic is None:
            try:
                self._basic = self.ask(BASIC)
            except ForecastError as error:
                self._basic = error
        if isinstance(self._basic, ForecastError):
            raise self._basic
        return self._basic

    def open(self, scenario: Scenario) -> Feed:
        """Open a new instance, fitted on two other runs of the same shape when its class learns from runs."""
        fitted = self.fitted(scenario)
        with self.clock("the constructor"):
            host = open_host(
                self._target(), scenario.info, seed=self.seed, fitted=fitted, level=self.level, limits=self.limits
            )
        return _ClockedFeed(host, self)

    def ask(
        self, scenario: Scenario, sizes: Sequence[int] = (), horizons: tuple[int, ...] | None = None, run: int = 0
    ) -> Forecast:
        """Show a new instance the whole run, in blocks of these sizes (in turn), and ask."""
        with self.open(scenario) as feed:
            block, start = scenario.block(run), 0
            for size in itertools.cycle(sizes or (scenario.steps,)):
                feed.rows(block.rows(start, start + size))
                start += size
                if start >= scenario.steps:
                    break
            return feed.ask(scenario.request(horizons))

    def first_in_process(self) -> Forecast | None:
        """Return its forecast after OTHER_RUN in a process without an earlier instance; None where there is no such."""
        return self._first if self.level == "none" else self.ask(BASIC, run=OTHER_RUN)

    def second_in_process(self) -> Forecast:
        """Return the same of an instance whose process had another one before, which followed the basic run."""
        with self.open(BASIC) as feed:
            for run in (0, OTHER_RUN):
                feed.rows(BASIC.block(run))
                answer = feed.ask(BASIC.request())
                if run != OTHER_RUN:
                    feed.host.start(BASIC.info, self.seed, self.fitted(BASIC))
            return answer

    @contextmanager
    def clock(self, what: str, seconds: float | None = None) -> Iterator[None]:
        """End a call that takes too long; after that, every call raises the same `ForecastError`.

        Level `none` has no process to end: an alarm raises in the forecaster's own code, where the system has alarms.
        """
        began = time.monotonic()
        most = min(seconds or self.limits.wall_s_per_call, self._ends - began)
        if self._over is None and most <= 0:
            self._over = ForecastError(f"the rules together take over {self.limits.run_wall_s:g} s of wall time")
        if self._over is not None:
            raise self._over
        try:
            with alarm(most, f"{what} takes over {most:.3g} s") if self.level == "none" else nullcontext():
                yield
        except ForecastError as error:
            if time.monotonic() - began >= most:
                self._over = error
            raise

    def _target(self) -> Target:
        """Return the target; at level `none` its class, imported once: a file's instances share its module too."""
        if self.level != "none" or isinstance(self.target, ClassTarget):
            return self.target
        if self._loaded is None:
            cls = class_here(self.target)
            self._loaded = ClassTarget(
                text=self.target.text, class_name=cls.__name__, kwargs=self.target.kwargs, cls=cls
            )
        return self._loaded

    def fitted(self, scenario: Scenario) -> bytes | None:
        """Return what its `fit` returns for runs of this shape, None when it has none."""
        if scenario.info not in self._fits:
            self._fits[scenario.info] = self.fit(scenario)
        return self._fits[scenario.info]

    def fit(self, scenario: Scenario) -> bytes | None:
        """Fit anew."""
        longer = replace(scenario, steps=max(scenario.steps, FIT_STEPS if scenario.experts < 32 else SHORTEST_FIT))
        runs = [(scenario.info, longer.block(seed)) for seed in (1, 2)]
        with self.clock("fit", self.limits.fit_wall_s):
            try:
                out = fit_target(self._target(), runs, seed=self.seed, level=self.level, limits=self.limits)
            except ForecastError as error:
                given = f"{FIT_RUNS}{longer.steps} steps, and may get runs of {SHORTEST_FIT}"
                raise ForecastError(f"{error}{given})", error.rule) from error
        return None if out is None else out[0]


class _ClockedFeed(Feed):
    """A feed whose calls end by the subject's clock."""

    def __init__(self, host: Host, subject: Subject) -> None:
        super().__init__(host)
        self._clock = subject.clock

    def rows(self, block: StepBlock) -> None:
        with self._clock("observe"):
            super().rows(block)

    def ask(self, request: ForecastRequest) -> Forecast:
        with self._clock("forecast"):
            return super().ask(request)


@contextmanager
def alarm(seconds: float, text: str) -> Iterator[None]:
    """Raise `TimeoutError` in the code that runs after so many seconds; only a main thread of a POSIX system can."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError(text)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # again and again: the code may catch every error
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_fork(call: Callable[[], Forecast], seconds: float) -> Forecast | None:
    """Return what a copy of this process answers; None where it fails, takes longer, or cannot be had.

    Raises `ForecastError` where the call ends the copy.
    """
    if sys.platform != "linux":
        return None
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def answer() -> None:
        forecast = None
        with contextlib.suppress(Exception):
            forecast = call()
        theirs.send(forecast)

    child = context.Process(target=answer, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads: the copy only calculates
        child.start()
    theirs.close()
    try:
        forecast: Forecast | None = ours.recv() if ours.poll(seconds) else None
    except (EOFError, OSError):
        child.join(seconds)
        how = "closed its pipe" if child.exitcode is None else end_words(child.exitcode)
        raise ForecastError(f"the forecaster's process: {how}") from None
    finally:
        child.kill()
        child.join()
    return forecast
