"""The first upload, rehearsed: built, checked, put on an index of this machine, installed from it alone, and used.

    make wheel-check

What the package depends on is downloaded once to fill the index. After that no other host is asked: the environment is
new, pip knows one index, and commands run without a network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import need

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAME = "moeload-bench"


class Installed(NamedTuple):
    """The files to upload, and an environment with what the index gave; ``home`` is an empty folder."""

    files: list[Path]
    python: Path
    home: Path

    def run(
        self, *words: str, cwd: Path | None = None, prefix: list[str] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment without a network, or after another prefix than `offline`."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
        own = {"HOME": str(self.home), "MOELOAD_CACHE": str(self.home / "cache"), "COLUMNS": "80", **variables}
        program = [*(offline() if prefix is None else prefix), str(self.python.parent / words[0]), *words[1:]]
        return subprocess.run(
            program, cwd=cwd or self.home, env={**clean, **own}, capture_output=True, text=True, check=False
        )


def offline() -> list[str]:
    """Return a prefix that switches networking off; where the kernel refuses that, one that names a dead proxy."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which(prefix[0]) and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            return prefix
    return ["env", *(f"{kind}_proxy=http://127.0.0.1:9" for kind in ("http", "https", "all"))]


def sh(*words: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command; fail with what it printed."""
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


def fill(index: Path, files: list[Path], downloads: Path) -> None:
    """Lay out an index: a folder per project, with its files."""
    sh(
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "-d",
        downloads,
        *[file for file in files if file.suffix == ".whl"],
    )
    for file in {file.name: file for file in [*downloads.iterdir(), *files]}.values():
        project = re.sub(r"[-_.]+", "-", re.split(r"-\d", file.name)[0]).lower()
        (index / project).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, index / project)


def install(scratch: Path) -> Installed:
    """Build, fill the index, serve it, and install from it alone."""
    sh(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", scratch / "dist", ROOT)
    files = sorted((scratch / "dist").iterdir())
    fill(scratch / "index", files, scratch / "downloads")
    python, home = scratch / "env" / "bin" / "python", scratch / "home"
    home.mkdir()
    venv.create(scratch / "env", with_pip=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(scratch / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        alone = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        alone |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/"}
        sh(python, "-m", "pip", "install", "-q", "--no-compile", "--no-cache-dir", NAME, env=alone)
        server.shutdown()
    return Installed(files, python, home)


def check_files(installed: Installed) -> None:
    """The sdist and the wheel pass `twine check`; the wheel holds the package alone and names its commit."""
    need("twine", "pip install '.[dev]'")
    sh(sys.executable, "-m", "twine", "check", "--strict", *installed.files)
    wheel, sdist = sorted(installed.files, key=lambda file: file.suffix, reverse=True)
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.split("/")[1] for name in names if name.startswith("moeload_bench/")}
    assert all(name.startswith("moeload_bench") for name in names)
    assert "leaderboard" not in held
    assert "commit.txt" in held or not (ROOT / ".git").exists()
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests/" in name]


def check_first_screen(installed: Installed) -> None:
    """The first commands of README.md work as they stand, with what pip brought: without torch."""
    (block,) = re.findall(r"((?:    (?:pip|moeload-bench) [^\n]+\n)+)", README.split("make bench")[0])
    install, *commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert install == ["pip", "install", NAME]
    assert installed.run("python", "-c", "import torch").returncode != 0
    assert len(commands) >= 3
    for words in commands:
        done = installed.run(*words)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    assert installed.run("python", "-m", "moeload_bench", "run", "sw_avg", cwd=ROOT).returncode == 0


def check_extras(installed: Installed) -> None:
    """What needs an extra names it, in one line."""
    (installed.home / "expert-load.json").write_text("{}")
    history = ["import", "load-history", "expert-load.json", "--out", "run.parquet"]
    for extra, words in {"torch": ["run", "lstm"], "record": ["record", "qwen3moe-tiny-8e"], "import": history}.items():
        done = installed.run(NAME, *words)
        assert done.returncode != 0
        assert f"{NAME}[{extra}" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_first_upload_is_rehearsed(tmp_path: Path) -> None:
    """In one test: builds in one folder must not run side by side."""
    installed = install(tmp_path)
    check_files(installed)
    check_first_screen(installed)
    check_extras(installed)
