"""The records of a season's folder, in the order in which they are written.

    season.toml       by `open`:    what is drawn, tested and compared, and the hash of every file that is fixed by then
    draw.json         by `draw`:    the public value, and the seed and the recipe's hash of every run
    recordings.json   by `record`:  the hashes of each recorded trace, as it is done
    scores.json       by `score`:   the hashes of the task list and of the table

Each names the hash of the record before it. When they were written is what git shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from leaderboard.season.releases import Release
from moeload_bench.errors import SeasonError
from moeload_bench.files import read_at_most, write_whole
from moeload_bench.generator.recipe import Method
from moeload_bench.isolation.hosts import Level
from moeload_bench.schema import Schema, validated_json

MAX_BYTES = 64 << 20
MOST_RECIPES = 1000
NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
SEASON_NAME = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$"
Report = Literal["tests", "means", "runs"]
Unit = Literal["recipe", "family"]
PLACES = ("candidate", "gains", "reference", "set")
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 2, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]
R = TypeVar("R", bound=Schema)


class RecipeSet(Schema):
    """A set of recipes: drawn from a ``distribution``, a file beside the terms, or ``recipes`` that are known by name.

    Each recipe has levels of at least ``new_levels`` kinds, such as family or optimizer, that no `train` run has.
    ``report`` says what is reported: tests and means, means without a test, or each run without a mean.
    """

    name: str = Field(pattern="^[a-z][0-9]?$")
    distribution: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9._-]{0,79})?$")
    recipes: tuple[Name, ...] = Field(default=(), max_length=MOST_RECIPES)
    new_levels: int = Field(default=0, ge=0)
    report: Report = "tests"

    @model_validator(mode="after")
    def _consistent(self) -> RecipeSet:
        if bool(self.distribution) == bool(self.recipes):
            raise ValueError(f"set {self.name}: expected a distribution or recipes, one of the two")
        return self


class OrderedTest(Schema):
    """A one-sided test: in a state ``candidate`` errs less than ``reference``, or less than so many percent more."""

    candidate: Name
    reference: Name
    state: Literal["transient", "stable"]
    worse_at_most: float = Field(default=0, ge=0, lt=100)


class PairedTest(Schema):
    """What a balancing leaves to forecast, against another within each family of models: two-sided, at fixed origins.

    Of a run it takes the error of ``forecaster`` over the floor of its batches, at ``horizon``, from every
    ``every``-th step of each window, which is a first and a last origin.
    """

    balancing: Method
    against: Method
    forecaster: Name
    horizon: int = Field(ge=1)
    every: int = Field(ge=1)
    windows: dict[str, tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]] = Field(min_length=1)

    def origins(self, window: str) -> range:
        """Return the origins of a window."""
        first, last = self.windows[window]
        return range(first, last + 1, self.every)

    def problems(self) -> Iterator[str]:
        for name in self.windows:
            if not self.origins(name):
                yield f"windows.{name}: {list(self.windows[name])}, expected a last origin that is not before the first"


class Terms(Schema):
    """What a maintainer writes before a season opens.

    ``suite`` gives horizons, quantiles and the rule of states; ``horizon`` is the largest that a run is asked for, in
    steps. The candidate is compared with every entry and, in each cell of state and size of batch, with the reference.
    ``tests`` have a fixed order: each is made only if all before it passed. ``offset`` is added to the errors of every
    ratio. ``headline`` is the sentence that will be printed. ``shown``: entries that are scored and have no rank.
    ``value_rule`` names the public value that is known only after ``value_after``, and where a stranger finds it;
    ``value_form``: its letters and their number, such as `[0-9a-f]{64}`. ``value_project``: a project on the package
    index whose first source distribution from ``value_after`` on has the value as its hash (`releases`).

    ``unit`` is what counts once in a test: a recipe, or a family of models with the mean of its recipes. Then
    ``families`` lists them, and one without the state counts with the test's bound. ``paired`` is tested beside the
    ordered tests. ``rules`` say in words what else is fixed, such as what happens to a training that diverges.
    """

    suite: str
    horizon: int = Field(ge=1)
    candidate: Name
    reference: Name
    tests: tuple[OrderedTest, ...] = Field(min_length=1)
    offset: float = Field(default=0, ge=0, lt=1)
    headline: str = Field(min_length=20)
    shown: tuple[Name, ...] = ()
    value_rule: str = Field(min_length=10, max_length=1000)
    value_form: str = Field(pattern=r"^\[[0-9A-Za-z-]+\]\{[0-9]{1,3}\}$")
    value_after: Moment
    value_project: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,39})?$")
    unit: Unit = "recipe"
    families: tuple[str, ...] = ()
    paired: PairedTest | None = None
    rules: tuple[str, ...] = ()
    sets: tuple[RecipeSet, ...] = Field(min_length=1, max_length=26)

    @property
    def tested(self) -> list[RecipeSet]:
        """Return the sets that tests are made on."""
        return [group for group in self.sets if group.report == "tests"]

    @property
    def described(self) -> list[RecipeSet]:
        """Return the sets of which means are given."""
        return [group for group in self.sets if group.report != "runs"]

    @property
    def claimed(self) -> set[str]:
        """Return the entries that a test or the headline names."""
        quoted = {name for name in self.headline.split("`") if name in self.named}
        paired = {self.paired.forecaster} if self.paired else set()
        return {self.candidate, self.reference, *quoted, *paired}.union(
            *((t.candidate, t.reference) for t in self.tests)
        )

    @property
    def units(self) -> str:
        """Return the word for many of what counts once."""
        return {"recipe": "recipes", "family": "families"}[self.unit]

    @property
    def named(self) -> set[str]:
        """Return the entries that the terms name."""
        paired = {self.paired.forecaster} if self.paired else set()
        tests = [(test.candidate, test.reference) for test in self.tests]
        return {self.candidate, self.reference, *self.shown, *paired}.union(*tests)

    @model_validator(mode="after")
    def _consistent(self) -> Terms:
        lacking = [place for place in PLACES if f"{{{place}}}" not in self.headline]
        if lacking:
            raise ValueError(f"headline: expected {{{lacking[0]}}} in it, as each of {', '.join(PLACES)}")
        if len(self.tested) != 1:
            raise ValueError(f"sets: {len(self.tested)} have tests, expected 1")
        if (self.unit == "family") != bool(self.families):
            raise ValueError(
                f"families: {len(self.families)} are listed, expected some if they are the unit, else none"
            )
        return self


class Season(Terms):
    """The terms of an open season, and what is fixed with them.

    ``commit`` has the code that the entries were copied from. ``files``: the SHA-256 of every file of entries,
    distributions and known recipes. ``train_levels``: what the `train` runs have (`levels`).
    ``known_releases``: the newest of ``value_project`` at opening, which the index must list alike when it draws.
    """

    name: str = Field(pattern=SEASON_NAME, max_length=40)
    opened: Moment
    commit: str = Field(pattern=r"^[0-9a-f]{7,40}$")
    suite_sha256: Sha256
    train_levels: dict[str, tuple[str, ...]]
    known_releases: tuple[Release, ...] = ()
    files: dict[str, Sha256]

    @property
    def split(self) -> str:
        """Return the split of the season's traces, a word: `s2027_01`."""
        return "s" + re.sub(r"\W", "_", self.name)

    @property
    def entries(self) -> list[str]:
        """Return the names of the entries."""
        parts = [path.split("/") for path in self.files]
        return sorted(part[1] for part in parts if part[0] == "entries" and part[2:] == ["submission.toml"])


class DrawnRun(Schema):
    """What was drawn for one run."""

    recipe_sha256: Sha256
    seed: int = Field(ge=0, lt=2**63)


class Draw(Schema):
    """The value that everything was drawn with, and ``where`` anybody can look it up.

    ``public`` False: no public value was to be had, and the maintainers could have tried many. ``extract``: what the
    index listed, from the releases that the season knows to the one after that which drew.
    """

    season_sha256: Sha256
    value: str = Field(min_length=8, max_length=500)
    where: str = Field(min_length=10, max_length=1000)
    public: bool
    drawn: Moment
    extract: tuple[Release, ...] = ()
    runs: dict[Name, DrawnRun]

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave an empty extract out: draws from before there was one keep their bytes."""
        record: dict[str, Any] = whole(self)
        return record if self.extract else {key: value for key, value in record.items() if key != "extract"}


class Recording(Schema):
    """A recorded run: the hashes of its trace's data and of its metadata, None where it has no trace.

    ``ended``: why it ends early or has no trace, such as a training that diverged.
    """

    draw_sha256: Sha256
    data_sha256: Sha256 | None
    meta_sha256: Sha256 | None
    ended: str | None = None


class Recordings(Schema):
    """The recorded runs so far, by recipe."""

    runs: dict[Name, Recording]


class Scores(Schema):
    """What was scored, at which level of isolation: the hashes of all recordings, of the task list and of each file."""

    recordings_sha256: Sha256
    suite_sha256: Sha256
    level: Level
    scored: Moment
    files: dict[str, Sha256]


def canonical_json(manifest: Schema) -> str:
    """Return the one text of a manifest: sorted keys, one space of indent, a final newline."""
    return json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False) + "\n"


def write_manifest(manifest: Schema, path: Path) -> None:
    """Write a manifest once; raise `SeasonError` where another one stands."""
    if path.is_file() and read_bytes(path).decode("utf-8", "replace") != canonical_json(manifest):
        raise SeasonError(f"{path} is there and says something else: what is published is not written again")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, canonical_json(manifest).encode())


def read_manifest(kind: type[R], path: Path) -> R:
    """Return a manifest; raise `SeasonError` naming file and field."""
    return validated_json(kind, read_bytes(path), path, "record", SeasonError)


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise `SeasonError` where it cannot be read, or has more than `MAX_BYTES`."""
    try:
        return read_at_most(path, MAX_BYTES)
    except OSError as error:
        raise SeasonError(f"{path}: cannot be read: {error.strerror}") from None


def file_sha256(path: Path) -> str:
    """Return the hash of what a file holds; raise `SeasonError` as `read_bytes`."""
    return hashlib.sha256(read_bytes(path)).hexdigest()
