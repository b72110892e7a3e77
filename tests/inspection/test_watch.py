"""`moeload-bench watch`: follows a recording without touching it, and shows it on any terminal."""

from __future__ import annotations

import io
import os
import re
import select
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.cli.watch import _appearing, _View
from moeload_bench.errors import MoeloadError, NotFoundError, TraceError
from moeload_bench.inspection.following import Follower, Place
from moeload_bench.inspection.planning import Settings
from moeload_bench.inspection.screen import BLOCKS, heat_lines, screen
from moeload_bench.inspection.snapshots import replay, replay_with_watch
from moeload_bench.inspection.summary import expert_sentences
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter, rows_of
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE, synthetic_trace

SETTINGS = Settings()


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
    return [row["step"] for new in follower.poll() for row in new.each()]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_rows_come_as_shards_are_written_and_once_each(recording: Recording, tmp_path: Path) -> None:
    """Whole shards only, then the rest from the finished trace, which takes the place of the parts."""
    follower = Follower(Place.of(str(recording.writer.parts.folder)))
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
    steps_of(Follower(Place.of(str(tmp_path))))
    assert contents(tmp_path) == before
    recording.write(350)
    assert recording.writer.finish(complete=True) == recording.target


def test_training_that_goes_back_is_followed_from_the_start(recording: Recording) -> None:
    """After a resume from an older checkpoint the steps before count no more: they come anew, in order."""
    follower = Follower(Place.of(str(recording.writer.parts.folder)))
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
    follower = Follower(Place.of(str(recording.writer.parts.folder)))
    recording.write(300)
    steps_of(follower)
    recording.writer.truncate(150)
    recording.at = 150
    recording.write(250)
    assert steps_of(follower) == list(range(350))
    assert follower.generation == 1


@pytest.mark.parametrize("damage", ["truncated", "gone", "manifest", "names"])
def test_damage_is_named_and_waited_out(recording: Recording, damage: str) -> None:
    """A shard that is not whole (another machine's disk), one that is missing, a manifest that is none."""
    recording.write(200)
    folder = recording.writer.parts.folder
    shard, manifest = folder / "0000000100.parquet", folder / "manifest.json"
    path = shard if damage in ("truncated", "gone") else manifest
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "names":
        manifest.write_text('{"shards": ["../../../etc/passwd"], "next_step": 9}')
    else:
        path.write_bytes(whole[: len(whole) // 2])
    follower = Follower(Place.of(str(folder)))
    first = steps_of(follower)
    assert first == (list(range(100)) if path is shard else [])
    assert follower.problem is not None
    assert damage == "gone" or str(path) in follower.problem
    path.write_bytes(whole)
    assert first + steps_of(follower) == list(range(200))
    assert follower.problem is None


def test_a_place_is_found_by_any_of_its_names(recording: Recording, tmp_path: Path) -> None:
    """Trace, parts, folder (in progress and finished, at any depth), id; what is neither is named."""
    recording.write(100)
    place = Place.of(str(recording.target))
    assert Place.of(str(recording.writer.parts.folder)) == place == Place.of(str(tmp_path))
    assert Place.of(str(tmp_path / "mine")) == place
    done = Place.of(str(write_trace(synthetic_trace(60), tmp_path / "runs/my-run/test/seed0.parquet")))
    for folder in ("runs", "runs/my-run", "runs/my-run/test"):
        assert Place.of(str(tmp_path / folder)) == done
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no recording there"):
        Place.of(str(tmp_path / "empty"))
    with pytest.raises(MoeloadError, match="nowhere/test/seed0"):
        Place.of("nowhere/test/seed0")


def watch(*arguments: str, columns: int = 80) -> Any:
    return CliRunner().invoke(app, ["watch", *arguments], env={"COLUMNS": str(columns), "TERM": "dumb"})


@pytest.mark.parametrize("columns", [80, 160])
def test_once_prints_what_a_replay_says(tmp_path: Path, columns: int) -> None:
    """State, advice and heat map of the last snapshot, no line wider than the terminal, no colour in a pipe."""
    trace = synthetic_trace(600)
    path = write_trace(trace, tmp_path / "own/test/seed0.parquet")
    last = list(replay(trace, SETTINGS))[-1]
    shown = watch(str(path), "--once", columns=columns)
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.output.splitlines())) <= columns
    assert "\x1b" not in shown.output
    assert last.advice is not None
    text = " ".join(shown.output.split())
    assert last.advice.reason in text
    assert f"Step 600: {last.state} in both layers" in text
    heat = [line for line in shown.output.splitlines() if re.match(r" +\d ", line) and set(line) & set(BLOCKS[1:])]
    assert len(heat) == 4
    assert "finished, 600 steps read" in text


def test_once_shows_a_recording_in_progress(recording: Recording) -> None:
    """The steps on disk so far; before the first snapshot there are only these."""
    recording.write(250)
    shown = watch(str(recording.writer.parts.folder), "--once")
    assert shown.exit_code == 0
    assert "Step 200:" in shown.output
    assert "recording, 200 steps read" in shown.output


def test_once_shows_a_trace_of_every_20th_step(tmp_path: Path) -> None:
    """Without an option: the looks fit the stride, and what was read is counted in training steps."""
    trace = Trace.from_arrays(synthetic_load_SLE(300), 512, 2, step_S=np.arange(300) * 20)
    shown = watch(str(write_trace(trace, tmp_path / "own/test/seed0.parquet")), "--once")
    assert shown.exit_code == 0, shown.exception
    assert "Step 6,000: stable in both layers" in shown.output
    assert "finished, 6,000 steps read" in shown.output


def test_bad_input_ends_with_one_line(tmp_path: Path, recording: Recording) -> None:
    """Nothing recorded yet, a layer that is not there, a cluster that does not fit, half of its options."""
    path = str(write_trace(synthetic_trace(60), tmp_path / "own/test/seed0.parquet"))
    for arguments, expected in (
        ([str(recording.writer.parts.folder)], "nothing is recorded there yet"),
        ([path, "--layer", "9"], "unknown layer '9'"),
        ([path, "--devices", "2", "--slots", "2"], "4 experts"),
        ([path, "--devices", "3", "--slots", "10"], "do not divide over 3 devices"),
        ([path, "--devices", "3"], "--devices and --slots go together"),
        ([path, "--nodes", "2"], "--nodes 2 needs --devices and --slots"),
    ):
        result = watch(*arguments, "--once")
        assert result.exit_code != 0
        assert isinstance(result.exception, MoeloadError), result.exception
        assert expected in str(result.exception)


@pytest.mark.parametrize("given", ["none.parquet", "none.parts"])
def test_a_recording_that_is_nowhere_is_named_as_an_error(given: str, tmp_path: Path) -> None:
    """Neither the trace nor its parts: both are named, and what prints once does not say that it waits."""
    done = watch(str(tmp_path / given), "--once")
    assert isinstance(done.exception, TraceError)
    assert str(done.exception).startswith(f"{tmp_path / 'none.parquet'}: no such file, and no none.parts of")
    assert "waiting" not in str(done.exception)
    (tmp_path / "none.parts").mkdir()
    empty = watch(str(tmp_path / given), "--once").exception
    assert str(empty) == f"{tmp_path / 'none.parts'}: nothing is recorded there yet"


def test_many_experts_share_lines() -> None:
    """256 experts take no more than 16 lines, and the hottest of a line shows."""
    rng = np.random.default_rng(0)
    share_E = np.full(256, 1 / 512)
    share_E[200] = 0.5
    load_SLE = np.stack([rng.multinomial(4096, share_E / share_E.sum()) for _ in range(200)])[:, None]
    watch, snapshot = list(replay_with_watch(Trace.from_arrays(load_SLE), SETTINGS))[-1]
    lines = [line.plain for line in heat_lines(watch.history.past(), snapshot, 0, 80)]
    assert len(lines) == 1 + 16 + 3
    hot = next(line for line in lines if line.strip().startswith("192-207"))
    assert "█" in hot
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith("a cell is the largest of its 16 experts")


@pytest.mark.parametrize("height", [30, 40, 60])
def test_many_experts_have_their_extremes_named_on_one_screen(height: int) -> None:
    """58 x 256: hottest, coldest and dead with their loads, quantiles over experts and layers; all the screen fits."""
    load_LE = np.full((58, 256), 100)
    load_LE[:, 255] += 2 * np.arange(58)
    load_LE[:, 253:255] -= np.arange(58)[:, None]
    load_LE[7, [200, 31, 32, 33]] = 289, 11, 0, 100  # as many in all as before
    watch, snapshot = list(replay_with_watch(Trace.from_arrays(np.repeat(load_LE[None], 100, axis=0)), SETTINGS))[-1]
    console = Console(width=80, file=io.StringIO())
    shown = screen(
        snapshot, watch.history.past(), title="own", status="finished", width=80, height=height, layer=7, keys=True
    )
    console.print(shown)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "Experts dead: 1 (layer.expert 7.32 0.00)" in text
    assert "of experts: p50 1.00, p90 1.00, p99 1.00, most 2.89; of each layer's hottest: p50 1.59, p90 2.05," in text
    assert "Hottest (layer.expert, load / even share): 7.200 2.89, 57.255 2.14, 56.255 2.12" in text
    assert "Coldest of those that live: 7.31 0.11, 57.253 0.43, 57.254 0.43" in text


def test_a_layer_without_load_is_no_part_of_the_quantiles() -> None:
    """Of its experts nothing is known: they are not the coldest."""
    load_SLE = np.full((100, 2, 32), 10)
    load_SLE[:, 1] = 0
    snapshot = list(replay(Trace.from_arrays(load_SLE), SETTINGS))[-1]
    spread, hottest, coldest = expert_sentences(snapshot)[1:]
    assert "nan" not in spread + hottest + coldest
    assert re.findall(r"(\d+)\.\d+ 1\.00", hottest + coldest) == ["0"] * 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [80, 160])
def test_the_view_refreshes_scrolls_and_quits(recording: Recording, columns: int) -> None:
    """On a real (pseudo) terminal: shows what is on disk, then what comes; j changes the layer; q ends it."""
    import fcntl
    import pty
    import struct
    import termios

    recording.write(200)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", OMP_NUM_THREADS="1")
        command = shutil.which("moeload-bench", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        os.execv(str(command), ["moeload-bench", "watch", str(recording.writer.parts.folder), "--refresh", "0.2"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def seen(wanted: str, seconds: float = 60) -> bool:
        text, until = "", time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([terminal], [], [], 0.2)[0]:
                text += os.read(terminal, 65536).decode(errors="replace")
                if wanted in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text):
                    return True
        return False

    try:
        assert seen("Step 200:")
        recording.write(200)
        assert seen("Step 400:")
        shown = "layer 0: share" if seen("layer 1: share", 1) else "layer 1: share"
        os.write(terminal, b"j")
        assert seen(shown)
    finally:
        os.write(terminal, b"q")
        _, status = os.waitpid(child, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_finished_run_is_found_from_any_folder_above_it(tmp_path: Path) -> None:
    """`watch runs/my-run` during training and after it, `runs` and `runs/my-run/test` too."""
    path = write_trace(synthetic_trace(40), tmp_path / "runs/my-run/test/seed0.parquet")
    for folder in (path.parent, path.parent.parent, tmp_path / "runs"):
        assert Place.of(str(folder)).trace == path


def test_a_folder_s_name_moves_no_cursor() -> None:
    """Neither in the title nor in what is said of it."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    evil = "runs/a\x1b[31mb\x1b[2J"
    console.print(screen(None, None, title=evil, status=f"{evil}: nothing", width=100, height=30, layer=0, keys=False))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31m" not in shown
    assert "\x1b[2J" not in shown
    assert r"runs/a\u001b[31mb\u001b[2J" in shown


def test_watch_waits_for_a_recording_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so once, in one sentence, and goes on as soon as there is one."""
    folder, looks = tmp_path / "runs", iter(range(3))

    def sleep(seconds: float) -> None:
        if next(looks) == 2:
            write_trace(synthetic_trace(recipe="mine"), folder / "mine" / "test" / "seed0.parquet")

    monkeypatch.setattr("moeload_bench.cli.watch.time.sleep", sleep)
    assert _appearing(str(folder), 2.0) == Place.of(str(folder))
    said = capsys.readouterr().out
    assert said.count("is not there yet: a recording appears when training starts. Waiting (Ctrl-C ends).") == 1


def test_the_first_minute_says_when_steps_will_come(tmp_path: Path) -> None:
    """Nothing is on disk before 250 steps or a minute; then the first numbers take a while."""
    view = _View(Place(tmp_path / "seed0.parquet", tmp_path / "seed0.parts"), Settings(), None)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(view.screen(80, 24, keys=True))
    text = " ".join(console.export_text().split())
    assert "waiting, no step is on disk yet: the recorder writes every 250 steps, or once a minute" in text


def test_a_young_run_shows_no_number_that_it_has_not(tmp_path: Path) -> None:
    """Before two windows of the state rule there is no start to compare with, and no forecast was judged."""
    path = write_trace(synthetic_trace(50), tmp_path / "young.parquet")
    done = CliRunner().invoke(app, ["watch", str(path), "--once", "--devices", "2", "--slots", "6"])
    assert done.exit_code == 0
    assert "nan" not in done.output.lower()
