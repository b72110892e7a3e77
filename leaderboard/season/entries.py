"""The entries of a season: copies of code, weights and fitted bytes that run without the rest of this project.

    entries/NAME/                           submission.toml, fitted bytes, requirements, and code of its own
    entries/_shared/season_entries/         the modules of this package that entries are made of

A copied module imports of this project `moeload_bench.forecaster`, `moeload_bench.errors` and copied modules only.
"""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaderboard.season.records import read_bytes
from moeload_bench.errors import SeasonError
from moeload_bench.files import write_whole
from moeload_bench.isolation.sources import module_files
from moeload_bench.isolation.targets import FileTarget, ModuleTarget, StoredTarget
from moeload_bench.publishing.folder import CODE, FITTED, RECORD, WEIGHTS, parse_submission, read_folder
from moeload_bench.publishing.requirements import REQUIREMENTS, install_packages, parse_requirements
from moeload_bench.publishing.submission import Submission
from moeload_bench.schema import load_toml

SHARED, PACKAGE = "_shared", "season_entries"
CONTRACT = ("moeload_bench.forecaster", "moeload_bench.errors")
_IMPORT = re.compile(rb"^(\s*(?:from|import) )moeload_bench\.(?!(?:forecaster|errors)\b)", re.MULTILINE)


@dataclass(frozen=True)
class SeasonEntry:
    """A copied entry as read; nothing of it has been executed."""

    path: Path
    record: Submission
    requirements: tuple[str, ...]

    @property
    def fitted(self) -> bytes | None:
        """Return what its `fit` returned; None for one that learns from its own run alone."""
        path = self.path / FITTED
        return path.read_bytes() if path.is_file() else None

    def target(self) -> StoredTarget:
        """Return what runs; raise `SubmissionError` where what it requires does not install."""
        packages = install_packages(self.requirements)
        options: dict[str, Any] = {"kwargs": dict(self.record.kwargs), "packages": packages, "name": self.record.name}
        text = self.record.target
        place, _, class_name = text.partition(":")
        if self.record.has_code:
            return FileTarget(text=text, file=(self.path / CODE).resolve(), class_name=class_name, **options)
        module = place.removeprefix("moeload_bench.") if class_name else f"baselines.{place}"
        return ModuleTarget(text=text, module=f"{PACKAGE}.{module}", class_name=class_name, **options)


def read_entry(path: Path) -> SeasonEntry:
    """Return a copied entry; raise `SubmissionError` or `SeasonError` for one that cannot be read.

    A record that does not state the type of its model has that which follows from whether there are fitted bytes.
    """
    submission = parse_submission(load_toml(read_bytes(path / RECORD).decode()), str(path / RECORD))
    record = submission.model_copy(update={"model_type": submission.type_of((path / FITTED).is_file())})
    listed = path / REQUIREMENTS
    text = read_bytes(listed).decode() if listed.is_file() else ""
    return SeasonEntry(path, record, parse_requirements(text, str(listed)))


def copy_entry(submission: Path, entries: Path) -> None:
    """Copy a submission and the modules of this package that it is made of.

    Raises `SubmissionError` for a folder that cannot be read, `SeasonError` for code that needs more of this project.
    """
    folder = read_folder(submission)
    copy = entries / folder.record.name
    copy.mkdir(parents=True)
    for name in (RECORD, CODE, REQUIREMENTS, FITTED, *WEIGHTS):
        if (submission / name).is_file():
            shutil.copyfile(submission / name, copy / name)
    target = folder.target()
    if isinstance(target, ModuleTarget):
        shared = entries / SHARED / PACKAGE
        for module, path in module_files(target.module).items():
            write_whole(shared / copied_place(module, path), copied_code(path))
        for package in {shared, *(path.parent for path in shared.rglob("*.py"))}:
            (package / "__init__.py").touch()


def copied_place(module: str, path: Path) -> Path:
    """Return where a module of this package, or the weights of one, lies among the copies."""
    parts = module.split(".")[1:]
    if path.name == "__init__.py":
        return Path(*parts, path.name)
    return Path(*parts[: -1 if path.suffix == ".py" else -2], path.name)


def copied_code(path: Path) -> bytes:
    """Return the content of a module whose imports lead to copied modules."""
    content = path.read_bytes()
    return _IMPORT.sub(rb"\1" + PACKAGE.encode() + b".", content) if path.suffix == ".py" else content


def check_imports(entries: Path) -> None:
    """Raise `SeasonError` for copied code that imports more of this project than the contract."""
    for path in sorted(entries.rglob("*.py")):
        for name in sorted(project_imports(path)):
            raise SeasonError(f"{path}: imports {name}, expected {' and '.join(CONTRACT)} alone of this project")


def project_imports(path: Path) -> set[str]:
    """Return the modules of this project that a file imports beyond the contract."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module or "")
    return {name for name in modules if name.partition(".")[0] in ("moeload_bench", "leaderboard")} - {*CONTRACT}


@contextmanager
def copies_on_path(entries: Path) -> Iterator[None]:
    """Let targets of copied modules be found meanwhile; only the forecaster's own process imports them."""
    place = str((entries / SHARED).resolve())
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(place)
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
