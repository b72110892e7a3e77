"""Suites: frozen lists of (trace by content hash, origins by state, horizons), one TOML file for each.

A suite's hash is taken over its parsed content, so comments and formatting do not change it. `suite_for_trace` makes an
ad-hoc suite for any trace, with the same rule that chose the frozen origins.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from moeload_bench.errors import MoeloadError, SuiteError, not_found, short
from moeload_bench.files import PACKAGE
from moeload_bench.isolation.targets import printed_names
from moeload_bench.schema import Schema, extra_field, read_toml
from moeload_bench.states.origins import FIRST, choose_origins, origins_every
from moeload_bench.states.rule import State, StateRule, label_states, state_names
from moeload_bench.traces.hub import HUB_ENV
from moeload_bench.traces.lookup import SEASONS, TRACES_ENV, find_trace, list_traces
from moeload_bench.traces.meta import Stratum, stratum_of
from moeload_bench.traces.store import Source, data_sha256
from moeload_bench.traces.trace import Trace
from moeload_bench.words import page

STATES: tuple[State, ...] = ("transient", "mixed", "stable")
CROSSING = "crossing"
"""Tasks of any state whose window contains a change of state or a planned switch; they are reported separately."""
HORIZONS = (1, 10, 100, 1000, 2000)
ORIGINS_PER_STATE = 20
DECIDES_NO_SCORE = ("description", "hub", "baselines", "near_twins", "families", "apart", "tables")
"""Fields that do not change a suite's hash."""
MAX_SUITE_BYTES = 4 << 20
SEASON = "season-"
"""What the name of a season's suite begins with; its file in this package is called by the season's name alone."""
CLOSED = ("v1", "v2")
SMALL_SUITE = "mini"
"""The suite that comes with its traces in the package."""
ARCHIVED_AT = "07f6d2b8"
"""The commit that has the suites that are closed."""
_BASELINE = re.compile(r"[A-Za-z_]\w{0,79}", re.ASCII)
_HUB_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$"
"""ASCII, as on the Hub; to compile a counted `\\w` of all alphabets takes pydantic a quarter of a second."""
Step = Annotated[int, Field(ge=0, le=2**53)]
Title = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 ,._-]{0,99}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FitTrace(Schema):
    """A `train` run, which forecasters may be fitted on."""

    id: str
    data_sha256: Sha256


class SuiteTrace(FitTrace):
    """A run that is scored, with its origins (training steps) by state: that of all layers, else mixed.

    Frozen suites have no mixed origins; the sliding and block evaluations of the founding paper do. ``horizon``: the
    largest that a run too short for the suite's own is asked for. ``expert_tokens``: per expert and row, at the end.
    """

    transient: tuple[Step, ...] = ()
    mixed: tuple[Step, ...] = ()
    stable: tuple[Step, ...] = ()
    horizon: Step | None = extra_field(None)
    expert_tokens: float | None = extra_field(None)

    def origins(self) -> list[tuple[int, State]]:
        """Return (origin, state) in the order of training."""
        return sorted((origin, state) for state in STATES for origin in getattr(self, state))

    def asked(self, horizons: Sequence[int]) -> tuple[int, ...]:
        """Return those of a suite's horizons that the run is asked for."""
        return tuple(h for h in horizons if self.horizon is None or h <= self.horizon)


class HubPlace(Schema):
    """The dataset repository and tag that hold the suite's traces."""

    repo: str = Field(pattern=_HUB_NAME)
    revision: str = Field(pattern=r"^[A-Za-z0-9_./-]{1,200}$")


class Suite(Schema):
    """A frozen task list.

    ``baselines`` are names of forecasters in the order of tables. ``near_twins`` are groups of recipes that are the
    same training at first and differ only later: statistics give each group one vote. ``families``: the recipes of each
    family of models, which are no independent evidence on another family. ``apart``: nothing is averaged over runs,
    since they are unlike each other. ``tables``: the recipes that are averaged, by the title of their table;
    without any, small and large batches have a table each.
    """

    schema_version: int = Field(default=1, ge=1, le=1)
    name: str = Field(pattern=r"^[a-z0-9][\w.:/-]*$")
    description: str = ""
    horizons: tuple[Step, ...] = Field(max_length=100)
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(), max_length=100)
    reference: str = "sw_avg"
    baselines: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**64)
    rule: StateRule = StateRule()
    hub: HubPlace | None = None
    near_twins: tuple[tuple[str, ...], ...] = ()
    families: dict[str, tuple[str, ...]] = extra_field({})
    apart: bool = extra_field(False)
    tables: dict[Title, tuple[str, ...]] = extra_field({})
    fit: tuple[FitTrace, ...] = ()
    traces: tuple[SuiteTrace, ...]

    @model_validator(mode="before")
    @classmethod
    def _without_former_keys(cls, content: object) -> object:
        """Read suites of seasons that say what names of baselines stand for, as the package says."""
        if not isinstance(content, dict) or not isinstance(variants := content.get("variants"), dict):
            return content
        if any(printed_names().get(name) != variants[name] for name in variants):
            return content
        return {key: value for key, value in content.items() if key != "variants"}

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise ValueError(f"horizons must rise from at least 1, got {list(self.horizons)}")
        ids = [trace.id for trace in (*self.traces, *self.fit)]
        if len(set(ids)) != len(ids):
            raise ValueError("a trace is listed twice")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError(f"quantiles must rise, got {list(self.quantiles)}")
        if ".." in self.name:
            raise ValueError(f"name: got {self.name!r}, expected no '..' in it")
        for trace in self.traces:
            if trace.horizon not in (None, *self.horizons):
                raise ValueError(f"{trace.id}: horizon is {trace.horizon}, expected one of {list(self.horizons)}")
        check_baselines(self.baselines)
        grouped = [recipe for group in self.near_twins for recipe in group]
        unknown = sorted(set(grouped) - {name.split("/")[0] for name in ids})
        if unknown or len(set(grouped)) != len(grouped):
            wrong = f"{unknown[0]!r}, of which the suite has no run" if unknown else "a recipe in two groups"
            raise ValueError(f"near_twins: got {wrong}")
        scored = sorted({trace.id.split("/")[0] for trace in self.traces})
        for field, groups in (("tables", self.tables), ("families", self.families)):
            listed_recipes = sorted(recipe for recipes in groups.values() for recipe in recipes)
            if groups and listed_recipes != scored:
                raise ValueError(f"{field}: got {short(listed_recipes)}, expected every recipe that is scored, once")
        return self

    @property
    def horizon(self) -> int:
        """Return the largest horizon: each origin must leave room for it."""
        return self.horizons[-1]

    def sha256(self) -> str:
        """Return the hash of the content that decides scores."""
        content = self.model_dump(mode="json", exclude=set(DECIDES_NO_SCORE))
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def file_of(self, trace: str) -> Path:
        """Return the file of a trace: bundled, local, or the Hub's at the suite's pin; raise as `find_trace`."""
        return find_trace(trace, hub=(self.hub.repo, self.hub.revision) if self.hub else None)

    def strata(self) -> dict[Stratum, list[str]]:
        """Return the scored runs of each stratum; empty for a suite without strata."""
        runs: dict[Stratum, list[str]] = {}
        for trace, stratum in self.stratum_by_trace().items():
            runs.setdefault(stratum, []).append(trace)
        return runs

    def stratum_by_trace(self) -> dict[str, Stratum]:
        """Return the stratum of each scored run that is in one."""
        tokens = {trace.id: trace.expert_tokens for trace in self.traces if trace.expert_tokens is not None}
        return {trace: stratum for trace, count in tokens.items() if (stratum := stratum_of(count))}

    def group_of(self, trace_id: str) -> int:
        """Return the opaque number that runs of one recipe share."""
        recipes = sorted({trace.id.split("/")[0] for trace in (*self.traces, *self.fit)})
        return recipes.index(trace_id.split("/")[0])


@lru_cache(maxsize=8)
def package_suite(name: str, sha256: str) -> Suite | None:
    """Return the package's suite of that name and hash; None for one that changed, or of a file of one's own."""
    suite = load_suite(name) if name.removeprefix(SEASON) in suite_names() else None
    return suite if suite is not None and suite.sha256() == sha256 else None


def near_twins_of(name: str, sha256: str) -> Mapping[str, str]:
    """Return, for the package's suite of that name and hash, recipe -> first of its group of near twins; else empty."""
    suite = package_suite(name, sha256)
    return {recipe: group[0] for group in suite.near_twins for recipe in group} if suite else {}


def families_of(name: str, sha256: str) -> Mapping[str, str]:
    """Return recipe -> family of models; empty for a suite that does not say, and for one of a file of one's own."""
    suite = package_suite(name, sha256)
    return {recipe: family for family, recipes in suite.families.items() for recipe in recipes} if suite else {}


def season_of(name: str, sha256: str) -> str | None:
    """Return the closed season whose task list has this name and hash, such as `2027-02`; None for another list."""
    return name.removeprefix(SEASON) if name.startswith(SEASON) and package_suite(name, sha256) else None


def check_baselines(baselines: Sequence[str]) -> None:
    """Raise `ValueError` for a forecaster that is not a baseline of the package.

    Users do not choose what a suite names, but run it: so it must never be a file or a module outside the package.
    """
    for name in baselines:
        location = name.partition("@")[0]
        if not _BASELINE.fullmatch(printed_names().get(location, location).partition("@")[0]):
            raise ValueError(
                f"baselines: got {short(name)}, expected the name of a baseline of this package, with arguments after "
                "@: a suite runs no other code"
            )


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(path.stem for path in (PACKAGE / "suites").glob("*.toml"))


def default_suite() -> str:
    """Return the suite to cite: the newest full one (v3, v4, ...), the small one if there is none."""
    numbers = [int(name[1:]) for name in suite_names() if re.fullmatch(r"v\d+", name)]
    return f"v{max(numbers)}" if numbers else SMALL_SUITE


def no_suite(name: str, file: str) -> MoeloadError:
    """Return the error for a name that no suite of the package has; ``file``: how to name a file in its place."""
    if name in CLOSED:
        return SuiteError(
            f"suite {name} is closed: its results are in {page('docs/archive.md')}, all of it is at commit "
            f"{ARCHIVED_AT}; use {default_suite()}"
        )
    return not_found("suite", name, [*suite_names(), file])


def load_suite(name_or_path: str | os.PathLike[str]) -> Suite:
    """Return a suite by name or by the path of a TOML file; raise `SuiteError` or `NotFoundError`.

    A season that has closed is one too: `2027-02`, or `season-2027-02`, as results name it.
    """
    text = os.fspath(name_or_path)
    path = Path(text) if text.endswith(".toml") else PACKAGE / "suites" / f"{text.removeprefix(SEASON)}.toml"
    if not os.path.isfile(path):  # not `Path.is_file`, which raises for a name that is too long
        if text.endswith(".toml"):
            raise SuiteError(f"{text}: no such file; the package's suites are named {', '.join(suite_names())}")
        raise no_suite(text, "FILE.toml")
    size = path.stat().st_size
    if size > MAX_SUITE_BYTES:
        raise SuiteError(f"{path}: {size} bytes, at most {MAX_SUITE_BYTES} are read")
    return read_toml(Suite, path, "suite", SuiteError)


def check_origins(trace: Trace, scored_run: SuiteTrace, horizon: int) -> None:
    """Raise `SuiteError` unless every origin is a row of the trace and leaves room for the largest horizon."""
    end = int(trace.step_S[-1]) + trace.meta.stride
    for origin, _ in scored_run.origins():
        if origin + horizon > end or origin < trace.step_S[0] or (origin - trace.step_S[0]) % trace.meta.stride:
            raise SuiteError(
                f"{scored_run.id}: origin {origin} with horizon {horizon} does not fit steps "
                f"{trace.step_S[0]}..{end - 1} at stride {trace.meta.stride}"
            )


def check_traces(suite: Suite, given: Iterable[str] = ()) -> None:
    """Raise `SuiteError` if traces are not on this machine and neither the suite nor $MOELOAD_HUB names a place on the
    Hub. Those of the ids ``given`` are at hand.

    It runs before any work and before any request, and says where the traces can be had from.
    """
    ids = {*given, *(ref.id for ref in list_traces())}
    missing = [entry.id for entry in (*suite.traces, *suite.fit) if entry.id not in ids]
    if missing and suite.hub is None and not os.environ.get(HUB_ENV):
        season = season_of(suite.name, suite.sha256())
        places = "traces/" if season is None else f"{(SEASONS / season / 'traces').as_posix()}/ and traces/"
        raise SuiteError(
            f"suite {suite.name}: {len(missing)} of its {len(suite.traces) + len(suite.fit)} traces are not here, "
            f"first {missing[0]}. They lie in {places} of the project's repository: run this in a clone of it, or say "
            f"where they are with ${TRACES_ENV}=DIR (`run` also takes --traces DIR) or, once they are on the Hub, "
            f"${HUB_ENV}=ORG/NAME@TAG"
        )


def sources_of(
    suite: Suite,
    traces: Iterable[Trace] = (),
    paths: Mapping[str, str | Path] | None = None,
    *,
    fit: bool = True,
) -> dict[str, Source]:
    """Return every run of a suite by its id: one of ``traces``, else its file as `locate_traces` finds it."""
    source_by_id: dict[str, Source] = {trace.id: trace for trace in traces}
    return {**locate_traces(suite, {**(paths or {}), **dict.fromkeys(source_by_id, "")}, fit=fit), **source_by_id}


def locate_traces(suite: Suite, paths: Mapping[str, str | Path] | None = None, *, fit: bool = True) -> dict[str, Path]:
    """Return the file of every trace of a suite by its id: from ``paths``, else bundled, local, or the Hub at its pin.

    ``fit`` False leaves out those that forecasters learn from. Raises
    `NotFoundError` for a trace that is nowhere.
    """
    given = paths or {}
    ids = [entry.id for entry in (*suite.traces, *(suite.fit if fit else ()))]
    return {name: Path(given[name]) if name in given else suite.file_of(name) for name in ids}


def fitting_horizons(trace: Trace, horizons: Sequence[int] = HORIZONS) -> tuple[int, ...]:
    """Return the horizons that a trace can serve: multiples of its stride, at most half its length."""
    span = trace.steps * trace.meta.stride
    usable = tuple(h for h in horizons if h % trace.meta.stride == 0 and h <= span // 2)
    if not usable:
        raise SuiteError(
            f"{trace.id}: {trace.steps} rows at stride {trace.meta.stride} serve none of the horizons {list(horizons)}"
        )
    return usable


def suite_for_trace(
    trace: Trace,
    *,
    horizons: Sequence[int] = HORIZONS,
    per_state: int = ORIGINS_PER_STATE,
    rule: StateRule | None = None,
) -> Suite:
    """Return an ad-hoc suite over one trace; the rule chooses its origins, none for a state that never occurs."""
    rule = rule or StateRule()
    usable = fitting_horizons(trace, horizons)
    labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=rule)
    chosen = choose_origins(labels, trace.step_S, usable[-1], per_state)
    if not any(chosen.values()):
        raise SuiteError(
            f"{trace.id}: no origin has {FIRST} rows before it and room for the horizon {usable[-1]} after it; "
            f"expected at least {FIRST + usable[-1] // trace.meta.stride} rows, got {trace.steps}"
        )
    scored_run = SuiteTrace(
        id=trace.id,
        data_sha256=data_sha256(trace),
        transient=tuple(chosen["transient"]),
        stable=tuple(chosen["stable"]),
    )
    name = f"trace:{trace.id}".lower().replace("..", "._")  # a recipe's name may hold "..", a suite's must not
    return Suite(name=name, horizons=usable, rule=rule, traces=(scored_run,))


def as_suite(tasks: Suite | Trace) -> Suite:
    """Return the suite, or that of a trace of one's own."""
    return suite_for_trace(tasks) if isinstance(tasks, Trace) else tasks


def sliding_suite(suite: Suite, traces: Mapping[str, Trace], every: int, horizons: Sequence[int]) -> Suite:
    """Return the suite's runs with an origin every ``every`` steps: the founding paper's sliding evaluation.

    If ``every`` equals the only horizon, the windows are disjoint blocks, the paper's other evaluation. Each origin has
    the state of its step. A run whose own largest horizon is below all of these is left out. Raise `SuiteError` if
    that leaves none, and if a trace holds no such window.
    """
    asked = [(entry, entry.asked(horizons)) for entry in suite.traces]
    entries = [
        _with_sliding_origins(entry, traces[entry.id], suite.rule, every, max(windows))
        for entry, windows in asked
        if windows
    ]
    if not entries:
        most = max(entry.horizon or 0 for entry in suite.traces)
        raise SuiteError(f"windows of {min(horizons)} steps: the runs of {suite.name} are asked for {most} at most")
    name = f"{suite.name}:every-{every}"
    return suite.model_copy(update={"name": name, "horizons": tuple(sorted(horizons)), "traces": tuple(entries)})


def _with_sliding_origins(run: SuiteTrace, trace: Trace, rule: StateRule, every: int, horizon: int) -> SuiteTrace:
    labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=rule)
    names = state_names(labels)
    origins: dict[State, list[int]] = {state: [] for state in STATES}
    for origin in origins_every(trace.step_S, every, horizon):
        origins[names[(origin - int(trace.step_S[0])) // trace.meta.stride]].append(origin)
    return run.model_copy(update={state: tuple(steps) for state, steps in origins.items()})
