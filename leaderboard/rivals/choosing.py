"""Price the policies, choose one of each kind on `train` runs, compare on `test` runs. All of it was fixed beforehand.

The unit of time is a layer's part of a step. A cell states what fetching the weights of one expert within an NVLink
domain takes of it, and whether the rest is hidden behind other work. Bytes an expert are taken as: weights 1 (bf16),
gradients 2 (fp32), all that moves with an expert 7 (with AdamW). The network is 16 times slower than the domain (25 and
400 GB/s).

    within the step   launch + n fetch (1 + 3 where nothing is hidden)         n replicas on the busiest device
    plan              7 x 16 fetch for each expert that the busiest device receives
                      + 3 x 16 fetch for a spare slot in every layer, whose gradients are reduced home and whose
                        weights come back each step, where nothing is hidden

To stay is among the policies of every kind. Each run is a vote within its family of models, each family one vote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from leaderboard.rivals.measuring import FORECASTERS, Policy
from moeload_bench.arrays import FloatArray
from moeload_bench.results.skill import CONFIDENCE, t_quantile
from moeload_bench.traces.meta import Stratum

FRACTION = 0.5
"""Of a step that waits for the most loaded device."""
LAUNCH = 0.5
"""A balancer's run, in fetches: 0.1 ms where a fetch takes 0.2 ms."""
GRADIENTS, STATE, NETWORK = 2, 7, 16
WITHIN = ("quotas", "even")


class Cell(NamedTuple):
    """A cost and a class of batches: the fetch of one expert as a part of a layer's time, and what is hidden."""

    size: Stratum
    fetch: float
    hidden: bool


CELLS = tuple(
    Cell(size, fetch, hidden)
    for size in ("large", "small")
    for fetch in (0.0005, 0.005, 0.05)
    for hidden in (True, False)
)
PRIMARY = Cell("large", 0.005, True)
"""The one cell that the claim is about; the others describe."""
KINDS: Mapping[str, tuple[str, str]] = {
    "within": ("quotas within the step, at equal slots", "does == 'quotas' and memory == 'slots' and domain == 0"),
    "bytes": ("quotas within the step, at equal bytes", "does == 'quotas' and memory == 'bytes' and domain == 0"),
    "even": ("even tokens", "does == 'even'"),
    "plans": ("plans from forecasts", f"does in {FORECASTERS}"),
    "late": ("reaction one step late", "does == 'late' and every == 1"),
    "oracle": ("plans by an oracle", "does == 'oracle'"),
}
"""Each kind in words, with its policies."""
AGAINST = "plans"
"""The kind that the others are compared with."""


class Chosen(NamedTuple):
    """The policy of a kind that saved most on `train` runs of a cell; what it saved on `test` runs, by family [F]."""

    policy: Policy
    saved_F: pd.Series


class Difference(NamedTuple):
    """A kind less plans from forecasts, in points of the step time, with an interval."""

    points: float
    low: float
    high: float


def saved_percent(rows: pd.DataFrame, cell: Cell) -> FloatArray:
    """Return what each policy saves of the step time, in percent; ``rows``: with `stay`, max / mean without moves."""
    within = rows["does"].isin(WITHIN).to_numpy()
    busiest, exposed = rows["busiest"].to_numpy(np.float64), not cell.hidden
    react = LAUNCH + busiest * (1 + (1 + GRADIENTS) * exposed)
    spare = ((rows["memory"] == "slots") & (rows["does"] != "stay")).to_numpy()
    plan = NETWORK * (STATE * busiest + (1 + GRADIENTS) * exposed * spare)
    gain = FRACTION * (1 - rows["imbalance"].to_numpy() / rows["stay"].to_numpy())
    return np.asarray(100 * (gain - cell.fetch * np.where(within, react, plan * (rows["does"] != "stay"))))


def chosen(rows: pd.DataFrame, cell: Cell) -> dict[str, Chosen]:
    """Return the policy of each kind in a cell; ``rows``: of all runs, with `run`, `family`, `size` and `stay`."""
    of_size = rows[rows["size"] == cell.size]
    priced = of_size.assign(saved=saved_percent(of_size, cell), train=of_size["run"].str.contains("/train/"))
    by_kind = {}
    for kind, (_, policies) in KINDS.items():
        of_kind = priced.query(f"({policies}) or does == 'stay'").set_index(list(Policy._fields))
        votes = of_kind[of_kind["train"]].groupby([*Policy._fields, "family"], sort=False)["saved"].mean()
        means = votes.groupby(list(Policy._fields), sort=False).mean()
        policy = Policy(*means.index[int(means.to_numpy().argmax())])
        tested = of_kind[~of_kind["train"]].loc[[policy]]
        by_kind[kind] = Chosen(policy, tested.groupby("family")["saved"].mean())
    return by_kind


def differences(by_kind: Mapping[str, Chosen], tests: int) -> dict[str, Difference]:
    """Return each kind less plans from forecasts, paired by family; the intervals of ``tests`` differences all hold.

    With fewer than three families there is no interval.
    """
    return dict(_differences(by_kind, tests))


def _differences(by_kind: Mapping[str, Chosen], tests: int) -> Iterator[tuple[str, Difference]]:
    for kind, choice in by_kind.items():
        if kind == AGAINST:
            continue
        point_F = (choice.saved_F - by_kind[AGAINST].saved_F).to_numpy()
        half = float("nan")
        if len(point_F) > 2:
            wide = t_quantile(len(point_F) - 1, 1 - (1 - CONFIDENCE) / tests)
            half = float(wide * point_F.std(ddof=1) / np.sqrt(len(point_F)))
        mean = float(point_F.mean())
        yield kind, Difference(mean, mean - half, mean + half)
