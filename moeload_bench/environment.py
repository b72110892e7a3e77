"""Where a result was made: versions, hardware, commit. Recorded, never compared."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from moeload_bench.errors import counted
from moeload_bench.files import PACKAGE
from moeload_bench.schema import Schema

TRACKED_PACKAGES = ("numpy", "statsmodels", "torch", "numba")
BLAS_KERNELS = "blas kernels"
"""Among a result's versions; results older than this entry do not have it."""


def package_versions(names: Sequence[str] = TRACKED_PACKAGES) -> dict[str, str]:
    """Return versions of those packages that are installed; by default of those whose numerics a forecast may depend
    on.
    """
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def installed_sha256() -> str:
    """Return one hash of the names and versions of all that is installed: what an adapter's numbers may depend on."""
    lines = {
        f"{distribution.metadata['Name']}=={distribution.version}\n"
        for distribution in importlib.metadata.distributions()
    }
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def kernels() -> dict[str, str]:
    """Return what numpy computes with here: the core that its BLAS takes the processor for, the instruction sets it
    found.

    Between two of them floating point may differ in the last place, and processors of one name have several.
    """
    blas = sorted(
        f"{library['internal_api']} {library.get('architecture', '')}".strip()
        for library in threadpool_info()
        if library["user_api"] == "blas" and "numpy" in library["filepath"]  # scipy and torch bring their own
    )
    config = np.show_config(mode="dicts") or {}
    simd = config.get("SIMD Extensions", {}).get("found", [])
    return {BLAS_KERNELS: ", ".join(blas) or "unknown", "simd": " ".join(simd) or "unknown"}


def environment() -> Environment:
    """Return where this runs."""
    import joblib

    processor, cores = processor_name() or "unknown processor", counted(int(joblib.cpu_count()), "core")
    return Environment(
        package_version=importlib.metadata.version("moeload-bench"),
        commit=commit_of(PACKAGE.parent) or _built_from(),
        python=platform.python_version(),
        versions={**package_versions(), **kernels()},
        hardware=f"{platform.machine()} {platform.system()}, {processor}, {cores}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def processor_name() -> str:
    """Return the processor's name; empty where the system does not tell it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit_of(root: Path) -> str | None:
    """Return a checkout's commit, marked `-dirty` where tracked files differ from it; None outside a checkout.

    What evaluations and verifications write is no change: the first of a series would make the tree of the next dirty.
    """
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    written = [f":(exclude)leaderboard/{name}" for name in ("results", "submissions")]
    commit = _git(root, "describe", "--always", "--abbrev=40").stdout.strip()
    changed = _git(root, "diff", "--quiet", "HEAD", "--", ".", *written).returncode
    return f"{commit}-dirty" if commit and changed else commit or None


def _built_from() -> str | None:
    """Return the commit that a wheel was built from, which `setup.py` writes into it."""
    path = PACKAGE / "commit.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)


class Environment(Schema):
    """Where it ran; never compared between results."""

    package_version: str
    commit: str | None = None
    python: str
    versions: dict[str, str] = {}
    hardware: str
    created: str
