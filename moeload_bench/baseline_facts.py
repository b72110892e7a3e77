"""What each forecaster of the package says of itself, in its own file: nothing else knows one by its name.

A file of `baselines/` or of an adapter holds a dict ``FACTS``: by the name that tables print, the fields of
`BaselineFacts` that are not at their defaults. It is read without importing the file.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

BASELINES_PACKAGE = "moeload_bench.baselines"
FOLDERS = (BASELINES_PACKAGE, "moeload_bench.adapters")


class BaselineFacts(NamedTuple):
    """The facts of one forecaster.

    ``target``: what its name stands for, "" where that is the name of its file. ``place``: of its colour and marker,
    the same in every chart. ``step_ns``: CPU nanoseconds of a series (an expert in a layer) for each step observed,
    and ``forecast_us``: microseconds for each forecast; measured on one core of a server, numba installed, and 0 where
    that is less than scoring takes. ``own_run``: its place among those that `moeload-bench run --trace` compares;
    ``plan``: among those that `plan` compares, by CPU time. None: it is not one of them.
    """

    place: int
    target: str = ""
    step_ns: float = 0.0
    forecast_us: float = 0.0
    own_run: int | None = None
    plan: int | None = None


@functools.cache
def baseline_facts() -> Mapping[str, BaselineFacts]:
    """Return the facts of every forecaster of the package, by the name that tables print."""
    files = sorted(path for package in FOLDERS for path in _folder(package).glob("[!_]*.py"))
    return {name: BaselineFacts(**facts) for path in files for name, facts in _stated(path)}


def ordered(field: str) -> tuple[str, ...]:
    """Return the names of those that have a place in `own_run` or `plan`, in its order."""
    places = {name: getattr(facts, field) for name, facts in baseline_facts().items()}
    return tuple(sorted((name for name, place in places.items() if place is not None), key=lambda name: places[name]))


def _folder(package: str) -> Path:
    return Path(next(iter(importlib.import_module(package).__path__)))


def _stated(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what ``FACTS`` of a file holds."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["FACTS"]:
            yield from ast.literal_eval(node.value).items()
