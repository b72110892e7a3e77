"""Counts that somebody has already become traces; what does not add up is refused with file, row and expectation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import NotFoundError, TraceError
from moeload_bench.ops.interchange import table
from moeload_bench.ops.interchange.counts import read_csv, read_npz
from moeload_bench.ops.interchange.importing import import_log
from moeload_bench.ops.interchange.rows import CutShortWarning, Options, write_log
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_trace

LONG = "step,layer,expert,load\n"
GOOD = LONG + "0,0,0,3\n0,0,1,1\n1,0,0,2\n1,0,1,2\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "counts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def import_csv(path: Path, top_k: int | None = None, **options: Any) -> Trace:
    """Read, written beside the table and read back."""
    out = path.with_name("imported.parquet")
    out.unlink(missing_ok=True)
    return read_trace(write_log(read_csv(path), out, Options(top_k=top_k, **options)).path)


def long_table(load_SLE: np.ndarray, order: np.ndarray, tokens: int | None = None) -> str:
    S, L, E = load_SLE.shape
    rows = [
        f"{10 * s},{3 * m},{e},{load_SLE[s, m, e]}" + (f",{tokens}" if tokens else "")
        for s in range(S)
        for m in range(L)
        for e in range(E)
    ]
    head = LONG.strip() + (",tokens" if tokens else "")
    return "\n".join([head, *(rows[i] for i in order)]) + "\n"


def wide_table(load_SLE: np.ndarray, order: np.ndarray) -> str:
    S, L, E = load_SLE.shape
    head = ["step", "layer", *(f"load_{e}" for e in range(E))]
    rows = [",".join(map(str, [10 * s, 3 * m, *load_SLE[s, m]])) for s in range(S) for m in range(L)]
    return "\n".join([",".join(head), *(rows[i] for i in order)]) + "\n"


@settings(max_examples=25)
@given(shape=st.tuples(*[st.integers(1, 4)] * 3), seed=st.integers(0, 2**16), layout=st.sampled_from(["long", "wide"]))
def test_tables_give_back_the_counts_in_any_order(
    shape: tuple[int, int, int], seed: int, layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both layouts, rows shuffled: loads, steps (sampled every ten) and layer indices are as written."""
    rng = np.random.default_rng(seed)
    load = rng.integers(0, 2**40, size=shape)
    count = load.size if layout == "long" else shape[0] * shape[1]
    text = (long_table if layout == "long" else wide_table)(load, rng.permutation(count))
    trace = import_csv(write(tmp_path_factory.mktemp("t"), text))
    np.testing.assert_array_equal(trace.load_SLE, load)
    assert trace.step_S.tolist() == [10 * s for s in range(shape[0])]
    assert [layer.index for layer in trace.meta.layers] == [3 * m for m in range(shape[1])]
    assert trace.meta.count_semantics == "unknown"


def test_a_column_of_tokens_is_checked_against_top_k(tmp_path: Path) -> None:
    """With top-k, loads must sum to tokens x top-k; the message names step and layer."""
    load = np.array([[[2, 2]], [[2, 2]]])
    trace = import_csv(write(tmp_path, long_table(load, np.arange(4), tokens=2)), top_k=2)
    assert trace.tokens_SL.tolist() == [[2], [2]]
    assert trace.meta.count_semantics == "pre_drop"
    with pytest.raises(TraceError, match=r"counts\.csv: .*step 0, layer 0: loads sum to 4, expected .* = 2"):
        import_csv(write(tmp_path, long_table(load, np.arange(4), tokens=2)), top_k=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"row 1: columns are '', expected step,layer,expert,load or step,layer,load_0"),
        ("step,layer,load\n0,0,1\n", r"row 1: columns are 'step,layer,load', expected"),
        ("step,layer,load_0,load_2\n0,0,1,1\n", r"row 1: columns are"),
        ("step,step,layer,expert,load\n", r"column step occurs twice"),
        (LONG, "no rows after the header"),
        (GOOD.replace("1,0,0,2", "1,0,0,x"), r"row 4, column load: got 'x', expected a number"),
        (GOOD.replace("1,0,0,2", "1,0,0,"), r"row 4, column load: got nothing, expected a whole number"),
        (GOOD.replace("1,0,0,2", "1,0,0"), r"row 4: got 3 columns, expected 4 as in the header"),
        (GOOD.replace("1,0,0,2", "1,0,-1,2"), r"row 4, column expert: got -1, expected a whole number"),
        (GOOD.replace("1,0,", "5,1,"), r"no row for expert 0 of step 0, layer 1"),
        (GOOD + "5,0,0,2\n5,0,1,2\n", r"step 2 is missing: got step 5 after 1"),
        ("step,layer,load_0\n0,0,1\n0,0,1\n", r"row 3: step 0, layer 0 again"),
        ("step,layer,load_0\n0,0,1\n1,0,1\n1,1,1\n", r"no row for step 0, layer 1: got 3 rows, expected 2 steps x 2"),
        ("step,layer,expert,load,tokens\n0,0,0,1,1\n0,0,1,0,2\n", "step 0, layer 0: its rows have 1 and 2 tokens"),
    ],
)
def test_a_bad_table_is_refused_with_its_row(text: str, says: str, tmp_path: Path) -> None:
    """Each defect has its own message with file, row, what was got and what was expected."""
    with pytest.raises(TraceError, match=rf"counts\.csv.*{says}"):
        import_csv(write(tmp_path, text))
    assert not (tmp_path / "imported.parquet").exists()


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_a_table_in_many_blocks_is_the_same(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, shuffled or in order: the counts, and the number of a row that comes twice."""
    rng = np.random.default_rng(0)
    load = rng.integers(0, 999, size=(12, 3, 4))
    order = rng.permutation(load.size if layout == "long" else 36)
    text = long_table(load, order, tokens=7) if layout == "long" else wide_table(load, order)
    monkeypatch.setattr(table, "BLOCK", 64)
    trace = import_csv(write(tmp_path, text))
    np.testing.assert_array_equal(trace.load_SLE, load)
    last = text.splitlines()[-1]
    with pytest.raises(TraceError, match=rf"row {len(order) + 2}: .*again, expected one row for it"):
        read_csv(write(tmp_path, f"{text}{last}\n"))
    if layout == "long":
        assert (trace.tokens_SL == 7).all()
        with pytest.raises(TraceError, match=r"step \d+, layer \d: its rows have 7 and 8 tokens"):
            import_csv(write(tmp_path, re.sub(r",7\n$", ",8\n", text)))


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_table_that_breaks_off_ends_with_its_last_whole_step(cut: int, tmp_path: Path) -> None:
    """A last line without all its cells, as of a run that still writes, is left out with its step, and said."""
    text = GOOD + "2,0,0,3\n2,0,1,1\n"
    assert text[-cut - 1] != "\n"
    path = write(tmp_path, text[: -1 - cut - len("1")])
    with pytest.warns(CutShortWarning, match=r"counts\.csv: the last line breaks off"):
        trace = import_csv(path)
    assert trace.step_S.tolist() == [0, 1]
    assert not trace.meta.complete


@pytest.mark.parametrize("head", ["step,layer,expert,load\n0,0,0,7\n1,0,0,1234", "step,layer,load_0\n0,0,7\n1,0,1234"])
def test_a_last_cell_that_may_have_lost_digits_is_left_out(head: str, tmp_path: Path) -> None:
    """A last line without its line break has all cells and perhaps not all digits: 12 may have been 1234."""
    assert import_csv(write(tmp_path, f"{head}\n")).load_SLE.ravel().tolist() == [7, 1234]
    with pytest.warns(CutShortWarning, match=r"counts\.csv: the last line breaks off, it has no line break"):
        trace = import_csv(write(tmp_path, head[:-2]))
    assert trace.load_SLE.ravel().tolist() == [7]
    assert not trace.meta.complete
    assert "no line break" in trace.meta.notes[-1]


def test_a_row_that_is_missing_may_be_the_line_without_a_line_break(tmp_path: Path) -> None:
    """Where the last line is not of the last step, the refusal says that it was left out."""
    with pytest.raises(TraceError, match=r"no row for expert 1 of step 0, layer 0: .*; .* it has no line break"):
        read_csv(write(tmp_path, LONG + "1,0,0,2\n1,0,1,2\n0,0,0,3\n0,0,1,1"))


def test_a_gap_before_the_last_step_is_no_break(tmp_path: Path) -> None:
    """Only the last step of a table that breaks off may lack rows."""
    with pytest.raises(TraceError, match="no row for expert 1 of step 1, layer 0"):
        read_csv(write(tmp_path, GOOD.replace("1,0,1,2\n", "") + "2,0,0,3\n2,0,"))


def test_an_archive_gives_back_every_column(tmp_path: Path) -> None:
    """A trace written as plain arrays and imported is the same trace."""
    trace = synthetic_trace(20)
    arrays = {"load": trace.load_SLE, "step": trace.step_S, "tokens": trace.tokens_SL, **trace.columns}
    np.savez_compressed(tmp_path / "counts.npz", **arrays)
    got = import_log(tmp_path / "counts.npz", tmp_path / "out.parquet", format="npz", top_k=2)
    np.testing.assert_array_equal(got.load_SLE, trace.load_SLE)
    np.testing.assert_array_equal(got.tokens_SL, trace.tokens_SL)
    assert got.columns.keys() == trace.columns.keys()
    for name, column in trace.columns.items():
        np.testing.assert_array_equal(got.columns[name], column)


def test_a_bare_array_is_the_load(tmp_path: Path) -> None:
    """`np.save("counts.npy", load)`: steps 0, 1, ... as in an archive without steps; nothing is unpickled."""
    trace = synthetic_trace(20)
    np.save(tmp_path / "counts.npy", trace.load_SLE.astype(np.int32))
    got = import_log(tmp_path / "counts.npy", tmp_path / "out.parquet", format="npz", top_k=2)
    np.testing.assert_array_equal(got.load_SLE, trace.load_SLE)
    assert got.step_S.tolist() == list(range(20))
    for content, says in ((np.array([{}]), "is object"), (np.ones((2, 2), int), r"\(2, 2\), expected 3 axes")):
        np.save(tmp_path / "other.npy", content, allow_pickle=True)
        with pytest.raises(TraceError, match=says):
            read_npz(tmp_path / "other.npy")
    (tmp_path / "other.npy").write_bytes((tmp_path / "counts.npy").read_bytes()[:200])
    with pytest.raises(TraceError, match=r"other\.npy is int32 \[20.* in 200 bytes, expected plain numbers"):
        read_npz(tmp_path / "other.npy")
    with pytest.raises(TraceError, match="expected at most 100; read in pieces"):
        read_npz(tmp_path / "counts.npy", max_bytes=100)


@pytest.mark.parametrize("form", ["tensor", "list", "dict"])
def test_tensors_are_the_arrays(form: str, tmp_path: Path) -> None:
    """`torch.save` of one tensor, of a list with a step each, of a dict with the names of columns."""
    torch = need("torch", "pip install '.[torch]'")
    trace = synthetic_trace(20)
    load = torch.from_numpy(trace.load_SLE)
    loss = torch.from_numpy(trace.columns["loss"])
    saved = {"tensor": load, "list": list(load.clone()), "dict": {"load": load.float(), "loss": loss}}[form]
    torch.save(saved, tmp_path / "counts.pt")
    got = import_log(tmp_path / "counts.pt", tmp_path / "out.parquet", format="npz", top_k=2)
    np.testing.assert_array_equal(got.load_SLE, trace.load_SLE)
    assert ("loss" in got.columns) == (form == "dict")


@pytest.mark.slow
def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    """By what they hold and what was expected; fractions are no counts."""
    torch = need("torch", "pip install '.[torch]'")
    for saved, says in (
        ({"weight": torch.ones(2)}, "unknown tensor 'weight', expected: load, step"),
        ({"load": "text"}, "load is a str, expected a tensor of numbers"),
        ([torch.ones(2, 2), torch.ones(3, 2)], "equal size"),
        (5, "holds a int, expected a tensor, a list of them or a dict of them by name"),
        (torch.full((2, 1, 2), 0.5), "must hold whole numbers"),
    ):
        torch.save(saved, tmp_path / "other.pt")
        with pytest.raises(TraceError, match=says):
            read_npz(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"step": np.arange(2)}, r"no array 'load' \[steps, layers, experts\]; there is: step"),
        ({"load": np.ones((2, 2))}, r"load has shape \(2, 2\), expected 3 axes"),
        ({"load": np.ones((2, 1, 2)), "loss": np.ones(3)}, r"column loss has shape \(3,\), expected \(2,\)"),
        ({"load": np.ones((2, 1, 2)), "tokens": np.ones(3)}, r"tokens have shape \(3,\), expected .* \(2, 1\)"),
        ({"load": np.ones((2, 1, 2)), "step": np.array([4, 4])}, "repeat after step 4"),
        ({"load": np.array([[["a"]]])}, r"array load\.npy is <U1"),
    ],
)
def test_a_bad_archive_is_refused(arrays: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    """Unknown names, wrong shapes and numbers that are no counts are refused by name."""
    np.savez(tmp_path / "counts.npz", **arrays)
    with pytest.raises(TraceError, match=rf"counts\.npz: .*{says}"):
        read_npz(tmp_path / "counts.npz")


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_the_command_writes_a_valid_trace(kind: str, tmp_path: Path) -> None:
    """`import KIND PATH --top-k K --tokens N --out FILE` gives a file that reads back."""
    path = write(tmp_path, GOOD)
    if kind == "npz":
        path = tmp_path / "counts.npz"
        np.savez(path, load=np.array([[[3, 1]], [[2, 2]]]))
    out = tmp_path / "out.parquet"
    words = ["import", kind, str(path), "--top-k", "1", "--tokens", "4", "--out", str(out), "--name", "mine"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "2 steps, 1 layer, 2 experts" in done.output
    trace = read_trace(out)
    assert trace.id == "mine/test/seed0"
    assert trace.load_SLE.tolist() == [[[3, 1]], [[2, 2]]]
    other = ["--out", str(tmp_path / "other.parquet")]
    for more, says in (
        ([], "a trace is there already"),
        ([*other, "--name", "a b"], r"metadata field recipe: expected a name of letters.*, got 'a b'"),
        ([*other, "--split", "a b"], r"metadata field split: expected a name of letters.*, got 'a b'"),
        (["--out", str(tmp_path / "noext")], r"noext: expected a file name that ends in \.parquet"),
    ):
        again = CliRunner().invoke(app, [*words, *more])
        assert isinstance(again.exception, TraceError)
        assert re.search(says, str(again.exception))
    assert not (tmp_path / "noext").exists()


def test_import_log_names_what_it_cannot_do(tmp_path: Path) -> None:
    """An unknown format, an option that the format lacks, and one that it needs: each by name."""
    with pytest.raises(NotFoundError, match="unknown format 'megatron'"):
        import_log(tmp_path, tmp_path / "o.parquet", format="megatron")
    with pytest.raises(TraceError, match=r"format jsonl: got an unexpected keyword argument 'experts'"):
        import_log(tmp_path, tmp_path / "o.parquet", format="jsonl", experts=8)
    with pytest.raises(TraceError, match=r"format flame-moe: missing a required argument: 'experts'"):
        import_log(tmp_path, tmp_path / "o.parquet", format="flame-moe")


@pytest.mark.parametrize(("asked", "got"), [(3, (3, 4)), ((1, 4), (1, 4)), (None, (0, 1))])
@pytest.mark.parametrize("name", ["npz", "jsonl"])
def test_layers_are_given_their_numbers_in_the_model(
    name: str, asked: Any, got: tuple[int, ...], tmp_path: Path
) -> None:
    """The first of them or all, for a log that numbers its MoE layers from 0."""
    load_SLE = np.ones((3, 2, 4), dtype=np.int64)
    file = tmp_path / f"log.{name}"
    if name == "npz":
        np.savez(file, load=load_SLE)
    else:
        lines = [{"step": s, "layer": m, "load": load_SLE[s, m].tolist()} for s in range(3) for m in range(2)]
        file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    trace = import_log(file, tmp_path / "out.parquet", format=name, top_k=1, layers=asked)
    assert tuple(layer.index for layer in trace.meta.layers) == got


def test_an_archive_may_hold_its_layers_numbers(tmp_path: Path) -> None:
    """As the array `layer`; other numbers for them are refused, and so are those that do not rise."""
    file = tmp_path / "log.npz"
    np.savez(file, load=np.ones((3, 2, 4), dtype=np.int64), layer=np.array([3, 5]))
    trace = import_log(file, tmp_path / "out.parquet", format="npz", top_k=1)
    assert [layer.index for layer in trace.meta.layers] == [3, 5]
    with pytest.raises(TraceError, match=r"numbers its layers \(3, 5\), got other numbers for them: \(0, 1\)"):
        import_log(file, tmp_path / "other.parquet", format="npz", top_k=1, layers=0)
    for wrong in (np.array([5, 3]), np.array([1]), np.array([0.0, 1.0])):
        np.savez(file, load=np.ones((3, 2, 4), dtype=np.int64), layer=wrong)
        with pytest.raises(TraceError, match="expected the rising numbers of 2 layers"):
            import_log(file, tmp_path / "other.parquet", format="npz", top_k=1)
