"""The page of regimes says what the records say: who leads, by how much, how sure, and where the choice is nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from leaderboard.pages.regimes import Cell, brief, cells, errors_table, gains_table, opening, runs_table, sentence
from leaderboard.studies import regimes
from leaderboard.studies.kept import read_records
from leaderboard.studies.regimes import Kind, RegimeRun, StateScores, code_hash, kinds_of, measured_runs
from leaderboard.suites.plan import first_training
from moeload_bench.recipes.recipe import list_recipes
from moeload_bench.traces.store import list_traces, stored_hash
from tests.conftest import needs_traces

Errors = Mapping[str, float]
CLEAR = {"average_tuned": 0.02, "adaptive": 0.016, "guarded": 0.01, "sw_avg": 0.024}


@pytest.fixture(autouse=True)
def _made_up_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that is no file trains like no other."""
    known = {*list_recipes()}
    place = "leaderboard.pages.regimes.first_training"
    monkeypatch.setattr(place, lambda name: first_training(name) if name in known else name)


def record(recipe: str, error: Errors, kind: Kind = "large", balancing: str = "none") -> RegimeRun:
    """A run whose errors are the same at both horizons and in both states."""
    scores = StateScores(
        origins=20,
        floor_K=(0.004, 0.002),
        error_K={name: (value, value) for name, value in error.items()},
        log_ratio_K={name: (math.log(value / error["average_tuned"]),) * 2 for name, value in error.items()},
    )
    states = dict.fromkeys(("transient", "stable"), scores)
    return RegimeRun(id=f"{recipe}/test/seed1", kind=kind, data_sha256="0", code="", balancing=balancing,
                     horizons=(100, 1000), states=states)  # fmt: skip


def several(*factors: float) -> list[RegimeRun]:
    """A recipe for each factor, by which the leader's error is more or less."""
    return [record(f"recipe-{n}", {**CLEAR, "guarded": 0.01 * f}) for n, f in enumerate(factors)]


def test_the_leader_is_named_with_both_gains_and_how_sure_they_are() -> None:
    """Half the error of the tuned average, and 37.5 % less than `adaptive`, on six recipes that hardly differ."""
    said = sentence("large batch", cells(several(1.0, 1.01, 0.99, 1.0, 1.02, 0.98), "large")[0])
    assert "`guarded` errs 50.0% less than the tuned average and 37.5% less than `adaptive`" in said
    assert "6 recipes; the interval lies above zero" in said


def test_an_interval_that_holds_zero_is_said() -> None:
    """The same mean, on recipes that disagree widely."""
    said = sentence("large batch", cells(several(0.1, 3.0, 0.3, 4.0, 1.0, 2.5), "large")[0])
    assert "the interval holds zero" in said


def test_few_recipes_have_no_interval_but_their_ends() -> None:
    """Below five recipes nothing is inferred; the worst and the best run are shown."""
    cell = cells(several(1.0, 1.5), "large")[0]
    assert "2 recipes: too few for an interval" in sentence("large batch", cell)
    assert cell.gain_words("guarded", "average_tuned") == "+38.8 % (+25.0 to +50.0)"


def test_where_all_are_alike_the_choice_is_said_not_to_matter() -> None:
    """One percent of gain is below what is called a difference; no gain at all is said as such."""
    alike = {"average_tuned": 0.02, "adaptive": 0.0199, "guarded": 0.0198}
    assert "the choice does not matter" in sentence("x", Cell([record("a", alike)], "stable", 100))
    behind = {"average_tuned": 0.02, "adaptive": 0.03, "guarded": 0.04}
    assert "no entry errs less than the tuned average" in sentence("x", Cell([record("a", behind)], "stable", 100))


def test_who_is_best_is_said_by_size_of_batch() -> None:
    """A row for each size and state: the leader of that cell, its gain on the best average and on the next one; the
    page's first sentences say the same, and that two recipes are too few for an interval.
    """
    turned = {**CLEAR, "guarded": 0.016, "adaptive": 0.01}
    found = [*(record(f"small-{n}", CLEAR, "small") for n in range(6)), *(record(f"large-{n}", turned) for n in "ab")]
    rows = [line for line in brief(found).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [*["| up to 1,024"] * 2, *["| 2,048 and more"] * 2]
    assert "| `guarded` +50 % [+50, +50]; on `adaptive` +38 % [+38, +38] |" in rows[1]
    assert "| `adaptive` +50 % (+50 to +50); on `guarded` +38 % (+38 to +38) |" in rows[3]
    said = opening(found)
    assert "With up to 1,024 tokens per expert and step (6 recipes), `guarded` errs 50 % / 50 % less" in said
    assert "(2 recipes, too few for an interval), `adaptive` errs 50 % / 50 % less in the transient state" in said


def test_near_twins_have_one_vote() -> None:
    """Two recipes of the suite that are near twins count as one, so that five runs of them are no five recipes."""
    twins = next(group for group in regimes.load_suite(regimes.SUITE).near_twins)
    found = [record(name, CLEAR, "small") for name in twins]
    assert cells(found, "small")[0].recipes == 1


def test_tables_hold_what_the_records_say() -> None:
    """Errors of 100 tokens with the floor; gains with and without the loss-free bias; the best two of each run."""
    found = [*several(1.0, 1.0), record("bias", {**CLEAR, "guarded": 0.03}, balancing="loss_free_bias")]
    assert "| `adaptive` | 1.60 | 1.60 | 1.60 | 1.60 |" in errors_table(found, "large").replace("  ", " ")
    assert "0.400" in errors_table(found, "large")
    assert errors_table(found, "probe") == "No run of this kind is scored yet."
    gains = gains_table(found)
    assert "large batch, without loss-free bias" in gains
    assert "+50.0 % (+50.0 to +50.0)" in gains
    assert "`adaptive` +20.0%" in runs_table(found[-1:])


@needs_traces
def test_every_large_probe_and_summed_run_of_the_traces_has_its_record() -> None:
    """Of the present content and code: a new trace or a changed forecaster is measured by `studies regimes`."""
    known = {(run.kind, run.data_sha256, run.code) for run in read_records(regimes.RegimeRun, regimes.OUT)}
    code = code_hash()
    wanted = {(kind, str(stored_hash(ref.path)), code) for ref in list_traces(regimes.TRACES)
              for kind in kinds_of(ref.id)}  # fmt: skip
    assert wanted
    assert known == wanted


@pytest.mark.parametrize(
    ("run", "kinds"),
    [
        ("qwen3moe-16e-large/test/seed201", ["summed"]),
        ("qwen3moe-16e-large/test/seed999", ["large", "summed"]),
        ("qwen3moe-16e-large.probe/test/seed201", ["probe"]),
        ("drawn-l10/test/seed999", ["large", "summed"]),
        ("drawn-l00/train/seed400", []),
        ("qwen3moe-16e-shift/test/seed1", ["summed"]),
        ("batch-2k/test/seed4", []),
        ("batch-2k.probe/test/seed4", []),
    ],
)
def test_a_large_batch_is_known_by_its_tokens_per_expert(run: str, kinds: list[str]) -> None:
    """The study scores large runs that the suite does not hold, as it has results; it scores no `train` run."""
    assert kinds_of(run) == kinds


@needs_traces
@pytest.mark.slow
def test_a_record_can_be_measured_again() -> None:
    """The shortest one: the same errors, to the rounding of other processors."""
    kept = {run.id: run for run in read_records(regimes.RegimeRun, regimes.OUT)}
    name = next(name for name, run in kept.items() if run.kind == "probe")
    others = [run for run in kept.values() if run.id != name]
    (again,) = (run for run in measured_runs(kept=others) if run.id == name)
    for state, scores in again.states.items():
        for forecaster, error_K in scores.error_K.items():
            assert error_K == pytest.approx(kept[name].states[state].error_K[forecaster], rel=1e-3)
