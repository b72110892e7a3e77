"""What a test may need beyond what `make test` installs, each by the marker that names it (pyproject.toml)."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from moeload_bench.isolation.bubblewrap import why_unavailable
from tests.support.foreign.loaders import FILES, PLACE

PEERS = Path(sys.prefix) / "peers" / "bin" / "python"


def programs(how: str, *names: str) -> str | None:
    """Return why a test that needs these programs cannot run."""
    return missing([name for name in names if shutil.which(name) is None], how)


def modules(how: str, *names: str) -> str | None:
    """Return why a test that needs these packages cannot run."""
    return missing([name for name in names if importlib.util.find_spec(name) is None], how)


def files(how: str, *paths: Path) -> str | None:
    """Return why a test that needs these files of the environment cannot run."""
    return missing([str(path.relative_to(sys.prefix)) for path in paths if not path.is_file()], how)


def missing(names: list[str], how: str) -> str | None:
    """Return what is missing, with how to install it; None for nothing."""
    return f"{' and '.join(names)} not installed: {how}" if names else None


NEEDS: dict[str, Callable[[], str | None]] = {
    "sandbox": why_unavailable,
    "browser": functools.partial(programs, "apt-get install chromium chromium-driver", "chromium", "chromedriver"),
    "compiler": functools.partial(programs, "apt-get install g++", "g++"),
    "deepspeed": functools.partial(modules, "make .venv/.deepspeed", "deepspeed"),
    "engines": functools.partial(modules, "make .venv/.engines", "megatron", "nemo_automodel", "olmo_core"),
    "loaders": functools.partial(files, "make .venv/.loaders", *(PLACE / f"{name}.py" for name in FILES)),
    "peers": functools.partial(files, "make .venv/.peers", PEERS),
}
"""Marker: a function that returns why a test with it cannot run here, or None."""
