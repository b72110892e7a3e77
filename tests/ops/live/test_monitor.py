"""`LoadMonitor` in real trainings: the Trainer's logs, any loop, resumes, one training after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from moeload_bench.errors import PlacementError, RecordingError
from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.live.monitor import LoadMonitor
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.planner import Settings
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.callback import LoadRecorder
from moeload_bench.recording.recorder import record
from moeload_bench.recording.writer import RecordingWarning
from moeload_bench.traces.store import read_trace
from tests.conftest import need
from tests.support.monitored import FAMILY, OFTEN, assert_same, fed, loop, trainer, unbalanced
from tests.support.recording.families import VOCABULARY, tiny_model
from tests.support.snapshots import numbers

torch.set_num_threads(1)


def test_what_is_said_live_is_what_a_replay_of_the_trace_says(tmp_path: Path) -> None:
    """Every number of every snapshot, bit for bit, advice and its plan included."""
    monitor = LoadMonitor(Settings(horizon=20, every=10, follow=True))
    loop(monitor, tmp_path)
    assert_same(monitor, read_trace(tmp_path / "own/test/seed0.parquet"), monitor.settings)


def test_it_watches_without_writing_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshots are those of the same run recorded, and no file appears; recorded counts are those without it."""
    monkeypatch.chdir(tmp_path)
    beside, alone = LoadMonitor(OFTEN), LoadMonitor(OFTEN)
    loop(beside, tmp_path / "with")
    loop(alone, None)
    assert [path.name for path in tmp_path.iterdir()] == ["with"]
    loop(None, tmp_path / "without")  # type: ignore[arg-type]
    one, two = (read_trace(tmp_path / name / "own/test/seed0.parquet") for name in ("with", "without"))
    np.testing.assert_array_equal(one.load_SLE, two.load_SLE)
    np.testing.assert_array_equal(one.columns["loss"], two.columns["loss"])
    seen = [[numbers(s, "measured") for s in one.snapshots] for one in (alone, beside)]  # two trainings, timed apart
    np.testing.assert_equal(*seen)


def test_the_trainers_own_logs_and_tensorboard_get_the_numbers(tmp_path: Path) -> None:
    """One line attaches; Trainer's history and TensorBoard's event file hold the numbers, at the same steps."""
    need("tensorboard", "pip install -e '.[dev]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watched = trainer(tmp_path, report_to="tensorboard")
    monitor = LoadMonitor(OFTEN).attach(watched, tmp_path / "runs", name="mine")
    watched.train()
    logged = {row["step"]: row for row in watched.state.log_history if "moe/mean_violation" in row}
    assert sorted(logged) == [10, 20, 30, 40, 50, 60] == [s.step for s in monitor.snapshots]
    (events,) = (tmp_path / "trainer").glob("runs/*")
    found = EventAccumulator(str(events)).Reload().Scalars("train/moe/mean_violation")
    assert [event.step for event in found] == sorted(logged)
    for event, snapshot in zip(found, monitor.snapshots, strict=True):
        assert event.value == pytest.approx(float(np.mean(snapshot.inspection.busiest_L - 1)))
        assert logged[event.step]["moe/mean_violation"] == float(np.mean(snapshot.inspection.busiest_L - 1))
    assert_same(monitor, read_trace(tmp_path / "runs/mine/test/seed0.parquet"), OFTEN)
    assert any("loss" in row and row["step"] == 60 for row in watched.state.log_history)


def test_a_console_gets_one_line_instead_of_all_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Trainer prints what it logs; of the monitor one sentence each time, and the loss as ever."""
    watched = trainer(tmp_path, disable_tqdm=True)
    LoadMonitor(OFTEN).attach(watched)
    watched.train()
    out = capsys.readouterr().out
    assert "moe/mean_violation" not in out
    lines = [line for line in out.splitlines() if line.startswith("moe, step ")]
    assert len(lines) == 6
    assert "violation " in lines[0]
    assert "'loss'" in out


def test_evaluation_and_accumulation_change_nothing(tmp_path: Path) -> None:
    """With evaluation passes in between, the Trainer's run and its replay say the same."""
    watched = trainer(tmp_path, gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=7, max_steps=30)
    monitor = LoadMonitor(OFTEN)
    watched.add_callback(LoadRecorder(tmp_path / "runs", monitor=monitor))
    watched.train()
    assert_same(monitor, read_trace(tmp_path / "runs/own/test/seed0.parquet"), OFTEN)


class Interrupted(TrainerCallback):
    """Ctrl-C in step 37."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 36:
            raise KeyboardInterrupt


def test_a_resumed_run_is_watched_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Going on from a checkpoint, the monitor first takes in the steps on disk: what it says equals the replay."""
    saving = {"save_strategy": "steps", "save_steps": 25}
    broken = trainer(tmp_path, **saving)
    LoadMonitor(OFTEN).attach(broken, tmp_path / "runs")
    broken.add_callback(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    broken.callback_handler.callbacks.clear()
    monitor = LoadMonitor(OFTEN)
    resumed = trainer(tmp_path, **saving)
    monitor.attach(resumed, tmp_path / "runs")
    resumed.train(resume_from_checkpoint=True)
    assert_same(monitor, read_trace(tmp_path / "runs/own/test/seed0.parquet"), OFTEN)
    assert logged_steps(resumed) == sorted(set(logged_steps(resumed)))


class Reporter(TrainerCallback):
    """As trackio's: its run ends with the training, and what is logged later would open another one."""

    def __init__(self) -> None:
        self.ended = False
        self.late: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.ended:
            self.late.append(logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = True


@pytest.mark.parametrize("seen", ["no", "all"])
def test_the_last_numbers_are_logged_before_a_reporter_ends_its_run(seen: str, tmp_path: Path) -> None:
    """Without saves too; also where the Trainer says its speed with every log, whose loss is still in the trace."""
    watched = trainer(tmp_path, max_steps=10, logging_steps=1, include_num_input_tokens_seen=seen)
    reporter = Reporter()
    watched.add_callback(reporter)
    monitor = LoadMonitor(OFTEN).attach(watched, tmp_path / "runs")
    watched.train()
    assert logged_steps(watched) == [10]
    assert reporter.late == []
    assert monitor.stopped is None
    trace = read_trace(tmp_path / "runs/own/test/seed0.parquet")
    assert (trace.steps, trace.meta.complete) == (10, True)
    assert np.isfinite(trace.columns["loss"]).all()


@pytest.mark.slow
def test_a_training_resumed_in_the_same_process_is_watched_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """The same Trainer, callback and monitor go on: what was seen before the checkpoint is taken in once."""
    path = tmp_path / "moe.jsonl"
    monitor = LoadMonitor(OFTEN, sinks=[path])
    broken = trainer(tmp_path, save_strategy="steps", save_steps=25)
    monitor.attach(broken, tmp_path / "runs")
    broken.add_callback(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    broken.remove_callback(Interrupted)
    broken.train(resume_from_checkpoint=True)
    assert monitor.stopped is None
    assert_same(monitor, read_trace(tmp_path / "runs/own/test/seed0.parquet"), OFTEN)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [10, 20, 30, 30, 40, 50, 60], "the file holds both attempts"


def test_a_monitor_begins_anew_with_another_training(tmp_path: Path) -> None:
    """State, snapshots, sinks and logs are those of the second training alone; the first one's can still be held."""
    path, direct = tmp_path / "moe.jsonl", []
    monitor = LoadMonitor(OFTEN, sinks=[path])

    def log(values: dict[str, float], step: int) -> None:
        direct.append(step)
        if len(direct) == 1:
            raise RuntimeError("no network yet")

    monitor.log_to(log)
    with pytest.warns(RecordingWarning, match="a log was given up"):
        loop(monitor, tmp_path / "one", steps=30)
    first = monitor.snapshots
    assert monitor.latest is not None
    assert monitor.latest.step == 30, "what was seen stays after the training"
    loop(monitor, tmp_path / "two", steps=20)
    assert monitor.stopped is None
    assert [s.step for s in first] == [10, 20, 30]
    assert_same(monitor, read_trace(tmp_path / "two/own/test/seed0.parquet"), OFTEN)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30, 10, 20]
    assert direct == [10, 10, 20]


def logged_steps(watched: Trainer) -> list[int]:
    """The steps at which a Trainer's own log has the monitor's numbers."""
    return [row["step"] for row in watched.state.log_history if "moe/mean_violation" in row]


def test_each_of_two_trainers_logs_its_own_training_alone(tmp_path: Path) -> None:
    """One monitor is attached to both before either trains: no Trainer gets the other's numbers."""
    monitor = LoadMonitor(OFTEN)
    one, two = trainer(tmp_path / "one", max_steps=20), trainer(tmp_path / "two", max_steps=30)
    monitor.attach(one)
    monitor.attach(two)
    one.train()
    assert (logged_steps(one), logged_steps(two)) == ([10, 20], [])
    two.train()
    assert (logged_steps(one), logged_steps(two)) == ([10, 20], [10, 20, 30])
    assert monitor.stopped is None


def test_a_monitor_that_stopped_watches_the_next_training() -> None:
    """What ended it is said until then; a sink that cannot be opened again costs a warning and its own numbers."""
    trace = unbalanced(100)
    monitor = LoadMonitor(sinks=[lambda values, step: None])
    fed(monitor, trace)
    with pytest.warns(RecordingWarning, match="got step 0, expected step 100"):
        fed(monitor, trace)
    monitor.close()
    assert monitor.stopped is not None
    monitor._given = (3,)
    with pytest.warns(RecordingWarning, match="the sink 3 cannot be opened again: RecordingError: a sink is int"):
        fed(monitor, trace)
    assert monitor.stopped is None
    assert [s.step for s in monitor.snapshots] == [50, 100]


def test_a_training_tidied_up_late_takes_nothing_from_the_one_that_is_on(tmp_path: Path) -> None:
    """Python collects a broken-off training when it likes: the monitor is closed in mid-run, and goes on."""
    from moeload_bench.recording.writer import rows_of

    path, trace = tmp_path / "moe.jsonl", unbalanced(200)
    monitor = LoadMonitor(sinks=[path])
    for row in rows_of(trace):
        if row["step"] == 120:
            monitor.close()
        monitor.add(row, lambda: trace.meta)
    monitor.close()
    assert_same(monitor, trace, monitor.settings)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [50, 100, 150, 200]


def test_a_model_that_diverges_is_watched_on(tmp_path: Path) -> None:
    """A loss of NaN is a loss; loads are counted and judged as before."""
    monitor = LoadMonitor(OFTEN)
    torch.manual_seed(0)
    model = tiny_model(FAMILY)
    with record(model, tmp_path, monitor=monitor) as r:
        for step in range(30):
            if step == 12:
                torch.nn.init.constant_(next(model.parameters()), float("nan"))
            tokens = torch.randint(1, VOCABULARY, (4, 16))
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            r.step(loss=loss.item())
    assert np.isnan(read_trace(tmp_path / "own/test/seed0.parquet").columns["loss"][-1])
    assert [s.step for s in monitor.snapshots] == [10, 20, 30]
    assert monitor.stopped is None


def test_a_model_without_moe_layers_is_refused_before_training() -> None:
    """There is nothing to watch, and the message says what an adapter is for."""
    model = torch.nn.Linear(2, 2)
    with pytest.raises(RecordingError, match="no MoE layer"), record(model, None, monitor=LoadMonitor()):
        pass


def test_a_cluster_that_does_not_fit_costs_the_advice_only(tmp_path: Path) -> None:
    """Fewer slots than experts: a warning names it, everything else is watched on."""
    monitor = LoadMonitor(Settings(horizon=20, every=10, cluster=Cluster(ClusterShape("mine", 2, 4))))
    with pytest.warns(RecordingWarning, match="no advice: .*8 experts"):
        loop(monitor, tmp_path, steps=20)
    assert monitor.latest is not None
    assert monitor.latest.advice is None
    assert np.isfinite(monitor.latest.inspection.busiest_L).all()


def test_an_error_in_the_monitor_ends_the_monitor_alone(tmp_path: Path) -> None:
    """A forecaster that raises: one warning, the trace is whole, the reason is kept."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "class Bad:\n    def __init__(self, info, seed): pass\n    def observe(self, block): pass\n"
        "    def forecast(self, request): raise ValueError('no idea')\n"
    )
    monitor = LoadMonitor(Settings(forecaster=f"{bad}:Bad", horizon=20, every=10, follow=True))
    with pytest.warns(RecordingWarning, match="monitoring stopped: forecast raised ValueError: no idea") as caught:
        loop(monitor, tmp_path)
    assert len(caught) == 1
    assert read_trace(tmp_path / "own/test/seed0.parquet").meta.complete
    assert monitor.stopped is not None
    assert "no idea" in monitor.summary()


def test_nothing_is_planned_unless_it_is_asked_for() -> None:
    """Facts alone by default; a stated cluster or a function for advice asks for plans."""
    trace = unbalanced(250)
    plain, stated, asked = LoadMonitor(), LoadMonitor(OFTEN), LoadMonitor(on_advice=lambda advice: False)
    for monitor in (plain, stated, asked):
        fed(monitor, trace)
        assert monitor.stopped is None
    assert plain.latest is not None
    assert (plain.latest.decision, plain.latest.advice) == (None, None)
    assert plain.inspection is not None
    assert plain.inspection.record == inspect_trace(trace).record
    for monitor in (stated, asked):
        assert monitor.latest is not None
        assert monitor.latest.decision is not None
    with pytest.raises(PlacementError, match="nothing is planned: expected on_advice, advice_file or a cluster"):
        plain.carried_out(np.tile(np.arange(10) % 8, (2, 1)))
