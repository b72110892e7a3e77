"""Where attacks are run: in the real sandbox, alone or beside an honest forecaster in one evaluation."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moeload_bench.errors import ForecastError
from moeload_bench.forecaster import ForecastRequest, step_block, trace_info
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.hosts import Host, Limits, open_host
from moeload_bench.isolation.targets import parse_target
from moeload_bench.results.columns import total_counts
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import synthetic_trace
from tests.support.scores import failures, metric_OK

HERE = Path(__file__).parent
HONEST = f"{HERE.parents[1] / 'support' / 'forecasters.py'}:LastSeen"
ORIGINS, HORIZONS = (20, 30, 40), (1, 10)
REQUEST = ForecastRequest(20, 10, HORIZONS)
LIMITS = Limits(wall_s_per_call=20, cpu_s=20, processes=48)


@dataclass(frozen=True)
class Fight:
    """What came of an attack: the reason of each task that failed, how many did not, the forecaster's own counts."""

    failures: list[str]
    forecasts: int
    counts: Mapping[str, int]

    @property
    def reason(self) -> str:
        """Why it failed, the first reason first; asserts that it did."""
        assert self.failures, "the attack got through"
        return "; ".join(self.failures)


def target(name: str, **arguments: object) -> str:
    """Return the target of an attacker."""
    text = ",".join(f'{key}="{value}"' for key, value in arguments.items())
    return f"{HERE / 'attackers.py'}:{name}{'@' if text else ''}{text}"


def stopped(tmp_path: Path, name: str, limits: Limits = LIMITS, **arguments: object) -> str:
    """Run an attack; return why it failed."""
    return attack(tmp_path, target(name, **arguments), limits).reason


def attack(tmp_path: Path, attacker: str, limits: Limits = LIMITS) -> Fight:
    """Replay a run, which lies in a file as in real use, to an attacker in the sandbox.

    Asserts that an honest forecaster, which lives beside all attackers of a test session, still answers the same.
    """
    said = _honest().forecast(REQUEST)
    trace = synthetic_trace(60)
    write_trace(trace, tmp_path / "run.parquet", overwrite=True)
    counts: Mapping[str, int] = {}
    try:
        with follow(parse_target(attacker), trace, seed=0, level="sandbox", limits=limits) as feed:
            answers = [answer.failure for answer in feed.answers(ORIGINS, HORIZONS)]
            counts = feed.host.counts()
    except ForecastError as error:
        answers = [str(error)] * len(ORIGINS)
    np.testing.assert_array_equal(_honest().forecast(REQUEST).share_BLE, said.share_BLE)
    return _fight(answers, counts)


@functools.lru_cache(maxsize=1)
def _honest() -> Host:
    """At level `process`, which protects it least; it ends with the test session."""
    trace = synthetic_trace(60)
    host = open_host(parse_target(HONEST), trace_info(trace), seed=0, level="process")
    atexit.register(host.stop)
    host.observe(step_block(trace, 0, REQUEST.origin))
    return host


def attack_beside_honest(tmp_path: Path, *targets: str, limits: Limits = LIMITS) -> list[Fight]:
    """The same within `evaluate`, with an honest forecaster after the attackers; asserts that it was not disturbed."""
    trace = synthetic_trace(60)
    path = write_trace(trace, tmp_path / "run.parquet", overwrite=True)
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=ORIGINS[:1], stable=ORIGINS[1:])
    suite = Suite(name="arena", horizons=HORIZONS, traces=(entry,))
    results = evaluate([*targets, HONEST], suite, paths={trace.id: path}, level="sandbox", limits=limits)
    *attackers, honest = results.names
    assert not failures(results, honest)
    assert metric_OK(results, honest).shape == (len(ORIGINS), len(HORIZONS))
    return [
        _fight([failures(results, name).get(origin) for origin in ORIGINS], total_counts(results.table, name))
        for name in attackers
    ]


def _fight(answers: list[str | None], counts: Mapping[str, int]) -> Fight:
    assert_nothing_left()
    failed = [answer for answer in answers if answer is not None]
    assert len(answers) == len(ORIGINS)
    assert all(len(reason) < 400 and reason.isprintable() for reason in failed), "a reason is one short line"
    return Fight(failed, len(answers) - len(failed), counts)


def assert_nothing_left() -> None:
    """No process of this process's sandboxes is running.

    They have user ids derived from its process id or, for a normal user, are children of it.
    """
    deadline = time.monotonic() + 5
    while (left := _leftovers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still running: {left}"


def _leftovers() -> list[int]:
    first = 2**29 + os.getpid() * 64
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        ours = first <= int(status["Uid"].split()[0]) < first + 64
        child = int(status["PPid"]) == os.getpid() and status["Name"].strip() in ("bwrap", "setpriv")
        if (ours or child) and not status["State"].startswith("Z"):
            found.append(int(entry.name))
    return found
