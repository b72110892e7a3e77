"""Attacks on the protocol: a frame that is not what it should be costs its own task only."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.hosts import Level, Limits
from moeload_bench.results.columns import total_counts
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import synthetic_trace
from tests.isolation.attacks.arena import HERE, LIMITS, attack
from tests.support.scores import metric_OK

SHORT = Limits(wall_s_per_call=1)


def answer_to(tmp_path: Path, name: str, limits: Limits = LIMITS) -> str:
    """The reasons why a liar's tasks failed."""
    return attack(tmp_path, f"{HERE / 'liars.py'}:{name}", limits).reason


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ExitsMidFrame", "ended with status 0"),
        ("Terabyte", "share_BLE as <f8 [1, 370000, 370000], expected <f8 [1..10, 2, 4]"),
        ("PickleInstead", "a frame starts with"),
        ("SendsMore", "broke the protocol"),
        ("NoArrays", "its answer lacks"),
        ("DeepJson", "nested deeper than 32"),
        ("NotANumber", "not finite"),
        ("AnswersTwice", "broke the protocol"),
        ("SpeaksUnasked", "broke the protocol"),
        ("OtherNumber", "answered another request"),
        ("Floods", "a frame starts with"),
        ("PatchesWorker", "sum to 1"),
        ("BlamesRequest", "nobody may run"),
    ],
)
def test_a_frame_that_lies_fails_its_task(tmp_path: Path, name: str, reason: str) -> None:
    """Refused by what it announces, before anything of its size is read or allocated: each way of lying once.

    What a header and an announcement may be: `test_isolate_frames`.
    """
    assert reason in answer_to(tmp_path, name)
    assert not Path("/tmp/moeload-unpickled").exists()


@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["PromisesMore", pytest.param("Drips", marks=pytest.mark.slow)])
def test_a_frame_that_does_not_come_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """The limit holds for the whole answer, not for each byte."""
    assert "forecast took more than 1 s" in answer_to(tmp_path, name, SHORT)


@pytest.mark.sandbox
def test_printing_reaches_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Noise on standard output and error neither spoils the protocol nor shows up, and does not hang anyone."""
    assert attack(tmp_path, f"{HERE / 'liars.py'}:PrintsNoise").forecasts == 3
    assert "noise" not in "".join(capfd.readouterr())


@pytest.mark.sandbox
def test_counts_are_bounded(tmp_path: Path) -> None:
    """A forecaster's own counts are the only thing it may say about itself."""
    fight = attack(tmp_path, f"{HERE / 'liars.py'}:HugeCounts")
    assert fight.forecasts == 3
    assert fight.counts == {}


# ---------------------------------------------------------------- a cheater


CHEATER = f"{HERE / 'cheater.py'}:Cheater"


def run(tmp_path: Path, level: Level, *targets: str) -> Results:
    """Score on a trace that lies in a folder which the environment names."""
    trace = synthetic_trace(90)
    path = write_trace(trace, tmp_path / "traces" / "run.parquet", overwrite=True)
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), transient=(20,), stable=(60,))
    suite = Suite(name="arena", horizons=(1, 10), traces=(entry,))
    results = evaluate(list(targets), suite, paths={trace.id: path}, level=level)
    assert results.failures.empty
    return results


def test_the_level_process_does_not_stop_a_cheater(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It protects against accidents, not against strangers: the cheater's error is nought."""
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path / "traces"))
    results = run(tmp_path, "process", CHEATER)
    (cheater,) = results.names
    assert total_counts(results.table, cheater)["truths"] == 2
    assert metric_OK(results, cheater, "tv").max() < 1e-12


@pytest.mark.sandbox
def test_in_the_sandbox_a_cheater_gains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees no parquet file at all and forecasts what it would have without looking: the same bits as `uniform`."""
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path / "traces"))
    results = run(tmp_path, "sandbox", CHEATER, "uniform")
    assert total_counts(results.table, results.names[0])["truths"] == 0
    assert results.table["forecasts_sha256"].nunique() == 1
