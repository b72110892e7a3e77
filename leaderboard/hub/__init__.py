"""What the Hub shows of the benchmark: the dataset with its `eval.yaml`, and a model repository for each entry."""

from __future__ import annotations

from pathlib import Path

from moeload_bench.errors import MoeloadError


def require_empty(out: Path) -> None:
    """Raise `MoeloadError` for a folder that holds something: what is written into it is published whole."""
    if out.exists() and any(out.iterdir()):
        raise MoeloadError(f"{out}: the folder is not empty; name another one or empty it")
