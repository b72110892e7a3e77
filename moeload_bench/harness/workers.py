"""Spreading independent calls over processes by joblib: its own, or those of a backend that the caller activated.

What is called is a module-level function with plain arguments, so that any process that has this package installed can
make the call; files named in it must be reachable from there. Results come back in order, whatever finished first.

`check_memory` says before any work starts whether the traces of a request fit in the memory of this machine.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from moeload_bench.errors import SuiteError
from moeload_bench.traces.parquet import held_bytes
from moeload_bench.traces.store import Source

GB = 1e9
MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the control group of a container, versions 2 and 1."""

T = TypeVar("T")
Spread = Callable[[Sequence[Callable[[], Any]]], Iterator[Any]]

PARENT_EVERY_S = 1.0


def run_spread(calls: Sequence[Callable[[], T]], *, jobs: int | None = 1) -> Iterator[T]:
    """Make all calls and yield what they return, in order, as soon as it is there; as `workers` does."""
    with workers(jobs=jobs) as spread:
        yield from spread(calls)


@contextmanager
def workers(*, jobs: int | None = 1) -> Iterator[Spread]:
    """Yield ``spread(calls)``: it begins the calls at once, after those of earlier ones, and yields their results, in
    order, as soon as they are there.

    ``jobs`` is the number of processes on this machine; with one, a call is made when its result is asked for. None
    makes the calls by the joblib backend that the caller activated (`joblib.parallel_config`), and waits for all of
    them. An exception of a call is raised where its result is taken; calls that have not begun when the block is left
    are dropped.
    """
    if jobs is None:
        yield _in_backend
    else:
        with nullcontext(_in_process) if jobs == 1 else _loky(jobs) as spread:
            yield spread


def _in_process(calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    return (_call(call) for call in calls)


def _in_backend(calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    import joblib

    # a list, for Ray's backend gives no generator
    return iter(joblib.Parallel(batch_size=1, pre_dispatch="all")(joblib.delayed(_call)(call) for call in calls))


@contextmanager
def _loky(jobs: int) -> Iterator[Spread]:
    import joblib

    # of the process that tidies up after the workers, which says what it found when they are ended
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    with ExitStack() as begun:

        def spread(calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
            # One thread each: the processes are the parallelism, and sums do not depend on the number of cores.
            with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
                parallel = joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch="all")
                results = parallel(joblib.delayed(_call_below)(os.getpid(), call) for call in calls)
            begun.callback(_drop, results)
            return results  # type: ignore[no-any-return]

        yield spread


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


def _call(call: Callable[[], T]) -> T:
    """Make a call on one thread, as far as libraries are loaded: sums must not depend on the number of cores."""
    with threadpool_limits(1):
        return call()


def check_memory(sources: Mapping[str, Source], jobs: int) -> None:
    """Raise `SuiteError` when what is held of the largest trace does not fit in memory once for each of ``jobs``.

    The processes need more than that; where the system does not say what it has, nothing is refused.
    """
    available = available_bytes()
    sizes = [(held_bytes(path), name) for name, path in sources.items() if isinstance(path, Path)]
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
    limits = [_meminfo(), *map(_limit, LIMITS)]
    return min((value for value in limits if value is not None), default=None)


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
