"""What a snapshot of `moeload_bench.Snapshot` says, made comparable."""

from __future__ import annotations

from typing import Any

from moeload_bench.ops.live.monitor import Snapshot


def numbers(snapshot: Snapshot, *left_out: str) -> list[Any]:
    """Return all that a snapshot says but for metadata, CPU times and what is ``left_out``, to be compared."""
    out: list[Any] = []

    def walk(value: Any) -> None:
        if hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                if name not in ("meta", "cpu_ms", *left_out):
                    walk(getattr(value, name))
        elif isinstance(value, tuple) and any(hasattr(one, "__dataclass_fields__") for one in value):
            for one in value:
                walk(one)
        else:
            out.append(value)

    walk(snapshot)
    return out
