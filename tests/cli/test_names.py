"""A run and a forecaster have one name each: what is printed is what every command takes."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moeload_bench import load_results, load_trace
from moeload_bench.errors import MoeloadError
from moeload_bench.isolation.targets import forecaster_names, parse_target, printed_names
from moeload_bench.ops.facts.following import Follower
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter, rows_of
from moeload_bench.traces.lookup import find_run
from moeload_bench.traces.store import write_trace
from tests.cli.test_cli import moeload, started
from tests.conftest import TRACES, synthetic_trace

TRACE = synthetic_trace(1200, recipe="own")
RESULTS = TRACES.parent / "leaderboard" / "results"
CLUSTER = ("--devices", "2", "--slots", "6")
COMMANDS = {
    "inspect": ("inspect", "RUN"),
    "inspect --capacity": ("inspect", "RUN", "--capacity", "--drop", "1%"),
    "inspect --details": ("inspect", "RUN", "--details"),
    "inspect --html": ("inspect", "RUN", "--html", "OUT.html"),
    "inspect --steps": ("inspect", "RUN", "--steps", "0-600"),
    "inspect --against": ("inspect", "RUN", "--against", "RUN"),
    "inspect --json": ("inspect", "RUN", "--json"),
    "traces meta": ("traces", "meta", "RUN"),
    "plan": ("plan", "RUN", *CLUSTER, "--forecaster", "sw_avg", "--level", "none"),
    "run --trace": ("run", "sw_avg", "--trace", "RUN", "--level", "none"),
    "export trace": ("export", "trace", "RUN", "--format", "csv", "--out", "OUT.csv"),
    "export forecast": ("export", "forecast", "RUN", "--out", "OUT.json", "--level", "none"),
    "export figure": ("export", "figure", "heatmap", "RUN", "--out", "OUT.svg"),
    "validate": ("validate", "RUN"),
}
"""Each command that takes a run, and each option of `inspect` that reads it in a way of its own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and one in progress, each in a folder of its own, and a folder with two runs."""
    made = tmp_path_factory.mktemp("names")
    write_trace(TRACE, made / "traces/own/test/seed0.parquet")
    write_trace(TRACE, made / "other" / "run.parquet")
    parts = Parts(made / "unfinished/own/test/seed0.parquet")
    parts.start(False)
    writer = TraceWriter(parts, lambda: TRACE.meta, shard_steps=400)
    for row in rows_of(TRACE):
        writer.add(row)
    parts.close()
    for seed in (0, 1):
        write_trace(synthetic_trace(200, recipe="two", run=seed), made / f"several/two/test/seed{seed}.parquet")
    return made


OTHERS = {
    "traces list": ("traces", "list"),
    "check": ("check", "my.py:Mine"),
    "run --suite": ("run", "my.py:Mine", "--suite", "mini", "--level", "none"),
}
ANSWERS = ("inspect", "inspect --capacity", "inspect --steps", "inspect --html", "plan", "run --trace")
"""Commands that end with the next one to run."""
FORMS: dict[str, Callable[[Path], str]] = {
    "an id": lambda folder: "own/test/seed0",
    "a file": lambda folder: str(folder / "traces/own/test/seed0.parquet"),
    "a file of another name": lambda folder: str(folder / "other/run.parquet"),
    "a folder with one run": lambda folder: str(folder / "traces/own/test"),
    "a folder far above one run": lambda folder: str(folder / "traces"),
    "a folder with a file of another name": lambda folder: str(folder / "other"),
    "parts": lambda folder: str(folder / "unfinished/own/test/seed0.parts"),
    "the file that parts will be": lambda folder: str(folder / "unfinished/own/test/seed0.parquet"),
    "a folder with parts": lambda folder: str(folder / "unfinished"),
}


def typed(words: tuple[str, ...], run: str, out: Path) -> list[str]:
    """The words of a command for a run, with its output in a folder."""
    return [word.replace("RUN", run).replace("OUT", str(out / "made")) for word in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_every_name_of_a_run(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Id, file, parts, a folder above it alone; a folder above several lists them, but `validate` looks at all."""
    monkeypatch.setenv("MOELOAD_TRACES", str(folder / "traces"))
    for form, name in FORMS.items():
        done = moeload(*typed(COMMANDS[command], name(folder), tmp_path))
        assert done.returncode == 0, f"{form}: {done.stderr[-500:]}"
    done = moeload(*typed(COMMANDS[command], str(folder / "several"), tmp_path))
    if command == "validate":
        assert done.stdout.count("ok ") == 2
    else:
        assert done.returncode == 2
        assert "2 runs there, expected the name of one" in done.stderr
        assert {f"several/two/test/seed{seed}.parquet" in done.stderr for seed in (0, 1)} == {True}
    gone = moeload(*typed(COMMANDS[command], "no/test/seed0", tmp_path))
    assert gone.returncode == 2
    assert "unknown trace 'no/test/seed0'; " in gone.stderr


def test_what_a_folder_holds_decides_which_run_it_stands_for(folder: Path, tmp_path: Path) -> None:
    """Runs called seedN before files of other names; shards of parts are no runs; an empty folder is refused."""
    for name in ("traces", "unfinished"):
        assert find_run(folder / name) == find_run(folder / name / "own/test/seed0.parquet")
    assert load_trace(folder / "traces").id == TRACE.id
    shutil.copytree(folder / "traces", tmp_path / "both")
    shutil.copy(folder / "other/run.parquet", tmp_path / "both/results.parquet")
    assert load_trace(tmp_path / "both").id == TRACE.id
    assert sum(part.steps for part in Follower(find_run(folder / "unfinished")).poll()) == TRACE.steps
    with pytest.raises(MoeloadError, match=r"a recording that is not finished, expected a \.parquet trace"):
        load_trace(folder / "unfinished")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MoeloadError, match=r"empty: no run there, expected NAME/SPLIT/seedN\.parquet"):
        load_trace(tmp_path / "empty")


def test_a_recording_is_named_as_any_run(folder: Path, tmp_path: Path) -> None:
    """`record NAME` makes a trace of what is on disk; `--resume` asks for the recipe that it was begun with."""
    shutil.copytree(folder / "unfinished", tmp_path / "unfinished")
    named = moeload("record", str(tmp_path / "unfinished"), "--resume")
    assert named.returncode == 2
    assert "'own' is no recipe of this package, expected the one that it was begun with" in named.stderr
    done = moeload("record", str(tmp_path / "unfinished"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'unfinished/own/test/seed0.parquet'}\n")
    assert load_trace(tmp_path / "unfinished").steps == TRACE.steps
    again = moeload("record", str(tmp_path / "unfinished"))
    assert again.returncode == 2
    assert "it is finished" in again.stderr


@pytest.mark.parametrize("command", [*COMMANDS, *OTHERS])
def test_every_next_line_runs(command: str, folder: Path, tmp_path: Path) -> None:
    """What a command prints below `Next` is a command that works, as it stands, for a run named by its folder."""
    tutorial = (TRACES.parent / "docs/guide/tutorial-forecasting.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my\.py\n.*?)```", tutorial, re.DOTALL)
    (tmp_path / "my.py").write_text(code, encoding="utf-8")
    words = typed((COMMANDS | OTHERS)[command], FORMS["a folder with one run"](folder), tmp_path)
    shown = moeload(*words, cwd=tmp_path).stdout.replace("\\\n", " ")
    found = re.findall(r"\bNext\b[^:]*:\s+(moeload-bench.+(?:\n .+)*)", shown)
    assert bool(found) == (command in (*ANSWERS, *OTHERS))
    for line in found:
        program, *words = shlex.split(line)
        assert program == "moeload-bench"
        assert moeload(*words, cwd=tmp_path).returncode == 0, line


def test_every_name_that_tables_print_is_a_forecaster() -> None:
    """The entries of all committed boards; each keeps its name, and none stands for the file of another."""
    names = {path.stem for path in RESULTS.glob("*/*.parquet")} - {"costs"}
    assert names <= set(forecaster_names())
    assert all(parse_target(name).label == name for name in forecaster_names())
    assert set(printed_names()) <= set(forecaster_names())
    assert parse_target("sw_avg.w500").kwargs == {"window": 500}
    assert parse_target("lstm.online@units=8").kwargs == {"mode": "online", "units": 8}


def test_the_former_spelling_works_and_says_the_name() -> None:
    """`online_guarded`, the name of the file, is `online.guarded`: one line, and the results have that name."""
    with pytest.warns(FutureWarning, match=r"'online_guarded' is called 'online\.guarded' now"):
        assert parse_target("online_guarded@guard=false").label == "online.guarded@guard=false"
    done = started("check", "online_guarded")
    assert (done.returncode, done.stderr) == (0, "'online_guarded' is called 'online.guarded' now\n")


@pytest.mark.parametrize("name", ["online.guarded", "sw_avg.w10"])
def test_every_command_takes_a_printed_name(name: str, folder: Path, tmp_path: Path) -> None:
    """`run`, `plan`, `check`, `export forecast` and Python; what they write has the name."""
    run, out = str(folder / "traces"), tmp_path / "out.parquet"
    for words in (
        ("check", name),
        ("run", name, "--trace", run, "--level", "none", "--out", str(out)),
        ("plan", run, *CLUSTER, "--forecaster", name, "--level", "none"),
        ("export", "forecast", run, "--forecaster", name, "--level", "none", "--out", str(tmp_path / "ahead.json")),
    ):
        assert moeload(*words).returncode == 0, words
    assert name in load_results(out).names
