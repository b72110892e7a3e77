"""The command line: a thin layer over the API whose refusals are one line and whose exit status says what happened."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.__main__ import main
from moeload_bench.cli import run as run_command
from moeload_bench.cli.app import COMMANDS, app, module_of
from moeload_bench.cli.lazy import load_command
from moeload_bench.files import PACKAGE
from moeload_bench.harness import pairs
from moeload_bench.results.columns import Row
from moeload_bench.results.results import Results, load_results
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

ROOT = Path(__file__).resolve().parents[2]
HERE = ("--level", "none")  # where the forecasters' processes are not what is looked at


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real program in a process of its own."""
    command = [sys.executable, "-m", "moeload_bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


def moeload(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The program in this process, which has imported what it needs."""
    out, errors, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", ["moeload-bench", *arguments]),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())


@pytest.fixture
def own_trace(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(1200, recipe="own"), tmp_path / "own.parquet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "sw_avgg"], "unknown forecaster 'sw_avgg'; there is: "),
        (["run", "sw_avg@windw=3"], "unknown parameter 'windw'; it takes: window"),
        (["run", "--metric", "windowtv"], "unknown metric 'windowtv'; there is: coverage, drop_rate@experts, "),
        (["run", "--suite", "v9"], "unknown suite 'v9'; there is: "),
        (["traces", "meta", "no/test/seed0"], "unknown trace 'no/test/seed0'; of "),
        (["run", "--trace", "missing.parquet"], "missing.parquet: no such file"),
        (["traces", "list", "nowhere"], "nowhere: no such folder; expected one that holds RECIPE/SPLIT/seedN.parquet"),
        (["validate", "missing.parquet"], "missing.parquet: no such file"),
        (["run", "sw_avg", "--level", "jail"], "unknown isolation level 'jail'; there is: none, process, sandbox"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    """Got and what exists instead, exit status 2, no traceback."""
    refused(moeload(*arguments), message)


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One line on standard error, exit status 2."""
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    own_trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out` and the cache are made and tried first: no forecaster has run when they are refused."""
    file = own_trace.parent / "good.parquet"
    file.write_bytes(b"")
    folder = own_trace.parent / "folder.parquet"
    folder.mkdir()
    words = ("run", "sw_avg", "--trace", str(own_trace))
    for out, says in (
        (folder, f"--out: got {folder}, which is a folder, expected a .parquet file"),
        (folder / "out.json", f"--out: got {folder / 'out.json'}, expected a .parquet file or a folder; "),
        (file / "below.parquet", f"--out: got {file}, expected a folder that can be written to: "),
        (file / "below", f"--out: got {file / 'below'}, expected a folder that can be written to: "),
    ):
        done = moeload(*words, "--out", str(out))
        refused(done, says)
        assert done.stdout == ""
    refused(moeload(*words, "--keep-forecasts", str(file)), f"--keep-forecasts: got {file}, expected a folder")
    monkeypatch.setenv("MOELOAD_CACHE", str(file))
    refused(moeload(*words), f"the cache ($MOELOAD_CACHE): got {file}, expected a folder")


def test_a_disk_that_is_full_at_the_end_costs_no_table(
    own_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was computed is shown before it is written; what could not be written is one line and status 2."""

    def full(results: Results, path: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Results, "save", full)
    words = ["run", "sw_avg", "--trace", str(own_trace), "--level", "none", "--out", str(tmp_path / "out.parquet")]
    monkeypatch.setattr(sys, "argv", ["moeload-bench", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert "window_tv" in shown.out
    assert shown.err.endswith("out.parquet: No space left on device\n")


def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be written anywhere else: its name and the system's reason, exit status 2, no traceback."""

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/seed0.parquet")

    monkeypatch.setattr("moeload_bench.cli.app.app", full)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "moeload-bench: runs/seed0.parquet: No space left on device\n"


def test_the_version_is_that_of_the_installation() -> None:
    """`--version` prints it and stops."""
    done = started("--version")
    assert (done.returncode, done.stdout) == (0, f"{version('moeload-bench')}\n")


def test_a_suite_and_a_trace_exclude_each_other(own_trace: Path) -> None:
    """What is scored is one of them; neither is ignored in silence."""
    done = moeload("run", "sw_avg", "--suite", "mini", "--trace", str(own_trace))
    refused(done, f"got --suite mini and --trace {own_trace}, expected one of them")


@pytest.mark.parametrize("option", ["--sliding", "--blocks"])
def test_steps_between_origins_are_counted_from_one(option: str) -> None:
    """0 is refused as what it is, not taken for another number."""
    done = moeload("run", "sw_avg", option, "0")
    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in done.stderr


def test_run_scores_anybody_s_own_trace(own_trace: Path, tmp_path: Path) -> None:
    """`--trace` chooses origins, prints the table and says which forecaster served best in each state.

    `--out` writes all into one file, or a file of each forecaster into a folder.
    """
    done = moeload("run", "uniform", "sw_avg", "--trace", str(own_trace), "--out", str(tmp_path / "out.parquet"))
    assert done.returncode == 0, done.stderr
    assert "window_tv" in done.stdout
    assert "stable: sw_avg has the least error (window_tv). The next one, " in done.stdout
    assert "Decision" not in done.stdout
    saved = load_results(tmp_path / "out.parquet")
    assert [(entry.name, entry.isolation) for entry in saved.entries.values()] == [
        ("uniform", "process"),
        ("sw_avg", "process"),
    ]
    assert saved.failures.empty
    again = moeload("run", "uniform", "sw_avg", "--trace", str(own_trace), "--out", str(tmp_path / "all"))
    assert again.returncode == 0, again.stderr
    assert {path.stem for path in (tmp_path / "all").glob("*.parquet")} == {"costs", "sw_avg", "uniform"}
    folder = load_results(tmp_path / "all").select(saved.names)
    assert folder.errors("window_tv").equals(saved.errors("window_tv"))


@pytest.mark.filterwarnings("ignore:'online_guarded' is called")
def test_fresh_work_is_that_of_the_forecasters_named(own_trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--fresh` runs every named forecaster again, also one that tables call by another name, and not `uniform`."""
    words = ("run", "online_guarded", "--trace", str(own_trace), *HERE)
    assert moeload(*words).returncode == 0
    replayed, replay = [], pairs.replay_and_score

    def spied(pair: pairs.Pair, **options: Any) -> list[Row]:
        replayed.append(pair.target.label)
        return replay(pair, **options)

    monkeypatch.setattr(pairs, "replay_and_score", spied)
    assert moeload(*words, "--fresh").returncode == 0
    assert replayed == ["online.guarded"]


def test_run_prints_json_for_scripts(own_trace: Path) -> None:
    """`--json` prints the entries and summaries of one metric, and nothing else, on standard output.

    `uniform` is run beside what was asked for, once: it is a row of every table.
    """
    done = moeload("run", "sw_avg", "--trace", str(own_trace), "--json", *HERE)
    shown = json.loads(done.stdout)
    parts = {"entries", "metric", "by_state", "by_horizon", "failures", "least_error", "left_out", "next"}
    assert shown.keys() == parts
    assert [entry["name"] for entry in shown["entries"]] == ["uniform", "sw_avg"]
    assert (shown["metric"], shown["failures"]) == ("window_tv", [])
    best = {row["state"]: row["forecaster"] for row in reversed(shown["by_state"])}
    assert {one["state"]: one["best"] for one in shown["least_error"]}.items() <= best.items()
    assert {row["horizon"] for row in shown["by_horizon"]} == set(shown["entries"][0]["suite"]["horizons"])


def test_a_metric_of_quantiles_needs_a_suite_that_asks_for_them(own_trace: Path) -> None:
    """Refused before any work: nothing could be in the table."""
    done = moeload("run", "uniform", "--trace", str(own_trace), "--metric", "wql")
    assert done.returncode == 2
    assert "--metric wql needs quantiles, and suite trace:own/test/seed0 asks for none" in done.stderr


def test_a_shape_that_the_experts_do_not_fill_is_said(own_trace: Path) -> None:
    """`nodes` needs 64 experts: the metrics that there are, instead of a missing table."""
    done = moeload("run", "--trace", str(own_trace), "uniform", "--metric", "regret@nodes", *HERE)
    assert done.returncode == 0
    assert "no table of regret@nodes: these results hold " in done.stdout


@pytest.mark.slow
def test_a_trace_without_load_is_scored_without_noise(tmp_path: Path) -> None:
    """No warning of numpy and no best forecaster, but that nothing could be scored."""
    trace = Trace.from_arrays(np.zeros((400, 2, 4), dtype=np.int64), top_k=1)
    done = started("run", "uniform", "sw_avg", "--trace", str(write_trace(trace, tmp_path / "zero.parquet")))
    assert "Warning" not in done.stderr
    assert "nan" not in done.stdout
    assert "best" not in done.stdout.partition("Suite")[0]
    assert "transient: nothing can be said" in done.stdout


def test_a_failed_task_makes_exit_status_1_and_is_named(own_trace: Path) -> None:
    """The table is printed, the failure is one line with its reason."""
    target = f"{ROOT / 'tests' / 'support' / 'forecasters.py'}:NotANumber"
    done = moeload("run", target, "uniform", "--trace", str(own_trace))
    assert done.returncode == 1
    assert "failed: " in done.stdout
    assert "not finite" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize("option", [["--sliding", "200"], ["--blocks", "100"]])
def test_the_paper_s_evaluations_run(option: list[str], own_trace: Path) -> None:
    """Sliding origins and disjoint blocks."""
    done = moeload("run", "sw_avg", "--trace", str(own_trace), *option, *HERE)
    assert done.returncode == 0, done.stderr
    assert f"every-{option[1]}" in done.stdout


def test_validate_says_which_file_is_wrong(own_trace: Path) -> None:
    """One line per file; exit status 1 when any is refused."""
    assert moeload("validate", str(own_trace)).returncode == 0
    (own_trace.parent / "bad.parquet").write_bytes(b"no")
    done = moeload("validate", str(own_trace.parent), "--json")
    assert done.returncode == 1
    assert [entry["ok"] for entry in json.loads(done.stdout)] == [False, True]


def test_traces_meta_shows_the_record(own_trace: Path) -> None:
    """With the hash of the counts, as text and as JSON."""
    shown = json.loads(moeload("traces", "meta", str(own_trace), "--json").stdout)
    assert (shown["id"], shown["steps"]) == ("own/test/seed0", 1200)
    assert shown["data_sha256"] in moeload("traces", "meta", str(own_trace)).stdout


def test_traces_list_names_the_bundled_suite() -> None:
    """The mini suite is there without any download."""
    listed = json.loads(started("traces", "list", "--json").stdout)
    assert {"qwen3moe-tiny-8e/test/seed1", "qwen3moe-tiny-8e-aux0/train/seed0"} <= {row["id"] for row in listed}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_line_in_the_help_of_all_is_the_commands_own(name: str) -> None:
    """It is written down so that `--help` imports no command; here is what keeps it true."""
    own = load_command(name, module_of(name)).help
    assert " ".join(own.split("\n\n")[0].split()) == COMMANDS[name]


def test_every_command_module_is_a_command() -> None:
    """A module that the table does not name could not be called."""
    paths = [path for folder in ("cli", "ops/commands") for path in (PACKAGE / folder).glob("[!_]*.py")]
    modules = {path.stem.rstrip("_") for path in paths}
    helpers = {"app", "console", "figure", "lazy", "opening", "options", "progress"}
    helpers |= {"run_next", "run_shown", "run_tasks"}
    assert modules - helpers == set(COMMANDS)


def test_a_reader_that_leaves_early_costs_no_results(
    own_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run --out FILE | head -1`: FILE holds all, even if the table was not printed to its end."""

    def leaves(*_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(run_command, "print_results", leaves)
    out = tmp_path / "out.parquet"
    words = ["run", "sw_avg", "--trace", str(own_trace), "--level", "none", "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code != 0
    assert load_results(out).names == ["uniform", "sw_avg"]
