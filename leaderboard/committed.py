"""The committed results of a suite, refused by name when they are not the suite's.

Whatever is made from results (tables, pages, comparisons) is made from what this returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from moeload_bench.errors import MoeloadError, ResultError
from moeload_bench.files import file_name
from moeload_bench.generator.draws import draw_recipes, load_distribution, own_seed, recipe_of
from moeload_bench.generator.recipe import Recipe, load_recipe
from moeload_bench.isolation.targets import Target, stored_target
from moeload_bench.names import name_problem
from moeload_bench.publishing.folder import RECORD, Folder, folder_problems, read_folder
from moeload_bench.publishing.submission import ModelType, Submission, Verification, VerificationStatus
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, joined, load_results
from moeload_bench.results.storage import COSTS
from moeload_bench.scoring.description import Run, read_run
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.suites.suite import Suite, load_suite

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT / "traces"
RESULTS = ROOT / "leaderboard" / "results"
REPORTS = ROOT / "docs" / "reports"
DRAWN = ROOT / "leaderboard" / "draws" / "2027-train.toml"
SUBMISSIONS = ROOT / "leaderboard" / "submissions"
UNIFORM = "uniform"
Standing = Literal["claimed", "checked", "scored"] | VerificationStatus
VERIFY_AGAIN = "verify it again, `python -m leaderboard verify`"


def recipe_name(run: str) -> str:
    """Return the name of the recipe of a run, or of its probe, which is a count of that run."""
    return run.split("/")[0].removesuffix(".probe")


def recipe_of_run(run: str) -> Recipe:
    """Return the recipe of a run or of its probe: one of the package, or a drawn one."""
    name = recipe_name(run)
    return drawn_recipes()[name] if name.startswith("drawn-") else load_recipe(name)


@cache
def drawn_recipes() -> dict[str, Recipe]:
    """Return the recipes that were drawn for `train` and `test` runs, by name."""
    distribution = load_distribution(DRAWN)
    drawn = draw_recipes(distribution, distribution.size, own_seed(DRAWN))
    return {training.name: recipe_of(distribution, training) for training in drawn}


def suites_with_results(results: Path = RESULTS) -> list[str]:
    """Return the names of the suites that have a committed result."""
    return sorted({path.parent.name for path in results.glob("*/*.parquet")})


def committed_results(suite: str, results: Path = RESULTS, layers: bool = False) -> Results:
    """Return the committed results of a suite: its baselines in their order, then the others by name.

    ``layers`` reads the means by layer, too. Raise `ResultError` that names every file of another suite, of other
    traces or tasks, or without code.
    """
    tasks = load_suite(suite)
    paths = [path for path in sorted((results / tasks.name).glob("*.parquet")) if path.name != COSTS]
    parts = {path: load_results(path, layers) for path in paths}
    wrong = [f"{path.name}: {line}" for path, part in parts.items() for line in file_problems(path, part, tasks)]
    if wrong or not parts:
        lines = wrong or [f"none is in {results / tasks.name}"]
        raise ResultError(f"committed results of suite {tasks.name}:\n" + "\n".join(f"  {line}" for line in lines))
    merged = joined(list(parts.values()))
    first = [name for name in tasks.baselines if name in merged.entries]
    return merged.select([*first, *sorted(set(merged.names) - set(first))])


def file_problems(path: Path, results: Results, suite: Suite) -> Iterator[str]:
    """Yield why a file NAME.parquet does not hold the result of NAME on this suite, or cannot be made again.

    The hash of its code is provenance. What binds a result is that its entry forecasts the same when it is run again:
    tests/leaderboard/test_behaviour.py.
    """
    if [file_name(name) for name in results.names] != [path.stem]:
        yield f"holds the result of {', '.join(results.names)}, expected that of {path.stem}"
        return
    if (problem := name_problem("entry", results.names[0])) is not None:
        yield problem
    yield from suite_problems(results, suite)


def suite_problems(results: Results, suite: Suite) -> Iterator[str]:
    """Yield why the results of one entry are not those of this suite, or cannot be made again."""
    (entry,) = results.entries.values()
    yield from task_problems(results, suite)
    try:
        target_of(entry)
    except MoeloadError as error:
        commit = entry.environment.commit or "none"
        yield f"its code cannot be found: {error}; it was made at commit {commit.removesuffix('-dirty')}"


def task_problems(results: Results, suite: Suite) -> Iterator[str]:
    """Yield why the results of one entry are not those of all tasks of this suite, as scored today."""
    (entry,) = results.entries.values()
    if (entry.suite.name, entry.suite.sha256) != (suite.name, suite.sha256()):
        got, expected = (f"{name} {sha256[:12]}" for name, sha256 in (
            (entry.suite.name, entry.suite.sha256), (suite.name, suite.sha256())))  # fmt: skip
        yield f"scored on suite {got}, expected {expected}"
        return
    if entry.scoring_version != SCORING_VERSION:
        yield f"scoring version {entry.scoring_version}, expected {SCORING_VERSION}"
    if entry.seed != suite.seed:
        yield f"seed {entry.seed}, expected {suite.seed}"
    yield from _trace_problems(results, suite)


def _trace_problems(results: Results, suite: Suite) -> Iterator[str]:
    expected = {entry.id: entry for entry in suite.traces}
    strata = suite.stratum_by_trace()
    rows = {str(trace): of_trace for trace, of_trace in results.table.groupby("trace")}
    for trace in sorted(expected.keys() - rows.keys()):
        yield f"{trace}: missing; a result holds every run of the suite"
    for trace in sorted(rows.keys() - expected.keys()):
        yield f"{trace}: not in suite {suite.name}"
    for trace in sorted(expected.keys() & rows.keys()):
        entry, of_trace = expected[trace], rows[trace]
        data = of_trace["data_sha256"].iloc[0]
        if data != entry.data_sha256:
            yield f"{trace}: scored on data {str(data)[:12]}, expected {entry.data_sha256[:12]}"
        wanted = [(*origin, horizon) for origin in entry.origins() for horizon in suite.horizons]
        tasks = list(zip(of_trace["origin"], of_trace["state"], of_trace["horizon"], strict=True))
        if sorted(tasks) != sorted(wanted):
            missing = sorted(set(wanted) - set(tasks))
            lacking = ", origin {} ({}) at horizon {} is missing".format(*missing[0]) if missing else ""
            yield f"{trace}: {len(tasks)} tasks at a horizon, expected the suite's {len(wanted)}{lacking}"
        groups = set(zip(of_trace["recipe"], of_trace["stratum"].fillna(""), strict=True))
        if groups != {(trace.split("/")[0], strata.get(trace, ""))}:
            yield f"{trace}: recipe and stratum are {sorted(groups)}, expected those of suite {suite.name}"


def committed_run(path: Path) -> Run:
    """Return what pages say of a trace, which is read and described once as long as its file stays as it is."""
    return _run(path, *_state_of(path))


def _state_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


@cache
def _run(path: Path, *_: int) -> Run:
    return read_run(path)


def entry_problems(entry: Entry, folder: Folder, suite: Suite) -> Iterator[str]:
    """Yield why a result is not that of its submission, or not one that the submission's verification is of."""
    yield from folder_problems(folder, suite)
    record = folder.record
    expected = {
        "suite": (f"{entry.suite.name} {entry.suite.sha256[:12]}", f"{suite.name} {suite.sha256()[:12]}"),
        "scoring version": (entry.scoring_version, SCORING_VERSION),
        "forecaster name": (entry.name, record.name),
        "forecaster target": (entry.target, record.result_target),
        "forecaster kwargs": (entry.kwargs, record.kwargs),
        "requirements": (entry.requirements, folder.requirements),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            yield f"{what}: the result says {got!r}, expected {wanted!r}: {VERIFY_AGAIN}"
    if record.has_code and entry.source_sha256 != folder.source_sha256:
        yield f"the code has changed since the result was made: {VERIFY_AGAIN}"
    verification = folder.verification
    if verification is None:
        if entry.status == "verified":
            yield f"the result says verified, but no verification.json says so: {VERIFY_AGAIN}"
    elif verification.commit != entry.environment.commit:
        yield f"verification.json is about another result: {VERIFY_AGAIN}"
    elif (entry.status == "verified") != (verification.status == "verified"):
        yield f"the result says {entry.status}, verification.json says {verification.status}: {VERIFY_AGAIN}"


def standing_of(problems: Sequence[str], verification: Verification | None, season: bool = False) -> Standing:
    """Return how far a result can be trusted, the one rule of pages and site.

    Verified is what was run a second time, with the same numbers. A season's copies are run once, by the maintainers.
    """
    if season:
        return "scored"
    if problems:
        return "claimed"
    return verification.status if verification is not None else "checked"


def target_of(entry: Entry, submissions: Path = SUBMISSIONS) -> Target:
    """Return what to run to obtain a result again: a submission's code, or a baseline.

    Raises `TargetError`, `NotFoundError` or `SubmissionError` where it is not there.
    """
    folder = submission_of(entry, submissions)
    target = stored_target(entry.target) if folder is None else folder.target()
    return replace(target, name=entry.name)


def model_type_of(entry: Entry, record: Submission | None) -> ModelType:
    """Return what a forecaster is: what its submission says, else what follows from whether it was fitted."""
    if entry.target == UNIFORM:
        return "yardstick"
    if record is not None and record.model_type is not None:
        return record.model_type
    fitted = entry.fit_wall_s is not None
    return record.type_of(fitted) if record is not None else "learned" if fitted else "statistical"


def submission_of(entry: Entry, submissions: Path = SUBMISSIONS) -> Folder | None:
    """Return the submission that a result is named after, None where there is none."""
    folder = submissions / entry.name
    return read_folder(folder) if (folder / RECORD).is_file() else None


def result_path(suite: str, name: str) -> str:
    """Return where a result lies below the root of a leaderboard."""
    return f"results/{suite}/{name}.parquet"
