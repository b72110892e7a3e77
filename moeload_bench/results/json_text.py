"""JSON that a person can read and a pull request can hold: sorted keys, one line for each thing that is looked at.

The hash of a record is that of its content, never of its white space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LINES: Mapping[str, int] = {
    "runs": 2,  # each field of each run
    "tasks": 1,  # each task
    "per_layer": 2,  # each table [K][L], by state and metric
    "own": 1,
    "traces": 2,  # each fact of each trace
    "crossing": 1,  # each origin
    "floors": 2,  # each floor, by state
}
"""How many levels below a field of this name begin a line of their own; all else stays on its field's line."""


def compact_json(tree: Any) -> str:
    """Return a tree as canonical JSON, on one line."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _order(key: str) -> tuple[int, str]:
    """Return a key to sort by: names as text, numbers as numbers."""
    return (int(key), "") if key.isdecimal() else (-1, key)


def content_sha256(tree: Any) -> str:
    """Return the hash of a record's content."""
    return hashlib.sha256(compact_json(tree).encode()).hexdigest()


def readable_json(tree: Any, levels: int = 1, indent: str = "") -> str:
    """Return a tree as JSON over lines, as `LINES` says."""
    if levels == 0 or not isinstance(tree, dict | list) or not tree:
        return compact_json(tree)
    inner = indent + " "
    if isinstance(tree, dict):
        parts = [
            f"{json.dumps(key)}: {readable_json(tree[key], max(levels - 1, LINES.get(key, 0)), inner)}"
            for key in sorted(tree, key=_order)
        ]
    else:
        parts = [readable_json(item, levels - 1, inner) for item in tree]
    opening, closing = "{}" if isinstance(tree, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{closing}"
