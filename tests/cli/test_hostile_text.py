"""No command prints a control character of a stranger's: of a folder's name, a trace, a forecaster or a result."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leaderboard.__main__ import app as maintainers
from moeload_bench.__main__ import run_program
from moeload_bench.cli.app import app
from moeload_bench.cli.progress import say, say_document
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

EVIL = "e\x1b[2J\x9b1m\u202e\x07\x7f\U000e0041v"
"""Clears the screen, turns to the left, rings, rubs out, and has a letter that nobody sees."""
PACKAGE = Path("moeload_bench").resolve()
MINE = """
class Mine:
    def __init__(self, info, seed):
        self.shape = (info.num_layers, info.num_experts)

    def observe(self, block):
        pass

    def forecast(self, request):
        raise ValueError({text!r})
"""


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a hostile name, with a trace whose every free text is hostile and a hostile forecaster."""
    folder = tmp_path_factory.mktemp("evil") / EVIL
    texts: dict[str, Any] = {
        name: EVIL for name in ("family", "group", "licence", "gate", "score_function", "precision")
    }
    tables: dict[str, Any] = {
        name: {EVIL: EVIL} for name in ("config", "optimizer", "schedule", "parallel", "versions", "hardware")
    }
    trace = synthetic_trace(700, **texts, **tables, notes=(EVIL,))
    write_trace(trace, folder / "own" / "test" / "seed0.parquet")
    (folder / f"{EVIL}.py").write_text(MINE.format(text=EVIL))
    table = pq.read_table(folder / "own" / "test" / "seed0.parquet")
    pq.write_table(table.append_column(EVIL, table["loss"]), folder / "column.parquet")
    return folder


PLAN = ("plan", "{trace}", "--devices", "2", "--slots", "6", "--level", "none")
COMMANDS = {
    "validate": ("validate", "{trace}"),
    "validate, json": ("validate", "{column}", "--json"),
    "a trace": ("traces", "meta", "{trace}"),
    "a trace, inspected": ("inspect", "{trace}", "--details"),
    "a trace, json": ("inspect", "{trace}", "--json"),
    "a trace that is none": ("inspect", "{folder}/none"),
    "a column": ("inspect", "{column}"),
    "a folder": ("traces", "list", "--traces", "{folder}"),
    "run": ("run", "--trace", "{trace}", "{mine}", "sw_avg", "--level", "none", "--out", "{folder}/out.parquet"),
    "run, json": ("run", "--trace", "{trace}", "{mine}", "sw_avg", "--level", "none", "--json"),
    "check": ("check", "{mine}"),
    "plan": PLAN,
    "plan, written": (*PLAN, "--write", "{folder}/plan.json", "--format", "eplb"),
    "a page": ("inspect", "{trace}", "--capacity", "--html", "{folder}/page.html"),
    "a folder, inspected": ("inspect", "{folder}"),
    "validate, public": ("validate", "{trace}", "--public"),
    "export": ("export", "trace", "{trace}", "--out", "{folder}/long.parquet", "--to", "gluonts"),
    "merge": ("import", "merge", "{trace}", "{column}", "--out", "{folder}/merged.parquet"),
    "import": ("import", "megatron-tokens", "{folder}", "--top-k", "2", "--out", "{folder}/new.parquet"),
    "a recipe": ("recipes", "show", "{folder}/none.toml"),
    "submit": ("submit", "{mine}", "--name", "mine", "--author", "{name}", "--dry-run"),
    "permute": ("export", "checkpoint", "{folder}", "--placement", "{column}", "--out", "{folder}/placed"),
    "publish": ("publish", "{folder}", "--repo", "a/b", "--tag", "v1", "--dry-run"),
}
OF_MAINTAINERS = {
    "verify": ("verify", "{folder}"),
    "season": ("season", "check", "2027-02", "--root", "{folder}"),
}


@pytest.mark.parametrize("what", [*COMMANDS, *OF_MAINTAINERS])
def test_no_command_prints_a_control_character_of_a_stranger_s(
    what: str, evil: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it reads the hostile folder, trace, column, licence and forecaster, or refuses them; nor does a page."""
    places = {
        "folder": evil,
        "trace": evil / "own" / "test" / "seed0.parquet",
        "column": evil / "column.parquet",
        "mine": f"{evil / EVIL}.py:Mine",
        "name": EVIL,
    }
    words = [word.format(**places) for word in {**COMMANDS, **OF_MAINTAINERS}[what]]
    program = app if what in COMMANDS else maintainers
    monkeypatch.setattr("sys.argv", ["program", *words])
    with pytest.raises(SystemExit) as ended:
        run_program("program", program)
    shown = capsys.readouterr()
    said = shown.out + shown.err
    assert ended.value.code in (0, 1, 2)
    assert said.strip()
    if what == "a page":
        said += (evil / "page.html").read_text(encoding="utf-8")
    assert not {char for char in said if not char.isprintable()} - {"\n"}
    if "json" in what and ended.value.code != 2:
        json.loads(shown.out)


def test_all_that_is_printed_goes_through_one_function() -> None:
    """Commands print by `say`, or by the one console, and in no other way."""
    found = []
    for file in sorted(path for folder in ("cli", "ops/commands") for path in (PACKAGE / folder).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "typer.echo", "Console"):
                found.append((file.name, ast.unparse(node)))
    assert [name for name, _ in found] == ["app.py", "progress.py"], found  # the version, and `say`


def test_a_document_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """What is escaped in JSON is the same after it was read; a line that is said begins no other one."""
    say_document(json.dumps({"a": EVIL, "b": [1]}, indent=1, ensure_ascii=False) + "\n")
    assert json.loads(capsys.readouterr().out) == {"a": EVIL, "b": [1]}
    say("refused a\nok b")
    assert capsys.readouterr().out == "refused a\\nok b\n"
