"""Is a season that is open, and not drawn yet, what it was when it opened?"""

from __future__ import annotations

from collections.abc import Iterator

from leaderboard.season.checking import Note, changed_files, readable
from leaderboard.season.folder import SeasonFolder, file_hashes, git
from moeload_bench.errors import SeasonError


def check_open_season(folder: SeasonFolder, note: Note = lambda line: None) -> list[str]:
    """Return everything that changed since the season opened, in words; [] when nothing did.

    Entries, distributions and recipes are those whose hashes season.toml has; season.toml, with the terms and the
    releases that it knows, is as git first had it. ``note`` is called with what could not be checked. Raises
    `SeasonError` for a season.toml that cannot be read.
    """
    hashes = file_hashes(folder.path, ".")
    files = changed_files(folder, hashes, folder.season.files, {"season.toml"}, ": changed since the season opened")
    return [*readable(files), *readable(_changed_suite(folder)), *_changed_terms(folder, note)]


def _changed_suite(folder: SeasonFolder) -> Iterator[str]:
    """Say that the suite lacks the season's horizon; raise `SeasonError` where the suite is not what it was."""
    horizon, horizons = folder.season.horizon, folder.base.horizons
    if horizon not in horizons:
        yield f"season.toml: horizon {horizon} is none of the suite's: {horizons}"


def _changed_terms(folder: SeasonFolder, note: Note) -> Iterator[str]:
    name = "season.toml"
    try:
        if git(folder.path, "rev-parse", "--is-shallow-repository") == "true":
            note("not checked: whether season.toml is as it was committed first, since this clone has no history")
            return
        commits = git(folder.path, "log", "--diff-filter=A", "--format=%H", "--", name).splitlines()
        first = git(folder.path, "rev-parse", f"{commits[-1]}:./{name}") if commits else ""
        now = git(folder.path, "hash-object", name)
    except SeasonError as error:
        note(f"not checked: whether season.toml is as it was committed first: {error}")
        return
    if not commits:
        yield "season.toml: not committed"
    elif now != first:
        yield f"season.toml: not as commit {commits[-1][:12]} had it first: terms or releases have changed"
