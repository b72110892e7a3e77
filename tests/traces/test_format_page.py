"""docs/methods/format.md says what the package reads and writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.meta import COLUMNS, BalancingMeta, ExpertMeta, LayerMeta, SourceMeta, TraceMeta
from moeload_bench.traces.parquet import (
    CELLS_A_BATCH,
    CELLS_AT_ONCE,
    LEAST_ROWS,
    MAX_META_BYTES,
    META_KEY,
    ROW_GROUP_STEPS,
)
from moeload_bench.traces.store import WRITING, write_trace
from moeload_bench.traces.trace import MAX_COUNT, Trace

PAGE = (Path(__file__).parents[2] / "docs" / "methods" / "format.md").read_text()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that the page shows."""
    found = re.search(r"```python\n(# check\.py.*?)```", PAGE, re.DOTALL)
    assert found is not None
    path = tmp_path_factory.mktemp("page") / "check.py"
    path.write_text(found[1])
    assert "moeload_bench" not in found[1]
    return path


def says(check: Path, trace: Path) -> str:
    """What the script prints of a file."""
    done = subprocess.run([sys.executable, check, trace], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_pages_script_finds_every_column_intact(check: Path, tmp_path: Path) -> None:
    """All columns of the format at once, with several kinds of NaN, written again with another compression."""
    rng = np.random.default_rng(0)
    load = rng.integers(2, 9, (5, 2, 3))
    shapes = {"": (5,), "L": (5, 2), "LE": (5, 2, 3)}
    columns = {name: np.ones(shapes[spec.axes], spec.dtype) for name, spec in COLUMNS.items()
               if name not in ("run", "step", "tokens", "load")}  # fmt: skip
    columns["loss"] = np.array([1.5, np.nan, -np.nan, np.inf, 0.0], np.float32)
    path = write_trace(Trace.from_arrays(load, columns=columns), tmp_path / "all.parquet")
    again = tmp_path / "again.parquet"
    pq.write_table(pq.read_table(path), again, compression="snappy", row_group_size=2)
    assert pq.read_schema(path).names == list(COLUMNS)
    assert [says(check, one) for one in (path, again)] == ["intact", "intact"]
    assert load_trace(again).steps == 5


def test_the_pages_script_sees_an_edit(check: Path, tmp_path: Path) -> None:
    """One count moved from one expert to another."""
    table = pq.read_table(write_trace(Trace.from_arrays([[[3, 1]], [[2, 2]]], top_k=1), tmp_path / "t.parquet"))
    at = table.column_names.index("load")
    other = Trace.from_arrays([[[3, 1]], [[1, 3]]], top_k=1)
    changed = pq.read_table(write_trace(other, tmp_path / "o.parquet")).column(at)
    pq.write_table(table.set_column(at, table.field(at), changed), tmp_path / "edited.parquet")
    assert says(check, tmp_path / "edited.parquet").startswith("got {'data_sha256': ")


def test_every_column_and_field_is_on_the_page() -> None:
    """With its meaning: a field without a description would say nothing."""
    for name in COLUMNS:
        assert f"| `{name}` |" in PAGE
    for record in (TraceMeta, LayerMeta, SourceMeta, BalancingMeta, ExpertMeta):
        for name, field in record.model_fields.items():
            assert f"| `{name}` |" in PAGE
            assert field.description, f"{record.__name__}.{name}"


def test_the_numbers_in_the_prose_are_the_codes() -> None:
    """Key, bounds, compression and row groups."""
    assert f"under the key `{META_KEY.decode()}` of the parquet schema, at most {MAX_META_BYTES >> 20} MiB" in PAGE
    assert f"a count is at most 2^{MAX_COUNT.bit_length() - 1}" in PAGE
    assert f"with {WRITING['compression']} in row groups of {ROW_GROUP_STEPS:,} steps" in PAGE
    text = " ".join(PAGE.split())
    assert f"at least {LEAST_ROWS}, about {CELLS_A_BATCH // 10**6} million loads" in text
    assert f"of more than {CELLS_AT_ONCE // 10**6} million loads is read a row group at a time" in text
