"""Committed results as parameters of tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

CLOSED = {path.name for path in (Path(__file__).resolve().parents[2] / "leaderboard" / "closed").iterdir()}


def by_result(paths: Iterable[str | Path]) -> list[object]:
    """Files of results by suite and name; those of closed suites, which nobody makes anew, in `make test-slow` only."""
    found = [(path, Path(path).parent.name) for path in paths]
    return [
        pytest.param(path, id=f"{suite}/{Path(path).stem}", marks=pytest.mark.slow if suite in CLOSED else ())
        for path, suite in found
    ]
