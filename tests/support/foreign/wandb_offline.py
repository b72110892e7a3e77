"""A W&B history written by W&B's own library, offline: logged to a run, and read back from its `.wandb` file.

The package has no reader of its own for that file, so the frames (LevelDB's log format) are taken apart here. Their
messages are parsed by the package's own classes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import need

_BLOCK, _HEAD = 32_768, 7


def history(folder: Path, steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Log each step to a run in offline mode; return the rows of its history as `scan_history` gives them."""
    wandb = need("wandb", "pip install -e '.[dev]'")
    folder.mkdir(parents=True)
    settings = wandb.Settings(mode="offline", silent=True, console="off", x_disable_stats=True, disable_git=True)
    with wandb.init(project="offline", dir=str(folder), settings=settings) as run:
        for step, values in enumerate(steps):
            run.log(dict(values), step=step)
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while True:  # on a busy machine W&B's own process writes the last rows after the run has finished here
        rows = [_row(record.history) for record in _records(file.read_bytes()) if record.HasField("history")]
        if len(rows) == len(steps) or time.monotonic() > deadline:
            return rows
        time.sleep(0.1)


def histogram(counts: Sequence[float], edges: Sequence[float] | None = None) -> Any:
    """W&B's own object; by default a bin of width 1 for each expert."""
    wandb = need("wandb", "pip install -e '.[dev]'")
    edges = [float(e) for e in range(len(counts) + 1)] if edges is None else edges
    return wandb.Histogram(np_histogram=(list(counts), list(edges)))


def _records(content: bytes) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    found, message, at = [], b"", _HEAD  # the file begins with a header of the same length
    while at < len(content):
        if _BLOCK - at % _BLOCK < _HEAD:  # too little of the block for a frame: filled up
            at += _BLOCK - at % _BLOCK
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        message += content[at + _HEAD : at + _HEAD + size]
        at += _HEAD + size
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return found


def _row(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:
        inner = row
        *path, last = list(item.nested_key) or [item.key]
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return row
