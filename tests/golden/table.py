"""Golden numbers as one flat table: a row per number, its key the path to it; saved as parquet, compared row by row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RELATIVE = 1e-6
ABSOLUTE = 1e-12
"""Below it a difference is rounding."""
Leaf = float | int | str | bool | None
Table = dict[str, Leaf]
ABSENT = "nothing"


def flat(tree: Any, path: str = "") -> Table:
    """Return every leaf of nested dictionaries and lists by its path, such as `v3/skill/ema/0`; NaN becomes None."""
    if isinstance(tree, Mapping | list | tuple):
        parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {
            key: leaf
            for name, part in parts
            for key, leaf in flat(part, f"{path}/{name}" if path else str(name)).items()
        }
    if isinstance(tree, float) and math.isnan(tree):
        return {path: None}
    if not isinstance(tree, Leaf):
        raise TypeError(f"{path}: {type(tree).__name__} is not a golden number")
    return {path: tree}


def save(table: Table, path: Path) -> None:
    """Write a table: floats as numbers of 24 bits, which are far closer than RELATIVE, the others as JSON."""
    rows = sorted(table.items())
    columns = {
        "key": pa.array([key for key, _ in rows]),
        "number": pa.array([leaf if isinstance(leaf, float) else None for _, leaf in rows], pa.float32()),
        "text": pa.array([None if isinstance(leaf, float) else json.dumps(leaf) for _, leaf in rows], pa.string()),
    }
    encoding = {"key": "DELTA_BYTE_ARRAY", "number": "BYTE_STREAM_SPLIT", "text": "PLAIN"}
    pq.write_table(
        pa.table(columns), path, compression="zstd", compression_level=19, use_dictionary=False,
        column_encoding=encoding, write_statistics=False, store_schema=False,
    )  # fmt: skip


def load(path: Path) -> Table:
    """Return a saved table; an empty one where there is no file yet."""
    if not path.is_file():
        return {}
    columns = pq.read_table(path).to_pydict()
    rows = zip(columns["key"], columns["number"], columns["text"], strict=True)
    return {key: number if text is None else json.loads(text) for key, number, text in rows}


def differences(golden: Table, found: Table) -> Iterator[str]:
    """Yield a line for each number that is not as it was: its key, what was found and what was expected."""
    for key in sorted(golden.keys() | found.keys()):
        expected, got = golden.get(key, ABSENT), found.get(key, ABSENT)
        if not equal_leaves(expected, got):
            yield f"{key}: got {shown(got)}, expected {shown(expected)}"


def shown(leaf: Leaf) -> str:
    """Return a leaf as text; a float as far as it is compared."""
    return f"{leaf:.7g}" if isinstance(leaf, float) else repr(leaf)


def equal_leaves(one: Leaf, other: Leaf) -> bool:
    """Return whether two floats are equal within RELATIVE, and whether anything else is equal and of one type."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(one) is type(other) and one == other
