"""Spreading independent calls: over processes of this machine (joblib), or over an existing Dask or Ray cluster.

What is called is a module-level function with plain arguments, so that any process that has this package installed can
make the call; files named in it must be reachable from there. Results come back in order, whatever finished first.

`check_memory` says before any work starts whether the traces of a request fit in the memory of this machine.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from threadpoolctl import threadpool_limits

from moeload_bench.errors import MissingExtraError, MoeloadError, SuiteError
from moeload_bench.traces.parquet import held_bytes
from moeload_bench.traces.store import Source
from moeload_bench.words import page

GB = 1e9
MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the control group of a container, versions 2 and 1."""

T = TypeVar("T")
Run = Callable[[Sequence[Callable[[], Any]]], Iterator[Any]]

BACKENDS = ("loky", "dask", "ray")
CONNECT_S = 8
PARENT_EVERY_S = 1.0
RETRIES = 3
"""How often a call begins again whose worker was killed, on a cluster: what Dask does by default."""


def run_spread(
    calls: Sequence[Callable[[], T]], *, jobs: int = 1, backend: str = "loky", address: str | None = None
) -> Iterator[T]:
    """Make all calls and yield what they return, in order, as soon as it is there; as `workers` does."""
    with workers(jobs=jobs, backend=backend, address=address) as run:
        yield from run(calls)


@contextmanager
def workers(*, jobs: int = 1, backend: str = "loky", address: str | None = None) -> Iterator[Run]:
    """Yield ``run(calls)``: it begins the calls at once, after those of earlier ``run``s, and yields their results, in
    order, as soon as they are there.

    ``jobs`` is the number of processes on this machine (`loky`); with one, a call is made when its result is asked for.
    A cluster at ``address`` uses all its workers. An exception of a call is raised where its result is taken; calls
    that have not begun when the block is left are dropped. A call whose worker of a cluster is killed is made again by
    another one. Raises `MoeloadError` for an unknown backend, a cluster without an address, an address without a
    cluster and one where nothing listens, `MissingExtraError` when its client is not installed.
    """
    check_backend(backend, address)
    if backend == "loky":
        with nullcontext(_in_process) if jobs == 1 else _loky(jobs) as run:
            yield run
        return
    with _dask(str(address)) if backend == "dask" else _ray(str(address)) as run:
        yield run


def check_backend(backend: str, address: str | None) -> None:
    """Raise `MoeloadError` for an unknown backend, a cluster without an address and an address without a cluster."""
    if backend not in BACKENDS:
        raise MoeloadError(f"unknown backend {backend!r}; there is: {', '.join(BACKENDS)}")
    if backend == "loky" and address is not None:
        raise MoeloadError(f"got the address {address!r} (--address) with the backend 'loky', expected 'dask' or 'ray'")
    if backend != "loky" and address is None:
        raise MoeloadError(f"the backend {backend!r} needs the address of a running cluster (--address)")


def _in_process(calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    return (_call(call) for call in calls)


@contextmanager
def _loky(jobs: int) -> Iterator[Run]:
    import joblib

    # of the process that tidies up after the workers, which says what it found when they are ended
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    with ExitStack() as begun:

        def run(calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
            # One thread each: the processes are the parallelism, and sums do not depend on the number of cores.
            with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
                parallel = joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch="all")
                results = parallel(joblib.delayed(_call_below)(os.getpid(), call) for call in calls)
            begun.callback(_drop, results)
            return results  # type: ignore[no-any-return]

        yield run


def _drop(results: Any) -> None:
    """Cancel calls that have not ended; joblib would warn that they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* tasks? which", module="joblib")
        results.close()


def _call_below(parent: int, call: Callable[[], T]) -> T:
    """Make a call in a process that ends when its parent is killed."""
    _end_with(parent)
    return _call(call)


@functools.cache
def _end_with(parent: int) -> None:
    """Watch the parent from now on: a worker that outlived it would go on with work that nobody waits for.

    The forecasters' processes end with this one, as the kernel sees to it (`isolation.worker`, bubblewrap).
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _dask(address: str) -> Iterator[Run]:
    try:
        from distributed import CancelledError, Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError:
        raise MissingExtraError("distributed", "dist", "the backend 'dask'") from None
    _check_listening("dask", address)
    try:
        connected = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # as it raises them for what is no address, or no scheduler
        raise _no_cluster("dask", address, error) from None

    def result(future: Any) -> Any:
        try:
            return future.result()
        except (KilledWorker, CancelledError, CommClosedError) as error:
            raise _lost("dask", error) from None

    # pure=False: two calls with equal arguments are two calls, so that a repetition is one.
    with (
        connected as client,
        _begun(lambda call: client.submit(_call, call, pure=False), result, client.cancel) as run,
    ):
        yield run


@contextmanager
def _ray(address: str) -> Iterator[Run]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "dist", "the backend 'ray'") from None
    ours = not ray.is_initialized()
    if ours:
        _check_listening("ray", address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster("ray", address, error) from None

    def result(reference: Any) -> Any:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise _lost("ray", error) from None

    def cancel(references: Sequence[Any]) -> None:
        for reference in references:
            ray.cancel(reference)

    try:
        with _begun(ray.remote(num_cpus=1, max_retries=RETRIES)(_call).remote, result, cancel) as run:
            yield run
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _begun(
    submit: Callable[[Callable[[], Any]], Any], result: Callable[[Any], Any], cancel: Callable[[list[Any]], object]
) -> Iterator[Run]:
    """Spread calls by a cluster's client: at the end, calls that have not begun are cancelled."""
    futures: list[Any] = []

    def run(calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
        submitted = [submit(call) for call in calls]
        futures.extend(submitted)
        return map(result, submitted)

    try:
        yield run
    finally:
        cancel(futures)


def _check_listening(backend: str, address: str) -> None:
    """Raise `MoeloadError` where nothing listens: the cluster's own client would try for a minute."""
    try:
        found = urlsplit(address if "://" in address else f"//{address}")
        if found.hostname and found.port:  # else a word that the client knows, such as Ray's "auto"
            socket.create_connection((found.hostname, found.port), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(backend, address, error) from None


def _no_cluster(backend: str, address: str, error: Exception) -> MoeloadError:
    why = str(error).partition("\n")[0]
    return MoeloadError(
        f"--address {address}: no {backend} cluster answers there ({why}); see {page('docs/guide/cluster.md')}"
    )


def _lost(backend: str, error: Exception) -> MoeloadError:
    why = str(error).partition("\n")[0]
    return MoeloadError(
        f"the {backend} cluster gave a pair up ({type(error).__name__}: {why}); finished pairs are kept, and the same "
        "command goes on with the others"
    )


def _call(call: Callable[[], T]) -> T:
    """Make a call on one thread, as far as libraries are loaded: sums must not depend on the number of cores."""
    with threadpool_limits(1):
        return call()


def check_memory(sources: Mapping[str, Source], jobs: int) -> None:
    """Raise `SuiteError` when what is held of the largest trace does not fit in memory once for each of ``jobs``.

    The processes need more than that; where the system does not say what it has, nothing is refused.
    """
    available = available_bytes()
    sizes = [(held_bytes(one), name) for name, one in sources.items() if isinstance(one, Path)]
    if available is None or not sizes:
        return
    size, name = max(sizes)
    if size * jobs > available:
        raise SuiteError(
            f"trace {name} takes {size / GB:.2f} GB of memory in each of {jobs} processes, "
            f"{size * jobs / GB:.2f} GB in all, and {available / GB:.2f} GB are available: "
            + ("lower --jobs" if size <= available else "it needs a machine with more memory")
        )


def available_bytes() -> int | None:
    """Return the less of what the system has free and what this process's container may use; None if unknown."""
    found = [_meminfo(), *map(_limit, LIMITS)]
    return min((value for value in found if value is not None), default=None)


def _meminfo() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())  # "max" where there is none
    except (OSError, ValueError):
        return None
