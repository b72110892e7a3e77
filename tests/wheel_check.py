"""Build the wheel, install it without any extra in a clean environment, and use it from another folder, offline.

Run by `make test`. Prints the seconds that `moeload-bench run sw_avg` took there; fails when it needs the network, when
torch came along, or when `run lstm` or `record` does not name the extra to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Exit status 0 when the wheel works as the README says."""
    with tempfile.TemporaryDirectory(prefix="moeload-wheel-") as scratch:
        return check(Path(scratch))


def check(scratch: Path) -> int:
    """Build, install and run below ``scratch``."""
    sh([sys.executable, "-m", "build", "--wheel", "--outdir", str(scratch / "dist"), str(ROOT)])
    (wheel,) = (scratch / "dist").glob("*.whl")
    print(f"wheel: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
    held = {name.split("/")[1] for name in zipfile.ZipFile(wheel).namelist() if name.startswith("moeload_bench/")}
    moved = held & {"paper", "season", "seasons", "verifying", "leaderboard"}
    if moved or any(not name.startswith("moeload_bench") for name in zipfile.ZipFile(wheel).namelist()):
        return fail(f"the wheel holds what needs a checkout: {', '.join(sorted(moved)) or 'another package'}")
    if (ROOT / ".git").exists() and "commit.txt" not in held:
        return fail("the wheel does not say which commit it was built from")
    venv.create(scratch / "env", with_pip=True)
    python = scratch / "env" / "bin" / "python"
    sh([str(python), "-m", "pip", "install", "-q", "--no-compile", str(wheel)])
    if sh([str(python), "-c", "import torch"], check=False).returncode == 0:
        return fail("torch came along with the core")
    tool = [*offline(), str(scratch / "env" / "bin" / "moeload-bench")]
    elsewhere = scratch / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "MOELOAD_CACHE": str(scratch / "cache"), "HOME": str(scratch / "home")}
    started = time.monotonic()
    done = sh([*tool, "run", "sw_avg"], cwd=elsewhere, env=environment, check=False)
    seconds = time.monotonic() - started
    print(done.stdout, done.stderr, f"moeload-bench run sw_avg, offline: {seconds:.1f} s", sep="\n")
    if done.returncode != 0 or "sw_avg" not in done.stdout:
        return fail("run sw_avg does not work from the wheel")
    # in a clone Python finds the clone's package first, which has its baselines beside it
    in_clone = sh([str(python), "-m", "moeload_bench", "run", "sw_avg"], cwd=ROOT, env=environment, check=False)
    if in_clone.returncode != 0:
        return fail(f"python -m moeload_bench run sw_avg does not work in a clone: {in_clone.stderr.strip()[-300:]}")
    lstm = sh([*tool, "run", "lstm"], cwd=elsewhere, env=environment, check=False)
    print(lstm.stderr.strip())
    if lstm.returncode == 0 or "moeload-bench[torch]" not in lstm.stderr:
        return fail("run lstm without torch does not name the extra to install")
    record = sh([*tool, "record", "qwen3moe-tiny-8e"], cwd=elsewhere, env=environment, check=False)
    print(record.stderr.strip())
    if record.returncode == 0 or "moeload-bench[record]" not in record.stderr or "Traceback" in record.stderr:
        return fail("record without torch does not name the extra to install")
    return 0


def offline() -> list[str]:
    """A prefix that switches networking off."""
    for prefix in (
        ["unshare", "--net"],
        ["unshare", "--map-root-user", "--net"],
        ["bwrap", "--dev-bind", "/", "/", "--unshare-net"],
    ):
        if (
            shutil.which(prefix[0])
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            return prefix
    raise SystemExit("wheel check: neither unshare nor bwrap can switch networking off here; install bubblewrap")


def sh(command: list[str], *, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command; show what it printed when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done


def fail(message: str) -> int:
    """Say why on standard error."""
    print(f"wheel check: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
