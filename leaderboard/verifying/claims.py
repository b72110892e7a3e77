"""The result that a submission claims, as a file that a stranger wrote."""

from __future__ import annotations

import stat
from pathlib import Path

from moeload_bench.errors import SubmissionError
from moeload_bench.results.record import Result, load_result

MAX_CLAIM_BYTES = 32 << 20


def load_claim(path: Path) -> Result:
    """Return a submission's result; raise `SubmissionError` unless it is a regular file of a sane size, or
    `ResultError`.
    """
    try:
        mode = path.lstat()
    except FileNotFoundError:
        raise SubmissionError(f"{path}: no result; `moeload-bench submit` writes it there") from None
    except OSError as error:
        raise SubmissionError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode.st_mode):
        raise SubmissionError(f"{path}: expected a regular file, got a link, folder or device")
    if mode.st_size > MAX_CLAIM_BYTES:
        raise SubmissionError(f"{path}: {mode.st_size} bytes, at most {MAX_CLAIM_BYTES} are accepted")
    return load_result(path)
