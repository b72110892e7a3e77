"""Spreading independent calls over processes: joblib on this machine, or on an existing Dask or Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(
    calls: Sequence[Callable[[], T]], *, jobs: int = 1, backend: str = "loky", address: str | None = None
) -> Iterator[T]:
    """Make all calls and yield what they return, in order, as soon as it is there."""
    if jobs == 1 and backend == "loky":
        yield from (call() for call in calls)
        return
    import joblib

    with joblib.parallel_config(backend=backend, n_jobs=jobs):
        yield from joblib.Parallel(return_as="generator")(joblib.delayed(call)() for call in calls)
