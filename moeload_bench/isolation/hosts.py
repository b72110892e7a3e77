"""Forecasters at three levels of isolation.

- `none`: in this process, for notebooks and debugging.
- `process`: a child process behind a pipe. It protects against accidents (crashes, leaks of state between runs, endless
  loops, memory), not against strangers: the child can read every file that the user can.
- `sandbox`: the same child inside bubblewrap: no network, no trace data, nothing to write but a small /tmp.

The level is part of every result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moeload_bench.errors import IsolationError, TargetError
from moeload_bench.forecaster import StepBlock, TraceInfo
from moeload_bench.isolation.levels import LEVELS, MIB, Cost, Host, Level, Limits, end_words
from moeload_bench.isolation.targets import ClassTarget, StoredTarget, Target

__all__ = ["LEVELS", "MIB", "Cost", "Host", "Level", "Limits", "end_words"]


def open_host(
    target: Target,
    info: TraceInfo,
    *,
    seed: int,
    fitted: bytes | None = None,
    level: Level = "process",
    limits: Limits | None = None,
    numba_cache: Path | None = None,
) -> Host:
    """Construct a forecaster at a level of isolation; as a context manager, it is stopped at the end.

    ``numba_cache`` is a private folder in which baselines at level `process` share what numba compiled.
    Raise `TargetError` or `MissingExtraError` for a target that cannot be used, `ForecastError` when its module or
    constructor raises, `IsolationError` when the level is not available or the process does not come up.
    """
    host = _place(target, level, limits or Limits(), numba_cache)
    try:
        host.start(info, seed, fitted)
    except BaseException:
        host.stop()
        raise
    return host


def fit_target(
    target: Target,
    runs: Sequence[tuple[TraceInfo, StepBlock]],
    *,
    seed: int,
    level: Level = "process",
    limits: Limits | None = None,
) -> tuple[bytes, Cost] | None:
    """Fit on whole runs at a level of isolation; None when the class has no `fit`. Raise as `open_host`."""
    with _place(target, level, limits or Limits()) as host:
        fitted = host.fit(runs, seed)
        return None if fitted is None else (fitted, host.cost())


def class_here(target: Target) -> type[Any]:
    """Return a target's class, imported into this process, as level `none` does; raise as `open_host`."""
    from moeload_bench.isolation.local import Loaded

    return Loaded(target).cls


def _place(target: Target, level: Level, limits: Limits, numba_cache: Path | None = None) -> Host:
    """Make a forecaster's place; a level's modules are imported when it is used, so that `none` works anywhere."""
    reason = level_available(level)
    if reason is not None:
        raise IsolationError(f"isolation level {level!r} is not available: {reason}")
    if level == "none":
        from moeload_bench.isolation.local import LocalHost

        return LocalHost(target, limits)
    from moeload_bench.isolation.child import ChildHost

    return ChildHost(_stored(target, level), level, limits, numba_cache)


def share_no_pages(target: Target, level: Level, available_bytes: int | None) -> bool | None:
    """Read all files that sandboxes share into memory: no run may learn from load times what another one read.

    Return False if memory is too small for that; None at other levels, where runs can communicate anyway.
    """
    if level != "sandbox":
        return None
    from moeload_bench.isolation.bubblewrap import read_shared

    return read_shared(target, available_bytes)


def parse_level(text: str) -> Level:
    """Return a level from its name; raise `IsolationError` naming those that exist."""
    for level in LEVELS:
        if text == level:
            return level
    raise IsolationError(f"unknown isolation level {text!r}; there is: {', '.join(LEVELS)}")


def level_available(level: Level) -> str | None:
    """Return None when the level can be used here, else the reason why not; raise `IsolationError` for an unknown
    level.
    """
    parse_level(level)
    if level == "process" and os.name != "posix":
        return f"it needs pipes with deadlines as POSIX systems have them, this is {os.name}"
    if level == "sandbox":
        from moeload_bench.isolation import bubblewrap

        return bubblewrap.why_unavailable()
    return None


def _stored(target: Target, level: Level) -> StoredTarget:
    """Return the target, which another process has to load."""
    if isinstance(target, ClassTarget):
        raise TargetError(
            f"{target.text!r} is a class of this process and can run at isolation level 'none' only; for {level!r} put "
            "it in a file and name it FILE.py:Class"
        )
    return target
