"""The board of capacity: fitted on other recipes, scored by hand-computed cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from leaderboard.fit.capacity import BLOCK
from leaderboard.studies import capacity
from leaderboard.studies.capacity import SHIPPED, CapacityRun, all_runs, board, score
from moeload_bench.capacity.forecast import TIMES


def run(name: str, *peak_B: float, merged: int = 1) -> CapacityRun:
    dropped = {100: (0.0,) * len(TIMES)}
    return CapacityRun(id=name, data_sha256="", merged=merged, tokens=256, most=8.0, peak_B=peak_B, dropped=dropped)


def test_a_score_is_that_of_its_windows() -> None:
    """At ratio 1, level 2 keeps 2 where 3 are needed: 1 too few. Level 3 keeps 3 for 1.5: 1.5 too many."""
    scored = score(run("a/test/seed0", 1, 2, 3, 3, 1.5, 1), "recent", 2 * BLOCK, np.ones(10))
    assert scored is not None
    assert scored.windows == 2
    assert scored.exceeded_Q.tolist() == [0.5] * 4
    assert scored.loss_tenth == pytest.approx((0.9 * 1 + 0.1 * 1.5) / 2)
    assert scored.waste_Q.tolist() == [0.5] * 4


@pytest.mark.parametrize("entry", capacity.ENTRIES)
def test_no_factor_is_above_what_routing_allows(entry: str) -> None:
    """At ratio 10 a level of 7 would keep 70: with eight experts and one a token no expert has more than 8 shares."""
    scored = score(run("a/test/seed0", *[7.0] * 4), entry, 2 * BLOCK, np.full(10, 10.0))
    assert scored is not None
    assert scored.waste_Q.max() == pytest.approx(1 / 7)


def test_a_run_that_is_too_short_has_no_score() -> None:
    """One window to look at and one to forecast are the least."""
    assert score(run("a/test/seed0", 1, 2, 3), SHIPPED, 2 * BLOCK, np.ones(10)) is None


def test_nothing_is_fitted_on_the_group_that_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the recipe, not on a near twin, not on `test` runs, not on merged rows."""
    monkeypatch.setattr(capacity, "groups_of", lambda names: {"a": "a", "b": "a", "c": "c"})
    fitted: list[set[str]] = []

    def remember(runs: Sequence[CapacityRun], *rest: object) -> np.ndarray:
        fitted.append({one.id for one in runs})
        return np.ones(10)

    monkeypatch.setattr(capacity, "ratios", remember)
    peaks = (1.0,) * 60
    runs = [run(f"{name}/{split}/seed0", *peaks) for name in "abc" for split in ("train", "test")]
    scored = board([*runs, run("c/train/seed0", *peaks, merged=10)])
    assert {one.run.id for one in scored} == {"a/test/seed0", "b/test/seed0", "c/test/seed0"}
    assert {frozenset(one) for one in fitted} == {
        frozenset({"c/train/seed0"}),
        frozenset({"a/train/seed0", "b/train/seed0"}),
    }


def test_runs_of_drawn_seasons_are_scored_by_what_all_train_runs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their recipes did not exist when anything was fitted; nothing is fitted on them."""
    monkeypatch.setattr(capacity, "groups_of", lambda names: {name: name for name in names})
    steady, steep = (1.0,) * 60, tuple(2.0 ** (block // 2) for block in range(60))  # doubles in 100 rows
    train = [run("a/train/seed0", *steep), run("b/train/seed0", *steep)]
    drawn, _ = [one for one in board(train, [run("new/s1/seed0", *steady)]) if one.entry == "recent"]
    assert (drawn.run.id, drawn.horizon, drawn.windows) == ("new/s1/seed0", 100, 29)
    assert drawn.waste_Q.tolist() == [1.0] * 4


def test_runs_that_are_broken_on_purpose_are_for_alarms_only() -> None:
    """The board of capacity has none of them."""
    assert not [one.id for one in all_runs() if one.id.startswith(capacity.BROKEN)]
