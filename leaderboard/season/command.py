"""`python -m leaderboard season open|draw|record|score|suite|check`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import SUBMISSIONS
from leaderboard.season.checking import MINUTES, check_season
from leaderboard.season.claims import claim_lines
from leaderboard.season.drawing import draw_season, released_value, typed_value
from leaderboard.season.folder import SEASONS, season_folder
from leaderboard.season.open_check import check_open_season
from leaderboard.season.opening import open_season
from leaderboard.season.recording import record_season
from leaderboard.season.releases import listed_releases
from leaderboard.season.scored import ScoredSeason, load_table
from leaderboard.season.scoring import score_season
from leaderboard.season.task_list import task_list_file, task_list_text
from moeload_bench.cli.options import Jobs
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.errors import MissingExtraError
from moeload_bench.publishing.submit import untrusted_level

UNCHECKED = 3
"""The exit status of a check that found nothing wrong and could not check everything."""
app = typer.Typer(help="Evaluation on unseen runs: open, draw, record, score, suite, check.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The season's name, such as 2027-02.")]
Index = Annotated[str | None, typer.Option(help="Address of the package index; pip's own, if not given.")]
Root = Annotated[Path, typer.Option(help="The folder that holds the seasons.", show_default="leaderboard/seasons")]


@app.command("open")
def open_(
    name: Name,
    terms: Annotated[Path, typer.Argument(metavar="TERMS.toml", help="What is drawn, tested and compared.")],
    submissions: Annotated[
        Path, typer.Option(help="The folder of submissions: all of them enter.", show_default="leaderboard/submissions")
    ] = SUBMISSIONS,
    more: Annotated[
        list[Path] | None, typer.Option(help="One more submission's folder, such as that of a demonstration.")
    ] = None,
    index: Index = None,
    root: Root = SEASONS,
) -> None:
    """Open a season: copy every entry, with the hash of each file.

    Code, weights and fitted bytes are copied. Refused in a tree that is not as its commit, which is named.
    """
    folders = [path for path in submissions.iterdir() if path.is_dir()]
    made = open_season(season_folder(root, name), terms, [*folders, *(more or [])], index)
    say(f"{root / name}: {len(made.entries)} entries of commit {made.commit[:12]}; commit the folder")


@app.command("draw")
def draw(
    name: Name,
    value: Annotated[str | None, typer.Option(help="The public value that season.toml names.")] = None,
    where: Annotated[str | None, typer.Option(help="Where anybody can look it up later.")] = None,
    index: Index = None,
    root: Root = SEASONS,
) -> None:
    """Draw recipes and seeds from the public value.

    A season whose value is the hash of a release reads it from the package index that pip is configured with.
    """
    folder = season_folder(root, name)
    project = folder.season.value_project
    if project and value is None:
        made = draw_season(folder, released_value(folder.season, listed_releases(project, index)))
    else:
        made = draw_season(folder, typed_value(folder.season, value, where))
    say(f"{root / name}: {len(made.runs)} runs drawn with {made.value}; commit the folder, then record")


@app.command("record")
def record(
    name: Name,
    only: Annotated[
        list[str] | None, typer.Option(help="A recipe to record; other processes may record others.")
    ] = None,
    root: Root = SEASONS,
) -> None:
    """Record what is not recorded yet.

    Each run is committed with its hash as it is done. Interrupted, the same command goes on where it stopped.
    """
    try:
        record_season(season_folder(root, name), only=only or (), note=say)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "record", "recording a season") from None


@app.command("score")
def score(
    name: Name,
    level: Annotated[str, typer.Option(help="Isolation: sandbox, or process for entries you trust.")] = "sandbox",
    jobs: Jobs = 1,
    root: Root = SEASONS,
) -> None:
    """Score all entries on all runs, once. If it is broken off, run it again: finished runs are in the cache."""
    folder = season_folder(root, name)
    with pair_progress(unit="runs") as progress:
        score_season(folder, level=untrusted_level(level), jobs=jobs, progress=progress)
    for line in claim_lines(ScoredSeason(folder, load_table(folder))):
        say(line)


@app.command("suite")
def suite(name: Name, root: Root = SEASONS) -> None:
    """Write a scored season's task list into the package.

    Commit it: then anybody scores a later forecaster on the season, by `moeload-bench run my.py:Mine --suite NAME`.
    """
    folder = season_folder(root, name)
    path = task_list_file(name)
    path.write_text(task_list_text(ScoredSeason(folder, load_table(folder))), encoding="utf-8")
    say(f"{path}: commit it; moeload-bench run my.py:Mine --suite {name}")


@app.command("check")
def check(
    name: Name,
    everything: Annotated[
        bool, typer.Option("--all", help="Score every entry again on every run; this takes hours.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Choose the same runs as a check that printed it.", show_default="random")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="No run of an entry that no test names is waited for after that time.")
    ] = MINUTES,
    jobs: Jobs = 1,
    root: Root = SEASONS,
) -> None:
    """Check a season: seeds, recipes, hashes, order, scores.

    Seeds and recipes are derived again, hashes compared, and each file with the first commit that had it. Entries are
    scored from their copies: those that a test or the headline names on a third of the tested runs, every other one on
    one run. A random number chooses the runs and is printed. Costs are as measured then.

    Of a season that is open it checks terms, entries, distributions and the releases that it knows.

    Exit status 0: as it says; 1: something is not, which is named; 3: nothing wrong, but something could not be checked
    here, which is named, too.

    \b
    python -m leaderboard season check 2027-02 --jobs 2
    """
    folder = season_folder(root, name)
    note = partial(say, err=True)
    if (folder.path / "season.toml").is_file() and not (folder.path / "draw.json").is_file():
        fail_if(check_open_season(folder, note=note))
        entries, after = len(folder.season.entries), folder.season.value_after
        say(f"season {name}: open as it says, {entries} entries; not drawn yet, {after:%Y-%m-%d} at the earliest")
        return
    with pair_progress(unit="runs") as progress:
        checked = check_season(
            folder, everything=everything, seed=seed, jobs=jobs, minutes=minutes, note=note, progress=progress
        )
    for line in checked.unchecked:
        say(f"not checked: {line}", err=True)
    fail_if(checked.wrong)
    for line in claim_lines(checked.scored) if checked.scored is not None else ():
        say(line)
    state = "nothing is wrong, but not all was checked" if checked.unchecked else "as it says"
    say(f"season {name}: {state}; to record again: {', '.join(checked.to_record)}")
    if checked.unchecked:
        raise typer.Exit(UNCHECKED)


def fail_if(wrong: list[str]) -> None:
    """Print what is wrong, and end with status 1; do nothing without."""
    for line in wrong:
        say(f"wrong: {line}", err=True)
    if wrong:
        raise typer.Exit(1)
