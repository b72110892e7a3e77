"""Ways to damage a log: each gives a function that changes the folder or file in place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.foreign import logs
from tests.support.foreign.formats import CHOSEN


def edit(pattern: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    """Damage: the text of the first file that a pattern finds."""

    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        before = path.read_text(encoding="utf-8")
        assert re.search(old, before, re.S), (path, old)
        path.write_text(re.sub(old, new, before, count=count, flags=re.S), encoding="utf-8")

    return damage


def lose(pattern: str) -> Callable[[Path], None]:
    """Damage: a file is gone."""
    return lambda folder: sorted(folder.glob(pattern))[0].unlink()


def put(pattern: str, content: bytes) -> Callable[[Path], None]:
    """Damage: a file holds something else."""
    return lambda folder: sorted(folder.glob(pattern))[0].write_bytes(content) and None


def routed(ids: Any, request: str = "request0") -> Callable[[Path], None]:
    """Damage: other ids in a request's array."""

    def damage(folder: Path) -> None:
        import numpy as np

        np.save(folder / f"{request}.npy", np.asarray(ids))

    return damage


def tensor(value: Any) -> Callable[[Path], None]:
    """Damage: another record in sglang's file."""

    def damage(folder: Path) -> None:
        import torch

        made_now = value(torch) if callable(value) else value
        torch.save(made_now, next(folder.glob("*.pt")))

    return damage


def parquet(indices: Any) -> Callable[[Path], None]:
    """Damage: other choices in FLAME-MoE's first file."""

    def damage(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"indices": indices}), sorted(folder.glob("*/*.parquet"))[0])

    return damage


def per_pass(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Damage: another record of the first rank, in sglang's mode per_pass."""

    def damage(folder: Path) -> None:
        import torch

        next(folder.glob("*.pt")).unlink()
        logs.sglang_per_pass(folder, CHOSEN)
        first = folder / "expert_distribution_recorder_1.0_0.pt"
        record = torch.load(first, weights_only=True)
        change(record)
        torch.save(record, first)

    return damage


def arrays(**changes: Any) -> Callable[[Path], None]:
    """Damage: other arrays in a NumPy archive."""
    return lambda folder: logs.archive(folder, CHOSEN, **changes) and None


def chunk(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Damage: other arrays in the second chunk of UltraEP's first group."""

    def damage(folder: Path) -> None:
        import numpy as np

        path = sorted(folder.glob("*.npz"))[1]
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(path, **arrays)

    return damage


def cut(pattern: str) -> Callable[[Path], None]:
    """Damage: the second half of a file is gone."""

    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def event(*scalars: bytes) -> Callable[[Path], None]:
    """Damage: further scalars at the end of TensorBoard's file."""

    def damage(folder: Path) -> None:
        path = next(folder.iterdir())
        path.write_bytes(path.read_bytes() + b"".join(map(logs._record, scalars)))

    return damage


def lines_of(path: Path, lost: int) -> None:
    """Damage: one micro-batch of a step is gone from every layer of a rank."""
    lines = path.read_text().splitlines(keepends=True)
    of_step = [json.loads(line)["layer"] if json.loads(line).get("step") == lost else None for line in lines]
    first = {of_step.index(layer) for layer in set(of_step) - {None}}
    path.write_text("".join(line for n, line in enumerate(lines) if n not in first))


def trimmed(path: Path, count: int) -> None:
    """Damage: the end of a file is gone."""
    path.write_bytes(path.read_bytes()[:-count])
