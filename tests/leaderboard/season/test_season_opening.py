"""What a season fixes when it opens and draws: copies that run alone, terms that fit, a value of one spelling."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

from leaderboard.season.drawing import PublicValue, draw_number, draw_season, season_recipes, typed_value, unfit_recipes
from leaderboard.season.entries import PACKAGE, SHARED, copied_code, project_imports
from leaderboard.season.folder import SEASONS, SeasonFolder, season_folder, utc_now
from leaderboard.season.opening import open_season
from leaderboard.season.scored import facts_sentence, season_facts
from moeload_bench.errors import MoeloadError, SeasonError
from moeload_bench.isolation.sources import module_files
from tests.support.seasons import VALUE, WHERE, make_repository

CLOSED = SeasonFolder(SEASONS / "2027-02")
DRAWS = SEASONS.parent / "draws"
TERM_TESTS = 'tests = [{ candidate = "mine", reference = "sw_avg", state = "transient" }]'


def test_copied_code_imports_the_contract_and_copies_alone() -> None:
    files = sorted(CLOSED.entries.rglob("*.py"))
    assert len(files) > 25
    assert {path: project_imports(path) for path in files if project_imports(path)} == {}
    for path in files:
        assert copied_code(path) == path.read_bytes()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
                assert (CLOSED.entries / SHARED / Path(*str(node.module).split("."))).with_suffix(".py").is_file()


def test_an_entry_that_needs_more_of_the_project_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the season is left."""
    repository = make_repository(tmp_path, monkeypatch)
    path = tmp_path / "submissions" / "mine" / "forecaster.py"
    path.write_text(path.read_text() + "\nfrom moeload_bench.scoring import metrics\n")
    repository.commit()
    with pytest.raises(SeasonError, match=r"imports moeload_bench.scoring, expected moeload_bench.forecaster and"):
        repository.opened()
    assert not repository.folder.path.exists()


def test_the_code_of_entries_is_found_by_what_it_imports() -> None:
    """So that a copy holds each module that a hash of the source names."""
    assert {"moeload_bench.baselines._series", "moeload_bench.baselines.ema"} <= {
        *module_files("moeload_bench.baselines.ema")
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('candidate = "mine"', 'candidate = "nobody"', "the terms name nobody"),
        ("horizon = 10", "horizon = 40", "horizon: got 40"),
        ('report = "means"', 'report = "tests"', "sets: 2 have tests, expected 1"),
        (TERM_TESTS, "tests = []", "tests"),
        (TERM_TESTS, 'tests = "each one-sided, Holm over all"', "tests"),
        ('state = "transient"', 'state = "mixed"', "tests"),
        ("new_levels = 1", "new_levels = 7", "expected 7 kinds of levels"),
        (" on set {set}", "", "headline: expected {set}"),
        ('distribution = "drawn.toml"', 'distribution = "../drawn.toml"', "distribution"),
        ('distribution = "drawn.toml"', 'distribution = "lost.toml"', "lost.toml"),
        ('recipes = ["small"]', 'recipes = ["small"]\ndistribution = "drawn.toml"', "one of the two"),
        ('value_form = "[0-9a-f]{64}"', 'value_form = "(a+)+$"', "value_form"),
    ],
)
def test_terms_that_do_not_fit_are_refused(
    old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make_repository(tmp_path, monkeypatch)
    terms = repository.terms.read_text()
    assert old in terms
    repository.terms.write_text(terms.replace(old, new))
    repository.commit()
    with pytest.raises((MoeloadError, OSError), match=says.replace("{", r"\{")):
        open_season(repository.folder, repository.terms, repository.submissions)
    assert not repository.folder.path.exists()


def test_the_terms_of_2027_02_open(tmp_path: Path) -> None:
    """With other entries in the place of its own, on the texts of the package; season.toml reads as the terms."""
    with pytest.MonkeyPatch.context() as patch:
        repository = make_repository(tmp_path, patch)
    for path in DRAWS.glob("*.toml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "2027-02.toml").read_text()
    for name, other in (("online.guarded", "shown"), ("online", "mine"), ("guarded", "sw_avg")):
        text = text.replace(f'"{name}"', f'"{other}"')
    (tmp_path / "2027-02.toml").write_text(text)
    repository.commit()
    season = open_season(repository.folder, tmp_path / "2027-02.toml", repository.submissions)
    assert SeasonFolder(repository.folder.path).season == season
    assert [(test.candidate, test.reference, test.state, test.worse_at_most) for test in season.tests] == [
        ("mine", "adaptive", "transient", 0),
        ("mine", "adaptive", "stable", 0),
        ("mine", "sw_avg", "stable", 3),
        ("mine", "sw_avg", "transient", 5),
        ("shown", "sw_avg", "stable", 0),
    ]
    assert [one.name for one in season.tested] == ["b2"]
    recipes = season_recipes(repository.folder, VALUE)
    assert {name: len(found) for name, found in recipes.items()} == {"b2": 20, "o": 4, "s": 2}
    assert not [*unfit_recipes(season, recipes)]


def test_without_a_public_value_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit would draw what the maintainers could have chosen; a value and its place come together."""
    repository = make_repository(tmp_path, monkeypatch)
    folder = repository.opened()
    for value, where in ((None, None), (VALUE, None), (None, WHERE)):
        with pytest.raises(SeasonError, match="expected --value and --where, as"):
            typed_value(folder.season, value, where)
    made = draw_season(folder, typed_value(folder.season, VALUE, WHERE))
    assert (made.value, made.public, made.extract) == (VALUE, True, ())
    facts = season_facts(repository.folder)
    assert facts.foreign == ("adaptive", "mine", "shown", "sw_avg")
    assert "4 of 4 entries are by others" in facts_sentence(facts)
    assert f"drawn with {WHERE}" in facts_sentence(facts)


def test_no_value_draws_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = make_repository(tmp_path, monkeypatch)
    text = repository.terms.read_text()
    repository.terms.write_text(text.replace("2026-01-01", f"{utc_now().year + 1}-01-01"))
    repository.commit()
    with pytest.raises(SeasonError, match="the public value is known after"):
        draw_season(repository.opened(), PublicValue(VALUE, WHERE))


def test_seeds_follow_from_the_value_alone() -> None:
    """By the derivation that the manual states; another name or value gives another number."""
    text = b'["moeload-bench season",1,"","value","recipe",0,"seed"]'
    assert draw_number("value", "recipe", "seed") == int(hashlib.sha256(text).hexdigest()[:16], 16) >> 1
    others = [("other", "recipe", "seed"), ("value", "other", "seed"), ("value", "recipe", "recipes")]
    assert len({draw_number(*words) for words in [("value", "recipe", "seed"), *others]}) == 4
    drawn = CLOSED.draw
    assert {name: run.seed for name, run in drawn.runs.items()} == {
        name: draw_number(drawn.value, name, "seed") for name in drawn.runs
    }


@pytest.mark.parametrize("name", ["../2027-02", "2027-02/..", "a..b", "A", "", ".", "2027-02\n"])
def test_a_season_s_name_leads_nowhere(name: str, tmp_path: Path) -> None:
    """Records and tables would be written there."""
    with pytest.raises(SeasonError, match="a season's name is of small letters"):
        season_folder(tmp_path, name)
