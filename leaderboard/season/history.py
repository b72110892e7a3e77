"""Is the order of a season's steps what git says, and is each file as the first commit that held it had it?

What was committed first binds: terms that change after scoring, an entry that changes after the draw, a date that no
commit could have. A clone without history shows nothing of it, and neither does a repository that was made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from leaderboard.season.folder import RECORDINGS, SeasonFolder, git
from leaderboard.season.records import Recording, Scores
from moeload_bench.errors import SeasonError

SLACK = timedelta(minutes=10)
"""How far the clocks of two machines may be apart."""


class FirstCommit(NamedTuple):
    """The commit that held a file first: its place in the order of commits, and the file's hash there, as git's."""

    commit: str
    place: int
    time: datetime
    blob: str


def missing_history(folder: SeasonFolder) -> str | None:
    """Return why order and terms cannot be checked here, None where they can."""
    try:
        if git(folder.path, "rev-parse", "--is-shallow-repository") == "true":
            return "this clone has no history (git fetch --unshallow brings it)"
        if not first_commits(folder):
            return "no commit has this folder"
    except SeasonError as error:
        return str(error)
    return None


def first_commits(folder: SeasonFolder) -> dict[str, FirstCommit]:
    """Return the first commit of each file of the season, by its path in the folder."""
    words = ("--reverse", "--topo-order", "--diff-merges=first-parent", "--raw", "--no-abbrev", "--no-renames")
    text = git(folder.path, "log", *words, "--relative", "-z", "--diff-filter=A", "--format=%x01%H %ct", "--", ".")
    commits: dict[str, FirstCommit] = {}
    for place, block in enumerate(text.split("\x01")[1:]):
        head, *fields = block.replace("\n", "").split("\0")
        commit, seconds = head.split()
        time = datetime.fromtimestamp(int(seconds), UTC)
        raw = [field for field in fields if field]
        for about, path in zip(raw[::2], raw[1::2], strict=True):  # `:modes blobs A`, then the path
            commits.setdefault(path, FirstCommit(commit, place, time, about.split()[3]))
    return commits


def history_problems(folder: SeasonFolder, recordings: Mapping[str, Recording], scores: Scores) -> Iterator[str]:
    """Say which file is not as it was committed first, which step came before another, and which date cannot be."""
    fixed = ["season.toml", *folder.season.files]
    traces = sorted(folder.recorded_traces(recordings))
    scored = ["scores.json", "suite.json", *scores.files]
    commits = first_commits(folder)
    paths = [*fixed, "draw.json", *traces, *scored]
    yield from (f"{path}: no commit has it" for path in paths if path not in commits)
    there = [path for path in paths if path in commits and (folder.path / path).is_file()]
    blobs = dict(zip(there, _blobs(folder, there), strict=True))
    for path, blob in blobs.items():
        if blob != commits[path].blob:
            yield f"{path}: not as commit {commits[path].commit[:12]} had it first"
    if "scores.json" in commits:
        commit = commits["scores.json"].commit
        if git(folder.path, "rev-parse", f"{commit}:./{RECORDINGS}") != _blobs(folder, [RECORDINGS])[0]:
            yield f"{RECORDINGS}: not as commit {commit[:12]} had it, which has the scores"
    steps = [[commits[path] for path in step if path in commits] for step in (fixed, ["draw.json"], traces, scored)]
    if all(steps):
        yield from _order_problems(steps)
        yield from _date_problems(folder, steps, scores)


def _blobs(folder: SeasonFolder, paths: list[str]) -> list[str]:
    """Return git's hash of what each file holds now."""
    return git(folder.path, "hash-object", "--no-filters", "--", *paths).split() if paths else []


def _order_problems(steps: list[list[FirstCommit]]) -> Iterator[str]:
    """Say which step was committed before the one that it follows."""
    names = ("entries and terms", "the draw", "the recordings", "the scores")
    for number in range(1, len(steps)):
        last = max(steps[number - 1], key=lambda first: first.place)
        early = min(steps[number], key=lambda first: first.place)
        if early.place <= last.place:
            words = f"commit {early.commit[:12]} has a part of {names[number]}"
            yield f"{words}, and {names[number - 1]} were whole in {last.commit[:12]} only, expected before it"


def _date_problems(folder: SeasonFolder, steps: list[list[FirstCommit]], scores: Scores) -> Iterator[str]:
    """Say which date of a record lies before the step that it follows, or after its own commit."""
    ends = [max(first.time for first in step) for step in steps]
    copied = _time_of(folder, folder.season.commit)
    stated: Mapping[str, tuple[datetime, datetime | None, datetime]] = {
        "season.toml: opened": (folder.season.opened, copied, ends[0]),
        "draw.json: drawn": (folder.draw.drawn, ends[0], ends[1]),
        "scores.json: scored": (scores.scored, ends[2], ends[3]),
    }
    for name, (moment, after, before) in stated.items():
        if moment > before + SLACK or (after is not None and moment < after - SLACK):
            since = "" if after is None else f"from {after:%Y-%m-%d %H:%M} "
            yield f"{name} {moment:%Y-%m-%d %H:%M}, expected {since}to {before:%Y-%m-%d %H:%M}, as git has the commits"


def _time_of(folder: SeasonFolder, commit: str) -> datetime | None:
    """Return the time of the commit that entries were copied from, None where the history lacks it."""
    try:
        return datetime.fromtimestamp(int(git(folder.path, "show", "-s", "--format=%ct", f"{commit}^{{commit}}")), UTC)
    except SeasonError:
        return None
