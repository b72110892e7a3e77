"""What the site is made from: committed results with their submissions, suites and traces. Nothing is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from leaderboard.committed import UNIFORM, entry_problems, in_suite_order, load_all, model_type_of
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from leaderboard.season_tools.sets import by_part, by_set
from moeload_bench.errors import ResultError, SubmissionError
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.results.comparison import SameTasks, reference_of
from moeload_bench.results.record import Result
from moeload_bench.results.strata import by_stratum, name_of_size
from moeload_bench.submissions.folder import Folder, read_folder
from moeload_bench.submissions.record import ModelType, Verification, VerificationStatus
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.store import TraceRef, list_traces

TRACE_FOLDERS = ("moeload_bench/data", "traces")
Standing = Literal["claimed", "checked"] | VerificationStatus


class Slice(NamedTuple):
    """Runs with batches of one size; ``id`` is none that a recipe can have."""

    id: str
    title: str
    traces: frozenset[str]


@dataclass(frozen=True)
class Entry:
    """A result with its submission; ``wrong`` says why it is only claimed."""

    result: Result
    folder: Folder | None
    standing: Standing
    wrong: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def model_type(self) -> ModelType:
        """Statistical, learned, pretrained, or a yardstick."""
        return model_type_of(self.result, self.folder.record if self.folder else None)

    @property
    def fitted_on(self) -> str:
        """Return the other data that it has learned from, in words; empty for none."""
        if self.folder is None or not self.folder.record.fitted_beyond_train:
            return ""
        return ", ".join(self.folder.record.fitted_on) or "data that it does not name"

    @property
    def verification(self) -> Verification | None:
        """Return what the maintainers' re-run found; None without one that is about this result."""
        return self.folder.verification if self.folder and self.standing not in ("claimed", "checked") else None


@dataclass(frozen=True, eq=False)
class Board:
    """A suite with its entries, baselines first in the suite's order, then the others by name.

    ``reference`` is what skill is measured against, None where neither the entries nor the package have its result.
    ``season`` is set where nobody had the suite's runs before they were scored; else they are public. ``known``: beside
    a season, the results of its public suite. ``slices``: its sizes of batch, where it has several.
    """

    suite: Suite
    entries: tuple[Entry, ...]
    reference: Result | None
    season: ScoredSeason | None = None
    known: tuple[Result, ...] = ()
    slices: tuple[Slice, ...] = ()

    @property
    def choices(self) -> list[str]:
        """Return what results can be restricted to: sizes of batch, and recipes."""
        return [*(one.id for one in self.slices), *self.recipes]

    def runs_in(self, choice: str) -> frozenset[str]:
        """Return the runs of a choice, all of them for any other word."""
        by_slice = {one.id: one.traces for one in self.slices}
        ids = [trace.id for trace in self.suite.traces]
        if choice in self.recipes:
            return frozenset(name for name in ids if name.split("/")[0] == choice)
        return by_slice.get(choice, frozenset(ids))

    @property
    def label(self) -> str:
        """Return the suite's name, with what its runs are."""
        return f"{self.suite.name} ({'public' if self.season is None else 'runs that nobody had'})"

    @property
    def results(self) -> list[Result]:
        return [entry.result for entry in self.entries]

    @property
    def compared(self) -> list[Result]:
        """Return the results and, where it is not one of them, the reference: what `result_grid` finds its reference
        in.
        """
        return [*self.results, *([self.reference] if self.reference and self.reference not in self.results else [])]

    @cached_property
    def tasks(self) -> SameTasks:
        """Return the metrics of what is compared, task by task."""
        return SameTasks(self.compared)

    @cached_property
    def recipes(self) -> list[str]:
        return sorted({trace.id.split("/")[0] for trace in self.suite.traces})


@dataclass(frozen=True)
class Inputs:
    """Everything that the site shows."""

    root: Path
    boards: tuple[Board, ...]
    traces: tuple[TraceRef, ...]
    sha256: str


def read_inputs(root: str | Path) -> Inputs:
    """Read a checkout: scored seasons, the newest first; then suites with committed results, most runs first.

    Raises `ResultError` for results that cannot be compared, and whatever error a file is refused with.
    """
    base = Path(root)
    folders = sorted(path for path in (base / "leaderboard" / "results").glob("*") if path.is_dir())
    boards = [read_board(base, folder) for folder in folders if any(folder.glob("*.json"))]
    if not boards:
        raise ResultError(f"{base / 'leaderboard' / 'results'}: no SUITE/NAME.json; `make results` writes some")
    boards.sort(key=lambda board: (-len(board.suite.traces), board.suite.name))
    seasons = scored_seasons(base / "leaderboard" / "seasons")
    folders += [season.folder.results for season in seasons]
    public = {board.suite.name: board for board in boards}
    beside = [public.get(season.suite_name, boards[0]).compared for season in seasons]
    shown = [(part, known) for one, known in zip(seasons, beside, strict=True) for part in by_set(one).values()]
    boards = [*(season_board(part, known) for part, known in shown), *(part for one in boards for part in by_size(one))]
    return Inputs(base, tuple(boards), tuple(read_traces(base)), _content_sha256(base, folders))


def season_board(season: ScoredSeason, known: Sequence[Result] = ()) -> Board:
    """Return the entries of a season beside public results: the maintainers ran all of them, so all are verified."""
    entries = [
        Entry(result, read_folder(season.folder.entries / result.name), "verified", ()) for result in season.results
    ]
    sizes = stratum_slices(season)
    return Board(season.suite, tuple(entries), reference_of(season.results), season, tuple(known), sizes)


def stratum_slices(season: ScoredSeason) -> tuple[Slice, ...]:
    """Return a slice for each size of batch of a set of drawn recipes, as the plan has them; else none."""
    found = {title.partition(", ")[2]: part.suite.traces for title, part in by_part(season).items() if title}
    return tuple(
        Slice(f"expert_tokens:{name.split()[0]}", name, frozenset(one.id for one in traces))
        for name, traces in found.items()
    )


def read_board(root: Path, folder: Path) -> Board:
    """Return the results of one suite's folder."""
    suite = load_suite(str(root / "moeload_bench" / "suites" / f"{folder.name}.toml"))
    results = in_suite_order(list(load_all(suite, folder.parent).values()), suite)
    for result in results:
        if result.suite.sha256 != suite.sha256():
            was, now = result.suite.sha256[:12], suite.sha256()[:12]
            raise ResultError(f"{folder.name}/{result.name}: scored on suite {was}, now it is {now}: run it again")
    if UNIFORM not in {result.name for result in results}:
        raise ResultError(f"{folder}: no result of {UNIFORM}; every table has it as a row: `make results` writes it")
    submissions = root / "leaderboard" / "submissions"
    entries = tuple(make_entry(result, submissions / result.name, suite) for result in results)
    return Board(suite, entries, reference_of(results))


def by_size(board: Board) -> list[Board]:
    """Return a board for each size of batch of a suite, as for a suite of its own; where it has one, that board."""
    parts = []
    for size, results in by_stratum(board.results, board.suite).items():
        if not size:
            return [board]
        runs = {run.trace for run in results[0].runs}
        traces = tuple(trace for trace in board.suite.traces if trace.id in runs)
        suite = board.suite.model_copy(update={"name": name_of_size(board.suite.name, size), "traces": traces})
        entries = (replace(entry, result=result) for entry, result in zip(board.entries, results, strict=True))
        parts.append(Board(suite, tuple(entries), reference_of(results)))
    return parts


def make_entry(result: Result, path: Path, suite: Suite) -> Entry:
    """Return the entry with its standing, which never rests on what the result says of itself."""
    try:
        folder = read_folder(path)
    except SubmissionError as error:
        # without the place of the checkout: the site is the same wherever it is built
        return Entry(result, None, "claimed", (str(error).replace(f"{path.parent.parent}/", ""),))
    if folder.record.suite.name != suite.name:
        return Entry(result, folder, "claimed", (f"the submission is for suite {folder.record.suite.name}",))
    wrong = tuple(entry_problems(result, folder, suite))
    if wrong:
        return Entry(result, folder, "claimed", wrong)
    verification = folder.verification
    if verification is None:
        return Entry(result, folder, "checked", ())
    return Entry(result, folder, verification.status, ())


def read_traces(root: Path) -> Iterator[TraceRef]:
    """Yield the committed traces by id; a trace that is in two folders once."""
    refs: dict[str, TraceRef] = {}
    for name in TRACE_FOLDERS:
        if (root / name).is_dir():
            for ref in list_traces(root / name):
                refs.setdefault(ref.id, ref)
    yield from (refs[key] for key in sorted(refs))


def _content_sha256(root: Path, folders: Sequence[Path]) -> str:
    """Hash of the committed results: what a page's footer says it was made from."""
    digest = hashlib.sha256()
    for path in sorted((path for folder in folders for path in folder.glob("*.json")), key=str):
        digest.update(f"{path.relative_to(root)}\0{bytes_sha256(path)}\n".encode())
    return digest.hexdigest()
