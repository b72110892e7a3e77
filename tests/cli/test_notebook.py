"""The notebook of docs, run cell by cell in a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need

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
