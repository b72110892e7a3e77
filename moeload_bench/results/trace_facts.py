"""What belongs to a suite's traces and to no forecaster: which windows cross a change of state, and the floors.

It is the same for every forecaster, so it is kept once: for the suites of this package in ``data/reference``, for
somebody's own trace in the result itself.

Axis letters: K suite horizons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from moeload_bench.errors import ResultError
from moeload_bench.files import PACKAGE
from moeload_bench.schema import Schema, validated_json

Value = float | None
Floors = dict[str, dict[str, dict[str, tuple[Value, ...]]]]
FloorMarks = dict[str, Literal["exact", "approximate", "not given"]]
FOLDER = PACKAGE / "data" / "reference"
_SUITE = re.compile(r"[a-z0-9][a-z0-9._-]*")


class TraceFacts(Schema):
    """Of one run: ``crossing[origin]`` [K] says whether the window contains a change of state or a planned switch;
    ``floors[state][floor][metric]`` is [K], ``floor_marks[floor]`` says how far a floor can be trusted.
    """

    data_sha256: str
    crossing: dict[int, tuple[bool, ...]]
    floors: Floors = {}
    floor_marks: FloorMarks = {}


class SuiteFacts(Schema):
    """Of every scored run of a suite, which is named with its hash."""

    schema_version: Literal[1] = 1
    suite: str
    sha256: str
    traces: dict[str, TraceFacts]


@lru_cache(maxsize=8)
def suite_facts(suite: str, sha256: str) -> Mapping[str, TraceFacts]:
    """Return the facts that this package keeps of a suite's runs, by trace; empty where it keeps none of this suite.

    Raise `ResultError` for a file that cannot be read.
    """
    path = facts_path(suite)
    if path is None or not path.is_file():
        return {}
    facts = validated_json(SuiteFacts, path.read_bytes(), path, "facts", ResultError)
    return facts.traces if (facts.suite, facts.sha256) == (suite, sha256) else {}


def facts_path(suite: str) -> Path | None:
    """Return where the facts of a suite are kept; None for a name that no suite of the package can have."""
    return FOLDER / f"{suite}.traces.json" if _SUITE.fullmatch(suite) else None
