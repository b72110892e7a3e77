"""What a command writes: never over a trace, always over its own earlier output; what cannot be written is named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.files import replacing
from moeload_bench.traces.store import refuse_trace_at, write_trace
from tests.conftest import synthetic_trace

FORECAST = ("export", "forecast", "{trace}", "--horizon", "10", "--level", "none", "--out")
SERIES = ("export", "trace", "{trace}", "--format", "nixtla", "--out")
PLAN = ("plan", "{trace}", "--devices", "2", "--slots", "6", "--level", "none")
WRITERS = (
    FORECAST,
    SERIES,
    (*PLAN, "--write"),
    ("run", "uniform", "--trace", "{trace}", "--level", "none", "--out"),
    ("inspect", "{trace}", "--html"),
    ("export", "figure", "heatmap", "{trace}", "--out"),
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(300), tmp_path / "own.parquet")


def invoke(words: tuple[str, ...], trace: Path, target: Path, *more: str) -> BaseException | None:
    """What a writing command raised for a target, None for nothing."""
    done = CliRunner().invoke(app, [*(word.format(trace=trace) for word in words), str(target), *more])
    return None if done.exit_code == 0 else done.exception


@pytest.mark.parametrize("words", WRITERS, ids=lambda words: f"{words[0]}-{words[-1]}")
@pytest.mark.parametrize("named", ["itself", "link", "round", "another"])
def test_no_output_replaces_a_trace(words: tuple[str, ...], named: str, own: Path) -> None:
    """A recording cannot be had again: the command's own input, by any path, and any other trace are refused."""
    target = {
        "itself": own,
        "link": own.with_name("link.svg"),
        "round": own.parent / ".." / own.parent.name / own.name,
        "another": own.with_name("other.parquet"),
    }[named]
    if named == "link":
        target.symlink_to(own)
    elif named == "another":
        write_trace(synthetic_trace(300, seed=1), target)
    before = own.read_bytes(), target.read_bytes()
    error = invoke(words, own, target)
    assert isinstance(error, TraceError)
    assert f"{target}: a trace is there already" in str(error)
    assert (own.read_bytes(), target.read_bytes()) == before


@pytest.mark.parametrize(
    ("words", "name"), [(FORECAST, "w.json"), (SERIES, "s.parquet"), ((*PLAN, "--write"), "p.json")]
)
def test_an_earlier_output_is_replaced(words: tuple[str, ...], name: str, own: Path) -> None:
    """The same command twice: a parquet file of series has no trace's mark, and neither has what is no parquet."""
    for _ in range(2):
        assert invoke(words, own, own.with_name(name)) is None


def test_what_is_no_trace_may_be_replaced(tmp_path: Path) -> None:
    """Nothing there, an empty file, text, a folder: none of them is taken for a trace, whatever its name."""
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("PAR1, says this text")
    (tmp_path / "folder.parquet").mkdir()
    for name in ("nothing", "empty", "text", "folder"):
        refuse_trace_at(tmp_path / f"{name}.parquet")


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


@pytest.mark.parametrize("more", [("--every", "50"), ("--json",)])
def test_a_plan_is_written_whatever_else_is_asked(more: tuple[str, ...], own: Path) -> None:
    """Costs that are not stated are assumed, so that nothing has to be refused."""
    target = own.with_name("p.json")
    assert invoke((*PLAN, "--write"), own, target, *more) is None
    assert target.is_file()
