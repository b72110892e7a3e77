"""The page of the ladder claims a trend only where every rung and seed agrees, and says which rungs are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leaderboard.pages import command as pages
from leaderboard.pages import ladder as page
from leaderboard.pages import ladder_figures
from leaderboard.studies import ladder
from leaderboard.studies.kept import read_records
from leaderboard.studies.ladder import (
    OUT,
    LadderRun,
    Score,
    all_runs,
    code_hash,
    measure_run,
    parameters_of,
    planned,
)
from leaderboard.studies.rungs import (
    CANNOT,
    LOADS,
    SKILLS,
    Rung,
    agreement,
    chance,
    interval,
    mean_of,
    order_in,
    rank_in,
    rungs_of,
    trend,
)
from leaderboard.suites.plan import load_plan
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import as_target
from moeload_bench.traces.store import list_traces, stored_hash, write_trace
from tests.conftest import synthetic_trace
from tests.support.checkout import leaderboard

PLAN = load_plan("ladder")
RUNGS = [recipe.name for recipe in planned(PLAN)]


def run(name: str, *, onset: int | None = 500, drift: float = 0.01, skill: float = 0.1) -> LadderRun:
    """A record made by hand."""
    scores = {
        who: {state: Score(skill=value, error_K=(0.1,) * 4, regret_K=(0.01,) * 4) for state in ladder.LABELS}
        for who, value in {"sw_avg": 0.0, "gated": skill}.items()
    }
    return LadderRun(
        id=name, data_sha256="0" * 64, code="c", parameters=1, steps=10_000, step_tokens=2048, learning_rate=1e-3,
        onset_L=(onset, onset), drift_L=(drift, drift), unrest_L=(0.2, 0.1), over_dispersion=2.0, imbalance=3.0, dead=0,
        floor=0.01, scores=scores,
    )  # fmt: skip


def whole(**by_size: list[float]) -> list[Rung]:
    """Every planned run, with a value that depends on the rung's place in its family, and a little on the seed."""
    runs = []
    for name in PLAN.runs:
        recipe = name.split("/")[0]
        place = RUNGS.index(recipe) if RUNGS.index(recipe) < 4 else RUNGS.index(recipe) - 4
        shift = 1 + 0.001 * int(name.rsplit("seed", 1)[1])
        runs.append(run(name, **{key: type(values[0])(values[place] * shift) for key, values in by_size.items()}))
    return rungs_of(runs)


def test_rungs_stand_by_size_with_those_without_balancing_first() -> None:
    """Four of one family, two of the other; sizes are those that the recipes say."""
    assert RUNGS == ["ladder-2m", "ladder-8m", "ladder-30m", "ladder-100m", "ladder-2m-aux", "ladder-8m-aux"]
    for recipe in planned(PLAN):
        said = float(recipe.about.split(" million parameters")[0].rsplit(" ", 1)[1])
        assert parameters_of(recipe) / 1e6 == pytest.approx(said, abs=0.05), recipe.name


def test_a_trend_that_every_run_shows_is_claimed() -> None:
    """In both directions, in every pair of neighbouring rungs and both families."""
    rungs = whole(onset=[500, 800, 1200, 2000], drift=[0.04, 0.03, 0.02, 0.01], skill=[0.1, 0.2, 0.3, 0.4])
    assert trend(rungs, LOADS[0]).startswith("rises with size")
    assert trend(rungs, LOADS[4]).startswith("falls with size")
    assert all(trend(rungs, quantity).startswith("rises") for quantity in SKILLS)
    assert "missing" not in trend(rungs, LOADS[0])


def test_a_trend_says_how_probable_it_is_by_chance_and_what_is_missing() -> None:
    """One run in each of the four rungs and the two: two directions of 4! x 2! orders; runs of both splits count."""
    runs = [run(f"{name}/test/seed{seed}", onset=500 + 100 * i, skill=0.1 + i / 10)
            for i, (name, seed) in enumerate(zip(RUNGS, (101, 105, 109, 111, 103, 107), strict=True))]  # fmt: skip
    rungs = rungs_of(runs)
    assert chance(rungs, LOADS[0]) == pytest.approx(2 / (24 * 2))
    missing = len(PLAN.runs) - 6
    for quantity in (LOADS[0], SKILLS[0]):
        assert f"(p = 0.042; of the planned runs {missing} are missing)" in trend(rungs, quantity)


@pytest.mark.parametrize(
    "onset", [[500, 800, 700, 2000], [500, 500, 1200, 2000], [500, 502, 1200, 2000], [2000, 1200, 1300, 500]]
)
def test_one_pair_of_rungs_that_disagrees_or_overlaps_ends_it(onset: list[float]) -> None:
    """Nothing is claimed: neither by most pairs, nor by means of rungs whose runs overlap."""
    assert trend(whole(onset=onset), LOADS[0]).startswith(CANNOT)


def test_the_other_family_must_agree() -> None:
    """Four rungs rise, the two with an auxiliary loss fall."""
    rungs = whole(onset=[500, 800, 1200, 2000])
    turned = [rung if rung.family == "none" else rung._replace(
        runs=[one.model_copy(update={"onset_L": (9000 // RUNGS.index(rung.name),) * 2}) for one in rung.runs])
        for rung in rungs]  # fmt: skip
    assert trend(turned, LOADS[0]).startswith(CANNOT)


def test_a_run_that_never_becomes_stable_is_no_number() -> None:
    """No mean is made over the others, and no trend."""
    rungs = whole(onset=[500, 800, 1200, 2000])
    rungs[0] = rungs[0]._replace(
        runs=[*rungs[0].runs[1:], rungs[0].runs[0].model_copy(update={"onset_L": (None, 500)})]
    )
    assert mean_of(rungs[0], LOADS[0]) is None
    assert trend(rungs, LOADS[0]).startswith(CANNOT)
    assert page.cell(rungs, rungs[0], LOADS[0]) == "never"


def test_one_rung_is_a_page_without_a_trend() -> None:
    """It names the rungs and runs that are missing, and says of every trend that it cannot tell."""
    rungs = rungs_of([run("ladder-2m/test/seed101"), run("ladder-2m/train/seed102")])
    of = {"skill": ["transient"], "regret": ["transient"]}
    text = "".join(make(*of.get(name, [])) for name, make in page.parts_of(rungs).items())
    assert "no run of `ladder-8m`, `ladder-30m`, `ladder-100m`" in text
    assert "| `ladder-100m` | 102.8 million | 320 | 10 | 0.0002 | 4,000 | none | test/seed111 |" in text
    assert " with size" not in page.answers(rungs)
    assert page.answers(rungs).count(CANNOT) >= 6
    assert rungs_of([])[0].missing[0] == "ladder-2m/test/seed101"
    assert "no run" in page.answers(rungs_of([]))


def test_intervals_are_there_where_there_are_seeds() -> None:
    """The rung of one run has none; the others hold their mean, and get wider with the spread."""
    rungs = whole(onset=[500, 800, 1200, 2000], skill=[0.1, 0.2, 0.3, 0.4])
    alone = next(rung for rung in rungs if rung.name == "ladder-100m")
    assert interval(rungs, alone, LOADS[0]) is None
    low, high = interval(rungs, rungs[0], LOADS[0])
    assert low < mean_of(rungs[0], LOADS[0]) < high
    assert interval(rungs, rungs[0], SKILLS[0]) is not None
    row = next(line for line in page.skill_table(rungs, "stable").splitlines() if "`gated`" in line)
    low, high = interval(rungs, rungs[0], SKILLS[1])
    assert f"| +0.111 [{low:+.3f}, {high:+.3f}] (1) |" in row
    (first, *_) = [line for line in page.regret_table(rungs, "stable").splitlines() if "`gated`" in line]
    assert "| 1.00% [1.00%, 1.00%] |" in first


def test_the_order_of_forecasters_is_compared_over_runs() -> None:
    """Who is first, and whether the order changes less between sizes than between balancing and none.

    In these rungs two forecasters are compared, so that tau is 1 or -1.
    """
    rungs = whole(skill=[0.1, 0.2, 0.3, 0.4])
    assert f"in {len(PLAN.runs)} runs: first is `gated`; one order in every run" in page.order_answer(rungs, "stable")
    said = page.order_answer(whole(skill=[0.1, 0.2, 0.3, -0.4]), "stable")
    assert "first is `gated`, `sw_avg`; cannot tell whether size or balancing changes" in said
    turned = [rung if rung.family == "none" else rung._replace(runs=whole(skill=[-0.1] * 4)[4].runs) for rung in rungs]
    said = page.order_answer(turned, "stable")
    assert "less with size than with balancing (Kendall's tau of two runs' orders: 1.00 between sizes, -1.00 " in said
    assert agreement(rungs[0].runs[0], rungs[1].runs[0], "stable") == 1


def test_forecasters_that_say_the_same_share_a_rank() -> None:
    """Whatever their sums' last digits are, and wherever they stand in the record; in the order they stand by name."""
    skills = {"late": 0.1, "early": 0.1 + 1e-15, "best": 0.2, "last": -0.3}
    scores = {
        name: {"stable": Score(skill=skill, error_K=(0.1,) * 4, regret_K=(0.0,) * 4)} for name, skill in skills.items()
    }
    made = run("ladder-2m/test/seed101").model_copy(update={"scores": scores})
    assert order_in(made, "stable") == ["best", "early", "late", "last"]
    assert {name: rank_in(made, "stable", name) for name in skills} == {
        "best": 1,
        "late": 2,
        "early": 2,
        "last": 4,
    }
    assert rank_in(made, "transient", "best") is None


def test_the_onset_is_compared_in_each_measure() -> None:
    """Steps that double where the rate is halved: a factor of two in all but the sum of rates, which is named."""
    runs = []
    for name in PLAN.runs:
        factor = 2 ** RUNGS.index(name.split("/")[0])
        made = run(name, onset=500 * factor)
        runs.append(made.model_copy(update={"learning_rate": made.learning_rate / factor}))
    said = page.scaling_answer(rungs_of([one for one in runs if one.recipe in RUNGS[:2]]))
    assert said == (
        "over 2 rungs without balancing the largest is a multiple of the least of 1.00 in sum of learning rates, "
        "2.00 in steps, 2.00 in tokens, 2.00 in fraction of the run; nearest to constant in sum of learning rates"
    )


def test_rungs_that_the_strong_forecaster_may_know_are_named() -> None:
    """A rung that trains as a recipe did that its weights were learned from, with what it is a near twin of."""
    note = page.twins_note(rungs_of([]), {"qwen3moe-16e-aux0", "qwen3moe-16e-aux", "mixtral-8e-pooled"})
    assert "near twins of `ladder-2m` (of `qwen3moe-16e-aux0`) and `ladder-2m-aux` (of `qwen3moe-16e-aux`)," in note
    assert page.twins_note(rungs_of([]), {"mixtral-8e-pooled"}).startswith("No rung is a near twin")


@pytest.mark.slow
def test_every_quantity_has_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with one rung, and with none; the page shows each."""
    text = page.PAGE.read_text(encoding="utf-8")
    names = [*(quantity.name for quantity in LOADS), "skill", "rank", "regret"]
    assert [name for name in names if f"(ladder/{name}.svg)" not in text] == []
    monkeypatch.setattr(ladder_figures, "LOADS", LOADS[:1])
    for folder, rungs in (("all", whole(onset=[500, 800, 1200, 2000])), ("none", rungs_of([]))):
        ladder_figures.draw_figures(rungs, tmp_path / folder)
        drawn = {path.stem for path in (tmp_path / folder).glob("*.svg")}
        assert drawn == {"onset", "skill", "rank", "regret"}


def test_a_run_is_measured_over_its_first_steps_and_kept_by_its_hash(tmp_path: Path) -> None:
    """What comes after the compared steps plays no part; a kept record is not made again."""
    load = synthetic_trace(ladder.STEPS + 200, recipe="ladder-2m", run=101, split="test")
    path = write_trace(load, tmp_path / "ladder-2m" / "test" / "seed101.parquet")
    targets = [as_target("uniform"), as_target("sw_avg")]
    assert {"lstm.online", "gated"} <= {target.label for target in ladder.forecasters()}
    assert not {"lstm", "sw_avg_conformal"} & {target.label for target in ladder.forecasters()}
    (ref,) = list_traces(tmp_path)
    found = measure_run(ref, targets, "code")
    assert found.steps == ladder.STEPS + 200
    assert found.scores["sw_avg"]["stable"].skill == 0.0
    assert found.scores["uniform"]["stable"].skill < 0
    assert len(found.onset_L) == len(found.unrest_L) == 2
    other = synthetic_trace(ladder.STEPS, recipe="ladder-2m", run=101, split="test")
    assert np.array_equal(other.load_SLE, load.load_SLE[: ladder.STEPS])
    kept = found.model_copy(update={"code": code_hash(ladder.forecasters()), "parameters": 7})
    assert all_runs(tmp_path, [kept]) == [kept]
    assert kept.data_sha256 == stored_hash(path)
    assert all_runs(tmp_path / "nowhere", [kept]) == [kept]


def test_a_run_that_is_too_short_is_refused_by_name(tmp_path: Path) -> None:
    """Not measured over fewer steps than the others."""
    write_trace(synthetic_trace(300, recipe="ladder-2m", run=101), tmp_path / "ladder-2m" / "test" / "seed101.parquet")
    (ref,) = list_traces(tmp_path)
    with pytest.raises(ResultError, match="ladder-2m/test/seed101: 300 rows at stride 1, expected 4000 steps or more"):
        measure_run(ref, [], "code")


def test_the_committed_page_is_made_from_the_committed_records() -> None:
    """`python -m leaderboard pages ladder` leaves it as it is, whatever traces this checkout holds."""
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.fill_parts(text, page.parts_of(rungs_of(read_records(LadderRun, OUT)))) == text


@pytest.mark.skipif(not ladder.TRACES.is_dir(), reason="no traces in this checkout")
def test_every_run_of_the_ladder_in_the_checkout_has_its_record() -> None:
    """By hash, so that a trace that lands without its record is noticed; code is compared by `--check`."""
    there = {(ref.id, stored_hash(ref.path)) for ref in list_traces(ladder.TRACES) if ref.id in PLAN.runs}
    kept = {(one.id, one.data_sha256) for one in read_records(LadderRun, OUT)}
    assert there == kept, "run `python -m leaderboard pages ladder`"


def test_a_page_is_named_by_its_path_or_the_last_part_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m leaderboard pages ladder` is docs/reports/ladder.md, and no two pages share a last part."""
    stems = [Path(one.name).stem for one in pages.PAGES]
    assert len(set(stems)) == len(stems)
    bare = [one._replace(make=lambda name=one.name: {pages.ROOT / f"no-{name}": ""}, draw=None) for one in pages.PAGES]
    monkeypatch.setattr(pages, "PAGES", bare)
    assert leaderboard("pages", "--check", "ladder", "docs/methods/format.md") == 1
    assert capsys.readouterr().out == "stale: no-docs/methods/format.md\nstale: no-docs/reports/ladder.md\n"
