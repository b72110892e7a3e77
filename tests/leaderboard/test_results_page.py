"""The page of results says what the results say, and no more than they may."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from leaderboard.committed import RESULTS, ROOT, committed_results
from leaderboard.pages import findings, inputs, results_page
from leaderboard.pages.findings import equal_forecasts, oscillating, saving, standing
from leaderboard.pages.inputs import RunSet
from leaderboard.pages.parts import fill_parts
from leaderboard.pages.results_page import headline, saved
from moeload_bench.cli.progress import plain_console
from moeload_bench.errors import ResultError
from moeload_bench.results.brief import brief_tables
from moeload_bench.results.formats import three_digits
from moeload_bench.results.report import report_of
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.strata import run_groups

NAMES = ("uniform", "last_value", "sw_avg", "arima", "lstm")


@pytest.fixture(scope="module")
def mini() -> Results:
    return committed_results("mini")


def many_recipes(results: Results, factors: dict[str, float], recipes: int = 8) -> Results:
    """Return the first trace under other names, each forecaster's error that of `sw_avg` times a factor and a spread
    by recipe.
    """
    trace, spread = results.traces[0], np.random.default_rng(0)
    rows, facts = (frame[frame["trace"] == trace] for frame in (results.table, results.facts))
    rows = rows.sort_values(["forecaster", "origin", "horizon"])
    error = rows.loc[rows["forecaster"] == "sw_avg", "window_tv"].to_numpy()
    copies = []
    for r in range(recipes):
        for name in factors:
            factor = factors[name] * float(np.exp(0.05 * spread.standard_normal()))
            copy = rows[rows["forecaster"] == name].assign(trace=f"r{r}/test/seed1", recipe=f"r{r}")
            copies.append(copy.assign(window_tv=np.minimum(1.0, factor * error)))
    names = [f"r{r}/test/seed1" for r in range(recipes)]
    return Results(
        {name: results.entries[name] for name in factors},
        pd.concat(copies, ignore_index=True),
        pd.concat([facts.assign(trace=name) for name in names], ignore_index=True),
    )


@pytest.fixture(scope="module")
def made(mini: Results) -> Results:
    return many_recipes(mini, {"uniform": 4.0, "last_value": 1.5, "sw_avg": 1.0, "arima": 0.8, "lstm": 0.7})


def test_a_generated_part_of_an_unknown_name_is_refused() -> None:
    """A misspelt name would else leave old numbers standing."""
    with pytest.raises(ResultError, match="no generated part is named 'headlin' here; there is: finding"):
        fill_parts("<!-- generated: headlin v3 -->\n<!-- end -->\n", results_page.PARTS)


def test_an_entry_whose_weights_a_season_copied_has_learned() -> None:
    """Its result has no time of a fit there, as that of a rule that learns nothing has none."""
    season = inputs.newest_season()
    assert season is not None
    tracks = {name: inputs.track_of(season.results, name) for name in ("guarded", "online", "fracast")}
    assert tracks == {
        "guarded": "fitted on our open runs",
        "online": inputs.LEARNS_NOTHING,
        "fracast": "pretrained elsewhere",
    }


def test_the_headline_has_the_values_of_the_board(mini: Results) -> None:
    """Rows by skill, each with its values; the least of a column bold; no rank without recipes enough; floors below."""
    lines = [line.strip("| ").split(" | ") for line in headline(mini).splitlines() if line[:1] == "|"]
    report = report_of(mini)
    for state in ("transient", "stable"):
        start = next(i for i, line in enumerate(lines) if line[0] == state)
        rows = report.rows_in(state)
        shown = lines[start + 2 : start + 3 + len(rows)]
        assert [line[0].strip("`*") for line in shown] == [*(row.forecaster for row in rows), "floor_batch"]
        for line, row in zip(shown, rows, strict=False):
            assert [cell.strip("*") for cell in line[1:6]] == [three_digits(value) for value in row.value_K]
            assert line[6:] == [f"{row.skill:+.3f}", "-", three_digits(row.ms)]
        for k in range(len(report.horizons)):
            bold = [line[0].strip("`") for line in shown if line[1 + k].startswith("**")]
            assert bold == [min(rows, key=lambda row, k=k: row.value_K[k]).forecaster]


def test_an_entry_with_the_reference_s_errors_has_no_row_of_its_own(mini: Results) -> None:
    """It is named below; a table without the reference is refused."""
    twin = mini.select(["sw_avg", "arima"])
    errors = twin.table.loc[twin.table["forecaster"] == "sw_avg", "window_tv"].to_numpy()
    table = twin.table.copy()
    table.loc[table["forecaster"] == "arima", "window_tv"] = errors
    text = headline(replace(twin, table=table))
    assert "| `arima`" not in text
    assert "Left out, because their errors are those of `sw_avg`: arima." in text
    with pytest.raises(ResultError, match="mini: a headline needs the reference"):
        headline(mini.select(["arima"]))


def test_rivals_are_the_best_of_these_very_runs(made: Results) -> None:
    """The next of all, the best that learns nothing, and the best average, `uniform` among them."""
    found = standing(made, state="transient")
    assert found is not None
    assert (found.leader, found.following, found.simple, found.average) == ("lstm", "arima", "arima", "sw_avg")
    assert found.by_track == {"fitted on our open runs": "lstm", "learns nothing": "arima"}
    assert standing(made, state="mixed") is None
    one = saving(made, "lstm", "arima", state="transient")
    assert one is not None
    assert one.saving == pytest.approx(1 - 0.7 / 0.8, abs=0.05)
    assert one.low > 0
    assert saved(one) == f"{100 * one.saving:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def test_loads_that_swing_around_a_steady_mean_oscillate(made: Results) -> None:
    """Their next step is far from the mean of the last 100, less the noise, and the next 100 are near it."""
    assert oscillating(made) == set()
    swings = (made.table["recipe"] == "r3") & (made.table["forecaster"] == "sw_avg")
    table = made.table.copy()
    table.loc[swings & (table["horizon"] == 1), "window_tv"] = 0.5
    table.loc[swings & (table["horizon"] == 100), "window_tv"] = 0.05
    changed = replace(made, table=table)
    assert oscillating(changed) == {"r3"}
    kinds = findings.kinds_of_runs(RunSet("a", changed, loss_free=frozenset({"r1"})))
    assert {kind: len(recipes) for kind, recipes in kinds.items()} == {
        "all": 8,
        "balanced without a loss": 1,
        "balanced in another way, or not": 7,
        "oscillating": 1,
        "not oscillating": 7,
    }


def test_equal_forecasts_are_found_run_by_run(made: Results) -> None:
    """By the hash of a run's forecasts: on all runs they are one forecaster under two names."""
    table = made.table.assign(forecasts_sha256=made.table["forecaster"] + made.table["trace"])
    assert equal_forecasts(replace(made, table=table)) == []
    copied = (table["forecaster"] == "arima") & table["trace"].isin(made.traces[:3])
    table.loc[copied, "forecasts_sha256"] = "lstm" + table.loc[copied, "trace"]
    (one,) = equal_forecasts(replace(made, table=table))
    assert (one.first, one.second, one.runs, one.of) == ("arima", "lstm", 3, 8)


def test_one_number_is_equal_in_card_page_and_terminal() -> None:
    """The skill of the leader of suite v3 in small batches, while loads move."""
    results = load_results([RESULTS / "v3" / f"{name}.parquet" for name in ("sw_avg", "guarded")])
    (row,) = (
        results.summarize(["stratum", "state"])
        .query("stratum == 'small' and state == 'transient' and forecaster == 'guarded'")
        .itertuples()
    )
    skill = f"{row.skill:+.3f}"
    card = (ROOT / "datasets_card.md").read_text(encoding="utf-8")
    assert re.search(rf"\| `guarded` \| {re.escape(skill)} \|", card)
    page = (ROOT / "docs" / "reports" / "results.md").read_text(encoding="utf-8")
    assert f"`guarded` errs {100 * row.skill:.1f} % less than `sw_avg` in the transient state" in page
    assert re.search(rf"\| `guarded` \|.*\| {re.escape(skill)} \[", page)
    console = plain_console()
    with console.capture() as captured:
        for part in brief_tables(next(iter(run_groups(results).values())), "window_tv", 200):
            console.print(part, width=200)
    assert re.search(rf"guarded .*{re.escape(skill)}", captured.get())
