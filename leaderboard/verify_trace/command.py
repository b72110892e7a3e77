"""`python -m leaderboard verify-trace`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.verify_trace.problems import contribution_problems
from leaderboard.verify_trace.pulls import newest_commit, pull_problems
from moeload_bench.cli.progress import say, say_record
from moeload_bench.errors import TraceError
from moeload_bench.publishing.contribution import known_traces
from moeload_bench.recipes.recipe import list_recipes
from moeload_bench.traces.store import TraceRef


def verify_trace(
    path: Annotated[
        Path | None, typer.Argument(help="A contributed trace (.parquet), or a folder of them; or --repo and --pull.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of traces that it must not repeat; may be given again.",
            show_default="all traces found on this machine",
        ),
    ] = None,
    repo: Annotated[str | None, typer.Option("--repo", help="The dataset repository, ORG/NAME, of --pull.")] = None,
    pull: Annotated[
        int | None, typer.Option("--pull", help="The number of a pull request; compared with all of its repository.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of what is wrong.")] = False,
) -> None:
    """Check a trace that somebody else recorded, before it is published.

    Nothing but traces, nothing else in their files, hashes, conservation of counts, an open licence, no names of
    machines or persons, and no training that is there already, also with experts in another order, cut, sampled or
    thinned. Of a pull request the names and declared sizes come first, and only what may be a trace is downloaded; `ok`
    names the commit that it is said of, which is the one to merge. Exit status 1 when anything is wrong, a line for
    each reason.
    """
    known = known_traces(against)
    if against and not known:
        named = ", ".join(map(str, against))
        raise TraceError(f"{named}: no trace is there to compare with; expected RECIPE/SPLIT/seedN.parquet below it")
    wrong: list[str] = []
    lines, compared = _problems(path, repo, pull, known)
    for line in lines:
        wrong.append(line)
        if not as_json:
            say(f"refused {line}")
    if as_json:
        say_record(wrong)
    elif not wrong:
        say(f"ok      {compared} {len(known)} traces")
    if wrong:
        raise typer.Exit(1)


def _problems(
    path: Path | None, repo: str | None, pull: int | None, known: list[TraceRef]
) -> tuple[Iterator[str], str]:
    """Return what is wrong with a path, or with a pull request: one of the two must be named. Also what was compared
    with what, in words.
    """
    if path is not None and repo is None and pull is None:
        if not path.exists():
            raise TraceError(f"{path}: no such file or folder")
        return contribution_problems(path, known, list_recipes()), f"{path}: compared with"
    if path is not None or repo is None or pull is None:
        raise typer.BadParameter("name a PATH, or a pull request by --repo ORG/NAME and --pull NUMBER")
    from huggingface_hub import HfApi

    revision = newest_commit(repo, pull, api := HfApi())
    compared = f"{repo}, pull request {pull} at {revision[:12]}: compared with the repository and"
    return pull_problems(repo, revision, api, known, list_recipes()), compared
