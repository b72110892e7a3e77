"""What a data release consists of, and how a repository differs from it; no request is made here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moeload_bench.errors import HubError, TraceError
from moeload_bench.traces.store import read_trace

DOCUMENTS = ("README.md", "croissant.json", "CITATION.cff", "LICENSE")
"""What a release may hold in addition to traces."""
COMMUNITY = "community"
"""The folder of traces that others recorded: NAME/SPLIT/seedN.parquet below it, with a card NAME/README.md."""
PARTS = ".parts/"
"""Part of every path that belongs to a recording in progress."""
HUB_OWN = ".gitattributes"
_TRACE = re.compile(rf"(?:{COMMUNITY}/)?(?P<id>[A-Za-z0-9][\w.-]*/\w+/seed\d+)\.parquet")
_CARD_OF_OTHERS = re.compile(rf"{COMMUNITY}/[A-Za-z0-9][\w.-]*/README\.md")
_SHOWN = 5


class LocalFile(NamedTuple):
    """A file of the release: its place on disk, and the two names that the Hub may use for its content."""

    path: Path
    sha256: str
    git_sha1: str


class RemoteFile(NamedTuple):
    """A file at a revision of the repository; ``sha256`` is None if it is not in large-file storage."""

    sha256: str | None
    git_sha1: str


@dataclass(frozen=True)
class Plan:
    """How a revision of a repository differs from a folder, by path."""

    add: tuple[str, ...]
    replace: tuple[str, ...]
    remove: tuple[str, ...]
    keep: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not (self.add or self.replace or self.remove)

    def __str__(self) -> str:
        parts = {"missing": self.add, "different": self.replace, "extra": self.remove}
        return "; ".join(f"{kind}: {first_names(names)}" for kind, names in parts.items() if names) or "no difference"


def first_names(names: Collection[str]) -> str:
    """Return the first few names, and how many more there are."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def is_trace(name: str) -> bool:
    """Return whether a path in a repository is a trace's."""
    return _TRACE.fullmatch(name) is not None


def is_document(name: str) -> bool:
    """Return whether a path in a repository is a document's: one of `DOCUMENTS`, or the card of others' traces."""
    return name in DOCUMENTS or _CARD_OF_OTHERS.fullmatch(name) is not None


def collect_files(folder: str | Path) -> dict[str, LocalFile]:
    """Return the files of a release by path; raise `HubError` or `TraceError` for a folder that is not one.

    Every trace is read and verified, its id must be its path, and nothing else may lie there but `DOCUMENTS` (hidden
    files are ignored).
    """
    root = Path(folder)
    if not root.is_dir():
        raise HubError(f"{root}: no such folder")
    files: dict[str, LocalFile] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        _check_file(path, name)
        files[name] = local_file(path)
    if not any(map(is_trace, files)):
        raise HubError(f"{root}: the folder holds no trace at RECIPE/SPLIT/seedN.parquet")
    return files


def _check_file(path: Path, name: str) -> None:
    if PARTS in name:
        raise HubError(f"{path}: a recording is in progress; publish after it has ended")
    if found := _TRACE.fullmatch(name):
        got = read_trace(path).id
        if got != found["id"]:
            raise TraceError(f"{path}: holds the trace {got}, expected it at {got}.parquet")
    elif not is_document(name):
        raise HubError(f"{path}: not part of a release, which holds RECIPE/SPLIT/seedN.parquet, {', '.join(DOCUMENTS)}")


def local_file(path: Path) -> LocalFile:
    """Return a file with its hashes: SHA-256, and git's hash of a blob."""
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return LocalFile(path, hashlib.sha256(data).hexdigest(), git)


def holds_content(local: LocalFile, remote: RemoteFile | None) -> bool:
    """Return whether the Hub holds this content."""
    if remote is None:
        return False
    return remote.sha256 == local.sha256 if remote.sha256 else remote.git_sha1 == local.git_sha1


def make_plan(files: Mapping[str, LocalFile], remote: Mapping[str, RemoteFile]) -> Plan:
    """Return what must change on the Hub so that it holds exactly these files (`.gitattributes` is the Hub's own)."""
    both = files.keys() & remote.keys()
    return Plan(
        add=tuple(sorted(files.keys() - remote.keys())),
        replace=tuple(sorted(name for name in both if not holds_content(files[name], remote[name]))),
        remove=tuple(sorted(remote.keys() - files.keys() - {HUB_OWN})),
        keep=tuple(sorted(name for name in both if holds_content(files[name], remote[name]))),
    )
