"""A submission's pinned packages, installed into a folder of their own, one per set of requirements.

Only wheels are taken, and only those that are named, by their SHA-256 where that is given. Their dependencies are not
resolved, so that a re-run installs the same. No address in a wheel's metadata is followed (pip would build what is
there). pip fetches the wheels; they are checked and unpacked here, without running anything, and nothing but their own
files comes into the folder. (`pip install --target` would keep either of two wheels' files of one name, and write this
interpreter's path into scripts.) An untrusted package's code runs where the forecaster runs, in the sandbox, never in
this process. The folder comes first on the forecaster's path; what it does not hold (numpy, the contract) comes from
this installation.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from moeload_bench.cache import cache_dir
from moeload_bench.errors import SubmissionError
from moeload_bench.files import write_whole
from moeload_bench.isolation.sources import bytes_sha256

REQUIREMENTS = "requirements.txt"
MAX_REQUIREMENTS = 100
INSTALL_S = 1800.0
MAX_FILES = 200_000
MAX_UNPACKED_BYTES = 16 << 30  # a GPU build of torch with its libraries unpacks to about 7 GiB
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[0-9][A-Za-z0-9.!+_-]*)"
    r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})*)"
)


def parse_requirements(text: str, where: str = REQUIREMENTS) -> tuple[str, ...]:
    """Return a file's pinned requirements: `name==version`, each followed by its wheels' hashes, or none of them.

    The form is pip's: a line that ends with a backslash goes on. Raise `SubmissionError` for anything else but
    comments.
    """
    pins: dict[str, str] = {}
    for number, raw in enumerate(re.sub(r"\\\n", " ", text).splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        match = _REQUIREMENT.fullmatch(line)
        if match is None:
            raise SubmissionError(
                f"{where}: line {number}: got {line[:80]!r}, expected name==version --hash=sha256:...; URLs, paths, "
                "other options, extras, markers and ranges are not accepted"
            )
        name = canonicalize_name(match["name"])
        if name == "moeload-bench":
            raise SubmissionError(f"{where}: line {number}: leave moeload-bench out: the harness brings it")
        if name in pins:
            raise SubmissionError(f"{where}: line {number}: {name} is pinned twice")
        pins[name] = " ".join([f"{name}=={match['version']}", *match["hashes"].split()])
    if len(pins) > MAX_REQUIREMENTS:
        raise SubmissionError(f"{where}: {len(pins)} requirements, at most {MAX_REQUIREMENTS} are accepted")
    unhashed = [name for name, line in pins.items() if "--hash" not in line]
    if unhashed and len(unhashed) < len(pins):
        raise SubmissionError(f"{where}: {unhashed[0]} has no --hash, others do: expected one for each, or for none")
    return tuple(pins[name] for name in sorted(pins))


def install_packages(
    requirements: Sequence[str], *, find_links: Path | None = None, no_index: bool = False
) -> Path | None:
    """Return the folder that holds the requirements; None if there are none.

    It is made once per set of requirements, Python, platform and source of wheels. ``find_links`` is a folder of
    wheels, ``no_index`` uses no other source. Raise `SubmissionError` with pip's own words if they do not install.
    """
    if not requirements:
        return None
    folder = _folder(requirements, find_links, no_index)
    if folder.is_dir():
        return folder
    if not list(metadata.distributions(name="pip")):  # looking for the module would turn setuptools' distutils off
        raise SubmissionError("installing requirements needs pip in this environment: python -m ensurepip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".installing-", ignore_cleanup_errors=True) as scratch:
        download, unpacked, list_file = (Path(scratch) / name for name in ("wheels", "unpacked", "requirements.txt"))
        list_file.write_text("".join(f"{requirement}\n" for requirement in requirements))
        source = [*(["--no-index"] if no_index else []), *(["--find-links", str(find_links)] if find_links else [])]
        _download(["--dest", str(download), *source, "-r", str(list_file)])
        wheels = sorted(download.iterdir())
        _check_wheels(wheels)
        for wheel in wheels:
            _unpack(wheel, unpacked)
        unpacked.chmod(0o755)  # the sandbox's user reads it
        hashes = {wheel.name: bytes_sha256(wheel) for wheel in wheels}
        write_whole(_hashes_beside(folder), json.dumps(hashes).encode())
        if not folder.is_dir():
            os.replace(unpacked, folder)
    return folder


def installed_packages(requirements: Sequence[str]) -> Path | None:
    """Return the folder that `install_packages` made of the requirements, None if it made none; asks nobody."""
    folder = _folder(requirements, None, no_index=False)
    return folder if requirements and folder.is_dir() else None


def wheel_hashes(packages: Path | None) -> dict[str, str]:
    """Return the SHA-256 by file name of the wheels that a folder of `install_packages` was made from."""
    return {} if packages is None else dict(json.loads(_hashes_beside(packages).read_text()))


def _hashes_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def pinned(requirements: Sequence[str], wheels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the requirements with the hashes of these wheels and no others; those without a wheel stay as they are."""
    by_name: dict[str, str] = {canonicalize_name(name.partition("-")[0]): sha256 for name, sha256 in wheels.items()}
    lines = []
    for requirement in requirements:
        plain = requirement.partition(" ")[0]
        sha256 = by_name.get(plain.partition("==")[0])
        lines.append(requirement if sha256 is None else f"{plain} --hash=sha256:{sha256}")
    return tuple(lines)


def _folder(requirements: Sequence[str], find_links: Path | None, no_index: bool) -> Path:
    """Return the folder for what pip would install; wheels of a folder count by name, size and time of change."""
    parts = [
        "wheels by hash",
        *requirements,
        str(sys.implementation.cache_tag),
        sysconfig.get_platform(),
        str(no_index),
    ]
    if find_links is not None:
        if not find_links.is_dir():
            raise SubmissionError(f"{find_links}: no such folder of wheels")
        stats = [(path.name, path.stat()) for path in sorted(find_links.glob("*.whl"))]
        parts += [
            str(find_links.resolve()),
            *(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in stats),
        ]
    return cache_dir() / "packages" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _check_wheels(wheels: Iterable[Path]) -> None:
    """Raise `SubmissionError` for wheels that would write elsewhere, hide code or fill the disk."""
    files = total = 0
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                members = archive.infolist()
        except Exception as error:  # a hostile archive can raise almost anything
            raise _no_install(f"{wheel.name}: not a wheel: {error}") from None
        for member in members:
            path, label = PurePosixPath(member.filename.replace("\\", "/")), f"{wheel.name}: {member.filename[:80]!r}"
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if is_link or path.is_absolute() or ".." in path.parts or ":" in member.filename or not path.parts:
                raise _no_install(f"{label} is a link or lies outside the wheel")
            if not member.filename.isprintable():  # a line break would end a name in lists of files and hashes
                raise _no_install(f"{label} has a control character in its name")
            if "__pycache__" in path.parts or path.suffix.lower() in (".pyc", ".pyo"):
                raise _no_install(
                    f"{label} is compiled Python, which may differ from the source beside it; expected source only"
                )
        files += len(members)
        total += sum(member.file_size for member in members)
    if files > MAX_FILES or total > MAX_UNPACKED_BYTES:
        bound = f"{MAX_FILES} files of {MAX_UNPACKED_BYTES} bytes"
        raise _no_install(f"{files} files of {total} bytes, at most {bound} are unpacked")


def _no_install(why: str) -> SubmissionError:
    return SubmissionError(f"the requirements do not install: {why}")


def _unpack(wheel: Path, folder: Path) -> None:
    """Write a wheel's files, nothing else: no script that names this interpreter, no note of where they came from.

    Raise `SubmissionError` where another wheel wrote other bytes to the same place, or the archive is damaged.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            target, label = folder / _place(member.filename), f"{wheel.name}: {member.filename[:80]!r}"
            if member.is_dir():
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.open(member)
                if target.exists():
                    if target.read_bytes() == content.read():
                        continue
                    raise _no_install(f"{label} is there already and says something else")
                with content, target.open("xb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
            except SubmissionError:
                raise
            except EOFError:
                raise _no_install(f"{label}: the file ends too early") from None
            except Exception as error:  # encryption, compression, names: an archive can raise almost anything
                raise _no_install(f"{label}: {error}") from None
            target.chmod(0o755 if member.external_attr >> 16 & 0o111 else 0o644)


_DATA = {"purelib": "", "platlib": "", "data": "", "scripts": "bin", "headers": "include"}


def _place(name: str) -> PurePosixPath:
    """Return where a wheel's file goes: `NAME.data/purelib/x` is x, as the format of wheels says."""
    path = PurePosixPath(name)
    if path.parts[0].endswith(".data") and len(path.parts) > 2 and path.parts[1] in _DATA:
        return PurePosixPath(_DATA[path.parts[1]], *path.parts[2:])
    return path


def _download(options: Sequence[str]) -> None:
    """Run pip to fetch wheels; it imports nothing from the working folder (-P) and builds no source.

    Where requirements have hashes, pip takes no file but those.
    """
    fixed = ["--no-input", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-P", "-m", "pip", "download", *fixed, *options]
    try:
        pip = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"the requirements do not install within {INSTALL_S:g} s") from None
    if pip.returncode != 0:
        lines = pip.stderr.splitlines()
        errors = [line for line in lines if line.startswith("ERROR")]
        raise _no_install(" ".join(errors or lines)[:600])
