"""Forecasters in other processes: the same forecasts, measured costs, failures by name, nothing left behind."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from moeload_bench.errors import ForecastError, IsolationError, TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, step_block, trace_info
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.replay import follow
from moeload_bench.harness.workers import run_spread
from moeload_bench.isolation.hosts import (
    MIB,
    Level,
    Limits,
    fit_target,
    open_host,
)
from moeload_bench.isolation.process import _cache_setting
from moeload_bench.isolation.system import TICK_S
from moeload_bench.isolation.targets import baseline_names, class_target, parse_target
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_trace
from tests.isolation.attacks.arena import HERE as ATTACKS
from tests.isolation.attacks.arena import assert_nothing_left
from tests.support import forecasters
from tests.support.isolated import COSTLY_CPU_S

TRACE = synthetic_trace(120)
INFO = trace_info(TRACE)
REQUEST = ForecastRequest(
    120, 50, (1, 10, 50), (0.1, 0.9), lr_H=np.full(50, 1e-3), stage_H=np.zeros(50, dtype=np.int64)
)
SANDBOX = pytest.param("sandbox", marks=pytest.mark.sandbox)
CHILD_LEVELS = ["process", SANDBOX]
ALL_LEVELS = ["none", *CHILD_LEVELS]
HELPERS = Path(__file__).parents[1] / "support" / "isolated.py"


def ask(target: str, level: Level, limits: Limits | None = None) -> Forecast:
    """Show the whole run in three blocks and ask once."""
    with open_host(parse_target(target), INFO, seed=0, level=level, limits=limits) as host:
        for start in range(0, 120, 40):
            host.observe(step_block(TRACE, start, start + 40))
        return host.forecast(REQUEST)


@pytest.mark.parametrize("level", CHILD_LEVELS)
@pytest.mark.parametrize("target", ["sw_avg@window=30", f"{HELPERS}:Everything"])
def test_every_level_gives_the_same_forecast_bit_for_bit(target: str, level: Level) -> None:
    """Shares, edges, quantiles; `Everything` forecasts from all that a block and a request hold."""
    direct, in_level = ask(target, "none"), ask(target, level)
    np.testing.assert_array_equal(direct.share_BLE, in_level.share_BLE)
    np.testing.assert_array_equal(direct.edges_B, in_level.edges_B)
    if direct.quantile_QKLE is not None:
        np.testing.assert_array_equal(direct.quantile_QKLE, in_level.quantile_QKLE)


@pytest.mark.sandbox
def test_the_sandbox_gets_the_settings_of_numerical_kernels_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another kernel sums end in other bits; values of another form stay outside too."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "AVX512F, AVX2")
    monkeypatch.setenv("MKL_CBWR", "/home/me/../secret")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default" * 20)
    monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
    for name in ("LD_PRELOAD", "PYTHONPATH", "HF_TOKEN"):
        monkeypatch.setenv(name, "")
    with (
        open_host(parse_target(f"{HELPERS}:SaysItsEnvironment"), INFO, seed=0, level="sandbox") as host,
        pytest.raises(ForecastError, match=r"RuntimeError: NPY_DISABLE_CPU_FEATURES OPENBLAS_CORETYPE$"),
    ):
        host.forecast(REQUEST)


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_a_forecaster_cannot_reach_the_future_or_spoil_the_past_through_its_arrays(level: Level) -> None:
    """It owns what it gets: no base array behind a view, and writing into it changes no trace."""
    before = TRACE.load_SLE.copy()
    assert ask(f"{HELPERS}:Spoiler", level).share_BLE.shape[0] == 1
    np.testing.assert_array_equal(TRACE.load_SLE, before)


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_costs_are_measured_from_outside(level: Level) -> None:
    """Rows and calls are counted; sleeping is wall time only, computing at least the CPU time of its own clock."""
    with open_host(parse_target(f"{HELPERS}:Costly"), INFO, seed=0, level=level) as host:
        host.observe(step_block(TRACE, 0, 7))
        host.observe(step_block(TRACE, 7, 10))
        host.forecast(REQUEST)
        cost = host.cost()
    assert (cost.observed_rows, cost.forecasts) == (10, 1)
    assert cost.observe_wall_s > 0.3
    assert cost.observe_cpu_s is not None
    assert cost.observe_cpu_s < cost.observe_wall_s
    assert cost.forecast_cpu_s is not None
    assert cost.forecast_cpu_s > COSTLY_CPU_S - TICK_S
    assert cost.startup_wall_s > 0
    if level == "none":
        assert cost.peak_memory_bytes is None
    else:
        assert cost.peak_memory_bytes is not None
        assert 64 * MIB < cost.peak_memory_bytes < 600 * MIB


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_counts_are_the_forecaster_s_own(level: Level) -> None:
    """Whole numbers under names; what is not a count is left out."""
    with open_host(parse_target(f"{HELPERS}:Counting"), INFO, seed=0, level=level) as host:
        host.forecast(REQUEST)
        host.forecast(REQUEST)
        assert host.counts() == {"forecasts": 2, "numpy": 3}


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_what_a_forecaster_raises_is_a_forecast_error_and_it_lives_on(level: Level) -> None:
    """Type, text and, but for the sandbox, the forecaster's line on one line; the next call is answered."""
    where = "" if level == "sandbox" else r" \(at isolated\.py:\d+ in forecast\)"
    with open_host(parse_target(f"{HELPERS}:RaisesOnce"), INFO, seed=0, level=level) as host:
        with pytest.raises(ForecastError, match=rf"^forecast raised KeyError: 'first'{where}$") as caught:
            host.forecast(REQUEST)
        assert not isinstance(caught.value, IsolationError)
        host.forecast(REQUEST)


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_fit_runs_at_the_same_level_and_its_bytes_reach_the_constructor(level: Level) -> None:
    """None for a class that does not fit; arguments that `fit` takes by name reach it."""
    runs = [(INFO, step_block(TRACE, 0, 60)), (INFO, step_block(TRACE, 60, 120))]
    assert fit_target(parse_target("sw_avg"), runs, seed=0, level=level) is None
    target = parse_target(f"{HELPERS}:Fitting@power=2")
    out = fit_target(target, runs, seed=3, level=level)
    assert out is not None
    assert out[0] == b"2 runs, 120 rows, seed 3, power 2"
    assert out[1].observed_rows == 120
    with open_host(target, INFO, seed=0, fitted=out[0], level=level) as host:
        assert host.forecast(REQUEST).share_BLE.shape == (1, 2, 4)
    with pytest.raises(ForecastError, match="fit returned str, expected bytes"):
        fit_target(parse_target(f"{HELPERS}:FitsText"), runs, seed=0, level=level)


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_a_target_that_cannot_be_used_is_the_request_s_fault(level: Level) -> None:
    """TargetError for an unknown argument and for a value that a baseline refuses."""
    for text, reason in (("sw_avg@windows=3", "unknown parameter 'windows'"), ("sw_avg@window=0", "window is 0")):
        with pytest.raises(TargetError, match=reason), open_host(parse_target(text), INFO, seed=0, level=level):
            pass


@pytest.mark.sandbox
def test_in_the_sandbox_a_stranger_cannot_blame_the_request() -> None:
    """What would end a run of many forecasters is a failure of its own there."""
    target = parse_target(f"{HELPERS}:Blames")
    with pytest.raises(TargetError, match="nobody"), open_host(target, INFO, seed=0, level="process"):
        pass
    with pytest.raises(ForecastError, match="nobody"), open_host(target, INFO, seed=0, level="sandbox"):
        pass


def test_a_class_of_this_process_runs_at_level_none_only() -> None:
    """It cannot be imported anywhere else."""
    target = class_target(forecasters.LastSeen)
    with open_host(target, INFO, seed=0, level="none") as host:
        host.forecast(REQUEST)
    with pytest.raises(TargetError, match="level 'none' only"), open_host(target, INFO, seed=0, level="process"):
        pass


@pytest.mark.parametrize("level", CHILD_LEVELS)
def test_a_dead_process_answers_every_later_call_with_the_same_error(level: Level) -> None:
    """And never comes back to life."""
    with open_host(parse_target(f"{ATTACKS / 'attackers.py'}:Exits"), INFO, seed=0, level=level) as host:
        with pytest.raises(IsolationError, match="ended with status 0"):
            host.forecast(REQUEST)
        with pytest.raises(IsolationError, match="ended with status 0"):
            host.observe(step_block(TRACE, 0, 1))
        host.cost()
    with pytest.raises(IsolationError):
        host.forecast(REQUEST)


def descriptors() -> set[tuple[str, str]]:
    """Open descriptors of this process and what they stand for; without the one that lists them."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


@pytest.mark.parametrize("level", CHILD_LEVELS)
def test_nothing_is_left_when_the_context_ends(level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process, no thread, no descriptor, no folder; also when the body raises while the forecaster is busy."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ask("sw_avg", level)  # imports, and the one-time look for bubblewrap
    threads, files = set(threading.enumerate()), descriptors()
    for _ in range(2):
        with pytest.raises(AttributeError), open_host(parse_target("sw_avg"), INFO, seed=0, level=level) as host:
            host.observe(None)
    gc.collect()
    # nothing new: what earlier tests left may go in between
    assert set(threading.enumerate()) <= threads
    assert descriptors() <= files
    assert list(tmp_path.iterdir()) == []
    assert_nothing_left()


FAILING = """
from moeload_bench import Forecast
class Mine:
    def __init__(self, info, seed): pass
    def observe(self, block): pass
    def forecast(self, request): return helper()
def helper(): raise ValueError("not yet")
"""


@pytest.mark.parametrize(
    ("level", "traceback"),
    [
        ("none", False),
        ("process", False),
        pytest.param("sandbox", True, marks=pytest.mark.sandbox),
        pytest.param("sandbox", False, marks=pytest.mark.sandbox),
    ],
)
def test_a_forecasters_error_names_the_lines_of_its_file(level: Level, traceback: bool, tmp_path: Path) -> None:
    """File, line and message, from the forecaster's file on; in the sandbox when `--traceback` asks for it."""
    (tmp_path / "my.py").write_text(FAILING)
    target = parse_target(f"{tmp_path / 'my.py'}:Mine")
    with (
        open_host(target, INFO, seed=0, level=level, limits=Limits(traceback=traceback)) as host,
        pytest.raises(ForecastError, match="forecast raised ValueError: not yet") as raised,
    ):
        host.forecast(REQUEST)
    expected = [] if (level, traceback) == ("sandbox", False) else [("my.py", "6"), ("my.py", "7")]
    assert re.findall(r"(\w+\.py):(\d+)", str(raised.value)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("level", CHILD_LEVELS)
def test_a_killed_harness_takes_its_forecaster_along(level: Level) -> None:
    """Even by SIGKILL, when nothing can be cleaned up."""
    script = (
        "import sys, time\n"
        "from moeload_bench.isolation.hosts import open_host\n"
        "from moeload_bench.isolation.targets import parse_target\n"
        "from tests.isolation.test_isolate import INFO\n"
        f"with open_host(parse_target('sw_avg'), INFO, seed=0, level={level!r}) as host:\n"
        "    print(host._process.watch.worker, flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root) as harness:
        assert harness.stdout is not None
        worker = int(harness.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        harness.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.slow
def test_baselines_of_one_request_share_what_numba_compiled(tmp_path: Path) -> None:
    """The first child fills the folder, the second adds nothing, and both forecast what level `none` does."""
    need("numba", "pip install -e '.[fast]'")
    tmp_path.chmod(0o700)
    target = parse_target("arima@order=[0,1,1]")
    answers, files = [], []
    for level in ("none", "process", "process"):
        with open_host(target, INFO, seed=0, level=level, numba_cache=tmp_path) as host:
            host.observe(step_block(TRACE, 0, 120))
            answers.append(host.forecast(REQUEST).share_BLE)
        files.append(sorted(tmp_path.rglob("*.nb*")))
    assert not files[0]
    assert files[1]
    assert files[1] == files[2]
    for other in answers[1:]:
        np.testing.assert_array_equal(answers[0], other)


def test_compiled_code_is_shared_by_baselines_in_a_private_folder_only(tmp_path: Path) -> None:
    """numba unpickles what lies there: no stranger's forecaster gets the folder, and no folder of others is used."""
    baseline, stranger = parse_target("sw_avg"), parse_target(f"{HELPERS}:Uniform")
    tmp_path.chmod(0o700)
    assert _cache_setting(baseline, tmp_path) == {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert _cache_setting(stranger, tmp_path) == {}
    assert _cache_setting(baseline, None) == {}
    assert _cache_setting(baseline, tmp_path / "on another machine") == {}
    (tmp_path / "link").symlink_to(tmp_path)
    assert _cache_setting(baseline, tmp_path / "link") == {}
    tmp_path.chmod(0o750)
    assert _cache_setting(baseline, tmp_path) == {}


def test_an_evaluation_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the forecasters' own nor the one in which they share compiled code."""
    path = write_trace(TRACE, tmp_path / "run.parquet")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    entry = SuiteTrace(id=TRACE.id, data_sha256=data_sha256(TRACE), transient=(20,), stable=(60,))
    suite = Suite(name="arena", horizons=(1, 10), traces=(entry,))
    results = evaluate("last_value", suite, paths={TRACE.id: path}, level="process", fresh=True)
    assert results.failures.empty
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_missing_numba_is_said_once_by_run_at_level_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child's own warning goes nowhere: the harness says it from the counts."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['numba'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = write_trace(synthetic_trace(1200, recipe="own"), tmp_path / "own.parquet")
    argv = [sys.executable, "-m", "moeload_bench", "run", "--trace", str(path), "--json"]
    argv += ["arima@order=[0,1,1],history=60,maxiter=1"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert said.stderr.count("numba") == 1
    assert "without numba its slower reference engine was used: pip install 'moeload-bench[fast]'" in said.stderr
    assert json.loads(said.stdout)


@pytest.mark.slow
def test_a_large_block_passes_whole() -> None:
    """128 x 128 experts and 300 steps are 40 MB: many times what a pipe holds."""
    rng = np.random.default_rng(0)
    load = rng.integers(0, 1000, size=(300, 128, 128))
    block = StepBlock(np.arange(300), load, load.sum(axis=2))
    info = type(INFO)(128, 128, 1, tuple(range(128)), None, 1, "none", 0.0, 0)
    request = ForecastRequest(300, 10, (1, 10))
    answers = []
    for level in ("none", "process"):
        with open_host(parse_target("sw_avg@window=50"), info, seed=0, level=level) as host:
            host.observe(block)
            answers.append(host.forecast(request))
    np.testing.assert_array_equal(answers[0].share_BLE, answers[1].share_BLE)


def test_an_argument_that_is_no_json_is_refused_by_name() -> None:
    """TOML and Python have dates, the pipe has not."""
    target = replace(parse_target(f"{HELPERS}:Everything"), kwargs={"since": datetime.date(2024, 1, 1)})
    with pytest.raises(TargetError, match="cannot be handed"), open_host(target, INFO, seed=0, level="process"):
        pass


def test_without_bubblewrap_the_sandbox_says_how_to_install_it() -> None:
    """And `process` is there all the same."""
    script = (
        "from moeload_bench.isolation.hosts import level_available\n"
        "print(level_available('process'), level_available('sandbox'))"
    )
    environment = {**os.environ, "PATH": "/nowhere"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("None the program bwrap is not installed; install bubblewrap (Debian")


# ---------------------------------------------------------------- threads


def threads() -> set[int]:
    """Over all numerical libraries that are loaded."""
    np.ones((2, 2)) @ np.ones((2, 2))
    return {int(pool["num_threads"]) for pool in threadpool_info()}


class Counts:
    """Keeps how many threads it had in each of its calls."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.counts = {"constructor": max(threads())}

    def observe(self, block: StepBlock) -> None:
        self.counts["observe"] = max(threads())

    def forecast(self, request: ForecastRequest) -> Forecast:
        self.counts["forecast"] = max(threads())
        return Forecast.constant([[1.0]], request.horizon)


def test_a_forecaster_at_level_none_has_one_thread_as_in_a_child() -> None:
    """In each of its calls; between them, and afterwards, libraries are as they were."""
    trace = Trace.from_arrays([[[4]]] * 3, 4, 1)
    with threadpool_limits(2):
        before = threads()
        with follow(class_target(Counts), trace, seed=0, level="none") as feed:
            feed.at(2, (1,))
            assert threads() == before
            assert feed.host.counts() == {"constructor": 1, "observe": 1, "forecast": 1}
        assert threads() == before


TINY = """
import numpy as np
import torch


class Tiny:
    def __init__(self, info, seed):
        pass

    def observe(self, block):
        pass

    def forecast(self, request):
        tiny = bool(torch.tensor([torch.finfo(torch.float32).tiny]) * 0.5 > 0)
        return np.array([[float(tiny), float(not tiny)]])
"""
"""Forecasts all load on expert 0 where half of the smallest normal number is a number, else on expert 1."""


@pytest.mark.parametrize(("level", "expert"), [("none", 0), ("process", 1)])
def test_torch_flushes_denormals_in_a_process_of_its_own_only(level: Level, expert: int, tmp_path: Path) -> None:
    """From the call after the one that loaded it; this process, which others use too, stays as it was."""
    file = tmp_path / "tiny.py"
    file.write_text(TINY)
    trace = Trace.from_arrays([[[4, 4]]] * 4, 8, 1)
    with follow(parse_target(f"{file}:Tiny"), trace, seed=0, level=level) as feed:
        assert feed.at(2, (1,)).window_means((1,))[0, 0].argmax() == expert


def test_work_in_this_process_has_one_thread_and_the_caller_keeps_his() -> None:
    """`evaluate` in a notebook is pinned as the command line is; afterwards libraries are as they were."""
    with threadpool_limits(2):
        before = threads()
        assert max(before) == 2
        assert list(run_spread([threads, threads])) == [{1}, {1}]
        assert threads() == before


# ---------------------------------------------------------------- the future


ORIGIN, STEPS = 130, 200
SLOW = ("arima", "lstm", "arima@order=[1,1,1]", "lstm@mode=online")


def altered(trace: Trace) -> Trace:
    """The same run up to the origin; after it other loads, tokens, losses: everything that is measured."""
    other = synthetic_trace(STEPS, seed=77)

    def joined(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.concatenate([before[:ORIGIN], after[ORIGIN:][::-1]])

    planned = {"lr": trace.columns["lr"]}
    columns = {name: joined(column, other.columns[name]) for name, column in trace.columns.items()} | planned
    return replace(
        trace,
        load_SLE=joined(trace.load_SLE, other.load_SLE),
        tokens_SL=joined(trace.tokens_SL, other.tokens_SL),
        columns=columns,
    )


def forecasts(name: str, trace: Trace, fitted: bytes | None = None) -> list[Forecast]:
    """What it says before and at the origin, in a process of its own."""
    with follow(parse_target(name), trace, seed=0, fitted=fitted, level="process") as feed:
        found = [answer.forecast for answer in feed.answers([60, ORIGIN], (1, 10, 60))]
        fallbacks = feed.host.counts().get("fallback", 0)
    assert all(one is not None for one in found)
    assert fitted is None or fallbacks < 2, "the fitted network was asked"
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in dict.fromkeys([*baseline_names(), *SLOW])
    ],
)
def test_an_altered_future_changes_no_forecast(name: str) -> None:
    """At the origin and before it, to the last bit; the two traces do differ after it."""
    assert_same_forecasts(name, None)


@pytest.mark.slow
def test_an_altered_future_changes_no_forecast_of_a_fitted_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lstm` as suites run it: with the bytes of a fit on other runs (a short one: its quality does not matter)."""
    need("torch", "pip install -e '.[torch]'")
    monkeypatch.setattr("moeload_bench.baselines.lstm.OFFLINE_UPDATES", 20)
    run = synthetic_trace(3000, seed=5)
    fit = fit_target(parse_target("lstm"), [(trace_info(run), step_block(run, 0, 3000))], seed=0, level="none")
    assert fit is not None
    assert_same_forecasts("lstm", fit[0])


def assert_same_forecasts(name: str, fitted: bytes | None) -> None:
    """On a trace and on the one that differs from it after the origin."""
    trace = synthetic_trace(STEPS)
    other = altered(trace)
    assert not np.array_equal(trace.load_SLE[ORIGIN:], other.load_SLE[ORIGIN:])
    for one, two in zip(forecasts(name, trace, fitted), forecasts(name, other, fitted), strict=True):
        np.testing.assert_array_equal(one.share_BLE, two.share_BLE)
        np.testing.assert_array_equal(one.edges_B, two.edges_B)
