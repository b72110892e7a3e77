"""`LoadMonitor` in real trainings: the Trainer's logs, any loop, sinks of every kind; nothing stops training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from moeload_bench.errors import NotFoundError, PlacementError, RecordingError
from moeload_bench.interchange.placements import FORMATS, placement_of, write_placement
from moeload_bench.live.cluster import Cluster
from moeload_bench.live.core import Settings, replay
from moeload_bench.live.monitor import LoadMonitor
from moeload_bench.live.names import RUN, VALUES
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.callback import LoadRecorder
from moeload_bench.recording.recorder import record
from moeload_bench.recording.writer import RecordingWarning
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need
from tests.live.test_core import numbers
from tests.support.recording.families import VOCABULARY, tiny_model

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
OFTEN = Settings(horizon=20, every=10)
FAMILY = "gpt_oss"  # whose checkpoints the Trainer loads back whole


class Sequences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """64 random sequences of 16 tokens."""

    def __init__(self) -> None:
        self.tokens = torch.randint(1, VOCABULARY, (64, 16), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


def trainer(folder: Path, **arguments: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(folder / "trainer"), "max_steps": 60, "per_device_train_batch_size": 4, "logging_steps": 5,
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2, "save_strategy": "no",
        **arguments,
    }  # fmt: skip
    args = TrainingArguments(**given)
    return Trainer(model=tiny_model(FAMILY), args=args, train_dataset=Sequences(), eval_dataset=Sequences())


def loop(monitor: LoadMonitor, out: Path | None, steps: int = 60, **options: Any) -> Any:
    """A PyTorch loop of its own, watched; returns the model."""
    torch.manual_seed(0)
    model = tiny_model(FAMILY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    with record(model, out, monitor=monitor, **options) as r:
        for _ in range(steps):
            tokens = torch.randint(1, VOCABULARY, (4, 16), generator=generator)
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            r.step(loss=loss.item())
    return model


def assert_same(monitor: LoadMonitor, trace: Trace, settings: Settings) -> None:
    said = list(replay(trace, settings))
    assert [s.step for s in monitor.snapshots] == [s.step for s in said]
    for live, again in zip(monitor.snapshots, said, strict=True):
        np.testing.assert_equal(numbers(live), numbers(again))


def test_what_is_said_live_is_what_a_replay_of_the_trace_says(tmp_path: Path) -> None:
    """Every number of every snapshot, bit for bit, advice and its plan included."""
    monitor = LoadMonitor(Settings(horizon=20, every=10, follow=True))
    loop(monitor, tmp_path)
    assert_same(monitor, read_trace(tmp_path / "own/test/seed0.parquet"), monitor.settings)


def test_it_watches_without_writing_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no folder to write to, the snapshots are those of the same run recorded, and no file appears."""
    monkeypatch.chdir(tmp_path)
    beside, alone = LoadMonitor(OFTEN), LoadMonitor(OFTEN)
    loop(beside, tmp_path / "runs")
    loop(alone, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    np.testing.assert_equal([numbers(s) for s in alone.snapshots], [numbers(s) for s in beside.snapshots])


def test_counts_are_those_of_a_run_without_the_monitor(tmp_path: Path) -> None:
    """The trace beside a monitor holds the same data as the trace without one."""
    loop(LoadMonitor(OFTEN), tmp_path / "with")
    loop(None, tmp_path / "without")  # type: ignore[arg-type]
    one, two = (read_trace(tmp_path / name / "own/test/seed0.parquet") for name in ("with", "without"))
    np.testing.assert_array_equal(one.load_SLE, two.load_SLE)
    np.testing.assert_array_equal(one.columns["loss"], two.columns["loss"])


def test_the_trainers_own_logs_and_tensorboard_get_the_numbers(tmp_path: Path) -> None:
    """One line attaches; Trainer's history and TensorBoard's event file hold the numbers, at the same steps."""
    need("tensorboard", "pip install -e '.[dev]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watched = trainer(tmp_path, report_to="tensorboard")
    monitor = LoadMonitor(OFTEN).attach(watched, tmp_path / "runs", name="mine")
    watched.train()
    logged = {row["step"]: row for row in watched.state.log_history if "moe/mean/maxvio" in row}
    assert sorted(logged) == [10, 20, 30, 40, 50, 60] == [s.step for s in monitor.snapshots]
    (events,) = (tmp_path / "trainer").glob("runs/*")
    found = EventAccumulator(str(events)).Reload().Scalars("train/moe/mean/maxvio")
    assert [event.step for event in found] == sorted(logged)
    for event, snapshot in zip(found, monitor.snapshots, strict=True):
        assert event.value == pytest.approx(float(np.mean(snapshot.maxvio_L)))
        assert logged[event.step]["moe/mean/maxvio"] == float(np.mean(snapshot.maxvio_L))
    assert_same(monitor, read_trace(tmp_path / "runs/mine/test/seed0.parquet"), OFTEN)
    assert any("loss" in row and row["step"] == 60 for row in watched.state.log_history)


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
    steps = [row["step"] for row in resumed.state.log_history if "moe/mean/maxvio" in row]
    assert steps == sorted(set(steps))


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
    assert [row["step"] for row in watched.state.log_history if "moe/mean/maxvio" in row] == [10]
    assert reporter.late == []
    assert monitor.stopped is None
    trace = read_trace(tmp_path / "runs/own/test/seed0.parquet")
    assert (trace.steps, trace.meta.complete) == (10, True)
    assert np.isfinite(trace.columns["loss"]).all()


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
    """As by the recorder: there is nothing to watch, and the message says what an adapter is for."""
    with (
        pytest.raises(RecordingError, match="no MoE layer"),
        record(torch.nn.Linear(2, 2), None, monitor=LoadMonitor()),
    ):
        pass


def test_a_cluster_that_does_not_fit_costs_the_advice_only(tmp_path: Path) -> None:
    """Fewer slots than experts: a warning names it, everything else is watched on."""
    monitor = LoadMonitor(Settings(horizon=20, every=10, cluster=Cluster(ClusterShape("mine", 2, 4))))
    with pytest.warns(RecordingWarning, match="no advice: .*8 experts"):
        loop(monitor, tmp_path, steps=20)
    assert monitor.latest is not None
    assert monitor.latest.advice is None
    assert np.isfinite(monitor.latest.maxvio_L).all()
    with pytest.raises(PlacementError, match="do not divide over 3 devices"):
        ClusterShape("mine", 3, 10)


def test_an_error_in_the_monitor_ends_the_monitor_alone(tmp_path: Path) -> None:
    """A forecaster that raises: one warning, the trace is whole, the reason is kept."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "class Bad:\n    def __init__(self, info, seed): pass\n    def observe(self, block): pass\n"
        "    def forecast(self, request): raise ValueError('no idea')\n"
    )
    monitor = LoadMonitor(Settings(forecaster=f"{bad}:Bad", horizon=20, every=10))
    with pytest.warns(RecordingWarning, match="monitoring stopped: forecast raised ValueError: no idea") as caught:
        loop(monitor, tmp_path)
    assert len(caught) == 1
    assert read_trace(tmp_path / "own/test/seed0.parquet").meta.complete
    assert monitor.stopped is not None
    assert "no idea" in str(monitor.summary())


def test_json_lines_hold_every_snapshot_under_documented_names(tmp_path: Path) -> None:
    """Mean and worst of each value, the run's own numbers, and with ``all_layers`` each layer."""
    path = tmp_path / "logs/moe.jsonl"
    loop(LoadMonitor(OFTEN, sinks=[path], all_layers=True), None)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    layers = {f"moe/layer_{layer:02}/{name}" for layer in range(2) for name in VALUES}
    known = {f"moe/{kind}/{name}" for kind in ("mean", "worst") for name in VALUES} | {f"moe/{name}" for name in RUN}
    assert set(rows[-1]) - {"step"} <= known | layers
    assert {"moe/mean/maxvio", "moe/worst/imbalance", "moe/layer_01/forecast_tv", "moe/saved_percent"} <= set(rows[-1])


def test_a_summary_writer_gets_scalars(tmp_path: Path) -> None:
    """`torch.utils.tensorboard.SummaryWriter` as a sink, read back by TensorBoard itself."""
    need("tensorboard", "pip install -e '.[dev]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        loop(LoadMonitor(OFTEN, sinks=[writer]), None)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "moe/layer_00/maxvio" not in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("moe/worst/maxvio")] == [10, 20, 30, 40, 50, 60]


TRACKIO = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
from tests.live.test_monitor import OFTEN, LoadMonitor, loop
trackio.init(project="moe", name="mine")
loop(LoadMonitor(OFTEN, sinks=[trackio]), None)
trackio.finish()
run = next(iter(trackio.Api().runs("moe")))
rows = SQLiteStorage.get_logs("moe", run.name, run_id=run.id)
print(json.dumps([[row["step"], row["moe/mean/maxvio"]] for row in rows]))
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
    expected = [[s.step, float(np.mean(s.maxvio_L))] for s in monitor.snapshots]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_a_sink_that_raises_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    """Three errors in a row; the warning comes at the end and names the sink."""
    calls: list[int] = []

    def broken(values: dict[str, float], step: int) -> None:
        calls.append(step)
        raise OSError("disk gone")

    path = tmp_path / "moe.jsonl"
    with pytest.warns(RecordingWarning, match="sink broken was given up: OSError: disk gone"):
        loop(LoadMonitor(OFTEN, sinks=[broken, path]), None)
    assert calls == [10, 20, 30]
    assert len(path.read_text().splitlines()) == 6


def test_a_sink_that_blocks_never_holds_up_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the first snapshot and never returns; training ends, and the warning says that it blocks."""
    monkeypatch.setattr("moeload_bench.live.sinks.CLOSE_S", 0.1)
    released = threading.Event()
    monitor = LoadMonitor(OFTEN, sinks=[lambda values, step: released.wait()])
    with pytest.warns(RecordingWarning, match="it blocks"):
        loop(monitor, None)
    assert len(monitor.snapshots) == 6
    released.set()


def test_a_trainer_log_that_raises_is_given_up(tmp_path: Path) -> None:
    """The monitor goes on without it."""
    watched = trainer(tmp_path)
    monitor = LoadMonitor(OFTEN).attach(watched)

    def log(logs: Any, *args: Any) -> None:
        if "moe/mean/maxvio" in logs:
            raise RuntimeError("no network")

    watched.log = log
    with pytest.warns(RecordingWarning, match="a log was given up: RuntimeError: no network"):
        watched.train()
    assert len(monitor.snapshots) == 6


def test_what_cannot_be_a_sink_is_refused_at_once() -> None:
    """A path that is no .jsonl, and something without a way to log."""
    with pytest.raises(RecordingError, match=r"ends in .jsonl"):
        LoadMonitor(sinks=["moe.csv"])
    with pytest.raises(RecordingError, match="a sink is int"):
        LoadMonitor(sinks=[3])


def unbalanced(steps: int = 400) -> Trace:
    """Two layers with one hot expert each, from the first step on."""
    rng = np.random.default_rng(0)
    share_LE = np.array([[*[0.08] * 5, 0.44, 0.08, 0.08], [*[0.08] * 7, 0.44]])
    load_SLE = np.stack([rng.multinomial(4096, share_LE) for _ in range(steps)])
    return Trace.from_arrays(load_SLE, 2048, 2)


def fed(monitor: LoadMonitor, trace: Trace) -> None:
    from moeload_bench.recording.writer import rows_of

    for row in rows_of(trace):
        monitor.add(row, lambda: trace.meta)


def test_advice_goes_to_a_function_and_a_file(tmp_path: Path) -> None:
    """Each advice to re-plan is handed over once, its plan counts as carried out, and the file holds the plan."""
    advice: list[Any] = []
    monitor = LoadMonitor(on_advice=advice.append, advice_file=tmp_path / "out/plan.json")
    fed(monitor, unbalanced())
    assert [(one.step, one.layers) for one in advice] == [(200, (0, 1))]
    written = json.loads((tmp_path / "out/plan.json").read_text())
    slots = np.array([layer["devices"] for layer in written["layers"]])
    np.testing.assert_array_equal(slots.reshape(2, -1), advice[0].slot_expert_LR)
    assert (written["about"]["first_step"], written["about"]["reason"]) == (200, advice[0].reason)
    assert monitor.latest is not None
    assert monitor.latest.placing is not None
    assert monitor.latest.placing.replans == 1
    assert (monitor.latest.placing.imbalance_L < monitor.latest.placing.static_L - 0.1).all()
    assert "re-plan all 2 layers now: expected max/mean" in advice[0].reason


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "megatron"])
def test_the_file_of_an_advice_is_that_of_plan(kind: str, tmp_path: Path) -> None:
    """Every format of `plan --write`: the bytes that it writes for the same slots."""
    advice: list[Any] = []
    monitor = LoadMonitor(on_advice=advice.append, advice_file=tmp_path / "plan.json", advice_format=kind)
    fed(monitor, unbalanced())
    assert monitor.watch is not None
    assert monitor.watch.shape is not None
    whole = placement_of(advice[0].slot_expert_LR, 8, monitor.watch.shape, (0, 1), {})
    write_placement(whole, tmp_path / "other.json", kind)
    made, expected = (json_or_text(tmp_path / name) for name in ("plan.json", "other.json"))
    assert made == expected
    if kind != "json":
        assert json.loads((tmp_path / "plan.json.about.json").read_text())["replanned"] == ["0", "1"]


def json_or_text(path: Path) -> Any:
    """The file, without what it says it was made from."""
    try:
        record = json.loads(path.read_text())
    except ValueError:
        return path.read_text()
    return {name: value for name, value in record.items() if name != "about"} if isinstance(record, dict) else record


def test_a_format_that_cannot_hold_a_plan_is_a_warning(tmp_path: Path) -> None:
    """Megatron-LM has no replicas: the plan is not written, training and advice go on. Unknown names are refused."""
    monitor = LoadMonitor(advice_file=tmp_path / "plan.json", advice_format="megatron")
    with pytest.warns(
        RecordingWarning, match=r"plan\.json: the plan cannot be written: Megatron-LM holds each expert once"
    ):
        fed(monitor, unbalanced())
    assert monitor.stopped is None
    assert not (tmp_path / "plan.json").exists()
    with pytest.raises(NotFoundError, match="unknown placement format 'x'; there is: eplb, json"):
        LoadMonitor(advice_file=tmp_path / "plan.json", advice_format="x")


@pytest.mark.parametrize("answer", [False, ZeroDivisionError()])
def test_an_advice_that_is_refused_stands(answer: Any) -> None:
    """Until it is carried out the layout in force stays, and the advice is repeated."""

    def refuse(advice: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monitor = LoadMonitor(on_advice=refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        fed(monitor, unbalanced())
    told = [s.advice.verdict for s in monitor.snapshots if s.advice is not None]
    assert told == ["wait"] * 3 + ["replan"] * 5
    assert monitor.latest is not None
    assert monitor.latest.placing is not None
    assert monitor.latest.placing.replans == 0
    assert monitor.latest.advice is not None
    monitor.carried_out(monitor.latest.advice)
    assert monitor.watch is not None
    assert monitor.watch._plans._replans == 1


def resumed(monitor: LoadMonitor, trace: Trace, at: int) -> list[Any]:
    """A monitor of a new process, that has taken in the steps on disk; the rows that are still to come."""
    from moeload_bench.recording.writer import rows_of

    rows = list(rows_of(trace))
    monitor.recall(iter(rows[:at]), lambda: trace.meta)
    return rows[at:]


def test_after_a_resume_nothing_counts_as_carried_out_that_nobody_confirmed() -> None:
    """Neither an advice that was refused before nor one that was carried out: the even spread is in force, advice that
    stands is given again, and only for steps that are new."""
    trace, asked = unbalanced(), []
    monitor = LoadMonitor(on_advice=lambda advice: asked.append(advice.step) or False)
    coming = resumed(monitor, trace, 300)
    assert monitor.latest is not None
    assert monitor.latest.placing is not None
    assert monitor.latest.placing.replans == 0
    np.testing.assert_array_equal(monitor.latest.placing.imbalance_L, monitor.latest.placing.static_L)
    assert asked == []
    for row in coming:
        monitor.add(row, lambda: trace.meta)
    assert asked == [350, 400]
    follows = LoadMonitor(Settings(follow=True))
    resumed(follows, trace, 300)
    assert_same(follows, Trace.from_arrays(trace.load_SLE[:300], 2048, 2), follows.settings)


def test_after_a_resume_one_can_say_which_layout_is_in_force() -> None:
    """The slots of the plan that was carried out before: from there on what is said is what the first process said."""
    trace, advice = unbalanced(), []
    whole = LoadMonitor(on_advice=advice.append)
    fed(whole, trace)
    monitor = LoadMonitor(on_advice=advice.append)
    coming = resumed(monitor, trace, 300)
    monitor.carried_out(advice[0].slot_expert_LR)
    for row in coming:
        monitor.add(row, lambda: trace.meta)
    assert len(advice) == 1, "nothing is advised that is in force"
    for one, two in zip(list(monitor.snapshots)[-2:], list(whole.snapshots)[-2:], strict=True):
        assert one.placing is not None
        assert two.placing is not None
        np.testing.assert_array_equal(one.placing.imbalance_L, two.placing.imbalance_L)


def test_a_layout_that_is_none_is_refused() -> None:
    """Before the first step; of another shape; with an expert left out or one that the model has not."""
    monitor = LoadMonitor()
    slots = np.tile(np.arange(10) % 8, (2, 1))
    with pytest.raises(PlacementError, match="before the first step"):
        monitor.carried_out(slots)
    fed(monitor, unbalanced(50))
    for wrong, says in (
        (slots[0], r"shape \(10,\) of int64, expected whole numbers \[layers, slots\]"),
        (slots / 2, "of float64"),
        (np.tile(np.arange(8), (2, 1)), r"shape \(2, 8\), expected \[layers, slots\] = \(2, 10\)"),
        (np.where(slots == 3, 2, slots), "row 0 of the plan: expert 3 is missing, expected each of 0 to 7"),
        (np.vstack([slots[0], np.arange(10)]), "row 1 of the plan: expert 8 is unknown"),
    ):
        with pytest.raises(PlacementError, match=says):
            monitor.carried_out(wrong)
    monitor.carried_out(slots)


def test_summary_speaks_in_notebooks_and_terminals() -> None:
    """Sentences as text; a table and heat maps as HTML; before the first snapshot it says so."""
    monitor = LoadMonitor(Settings(follow=True))
    assert str(monitor.summary()) == "nothing seen yet"
    assert "nothing seen yet" in monitor.summary()._repr_html_()
    fed(monitor, unbalanced())
    text, html = str(monitor.summary()), monitor.summary()._repr_html_()
    assert "Step 400: stable in all 2 layers" in text
    assert "Advice: leave it" in text
    assert html.count("data:image/png;base64,") == 2
    assert "<td" in html
