"""What a season publishes, in the order in which it does: each a strict record in a JSON file of the season's folder.

    plan.json         by `new`:     what will be recorded and what may vary, the secret's hash, the public value's name
    commitment.json   by `close`:   the hashes of every entry
    draw.json         by `record`:  the public value
    runs/*.json       by `record`:  the hash of every recorded trace and of its forks
    scores.json       by `score`:   the hash of every result
    reveal.json       by `reveal`:  the secret, and what was drawn with it
    log.jsonl         every attempt at any of these, each line bound to the one before

`published_sha256` of the runs' hashes is part of scores.json: nothing can be scored before they stood.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from moeload_bench.errors import SeasonError
from moeload_bench.schema import Record, later

Action = Literal["new", "close", "record", "score", "reveal"]
Outcome = Literal["begun", "done", "refused"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_NUMBER = 2**53  # whole numbers up to here are exact as floats
MAX_MANY = 1000  # runs of a recipe, origins of a run, futures of an origin
MAX_FUTURES = 100_000  # of a season
SEASON_PATTERN = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$"


class Published(Record):
    """A record with one text and one hash."""

    def to_json(self) -> str:
        """Canonical text: sorted keys, one space of indent, a final newline."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False) + "\n"

    def sha256(self) -> str:
        """Hash of the canonical text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class Varies(Record):
    """One number of a recipe that is drawn for each run: `data.stages.1.start`, `schedule.period`, `optimizer.lr`.

    ``integer``: each whole number from low to high is as likely; ``log``: the logarithm is uniform, kept to six digits.
    """

    key: str = Field(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)+$")
    low: float = Field(ge=-MAX_NUMBER, le=MAX_NUMBER)
    high: float = Field(ge=-MAX_NUMBER, le=MAX_NUMBER)
    kind: Literal["integer", "log"] = "integer"

    @model_validator(mode="after")
    def _a_range(self) -> Varies:
        whole = self.low.is_integer() and self.high.is_integer()
        if not self.low <= self.high or not (whole if self.kind == "integer" else self.low >= 1 / MAX_NUMBER):
            raise ValueError(f"{self.key}: got {self.low} to {self.high} ({self.kind}), expected a rising range of it")
        return self


class PlannedRecipe(Record):
    """A recipe of the season: ``sha256`` is that of its content; a ``secret`` one is shown with the reveal only."""

    name: str
    version: int
    sha256: Sha256
    steps: int = Field(ge=1, le=MAX_NUMBER)
    secret: bool = False
    varies: tuple[Varies, ...] = Field(default=(), max_length=MAX_MANY)


class ForkPlan(Record):
    """Other futures of the same past: ``futures`` at each of ``origins`` drawn steps of every run of ``recipes``.

    ``steps`` of another data order each; ``level`` of the permutation test for knowledge of the recorded future.
    """

    recipes: tuple[str, ...] = ()
    origins: int = Field(default=2, ge=1, le=MAX_MANY)
    futures: int = Field(default=4, ge=2, le=MAX_MANY)
    steps: int = Field(default=2000, ge=1, le=MAX_NUMBER)
    level: float = Field(default=0.05, gt=0, lt=1)


class Plan(Published):
    """What will be recorded. ``suite`` gives horizons, quantiles, the state rule and the runs open for fitting.

    ``public_value`` names a value that is known only after closing, and where a stranger finds it; ``value_form`` is a
    regular expression of all of it, so that it has one spelling (`exact_value`). ``secret`` is given
    in an open season only: it is public from the beginning, and the public value alone keeps the runs unknown.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=SEASON_PATTERN, max_length=40)
    opened: str
    secret_sha256: Sha256
    secret: str | None = later(None, pattern=r"^[0-9a-f]{64}$")
    public_value: str = Field(min_length=10, max_length=500)
    value_form: str | None = later(None, max_length=200)
    suite: str
    suite_sha256: Sha256
    runs: int = Field(default=1, ge=1, le=MAX_MANY)
    checkpoint_every: int = Field(default=250, ge=1, le=MAX_NUMBER)
    recipes: tuple[PlannedRecipe, ...] = Field(min_length=1, max_length=MAX_MANY)
    forks: ForkPlan = ForkPlan()

    @model_validator(mode="after")
    def _names(self) -> Plan:
        names = [recipe.name for recipe in self.recipes]
        unknown = sorted(set(self.forks.recipes) - set(names))
        if len(set(names)) != len(names) or unknown:
            raise ValueError(f"recipes: {names} with forks of {list(self.forks.recipes)}: twice, or not among them")
        many = self.runs * (len(names) + len(self.forks.recipes) * self.forks.origins * self.forks.futures)
        if many > MAX_FUTURES:
            raise ValueError(f"runs: got {many} runs and forks, expected at most {MAX_FUTURES}")
        try:
            re.compile(self.value_form or "")
        except re.error as error:
            raise ValueError(f"value_form: got {self.value_form!r}, expected a regular expression: {error}") from None
        hidden = [recipe.name for recipe in self.recipes if recipe.secret]
        if self.secret is not None and hidden:
            raise ValueError(f"an open season has no secrets, got the secret recipes {hidden}")
        return self

    def exact_value(self, text: str) -> str:
        """Return a public value in its one spelling: compatibility forms as plain ones, one blank between words.

        Raises `SeasonError` for one that is not of the plan's form. Plans without a form take it as it is.
        """
        if self.value_form is None:
            return text
        exact = normal_text(text)
        if not self.is_exact(exact):
            raise SeasonError(f"the public value: got {exact[:80]!r}, expected the plan's form {self.value_form}")
        return exact

    def is_exact(self, value: str) -> bool:
        """Return whether a value is in its one spelling, and of the plan's form."""
        return self.value_form is None or (value == normal_text(value) and bool(re.fullmatch(self.value_form, value)))

    @property
    def split(self) -> str:
        """Return the split of the season's traces, a word: `s2026_12`."""
        return "s" + re.sub(r"\W", "_", self.name)

    def recipe(self, name: str) -> PlannedRecipe:
        """Return a recipe of the plan by its name; raise `SeasonError` for one that is not planned."""
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        raise SeasonError(
            f"season {self.name} has no recipe {name!r}; there is: {', '.join(one.name for one in self.recipes)}"
        )

    def wanted(self) -> list[tuple[str, int]]:
        """(recipe, run) of every run that has to be recorded."""
        return [(recipe.name, run) for recipe in self.recipes for run in range(self.runs)]

    def forks_of(self, recipe: str) -> ForkPlan | None:
        """Return the forks of a recipe's runs; None where it has none."""
        return self.forks if recipe in self.forks.recipes else None


class Entry(Record):
    """A frozen forecaster: hashes of its folder (weights included), of its code, of its wheels by file, and of what
    they hold.

    ``ranked`` False: a demonstration, such as a memory of public runs, that is scored and shown and has no rank.
    """

    name: str
    ranked: bool = later(True)
    tree_sha256: Sha256
    source_sha256: Sha256
    files: dict[str, Sha256]
    requirements: tuple[str, ...] = ()
    packages_sha256: Sha256 | None = None
    wheels: dict[str, Sha256] = later({})


class Commitment(Published):
    """The entries as they stood at closing, and the runs that they may be fitted on.

    ``scheme`` says what binds them. 1: of an entry's wheels a hash of what they unpack to, without scripts and what pip
    writes. 2: the SHA-256 of every wheel and a hash of every file in them; the log's head in draw.json and reveal.json.
    """

    schema_version: Literal[1] = 1
    scheme: Literal[1, 2] = later(1)
    season: str
    plan_sha256: Sha256
    closed: str
    package_version: str
    commit: str | None
    fit_data: dict[str, Sha256]
    entries: tuple[Entry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_wheel(self) -> Commitment:
        for entry in self.entries:
            wanted = len(entry.requirements) if self.scheme == 2 else 0
            if len(entry.wheels) != wanted:
                raise ValueError(
                    f"entry {entry.name}: got the hashes of {len(entry.wheels)} wheels, expected {wanted} "
                    f"(scheme {self.scheme})"
                )
        return self


class Draw(Published):
    """The public value, as it was found; ``log_sha256`` is the log's head by then."""

    season: str
    commitment_sha256: Sha256
    value: str = Field(min_length=8, max_length=500)
    drawn: str
    log_sha256: Sha256 | None = later(None)


class ForkHash(Record):
    """A recorded fork: which one of an origin's, and the hash of its trace."""

    origin_number: int = Field(ge=0)
    future: int = Field(ge=0)
    data_sha256: Sha256


class RunHashes(Published):
    """A recorded run's hashes, published before anything is scored; a run that could not be recorded says why."""

    season: str
    draw_sha256: Sha256
    recipe: str
    run: int = Field(ge=0)
    trace: str
    data_sha256: Sha256 | None
    meta_sha256: Sha256 | None = None
    failure: str | None = None
    forks: tuple[ForkHash, ...] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> RunHashes:
        if (self.data_sha256 is None) == (self.failure is None):
            raise ValueError("a run has a hash, or a reason why it has none")
        return self


class Scores(Published):
    """All results, by the name of the entry, and the hashes that stood before them."""

    season: str
    published_sha256: Sha256
    published_at: str = Field(description="the commit, or the place, at which the hashes were published")
    suite_sha256: Sha256
    level: str
    results: dict[str, Sha256]
    forks: dict[str, Sha256] = {}
    fork_floors: Sha256 | None = None


class Drawn(Record):
    """What was drawn for one run: seed, varied numbers, origins of its forks and the seeds of their data order."""

    recipe: str
    run: int
    seed: int = Field(ge=0, lt=2**63)
    varied: dict[str, float] = {}
    fork_origins: tuple[int, ...] = ()
    fork_seeds: tuple[tuple[int, ...], ...] = ()


class Reveal(Published):
    """The secret and what follows from it; ``log_sha256`` is the log's head by then."""

    season: str
    secret: str = Field(pattern=r"^[0-9a-f]{64}$")
    runs: tuple[Drawn, ...]
    log_sha256: Sha256 | None = later(None)


class LogLine(Record):
    """One attempt. ``before`` is the hash of the line before it, zeros for the first."""

    number: int
    at: str
    action: Action
    outcome: Outcome
    detail: str = ""
    before: Sha256

    def sha256(self) -> str:
        """Hash of the line as it is written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def normal_text(text: str) -> str:
    """Return a text with compatibility forms as plain ones (full-width digits) and one blank between words."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def published_sha256(runs: Iterable[RunHashes]) -> str:
    """Return one hash of the hashes of all runs, whatever their order."""
    lines = sorted(f"{run.recipe} {run.run} {run.sha256()}\n" for run in runs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class ForkLoss(Record):
    """`window_tv` of one forecast against every future of its origin [J][K], the recorded one first."""

    trace: str
    recipe: str
    run: int
    origin: int
    failure: str | None = None
    loss_JK: tuple[tuple[float, ...], ...] = ()


class EntryForks(Published):
    """An entry's losses on recorded and forked futures."""

    season: str
    entry: str
    horizons: tuple[int, ...]
    tasks: tuple[ForkLoss, ...]


class ForkFloor(Record):
    """`floor_fork` at one origin [K] and its standard error [K]."""

    trace: str
    origin: int
    state: Literal["transient", "mixed", "stable"]
    floor_K: tuple[float, ...]
    error_K: tuple[float, ...]


class ForkFloors(Published):
    """What nobody could have known at the origins of forks, and how well the test finds a memory of what was recorded.

    ``power[weight]`` is the share of draws in which it is found at the plan's level: of all runs, or of one recipe's.
    """

    season: str
    horizons: tuple[int, ...]
    futures: int
    level: float
    power: dict[str, dict[str, float]]
    floors: tuple[ForkFloor, ...]
