"""A submission's pinned packages, installed into a folder of their own, one per set of requirements.

Only wheels are taken, and they are unpacked without running anything: the code of a stranger's package runs where the
forecaster runs, in the sandbox, and never in this process. The folder comes first on the forecaster's path; what it
does not hold (numpy, the contract) comes from this installation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moeload_bench.cache import cache_dir
from moeload_bench.errors import SubmissionError

INSTALL_S = 1800.0


def install_packages(
    requirements: Sequence[str], *, find_links: Path | None = None, no_index: bool = False
) -> Path | None:
    """The folder that holds the requirements and what they need; None when there are none.

    Made once per set of requirements, Python version and source of wheels. ``find_links`` is a folder of wheels,
    ``no_index`` uses no other source. Raises `SubmissionError` with pip's own words when they do not install.
    """
    if not requirements:
        return None
    parts = [*requirements, sys.implementation.cache_tag or "", str(find_links and find_links.resolve()), str(no_index)]
    folder = cache_dir() / "packages" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("pip") is None:
        raise SubmissionError("installing requirements needs pip in this environment: python -m ensurepip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".installing-"))
    try:
        _pip(scratch, requirements, find_links, no_index)
        scratch.chmod(0o755)  # the sandbox's user reads it
        if not folder.is_dir():
            os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _pip(scratch: Path, requirements: Sequence[str], find_links: Path | None, no_index: bool) -> None:
    options = ["--target", str(scratch), "--only-binary", ":all:", "--no-compile", "--no-input", "--quiet"]
    options += ["--disable-pip-version-check", *(["--no-index"] if no_index else [])]
    options += [] if find_links is None else ["--find-links", str(find_links)]
    command = [sys.executable, "-m", "pip", "install", *options, "--", *requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"the requirements do not install within {INSTALL_S:g} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise SubmissionError(f"the requirements do not install: {' '.join(said)[:600]}")
