"""An honest submission on a small synthetic suite, made without the sandbox: what the tests of checks start from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leaderboard.suites.freeze import to_toml
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.publishing.folder import CODE, RECORD, Folder, parse_submission, read_folder
from moeload_bench.publishing.requirements import REQUIREMENTS
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import synthetic_trace
from tests.support.memoriser import HONEST as NAIVE

HORIZONS = (1, 10, 100)


@dataclass(frozen=True)
class World:
    """A suite of two runs, and the files of their traces."""

    suite: Suite
    paths: dict[str, Path]

    @property
    def root(self) -> Path:
        """The folder that holds the traces, for $MOELOAD_TRACES, and the suite's file."""
        return next(iter(self.paths.values())).parents[2]

    @property
    def suite_file(self) -> str:
        return str(self.root / "small.toml")


def make_world(root: Path) -> World:
    """Two recipes of one run each, four origins a run."""
    entries, paths = [], {}
    for number, recipe in enumerate(("one", "two")):
        trace = synthetic_trace(seed=number, recipe=recipe, split="test", run=1)
        paths[trace.id] = write_trace(trace, root / f"{trace.id}.parquet")
        origins: dict[str, Any] = {"transient": (50, 100), "stable": (200, 250)}
        entries.append(SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), **origins))
    world = World(Suite(name="small", horizons=HORIZONS, traces=tuple(entries)), paths)
    Path(world.suite_file).write_text(to_toml(world.suite))
    return world


def fields_of(world: World, **changes: Any) -> dict[str, Any]:
    """The fields of a submission.toml."""
    suite = {"name": world.suite.name, "sha256": world.suite.sha256()}
    fields = {"name": "mine", "authors": ["A. Uthor"], "licence": "MIT", "target": "forecaster.py:Mine"}
    return {**fields, "fitted_beyond_train": False, "hardware": "a laptop", "suite": suite, **changes}


def write_folder(
    root: Path, world: World, code: str | None = NAIVE, requirements: str | None = None, **changes: Any
) -> Path:
    """A submission's folder."""
    record = parse_submission(fields_of(world, **changes), "test")
    folder = root / "submissions" / record.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(record.to_toml())
    if code is not None:
        (folder / CODE).write_text(code)
    if requirements is not None:
        (folder / REQUIREMENTS).write_text(requirements)
    return folder


def submitted(root: Path, world: World, **changes: Any) -> Folder:
    """A submission's folder as read."""
    return read_folder(write_folder(root, world, **changes))


def results_of(folder: Folder, world: World) -> Results:
    """The folder's forecaster run on the suite, under its name."""
    target = replace(folder.target(), name=folder.record.name)
    results = evaluate(target, world.suite, paths=world.paths, level="none")
    entry = results.entries[target.label]
    made = entry.model_copy(update={"target": folder.record.target, "requirements": folder.requirements})
    return replace(results, entries={entry.name: made})


def wheel(
    folder: Path, name: str, version: str, code: str, members: dict[str, str] | None = None, needs: str = ""
) -> Path:
    """A small wheel, written by hand; ``members`` are put into it besides, ``needs`` is what it says it depends on."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", code)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        file.writestr(f"{info}/METADATA", about + (f"Requires-Dist: {needs}\n" if needs else ""))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
        for member, content in (members or {}).items():
            file.writestr(member, content)
    return path
