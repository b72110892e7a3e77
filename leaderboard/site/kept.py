"""Parts of the site kept by the hash of everything that they are made from: only what changed is drawn again.

A part is a few files. Its key holds the hash of this code, of the package's, and of the libraries that draw; the files
lie in the cache folder as one archive, and deleting it is always safe.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from leaderboard.committed import ROOT
from leaderboard.site.inputs import Inputs
from moeload_bench.cache import cache_dir, task_key
from moeload_bench.files import PACKAGE, replacing
from moeload_bench.isolation.sources import bytes_sha256

Files = list[tuple[str, bytes]]
LIBRARIES = ("numpy", "matplotlib", "altair", "vl-convert-python", "jinja2", "itables", "markdown-it-py")
ROOMS = ("season_tools", "site")
"""The folders of leaderboard/ whose code draws the site."""
READ = ("leaderboard", "baselines", "docs", "traces", "moeload_bench/data", "moeload_bench/suites", "CITATION.cff")
"""What is read of a checkout."""
CODE = (".py", ".toml", ".html", ".css", ".js")


def kept_files(part: str, made_from: str, make: Callable[[], Iterable[tuple[str, bytes]]]) -> Files:
    """Return the files of a part: from the cache, or made and kept. ``made_from`` is the hash of its inputs."""
    path = cache_dir() / "site" / f"{task_key(part=part, made_from=made_from, code=code_sha256())}.zip"
    found = _read(path)
    if found is None:
        found = list(make())
        _write(path, found)
    return found


def checkout_sha256(root: Path) -> str:
    """Return the hash of every file that a site is made from, and of the code that makes it."""
    digest = hashlib.sha256(code_sha256().encode())
    for name in READ:
        found = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*"))
        for path in (path for path in found if path.is_file() and "__pycache__" not in path.parts):
            digest.update(f"{path.relative_to(root)}\0{bytes_sha256(path)}\n".encode())
    return digest.hexdigest()


def boards_sha256(inputs: Inputs) -> str:
    """Hash of all that the pages of results show: suites, results, submissions and what was found of them."""
    digest = hashlib.sha256(inputs.sha256.encode())
    for board in inputs.boards:
        digest.update(board.suite.model_dump_json().encode())
        digest.update(repr([(one.id, one.title, sorted(one.traces)) for one in board.slices]).encode())
        if board.season is not None:
            digest.update(repr((board.season.scores, board.season.floors)).encode())
        for entry in board.entries:
            digest.update(entry.result.model_dump_json().encode() + repr((entry.standing, entry.wrong)).encode())
            if entry.folder is not None:
                of = entry.folder
                digest.update(repr((of.record, of.requirements, of.source_sha256, of.verification)).encode())
        digest.update(b"" if board.reference is None else board.reference.model_dump_json().encode())
    digest.update(repr([ref.id for ref in inputs.traces]).encode())
    return digest.hexdigest()


@functools.cache
def code_sha256() -> str:
    """Hash of the code that draws the site and of the libraries it draws with."""
    digest = hashlib.sha256()
    leaderboard = ROOT / "leaderboard"
    drawing = [*leaderboard.glob("*"), *(path for room in ROOMS for path in (leaderboard / room).rglob("*"))]
    for folder, files in ((leaderboard, drawing), (PACKAGE, PACKAGE.rglob("*"))):
        for path in sorted(path for path in files if path.suffix in CODE and path.is_file()):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> Files | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return [(name, archive.read(name)) for name in archive.namelist()]
    except (OSError, EOFError, zipfile.BadZipFile):
        return None  # there is none, or it was cut off: it is made again


def _write(path: Path, files: Files) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch, zipfile.ZipFile(scratch, "w") as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content)
