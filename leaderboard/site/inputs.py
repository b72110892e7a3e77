"""What the site is made from: results with their submissions, suites and traces. Nothing is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboard.boards import UNLISTED
from leaderboard.breadth import breadth_words, season_metas
from leaderboard.committed import UNIFORM, entry_problems, standing_of, suites_with_results
from leaderboard.leading import ask_words
from leaderboard.season.entries import read_entry
from leaderboard.season.records import RecipeSet
from leaderboard.season.scored import ScoredSeason, facts_sentence, scored_seasons, season_facts
from leaderboard.site.board import Board, BoardEntry
from moeload_bench.errors import ResultError, SubmissionError
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.publishing.folder import read_folder
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, load_results
from moeload_bench.suites.suite import Suite, load_suite, suite_names
from moeload_bench.traces.lookup import TraceRef, list_traces
from moeload_bench.traces.store import stored_meta

TRACE_FOLDERS = ("moeload_bench/data", "traces")


@dataclass(frozen=True)
class Inputs:
    """Everything that the site shows; the first board opens it."""

    root: Path
    boards: tuple[Board, ...]
    traces: tuple[TraceRef, ...]
    sha256: str


def read_inputs(root: str | Path) -> Inputs:
    """Read a checkout: scored seasons, the newest first; then suites with committed results, most runs first.

    A suite whose runs stand apart has no board: that is a mean over runs.

    Raise `ResultError` for results that cannot be compared, and whatever error a file is refused with.
    """
    base = Path(root)
    results, seasons = base / "leaderboard" / "results", base / "leaderboard" / "seasons"
    folders = [results / name for name in suites_with_results(results) if not site_suite(base, name).apart]
    if not folders:
        raise ResultError(f"{results}: no SUITE/NAME.parquet; `make results` writes some")
    suites = sorted((suite_board(base, folder) for folder in folders), key=lambda board: -len(board.suite.traces))
    boards = (*(board for season in scored_seasons(seasons) for board in season_boards(season)), *suites)
    sha256 = _content_sha256(base, [*folders, *sorted(seasons.glob("*/results"))])
    return Inputs(base, boards, tuple(read_traces(base)), sha256)


def season_boards(season: ScoredSeason) -> list[Board]:
    """Return a board for each set of a season's recipes, those least like the training first."""
    sets = sorted(season.season.described, key=lambda part: -part.new_levels)
    return [season_board(season, part, season.on(season.recipes[part.name])) for part in sets]


def season_board(season: ScoredSeason, part: RecipeSet, results: Results) -> Board:
    """Return the entries of a season on one set of recipes."""
    likeness = f"each has at least {part.new_levels} kinds of settings that no open run has" if part.new_levels else (
        "they come from the distribution of the open runs")  # fmt: skip
    kind = part.distribution.partition("-")[2].removesuffix(".toml").replace("-", " ") if part.distribution else "named"
    metas = season_metas(season, season.recipes[part.name])
    return Board(
        name=f"{season.name}-{part.name}",
        title=f"Season {season.name}, set {part.name}: {kind}",
        about=f"The recipes were drawn after all entries were frozen; {likeness}. "
        f"{facts_sentence(season_facts(season.folder))}",
        ask=ask_words(results, season.folder.shown_results),
        reach=breadth_words(metas, season.season.train_levels.get("text", ())),
        score=score_command(season.name),
        suite=season.suite,
        results=results,
        entries=tuple(
            BoardEntry(entry, read_entry(season.folder.entries / entry.name).record, standing_of((), None, season=True))
            for entry in listed_entries(results)
        ),
    )


def listed_entries(results: Results) -> list[Entry]:
    """Return the entries that boards list."""
    return [entry for name, entry in results.entries.items() if name not in UNLISTED]


def score_command(suite: str) -> str:
    """Return the command that scores one's own forecaster on a suite or a closed season; empty for no suite here."""
    return f"moeload-bench run mine.py:Mine --suite {suite}" if suite in suite_names() else ""


def site_suite(root: Path, name: str) -> Suite:
    """Return a suite of a checkout."""
    return load_suite(str(root / "moeload_bench" / "suites" / f"{name}.toml"))


def suite_board(root: Path, folder: Path) -> Board:
    """Return the committed results of a suite: its baselines in their order, then the others by name."""
    suite = site_suite(root, folder.name)
    results = load_results(folder)
    if results.suite.sha256 != suite.sha256():
        was, now = results.suite.sha256[:12], suite.sha256()[:12]
        raise ResultError(f"{folder}: scored on suite {was}, expected {now}: run it again")
    if UNIFORM not in results.entries:
        raise ResultError(f"{folder}: no result of {UNIFORM}; every table has it as a row: `make results` writes it")
    submissions = root / "leaderboard" / "submissions"
    entries = tuple(board_entry(entry, submissions / entry.name, suite) for entry in listed_entries(results))
    traces = {ref.id: ref.path for ref in read_traces(root)}
    reach = breadth_words([stored_meta(traces[trace.id]) for trace in suite.traces if trace.id in traces])
    title, score = f"Suite {suite.name}: public runs", score_command(suite.name)
    ask = ask_words(results, f"leaderboard/results/{suite.name}")
    return Board(suite.name, title, suite.description, ask, reach, score, suite, results, entries)


def board_entry(entry: Entry, path: Path, suite: Suite) -> BoardEntry:
    """Return an entry with its standing, which never rests on what the result says of itself."""
    try:
        folder = read_folder(path)
    except SubmissionError as error:
        # without the place of the checkout: the site is the same wherever it is built
        problem = str(error).replace(f"{path.parent.parent}/", "")
        return BoardEntry(entry, None, standing_of((problem,), None), (problem,))
    if folder.record.suite.name != suite.name:
        wrong: tuple[str, ...] = (f"the submission is for suite {folder.record.suite.name}",)
    else:
        wrong = tuple(entry_problems(entry, folder, suite))
    verification = None if wrong else folder.verification
    return BoardEntry(entry, folder.record, standing_of(wrong, verification), wrong, verification)


def read_traces(root: Path) -> Iterator[TraceRef]:
    """Yield the committed traces by id; a trace that is in two folders once."""
    refs: dict[str, TraceRef] = {}
    for name in TRACE_FOLDERS:
        if (root / name).is_dir():
            for ref in list_traces(root / name):
                refs.setdefault(ref.id, ref)
    yield from (refs[key] for key in sorted(refs))


def _content_sha256(root: Path, folders: Sequence[Path]) -> str:
    """Return the hash of the committed results: what a page's footer says it was made from."""
    digest = hashlib.sha256()
    for path in sorted((path for folder in folders for path in folder.glob("*.parquet")), key=str):
        digest.update(f"{path.relative_to(root)}\0{bytes_sha256(path)}\n".encode())
    return digest.hexdigest()
