"""What a command writes: what cannot be written is named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.files import replacing
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

FORECAST = ("export", "forecast", "{trace}", "--horizon", "10", "--level", "none", "--out")
SERIES = ("export", "trace", "{trace}", "--format", "nixtla", "--out")
PLAN = ("plan", "{trace}", "--devices", "2", "--slots", "6", "--level", "none")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(300), tmp_path / "own.parquet")


def invoke(words: tuple[str, ...], trace: Path, target: Path, *more: str) -> BaseException | None:
    """What a writing command raised for a target, None for nothing."""
    done = CliRunner().invoke(app, [*(word.format(trace=trace) for word in words), str(target), *more])
    return None if done.exit_code == 0 else done.exception


@pytest.mark.parametrize("words", [FORECAST, SERIES, (*PLAN, "--write")], ids=lambda words: f"{words[0]}-{words[-1]}")
def test_a_folder_as_output_is_named(words: tuple[str, ...], own: Path) -> None:
    """The error names what was asked for, not the file beside it, which is gone; nothing is left behind."""
    folder = own.with_name("folder.csv")
    folder.mkdir()
    error = invoke(words, own, folder)
    assert isinstance(error, IsADirectoryError)
    assert error.filename == str(folder)
    assert sorted(path.name for path in own.parent.iterdir()) == ["folder.csv", own.name]


def test_errors_of_the_file_beside_name_the_target(tmp_path: Path) -> None:
    """Also where the folder is missing, and where the target becomes a folder meanwhile; other files are themselves."""
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "none" / "a.json"):
        pass
    assert missing.value.filename == str(tmp_path / "none" / "a.json")
    target = tmp_path / "b.json"
    with pytest.raises(OSError, match=r"b\.json") as late, replacing(target):
        target.mkdir()
    assert (late.value.errno, late.value.filename) == (errno.EISDIR, str(target))
    with pytest.raises(FileNotFoundError) as other, replacing(tmp_path / "c.json"):
        (tmp_path / "source").read_bytes()
    assert other.value.filename == str(tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
