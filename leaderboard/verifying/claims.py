"""The result that a submission claims, as a file that a stranger wrote."""

from __future__ import annotations

from pathlib import Path

from moeload_bench.errors import SubmissionError
from moeload_bench.results.record import Result, load_result
from moeload_bench.submissions.folder import is_regular

MAX_CLAIM_BYTES = 32 << 20


def load_claim(path: Path) -> Result:
    """Return a submission's result; raise `SubmissionError` unless it is a regular file of a sane size, or
    `ResultError`.
    """
    if not is_regular(path):
        raise SubmissionError(f"{path}: no result; `moeload-bench submit` writes it there")
    size = path.stat().st_size
    if size > MAX_CLAIM_BYTES:
        raise SubmissionError(f"{path}: {size} bytes, at most {MAX_CLAIM_BYTES} are accepted")
    return load_result(path)
