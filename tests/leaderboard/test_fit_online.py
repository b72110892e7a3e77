"""The study of `online`: what is summed, which constants a cluster may be judged by, what the page says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leaderboard.fit.online import AVERAGES, LEVELS, RIVALS, VARIANTS, chosen, gains, robustness, summed
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
        0.1, index=pd.MultiIndex.from_tuples(rows, names=LEVELS), columns=[*VARIANTS, *RIVALS, *AVERAGES]
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


def test_the_page_says_gains_and_names_cells_that_are_clearly_worse(errors: pd.DataFrame) -> None:
    """A third less than `adaptive`; on one log the mean of 100 steps is better by more than both limits."""
    errors["inside"] = errors["outside"] = 0.0663
    errors.loc[["r2/train/seed0"], "sw_avg"] = 0.05
    table = "\n".join(gains(errors, ("set", "kind", "state")))
    assert "| train | small batch | stable | +33.4 [" in table
    text = "\n".join(robustness(errors))
    assert "Of 3 cells of a log, 1 (33.3 %) err both" in text
    assert "| r2/train/seed0 | stable | 10 | 0.0663 | `sw_avg` | 0.0500 | +32.0 |" in text
