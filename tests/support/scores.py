"""Parts of a table of results that tests look at. Axis letters: O origins, K suite horizons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moeload_bench.arrays import FloatArray
from moeload_bench.results.columns import CostResult
from moeload_bench.results.results import Results


def metric_OK(results: Results, forecaster: str, metric: str = "window_tv") -> FloatArray:
    """Return a metric of a forecaster on all of its origins, run by run."""
    rows = results.table[results.table["forecaster"] == forecaster]
    return rows[metric].to_numpy(np.float64).reshape(-1, len(results.suite.horizons))


def failures(results: Results, forecaster: str) -> dict[int, str]:
    """Return the failed origins of a forecaster, with their reasons."""
    rows = results.failures[results.failures["forecaster"] == forecaster]
    return dict(zip(rows["origin"].tolist(), rows["failure"].tolist(), strict=True))


def scored_table(results: Results) -> pd.DataFrame:
    """Return the table without what was measured: seconds and bytes."""
    return results.table.drop(columns=list(CostResult.model_fields))


def same_scores(one: Results, other: Results) -> bool:
    """Return whether two tables are equal bit by bit: rows, means by layer, and forecasts; all but timings."""
    texts = [[scored_table(part).to_csv(), part.layers.to_csv()] for part in (one, other)]
    return texts[0] == texts[1]
