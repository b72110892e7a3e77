"""A submission's pinned packages, installed into a folder of their own, one per set of requirements.

Only wheels are taken, and only those that are named. Their dependencies are not resolved, so that a re-run installs the
same. No address in a wheel's metadata is followed (pip would build what is there). Wheels are fetched first, then
checked, then unpacked, without running anything. An untrusted package's code runs where the forecaster runs, in the
sandbox, never in this process. The folder comes first on the forecaster's path; what it does not hold (numpy, the
contract) comes from this installation.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath

from moeload_bench.cache import cache_dir
from moeload_bench.errors import SubmissionError

INSTALL_S = 1800.0
MAX_FILES = 200_000
MAX_UNPACKED_BYTES = 16 << 30  # a GPU build of torch with its libraries unpacks to about 7 GiB


def install_packages(
    requirements: Sequence[str], *, find_links: Path | None = None, no_index: bool = False
) -> Path | None:
    """Return the folder that holds the requirements; None if there are none.

    It is made once per set of requirements, Python, platform and source of wheels. ``find_links`` is a folder of
    wheels, ``no_index`` uses no other source. Raise `SubmissionError` with pip's own words if they do not install.
    """
    if not requirements:
        return None
    folder = cache_dir() / "packages" / _key(requirements, find_links, no_index)
    if folder.is_dir():
        return folder
    if not list(metadata.distributions(name="pip")):  # looking for the module would turn setuptools' distutils off
        raise SubmissionError("installing requirements needs pip in this environment: python -m ensurepip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".installing-", ignore_cleanup_errors=True) as scratch:
        wheels, unpacked = Path(scratch) / "wheels", Path(scratch) / "unpacked"
        source = [*(["--no-index"] if no_index else []), *(["--find-links", str(find_links)] if find_links else [])]
        _pip("download", ["--dest", str(wheels), *source], requirements)
        found = sorted(wheels.iterdir())
        _check_wheels(found)
        _pip("install", ["--target", str(unpacked), "--no-compile", "--no-index"], map(str, found))
        unpacked.chmod(0o755)  # the sandbox's user reads it
        if not folder.is_dir():
            os.replace(unpacked, folder)
    return folder


def _key(requirements: Sequence[str], find_links: Path | None, no_index: bool) -> str:
    """Return a key for what pip would install; wheels of a folder count by name, size and time of change."""
    parts = [*requirements, str(sys.implementation.cache_tag), sysconfig.get_platform(), str(no_index)]
    if find_links is not None:
        if not find_links.is_dir():
            raise SubmissionError(f"{find_links}: no such folder of wheels")
        stats = [(path.name, path.stat()) for path in sorted(find_links.glob("*.whl"))]
        parts += [str(find_links.resolve()), *(f"{name} {one.st_size} {one.st_mtime_ns}" for name, one in stats)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _check_wheels(wheels: Iterable[Path]) -> None:
    """Raise `SubmissionError` for wheels that would write elsewhere, hide code or fill the disk."""
    files = total = 0
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise SubmissionError(f"the requirements do not install: {wheel.name}: not a wheel: {error}") from None
        for member in members:
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if (
                path.is_absolute()
                or ".." in path.parts
                or ":" in member.filename
                or stat.S_ISLNK(member.external_attr >> 16)
            ):
                raise SubmissionError(
                    f"the requirements do not install: {wheel.name}: {member.filename[:80]!r} is a link or lies "
                    "outside the wheel"
                )
            if "__pycache__" in path.parts or path.suffix.lower() in (".pyc", ".pyo"):
                raise SubmissionError(
                    f"the requirements do not install: {wheel.name}: {member.filename[:80]!r} is compiled Python, "
                    "which may differ from the source beside it; expected source only"
                )
        files += len(members)
        total += sum(member.file_size for member in members)
    if files > MAX_FILES or total > MAX_UNPACKED_BYTES:
        raise SubmissionError(
            f"the requirements do not install: {files} files of {total} bytes, at most {MAX_FILES} files of "
            f"{MAX_UNPACKED_BYTES} bytes are unpacked"
        )


def _pip(command: str, options: Sequence[str], what: Iterable[str]) -> None:
    """Run pip; it imports nothing from the working folder (-P) and builds no source."""
    always = ["--no-input", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    line = [sys.executable, "-P", "-m", "pip", command, *always, *options, "--", *what]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"the requirements do not install within {INSTALL_S:g} s") from None
    if done.returncode != 0:
        said = [one for one in done.stderr.splitlines() if one.startswith("ERROR")] or done.stderr.splitlines()
        raise SubmissionError(f"the requirements do not install: {' '.join(said)[:600]}")
