"""Work that is done is not done again; where and in what order it is done changes no result."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from moeload_bench import cache
from moeload_bench.errors import MoeloadError, SuiteError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.harness import workers as parallel
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.rescore import rescore
from moeload_bench.isolation.sources import imports_sha256
from moeload_bench.results.columns import run_costs
from moeload_bench.results.results import Results
from moeload_bench.scoring import scores
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import synthetic_trace
from tests.support.scores import metric_OK, same_scores

ROOT = Path(__file__).parents[2]
COUNTED = Path(__file__).parents[1] / "support" / "counted.py"
TRACES = 3


def suite_of(folder: Path) -> tuple[Suite, dict[str, Path]]:
    """Three short runs, two origins each, as files in a folder."""
    entries, paths = [], {}
    for seed in range(TRACES):
        trace = synthetic_trace(60, seed=seed, run=seed, recipe="resume")
        paths[trace.id] = write_trace(trace, folder / f"{seed}.parquet", overwrite=True)
        entries.append(SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=(20,), stable=(40,)))
    return Suite(name="resume", horizons=(1, 10), traces=tuple(entries)), paths


def counted(log: Path, **arguments: object) -> str:
    """A target that writes to the log."""
    extra = "".join(f",{name}={value}" for name, value in arguments.items())
    return f'{COUNTED}:Counted@log="{log}"{extra}'


def made(log: Path) -> int:
    """How many forecasters were made so far."""
    return len(log.read_text().splitlines()) if log.exists() else 0


def run(tmp_path: Path, *targets: str, **options: Any) -> Results:
    suite, paths = suite_of(tmp_path)
    return evaluate(list(targets), suite, paths=paths, **{"level": "none", **options})


def test_finished_work_is_not_done_again(tmp_path: Path) -> None:
    """The same request makes no forecaster; `fresh` makes them all; the results are equal."""
    log = tmp_path / "log"
    first = run(tmp_path, counted(log))
    assert made(log) == TRACES
    again = run(tmp_path, counted(log))
    assert made(log) == TRACES
    fresh = run(tmp_path, counted(log), fresh=True)
    assert made(log) == 2 * TRACES
    assert same_scores(first, again)
    assert same_scores(first, fresh)


def test_a_change_runs_again_what_it_touches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another argument: that forecaster. Another seed, level, scoring version or library: all of them."""
    log, other = tmp_path / "log", tmp_path / "other"

    def ran(weight: float = 0.0, **options: Any) -> tuple[int, int]:
        before = made(log), made(other)
        run(tmp_path, counted(log, weight=weight), counted(other), **options)
        return made(log) - before[0], made(other) - before[1]

    everything = (TRACES, TRACES)
    assert ran() == everything
    assert ran(weight=0.25) == (TRACES, 0)
    assert ran(seed=7) == everything
    assert ran(level="process") == everything
    with monkeypatch.context() as patched:
        patched.setattr("moeload_bench.harness.pairs.SCORING_VERSION", scores.SCORING_VERSION + 1)
        assert ran() == everything
    with monkeypatch.context() as patched:
        patched.setattr("moeload_bench.harness.pairs.package_versions", lambda: {"numpy": "99"})
        assert ran() == everything
    assert ran() == (0, 0)


def test_a_failed_run_is_tried_again(tmp_path: Path) -> None:
    """What made it fail may be gone the next time."""
    gone = tmp_path / "missing" / "log"
    assert len(run(tmp_path, counted(gone)).failures)
    gone.parent.mkdir()
    assert not len(run(tmp_path, counted(gone)).failures)
    assert made(gone) == TRACES


FAILING = """
from tests.harness.test_cache_resume import Share

class Failing(Share):
    def forecast(self, request):
        if request.origin == 40:
            raise ValueError("not at 40")
        return super().forecast(request)
"""


def test_a_finished_result_is_the_same_out_of_the_cache(tmp_path: Path) -> None:
    """Scores, the hash of forecasts, what was counted and what it cost, byte by byte in a file; a result with failures,
    which runs again, all but its cost.
    """
    (tmp_path / "failing.py").write_text(FAILING)
    targets = ("sw_avg@window=20", f"{tmp_path / 'failing.py'}:Failing")
    first, again = (run(tmp_path, *targets) for _ in range(2))
    assert same_scores(first, again)
    assert set(first.failures["origin"]) == {40}
    (kept, cached), entries = (part.select([targets[0]]) for part in (first, again)), first.select([targets[0]]).entries
    files = [replace(part, entries=entries).save(tmp_path / f"{n}.parquet") for n, part in enumerate((kept, cached))]
    assert files[0].read_bytes() == files[1].read_bytes()


SCRIPT = """
import sys
from pathlib import Path
from moeload_bench.harness.evaluate import evaluate
from tests.harness.test_cache_resume import counted, suite_of

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    suite, paths = suite_of(folder)
    try:
        evaluate([counted(folder / "log", delay=0.2)], suite, paths=paths, level="process", jobs=int(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@contextmanager
def harness(folder: Path, jobs: int) -> Iterator[subprocess.Popen[bytes]]:
    """An evaluation in a process group of its own, as from a shell: in so many processes."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, str(script), str(folder), str(jobs)]
    with subprocess.Popen(argv, env=environment, process_group=0, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def finished() -> int:
    """Runs that are in the cache."""
    return sum("forecasts_sha256" in path.read_text() for path in cache.cache_dir().rglob("*.json"))


def workers(folder: Path) -> list[int]:
    """Processes that were told of the folder or of its cache, and are running."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told:
            found.append(int(entry.name))
    return found


def wait_until(condition: Any, seconds: float = 60) -> None:
    """Wait, without being busy about it."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, how: signal.Signals, jobs: int) -> None:
    """Killed or stopped by Ctrl-C half-way: finished runs are in the cache, no process is left, and only what was not
    finished runs again."""
    with harness(tmp_path, jobs) as process:
        wait_until(lambda: finished() >= 1)
        os.killpg(process.pid, how)
        process.wait(60)
    wait_until(lambda: not workers(tmp_path))
    runs, before = finished(), made(tmp_path / "log")
    assert 1 <= runs < TRACES
    results = run(tmp_path, counted(tmp_path / "log", delay=0.2), level="process")
    assert made(tmp_path / "log") - before == TRACES - runs
    again = run(tmp_path, counted(tmp_path / "log", delay=0.2), level="process", fresh=True)
    assert same_scores(results, again)


@pytest.mark.parametrize("level", ["none", "process"])
@pytest.mark.parametrize("jobs", [pytest.param(2, marks=pytest.mark.slow), None], ids=["loky", "a backend of joblib"])
def test_work_that_is_spread_gives_the_results_of_one_process(jobs: int | None, level: str, tmp_path: Path) -> None:
    """Bit for bit: forecasts, metrics, their order, failures by name; every pair is reported as it finishes, and errors
    of the request come through.
    """
    targets = ("sw_avg@window=20", "ema", str(counted(tmp_path / "missing" / "log")))
    seen: list[tuple[int, int]] = []
    one = run(tmp_path, *targets, level=level, fresh=True)
    options = {"jobs": jobs, "progress": lambda done, total, what: seen.append((done, total))}
    with joblib.parallel_config("threading", n_jobs=2) if jobs is None else nullcontext():
        spread = run(tmp_path, *targets, level=level, fresh=True, **options)
        with pytest.raises(MoeloadError, match="window is 0"):
            run(tmp_path, "sw_avg@window=0", level="process", jobs=jobs)
    assert same_scores(one, spread)
    assert set(one.failures["forecaster"]) == {one.names[2]}
    assert seen == [(n, 9) for n in range(1, 10)]


def wait_for(path: Path) -> bool:
    """Return True once the file is there."""
    wait_until(path.exists)
    return True


@pytest.mark.slow
def test_calls_that_are_added_begin_before_the_earlier_ones_are_done(tmp_path: Path) -> None:
    """Two processes, one of them busy: the other makes the added call, though no result was taken yet."""
    with parallel.workers(jobs=2) as run:
        first = run([partial(wait_for, tmp_path / "made")])
        second = run([(tmp_path / "made").touch])
        assert next(first)
        assert next(second) is None


class Share:
    """The mean of the last rows; how many is known to whoever makes the class."""

    window = 1

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.shares: list[np.ndarray] = []

    def observe(self, block: StepBlock) -> None:
        self.shares += [load_LE / load_LE.sum(axis=1, keepdims=True) for load_LE in block.load_SLE]

    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(np.mean(self.shares[-self.window :], axis=0), request.horizon)


def error_of(results: Results) -> list[list[float]]:
    return metric_OK(results, results.names[0]).tolist()


def test_a_class_of_this_process_is_run_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it inherits and closes over is not in its source, so that no finished work can be known to be its own."""
    suite, paths = suite_of(tmp_path)
    mine = type("Mine", (Share,), {"__module__": __name__})
    monkeypatch.setattr(inspect, "getsource", lambda _: "class Mine(Share): ...")
    before = error_of(evaluate(mine, suite, paths=paths, level="none"))
    monkeypatch.setattr(Share, "window", 20)
    after = error_of(evaluate(mine, suite, paths=paths, level="none"))
    assert after != before


HELPED = """
from helper import WINDOW
from tests.harness.test_cache_resume import Share

class Mine(Share):
    window = WINDOW
"""


def test_a_changed_module_beside_a_forecaster_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that imports a helper of its own is run again when the helper changes, and not when it does not."""
    suite, paths = suite_of(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(HELPED)
    found = []
    for window in (1, 20):
        (tmp_path / "helper.py").write_text(f"WINDOW = {window}\n")
        importlib.invalidate_caches()
        sys.modules.pop("helper", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        found.append(error_of(evaluate(f"{tmp_path / 'mine.py'}:Mine", suite, paths=paths, level="none")))
    assert found[1] != found[0]
    sys.modules.pop("helper", None)


def test_only_what_is_not_installed_is_hashed_beside_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers and what they import in turn, from folders without `__init__.py` too; nothing that is installed."""
    monkeypatch.syspath_prepend(tmp_path)
    plain = tmp_path / "plain.py"
    plain.write_text("import json, numpy, moeload_bench.cache\nfrom moeload_bench import Forecast\n")
    assert imports_sha256(plain) is None
    (tmp_path / "one_helper.py").write_text("import two_helper\nfrom a_package.folder import deep_helper\n")
    deep = tmp_path / "a_package" / "folder" / "deep_helper.py"
    deep.parent.mkdir(parents=True)
    (tmp_path / "a_package" / "__init__.py").touch()
    mine = tmp_path / "mine.py"
    mine.write_text("def late():\n    import one_helper\n")
    for helper in (tmp_path / "two_helper.py", deep):
        helper.write_text("W = 1\n")
        before = imports_sha256(mine)
        helper.write_text("W = 2\n")
        assert before is not None
        assert imports_sha256(mine) != before


def test_requests_without_work_or_with_one_name_twice_are_refused(tmp_path: Path) -> None:
    """Results go by name: of two with one name the tables would show the numbers of one."""
    suite, paths = suite_of(tmp_path)
    with pytest.raises(MoeloadError, match=r"two forecasters are called 'sw_avg'"):
        evaluate(["sw_avg", "last_value", "sw_avg"], suite, paths=paths, level="none")
    with pytest.raises(SuiteError, match="suite resume has no traces to score forecasters on"):
        evaluate("sw_avg", suite.model_copy(update={"traces": ()}), level="none")


def test_the_time_of_training_is_that_of_the_steps_whose_time_is_known(tmp_path: Path) -> None:
    """A row of a thinned trace stands for a stride of steps; missing times are left out; without any there is none."""
    known = np.full(60, 0.5, dtype=np.float32)
    known[::3] = np.nan
    for times, stride, expected in ((known, 1, 0.5), (known, 10, 5.0), (np.full(60, np.nan, np.float32), 1, None)):
        trace = synthetic_trace(60)
        meta = trace.meta.model_copy(update={"stride": stride})
        trace = replace(trace, columns={**trace.columns, "step_time_s": times}, step_S=stride * trace.step_S, meta=meta)
        path = write_trace(trace, tmp_path / "timed.parquet", overwrite=True)
        origins = {"transient": (20 * stride,), "stable": (40 * stride,)}
        entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), **origins)
        suite = Suite(name="timed", horizons=(10 * stride,), traces=(entry,))
        (found,) = evaluate("sw_avg", suite, paths={trace.id: path}, level="none").table["training_step_s"].unique()
        assert found == expected or (np.isnan(found) and expected is None)


def test_a_run_without_origins_keeps_no_forecasts(tmp_path: Path) -> None:
    """It has no archive, and `rescore` looks for none."""
    suite, paths = suite_of(tmp_path)
    first, *others = suite.traces
    empty = first.model_copy(update={"transient": (), "stable": ()})
    suite = suite.model_copy(update={"traces": (empty, *others)})
    results = evaluate("sw_avg", suite, paths=paths, level="none", keep=tmp_path / "kept")
    results.save(tmp_path / "kept")
    again = rescore(tmp_path / "kept", suite, "window_tv", paths=paths)
    np.testing.assert_allclose(metric_OK(again, "sw_avg"), metric_OK(results, "sw_avg"))
    assert len(run_costs(again.table)) == TRACES - 1
