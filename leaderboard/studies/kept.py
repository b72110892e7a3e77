"""Records of measured runs that a JSON file keeps, and the one way in which a failed forecaster ends a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from leaderboard.committed import RESULTS
from moeload_bench.errors import ResultError
from moeload_bench.results.collection import Results
from moeload_bench.results.json_text import readable_json
from moeload_bench.schema import Record

R = TypeVar("R", bound=Record)


def read_records(kind: type[R], path: Path) -> list[R]:
    """Return the records that are kept; none where there is no file."""
    return [kind.model_validate(one) for one in json.loads(path.read_text())] if path.is_file() else []


def records_text(records: Iterable[R], by: Callable[[R], Any]) -> str:
    """Return the file of records, in the order of ``by``."""
    return readable_json([one.model_dump(mode="json") for one in sorted(records, key=by)], levels=2) + "\n"


def season_file(suite: str, what: str) -> Path:
    """Return where is kept what was measured on the runs of a season; ``suite`` is the name of its list of tasks."""
    return RESULTS / f"{suite}.{what}.json"


def answered(results: Results) -> Results:
    """Return the results; raise `ResultError` for a task without an answer."""
    if results.failures:
        name, where, task = results.failures[0]
        raise ResultError(f"{where}: {name} failed at origin {task.origin}: {task.failure}")
    return results
