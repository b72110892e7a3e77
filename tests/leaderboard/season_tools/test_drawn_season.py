"""A season whose recipes are drawn after closing is what its plan says, and each way to cheat is refused by name."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from leaderboard.season_tools import command
from leaderboard.season_tools.checking import check_season, runs_to_record_again
from leaderboard.season_tools.claims import claim_lines
from leaderboard.season_tools.closing import abandon_season, close_season
from leaderboard.season_tools.drawn import drawn_plan, set_seed
from leaderboard.season_tools.folder import SeasonFolder, read_record
from leaderboard.season_tools.levels import level_words, new_kinds, poorest_draw, recipe_levels, train_levels
from leaderboard.season_tools.public_value import (
    ARCHIVES,
    draw_season,
    found_value,
    order_sentence,
    release_date,
    release_text,
    value_problems,
    witness_season,
)
from leaderboard.season_tools.recording import draw_value, record_season
from leaderboard.season_tools.records import PastSeason, PastSeasons
from leaderboard.season_tools.scoring import score_season
from moeload_bench.cli.recipes import app as recipes_app
from moeload_bench.errors import DivergedError, SeasonError
from moeload_bench.evaluation import pairs
from moeload_bench.evaluation.pairs import Pair, replay_and_score
from moeload_bench.recipes.draws import load_distribution
from moeload_bench.recipes.metadata import balancing_meta
from moeload_bench.recipes.recipe import load_recipe
from moeload_bench.recipes.training import Job
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import load_result
from moeload_bench.results.run_result import RunResult
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import list_traces, read_trace, stored_meta
from tests.conftest import synthetic_trace
from tests.leaderboard.season_tools.test_season import edit
from tests.support.seasons import (
    DIVERGES,
    DRAWS,
    RELEASE_AFTER,
    in_release,
    planned_draws,
    releases,
    set_clock,
    write_draws,
)

NO_KEYS = Path("no-keyring.gpg")


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SeasonFolder:
    """A season whose entries are closed, two hours after the plan's time."""
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=8))
    folder, entries = planned_draws(tmp_path)
    close_season(folder, entries)
    set_clock(monkeypatch, RELEASE_AFTER + timedelta(hours=2))
    return folder


def test_a_season_of_drawn_recipes_passes(season: SeasonFolder) -> None:
    """Notes name the levels of set B, say that nobody dated the commitment, and what a stranger looks up."""
    notes: list[str] = []
    assert check_season(season, keyring=NO_KEYS, note=notes.append) == []
    said = "\n".join(notes)
    assert "Order is provable only to those who held a copy before 2027-03-01; this season binds entrants" in said
    assert "InRelease: signature not checked" in said
    assert "recipe 2027-03b-l01: no train run has family glm4_moe" in said
    assert "optimizer SGD" in said or "optimizer NAdam" in said


def test_a_run_that_diverged_is_scored_as_far_as_it_came(season: SeasonFolder) -> None:
    """With ten origins in a state; with fewer it counts as unscored. An imported log is scored too."""
    suite = read_record(Suite, season.path / "suite.json")
    scored = {entry.id.split("/")[0]: entry for entry in suite.traces}
    assert set(drawn_plan(season).draws.stratum_of) - scored.keys() == {"2027-03b-s01"}  # type: ignore[union-attr]
    cut = scored["2027-03a-l01"]
    assert max(origin for origin, _ in cut.origins()) + (cut.horizon or suite.horizon) <= DIVERGES["2027-03a-l01"]
    assert min(len(cut.transient), len(cut.stable)) in (0, *range(10, 21))
    assert "a-log" in scored
    assert all(entry.expert_tokens for entry in suite.traces)


def test_scoring_that_was_broken_off_goes_on(season: SeasonFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that were scored by then are not replayed again; the scores are the same."""
    before = {path.name: load_result(path) for path in season.results.iterdir()}
    for name in ("reveal.json", "scores.json"):
        (season.path / name).unlink()
    replayed: list[str] = []

    def counted(pair: Pair, *more: Any, **options: Any) -> RunResult:
        replayed.append(pair.entry.id)
        return replay_and_score(pair, *more, **options)

    def broken_off(done: int, total: int, what: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(pairs, "replay_and_score", counted)
    with pytest.raises(KeyboardInterrupt):
        score_season(season, level="none", published="the test", progress=broken_off)
    assert len(replayed) == 4
    replayed.clear()
    made = score_season(season, level="none", published="the test")
    scored = len(read_record(Suite, season.path / "suite.json").traces) * len(made.results)
    assert len(replayed) == scored - 4
    after = {path.name: load_result(path) for path in season.results.iterdir()}
    assert [run.forecasts_sha256 for one in after.values() for run in one.runs] == [
        run.forecasts_sha256 for one in before.values() for run in one.runs
    ]


def test_a_diverged_run_is_kept_up_to_that_step(closed: SeasonFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trace is published with the reason, and marked as cut short; the season goes on."""
    draw_season(closed, releases(closed.path.parent), "the test")

    def diverges(job: Job, **options: Any) -> Path:
        trace = synthetic_trace(20, recipe=job.recipe.name, split=job.split, seed=job.seed % 1000)
        writer = TraceWriter(Parts(job.target), lambda: trace.meta, shard_steps=250)
        writer.parts.start(True)
        for s in range(20):
            writer.add({"step": s, "tokens": trace.tokens_SL[s], "load": trace.load_SLE[s]})
        writer.flush()
        raise DivergedError("step 20: the loss is nan: training diverged")

    monkeypatch.setattr("moeload_bench.recipes.training.record_recipe", diverges)
    (made,) = record_season(closed, only=["2027-03a-s01"], published="the test")
    assert made.diverged == "step 20: the loss is nan: training diverged"
    trace = read_trace(closed.traces / f"{made.trace}.parquet", expected_sha256=made.data_sha256)
    assert trace.steps == 20
    assert not trace.meta.complete
    assert closed.runs() == [made]


def test_anybody_draws_the_same_recipes(season: SeasonFolder, tmp_path: Path) -> None:
    """By the public command, from the distribution, the number, the seed and the prefix that `season draw` prints."""
    plan, draw = season.plan(), season.draw()
    assert plan.draws is not None
    assert draw is not None
    for one in plan.draws.sets:
        seed = str(set_seed(season.secret(), draw.value, one.name))
        words = ["--number", str(one.recipes), "--seed", seed, "--prefix", one.prefix, "--out", str(tmp_path / "again")]
        assert CliRunner().invoke(recipes_app, ["draw", str(season.path / one.distribution), *words]).exit_code == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in season.recipes.iterdir()}
    assert {path.stem for path in season.recipes.iterdir()} == set(plan.draws.stratum_of)


def test_three_runs_are_named_to_record_again(season: SeasonFolder) -> None:
    """Different ones, whole ones, and drawn from the published hashes."""
    plan, runs = drawn_plan(season), season.runs()
    found = runs_to_record_again(plan, runs)
    assert len(set(found)) == 3
    assert not {recipe for recipe, _ in found} & DIVERGES.keys()
    others = ([run.model_copy(update={"meta_sha256": digit * 64}) for run in runs] for digit in "0123456789")
    assert any(runs_to_record_again(plan, other) != found for other in others)


def test_scores_say_what_the_plan_asked_for(season: SeasonFolder) -> None:
    """A line for each set and state, and the plan's headline with its names and numbers."""
    draws = season.plan().draws
    assert draws is not None
    results = [load_result(path) for path in sorted(season.results.glob("*.json"))]
    *sets, said = claim_lines(draws, errors_of(results, "window_tv"))
    assert re.fullmatch(
        r"mine against sw_avg on set [ab]: small batches, transient: .*; large batches, stable: .*", said
    )
    assert [line.partition(":")[0] for line in sets] == [f"set {a}, {b}" for a in "ab" for b in ("transient", "stable")]
    assert all(re.search(r"mine errs less than [01] of 1 entries; not told apart: (sw_avg|none)", one) for one in sets)


def _another_distribution(season: SeasonFolder) -> None:
    path = season.path / "known.toml"
    path.write_text(path.read_text() + "# another\n")


def _no_distribution(season: SeasonFolder) -> None:
    (season.path / "apart.toml").unlink()


def _another_recipe(season: SeasonFolder) -> None:
    path = season.recipes / "2027-03a-s01.toml"
    path.write_text(path.read_text().replace("lr = 0.001", "lr = 0.002"))


def _a_recipe_left_out(season: SeasonFolder) -> None:
    (season.recipes / "2027-03a-s01.toml").unlink()


def _a_recipe_added(season: SeasonFolder) -> None:
    shutil.copy(season.recipes / "2027-03a-s01.toml", season.recipes / "2027-03a-s07.toml")


def _another_release(season: SeasonFolder) -> None:
    in_release(season.public_value / "InRelease", RELEASE_AFTER + timedelta(hours=1), Label="other")


def _a_later_release_before(season: SeasonFolder) -> None:
    in_release(season.public_value / "InRelease.before", RELEASE_AFTER + timedelta(minutes=1))


def _of_stable(season: SeasonFolder) -> None:
    in_release(season.public_value / "InRelease.before", RELEASE_AFTER, Suite="stable")


def _no_release(season: SeasonFolder) -> None:
    (season.public_value / "InRelease").unlink()


def _another_value(season: SeasonFolder) -> None:
    edit(season.path / "draw.json", lambda tree: tree.update(value="0" * 64))


def _no_source(season: SeasonFolder) -> None:
    edit(season.path / "draw.json", lambda tree: tree.pop("source"))


def _another_number(season: SeasonFolder) -> None:
    edit(season.path / "commitment.json", lambda tree: tree.update(number=2))


def _closed_late(season: SeasonFolder) -> None:
    at = (RELEASE_AFTER - timedelta(hours=5)).isoformat()
    edit(season.path / "commitment.json", lambda tree: tree.update(closed=at))


def _other_levels(season: SeasonFolder) -> None:
    edit(season.path / "plan.json", lambda tree: tree["draws"].update(train_levels={"family": ["glm4_moe"]}))


def _another_log(season: SeasonFolder) -> None:
    (season.traces / "a-log" / "given" / "seed0.parquet").unlink()


def _another_candidate(season: SeasonFolder) -> None:
    edit(season.path / "plan.json", lambda tree: tree["draws"].update(candidate="sw_avg"))


def _a_late_witness(season: SeasonFolder) -> None:
    _witness(season, dated="2027-03-01T12:00:01Z")


def _a_witness_of_another(season: SeasonFolder) -> None:
    _witness(season, commitment_sha256="0" * 64)


def _a_witness_without_its_reply(season: SeasonFolder) -> None:
    _witness(season, reply_sha256="0" * 64)


def _witness(season: SeasonFolder, **changes: str) -> None:
    known = {"season": "2027-03", "commitment_sha256": season.commitment().sha256(), "reply_sha256": None}
    at = {"where": "https://host.example/page", "dated": "2027-03-01T06:00:00Z"}
    (season.path / "witness.json").write_text(json.dumps({**known, **at, **changes}))


CHEATS: dict[str, Callable[[SeasonFolder], None]] = {
    "set a: known.toml has changed: its SHA-256 is": _another_distribution,
    "apart.toml is not there: its distribution is left out": _no_distribution,
    "2027-03a-s01.toml is not what the draw gives": _another_recipe,
    "recipe 2027-03a-s01: left out": _a_recipe_left_out,
    "recipe 2027-03a-s07: not drawn": _a_recipe_added,
    "its release gives": _another_release,
    "expected the plan's time, 2027-03-01 12:00:00, between them": _a_later_release_before,
    "Suite is 'stable', expected 'unstable'": _of_stable,
    "InRelease: cannot be read": _no_release,
    "the public value is 000000000000, its release gives": _another_value,
    "names no source of its public value": _no_source,
    "this is season number 2, by those published beside it 1": _another_number,
    "expected 6:00:00 before 2027-03-01 12:00:00": _closed_late,
    "the levels of the train runs are not those of their traces": _other_levels,
    "imported log a-log/given/seed0: left out, or changed": _another_log,
    "commitment.json is bound to another plan": _another_candidate,
    "not before the plan's time 2027-03-01 12:00:00": _a_late_witness,
    "witness.json: dates the commitment 000000000000": _a_witness_of_another,
    "witness.tsr: left out, or changed since witness.json": _a_witness_without_its_reply,
}


@pytest.mark.parametrize("words", CHEATS)
def test_the_check_names_what_is_not_as_planned(words: str, season: SeasonFolder) -> None:
    """Each cheat alone, found from the published folder."""
    CHEATS[words](season)
    found = check_season(season, keyring=NO_KEYS)
    assert any(words in line for line in found), found


def test_a_release_has_one_spelling(tmp_path: Path) -> None:
    """Blanks, line ends and headers around the signed text are not signed, so they do not change the value."""
    path = in_release(tmp_path / "InRelease", RELEASE_AFTER)
    value, text = found_value(tmp_path, "release"), path.read_text()
    assert value == hashlib.sha256(release_text(path).encode()).hexdigest()
    assert release_text(path).startswith("Origin: Debian\n")
    assert release_text(path).endswith(" 00 1 main\n")
    for other in (
        text.replace("\n", "\r\n"),
        text.replace("Debian\n", "Debian \t\n"),
        text.replace("\n\niQ==", "\nComment: tried again\n\niQ=="),
        text.replace("Hash: SHA256", "Hash: SHA512"),
    ):
        path.write_bytes(other.encode())
        assert found_value(tmp_path, "release") == value
    for wrong in (
        f"more\n{text}",
        text + "more\n",
        text.partition("-----BEGIN PGP SIGNATURE")[0],
        text.replace("Origin: Debian\n", ""),
    ):
        path.write_text(wrong)
        with pytest.raises(SeasonError):
            release_date(path)


@pytest.mark.parametrize(("before", "first"), [(-1, -0.5), (0.5, 1), (-1, 3)])
def test_only_the_first_release_after_the_time_is_drawn_with(before: float, first: float, closed: SeasonFolder) -> None:
    """One before the time, one that follows another after it, and one that is not there yet are refused."""
    with pytest.raises(SeasonError, match=r"InRelease: of 2027-03-01"):
        draw_season(closed, releases(closed.path.parent, before, first), "the test")
    assert closed.draw() is None
    assert closed.lines()[-1].outcome == "refused"


def test_a_value_of_ones_own_draws_no_recipes(closed: SeasonFolder) -> None:
    """`record` neither takes one nor goes on without a draw; what was drawn is not drawn again."""
    for value in ("ab" * 32, None):
        with pytest.raises(SeasonError, match="season draw"):
            draw_value(closed, value, "the test")
    with pytest.raises(SeasonError, match="nothing is drawn yet"):
        record_season(closed, published="the test")
    draw_season(closed, releases(closed.path.parent), "the test")
    with pytest.raises(SeasonError, match="nothing is drawn twice"):
        draw_season(closed, releases(closed.path.parent, first=1.5), "the test")


def test_a_season_closes_six_hours_before_its_public_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither opened nor closed later."""
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=7))
    folder, entries = planned_draws(tmp_path)
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=5))
    with pytest.raises(SeasonError, match="expected at least 6:00:00 after closing"):
        close_season(folder, entries)
    with pytest.raises(SeasonError, match="expected at least 6:00:00 after closing"):
        planned_draws(tmp_path / "late")


def test_source_archives_stand_in_for_a_release(closed: SeasonFolder, tmp_path: Path) -> None:
    """Of the three packages of the plan, the first after its time; others and earlier ones are refused."""

    def archive(package: str, hours: float) -> dict[str, str]:
        at = (RELEASE_AFTER + timedelta(hours=hours)).isoformat()
        return {"package": package, "version": f"1.{hours}", "url": "https://x", "sha256": "ab" * 32, "uploaded": at}

    path = tmp_path / ARCHIVES
    for packages, hours in ((("alpha", "beta", "delta"), 1.0), (("alpha", "beta", "gamma"), -1.0)):
        tree = {"first": [archive(one, hours) for one in packages], "before": [archive(one, -30) for one in packages]}
        path.write_text(json.dumps(tree))
        with pytest.raises(SeasonError, match="the plan's"):
            draw_season(closed, {ARCHIVES: path}, "the test")
    packages = ("alpha", "beta", "gamma")
    tree = {"first": [archive(one, 1) for one in packages], "before": [archive(one, -30) for one in packages]}
    path.write_text(json.dumps(tree))
    lines = "".join(f"{'ab' * 32} {package} 1.1\n" for package in packages)
    assert draw_season(closed, {ARCHIVES: path}, "the test").value == hashlib.sha256(lines.encode()).hexdigest()


def test_where_no_public_value_can_be_had_the_page_says_whom_the_season_binds(
    closed: SeasonFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commitment's own hash draws, with a reason and after the plan's time; a witness does not change the words."""
    why = "the archive that this machine reaches is a month old"
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=1))
    with pytest.raises(SeasonError, match="until then a release can come"):
        draw_season(closed, {}, "the test", why)
    set_clock(monkeypatch, RELEASE_AFTER + timedelta(hours=1))
    with pytest.raises(SeasonError, match="the draw, reason: String should have at least 20 characters"):
        draw_season(closed, {}, "the test", "too short")
    with pytest.raises(SeasonError, match="no reason"):
        draw_season(closed, {}, "the test")
    drawn = draw_season(closed, {}, "the test", why)
    assert drawn.value == drawn.commitment_sha256 == closed.commitment().sha256()
    draws = closed.plan().draws
    assert draws is not None
    assert list(value_problems(closed.public_value, draws, drawn)) == []
    forged = drawn.model_copy(update={"value": "ab" * 32})
    assert "expected the commitment's hash" in next(value_problems(closed.public_value, draws, forged))
    witness_season(closed, "a public page", RELEASE_AFTER - timedelta(hours=7))
    said = str(order_sentence(closed))
    assert said.endswith(f"not maintainers. The recipes are drawn from the commitment's own hash: {why}")


def test_a_third_party_dates_the_commitment(closed: SeasonFolder, tmp_path: Path) -> None:
    """By a reply whose bytes hold the commitment's SHA-256 and the time; then the page needs no sentence."""
    at, where = RELEASE_AFTER - timedelta(hours=7), "the authority at https://tsa.example"
    assert "binds entrants, not maintainers" in str(order_sentence(closed))
    reply = tmp_path / "reply.tsr"
    stamped = bytes.fromhex(closed.commitment().sha256())
    for hashed, time, says in ((bytes(32), at, "stamps another file"), (stamped, RELEASE_AFTER, "its time is")):
        reply.write_bytes(b"0\x82" + hashed + f"\x18\x0f{time:%Y%m%d%H%M%S}Z".encode())
        with pytest.raises(SeasonError, match=says):
            witness_season(closed, where, at, reply)
    reply.write_bytes(b"0\x82" + stamped + f"\x18\x0f{at:%Y%m%d%H%M%S}Z".encode())
    assert witness_season(closed, where, at, reply).reply_sha256 == hashlib.sha256(reply.read_bytes()).hexdigest()
    assert order_sentence(closed) is None


def test_an_abandoned_season_keeps_its_number(
    closed: SeasonFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published with its reason and goes no further; the next one is number two, an archived one counts."""
    abandon_season(closed, "the recording machine is gone")
    with pytest.raises(SeasonError, match=r"was abandoned at .*: the recording machine is gone"):
        draw_season(closed, releases(tmp_path), "the test")
    shown = CliRunner().invoke(command.app, ["check", "2027-03", "--root", str(closed.path.parent)])
    assert "season 2027-03, number 1, was abandoned" in shown.output
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=7))
    folder, entries = planned_draws(tmp_path / "next")
    shutil.copytree(closed.path, folder.path.parent / "2027-02")
    assert close_season(folder, entries).number == 2
    shutil.rmtree(folder.path.parent / "2027-02")
    assert folder.number() == 1
    past = PastSeason(name="2027-02", opened="2026-01-01T00:00:00+00:00", secret_sha256="0" * 64)
    (folder.path.parent / "past.json").write_text(PastSeasons(seasons=(past,)).model_dump_json())
    assert folder.number() == 2


def test_a_set_without_new_levels_is_refused_by_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poorest draw counts: with AdamW among its optimizers set B could give a recipe with too few new levels."""
    file = write_draws(tmp_path)
    distribution = load_distribution(tmp_path / "apart.toml")
    train = {
        "family": ("qwen3_moe",), "optimizer": ("AdamW",), "balancing": ("aux_loss", "none"),
        "sequence length": ("32", "64"), "switches of text": ("1",), "text": ("factbook", "kjv"),
    }  # fmt: skip
    assert level_words(poorest_draw(distribution, train)) == "family glm4_moe, optimizer SGD"
    longer = {**train, "sequence length": ("32",), "text": ("kjv",)}
    assert level_words(poorest_draw(distribution, longer)) == "family glm4_moe, optimizer SGD, text factbook"
    monkeypatch.setattr("leaderboard.season_tools.drawn.train_levels", lambda metas: train)
    (tmp_path / "apart.toml").write_text((tmp_path / "apart.toml").read_text().replace("NAdam", "AdamW"))
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=8))
    monkeypatch.setattr("tests.support.seasons.write_draws", lambda root, draws: file)
    with pytest.raises(SeasonError, match=r"set b: apart.toml can draw .* 1 kinds .* \(family glm4_moe\), expected 2"):
        planned_draws(tmp_path / "season")


def test_the_apart_distribution_draws_what_no_train_run_has() -> None:
    """Any draw of set B has a family and an optimizer that none of the committed `train` runs has."""
    apart = load_distribution(Path(__file__).parents[3] / "leaderboard" / "draws" / "2027-apart.toml")
    refs = [ref for ref in list_traces() if ref.id.split("/")[1] == "train"]
    assert {*poorest_draw(apart, train_levels(stored_meta(ref.path) for ref in refs))} >= {"family", "optimizer"}
    assert {stratum: sum(quotas.values()) for stratum, quotas in apart.quotas.items()} == {"small": 8, "large": 4}


def test_levels_of_a_run_are_those_of_its_recipe() -> None:
    """Traces name balancing in other words: a recipe that was recorded has no level that its run has not."""
    for name in ("mixtral-8e-pooled", "deepseekv3-16e-quantile", "qwen3moe-16e-shift", "qwen3moe-16e-hash"):
        recipe = load_recipe(name)
        sources = tuple(
            {"name": text, "version": "1", "licence": "x", "sha256": "0", "bytes": 1, "stage": number}
            for number, stage in enumerate(recipe.data.stages)
            for text in stage.every_source
        )
        meta = synthetic_trace(20).meta
        known = {
            "family": recipe.model.family, "balancing": balancing_meta(recipe), "optimizer": {"name": "AdamW"},
            "format_version": "1.2", "sources": sources, "sequence_length": recipe.data.sequence_length,
        }  # fmt: skip
        run = type(meta).model_validate({**meta.model_dump(), **known})
        assert new_kinds(recipe_levels(recipe), train_levels([run])) == {}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("recipes = 4", "recipes = 5", "got 5 recipes"),
        ("small = 0.5", "small = 0.6", "expected 1"),
        ("weights = { small = 0.5, large = 0.5 }", "weights = { small = 1.0 }", "of small, large"),
        (" on set {set}", "", "headline: got the places"),
        ("horizon = 50", "horizon = 40", "horizon: got 40"),
        ('"known.toml"', '"unknown.toml"', "unknown.toml"),
        ('["alpha", "beta", "gamma"]', '["alpha"]', "packages"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_plan_is_made(
    old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a secret is drawn."""
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=8))
    with pytest.raises(Exception, match=says):
        planned_draws(tmp_path, DRAWS.replace(old, new, 1))
    assert not (tmp_path / "seasons").exists()


def test_a_signature_is_checked_where_a_keyring_is(season: SeasonFolder) -> None:
    """A file that nobody signed is named; `gpgv` and Debian's keys are needed for that."""
    if shutil.which("gpgv") is None:
        pytest.skip("no gpgv")
    keyring = season.path.parent / "keys.gpg"
    keyring.write_bytes(b"")
    assert any("InRelease: gpgv:" in line for line in check_season(season, keyring=keyring))
    assert subprocess.run(["gpgv", "--version"], capture_output=True, check=False).returncode == 0
