"""The two tutorials and the notebook, run as they stand, each to the picture at its end."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.support.terminal import Shown, in_terminal

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
PNG = b"\x89PNG\r\n\x1a\n"


def run_page(page: str, folder: Path) -> dict[str, Shown]:
    """Write the page's files and run its commands in order, at 80 columns; what each showed."""
    text = (GUIDE / page).read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(code, encoding="utf-8")
    shown = {}
    for line in re.findall(r"^    ((?:moeload-bench|python) .*)$", text, re.MULTILINE):
        program, *words = shlex.split(line)
        start = [sys.executable] if program == "python" else [sys.executable, "-m", "moeload_bench"]
        shown[line] = in_terminal([*start, *words], width=80, cwd=folder, timeout=900)
        assert shown[line].status == 0, f"{line}\n{shown[line].text[-2000:]}"
        assert shown[line].faults(80) == [], line
    return shown


def following(shown: Shown) -> str:
    """The command that an output ends with, its subject only."""
    words = shown.text.rpartition("Next")[2].partition("\n")[2].replace("\\\n", " ").split()
    return " ".join(words[1:3])


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_tutorial_for_those_who_train(tmp_path: Path) -> None:
    """Train, inspect, run, plan: each ends with the next; then a picture of the run."""
    shown = run_page("tutorial-training.md", tmp_path)
    steps = [line for line in shown if not line.startswith("moeload-bench export figure")]
    assert len(steps) + 1 <= 5  # and the installation
    for line, after in itertools.pairwise(steps):
        assert after.startswith(f"moeload-bench {following(shown[line])}"), f"{line} does not end with {after}"
    assert (tmp_path / "shares.png").read_bytes().startswith(PNG)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_tutorial_for_those_who_forecast(tmp_path: Path) -> None:
    """Run, check, run, plan; then a picture of the errors."""
    shown = run_page("tutorial-forecasting.md", tmp_path)
    steps = [line for line in shown if not line.startswith("moeload-bench export figure")]
    assert len(steps) + 1 <= 5
    first, check, run = (next(line for line in steps if words in line) for words in (" run", " check ", " run my.py"))
    assert following(shown[first]) == "check my.py:Mine"
    assert following(shown[check]) == "run my.py:Mine"
    assert following(shown[run]) == "plan qwen3moe-tiny-8e/test/seed1"
    page = (GUIDE / "tutorial-forecasting.md").read_text(encoding="utf-8")
    answers = re.findall(r"^    ((?:transient|stable): my\.py:Mine has the least error .*)$", page, re.MULTILINE)
    assert len(answers) == 2
    assert all(answer in " ".join(shown[run].text.split()) for answer in answers)
    assert (tmp_path / "horizon.png").read_bytes().startswith(PNG)


# ---------------------------------------------------------------- the notebook


NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "guide" / "notebook.ipynb"


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs_and_shows_what_it_is_for(tmp_path: Path) -> None:
    """A class of a cell is checked and scored, results show a table, figures a picture; no text is over ten lines."""
    for module in ("ipykernel", "nbclient"):
        need(module, "pip install -e '.[dev]'")
    import nbclient
    import nbformat

    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")  # committed as it is written
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = {
        cell.source.splitlines()[-1]: cell.outputs[-1].data
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.outputs
    }
    assert shown["[rule for rule in check_forecaster(Mine) if rule.required and not rule.passed]"]["text/plain"] == "[]"
    assert "<th>sw_avg</th>" in shown["results"]["text/html"]
    assert shown["draw_horizon(results)"]["image/png"].startswith("iVBOR")
    assert shown["trace"]["text/plain"].startswith("Trace qwen3moe-tiny-8e/test/seed1: ")
    for source, data in shown.items():
        assert len(data["text/plain"].splitlines()) <= 10, source
