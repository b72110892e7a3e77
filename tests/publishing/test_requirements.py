"""A submission's requirements: wheels only, looked at before they are unpacked, and nothing of them runs here."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from moeload_bench.errors import SubmissionError
from moeload_bench.publishing import requirements
from moeload_bench.publishing.requirements import install_packages, pinned, wheel_hashes
from tests.support.submitted import wheel


def test_no_requirements_need_no_folder() -> None:
    """And no pip."""
    assert install_packages(()) is None


HOSTILE_NAMES = {
    "lies outside": ["../outside.py", "/tmp/outside.py", "a/../../outside.py", "..\\\\outside.py", "c:/outside"],
    "is compiled Python": ["mod.pyc", "a/__pycache__/mod.cpython-311.pyc", "__pycache__/x.py", "b/mod.PYC"],
    "control character": ["a.py 00\nb.py", "a\x1b[2J.py", "a\u202e.py"],
}
"""Compiled code would run in place of the honest source beside it; a line break makes two files out of one in a list
of names and hashes, so that two wheels had one hash."""


@pytest.mark.parametrize(("why", "member"), [(why, name) for why, names in HOSTILE_NAMES.items() for name in names])
def test_a_wheel_with_a_file_of_a_hostile_name_is_refused(why: str, member: str, tmp_path: Path) -> None:
    """Named by the wheel and the path in it, before anything is unpacked."""
    path = wheel(tmp_path, "evil", "1.0", "", {member: "boo"})
    with pytest.raises(SubmissionError, match=rf"evil-1\.0-py3-none-any\.whl: .*{why}"):
        requirements._check_wheels([path])


def test_a_wheel_with_another_hash_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one with a build tag, added to a released version later, which pip would prefer."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "cache"))
    wheels = wheel(tmp_path / "wheels", "a", "1.0", "X = 1\n").parent
    lines = pinned(("a==1.0",), wheel_hashes(install_packages(("a==1.0",), find_links=wheels, no_index=True)))
    wheel(tmp_path / "others", "a", "1.0", "X = 2\n").rename(wheels / "a-1.0-1-py3-none-any.whl")
    with pytest.raises(SubmissionError, match="DO NOT MATCH THE HASHES"):
        install_packages(lines, find_links=wheels, no_index=True)
    assert "X = 2" in (install_packages(("a==1.0",), find_links=wheels, no_index=True) / "a.py").read_text()  # type: ignore[operator]


def test_wheels_that_write_one_file_twice_are_refused(tmp_path: Path) -> None:
    """Which of them would run depends on their order; the same bytes, as namespace packages have them, are no harm."""
    for content in ("", "X = 1"):
        wheel(tmp_path, "a", "1.0", "", {"both/__init__.py": ""})
        wheel(tmp_path, "b", "1.0", "", {"both/__init__.py": content})
        found = tmp_path / f"unpacked{content}"
        requirements._unpack(tmp_path / "a-1.0-py3-none-any.whl", found)
        if content:
            with pytest.raises(SubmissionError, match=r"'both/__init__\.py' is there already"):
                requirements._unpack(tmp_path / "b-1.0-py3-none-any.whl", found)
        else:
            requirements._unpack(tmp_path / "b-1.0-py3-none-any.whl", found)


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    """By its name, where the archive's own sum says so."""
    path = wheel(tmp_path, "a", "1.0", "X = 12345\n")
    path.write_bytes(path.read_bytes().replace(b"X = 12345", b"X = 54321"))
    with pytest.raises(SubmissionError, match=r"a-1\.0-py3-none-any\.whl: 'a\.py': Bad CRC"):
        requirements._unpack(path, tmp_path / "unpacked")


def test_a_wheel_whose_file_goes_on_beyond_its_end_is_refused(tmp_path: Path) -> None:
    """The directory at its end says more bytes than there are; `make fuzz` found it as a traceback."""
    path = wheel(tmp_path, "a", "1.0", "X = 1\n")
    raw = bytearray(path.read_bytes())
    sizes = raw.index(b"PK\x01\x02") + 20  # packed and unpacked
    raw[sizes : sizes + 8] = struct.pack("<2L", 100_000, 100_000)
    path.write_bytes(raw)
    with pytest.raises(SubmissionError, match=r"'a\.py': the file ends too early"):
        requirements._unpack(path, tmp_path / "unpacked")


def checked_and_unpacked(path: Path) -> None:
    """What an installation does with a wheel."""
    requirements._check_wheels([path])
    requirements._unpack(path, path.parent / "unpacked")


@pytest.mark.parametrize("damage", ["version", "method", "name"])
def test_a_wheel_that_no_reader_knows_is_refused(damage: str, tmp_path: Path) -> None:
    """A later version of the format, an unknown compression, a file without a name: each was a traceback."""
    path = wheel(tmp_path, "a", "1.0", "X = 1\n", {".": ""} if damage == "name" else None)
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    if damage != "name":
        raw[entry + (6 if damage == "version" else 10)] = 99
    path.write_bytes(raw)
    with pytest.raises(SubmissionError, match=r"a-1\.0-py3-none-any\.whl: "):
        checked_and_unpacked(path)


def test_a_wheel_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from what the archive says it unpacks to: more than that is never written."""
    monkeypatch.setattr(requirements, "MAX_UNPACKED_BYTES", 1 << 20)
    path = wheel(tmp_path, "bomb", "1.0", "", {"zeros": "0" * (2 << 20)})
    with pytest.raises(SubmissionError, match="at most 200000 files of 1048576 bytes"):
        requirements._check_wheels([path])


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    """By its name."""
    (tmp_path / "a-1.0-py3-none-any.whl").write_text("not a zip")
    with pytest.raises(SubmissionError, match=r"a-1\.0-py3-none-any\.whl: not a wheel"):
        requirements._check_wheels(tmp_path.iterdir())


def test_a_folder_of_wheels_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Instead of pip's words about an index."""
    with pytest.raises(SubmissionError, match="missing: no such folder of wheels"):
        install_packages(("a==1.0",), find_links=tmp_path / "missing", no_index=True)


def source(root: Path, mark: Path) -> Path:
    """A source archive whose setup.py leaves a mark where it runs; it asks for nothing to be built with."""
    folder = root / "evil-1.0"
    folder.mkdir()
    (folder / "setup.py").write_text(f"open({str(mark)!r}, 'w')\nfrom setuptools import setup\nsetup()\n")
    (folder / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'setup'\nbackend-path = ['.']\n"
    )
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    path = root / "evil-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "evil-1.0")
    return path


def test_an_environment_without_pip_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that `uv venv` makes."""
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: iter(()))
    with pytest.raises(SubmissionError, match="python -m ensurepip"):
        install_packages(("a==1.0",))


def test_installing_leaves_the_process_able_to_import_setuptools() -> None:
    """Its hook on imports serves the standard library's distutils, for good, once anybody looks for the module pip."""
    lines = (
        "from moeload_bench.publishing.requirements import install_packages",
        "try: install_packages(('moeload-none==1.0',), no_index=True)",
        "except Exception as error: assert 'do not install' in str(error), error",
        "else: raise SystemExit('it installed')",
        "import setuptools",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


@pytest.mark.slow
def test_sources_are_never_built(tmp_path: Path) -> None:
    """Neither those of a requirement nor those that a wheel's metadata names by their address."""
    mark, wheels = tmp_path / "mark", tmp_path / "wheels"
    wheels.mkdir()
    archive = source(tmp_path, mark)
    wheel(wheels, "a", "1.0", "", needs=f"evil @ {archive.as_uri()}")
    assert install_packages(("a==1.0",), find_links=wheels, no_index=True) is not None
    (wheels / archive.name).write_bytes(archive.read_bytes())
    with pytest.raises(SubmissionError, match="do not install"):
        install_packages(("evil==1.0",), find_links=wheels, no_index=True)
    assert not mark.exists()


@pytest.mark.slow
def test_a_changed_wheel_is_installed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One folder per content of the wheelhouse; the working folder's own `pip.py` is not what runs."""
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path)
    wheel(tmp_path / "wheels", "a", "1.0", "X = 1\n")
    first = install_packages(("a==1.0",), find_links=Path("wheels"), no_index=True)
    assert first == install_packages(("a==1.0",), find_links=Path("wheels"), no_index=True)
    wheel(tmp_path / "wheels", "a", "1.0", "X = 2  # changed\n")
    second = install_packages(("a==1.0",), find_links=Path("wheels"), no_index=True)
    assert first is not None
    assert second is not None
    assert first != second
    assert [(one / "a.py").read_text()[:5] for one in (first, second)] == ["X = 1", "X = 2"]
