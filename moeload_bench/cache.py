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
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path

from moeload_bench.bounds import named_once
from moeload_bench.files import read_at_most, write_whole

CACHE_VERSION = 2
MAX_ENTRY_BYTES = 512 << 20
T = TypeVar("T")


def cache_dir() -> Path:
    """Return where finished work is kept."""
    named = os.environ.get("MOELOAD_CACHE")
    return Path(named) if named else user_cache_path("moeload-bench", appauthor=False)


def task_key(**parts: Any) -> str:
    """Return the hash of everything a result depends on; ``parts`` must be JSON (canonical: names sorted)."""
    text = json.dumps({"cache_version": CACHE_VERSION, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(key: str, parse: Callable[[Any], T]) -> T | None:
    """Return what ``parse`` makes of an entry; None if there is none.

    Also None for an entry that is damaged, and for one that ``parse`` raises for because it has another form or belongs
    to another trace. A warning says so, and the entry is written again.
    """
    path = _path(key)
    try:
        entry = json.loads(read_at_most(path, MAX_ENTRY_BYTES), object_pairs_hook=named_once)
        if entry["sha256"] != _digest(entry["value"]):
            raise ValueError("its content does not match its hash")
        return parse(entry["value"])
    except FileNotFoundError:
        return None
    except Exception as error:  # what another form makes a parser raise is not known
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        warnings.warn(f"ignoring the damaged cache entry {path}: {why}", stacklevel=2)
        return None


def save(key: str, value: dict[str, Any]) -> None:
    """Write an entry; a reader sees the whole of it or nothing.

    A folder, pipe or device in its place stays: `load` has warned of it.
    """
    path = _path(key)
    with contextlib.suppress(NotADirectoryError, FileExistsError):
        if path.is_file() or not path.exists():
            write_whole(path, json.dumps({"sha256": _digest(value), "value": value}).encode())


def _path(key: str) -> Path:
    return cache_dir() / "runs" / key[:2] / f"{key}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
