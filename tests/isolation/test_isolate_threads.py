"""The number of a machine's cores changes no forecast."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from moeload_bench.evaluation.harness import trace_info
from moeload_bench.evaluation.workers import run_spread
from moeload_bench.isolation.hosts import open_host
from moeload_bench.isolation.targets import parse_target
from tests.conftest import synthetic_trace


def threads() -> set[int]:
    """Over all numerical libraries that are loaded."""
    np.ones((2, 2)) @ np.ones((2, 2))
    return {int(pool["num_threads"]) for pool in threadpool_info()}


def test_a_forecaster_at_level_none_has_one_thread_as_in_a_child() -> None:
    """While it is open; afterwards libraries are as they were."""
    with threadpool_limits(2):
        before = threads()
        with open_host(parse_target("uniform"), trace_info(synthetic_trace(20)), seed=0, level="none"):
            assert threads() == {1}
        assert threads() == before


def test_work_in_this_process_has_one_thread_and_the_caller_keeps_his() -> None:
    """`evaluate` in a notebook is pinned as the command line is; afterwards libraries are as they were."""
    with threadpool_limits(2):
        before = threads()
        assert max(before) == 2
        assert list(run_spread([threads, threads])) == [{1}, {1}]
        assert threads() == before
