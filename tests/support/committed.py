"""Committed results as parameters of tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest


def by_result(paths: Iterable[str | Path]) -> list[object]:
    """Return a parameter for each file, such as `results/v3/ema`; those of seasons run in `make test-slow`."""
    return [
        pytest.param(
            path,
            id=Path(path).as_posix().rpartition("leaderboard/")[2].removesuffix(".json").removesuffix(".parquet"),
            marks=pytest.mark.slow if "seasons" in Path(path).parts else (),
        )
        for path in paths
    ]
