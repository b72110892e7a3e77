"""Published and computed numbers are what they were; `python -m tests.golden` compares them and names what differs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import needs_traces
from tests.golden import __main__ as command
from tests.golden.table import Table, differences, flat, load, save

TREE = {"v3": {"skill": [0.25, None], "runs": 42, "states": "ts"}, "moves": True}


@pytest.mark.slow
@needs_traces
@pytest.mark.parametrize("part", command.PARTS)
def test_no_golden_number_changes(part: str) -> None:
    """Results, statistics, hashes and constants that are committed; scores, decisions and files as computed today."""
    assert command.main(["compare", "--part", part]) == 0


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Table:
    """A part of its own, saved from TREE, that a test may change before it compares."""
    found = flat(TREE)
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "PARTS", {"small": lambda folder: found})
    assert command.main(["save"]) == 0
    assert command.main(["compare"]) == 0
    return found


@pytest.mark.parametrize(
    ("key", "got", "line"),
    [
        ("v3/skill/0", 0.25 * (1 + 2e-6), "got 0.2500005, expected 0.25"),
        ("v3/skill/1", 0.5, "got 0.5, expected None"),
        ("v3/skill/1", "nothing", "got 'nothing', expected None"),
        ("v3/runs", 43, "got 43, expected 42"),
        ("v3/states", "tt", "got 'tt', expected 'ts'"),
        ("moves", 1, "got 1, expected True"),
        ("new", 1.5, "got 1.5, expected 'nothing'"),
    ],
)
def test_a_number_that_differs_is_named(
    key: str, got: float | str, line: str, golden: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison fails, and prints the number's key, what was found and what was expected."""
    if got == "nothing":
        del golden[key]
    else:
        golden[key] = got
    capsys.readouterr()
    assert command.main(["compare"]) == 1
    assert f"  {key}: {line}\n" in capsys.readouterr().out


def test_another_processor_is_no_difference(golden: Table) -> None:
    """Floats are equal within a millionth of their size, and below 1e-12."""
    golden["v3/skill/0"] = 0.25 * (1 + 5e-7)
    assert command.main(["compare"]) == 0
    assert not list(differences({"p": 0.0}, {"p": 1e-13}))


def test_twenty_differences_are_shown(golden: Table, capsys: pytest.CaptureFixture[str]) -> None:
    """Of more, the first are shown and all are counted."""
    golden.update({f"z{i:02d}": i for i in range(50)})
    capsys.readouterr()
    assert command.main(["compare"]) == 1
    head, *lines = capsys.readouterr().out.splitlines()
    assert (head, len(lines)) == ("small: 55 numbers, 50 differ", 20)


def test_a_table_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Whole numbers, truth values, texts and what does not exist come back as they are, NaN as what does not exist."""
    table = flat({**TREE, "large": 1 << 60, "not a number": float("nan")})
    save(table, tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet") == table
    assert table["not a number"] is None


def test_one_file_reads_the_project() -> None:
    """Modules and verbs may move: then `adapter.py` changes, and nothing else of the golden numbers."""
    for path in Path(command.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        project = [name for name in names if name.split(".")[0] in ("moeload_bench", "leaderboard", "baselines")]
        assert not project or path.name == "adapter.py", (path.name, project)
