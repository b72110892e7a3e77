"""Open a stranger's parquet file in another process first, because it may end the process that opens it.

Where pyarrow's binding expects no exception of C++, one aborts the process, and no `except` helps. In version 26, a
level histogram of the wrong size in the footer does that as soon as a column's entry is read. One child process, with
limits, tries file after file. If a file ends it, the next one gets a new child.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from moeload_bench.errors import TraceError, printable

CHILD = Path(__file__).with_name("trial_child.py")


class Trial:
    """A child process that opens files; it starts with the first one and ends with this process."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def open(self, path: Path) -> None:
        """Raise `TraceError` if the file ends the child: aborts it, or takes too much memory or time."""
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._child = _start()
            child, self._child = self._child, None  # kept only if it answers
            try:
                survived = _ask(child, path)
            except BaseException:  # Ctrl-C: an answer that is still to come must not be taken for the next file's
                child.kill()
                raise
            if survived:
                self._child = child
                return
            _, stderr = child.communicate()
        raise TraceError(f"{path}: not a readable parquet file: {_reason(child.returncode, stderr)}")


def _start() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its threads would take address space
    return subprocess.Popen(
        [sys.executable, "-P", "-B", str(CHILD)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=environment,
        start_new_session=True,  # Ctrl-C is for this process
    )


def _ask(child: subprocess.Popen[bytes], path: Path) -> bool:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(os.path.abspath(path)).encode() + b"\n")
        child.stdin.flush()
    return child.stdout.read(1) == b"."


def _reason(status: int, stderr: bytes) -> str:
    """Return how the child ended, in one line, with what was written last."""
    ended = signal.Signals(-status).name if status < 0 else f"status {status}"
    if ended in ("SIGALRM", "SIGXCPU"):
        return f"takes too long to open ({ended})"
    lines = stderr.decode(errors="replace").split("\n")
    messages = [match[1] for line in lines if (match := re.search(r"what\(\): *(.*)", line))] or [x for x in lines if x]
    last = printable(" ".join(messages[-1].split()))[:300] if messages else "nothing was said"
    return f"it ended the process that opened it first ({ended}): {last}"


_trial = Trial()


def try_to_open(path: Path) -> None:
    """Raise `TraceError` if opening the file would end this process."""
    _trial.open(path)


def _forget() -> None:
    """Start with a new child in a forked process: the child's pipes and the lock are the parent's."""
    global _trial
    _trial = Trial()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
