"""Finished work, kept on disk so that an interrupted run continues and only what changed runs again.

An entry is one JSON file named by the hash of everything its content depends on. The folder is ``$MOELOAD_CACHE``, else
the platform's cache folder; deleting it is always safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from moeload_bench.files import write_whole

CACHE_VERSION = 1


def cache_dir() -> Path:
    """Return where finished work is kept."""
    named = os.environ.get("MOELOAD_CACHE")
    return Path(named) if named else user_cache_path("moeload-bench", appauthor=False)


def task_key(**parts: Any) -> str:
    """Return the hash of everything a result depends on; ``parts`` must be JSON (canonical: names sorted)."""
    text = json.dumps({"cache_version": CACHE_VERSION, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(key: str) -> dict[str, Any] | None:
    """Return the entry; None if there is none, or if it is damaged: a warning says so, and it is written again."""
    path = _path(key)
    try:
        entry = json.loads(path.read_bytes())
        if entry["sha256"] != _digest(entry["value"]):
            raise ValueError("its content does not match its hash")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        warnings.warn(f"ignoring the damaged cache entry {path}: {error}", stacklevel=2)
        return None
    value: dict[str, Any] = entry["value"]
    return value


def save(key: str, value: dict[str, Any]) -> None:
    """Write an entry; a reader sees the whole of it or nothing.

    A folder in its place stays: `load` has warned of it.
    """
    with contextlib.suppress(IsADirectoryError, NotADirectoryError, FileExistsError):
        write_whole(_path(key), json.dumps({"sha256": _digest(value), "value": value}).encode())


def _path(key: str) -> Path:
    return cache_dir() / "runs" / key[:2] / f"{key}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
