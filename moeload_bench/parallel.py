"""Spreading independent calls: over processes of this machine (joblib), or over an existing Dask or Ray cluster.

What is called is a module-level function with plain arguments, so that any process that has this package installed can
make the call; files named in it must be reachable from there. Results come back in order, whatever finished first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from moeload_bench.errors import MissingExtraError, MoeloadError

T = TypeVar("T")

BACKENDS = ("loky", "dask", "ray")


def spread(
    calls: Sequence[Callable[[], T]], *, jobs: int = 1, backend: str = "loky", address: str | None = None
) -> Iterator[T]:
    """Make all calls and yield what they return, in order, as soon as it is there.

    ``jobs`` is the number of processes on this machine (`loky`); a cluster at ``address`` uses all its workers. An
    exception of a call is raised here; calls that have not begun are then dropped. Raises `MoeloadError` for an unknown
    backend or a cluster without an address, `MissingExtraError` when its client is not installed.
    """
    if backend not in BACKENDS:
        raise MoeloadError(f"unknown backend {backend!r}; there is: {', '.join(BACKENDS)}")
    if backend == "loky":
        return _here(calls) if jobs == 1 else _loky(calls, jobs)
    if address is None:
        raise MoeloadError(f"the backend {backend!r} needs the address of a running cluster (--address)")
    return _dask(calls, address) if backend == "dask" else _ray(calls, address)


def _here(calls: Sequence[Callable[[], T]]) -> Iterator[T]:
    yield from (_call(call) for call in calls)


def _loky(calls: Sequence[Callable[[], T]], jobs: int) -> Iterator[T]:
    import joblib

    # One thread each: the processes are the parallelism, and sums do not depend on the number of cores.
    with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        results = joblib.Parallel(return_as="generator", batch_size=1)(joblib.delayed(_call)(call) for call in calls)
    with closing(results):
        yield from results


def _dask(calls: Sequence[Callable[[], T]], address: str) -> Iterator[T]:
    try:
        from distributed import Client
    except ImportError:
        raise MissingExtraError("distributed", "dist", "the backend 'dask'") from None
    with Client(address, set_as_default=False) as client:
        # pure=False: two calls with equal arguments are two calls, so that a repetition is one.
        futures = [client.submit(_call, call, pure=False) for call in calls]
        for future in futures:
            yield future.result()


def _ray(calls: Sequence[Callable[[], T]], address: str) -> Iterator[T]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "dist", "the backend 'ray'") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(_call)
        for reference in [remote.remote(call) for call in calls]:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
    finally:
        if ours:
            ray.shutdown()


def _call(call: Callable[[], T]) -> T:
    """On one thread, as far as libraries are loaded: sums must not depend on how many cores a machine has."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return call()
