"""The folder of a season, the records in it, and what git knows of it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from leaderboard.committed import ROOT
from leaderboard.season.records import (
    SEASON_NAME,
    Draw,
    Recording,
    Recordings,
    Scores,
    Season,
    canonical_json,
    file_sha256,
    read_manifest,
)
from moeload_bench.errors import SeasonError
from moeload_bench.schema import read_toml
from moeload_bench.suites.suite import Suite, load_suite

SEASONS = ROOT / "leaderboard" / "seasons"
FACTS = "facts.parquet"
PAIRED = "paired.csv"
RECORDINGS = "recordings.json"


@dataclass(frozen=True)
class SeasonFolder:
    """Where the parts of a season lie. Records are read once: make another one after they have changed."""

    path: Path

    @cached_property
    def season(self) -> Season:
        """Return season.toml; raise `SeasonError` before the season is open, and for another folder's name."""
        season = read_toml(Season, self.path / "season.toml", "season", SeasonError)
        if season.name != self.path.resolve().name:
            raise SeasonError(f"{self.path / 'season.toml'} is of season {season.name!r}")
        return season

    @cached_property
    def draw(self) -> Draw:
        """Return draw.json; raise `SeasonError` before the draw."""
        if not (self.path / "draw.json").is_file():
            raise SeasonError(f"season {self.season.name}: nothing is drawn yet: `season draw` comes first")
        return read_manifest(Draw, self.path / "draw.json")

    @cached_property
    def scores(self) -> Scores | None:
        """Return scores.json; None before the season is scored."""
        path = self.path / "scores.json"
        return read_manifest(Scores, path) if path.is_file() else None

    @cached_property
    def suite(self) -> Suite:
        """Return the task list of a scored season."""
        return read_manifest(Suite, self.path / "suite.json")

    @property
    def recordings(self) -> dict[str, Recording]:
        """Return the recordings so far, by recipe."""
        path = self.path / RECORDINGS
        return dict(read_manifest(Recordings, path).runs) if path.is_file() else {}

    @property
    def entries(self) -> Path:
        return self.path / "entries"

    @property
    def results(self) -> Path:
        """Return the folder of the table, as `moeload_bench.results` writes it."""
        return self.path / "results"

    @property
    def shown_results(self) -> str:
        """Return the folder of the table as a reader in a checkout names it."""
        return f"leaderboard/seasons/{self.path.name}/results"

    def trace_id(self, recipe: str) -> str:
        """Return the id of a recipe's trace: RECIPE/SPLIT/seed0."""
        return f"{recipe}/{self.season.split}/seed0"

    def trace(self, recipe: str) -> Path:
        """Return the file of a recipe's trace."""
        return self.path / "traces" / f"{self.trace_id(recipe)}.parquet"

    def recorded_traces(self, recordings: Mapping[str, Recording]) -> set[str]:
        """Return the files of the traces that these recordings have, by their paths in the folder."""
        return {f"traces/{self.trace_id(name)}.parquet" for name, run in recordings.items() if run.data_sha256}

    @cached_property
    def base(self) -> Suite:
        """Return the suite that gives horizons, quantiles and the rule of states; raise `SeasonError` if it changed."""
        suite = load_suite(self.season.suite)
        if suite.sha256() != self.season.suite_sha256:
            raise SeasonError(f"suite {suite.name} is {suite.sha256()[:12]}, expected {self.season.suite_sha256[:12]}")
        return suite


def season_folder(root: Path, name: str) -> SeasonFolder:
    """Return the folder of a season; raise `SeasonError` for what is no name, and for a link in the folder.

    Through a link records and tables would be written, and files be read, elsewhere.
    """
    if not re.fullmatch(SEASON_NAME, name):
        raise SeasonError(f"a season's name is of small letters, digits, and one of . _ - between, got {name!r}")
    path = root / name
    link = next((place for place in (path, *sorted(path.rglob("*"))) if place.is_symlink()), None)
    if link is not None:
        raise SeasonError(f"{link}: a link, expected a season's files and folders themselves")
    return SeasonFolder(path)


def remove_leftovers(folder: SeasonFolder) -> None:
    """Delete what a scoring that was broken off, or killed as it wrote a record, has left."""
    shutil.rmtree(folder.results, ignore_errors=True)
    for path in (folder.path / FACTS, folder.path / PAIRED, folder.path / "suite.json", *folder.path.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def recordings_sha256(recordings: dict[str, Recording]) -> str:
    """Return one hash of all recordings."""
    text = "".join(f"{recipe} {canonical_json(recording)}" for recipe, recording in sorted(recordings.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def file_hashes(folder: Path, *parts: str, unread: Collection[str] = ()) -> dict[str, str]:
    """Return the hash of every file below these parts of a folder, by its path in the folder.

    Those ``unread`` are listed with an empty one: what they hold has a hash of its own.
    """
    places = (path for part in parts for path in (folder / part, *sorted((folder / part).rglob("*"))))
    paths = [path for path in places if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(folder).as_posix(): path for path in paths if "__pycache__" not in path.parts}
    return {name: "" if name in unread else file_sha256(path) for name, path in names.items()}


def season_sha256(folder: SeasonFolder) -> str:
    """Return the hash of season.toml, which holds those of all files that are fixed with it."""
    return file_sha256(folder.path / "season.toml")


def utc_now() -> datetime:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def git(where: Path, *words: str) -> str:
    """Return what git says in a folder; raise `SeasonError` with its words where it fails.

    No setting of the folder starts a program, and no ref stands for another commit.
    """
    safe = ["--no-replace-objects", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false"]
    try:
        done = subprocess.run(["git", "-C", str(where), *safe, *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SeasonError(f"git cannot be called: {error.strerror}") from None
    if done.returncode:
        raise SeasonError(f"git {words[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout.rstrip()


def uncommitted(where: Path, paths: Iterable[Path] = ()) -> list[str]:
    """Return the files of a repository, or those at some paths, that are not as its commit has them."""
    lines = git(where, "status", "--porcelain", "--untracked-files=all", "--", *map(str, paths)).splitlines()
    return [line[3:] for line in lines]


def require_committed(folder: SeasonFolder, *names: str) -> None:
    """Raise `SeasonError` unless the season's folder, or these parts of it, are committed as they are."""
    changed = uncommitted(folder.path, [(folder.path / name).resolve() for name in names or (".",)])
    if changed:
        raise SeasonError(f"{changed[0]} is not committed as it is: commit it before the next step")
