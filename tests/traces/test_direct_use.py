"""The code of docs/guide/hub.md on use without this package runs, in order, in one process without this package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.support.hub.helpers import write_card

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "hub.md"
SECTION = "## Read traces without this package\n"
RECIPE = "qwen3moe-16e-aux0"
CHECKS = {
    "matplotlib": "assert load_SLE.shape == (40, 2, 4) and load_SLE.dtype.name == 'int64', load_SLE.shape",
    'split="train"': "assert str(runs.features['load']) == \"Array2D(shape=(2, 4), dtype='int64')\"",
    "streaming=True": "assert len(hottest) == 80",
    "pandas": "assert (load_SLE == expected_SLE).all()",
    "polars": "assert load_SLE.shape == (80, 2, 4) and (load_SLE[:40] == expected_SLE).all()",
    "duckdb": "assert len(busiest) == 3 and busiest[0][2] > 1",
    "pyarrow.parquet": "assert (load_SLE == expected_SLE).all()",
    "mlcroissant": "assert np.array(first).shape == (2, 4)",
}


def blocks() -> list[str]:
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run_blocks(folder: Path, chosen: list[str]) -> str:
    """Run blocks with their checks in a child process; `traces` is the working directory's folder."""
    reference = (
        "import numpy as np, pyarrow.parquet as pq\n"
        f"expected_SLE = np.array(pq.read_table('traces/{RECIPE}/test/seed1.parquet')['load'].to_pylist())\n"
    )
    parts = []
    for block in chosen:
        check = next(check for key, check in CHECKS.items() if key in block)
        parts.append(f"{block}\n{check}\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            reference + "\n".join(parts) + "\nimport sys\nassert 'moeload_bench' not in sys.modules",
        ],
        cwd=folder,
        env={**clean, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a small `traces` in it: one `train` run, two `test` runs."""
    for split, run in (("train", 0), ("test", 1), ("test", 2)):
        trace = synthetic_trace(40, seed=run, recipe=RECIPE, split=split, run=run)
        write_trace(trace, tmp_path / "traces" / f"{trace.id}.parquet")
    write_card(tmp_path / "traces")
    return tmp_path


def test_every_block_of_the_page_is_checked() -> None:
    """A new block needs its check."""
    assert len(blocks()) == len(CHECKS)
    for block in blocks():
        assert sum(key in block for key in CHECKS) == 1, block


def test_the_parquet_readers_of_the_page_give_the_loads(folder: Path) -> None:
    """pandas, polars, DuckDB and pyarrow over the same files."""
    run_blocks(folder, [b for b in blocks() if "datasets" not in b and "mlcroissant" not in b])


@pytest.mark.slow
def test_the_whole_page_runs(folder: Path) -> None:
    """datasets with and without streaming, the heat map and Croissant as well."""
    run_blocks(folder, blocks())
    assert (folder / "load.png").stat().st_size > 1000
