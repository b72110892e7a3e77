"""All attacks once more as a normal user: a sandbox of one is made with a user namespace, and by another way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.isolation.attacks.arena import HERE

USER = 54_321
REPOSITORY = HERE.parents[2]
TESTS = ("test_attacks.py", "test_accounting.py", "test_liars.py", "test_files.py")
# Folders that only the superuser may enter are replaced, in a mount namespace of this test, by ones that hold no more
# than what is needed; then the superuser is left. $1: closed folders, $2: what is needed of them, $3: the user.
AS_USER = """
set -eu
closed=$1 needed=$2 user=$3 place=$4; shift 4
mount --make-rprivate /
n=0
for path in $needed; do n=$((n + 1)); mkdir -p "$place/$n"; mount --bind "$path" "$place/$n"; done
for path in $closed; do mount -t tmpfs -o mode=755 tmpfs "$path"; done
n=0
for path in $needed; do n=$((n + 1)); mkdir -p "$path"; mount --bind "$place/$n" "$path"; done
exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"
"""


def closed_folders(paths: list[Path]) -> dict[Path, Path]:
    """The outermost folder above each path that others may not enter, and what is needed of it."""
    found: dict[Path, Path] = {}
    for path in paths:
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 0o001:
                found[path] = folder
                break
    return found


@pytest.mark.sandbox
@pytest.mark.slow
def test_every_attack_fails_for_a_normal_user_too(tmp_path: Path) -> None:
    """The tests of this folder, slow ones too, by a user without any right; run by one, they have been."""
    if os.geteuid() != 0:
        return
    needed = [Path(os.path.realpath(path)) for path in (sys.base_prefix, sys.prefix, REPOSITORY)]
    closed = closed_folders(needed)
    home = Path(f"/tmp/moeload-user-{os.getpid()}")
    home.mkdir(mode=0o755)
    os.chown(home, USER, USER)
    arguments = [" ".join(sorted({str(one) for one in found})) for found in (closed.values(), closed)]
    tests = [str(HERE / name) for name in TESTS]
    pytest_argv = [sys.executable, "-m", "pytest", "-q", "-rs", "--basetemp", str(home / "tests"), *tests]
    argv = ["unshare", "--mount", "sh", "-c", AS_USER, "sh", *arguments, str(USER), str(tmp_path), *pytest_argv]
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout or "100%" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped == []
