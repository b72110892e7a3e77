"""The study of `online`: what is summed, which constants a cluster may be judged by, what the page says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leaderboard.fit.online import (
    AVERAGES,
    FITTED,
    FOLDS,
    LEVELS,
    OFFSET,
    REFERENCE,
    VARIANTS,
    chosen,
    folds_of,
    gains,
    pooled,
    summed,
    worse,
)
from leaderboard.fit.online_page import REPORTS, read_study, study_page
from tests.conftest import synthetic_trace

CLUSTERS = [("a", "AdamW", "none"), ("b", "AdamW", "none"), ("c", "SGD", "none")]


@pytest.fixture
def errors() -> pd.DataFrame:
    """One log in each cluster; on the first the second variant is best, on the others the third and the fourth."""
    rows = []
    for number, cluster in enumerate(CLUSTERS):
        for origin in (20, 40):
            rows.append((f"r{number}/train/seed0", f"r{number}", cluster, "train", "small batch", "stable", 10, origin))
    frame = pd.DataFrame(
        0.1, index=pd.MultiIndex.from_tuples(rows, names=LEVELS), columns=[*VARIANTS, REFERENCE, *FITTED, *AVERAGES]
    )
    for number in range(3):
        frame.loc[[f"r{number}/train/seed0"], VARIANTS[1 + number]] = 0.05 - 0.01 * number
    return frame


def test_ten_rows_become_one() -> None:
    """No token is lost but those of rows that do not fill a sum."""
    trace = synthetic_trace(105)
    found = summed(trace)
    assert (found.steps, found.meta.stride) == (10, 10)
    np.testing.assert_array_equal(found.load_SLE[3], trace.load_SLE[30:40].sum(axis=0))
    np.testing.assert_array_equal(found.step_S, trace.step_S[:100:10])


def test_constants_are_chosen_without_the_cluster_or_all_that_is_like_it(errors: pd.DataFrame) -> None:
    """The first cluster shares its optimizer with the second, so *unlike* leaves it the third log alone."""
    inside, outside = (chosen(errors, set(CLUSTERS), unlike) for unlike in (False, True))
    assert inside == {CLUSTERS[0]: VARIANTS[3], CLUSTERS[1]: VARIANTS[3], CLUSTERS[2]: VARIANTS[2]}
    assert outside[CLUSTERS[0]] == outside[CLUSTERS[1]] == VARIANTS[3]


def test_gains_are_over_adaptive_and_cells_that_are_clearly_worse_are_named(errors: pd.DataFrame) -> None:
    """A third less than `adaptive`; on one log the mean of 100 steps is better by more than both limits."""
    errors["inside"] = errors["outside"] = 0.0663
    errors.loc[["r2/train/seed0"], "sw_avg"] = 0.05
    found = gains(errors)
    total = found[(found["forecaster"] == "outside") & (found["horizon"] == 0)]
    assert [len(total), round(float(total["saving"].iloc[0]), 3), total["clusters"].iloc[0]] == [1, 0.334, 3]
    bad = worse(errors).query("worse")
    assert bad[["trace", "average"]].to_numpy().tolist() == [["r2/train/seed0", "sw_avg"]]
    assert float(bad["more"].iloc[0]) == pytest.approx((0.0663 + OFFSET) / (0.05 + OFFSET) - 1)
    assert pooled(errors)["average"].tolist() == ["sw_avg"]


def test_weights_that_a_cluster_is_judged_by_have_seen_none_of_its_runs() -> None:
    """Folds are disjoint, hold every cluster once, and leave as many runs out as each other where they can."""
    folds = folds_of({("f", "AdamW", str(n)): 1 + n % 2 for n in range(12)})
    assert len(folds) == FOLDS
    assert sorted(one for fold in folds for one in fold) == sorted(("f", "AdamW", str(n)) for n in range(12))
    assert {len(fold) for fold in folds} == {2}


def test_the_committed_page_is_what_its_tables_give() -> None:
    """No number of docs/reports/online.md was typed."""
    assert (REPORTS / "online.md").read_text() == study_page(read_study()), "run `python -m leaderboard fit online`"
