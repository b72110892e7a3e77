"""Is a season that is open, and not drawn yet, what it was when it opened?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

from leaderboard.season.entries import check_imports
from leaderboard.season.folder import EVIDENCE, SeasonFolder, file_hashes, git
from moeload_bench.errors import MoeloadError, SeasonError

Note = Callable[[str], None]


def check_open_season(folder: SeasonFolder, note: Note = lambda line: None) -> list[str]:
    """Return everything that changed since the season opened, in words; [] when nothing did.

    Entries, distributions and recipes are those whose hashes season.toml has; season.toml, with the terms and the
    releases that it knows, is as git first had it. ``note`` is called with what could not be checked. Raises
    `SeasonError` for a season.toml that cannot be read.
    """
    return [*_changed_files(folder), *_changed_terms(folder, note)]


def _changed_files(folder: SeasonFolder) -> Iterator[str]:
    expected, found = folder.season.files, file_hashes(folder.path, ".")
    for path, sha256 in expected.items():
        if found.get(path) != sha256:
            yield f"{path}: {'changed since the season opened' if path in found else 'left out: it is not there'}"
    for path in sorted(found.keys() - expected.keys() - {"season.toml"}):
        if not path.startswith(f"{EVIDENCE}/"):
            yield f"{path}: no part of the season"
    try:
        folder.base  # noqa: B018 -- raises where the suite has changed
        check_imports(folder.entries)
    except MoeloadError as error:
        yield str(error)


def _changed_terms(folder: SeasonFolder, note: Note) -> Iterator[str]:
    path = folder.path / "season.toml"
    try:
        if git(folder.path, "rev-parse", "--is-shallow-repository") == "true":
            note("not checked: whether season.toml is as it was committed first, since this clone has no history")
            return
        added = git(folder.path, "log", "--diff-filter=A", "--format=%H", "--", path.name).splitlines()
    except SeasonError as error:
        note(f"not checked: whether season.toml is as it was committed first: {error}")
        return
    if not added:
        yield "season.toml: not committed"
        return
    shown = subprocess.run(["git", "-C", str(folder.path), "show", f"{added[-1]}:./{path.name}"], capture_output=True)
    if shown.returncode or shown.stdout != path.read_bytes():
        yield f"season.toml: not as commit {added[-1][:12]} had it first: terms or releases have changed"
