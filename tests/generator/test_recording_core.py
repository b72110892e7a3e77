"""Recordings survive interruption, refuse to lose data, and repeat bit for bit on one machine."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from moeload_bench.errors import RecordingError, TraceError
from moeload_bench.generator.recipe import Recipe
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.recording.metadata import hardware
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import RecordingWarning, TraceWriter, finish_parts, rows_of
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import full_disk, synthetic_trace
from tests.support.recording.recipes import RECIPE, assert_equal, interrupt, small_recipe, use_small_text

torch.set_num_threads(1)
FIRST_SHARD = {"0000000000.parquet", "lock", "manifest.json"}
"""Files of a recording of which one shard is on disk."""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    use_small_text(monkeypatch)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return small_recipe(tmp_path)


def test_a_recipe_gives_a_complete_trace(recipe: Recipe, tmp_path: Path) -> None:
    """Twelve steps with two micro-batches: conserved, halves equal, planned stage and rate in their columns."""
    path = record_recipe(Job(recipe, 0, "train", 12, tmp_path / "out"))
    trace = read_trace(path)
    assert path == tmp_path / "out/small/train/seed0.parquet"
    assert trace.step_S.tolist() == list(range(12))
    assert (trace.load_SLE.sum(axis=2) == 8 * 16 * 2).all()
    assert (trace.columns["load_half"].sum(axis=2) == 8 * 16).all()
    assert trace.columns["stage"].tolist() == [0] * 6 + [1] * 6
    np.testing.assert_allclose(trace.columns["lr"], [recipe.lr_at(s) for s in range(12)], rtol=1e-6)
    assert trace.meta.complete
    assert trace.meta.balancing.scope == "per_micro_batch"
    assert [source.name for source in trace.meta.sources] == ["prose", "code", "code"]
    assert not path.with_suffix(".parts").exists()


def test_micro_batches_change_no_load_at_learning_rate_zero(recipe: Recipe, tmp_path: Path) -> None:
    """Accumulation splits the same sequences: with nothing learnt the loads are those of one large batch."""
    still = RECIPE.replace("lr = 1e-2", "lr = 1e-30")
    traces = []
    for passes in (1, 4):
        text = still.replace("micro_batches = 2", f"micro_batches = {passes}")
        job = Job(small_recipe(tmp_path, text), 0, "test", 3, tmp_path / str(passes))
        traces.append(read_trace(record_recipe(job)))
    np.testing.assert_array_equal(traces[0].load_SLE, traces[1].load_SLE)
    np.testing.assert_array_equal(traces[0].columns["load_half"], traces[1].columns["load_half"])


@pytest.mark.parametrize("at_step", [4, pytest.param(9, marks=pytest.mark.slow)])
def test_a_restart_from_weights_forgets_the_moments(recipe: Recipe, tmp_path: Path, at_step: int) -> None:
    """The optimizer starts anew at the restart, wherever a recording is broken off; kept moments train differently."""
    restarting = RECIPE.replace("warmup = 3", 'kind = "cosine_restarts"\nwarmup = 3\nperiod = 4\nrestart_factor = 2.0')
    forgotten = small_recipe(tmp_path, f"{restarting}restart_from_weights = true\n")
    straight_run = read_trace(record_recipe(Job(forgotten, 5, "test", 12, tmp_path / "whole", shard_steps=4)))
    job = Job(forgotten, 5, "test", 12, tmp_path / "broken", shard_steps=4)
    interrupt(job, at_step=at_step)
    assert_equal(read_trace(record_recipe(job, resume=True)), straight_run)
    other = small_recipe(tmp_path, restarting.replace("warmup = 3", "warmup = 0"))
    loss_S = read_trace(record_recipe(Job(other, 5, "test", 12, tmp_path / "kept"))).columns["loss"]
    assert not np.array_equal(loss_S[5:], straight_run.columns["loss"][5:])


def kill_and_resume(job: Job, kills: int, seed: int) -> Trace:
    """Kill a recording by SIGKILL at random moments, going on each time; then let it finish."""
    rng = random.Random(seed)
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = context.Process(target=record_recipe, args=(job,), kwargs={"resume": True})
        process.start()
        process.join(rng.uniform(0.02, 0.4))
        process.kill()
        process.join()
        if job.target.exists():
            break
    return read_trace(job.target if job.target.exists() else record_recipe(job, resume=True))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_recording_loses_and_repeats_no_step(recipe: Recipe, tmp_path: Path, kills: int) -> None:
    """SIGKILL at any moment, also while files are written, costs nothing but time."""
    steps = 8 * kills
    job = Job(recipe, 1, "test", steps, tmp_path / "killed", shard_steps=3)
    killed = kill_and_resume(job, kills, seed=kills)
    straight_run = read_trace(record_recipe(Job(recipe, 1, "test", steps, tmp_path / "whole", shard_steps=100)))
    assert_equal(killed, straight_run)


def test_nothing_is_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    """A finished trace is never touched; an unfinished one only goes on when that is asked for."""
    job = Job(recipe, 0, "test", 4, tmp_path, shard_steps=2)
    interrupt(job, at_step=3)
    with pytest.raises(RecordingError, match="unfinished recording is there; continue with --resume"):
        record_recipe(job)
    path = record_recipe(job, resume=True)
    before = path.read_bytes()
    for resume in (False, True):
        with pytest.raises(RecordingError, match="a trace is there already"):
            record_recipe(job, resume=resume)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "version = 2", "begun with version 1 of recipe small, this is version 2"),
        ("lr = 1e-2", "lr = 1e-3", "optimizer.lr was 0.01 when the recording was begun, it is 0.001"),
        ("coefficient = 0.01", "coefficient = 0.1", "balancing.coefficient was 0.01"),
        ("num_experts = 4", "num_experts = 8", "model.config.num_experts was 4"),
        ('sources = ["code"]', 'sources = ["prose"]', "data.stages was "),
        ("[[data.stages]]", '[data.pretraining]\nsteps = 4\nsources = ["code"]\n\n[[data.stages]]', "data.pretraining"),
    ],
)
def test_an_edited_recipe_does_not_go_on(recipe: Recipe, tmp_path: Path, old: str, new: str, says: str) -> None:
    """The same name and version with another number is another recipe: the first key that differs is named."""
    interrupt(Job(recipe, 0, "test", 9, tmp_path / "out", shard_steps=2), at_step=5)
    edited = small_recipe(tmp_path, RECIPE.replace(old, new, 1))
    with pytest.raises(RecordingError, match=re.escape(says)):
        record_recipe(Job(edited, 0, "test", 9, tmp_path / "out", shard_steps=2), resume=True)
    longer = recipe.model_copy(update={"steps": 20, "about": "another word for it"})
    assert read_trace(record_recipe(Job(longer, 0, "test", 9, tmp_path / "out"), resume=True)).steps == 9


def test_changed_text_does_not_go_on(recipe: Recipe, tmp_path: Path) -> None:
    """A folder of text that was edited in between is another source, or trains another tokenizer."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("one two three four " * 400, encoding="utf-8")
    text = RECIPE.replace('sources = ["code"]', f'sources = ["folder:{tmp_path / "text"}"]')
    job = Job(small_recipe(tmp_path, text), 0, "test", 9, tmp_path / "out", shard_steps=2)
    interrupt(job, at_step=5)
    (tmp_path / "text/a.txt").write_text("one two three five " * 400, encoding="utf-8")
    with pytest.raises(RecordingError, match=r"sha256 of the text: folder:.*/text was '[0-9a-f]{64}' when"):
        record_recipe(job, resume=True)


def edit_manifest(job: Job, change: Callable[[dict[str, Any]], None]) -> None:
    path = job.target.with_suffix(".parts") / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_recording_without_a_checkpoint_does_not_go_on_from_new_weights(recipe: Recipe, tmp_path: Path) -> None:
    """A shorter recording that was cut off at its end has steps and no checkpoint: two trainings are no trace."""
    job = Job(recipe, 5, "test", 12, tmp_path, shard_steps=4)
    interrupt(job, at_step=6)
    edit_manifest(job, lambda manifest: manifest.update(checkpoint=None))
    with pytest.raises(RecordingError, match=r"4 steps are on disk and no checkpoint to continue from; .* --fresh"):
        record_recipe(job, resume=True)
    short = replace(job, steps=4)
    assert read_trace(record_recipe(short, resume=True)).steps == 4


def test_a_recording_begun_before_recipes_were_kept_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    """A manifest of an older version names no recipe, text, columns or owner, and is gone on with."""

    def older(manifest: dict[str, Any]) -> None:
        del manifest["owner"]
        manifest["state"] = {"meta": manifest["state"]["meta"]}

    job = Job(recipe, 0, "test", 9, tmp_path, shard_steps=2)
    interrupt(job, at_step=5)
    edit_manifest(job, older)
    assert read_trace(record_recipe(job, resume=True)).steps == 9


def test_other_versions_of_what_computes_are_a_warning(recipe: Recipe, tmp_path: Path) -> None:
    """Another torch may round differently: the recording goes on, and says so."""
    job = Job(recipe, 0, "test", 9, tmp_path, shard_steps=2)
    interrupt(job, at_step=5)
    edit_manifest(job, lambda manifest: manifest["state"]["meta"]["versions"].update(torch="1.0"))
    with pytest.warns(RecordingWarning, match=r"begun with torch 1\.0, this is "):
        record_recipe(job, resume=True)


def test_a_recording_that_went_on_elsewhere_names_both_machines(recipe: Recipe, tmp_path: Path) -> None:
    """The trace belongs to the machine that began it, and a note says what came later."""

    def moved(manifest: dict[str, Any]) -> None:
        for record in (manifest["state"]["meta"], *manifest["state"]["machines"]):
            record["hardware"]["cpu"] = "Another"

    job = Job(recipe, 0, "test", 9, tmp_path, shard_steps=2)
    interrupt(job, at_step=5)
    edit_manifest(job, moved)
    meta = read_trace(record_recipe(job, resume=True)).meta
    assert meta.hardware["cpu"] == "Another"
    cpu = hardware()["cpu"]
    assert meta.notes[1:] == (f"from step 6 on recorded elsewhere: cpu Another -> {cpu}",)


def test_a_partial_recording_becomes_a_marked_trace(recipe: Recipe, tmp_path: Path) -> None:
    """What is on disk of an unfinished recording can be made a trace; it says that it was cut short."""
    job = Job(recipe, 0, "test", 12, tmp_path, shard_steps=4)
    interrupt(job, at_step=9)
    parts = Parts(job.target)
    parts.reopen()
    trace = read_trace(finish_parts(parts, complete=False))
    assert trace.steps == 8
    assert not trace.meta.complete


def test_a_diverged_training_stops(recipe: Recipe, tmp_path: Path) -> None:
    """A loss that is not finite ends the recording; every step before it is on disk, and can be made a trace."""
    wild = RECIPE.replace("lr = 1e-2", "lr = 1e6")
    job = Job(small_recipe(tmp_path, wild), 0, "test", 12, tmp_path / "out", shard_steps=250)
    with pytest.raises(RecordingError, match=r"step (\d+): the loss is (nan|inf)") as stopped:
        record_recipe(job)
    parts = Parts(job.target)
    parts.reopen()
    assert parts.next_step >= 1
    assert f"step {parts.next_step}: " in str(stopped.value)
    assert read_trace(finish_parts(parts, complete=False)).steps == parts.next_step


def a_writer(
    folder: Path, count: int = 0, shard_steps: int = 4, *, resume: bool = False, shard_seconds: float | None = None
) -> tuple[TraceWriter, list[dict[str, Any]]]:
    """A writer with its first rows, and all rows that there are."""
    trace = synthetic_trace(20)
    rows = [
        {"step": s, "tokens": trace.tokens_SL[s], "load": trace.load_SLE[s], "loss": trace.columns["loss"][s]}
        for s in range(20)
    ]
    target = folder / "own/test/seed0.parquet"
    writer = TraceWriter(Parts(target), lambda: trace.meta, shard_steps=shard_steps, shard_seconds=shard_seconds)
    writer.parts.start(resume)
    add(writer, rows[:count])
    return writer, rows


def add(writer: TraceWriter, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        writer.add(row)


@pytest.mark.parametrize("wrong", [2, 4])
def test_a_gap_or_a_repeat_is_refused(tmp_path: Path, wrong: int) -> None:
    """After step 2 only step 3 can follow."""
    writer, rows = a_writer(tmp_path, 3)
    with pytest.raises(RecordingError, match=f"got step {wrong}, expected step 3"):
        writer.add(rows[wrong])


@pytest.mark.parametrize("back_to", [0, 3, 4, 9, 10])
def test_going_back_to_an_older_checkpoint_repeats_nothing(tmp_path: Path, back_to: int) -> None:
    """Training that resumes at step n drops the recorded steps from n on, across shards, and goes on from there."""
    writer, rows = a_writer(tmp_path, 10)
    writer.flush()
    writer.truncate(back_to)
    add(writer, rows[back_to:])
    assert read_trace(writer.finish(complete=True)).step_S.tolist() == list(range(20))


def test_a_crash_while_going_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the manifest names the shorter shard, the longer one and what comes after it stand."""
    writer, rows = a_writer(tmp_path, 10)
    writer.flush()

    def crash(manifest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writer.parts, "_write_manifest", crash)
        with pytest.raises(KeyboardInterrupt):
            writer.truncate(6)
    again, _ = a_writer(tmp_path, resume=True)
    assert again.parts.next_step == 10
    add(again, rows[10:])
    assert read_trace(again.finish(complete=True)).step_S.tolist() == list(range(20))


def test_missing_steps_are_refused(tmp_path: Path) -> None:
    """Training cannot go on at a step when those before it were not recorded."""
    writer, _ = a_writer(tmp_path, 4)
    with pytest.raises(RecordingError, match="goes on at step 7, but only steps before 4 are recorded"):
        writer.truncate(7)


def test_a_column_that_comes_and_goes_is_refused(tmp_path: Path) -> None:
    """All rows hold the same columns, also those of a recording that goes on: its 8 rows are on disk."""
    writer, rows = a_writer(tmp_path, 9)
    for row in ({key: value for key, value in rows[9].items() if key != "loss"}, {**rows[9], "lr": 0.1}):
        with pytest.raises(RecordingError, match="step 9 has columns"):
            writer.add(row)
    again, _ = a_writer(tmp_path, resume=True)
    with pytest.raises(RecordingError, match=r"step 8 has columns \[.*'lr'.*\], the steps before have \[.*\]"):
        again.add({**rows[8], "lr": 0.1})
    again.add(rows[8])
    assert read_trace(again.finish(complete=True)).steps == 9


def test_a_recording_that_was_taken_over_does_not_write(tmp_path: Path) -> None:
    """Of two recordings at one target, the one that was started last goes on, and the other is told so."""
    first, rows = a_writer(tmp_path, 6)
    second, _ = a_writer(tmp_path, resume=True)
    with pytest.raises(RecordingError, match="another recording was started there since"):
        first.flush()
    add(second, rows[4:20])
    assert read_trace(second.finish(complete=True)).steps == 20
    with pytest.raises(RecordingError, match="another recording was started there since"):
        first.flush()


def test_shards_are_closed_by_time_as_well(tmp_path: Path) -> None:
    """Where steps are long, a shard does not wait for its number of steps."""
    writer, rows = a_writer(tmp_path, shard_steps=100, shard_seconds=0)
    for number, row in enumerate(rows[:3]):
        writer.add(row)
        assert writer.parts.next_step == number + 1
    assert read_trace(writer.finish(complete=True)).steps == 3


def test_shards_become_the_trace_that_would_be_written_at_once(tmp_path: Path) -> None:
    """Shards are put together a row group at a time: same values, same hash, same row groups, whatever their sizes."""
    trace = synthetic_trace(2500)
    columns = {
        **trace.columns,
        "loss": np.where(trace.step_S % 7, trace.columns["loss"], np.float32(np.nan)),
    }
    trace = Trace(trace.meta, trace.step_S, trace.tokens_SL, trace.load_SLE, columns)
    parts = Parts(tmp_path / "own/test/seed0.parquet")
    parts.start(resume=False)
    edges = [0, 1, 300, 1500, 1501, 2500]
    for first, after in itertools.pairwise(edges):
        parts.append(trace.cut(slice(first, after)))
    merged = parts.merge(trace.meta)
    assert_equal(read_trace(merged), trace)
    at_once = write_trace(trace, tmp_path / "whole.parquet")
    got, expected = pq.ParquetFile(merged), pq.ParquetFile(at_once)
    assert got.schema_arrow.equals(expected.schema_arrow, check_metadata=True)
    assert [got.metadata.row_group(i).num_rows for i in range(got.num_row_groups)] == [1024, 1024, 452]


def test_a_checkpoint_that_does_not_fit_keeps_what_was_recorded(tmp_path: Path) -> None:
    """torch.save says RuntimeError when the disk is full: the shard without checkpoint and its scratch file go."""
    writer, rows = a_writer(tmp_path, 4)

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:820] . PytorchStreamWriter failed writing file")

    for row in rows[4:7]:
        writer.add(row, full)
    with pytest.raises(RecordingError, match=r"cannot write steps 4 to 7.*PytorchStreamWriter.*before 4 are intact"):
        writer.add(rows[7], full)
    assert {path.name for path in writer.parts.folder.iterdir()} == FIRST_SHARD
    parts = Parts(writer.parts.target)
    parts.reopen()
    assert read_trace(finish_parts(parts, complete=False)).steps == 4


def test_a_disk_that_fills_within_a_shard_leaves_what_goes_on(tmp_path: Path) -> None:
    """The kernel itself refuses more bytes: half a shard is no part of the recording, which goes on with space."""
    writer, rows = a_writer(tmp_path, 7)
    with full_disk(1000), pytest.raises(RecordingError, match=r"cannot write steps 4 to 7.*before 4 are intact"):
        writer.add(rows[7])
    assert {path.name for path in writer.parts.folder.iterdir()} == FIRST_SHARD
    again, _ = a_writer(tmp_path, resume=True)
    add(again, rows[4:8])
    assert read_trace(again.finish(complete=True)).step_S.tolist() == list(range(8))


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    """Files that the manifest does not name, such as half-written shards, are dropped when the folder is opened."""
    writer, _ = a_writer(tmp_path, 4)
    stray = writer.parts.folder / "0000000004.parquet"
    stray.write_bytes(b"half")
    Parts(writer.parts.target).reopen()
    assert not stray.exists()


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    """A shard that was edited or cut is refused by name when the trace is put together."""
    writer, _ = a_writer(tmp_path, 8)
    shard = writer.parts.folder / "0000000004.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(TraceError, match=r"0000000004\.parquet"):
        writer.finish(complete=True)
    shutil.rmtree(writer.parts.folder)


def test_of_two_recorders_the_second_is_refused_at_once(tmp_path: Path) -> None:
    """Before any step is on disk; a recorder that ends or crashes frees the folder."""
    target = tmp_path / "own/test/seed0.parquet"
    first = Parts(target)
    first.start(resume=False)
    with pytest.raises(RecordingError, match=r"another recorder writes there \(process \d+ on .*\); end it, or choose"):
        Parts(target).start(resume=False)
    first.close()
    crash = (
        "import sys; from pathlib import Path; from moeload_bench.recording.parts import Parts\n"
        f"parts = Parts(Path({str(target)!r})); parts.start(resume=False)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", crash], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(RecordingError, match="another recorder writes there"):
            Parts(target).start(resume=True)
        child.kill()
    Parts(target).start(resume=False)


# ---------------------------------------------------------------- where shares jump


TOKENS, EXPERTS, STEPS, RESUMED = 4096, 8, 200, 100


def resumed_trace(out: Path, moved: float) -> Trace:
    """Two writers, the second goes on at RESUMED; from there on a part of the load is another expert's."""
    rng = np.random.default_rng(0)
    share_E = rng.dirichlet(np.full(EXPERTS, 5.0))
    other_E = (1 - moved) * share_E + moved * np.roll(share_E, 1)
    share_SE = np.where(np.arange(STEPS)[:, None] < RESUMED, share_E, other_E)
    load = rng.multinomial(TOKENS, share_SE)[:, None].repeat(2, axis=1)
    trace = Trace.from_arrays(load, top_k=1)
    rows = list(rows_of(trace))
    for part in (rows[:RESUMED], rows[RESUMED:]):
        writer = TraceWriter(Parts(out / "own/test/seed0.parquet"), lambda: trace.meta, shard_steps=40)
        writer.parts.start(resume=True)
        add(writer, part)
        writer.flush()
    return read_trace(writer.finish(complete=True))


@pytest.mark.parametrize(("moved", "noted"), [(0.0, False), (0.05, False), (1.0, True)])
def test_a_jump_at_the_resume_is_noted(moved: float, noted: bool, tmp_path: Path) -> None:
    """With the step and its size; a recording that goes on as it was says nothing."""
    notes = " ".join(resumed_trace(tmp_path, moved).meta.notes)
    assert (f"at step {RESUMED}, where the recording was resumed, shares jump" in notes) == noted
    assert "expected" not in notes


def test_a_change_elsewhere_is_no_jump_at_the_resume(tmp_path: Path) -> None:
    """The same loads in one go: nobody resumed, so there is nothing to note."""
    trace = resumed_trace(tmp_path, 1.0)
    writer = TraceWriter(
        Parts(tmp_path / "again/test/seed0.parquet"), lambda: trace.meta.model_copy(update={"notes": ()})
    )
    writer.parts.start(resume=False)
    add(writer, list(rows_of(trace)))
    assert read_trace(writer.finish(complete=True)).meta.notes == ()
