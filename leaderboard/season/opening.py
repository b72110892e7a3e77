"""Opening a season: its entries are copied, and season.toml names the hash of everything that is fixed by then."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from leaderboard.season.drawing import set_recipes, unfit_recipes
from leaderboard.season.entries import check_imports, copy_entry
from leaderboard.season.folder import SeasonFolder, file_hashes, git, uncommitted, utc_now
from leaderboard.season.levels import train_levels
from leaderboard.season.records import Season, Terms, file_sha256
from leaderboard.season.releases import Release, listed_releases, newest_before
from moeload_bench.errors import SeasonError
from moeload_bench.files import write_whole
from moeload_bench.generator.draws import recipe_toml
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.schema import first_problem, read_toml
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import stored_meta


def open_season(folder: SeasonFolder, file: Path, submissions: Sequence[Path], index: str | None = None) -> Season:
    """Copy the entries and write season.toml from the terms in a file. Nothing of an entry is executed.

    ``index``: the address of the package index that a release's hash is read from, pip's own if None.

    Raises `SeasonError` for a tree that is not as its commit, a season that is there, terms that do not fit, and
    entries that need more of this project than the contract; nothing of the season is left then.
    """
    if folder.path.exists():
        raise SeasonError(f"{folder.path}: the season is there already")
    changed = uncommitted(file.parent)
    if changed:
        raise SeasonError(
            f"{changed[0]} is not committed as it is, expected a clean tree: entries are those of a commit"
        )
    terms = read_toml(Terms, file, "terms", SeasonError)
    try:
        return _opened(folder, terms, file, submissions, index)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _opened(folder: SeasonFolder, terms: Terms, file: Path, submissions: Sequence[Path], index: str | None) -> Season:
    path, base = folder.path, load_suite(terms.suite)
    if terms.horizon not in base.horizons:
        raise SeasonError(f"{file}: horizon: got {terms.horizon}, expected one of suite {base.name}: {base.horizons}")
    if terms.paired and terms.paired.horizon not in base.horizons:
        got = terms.paired.horizon
        raise SeasonError(f"{file}: paired.horizon: got {got}, expected one of suite {base.name}: {base.horizons}")
    path.mkdir(parents=True)
    for group in terms.sets:
        if group.distribution:
            shutil.copyfile(file.parent / group.distribution, path / group.distribution)
        for name in group.recipes:
            own = file.parent / f"{name}.toml"
            recipe = load_recipe(str(own) if own.is_file() else name)
            write_whole(path / "recipes" / f"{name}.toml", recipe_toml(recipe).encode())
    for submission in sorted(submissions):
        copy_entry(submission, folder.entries)
    check_imports(folder.entries)
    files = file_hashes(path, *(part for part in ("entries", "recipes") if (path / part).is_dir()))
    files |= {group.distribution: file_sha256(path / group.distribution) for group in terms.sets if group.distribution}
    try:
        season = Season(
            **terms.model_dump(),
            name=path.name,
            opened=utc_now(),
            commit=git(file.parent, "rev-parse", "HEAD"),
            suite_sha256=base.sha256(),
            known_releases=_known_releases(terms, index),
            train_levels=train_levels(stored_meta(base.file_of(entry.id)) for entry in base.fit),
            files=files,
        )
    except ValidationError as error:
        raise SeasonError(f"season {path.name}: {first_problem(error, 'season')}") from None
    lacking = sorted(season.named - {*season.entries})
    if lacking:
        raise SeasonError(f"the terms name {', '.join(lacking)}, expected to be among the entries")
    drawn = {group.name: set_recipes(path, season, group, "a trial") for group in season.sets}
    trial = {name: {recipe.name: recipe for recipe in recipes} for name, recipes in drawn.items()}
    for line in unfit_recipes(season, trial):
        raise SeasonError(f"of a trial draw, {line}")
    write_whole(path / "season.toml", season_toml(season).encode())
    return season


def _known_releases(terms: Terms, index: str | None) -> tuple[Release, ...]:
    if not terms.value_project:
        return ()
    return newest_before(listed_releases(terms.value_project, index), min(terms.value_after, utc_now()))


def season_toml(season: Season) -> str:
    """Return the text of season.toml; fields at their default are left out."""
    return tomli_w.dumps(season.model_dump(mode="json", exclude_defaults=True))
