"""Sinks of `LoadMonitor`: what each gets, and that none of them stops or holds up a training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.errors import RecordingError
from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.live import dashboard
from moeload_bench.ops.live.dashboard import SERIES, StageFolder, layer_numbers, series_of
from moeload_bench.ops.live.monitor import LoadMonitor
from moeload_bench.recording.writer import RecordingWarning, rows_of
from moeload_bench.traces.trace import Trace
from tests.conftest import need
from tests.support.monitored import OFTEN, loop, trainer
from tests.support.no_files import put_no_file

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]


def test_json_lines_hold_every_snapshot_under_documented_names(tmp_path: Path) -> None:
    """The same series for any model; what is not known is left out."""
    path = tmp_path / "logs/moe.jsonl"
    monitor = LoadMonitor(OFTEN, sinks=[path])
    loop(monitor, None)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    known = {f"moe/{name}" for name in SERIES}
    late = {"moe/drift", "moe/max_violation_micro_batch"}
    assert set(rows[0]) - {"step"} == known - late, "drift needs two windows, micro-batches were not recorded"
    guide = (ROOT / "docs/guide/live.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in guide for name in known)
    found = monitor.snapshots[-1].inspection
    ranks = replace(found.ranks, busiest_KL=found.ranks.busiest_KL * np.nan)
    assert series_of(layer_numbers(replace(found, ranks=ranks, states=None))) == {}


def large_run(layers: int, experts: int, **columns: Any) -> Trace:
    """220 steps of 4,096 tokens and top-8 in every layer; a layer's skew rises with its number."""
    rng = np.random.default_rng(0)
    share_LE = np.stack([rng.dirichlet(np.full(experts, 200.0 / (1 + layer))) for layer in range(layers)])
    return Trace.from_arrays(rng.multinomial(32768, share_LE, size=(220, layers)), 4096, 8, **columns)


def test_a_dashboard_gets_as_many_numbers_for_a_large_model_as_for_a_small_one() -> None:
    """At 61 layers of 384 experts 14 series at most, as the guide says; 13 without the column of micro-batches."""
    micro_SL = np.full((220, 61), 3.5, dtype=np.float32)
    small, large = inspect_trace(large_run(2, 16)), inspect_trace(large_run(61, 384))
    whole = inspect_trace(large_run(61, 384, columns={"imbalance_rank": micro_SL}))
    assert set(series_of(layer_numbers(small))) == set(series_of(layer_numbers(large)))
    values = series_of(layer_numbers(whole))
    assert len(values) == len(SERIES) == 14
    guide = (ROOT / "docs/guide/live.md").read_text(encoding="utf-8")
    assert "14 series, as many for 61 layers of 384 experts as for two layers of 8" in guide
    assert values["moe/max_violation_micro_batch"] == pytest.approx(2.5)
    assert values["moe/load_imbalance_max"] == pytest.approx(float(large.busiest_L.max()))
    assert values["moe/load_imbalance_p95"] == pytest.approx(float(np.percentile(large.busiest_L, 95)))
    assert values["moe/load_imbalance_over_floor_p50"] == pytest.approx(
        float(np.median(large.busiest_L / large.high_L))
    )
    assert values["moe/max_violation"] == pytest.approx(values["moe/load_imbalance_max"] - 1)


def test_a_prometheus_file_holds_the_newest_numbers(tmp_path: Path) -> None:
    """Each series once, with its help and type, under a name that Prometheus takes; the file is replaced at once."""
    path = tmp_path / "textfile/moe.prom"
    loop(LoadMonitor(OFTEN, sinks=[path]), None)
    lines = path.read_text().splitlines()
    values = dict(line.split() for line in lines if not line.startswith("#"))
    assert float(values.pop("moe_step")) == 60
    assert set(values) == {f"moe_{name}" for name in SERIES} - {"moe_max_violation_micro_batch", "moe_drift"}
    assert all(re.fullmatch(r"[a-z_0-9]+", name) and float(value) >= 0 for name, value in values.items())
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == ["moe_step", *values]
    assert list(path.parent.iterdir()) == [path]


def staged(trace: Trace, folder: Path, index: int, sinks: list[Any]) -> LoadMonitor:
    """A monitor that has seen the layers of one of two stages."""
    half = trace.num_layers // 2
    part = trace.of_layers(range(index * half, (index + 1) * half))
    meta = part.meta.model_copy(update={"parallel": {"stage": index, "stages": 2}})
    monitor = LoadMonitor(sinks=sinks, stage_folder=folder)
    for row in rows_of(part):
        monitor.add(row, lambda: meta)
    return monitor


def test_the_numbers_of_pipeline_stages_are_those_of_one_model(tmp_path: Path) -> None:
    """The stage with sinks logs what one process with all layers would, at the same steps, whoever comes first."""
    trace, got = large_run(6, 16), []
    for first in (0, 1):
        monitors = [
            staged(trace, tmp_path / "stages", index, [one_of(got)] if index else []) for index in (first, 1 - first)
        ]
        for monitor in monitors:
            monitor.close()
        expected: list[Any] = []
        alone = LoadMonitor(sinks=[one_of(expected)])
        for row in rows_of(trace):
            alone.add(row, lambda: trace.meta)
        alone.close()
        assert [step for _, step in got] == [50, 100, 150, 200]
        for (values, _), (whole, _) in zip(got, expected, strict=True):
            assert values == pytest.approx({**whole, "moe/events": values["moe/events"]})
        got.clear()


def one_of(calls: list[Any]) -> Any:
    """A function that keeps what it is called with."""
    return lambda values, step: calls.append((values, step))


def test_a_stage_that_leaves_nothing_is_named_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink waits in its own thread, then is given up with the number of the stage."""
    monkeypatch.setattr(dashboard, "WAIT_S", 0.01)
    monitor = staged(large_run(4, 16), tmp_path, 1, [lambda values, step: None])
    assert monitor.stopped is None
    with pytest.warns(RecordingWarning, match="was given up: RecordingError: .*stage 0 left nothing of step"):
        monitor.close()


def test_a_summary_writer_gets_scalars(tmp_path: Path) -> None:
    """`torch.utils.tensorboard.SummaryWriter` as a sink, read back by TensorBoard itself."""
    need("tensorboard", "pip install -e '.[dev]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        loop(LoadMonitor(OFTEN, sinks=[writer]), None)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "moe/layer_00" not in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("moe/max_violation")] == [10, 20, 30, 40, 50, 60]


TRACKIO = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
from tests.ops.live.test_monitor import OFTEN, LoadMonitor, loop
trackio.init(project="moe", name="mine")
loop(LoadMonitor(OFTEN, sinks=[trackio]), None)
trackio.finish()
run = next(iter(trackio.Api().runs("moe")))
rows = SQLiteStorage.get_logs("moe", run.name, run_id=run.id)
print(json.dumps([[row["step"], row["moe/mean_violation"]] for row in rows]))
"""


@pytest.mark.slow
def test_trackio_gets_the_numbers(tmp_path: Path) -> None:
    """The module itself is a sink: `sinks=[trackio]`; its own reader finds every step. (It reads its folder once.)"""
    need("trackio", "pip install -e '.[dev]'")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    monitor = LoadMonitor(OFTEN)
    loop(monitor, None)
    expected = [[s.step, float(np.mean(s.inspection.busiest_L - 1))] for s in monitor.snapshots]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


EVIL = "e\x1b[2J/../\u202e\n" + "x" * 10_000


def test_a_sink_that_raises_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    """Three errors in a row; the warning comes at the end, and quotes name and error on one line each."""
    calls: list[int] = []

    def broken(values: dict[str, float], step: int) -> None:
        calls.append(step)
        raise OSError(EVIL)

    broken.__name__, path = EVIL, tmp_path / "moe.jsonl"
    with pytest.warns(RecordingWarning, match=r"sink e\\u001b\[2J.* was given up: OSError: e\\u001b\[2J") as caught:
        loop(LoadMonitor(OFTEN, sinks=[broken, path]), None)
    assert all(str(one.message).isprintable() for one in caught)
    assert calls == [10, 20, 30]
    assert len(path.read_text().splitlines()) == 6


def test_a_trainer_log_that_raises_is_given_up(tmp_path: Path) -> None:
    """The monitor goes on without it; what somebody's logger raises is quoted on one line."""
    watched = trainer(tmp_path)
    monitor = LoadMonitor(OFTEN).attach(watched)

    def log(logs: Any, *args: Any) -> None:
        if "moe/mean_violation" in logs:
            raise RuntimeError(EVIL)

    watched.log = log
    with pytest.warns(RecordingWarning, match="a log was given up: RuntimeError: e") as caught:
        watched.train()
    assert all(str(one.message).isprintable() for one in caught if "given up" in str(one.message))
    assert len(monitor.snapshots) == 6


def test_a_sink_that_blocks_never_holds_up_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the first snapshot and never returns; training ends, and the warning says that it blocks."""
    monkeypatch.setattr("moeload_bench.ops.live.sinks.CLOSE_S", 0.1)
    released = threading.Event()
    monitor = LoadMonitor(OFTEN, sinks=[lambda values, step: released.wait()])
    with pytest.warns(RecordingWarning, match="it blocks"):
        loop(monitor, None)
    assert len(monitor.snapshots) == 6
    released.set()


@pytest.mark.parametrize("there", ["folder", "pipe", "device", "under a file", "long"])
def test_a_sink_s_path_that_is_no_file_is_refused_at_once(there: str, tmp_path: Path) -> None:
    """Opening a pipe would wait for a reader for ever."""
    path = tmp_path / "moe.jsonl"
    if there in ("folder", "pipe"):
        put_no_file(there, path)
    elif there == "device":
        path.symlink_to("/dev/full")
    elif there == "under a file":
        path.touch()
        path = path / "moe.jsonl"
    else:
        path = tmp_path / f"{'x' * 300}.jsonl"
    with pytest.raises(RecordingError, match="which cannot be written"):
        LoadMonitor(sinks=[path])


def test_what_cannot_be_a_sink_is_refused_at_once() -> None:
    """A path that is no .jsonl, and something without a way to log."""
    with pytest.raises(RecordingError, match=r"ends in .jsonl or .prom"):
        LoadMonitor(sinks=["moe.csv"])
    with pytest.raises(RecordingError, match="a sink is int"):
        LoadMonitor(sinks=[3])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "5", "null", '{"events": 1, "a": [1]}', "[" * 100_000, '{"events": NaN}', '{"events": 1, "events": 2}',
     '{"events": 1, "imbalance_L": [[1], [1, 2]]}', '{"events": 1, "imbalance_L": ["a"]}', "\udcff"],
)  # fmt: skip
def test_what_no_stage_left_is_refused_by_its_file(content: str, tmp_path: Path) -> None:
    """Others may write into the folder of stages."""
    folder = StageFolder(tmp_path, 1, 2)
    (tmp_path / "stage0of2-step000000003.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (tmp_path / "stage1of2-step000000003.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordingError, match=r"stage0of2-step000000003\.json: not the numbers of a stage"):
        folder.gathered(3)
