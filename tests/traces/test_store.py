"""Traces on disk: write-read is the identity, the hash names content, damage is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moeload_bench.errors import HashMismatchError, NotFoundError, TraceError
from moeload_bench.traces.lookup import bundled_folder, list_traces, load_trace
from moeload_bench.traces.parquet import cell_rows
from moeload_bench.traces.store import data_sha256, read_trace, validate_path, write_trace
from moeload_bench.traces.trace import COLUMNS, Trace
from tests.conftest import synthetic_trace


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    S, L, E = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    load = draw(hnp.arrays(np.int64, (S, L, E), elements=st.integers(0, 2**40)))
    columns = {"load_half": load // 2, "dropped": load // 3}
    for name in draw(st.sets(st.sampled_from(["loss", "lr", "grad_norm", "router_entropy", "expert_bias"]))):
        shape = (S, *({"L": L, "E": E}[axis] for axis in COLUMNS[name].axes))
        columns[name] = draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32)))
    if draw(st.booleans()):
        part_S = draw(hnp.arrays(np.float32, (S,), elements=st.floats(0, 1, width=32) | st.just(np.nan)))
        columns |= {"expert_fraction": part_S / 2, "expert_fraction_max": part_S}
    start, stride = draw(st.integers(0, 10**12)), draw(st.sampled_from([1, 10]))
    return Trace.from_arrays(load, step_S=start + stride * np.arange(S), stride=stride, columns=columns, run=3)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trace=traces())
def test_write_then_read_is_the_identity(trace: Trace, tmp_path: Path) -> None:
    """Every array, dtype and metadata field comes back; NaN stays NaN."""
    back = read_trace(write_trace(trace, tmp_path / "t.parquet", overwrite=True))
    assert back.meta == trace.meta
    for name in ("step_S", "tokens_SL", "load_SLE"):
        np.testing.assert_array_equal(getattr(back, name), getattr(trace, name), strict=True)
    assert set(back.columns) == set(trace.columns)
    for name, column in trace.columns.items():
        np.testing.assert_array_equal(back.columns[name], column, strict=True)
    assert data_sha256(back) == data_sha256(trace)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trace=traces(), codec=st.sampled_from(["none", "snappy", "gzip", "brotli"]), rows=st.integers(1, 20))
def test_hash_survives_recompression_and_row_groups(trace: Trace, codec: str, rows: int, tmp_path: Path) -> None:
    """The hash is over decoded content, never over file bytes."""
    path = write_trace(trace, tmp_path / "t.parquet", overwrite=True)
    pq.write_table(pq.read_table(path), path, compression=codec, row_group_size=rows)
    assert data_sha256(read_trace(path)) == data_sha256(trace)


def test_only_measured_floats_are_stored_byte_by_byte(tmp_path: Path) -> None:
    """Whole numbers keep the encodings that every reader knows; what takes few values keeps its dictionary."""
    trace = synthetic_trace(40)
    columns = {**trace.columns, "lr": np.full(40, 1e-3, dtype=np.float32)}
    columns["expert_bias"] = np.zeros(trace.load_SLE.shape, dtype=np.float32)
    columns["router_entropy"] = np.ones(trace.tokens_SL.shape, dtype=np.float32)
    trace_of_columns = Trace(trace.meta, trace.step_S, trace.tokens_SL, trace.load_SLE, columns)
    group = pq.ParquetFile(write_trace(trace_of_columns, tmp_path / "own/test/seed0.parquet")).metadata.row_group(0)
    stored = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    split = {path.split(".")[0] for path, encodings in stored.items() if "BYTE_STREAM_SPLIT" in encodings}
    assert split == {"loss", "router_entropy", "step_time_s"}
    assert all("RLE_DICTIONARY" in e for path, e in stored.items() if path.split(".")[0] not in split)


def test_hash_depends_on_every_column(trace: Trace) -> None:
    """Changing one cell of any column changes the hash."""
    before = data_sha256(trace)
    for name in trace.columns:
        changed = {k: v.copy() for k, v in trace.columns.items()}
        changed[name].flat[5] += 1
        other = Trace(trace.meta, trace.step_S, trace.tokens_SL, trace.load_SLE, changed)
        assert data_sha256(other) != before


def test_an_existing_trace_is_never_overwritten_silently(trace: Trace, tmp_path: Path) -> None:
    """A second write to the same place is refused and the first one stays."""
    path = write_trace(trace, tmp_path / "t.parquet")
    content = path.read_bytes()
    with pytest.raises(TraceError, match="already"):
        write_trace(synthetic_trace(seed=1), path)
    assert path.read_bytes() == content


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def _set(name: str, values: np.ndarray) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        array = pa.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return table.set_column(table.column_names.index(name), name, array)

    return change


def _edited(trace: Trace, name: str, at: tuple[int, ...], value: int) -> Callable[[pa.Table], pa.Table]:
    source = {"step": trace.step_S, "tokens": trace.tokens_SL, "load": trace.load_SLE, **trace.columns}[name].copy()
    source[at] = value
    return _set(name, source)


def _edit_meta(path: Path, **fields: object) -> None:
    table = pq.read_table(path)
    record = json.loads(table.schema.metadata[b"moeload"]) | fields
    pq.write_table(table.replace_schema_metadata({"moeload": json.dumps(record)}), path)


def _null(table: pa.Table) -> pa.Table:
    values = table.column("loss").to_pylist()
    values[3] = None
    return table.set_column(table.column_names.index("loss"), "loss", pa.array(values, pa.float32()))


def _uneven(table: pa.Table) -> pa.Table:
    """Three and five experts in the first two layers: as many cells as four and four."""
    values = table.column("load").to_pylist()
    values[0][1].append(values[0][0].pop())
    column = pa.array(values, pa.list_(pa.list_(pa.int64())))
    return table.set_column(table.column_names.index("load"), "load", column)


DAMAGE: dict[str, tuple[Callable[[Path, Trace], object], str]] = {
    "truncated file": (lambda p, t: p.write_bytes(p.read_bytes()[:-200]), "truncated or damaged"),
    "not parquet": (lambda p, t: p.write_bytes(b"hello"), "not a readable parquet file"),
    "flipped byte": (
        lambda p, t: p.write_bytes(p.read_bytes()[:600] + b"\xff" * 60 + p.read_bytes()[660:]),
        "damaged|edited|sum to|expected",
    ),
    "missing column": (lambda p, t: _rewrite(p, lambda x: x.drop_columns(["load"])), "column 'load' is missing"),
    "unknown column": (
        lambda p, t: _rewrite(p, lambda x: x.append_column("extra", x.column("loss"))),
        "unknown column 'extra'",
    ),
    "count that does not add up": (lambda p, t: _rewrite(p, _edited(t, "load", (7, 1, 2), 99_999)), "step 7, layer 1"),
    "negative load": (lambda p, t: _rewrite(p, _edited(t, "load", (9, 0, 3), -5)), "step 9, layer 0: .*-5"),
    "half above load": (lambda p, t: _rewrite(p, _edited(t, "load_half", (4, 1, 0), 10**6)), "step 4, layer 1: expert"),
    "gap": (lambda p, t: _rewrite(p, lambda x: x.take([0, 1, 2, 4, 5])), "gap after step 2: got step 4, expected 3"),
    "repeat": (lambda p, t: _rewrite(p, lambda x: x.take([0, 1, 1, 2])), "repeat after step 1"),
    "unsorted": (lambda p, t: _rewrite(p, lambda x: x.take([0, 2, 1])), "after step 0: got step 2, expected 1"),
    "no rows": (lambda p, t: _rewrite(p, lambda x: x.slice(0, 0)), "no steps"),
    "edited covariate": (lambda p, t: _rewrite(p, _set("loss", t.columns["loss"] + 1)), "data_sha256 .*edited"),
    "edited metadata": (lambda p, t: _edit_meta(p, seed=77), "meta_sha256 .*edited"),
    "absurd metadata": (lambda p, t: _edit_meta(p, experts=10**15), r"take \d+ bytes decoded, expected at most"),
    "metadata beyond 64 bits": (lambda p, t: _edit_meta(p, seed=10**30), "holds 10+, which is beyond a 64-bit integer"),
    "unknown metadata field": (lambda p, t: _edit_meta(p, color="red"), "metadata field color"),
    "no metadata": (
        lambda p, t: pq.write_table(pq.read_table(p).replace_schema_metadata({}), p),
        "no key 'moeload'",
    ),
    "another dtype": (lambda p, t: _rewrite(p, _set("load", t.load_SLE.astype(np.int32))), "column load has type"),
    "another number of experts": (lambda p, t: _rewrite(p, _set("load", t.load_SLE[:, :, :3])), "column load has"),
    "uneven lists that add up": (
        lambda p, t: _rewrite(p, _uneven),
        "column load has lists of 3 cells, expected 4",
    ),
    "empty cell": (lambda p, t: _rewrite(p, _null), "column loss has 1 empty cells"),
    "another run": (lambda p, t: _rewrite(p, _set("run", np.full(t.steps, 9, np.int32))), "column run holds 9, the"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_with_its_own_message(kind: str, trace: Trace, tmp_path: Path) -> None:
    """Each kind of damage is refused; the message names the file, and step and layer where there are some."""
    damage, message = DAMAGE[kind]
    path = write_trace(trace, tmp_path / "damaged.parquet")
    damage(path, trace)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(path)
    assert "damaged.parquet" in str(caught.value)
    assert [error is None for _, error in validate_path(tmp_path)] == [False]


def test_another_trace_than_expected_is_refused(trace: Trace, tmp_path: Path) -> None:
    """A valid trace with another hash than the suite's is not scored."""
    path = write_trace(trace, tmp_path / "t.parquet")
    assert read_trace(path, expected_sha256=data_sha256(trace)).id == trace.id
    with pytest.raises(HashMismatchError, match="another trace"):
        read_trace(path, expected_sha256="0" * 64)


def test_a_trace_is_found_by_id_in_local_folders(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RECIPE/SPLIT/seedN` is looked up in $MOELOAD_TRACES; an unknown id lists what exists."""
    write_trace(trace, tmp_path / "own" / "test" / "seed0.parquet")
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path))
    assert load_trace("own/test/seed0").steps == trace.steps
    assert "own/test/seed0" in [ref.id for ref in list_traces()]
    with pytest.raises(NotFoundError, match="own/test/seed0"):
        load_trace("own/test/seed7")


def test_a_name_under_which_nobody_looks_is_refused(trace: Trace, tmp_path: Path) -> None:
    """Readers and folders know traces by `.parquet`; nothing is written under another name."""
    with pytest.raises(TraceError, match=r"noext: expected a file name that ends in \.parquet"):
        write_trace(trace, tmp_path / "noext")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_holds_no_traces_and_says_so(trace: Trace, tmp_path: Path) -> None:
    """A missing folder is an error, an empty one is not; a folder given for a file lists the traces below it."""
    with pytest.raises(TraceError, match=r"nowhere: no such folder; expected one that holds RECIPE/SPLIT/seedN"):
        list_traces(tmp_path / "nowhere")
    assert list_traces(tmp_path) == []
    with pytest.raises(TraceError, match=r"a folder, expected a trace .*; there is in it: none"):
        read_trace(tmp_path)
    write_trace(trace, tmp_path / "own" / "test" / "seed0.parquet")
    with pytest.raises(TraceError, match=r"there is in it: own/test/seed0\.parquet$"):
        read_trace(tmp_path)
    assert load_trace(tmp_path).id == trace.id


def test_the_bundled_traces_are_valid() -> None:
    """What ships in the wheel obeys every invariant."""
    found = [one for ref in list_traces(bundled_folder()) for one in validate_path(ref.path)]
    assert len(found) >= 4
    assert [(path, error) for path, error in found if error] == []


def test_reading_a_trace_imports_no_pandas(trace: Trace, tmp_path: Path) -> None:
    """pyarrow imports pandas for `to_numpy`, which costs every worker more than decoding a small trace."""
    path = write_trace(trace, tmp_path / "t.parquet")
    script = "import sys; from moeload_bench import load_trace; load_trace(sys.argv[1]); print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("part", [(0, 0), (3, 4), (5, 100)])
def test_a_slice_of_a_column_gives_its_own_cells(part: tuple[int, int]) -> None:
    """Cells begin at the offset of what they are cut from, and there may be none; lists may be of fixed size or not."""
    load = np.arange(10 * 2 * 3).reshape(10, 2, 3)
    fixed = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array(load.reshape(-1)), 3), 2)
    for column in (fixed, fixed.cast(pa.list_(pa.list_(pa.int64())))):
        got = cell_rows("load", column.slice(*part), (2, 3), "here")
        np.testing.assert_array_equal(got, load[part[0] : sum(part)], strict=True)


def test_a_trace_read_in_small_batches_is_the_same(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows are decoded at once, whole row groups or not."""
    path = write_trace(trace, tmp_path / "t.parquet")
    for name in ("CELLS_AT_ONCE", "CELLS_A_BATCH"):
        monkeypatch.setattr(f"moeload_bench.traces.parquet.{name}", 1)
    monkeypatch.setattr("moeload_bench.traces.parquet.LEAST_ROWS", 7)
    assert trace.steps % 7
    assert data_sha256(read_trace(path)) == data_sha256(trace)
