"""What a dashboard gets of a run: few numbers with stable names, as many for 61 layers of 384 experts as for two of 8.

Each is taken over all MoE layers. Where pipeline stages are monitored apart, each writes the numbers of its own layers
into a folder that all of them see, and those that have sinks wait there for the others (docs/guide/live.md).

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.bounds import parse_json
from moeload_bench.errors import RecordingError
from moeload_bench.files import read_at_most, write_whole
from moeload_bench.ops.facts.inspector import Inspection
from moeload_bench.traces.means import mean_known, ratio_of

PREFIX = "moe"
SERIES: Mapping[str, str] = {
    "load_imbalance_p50": "busiest expert's load over the mean one, median over layers",
    "load_imbalance_p95": "busiest expert's load over the mean one, 95th percentile over layers",
    "load_imbalance_max": "busiest expert's load over the mean one, in the worst layer",
    "load_imbalance_over_floor_p50": "the same over what noise alone would give, median over layers",
    "load_imbalance_over_floor_p95": "the same over what noise alone would give, 95th percentile over layers",
    "load_imbalance_over_floor_max": "the same over what noise alone would give, in the worst layer",
    "max_violation": "busiest expert's load of a batch over the mean one, less 1, in the worst layer",
    "mean_violation": "busiest expert's load of a batch over the mean one, less 1, mean over layers",
    "max_violation_micro_batch": "the same within one micro-batch on one rank, in the worst layer",
    "dead": "experts below a tenth of an equal share, in all layers",
    "falling": "experts that the alarm warns of, in all layers",
    "settled_share": "share of the layers that are settled",
    "drift": "fraction of tokens that moves between neighbouring windows, mean over layers",
    "events": "events so far",
}
"""Each series, and what it is. Balance is a mean over the recent rows."""
CONSOLE: Mapping[str, str] = {
    "max_violation": "violation {:.2f} in the worst layer",
    "mean_violation": "{:.2f} on average",
    "dead": "{:,.0f} experts dead",
    "drift": "drift {:.1%} of tokens",
    "events": "{:,.0f} events",
}
"""What a console says of some of them."""
WAIT_S = 30.0
"""How long a sink waits for the other stages' numbers of a step."""
_LOOK_S = 0.05
_KEPT = 8
"""Steps whose numbers a stage leaves in the folder."""
_MAX_BYTES = 16 << 20


class LayerNumbers(NamedTuple):
    """What is known of each layer, NaN where it is not, and the ``events`` so far.

    ``imbalance_L``: busiest expert over the mean; ``over_floor_L``: that over the upper end of noise alone;
    ``micro_batch_L``: as ``imbalance_L`` within a micro-batch; ``settled_L``: 1 or 0.
    """

    imbalance_L: FloatArray
    over_floor_L: FloatArray
    micro_batch_L: FloatArray
    dead_L: FloatArray
    falling_L: FloatArray
    settled_L: FloatArray
    drift_L: FloatArray
    events: int


def layer_numbers(facts: Inspection) -> LayerNumbers:
    """Return the numbers of a run's layers; a layer without load has none."""
    loaded_L, states = np.isfinite(facts.busiest_L), facts.states
    unknown_L = np.full(len(loaded_L), np.nan)
    return LayerNumbers(
        facts.busiest_L,
        ratio_of(facts.busiest_L, facts.high_L),
        unknown_L if facts.micro_batch_L is None else facts.micro_batch_L,
        np.where(loaded_L, facts.dead_LE.sum(axis=1), np.nan),
        np.where(loaded_L, facts.dying_LE.sum(axis=1), np.nan),
        unknown_L if states is None else np.where(loaded_L, ~states.unsettled_L, np.nan),
        unknown_L if states is None else states.drift_L,
        facts.events.total,
    )


def joined_layers(parts: Sequence[LayerNumbers]) -> LayerNumbers:
    """Return the layers of several stages as those of one model."""
    names = LayerNumbers._fields[:-1]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return LayerNumbers(**arrays, events=sum(part.events for part in parts))


def series_of(layers: LayerNumbers) -> dict[str, float]:
    """Return `moe/NAME` of each of `SERIES`; what is not known is left out."""
    violation_L, loaded = layers.imbalance_L - 1, bool(np.isfinite(layers.imbalance_L).any())
    values = {
        **_over_layers("load_imbalance", layers.imbalance_L),
        **_over_layers("load_imbalance_over_floor", layers.over_floor_L),
        "max_violation": _largest(violation_L),
        "mean_violation": mean_known(violation_L),
        "max_violation_micro_batch": _largest(layers.micro_batch_L - 1),
        "dead": float(np.nansum(layers.dead_L)) if loaded else math.nan,
        "falling": float(np.nansum(layers.falling_L)) if loaded else math.nan,
        "settled_share": mean_known(layers.settled_L),
        "drift": mean_known(layers.drift_L),
        "events": float(layers.events) if loaded else math.nan,
    }
    return {f"{PREFIX}/{name}": values[name] for name in SERIES if math.isfinite(values[name])}


def _over_layers(name: str, value_L: FloatArray) -> dict[str, float]:
    """Return median, 95th percentile (linear, as torch.quantile) and maximum of the known values."""
    numbers = value_L[np.isfinite(value_L)]
    middle, high = np.quantile(numbers, [0.5, 0.95]).tolist() if numbers.size else (math.nan, math.nan)
    return {f"{name}_p50": middle, f"{name}_p95": high, f"{name}_max": _largest(value_L)}


def _largest(value_L: FloatArray) -> float:
    numbers = value_L[np.isfinite(value_L)]
    return float(numbers.max()) if numbers.size else math.nan


def console_line(values: Mapping[str, float], step: int) -> str:
    """Return what a console says of a step: `moe, step 500: violation 1.58 in the worst layer, 3 experts dead, ...`."""
    parts = [words.format(values[key]) for name, words in CONSOLE.items() if (key := f"{PREFIX}/{name}") in values]
    return f"{PREFIX}, step {step:,}: {', '.join(parts) or 'no load'}"


class StageFolder:
    """A folder in which pipeline stages leave the numbers of their layers; stage ``index`` of ``stages`` writes here.

    What this stage left there in an earlier training is removed.
    """

    def __init__(self, folder: Path, index: int, stages: int) -> None:
        self._folder, self._index, self._stages = folder, index, stages
        for path in self._written():
            path.unlink(missing_ok=True)

    def put(self, layers: LayerNumbers, step: int) -> None:
        """Leave this stage's numbers of a step, and remove those of long ago."""
        lists = {name: value if isinstance(value, int) else _plain(value) for name, value in layers._asdict().items()}
        write_whole(self._path(self._index, step), json.dumps(lists).encode())
        for path in self._written()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def gathered(self, step: int) -> LayerNumbers:
        """Return the layers of all stages at a step; raise `RecordingError` if one does not come in WAIT_S."""
        end = time.monotonic() + WAIT_S
        paths = [self._path(index, step) for index in range(self._stages)]
        while missing := [index for index, path in enumerate(paths) if not path.is_file()]:
            if time.monotonic() > end:
                raise RecordingError(f"{self._folder}: stage {missing[0]} left nothing of step {step} in {WAIT_S:g} s")
            time.sleep(_LOOK_S)
        return joined_layers([_read(path) for path in paths])

    def _path(self, index: int, step: int) -> Path:
        return self._folder / f"stage{index}of{self._stages}-step{step:09d}.json"

    def _written(self) -> list[Path]:
        return sorted(self._folder.glob(f"stage{self._index}of{self._stages}-step*.json"))


def _plain(value_L: FloatArray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in value_L.tolist()]


def _read(path: Path) -> LayerNumbers:
    """Return what a stage left; raise `RecordingError` for anything else, since others may write there, too."""
    try:
        lists = parse_json(read_at_most(path, _MAX_BYTES))
        events = int(lists.pop("events"))
        values = {name: np.array(value, dtype=np.float64) for name, value in lists.items()}
        if any(value_L.ndim != 1 for value_L in values.values()):
            raise ValueError("a list of lists")
        return LayerNumbers(**values, events=events)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"{path}: not the numbers of a stage: {str(error)[:200]}") from None
