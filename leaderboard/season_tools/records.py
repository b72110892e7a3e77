"""What a season publishes, in the order in which it does: each a strict record in a JSON file of the season's folder.

    plan.json         by `new`:     what will be recorded and what may vary, the secret's hash, the public value's name
    commitment.json   by `close`:   the hashes of every entry
    witness.json      by `witness`: where a third party dates the commitment's hash
    draw.json         by `draw` or `record`: the public value
    runs/*.json       by `record`:  the hash of every recorded trace and of its forks
    scores.json       by `score`:   the hash of every result
    reveal.json       by `reveal`:  the secret, and what was drawn with it
    abandoned.json    by `abandon`: why a season went no further
    log.jsonl         every attempt at any of these, each line bound to the one before

`published_sha256` of the runs' hashes is part of scores.json: nothing can be scored before they stood.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from string import Formatter
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from moeload_bench.errors import SeasonError
from moeload_bench.schema import Record, later
from moeload_bench.traces.meta import Stratum

Action = Literal["new", "close", "draw", "record", "score", "reveal", "abandon"]
Source = Literal["release", "archives", "commitment"]
Outcome = Literal["begun", "done", "refused"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_NUMBER = 2**53  # whole numbers up to here are exact as floats
MAX_MANY = 1000  # runs of a recipe, origins of a run, futures of an origin
MAX_REPEATS = 3  # of the form of a public value: more of them, or a group of one, could take hours to match
MAX_FUTURES = 100_000  # of a season
SEASON_PATTERN = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$"
_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
Name = Annotated[str, Field(pattern=f"^{_NAME}$")]
"""The name of a recipe or an entry, from which names of files are made."""
TraceId = Annotated[str, Field(pattern=f"^{_NAME}/{_NAME}/{_NAME}$")]
ASCII_WORDS = "[!-~]+( [!-~]+)*"
FILE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,79}$"
CLOSED_BEFORE = timedelta(hours=6)
"""How long before the time that names the public value a drawn season closes, at least."""
Share = Annotated[float, Field(gt=0, le=1)]
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 2, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]


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

    name: Name
    version: int
    sha256: Sha256
    steps: int = Field(ge=1, le=MAX_NUMBER)
    secret: bool = False
    varies: tuple[Varies, ...] = Field(default=(), max_length=MAX_MANY)


class ForkPlan(Record):
    """Other futures of the same past, which season 2027-01 had: ``futures`` at each of ``origins`` drawn steps of every
    run of ``recipes``, each of ``steps`` steps.

    ``within`` has the first and last step that each origin can have. ``level`` of the permutation test for knowledge of
    the recorded future, which was made then.
    """

    recipes: tuple[str, ...] = ()
    origins: int = Field(default=2, ge=1, le=MAX_MANY)
    futures: int = Field(default=4, ge=2, le=MAX_MANY)
    steps: int = Field(default=2000, ge=1, le=MAX_NUMBER)
    level: float = Field(default=0.05, gt=0, lt=1)
    within: tuple[tuple[int, int], ...] = ()

    @model_validator(mode="after")
    def _a_range_for_each_origin(self) -> ForkPlan:
        if self.recipes and len(self.within) != self.origins:
            raise ValueError(f"within: got {len(self.within)} ranges of steps, expected {self.origins}: one per origin")
        return self


class SetFile(Record):
    """A set of drawn recipes, as a maintainer asks for it: ``distribution`` is a file beside the one that says this.

    ``recipes`` is the sum of the distribution's quotas. ``weights`` of the strata sum to 1. ``new_levels``: of so many
    kinds, such as family, optimizer or text, each recipe has a level that no `train` run has.
    """

    name: str = Field(pattern="^[a-z]$")
    distribution: str = Field(pattern=FILE_PATTERN)
    recipes: int = Field(ge=1, le=MAX_MANY)
    weights: dict[Stratum, Share]
    new_levels: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> SetFile:
        if abs(sum(self.weights.values()) - 1) > 1e-9:
            raise ValueError(f"weights: {self.weights} sum to {sum(self.weights.values()):g}, expected 1")
        return self


class DrawnSet(SetFile):
    """A set of drawn recipes, as it is published: with the hash and the quotas of its distribution.

    Recipes are named ``prefix``, the first letter of their stratum, and a number.
    """

    sha256: Sha256
    prefix: Name
    quotas: dict[Stratum, dict[str, Annotated[int, Field(ge=1, le=MAX_MANY)]]]

    @model_validator(mode="after")
    def _quotas_fit(self) -> DrawnSet:
        found = sum(sum(methods.values()) for methods in self.quotas.values())
        if found != self.recipes or self.quotas.keys() != self.weights.keys():
            raise ValueError(
                f"set {self.name}: got {self.recipes} recipes with weights of {', '.join(self.weights)}, expected the "
                f"{found} of the quotas of {self.distribution}, of {', '.join(self.quotas)}"
            )
        return self

    @property
    def stratum_of(self) -> dict[str, Stratum]:
        """Return the stratum of every recipe, by its name."""
        return {
            f"{self.prefix}{stratum[0]}{i:02d}": stratum
            for stratum, methods in self.quotas.items()
            for i in range(sum(methods.values()))
        }


class Imported(Record):
    """A log that is public or was given: a trace in the season's folder, which is scored and decides no test."""

    trace: TraceId
    data_sha256: Sha256


class DrawTerms(Record):
    """What a season with drawn recipes says before closing: who is tested against what, how, and what decides the draw.

    ``headline`` is the sentence for README.md, with `{candidate}`, `{tuned_average}`, `{set}` and `{gains}` where
    names and numbers go. The public value is of the first release of Debian unstable after ``release_after``; if that
    cannot be had, of the first source archives of three ``packages`` after it. ``horizon`` is the largest that a run is
    asked for.
    """

    candidate: str
    tuned_average: str
    tests: str = Field(min_length=20)
    headline: str = Field(min_length=20)
    release_after: Moment
    packages: tuple[str, str, str]
    horizon: int = Field(ge=1, le=MAX_NUMBER)

    @model_validator(mode="after")
    def _headline_has_its_places(self) -> DrawTerms:
        parts = [part[1:] for part in Formatter().parse(self.headline) if part[1] is not None]
        if sorted(parts) != sorted((place, "", None) for place in ("candidate", "gains", "set", "tuned_average")):
            got = ", ".join(str(part[0])[:40] for part in parts[:8])
            raise ValueError(
                f"headline: got the places {got}, expected candidate, tuned_average, set, gains, each as it is"
            )
        return self

    @property
    def public_value(self) -> str:
        """Return what the public value is, and where a stranger finds it."""
        return (
            "SHA-256 of the signed text (that of Release) of Debian unstable's first InRelease whose Date is after "
            f"{self.release_after:%Y-%m-%d %H:%M} UTC; https://snapshot.debian.org keeps each. If it cannot be had: of "
            f"the lines 'SHA-256 package version' of the first source archives of {', '.join(self.packages)} after it. "
            "If neither can be had: the commitment's SHA-256, which binds entrants alone."
        )


class DrawFile(DrawTerms):
    """The file that `season new --draw` reads; ``imported`` are files beside it."""

    sets: tuple[SetFile, ...] = Field(min_length=1, max_length=26)
    imported: tuple[str, ...] = ()


class DrawPlan(DrawTerms):
    """What is drawn after closing, and what the `train` runs had by then (`levels.py`)."""

    sets: tuple[DrawnSet, ...] = Field(min_length=1, max_length=26)
    imported: tuple[Imported, ...] = ()
    train_levels: dict[str, tuple[str, ...]]

    @property
    def stratum_of(self) -> Mapping[str, Stratum]:
        """Return the stratum of every recipe of all sets, by its name."""
        return {name: stratum for one in self.sets for name, stratum in one.stratum_of.items()}


class Plan(Published):
    """What will be recorded. ``suite`` gives horizons, quantiles, the state rule and the runs open for fitting.

    ``public_value`` names a value that is known only after closing, and where a stranger finds it; ``value_form`` is a
    regular expression of all of it, so that it has one spelling (`exact_value`). ``secret`` is given
    in an open season only: it is public from the beginning, and the public value alone keeps the runs unknown.
    ``draws``: recipes are drawn after closing; ``recipes`` is empty then until `drawn_plan` fills it. ``again`` runs
    are named for recording again.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=SEASON_PATTERN, max_length=40)
    opened: str
    secret_sha256: Sha256
    secret: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    public_value: str = Field(min_length=10, max_length=500)
    value_form: str | None = Field(default=None, max_length=200)
    suite: str
    suite_sha256: Sha256
    runs: int = Field(default=1, ge=1, le=MAX_MANY)
    checkpoint_every: int = Field(default=250, ge=1, le=MAX_NUMBER)
    recipes: tuple[PlannedRecipe, ...] = Field(max_length=MAX_MANY)
    forks: ForkPlan = ForkPlan()
    draws: DrawPlan | None = None
    again: int = Field(default=1, ge=1, le=MAX_MANY)

    @model_validator(mode="after")
    def _recipes_or_draws(self) -> Plan:
        if bool(self.recipes) == (self.draws is not None):
            raise ValueError("expected recipes or draws, one of the two")
        if self.draws is not None and self.secret is None:
            raise ValueError("a season of drawn recipes is recorded in the open: expected its secret in the plan")
        return self

    @model_validator(mode="after")
    def _names(self) -> Plan:
        names = [*(recipe.name for recipe in self.recipes), *(self.draws.stratum_of if self.draws else ())]
        unknown = sorted(set(self.forks.recipes) - set(names))
        if len(set(names)) != len(names) or unknown:
            raise ValueError(f"recipes: {names} with forks of {list(self.forks.recipes)}: twice, or not among them")
        many = self.runs * (len(names) + len(self.forks.recipes) * self.forks.origins * self.forks.futures)
        if many > MAX_FUTURES:
            raise ValueError(f"runs: got {many} runs and forks, expected at most {MAX_FUTURES}")
        if self.value_form not in (None, ASCII_WORDS):
            _check_form(self.value_form)
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
        """Return the split of the season's traces, a word: `s2027_01`."""
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

    name: Name
    ranked: bool = later(True)
    tree_sha256: Sha256
    source_sha256: Sha256
    files: dict[str, Sha256]
    requirements: tuple[str, ...] = ()
    packages_sha256: Sha256 | None = None
    wheels: dict[str, Sha256] = later({})


class Commitment(Published):
    """The entries as they stood at closing, and the runs that they may be fitted on.

    ``number``: how many seasons were opened by then, this one and those that were abandoned included.
    ``scheme`` says what binds them. 1: of an entry's wheels a hash of what they unpack to, without scripts and what pip
    writes. 2: the SHA-256 of every wheel and a hash of every file in them; the log's head in draw.json and reveal.json.
    """

    schema_version: Literal[1] = 1
    scheme: Literal[1, 2] = later(1)
    season: str
    number: int = Field(ge=1)
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


class Witness(Published):
    """Where a third party dates the commitment's hash: a public page, or its RFC 3161 reply in `witness.tsr`."""

    season: str
    commitment_sha256: Sha256
    where: str = Field(min_length=10, max_length=500)
    dated: Moment
    reply_sha256: Sha256 | None = None


class Abandoned(Published):
    """A season that goes no further, and why; its number stays taken."""

    season: str
    reason: str = Field(min_length=10, max_length=2000)
    at: str


class PastSeason(Record):
    """What a later season is checked against: when another one was opened, with which secret and which public value."""

    name: Name
    opened: str
    secret_sha256: Sha256
    value: str | None = None


class PastSeasons(Record):
    """Seasons whose files lie in the history alone (docs/archive.md): `past.json` beside the seasons' folders."""

    seasons: tuple[PastSeason, ...] = ()


class Archive(Record):
    """A source archive of a package's release, and when it was uploaded."""

    package: str
    version: str
    url: str
    sha256: Sha256
    uploaded: Moment


class Archives(Published):
    """The first source archives of the plan's packages after its time, in its order, and the ones before each."""

    first: tuple[Archive, Archive, Archive]
    before: tuple[Archive, Archive, Archive]


class Draw(Published):
    """The public value, as it was found; ``log_sha256`` is the log's head by then. ``source``: of what it is a hash.

    ``reason``: why no release and no archives could be had, where the commitment's own hash stands for them.
    """

    season: str
    source: Source | None = None
    commitment_sha256: Sha256
    value: str = Field(min_length=8, max_length=500)
    drawn: str
    log_sha256: Sha256 | None = None
    reason: str | None = Field(default=None, min_length=20, max_length=500)


class ForkHash(Record):
    """A recorded fork: which one of an origin's, and the hash of its trace."""

    origin_number: int = Field(ge=0)
    future: int = Field(ge=0)
    data_sha256: Sha256


class RunHashes(Published):
    """A recorded run's hashes, published before anything is scored; a run that could not be recorded says why.

    ``diverged``: the trace ends where the training diverged.
    """

    season: str
    draw_sha256: Sha256
    recipe: Name
    run: int = Field(ge=0)
    trace: TraceId
    data_sha256: Sha256 | None
    meta_sha256: Sha256 | None = None
    failure: str | None = None
    diverged: str | None = later(None)
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
    results: dict[Name, Sha256]
    forks: dict[Name, Sha256] = {}
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
    log_sha256: Sha256 | None = None


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


def _check_form(form: str) -> None:
    """Raise `ValueError` unless a form is a regular expression that no value takes long to match."""
    try:
        re.compile(form)
    except (re.error, OverflowError) as error:
        raise ValueError(f"value_form: got {form!r}, expected a regular expression: {error}") from None
    if "(" in form or sum(map(form.count, "*+?{")) > MAX_REPEATS:
        raise ValueError(f"value_form: got {form!r}, expected no groups, and at most {MAX_REPEATS} of * + ? {{")


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
