"""Find runs: what a user types for one (an id, a file, a folder) becomes the place where it lies.

A run lies in a folder at ``RECIPE/SPLIT/seedN.parquet``, which is also its id. While it is recorded it is a folder
``seedN.parts`` at the same place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moeload_bench.errors import HashMismatchError, NotFoundError, TraceError, first_ten, not_found
from moeload_bench.files import PACKAGE
from moeload_bench.traces.hub import fetch_trace
from moeload_bench.traces.meta import RECIPE_PATTERN, SPLIT_PATTERN
from moeload_bench.traces.routing import routing_folder
from moeload_bench.traces.store import read_trace, stored_hash
from moeload_bench.traces.trace import Trace

TRACES_ENV = "MOELOAD_TRACES"
SEASONS = Path("leaderboard", "seasons")
"""Where a checkout has what belongs to a season: a folder of its name with `traces` and `results`."""
TRACE, PARTS = ".parquet", ".parts"
ROUTING = "routing"
"""The folder beside `./traces` with true routing of some steps (RECIPE/SPLIT/seedN.routing), in a checkout."""
_ID = re.compile(rf"{RECIPE_PATTERN}/{SPLIT_PATTERN}/seed\d+")
_FORM = "NAME/SPLIT/seedN.parquet, or seedN.parts of a recording in progress"


class TraceRef(NamedTuple):
    """A trace that exists on this machine: its id, its file, and the place where that was found."""

    id: str
    path: Path
    origin: str


@dataclass(frozen=True, order=True)
class Place:
    """Where a run lies: its trace once it is finished, its parts until then."""

    trace: Path
    parts: Path

    @classmethod
    def of(cls, path: Path) -> Place:
        """Return the place of a trace's file, or of the folder of its parts."""
        return cls(path.with_suffix(TRACE), path.with_suffix(PARTS))

    @property
    def unfinished(self) -> bool:
        """Return whether there are parts and no trace yet."""
        return self.parts.is_dir() and not self.trace.exists()

    @property
    def routing(self) -> Path:
        """Return the folder of its true routing, there or not."""
        return self.parts / ROUTING if self.unfinished else routing_folder(self.trace)

    @property
    def path(self) -> Path:
        """Return the parts of a recording in progress, else the trace."""
        return self.parts if self.unfinished else self.trace


def find_run(name: str | os.PathLike[str], *, hub: tuple[str, str] | None = None) -> Place:
    """Return where a run lies that is named by its id, its file, its parts, or a folder above it alone.

    An id is looked up in `trace_folders`, then on the Hub; ``hub``: repository and tag to look in first (those of the
    suite that asks). Raise `NotFoundError`, which lists what exists here; `TraceError` for a folder above several runs,
    which are listed, and for a file of another kind; `HubError` if the Hub holds the trace but cannot be used;
    `HashMismatchError` if the Hub's trace is not the one that the suite was frozen with.
    """
    text = os.fspath(name)
    path = Path(text)
    if path.suffix in (TRACE, PARTS):
        return Place.of(path)
    if _ID.fullmatch(text):
        for _, folder in trace_folders():
            place = Place.of(folder / f"{text}{TRACE}")
            if place.trace.is_file():
                return place
        file = _fetch(text, hub)
        if file is not None:
            return Place.of(file)
    if path.is_dir():
        return _only_run(path)
    if path.is_file():
        raise TraceError(f"{text}: not a {TRACE} trace; `moeload-bench import` makes one of a log")
    raise not_found("trace", text, [ref.id for ref in list_traces()])


def _only_run(folder: Path) -> Place:
    """Return the run in a folder, at any depth: one called seedN, else one of any name."""
    paths = [path for path in sorted(folder.rglob(f"*{TRACE}")) if path.parent.suffix != PARTS]
    paths += [path.parent for path in folder.rglob(f"*{PARTS}/manifest.json")]
    places = sorted({Place.of(path) for path in paths})
    named = [place for place in places if re.fullmatch(r"seed\d+", place.trace.stem)]
    match named or places:
        case []:
            raise NotFoundError(f"{folder}: no run there, expected {_FORM}")
        case [place]:
            return place
        case several:
            names = first_ten(f"{place.path}" for place in several)
            raise TraceError(f"{folder}: {len(several)} runs there, expected the name of one: {names}")


def find_trace(name: str | os.PathLike[str], *, hub: tuple[str, str] | None = None) -> Path:
    """Return the file of a finished run; raise as `find_run`, and `TraceError` for a recording in progress."""
    place = find_run(name, hub=hub)
    if place.unfinished:
        raise TraceError(
            f"{place.parts}: a recording that is not finished, expected a {TRACE} trace; "
            f"`moeload-bench record {place.parts}` makes one of what is on disk"
        )
    return place.trace


def load_trace(id_or_path: str | os.PathLike[str], *, verify: bool = True) -> Trace:
    """Return a trace by its id (`RECIPE/SPLIT/seedN`), its file or a folder above it alone; raise as `find_trace`."""
    return read_trace(find_trace(id_or_path), verify=verify)


def bundled_folder() -> Path:
    """Return the folder of the mini suite's traces inside the installed package."""
    return PACKAGE / "data"


def trace_folders() -> Iterator[tuple[str, Path]]:
    """Yield (origin, folder) in the order of lookup: bundled, `$MOELOAD_TRACES`, ./traces, a checkout's seasons."""
    yield "bundled", bundled_folder()
    for entry in os.environ.get(TRACES_ENV, "").split(os.pathsep):
        if entry:
            yield "local", Path(entry)
    if Path("traces").is_dir():
        yield "local", Path("traces")
    for folder in sorted(SEASONS.glob("*/traces")):
        yield "season", folder


def routing_folders(trace_id: str) -> list[Path]:
    """Return where the true routing of a trace may lie by its id: beside it in `trace_folders`, then in ./routing."""
    folders = [*(folder for _, folder in trace_folders()), Path(ROUTING)]
    return [routing_folder(folder / f"{trace_id}{TRACE}") for folder in folders]


def look_in(folder: str | os.PathLike[str]) -> None:
    """Make this process, and those that it starts, look in this folder too, before those of `$MOELOAD_TRACES`.

    Raise `TraceError` for a folder that does not exist.
    """
    if not Path(folder).is_dir():
        raise TraceError(f"{os.fspath(folder)}: no such folder; expected one that holds RECIPE/SPLIT/seedN.parquet")
    os.environ[TRACES_ENV] = os.pathsep.join(filter(None, [os.fspath(folder), os.environ.get(TRACES_ENV)]))


def list_traces(folder: str | os.PathLike[str] | None = None) -> list[TraceRef]:
    """Return the traces on this machine, or those of one folder; if an id occurs twice, the first one found counts.

    Raise `TraceError` for a folder that does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise TraceError(f"{os.fspath(folder)}: no such folder; expected one that holds RECIPE/SPLIT/seedN.parquet")
    places = [("local", Path(folder))] if folder is not None else list(trace_folders())
    ref_by_id: dict[str, TraceRef] = {}
    for origin, place in places:
        for path in sorted(place.glob("*/*/seed*.parquet")):
            name = path.relative_to(place).with_suffix("").as_posix()
            if _ID.fullmatch(name):
                ref_by_id.setdefault(name, TraceRef(name, path, origin))
    return list(ref_by_id.values())


def _fetch(trace_id: str, hub: tuple[str, str] | None) -> Path | None:
    """Return a trace from the Hub or its cache; raise unless it claims the hash that its suite pins.

    `read_trace` checks whether the content matches the claim.
    """
    file = fetch_trace(trace_id, hub)
    if file is None:
        return None
    sha256 = stored_hash(file.path)
    if file.pin.data_sha256 not in (None, sha256):
        raise HashMismatchError(
            f"{file.pin}: {trace_id} has data_sha256 {sha256}, suite {file.pin.suite} was frozen with "
            f"{file.pin.data_sha256}: the release was changed, or {file.path} was (remove it to download it again)"
        )
    return file.path
