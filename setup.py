"""Write into a wheel which commit it was built from; all else is in pyproject.toml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

GIT = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty")


class BuildWithCommit(build_py):
    """Build as usual, and leave `commit.txt` in the package where git knows a commit."""

    def run(self) -> None:
        super().run()
        try:
            commit = subprocess.run(GIT, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return  # an archive of the source: there is none
        if not self.editable_mode:
            Path(self.build_lib, "moeload_bench", "commit.txt").write_text(commit, encoding="utf-8")


setup(cmdclass={"build_py": BuildWithCommit})
