"""The numbers of a reproduction, as records that can be written and read again.

Axis letters: L MoE layers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from moeload_bench.schema import Record
from moeload_bench.scoring.floors import excess

Protocol = Literal["sliding", "blocks"]
Part = Literal["all", "before", "after"]
Value = float | None

PAPER_FORECASTERS = ("sw_avg", "arima", "lstm")
WINDOWS = (10, 500, 1000)
"""Further windows of SW_Avg, whose own the paper does not state; `sw_avg` alone has 100 steps."""
SIZED_FORECASTERS = ("sw_avg", "arima")
"""Those of the paper that need nothing to learn from: what they score is compared over sizes of the model."""
FORECASTERS = (*PAPER_FORECASTERS, *(f"sw_avg@window={window}" for window in WINDOWS), "uniform")
PROTOCOLS: tuple[Protocol, ...] = ("sliding", "blocks")
METRICS = ("error_rate", "error_rate_uniform", "window_error_rate", "tv", "window_tv")
"""Every reading of the paper's error that this package has; the floors know the same ones."""
LAYER_METRICS = ("error_rate", "window_error_rate")
"""Kept layer by layer, for the paper's forecasters: the readings of "error ratio for each individual MoE layer"."""
STATISTICS: tuple[tuple[str, int], ...] = (("variance", 10), ("variance", 100), ("range", 100))
"""The paper's sliding statistics and their windows in steps."""
PARTS: tuple[Part, ...] = ("all", "before", "after")


class LayerStates(Record):
    """When a layer settles: steps, None for never. ``back``: fraction of the steps after the onset spent transient."""

    name: str
    onset: int | None
    band: tuple[int | None, int | None]
    back: float | None


class Fluctuation(Record):
    """A sliding statistic of the shares per layer: mean over experts and over the steps before or after all onsets."""

    statistic: str
    window: int
    part: Part
    value_L: tuple[Value, ...]


class ErrorRow(Record):
    """A forecaster's errors in one state: means over origins and layers; ``per_layer`` [L] of the sliding origins."""

    protocol: Protocol
    horizon: int
    state: str
    forecaster: str
    origins: int
    errors: dict[str, Value]
    per_layer: dict[str, tuple[Value, ...]] = {}


class FloorRow(Record):
    """A floor of every error in one state: mean over windows and layers."""

    horizon: int
    state: str
    floor: str
    mark: str
    errors: dict[str, Value]


class LoadStudy(Record):
    """What the loads of one run do, and how well they are forecast."""

    id: str
    data_sha256: str
    steps: int
    states: tuple[LayerStates, ...]
    fluctuation: tuple[Fluctuation, ...]
    errors: tuple[ErrorRow, ...]

    @property
    def recipe(self) -> str:
        return self.id.split("/")[0]

    @property
    def settled(self) -> int | None:
        """Return the step from which every layer has been stable once; None when one never is."""
        onsets = [layer.onset for layer in self.states]
        return None if None in onsets else max(onset for onset in onsets if onset is not None)

    def fluctuates(self, statistic: str, window: int, part: Part) -> tuple[Value, ...]:
        """Return a sliding statistic per layer; empty where it was not taken."""
        for one in self.fluctuation:
            if (one.statistic, one.window, one.part) == (statistic, window, part):
                return one.value_L
        return ()

    def error(
        self, forecaster: str, metric: str, *, state: str, horizon: int, protocol: Protocol = "sliding", least: int = 1
    ) -> Value:
        """Return a mean error, None where there is none or it rests on fewer than ``least`` origins."""
        wanted = (protocol, horizon, state, forecaster)
        for row in self.errors:
            if (row.protocol, row.horizon, row.state, row.forecaster) == wanted:
                return row.errors.get(metric) if row.origins >= least else None
        return None


class SizedRun(LoadStudy):
    """One of several runs that differ in the size of the model and the learning rate only. ``errors``: of
    `SIZED_FORECASTERS` at the first horizon, sliding."""

    hidden_size: int
    learning_rate: float | None
    balancing: str


class RunStudy(LoadStudy):
    """One run. ``targets``: what ran under each name; ``counts``: events that a forecaster counted itself."""

    family: str
    experts: int
    top_k: int | None
    tokens: int | None
    lstm: str
    targets: dict[str, str]
    floors: tuple[FloorRow, ...]
    counts: dict[str, dict[str, int]] = {}
    failures: tuple[str, ...] = ()

    def floor(self, name: str, metric: str, *, state: str, horizon: int) -> Value:
        """Return a floor, None where it is not given."""
        for row in self.floors:
            if (row.floor, row.state, row.horizon) == (name, state, horizon):
                return row.errors.get(metric)
        return None


class Study(Record):
    """All runs, closest to the paper's first, and (id, reason) of the traces passed over.

    ``named``: the runs were named instead of chosen by rule. ``drawn``: how many of them, from the first, have figures.
    ``sizes``: runs of models that differ in size, whatever the rule says of them.
    """

    schema_version: Literal[1] = 1
    every: int
    horizons: tuple[int, ...]
    named: bool = False
    drawn: int = 0
    runs: tuple[RunStudy, ...]
    passed_over: tuple[tuple[str, str], ...] = ()
    sizes: tuple[SizedRun, ...] = ()

    def recipes(self) -> int:
        """Return how many recipes the runs are of."""
        return len({run.recipe for run in self.runs})


def excess_over(value: Value, floor: Value) -> Value:
    """Return the excess of an error over a floor, None where either does not exist."""
    return None if value is None or floor is None else float(f"{float(excess(np.array(value), np.array(floor))):.6g}")
