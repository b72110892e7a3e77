"""UltraEP's load traces: micro-batches become steps, groups are added, and no gap is closed in silence."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange import ultra_ep
from moeload_bench.ops.interchange.importing import import_log
from moeload_bench.ops.interchange.rows import CutShortWarning
from moeload_bench.traces.trace import Trace
from tests.support.foreign import logs
from tests.support.foreign.damage import edit, lose

CHOSEN = logs.choices(S=6)


def imported(folder: Path, micro_batches: int = 2) -> Trace:
    return import_log(folder, folder.parent / "o.parquet", format="ultra-ep", micro_batches=micro_batches, top_k=2)


def test_each_experts_largest_micro_batch_is_kept(tmp_path: Path) -> None:
    """Of all micro-batches of a step, in every group: the column `micro_max`; the notes say that steps were counted."""
    trace = imported(logs.ultra_ep(tmp_path / "t", CHOSEN))
    halves = [logs.load_of(half).reshape(6, 2, 2, 4, 8).sum(axis=2) for half in np.array_split(CHOSEN, 2, axis=3)]
    np.testing.assert_array_equal(trace.columns["micro_max"], np.max(halves, axis=(0, 2)))
    assert trace.meta.notes[0].startswith("steps are counted: 2 micro-batches of UltraEP each, sums over 2 expert-")


def test_other_steps_follow_from_other_micro_batches(tmp_path: Path) -> None:
    """M is what the user says: with 4, three steps of the same totals; with 1, each micro-batch is a step."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN)
    by_four = imported(folder, 4).load_SLE
    np.testing.assert_array_equal(by_four, logs.truth(CHOSEN).reshape(3, 2, 4, 8).sum(axis=1))
    (tmp_path / "o.parquet").unlink()
    by_one = imported(folder, 1)
    np.testing.assert_array_equal(by_one.load_SLE.reshape(6, 2, 4, 8).sum(axis=1), logs.truth(CHOSEN))
    assert "micro_max" not in by_one.columns


def test_single_micro_batches_may_be_sampled(tmp_path: Path) -> None:
    """With an interval of 4 no step is whole, and `--micro-batches 1` takes micro-batch 0, 4, 8 as steps."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN, record_interval=4)
    with pytest.raises(TraceError, match="one micro-batch in 4 is recorded, so no step has all of its 2; expected"):
        imported(folder)
    for path in folder.glob("*.npz"):
        arrays = dict(np.load(path))
        arrays["microbatches"] *= 4
        np.savez(path, **arrays)
    trace = imported(folder, 1)
    assert (trace.meta.stride, trace.step_S.tolist()) == (4, list(range(0, 48, 4)))


def test_a_run_that_was_stopped_is_read_up_to_its_last_whole_step(tmp_path: Path) -> None:
    """A manifest without its chunks and a last step without all records: both are said, and the trace is marked."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN, groups=1, chunks=0)
    lose("*chunk000006*")(folder)
    with pytest.warns(CutShortWarning, match="breaks off in step 5; read up to it"):
        trace = imported(folder)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN)[:5])
    assert not trace.meta.complete
    assert any(
        "the recording was not closed: 0 chunks in the manifest, 6 are there" in note for note in trace.meta.notes
    )


def test_a_group_that_ends_early_is_said(tmp_path: Path) -> None:
    """Steps that one group lacks are left out in all of them."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN)
    lose("epg0*chunk000006*")(folder)
    edit("epg0*.json", '"chunks": 7', '"chunks": 6')(folder)
    with pytest.warns(CutShortWarning, match="1 of 2 groups end before step 5; read up to it"):
        trace = imported(folder)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN)[:5])


def test_what_lies_before_a_dropped_record_is_imported(tmp_path: Path) -> None:
    """The error names the step before; `--last-step` with it imports up to there."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN, groups=1, dropped_records=7)
    path = sorted(folder.glob("*.npz"))[3]
    arrays = {name: value[1:] if value.ndim else value for name, value in np.load(path).items()}
    np.savez(path, **arrays)
    with pytest.raises(TraceError, match=r"missing, .*7 records were dropped.: step 2 is not whole .--last-step 1 "):
        imported(folder)
    trace = import_log(folder, tmp_path / "o.parquet", format="ultra-ep", micro_batches=2, top_k=2, last_step=1)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN)[:2])


def test_steps_that_are_begun_and_never_whole_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that stops after the first step: refused after a few steps more, not at the end of the files."""
    folder = logs.ultra_ep(tmp_path / "t", logs.choices(S=9), groups=1)
    monkeypatch.setattr(ultra_ep, "MAX_OPEN", 3)
    for path in sorted(folder.glob("*.npz")):
        arrays = dict(np.load(path))
        arrays["microbatches"] = arrays["microbatches"] + 100 * (arrays["layers"] == 3) * (arrays["microbatches"] > 1)
        np.savez(path, **arrays)
    with pytest.raises(TraceError, match="micro-batch 2 of layer 3 is missing, later ones are there"):
        imported(folder)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling", "loop"])
def test_a_chunk_that_is_no_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    """A pipe would be waited for, a device read without end; each is named, as a link to nothing is."""
    path = sorted(logs.ultra_ep(tmp_path / "t", CHOSEN).glob("*.npz"))[0]
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "dangling": tmp_path / "none", "loop": path}[kind])
    with pytest.raises(TraceError, match=f"{path.name}: not a file"):
        imported(path.parent)


def test_a_chunk_belongs_to_the_trace_whose_whole_name_it_begins_with(tmp_path: Path) -> None:
    """`a.chunk1.chunk000000.npz` is of the trace `a.chunk1`, and not a second chunk 0 of `a`."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN)
    for path in folder.iterdir():
        group, rest = path.name.split("_1750000000000")
        path.rename(folder / (("a" if group.startswith("epg0") else "a.chunk1") + rest))
    np.testing.assert_array_equal(imported(folder).load_SLE, logs.truth(CHOSEN))


def changed(folder: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    """Put other arrays into every chunk, of a row for each record."""
    for path in folder.glob("*.npz"):
        np.savez(path, **{**np.load(path), **{name: np.resize(value, (7, 8)) for name, value in arrays.items()}})
    return folder


def test_sums_that_no_trace_holds_are_refused_at_their_record(tmp_path: Path) -> None:
    """Each count is within its bound and their sum is not: over micro-batches, and over groups."""
    folder = changed(logs.ultra_ep(tmp_path / "t", CHOSEN), pre_logical_loads=np.array(1 << 50))
    for micro_batches, record in ((2, 1), (1, 6)):
        with pytest.raises(TraceError, match=rf"record {record}: an expert's counts of the step sum to {1 << 51}, exp"):
            imported(folder, micro_batches)


def test_an_infinity_in_few_bits_is_no_count(tmp_path: Path) -> None:
    """In 16 bits the largest count that is allowed is infinite itself."""
    folder = changed(logs.ultra_ep(tmp_path / "t", CHOSEN), pre_logical_loads=np.array(np.inf, dtype=np.float16))
    with pytest.raises(TraceError, match=r"pre_logical_loads\[0, 0\] is inf, expected a whole number"):
        imported(folder)


def test_what_steps_hold_is_in_proportion_to_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of many layers that are begun by a record each: refused before they are made, as arrays of a file are."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN, groups=1, records=99)
    layer_N = np.concatenate([np.zeros(9, dtype=int), np.arange(60)])
    micro_N = np.concatenate([np.arange(9), np.full(60, 9)])
    loads_NE = np.ones((69, 400), dtype=np.int8)
    for path in folder.glob("*.npz"):
        np.savez(path, layers=layer_N, microbatches=micro_N, pre_logical_loads=loads_NE)
    monkeypatch.setenv("MOELOAD_MAX_TRACE_BYTES", "2000000")
    with pytest.raises(TraceError, match=r"record 4: its arrays take \d+ bytes decoded, expected at most 2000000"):
        imported(folder, 1)


def test_more_layers_than_a_trace_has_are_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the chunk that has one too many."""
    monkeypatch.setattr(ultra_ep, "MAX_LAYERS", 3)
    with pytest.raises(TraceError, match=r"chunk000000\.npz: more than 3 layers"):
        imported(logs.ultra_ep(tmp_path / "t", CHOSEN))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_many_times_is_refused_in_few_words(tmp_path: Path) -> None:
    """A message of kilobytes hides what it says."""
    folder = logs.ultra_ep(tmp_path / "t", CHOSEN)
    with zipfile.ZipFile(sorted(folder.glob("*.npz"))[0], "a") as archive:
        for _ in range(1000):
            archive.writestr("layers.npy", b"")
    with pytest.raises(TraceError, match="an array occurs twice") as refused:
        imported(folder)
    assert len(str(refused.value)) < 300 + len(str(folder))
