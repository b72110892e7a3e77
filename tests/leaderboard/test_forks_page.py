"""docs/reports/forks.md is made from a season that forks: errors over all futures, floors beside them, and the test."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from leaderboard.__main__ import app
from leaderboard.pages.forks import (
    PILOTS,
    Pilot,
    floors_table,
    lead,
    memory_test,
    p_values_table,
    pilot,
    power_table,
    setup,
)
from leaderboard.season_tools.folder import read_record
from leaderboard.season_tools.records import EntryForks
from moeload_bench.errors import SeasonError
from moeload_bench.results.tables import three_digits
from tests.support.seasons import open_season, revealed_season


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Pilot:
    """Two recipes of one run, two origins each, three forks."""
    return pilot(revealed_season(tmp_path_factory.mktemp("season")).path.parent)


def test_an_error_is_the_mean_over_all_futures(found: Pilot) -> None:
    """The recorded one is one of four; the best entry is the least of them in each cell."""
    point = found.points[0]
    tasks = read_record(EntryForks, found.season.folder.forks / "mine.json").tasks
    (mine,) = (task for task in tasks if (task.trace, task.origin) == (point.trace.id, point.origin))
    assert len(mine.loss_JK) == 4
    assert found.error_K("mine", point) == pytest.approx(np.mean(mine.loss_JK, axis=0))
    assert found.best_error_K(point) == pytest.approx(
        np.minimum(found.error_K("mine", point), found.error_K("sw_avg", point))
    )


def test_the_floors_stand_beside_the_errors_of_every_origin(found: Pilot) -> None:
    """As the season's record has them, at its horizons."""
    text = floors_table(found)
    assert found.season.floors is not None
    assert len(found.points) == len(found.season.floors.floors) == 4
    for floor in found.season.floors.floors:
        cells = [f"{three_digits(x)} ± {three_digits(e)}" for x, e in zip(floor.floor_K, floor.error_K, strict=True)]
        assert " | ".join(cells) in " ".join(text.split())


def test_the_page_says_what_was_recorded(found: Pilot) -> None:
    """Recipes, steps, origins with their states, and how many forks."""
    text = setup(found)
    for point in found.points:
        assert f"{point.origin:,} ({point.state})" in text
    assert "At each origin 3 forks of 60 steps each. 2 entries were frozen" in text


def test_a_whole_memory_has_the_least_p_and_a_small_one_more(found: Pilot) -> None:
    """Two runs of four futures: 1/16, which is above the level; the page says so."""
    whole = memory_test(found.points, 1.0)
    assert whole.p_value == whole.least_p == 1 / 16
    assert whole.nearer < memory_test(found.points, 0.1).nearer < memory_test(found.points, 0.0).nearer
    assert "has the least p that is possible, 0.062, from weight" in lead(found)
    assert "That is above the level" in lead(found)
    assert "with a memory, weight 1" in p_values_table(found)
    assert "of `small`" in power_table(found)


def test_there_is_no_page_without_a_revealed_pilot(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that is closed only says nothing."""
    folder = open_season(tmp_path_factory.mktemp("open"))
    with pytest.raises(SeasonError, match="no season that is scored and revealed"):
        pilot(folder.path.parent)


def test_the_pilot_is_what_it_committed_to_but_for_the_forks_left_out() -> None:
    """`python -m leaderboard season check forks`, as the page gives it, finds one thing for each recipe.

    Other lines name what this machine or this clone cannot show (a shallow one: when the hashes were published).
    """
    done = CliRunner().invoke(app, ["season", "check", "forks", "--root", str(PILOTS)])
    assert done.exit_code == 1
    found = [line for line in done.output.splitlines() if line.startswith("not as committed: ")]
    assert [line.split(": ")[2] for line in found] == ["4 forks left out"] * 2
