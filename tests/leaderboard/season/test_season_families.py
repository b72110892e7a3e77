"""A season whose unit is the family, each under two balancings: rehearsed with other recipes, from opening to page."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from leaderboard.season.claims import ordered_outcomes
from leaderboard.season.contrast import contrast_lines, contrasts
from leaderboard.season.drawing import season_recipes
from leaderboard.season.folder import PAIRED, SeasonFolder
from leaderboard.season.open_page import open_page
from leaderboard.season.opening import open_season
from leaderboard.season.page import season_page
from leaderboard.season.power import SIMULATIONS, Spread, all_pass_at_least, pass_chance, spread_of
from leaderboard.season.recording import keep_recording
from leaderboard.season.records import Recording, file_sha256
from leaderboard.season.rescoring import Findings, chosen, contrast_again
from leaderboard.season.scored import ScoredSeason, load_table
from leaderboard.season.scoring import score_season
from leaderboard.season.task_list import task_list_text
from moeload_bench.errors import SeasonError
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.support.checkout import leaderboard
from tests.support.package_index import FIRST, LATER, OLD, package_index
from tests.support.seasons import NAME, STEPS, Repository, make_repository, use_small_world

FAMILIES = ("qwen3_moe", "olmoe", "mixtral")
CELLS = """
[[cells]]
stratum = "small"
families = ["qwen3_moe", "olmoe", "mixtral"]
methods = ["none", "aux_loss"]
runs = 1
"""
TERMS = """
value_project = "boto3"
unit = "family"
families = ["qwen3_moe", "olmoe", "mixtral"]
rules = ["No draw is rejected."]

[paired]
balancing = "aux_loss"
against = "none"
forecaster = "mine"
horizon = 10
every = 10
windows = { early = [20, 60], late = [100, 180] }

[[sets]]
"""


class Rehearsal(NamedTuple):
    """A scored season, and its page while it was open."""

    repository: Repository
    open_page: str

    @property
    def scored(self) -> ScoredSeason:
        return ScoredSeason(self.repository.folder, load_table(self.repository.folder))


def with_families(repository: Repository) -> None:
    """Let the season draw from cells, its only set, and its terms count families."""
    path = repository.root / "drawn.toml"
    text = path.read_text()
    head, config = text.split("[families.qwen3_moe]\n")
    head = head.replace("[quotas.small]\nnone = 2\n", CELLS)
    each = [f"[families.{name}]{config.replace('[families.qwen3_moe', f'[families.{name}')}" for name in FAMILIES]
    path.write_text(head + "\n".join(each))
    terms, _, _ = repository.terms.read_text().rpartition("[[sets]]")
    repository.terms.write_text(terms.replace("[[sets]]\n", TERMS.lstrip(), 1).replace("new_levels = 1\n", ""))
    repository.commit()


def record_pairs(folder: SeasonFolder) -> None:
    """Write traces with half batches, other loads for each recipe; one of a pair ends before the late window."""
    recipes = season_recipes(folder, folder.draw.value)
    for number, recipe in enumerate(one for of_set in recipes.values() for one in of_set.values()):
        steps = 150 if number == 5 else STEPS
        columns = {"lr": np.array([recipe.lr_at(step) for step in range(steps)])}
        columns["stage"] = np.array([float(recipe.stage_at(step)) for step in range(steps)])
        load_SLE = synthetic_load_SLE(STEPS, seed=number)[:steps]
        columns["load_half"] = np.random.default_rng(number).binomial(load_SLE, 0.5)
        words = {"recipe": recipe.name, "split": folder.season.split, "seed": folder.draw.runs[recipe.name].seed}
        whole = Trace.from_arrays(load_SLE, 512, 2, columns=columns, run=0, **words)
        trace = replace(whole, meta=whole.meta.model_copy(update={"complete": steps == STEPS}))
        write_trace(trace, folder.trace(recipe.name))
        made = Recording(
            draw_sha256=file_sha256(folder.path / "draw.json"),
            data_sha256=data_sha256(trace),
            meta_sha256=trace.meta.sha256(),
            ended=f"step {steps}: the loss is nan: training diverged" if steps < STEPS else None,
        )
        keep_recording(folder, recipe.name, made)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with pytest.MonkeyPatch.context() as patch, package_index() as index:
        repository = make_repository(tmp_path_factory.mktemp("families"), patch)
        with_families(repository)
        open_season(repository.folder, repository.terms, repository.submissions, index.address)
        repository.commit()
        place = ("--root", repository.root / "seasons")
        assert leaderboard("season", "check", NAME, *place) == 0
        page = open_page(repository.folder, None)
        index.lists(*OLD, *FIRST, *LATER)
        assert leaderboard("season", "draw", NAME, *place, "--index", index.address) == 0
        repository.commit()
        record_pairs(repository.folder)
        repository.commit()
        score_season(repository.folder, level="process")
        repository.commit()
        yield Rehearsal(repository, page)


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_world(monkeypatch)


def test_a_page_of_an_open_season_says_what_is_fixed(rehearsal: Rehearsal) -> None:
    for words in (
        "**Open, not drawn.**",
        "**Not provable to outsiders yet**",
        "1. mine errs less than sw_avg, transient",
        "The unit of every test is the family: qwen3_moe, olmoe, mixtral.",
        "from every 10th step: origins 20 to 60, 10 steps ahead; origins 100 to 180",
        "- No draw is rejected.",
        "- Set a: 6 runs from `drawn.toml`, at most 1 minutes of a core each by its formula: 3 families x none and",
        "| boto3-4.0.tar.gz | 2025-12-04 10:00:00 UTC |",
    ):
        assert words in rehearsal.open_page, words


def test_a_pair_shares_its_seed_and_all_but_the_balancing(rehearsal: Rehearsal) -> None:
    folder = rehearsal.repository.folder
    runs, recipes = folder.draw.runs, season_recipes(folder, folder.draw.value)["a"]
    assert list(recipes)[:2] == [f"{NAME}a-qwen3-moe-0.none", f"{NAME}a-qwen3-moe-0.aux-loss"]
    seeds = [runs[name].seed for name in recipes]
    assert seeds[::2] == seeds[1::2]
    assert len({*seeds}) == 3
    assert len({runs[name].recipe_sha256 for name in recipes}) == 6


def test_a_test_of_families_has_one_value_each(rehearsal: Rehearsal) -> None:
    """The mean of its runs, against the classical test."""
    (one,) = ordered_outcomes(rehearsal.scored)
    assert one.estimate is not None
    assert (one.estimate.units, one.estimate.freedom) == (3, 2)


def test_the_paired_test_is_the_classical_one_of_family_differences(rehearsal: Rehearsal) -> None:
    """A pair that lacks one run in a window counts as no difference."""
    folder = rehearsal.repository.folder
    rows = pd.read_csv(folder.path / PAIRED)
    assert {tuple(one) for one in rows[["balancing", "window"]].to_numpy().tolist()} == {
        *((method, window) for method in ("none", "aux_loss") for window in ("early", "late"))
    }
    left = {(row.family, row.balancing, row.window): math.log(row.error / row.floor) for row in rows.itertuples()}
    assert len(left) == 11
    for window, found in contrasts(folder.season, rows).items():
        values = [
            left.get((family, "aux_loss", window), math.nan) - left.get((family, "none", window), math.nan)
            for family in FAMILIES
        ]
        values = [0.0 if math.isnan(value) else value for value in values]
        assert (values[2] == 0.0) == (window == "late")
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.975)
        low, high = found.interval_at(0.975)
        assert (low, high) == pytest.approx((1 - math.exp(expected.high), 1 - math.exp(expected.low)), rel=1e-6)
    lines = list(contrast_lines(folder))
    assert len(lines) == 2
    assert lines[0].startswith("`aux_loss` against `none`, early (origins 20 to 60, 10 steps ahead): they ")


def test_the_page_has_rules_and_the_paired_test(rehearsal: Rehearsal) -> None:
    page = season_page(rehearsal.scored)
    assert "Fixed before the draw:\n\n- No draw is rejected.\n\n" in page
    assert (
        f"Declared before the draw, two-sided at 5 %:\n\n- {next(contrast_lines(rehearsal.repository.folder))}" in page
    )
    assert "every family counts alike" in page
    assert "its 95 % interval for a new family of the set" in page


def test_the_task_list_has_both_runs_of_a_family(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """As the file of a suite, which the package reads."""
    path = tmp_path / "list.toml"
    path.write_text(task_list_text(rehearsal.scored))
    suite = load_suite(str(path))
    assert suite.families["mixtral"] == (f"{NAME}a-mixtral-0.aux-loss", f"{NAME}a-mixtral-0.none")
    assert len(suite.traces) == 6


@pytest.mark.sandbox
def test_a_rehearsal_checks(rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]) -> None:
    """Draw, recordings and table are derived again, and the candidate and one more are scored again."""
    code = leaderboard("season", "check", NAME, "--root", rehearsal.repository.root / "seasons")
    assert (code, capsys.readouterr().err.count("wrong:")) == (0, 0)


@pytest.mark.sandbox
def test_a_forged_row_of_the_paired_test_is_named(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """Its rows are made again on the runs that the seed chooses."""
    shutil.copytree(rehearsal.repository.folder.path, tmp_path / NAME)
    folder = SeasonFolder(tmp_path / NAME)
    scored = ScoredSeason(folder, load_table(folder))
    plan = chosen(scored, 1)
    assert contrast_again(scored, plan) == Findings()
    rows = pd.read_csv(folder.path / PAIRED)
    rows.assign(error=rows["error"] / 2).to_csv(folder.path / PAIRED, index=False)
    forged = contrast_again(scored, plan)
    assert forged.wrong
    assert all(line.startswith("paired.csv: ") and "a re-run gives" in line for line in forged.wrong)
    (folder.path / PAIRED).write_text("nothing")
    assert contrast_again(scored, plan).wrong[0].startswith("paired.csv: cannot be read")


def test_families_that_are_not_those_drawn_are_refused(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At opening, and a horizon of the paired test that the suite has not."""
    repository = make_repository(tmp_path_factory.mktemp("families"), monkeypatch)
    with_families(repository)
    text = repository.terms.read_text().replace('value_project = "boto3"\n', "")
    for old, new, says in (
        (
            'families = ["qwen3_moe", "olmoe", "mixtral"]',
            'families = ["qwen3_moe", "dots1"]',
            "the terms list qwen3_moe",
        ),
        ('families = ["qwen3_moe", "olmoe", "mixtral"]', "families = []", "families: 0 are listed"),
        ("horizon = 10\nevery", "horizon = 3\nevery", "paired.horizon: got 3"),
        ("early = [20, 60]", "early = [60, 20]", "windows.early"),
        ('forecaster = "mine"', 'forecaster = "nobody"', "the terms name nobody"),
    ):
        assert old in text
        repository.terms.write_text(text.replace(old, new))
        repository.commit()
        with pytest.raises(SeasonError, match=says):
            open_season(repository.folder, repository.terms, repository.submissions)
        assert not repository.folder.path.exists()


def test_power_is_that_of_the_t_test() -> None:
    """Without an effect 5 % pass; with one, as often as the noncentral t says; a lacking family costs some of it."""
    spread = Spread(0.0, 0.03, 0.04)
    deviation = math.hypot(0.03, 0.04 / math.sqrt(2))
    error = 4 * math.sqrt(0.25 / SIMULATIONS)
    assert pass_chance(0.0, 0.0, spread, 8, 2) == pytest.approx(0.05, abs=error)
    assert pass_chance(0.03, 0.03, spread, 8, 2) == pytest.approx(0.05, abs=error)
    limit, shift = stats.t.ppf(0.05, 7), -0.04 / (deviation / math.sqrt(8))
    chance = pass_chance(-0.04, 0.0, spread, 8, 2)
    assert chance == pytest.approx(stats.nct.cdf(limit, 7, shift), abs=error)
    assert pass_chance(-0.04, 0.0, spread, 8, 2, lacking=2) < chance
    assert all_pass_at_least([0.9, 0.8, 1.0]) == pytest.approx(0.7)


def test_variances_are_those_that_made_the_numbers() -> None:
    """Of 400 families with one to four recipes each."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 5, 400)
    family_of = {f"{family}-{at}": str(family) for family, size in enumerate(sizes) for at in range(size)}
    between = {str(family): value for family, value in enumerate(random.normal(0.1, 0.05, 400))}
    means = pd.Series({name: between[family] + random.normal(0, 0.02) for name, family in family_of.items()})
    assert spread_of(means, family_of) == pytest.approx((0.1, 0.05, 0.02), rel=0.1)
