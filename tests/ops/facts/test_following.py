"""A recording is followed without touching it, and found by any of its names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.ops.commands.inspect import _place
from moeload_bench.ops.facts.following import Follower
from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.facts.terminal import expert_sentences
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter, rows_of
from moeload_bench.traces.lookup import find_run
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace


class Recording:
    """A trace that is being written again, row by row, by the recorder's own writer."""

    def __init__(self, folder: Path, trace: Trace) -> None:
        self.target = folder / "mine/test/seed0.parquet"
        self.rows = list(rows_of(trace))
        self.writer = TraceWriter(Parts(self.target), lambda: trace.meta, shard_steps=100)
        self.writer.parts.start(resume=False)
        self.at = 0

    def write(self, steps: int) -> None:
        for row in self.rows[self.at : self.at + steps]:
            self.writer.add(row)
        self.at += steps


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path, synthetic_trace(600))


def steps_of(follower: Follower) -> list[int]:
    return [row["step"] for new in follower.poll() for row in rows_of(new)]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_rows_come_as_shards_are_written_and_once_each(recording: Recording, tmp_path: Path) -> None:
    """Whole shards only, then the rest from the finished trace, which takes the place of the parts."""
    follower = Follower(find_run(recording.writer.parts.folder))
    assert steps_of(follower) == []
    recording.write(250)
    assert steps_of(follower) == list(range(200))
    assert follower.status == "recording"
    assert steps_of(follower) == []
    recording.write(350)
    recording.writer.finish(complete=True)
    assert steps_of(follower) == list(range(200, 600))
    assert (follower.status, follower.problem, follower.generation) == ("finished", None, 0)
    assert steps_of(follower) == []


def test_nothing_of_the_writer_is_touched(recording: Recording, tmp_path: Path) -> None:
    """Not even leftovers that the recorder itself would remove; the writer goes on as if nobody looked."""
    recording.write(250)
    (recording.writer.parts.folder / ".0000000300.tmp").write_bytes(b"half a shard")
    before = contents(tmp_path)
    steps_of(Follower(find_run(tmp_path)))
    assert contents(tmp_path) == before
    recording.write(350)
    assert recording.writer.finish(complete=True) == recording.target


def test_training_that_goes_back_is_followed_from_the_start(recording: Recording) -> None:
    """After a resume from an older checkpoint the steps before count no more: they come anew, in order."""
    follower = Follower(find_run(recording.writer.parts.folder))
    recording.write(300)
    assert len(steps_of(follower)) == 300
    recording.writer.truncate(150)
    recording.at = 150
    assert steps_of(follower) == list(range(150))
    assert follower.generation == 1
    recording.write(100)
    assert steps_of(follower) == list(range(150, 250))


def test_a_recording_that_goes_back_and_overtakes_is_noticed(recording: Recording) -> None:
    """Between two looks training went back and beyond: the shards' names tell."""
    follower = Follower(find_run(recording.writer.parts.folder))
    recording.write(300)
    steps_of(follower)
    recording.writer.truncate(150)
    recording.at = 150
    recording.write(250)
    assert steps_of(follower) == list(range(350))
    assert follower.generation == 1


@pytest.mark.parametrize("steps", [100, 300, 500])
def test_another_recording_in_its_place_is_followed_from_its_start(steps: int, tmp_path: Path) -> None:
    """Shorter, as long or longer: its rows never follow those of the first."""
    first, second = (Recording(tmp_path / f"{seed}", synthetic_trace(600, seed=seed)) for seed in (0, 1))
    follower = Follower(find_run(first.writer.parts.folder))
    first.write(300)
    assert len(steps_of(follower)) == 300
    second.write(steps)
    shutil.rmtree(first.writer.parts.folder)
    shutil.move(second.writer.parts.folder, first.writer.parts.folder)
    loads = [row["load"] for new in follower.poll() for row in rows_of(new)]
    np.testing.assert_array_equal(loads, [row["load"] for row in second.rows[:steps]])
    assert follower.generation == 1


def test_a_shorter_trace_in_place_of_a_recording_is_shown(recording: Recording) -> None:
    """It is that of another run."""
    follower = Follower(find_run(recording.writer.parts.folder))
    recording.write(300)
    assert len(steps_of(follower)) == 300
    shutil.rmtree(recording.writer.parts.folder)
    write_trace(synthetic_trace(50), recording.target)
    assert steps_of(follower) == list(range(50))
    assert (follower.status, follower.generation) == ("finished", 1)


@pytest.mark.parametrize("damage", ["truncated", "gone", "manifest", "names"])
def test_damage_is_named_and_waited_out(recording: Recording, damage: str) -> None:
    """A shard that is not whole (another machine's disk), one that is missing, a manifest that is none."""
    recording.write(200)
    folder = recording.writer.parts.folder
    shard, manifest = folder / "0000000100.parquet", folder / "manifest.json"
    path = shard if damage in ("truncated", "gone") else manifest
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "names":
        manifest.write_text('{"shards": ["../../../etc/passwd"], "next_step": 9}')
    else:
        path.write_bytes(content[: len(content) // 2])
    follower = Follower(find_run(folder))
    first = steps_of(follower)
    assert first == (list(range(100)) if path is shard else [])
    assert follower.problem is not None
    assert damage == "gone" or str(path) in follower.problem
    path.write_bytes(content)
    assert first + steps_of(follower) == list(range(200))
    assert follower.problem is None


def test_a_layer_without_load_has_no_coldest_expert() -> None:
    """Of its experts nothing is known: they are named neither as the hottest nor as the coldest."""
    load_SLE = np.full((100, 2, 32), 10)
    load_SLE[:, 1] = 0
    hottest, coldest = expert_sentences(inspect_trace(Trace.from_arrays(load_SLE)))
    assert "nan" not in hottest + coldest
    assert re.findall(r"(\d+)\.\d+ 1\.00", hottest + coldest) == ["0"] * 16


def test_inspect_follow_waits_for_a_recording_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so once, in one sentence, and goes on as soon as there is one."""
    folder, looks = tmp_path / "runs", iter(range(3))

    def sleep(seconds: float) -> None:
        if next(looks) == 2:
            write_trace(synthetic_trace(recipe="mine"), folder / "mine" / "test" / "seed0.parquet")

    monkeypatch.setattr("moeload_bench.ops.commands.inspect.time.sleep", sleep)
    assert _place(str(folder), 2.0) == find_run(folder)
    said = capsys.readouterr().err
    assert said.count("is not there yet: a recording appears when training starts. Waiting (Ctrl-C ends).") == 1
