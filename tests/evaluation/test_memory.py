"""A request that does not fit in memory is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.errors import SuiteError
from moeload_bench.evaluation import workers
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.parquet import decoded_bytes
from moeload_bench.traces.store import columns_of, data_sha256, write_trace
from moeload_bench.traces.trace import Trace


def test_the_footer_tells_what_a_trace_takes(trace: Trace, tmp_path: Path) -> None:
    """Every column, in bytes of its array, without decoding any."""
    path = write_trace(trace, tmp_path / "t.parquet")
    assert decoded_bytes(path) == sum(array.nbytes for array in columns_of(trace).values())


@pytest.mark.parametrize(("share", "advice"), [(1.5, "lower --jobs"), (0.5, "machine with more memory")])
def test_what_does_not_fit_is_refused_before_anything_runs(
    share: float, advice: str, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the trace, the need, what there is, and what helps; two processes need twice as much."""
    path = write_trace(trace, tmp_path / "t.parquet")
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=(10,), stable=(20,))
    suite = Suite(name="small", horizons=(1,), traces=(entry,))
    monkeypatch.setattr(workers, "available_bytes", lambda: int(share * decoded_bytes(path)))
    started: list[int] = []
    with pytest.raises(SuiteError, match=rf"{trace.id} takes .* GB .* in each of 2 .* GB are available: .*{advice}"):
        evaluate(
            ["uniform", "last_value"], suite, paths={trace.id: path}, jobs=2, progress=lambda *_: started.append(1)
        )
    assert not started
    if share > 1:
        assert not evaluate("uniform", suite, paths={trace.id: path}, level="none")[0].failures


def test_no_more_processes_are_started_than_there_is_work_for(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair and room for one process: `jobs` is cut to the work, so a thousand of them are not refused."""
    path = write_trace(trace, tmp_path / "t.parquet")
    suite = Suite(
        name="small",
        horizons=(1,),
        traces=(SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=(10,)),),
    )
    monkeypatch.setattr(workers, "available_bytes", lambda: decoded_bytes(path))
    assert not evaluate("uniform", suite, paths={trace.id: path}, level="none", jobs=1000)[0].failures


def test_the_smaller_of_system_and_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without a limit says `max`; a system that says nothing refuses nothing."""
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(workers, "MEMINFO", meminfo)
    monkeypatch.setattr(workers, "LIMITS", (limit, tmp_path / "missing"))
    assert workers.available_bytes() is None
    meminfo.write_text("MemTotal:       24684092 kB\nMemAvailable:   2 kB\n")
    limit.write_text("max\n")
    assert workers.available_bytes() == 2048
    limit.write_text("1000\n")
    assert workers.available_bytes() == 1000
