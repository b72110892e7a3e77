"""Damaged logs are refused with file, line and what was expected; one that breaks off is read so far, and marked."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moeload_bench.errors import RecordingError, TraceError
from moeload_bench.ops.commands.import_ import app
from moeload_bench.ops.facts.following import Follower
from moeload_bench.ops.interchange import load_history, logfiles
from moeload_bench.ops.interchange.counts import read_jsonl
from moeload_bench.ops.interchange.load_history import read_load_history
from moeload_bench.ops.interchange.rows import CutShortWarning, Log, LogRow, write_log
from moeload_bench.ops.interchange.wandb import read_wandb
from moeload_bench.recording.parts import Parts
from moeload_bench.traces.lookup import find_run
from tests.conftest import need
from tests.support.foreign import logs
from tests.support.foreign.damage import (
    arrays,
    chunk,
    cut,
    edit,
    event,
    lines_of,
    lose,
    parquet,
    per_pass,
    put,
    routed,
    tensor,
    trimmed,
)
from tests.support.foreign.formats import CHOSEN, imported, made

OTHER, MISSING, ORDER, NEGATIVE, FRACTION = "another format", "missing", "order or twice", "negative", "fraction"
EXPERT, CUT, TOP_K, PICKLE, BOMB = "expert out of range", "breaks off", "mixed top-k", "a pickle", "too large"
KINDS = (OTHER, MISSING, ORDER, NEGATIVE, FRACTION, EXPERT, CUT, TOP_K, PICKLE, BOMB)

PICKLED = pickle.dumps([1] * 99)
LINE = r'(\{"iter": 20[^\n]*\n)'
TAG = "moe/layer_{}/expert_{}"
ONES = np.ones((3, 4, 8), dtype=np.int64)
DAMAGES: dict[str, list[tuple[str, Callable[[Path], None], str]]] = {
    "npz": [
        (OTHER, arrays(loads=ONES), "unknown array 'loads', expected: load, step, tokens"),
        (MISSING, arrays(step=np.array([0, 10, 30])), "gap after step 10"),
        (ORDER, arrays(step=np.array([0, 20, 10])), "step 10"),
        (NEGATIVE, arrays(load=-ONES), "step 0, layer 0: expert 0 has load -1"),
        (FRACTION, arrays(load=0.5 * ONES), "load must hold whole numbers"),
        (CUT, cut("*.npz"), "not a NumPy archive"),
        (TOP_K, arrays(load=logs.truth(CHOSEN) + (np.arange(8) == 0)), "loads sum to|sum to"),
        (PICKLE, put("*.npz", PICKLED), "not a NumPy archive"),
    ],
    "csv": [
        (OTHER, edit("*.csv", "expert", "device"), "row 1: columns are 'step,layer,device,load', expected step,layer"),
        (MISSING, edit("*.csv", r"\n10,1,2,\d+", ""), "no row for expert 2 of step 10, layer 1: got 95 rows"),
        (ORDER, edit("*.csv", r"\n10,1,2,", "\n10,1,1,"), "row 44: expert 1 of step 10, layer 1 again"),
        (NEGATIVE, edit("*.csv", r"\n10,1,2,", "\n10,1,2,-"), r"row 44, column load: got -\d+, expected a whole"),
        (FRACTION, edit("*.csv", r"(\n10,1,2,\d+)", r"\1.5"), r"row 44, column load: got \d+\.5, expected a whole"),
        (EXPERT, edit("*.csv", r"\n10,1,2,", "\n10,1,8,"), "got 96 rows, expected 3 steps x 4 layers x 9 experts"),
        (PICKLE, put("*.csv", PICKLED), "not a CSV table"),
    ],
    "jsonl": [
        (OTHER, put("rank0*", b"step,layer\n1,2\n"), r"rank0\.jsonl, line 1: not JSON"),
        (OTHER, put("rank0*", b"[" * 100_000 + b"\n"), r"rank0\.jsonl, line 1: not JSON"),
        (OTHER, edit("rank0*", r'"tokens"', '"token"'), r"unknown field 'token'; there is: step, layer, load"),
        (
            MISSING,
            edit("rank0*", r'"layer": 1', '"layer": 7'),
            r"layer [17] of step|step 0: layer [17]|expected \(0, 2",
        ),
        (ORDER, edit("rank0*", r'"layer": 1', '"layer": 1, "layer": 1'), "'layer' occurs twice in one object"),
        (MISSING, edit("rank1*", r'\{"step": 10.*?(\{"step": 20)', r"\1"), "step 10 is missing"),
        (ORDER, edit("rank0*", r'"step": 20', '"step": 5'), r"rank0\.jsonl, line 9: step 5 after 10: out of order"),
        (
            ORDER,
            edit("rank0*", r'("step": 10, "layer": 3.*?\n)', r'\1{"step": 10, "layer": 3, "load": [1]}\n'),
            "again",
        ),
        (NEGATIVE, edit("rank0*", r'("load": \[)\d+', r"\1-1"), r"rank0\.jsonl, line 1: load\[0\] is -1"),
        (FRACTION, edit("rank0*", r'("load": \[)\d+', r"\g<1>1.5"), r"line 1: load\[0\] is 1\.5, expected a whole"),
        (FRACTION, edit("rank0*", r'("load": \[)\d+', r"\g<1>1e999"), r"line 1: load\[0\] is inf"),
        (EXPERT, edit("rank0*", r'"load": \[\d+, ', '"load": ['), r"has 8 experts, expected 7 in every layer"),
        (PICKLE, put("rank0*", PICKLED), "not JSON|no complete step in it"),
    ],
    "megatron-tokens": [
        (ORDER, edit("rank0*", r'"tpe"', '"tpe": [[1]], "tpe"'), "'tpe' occurs twice in one object"),
        (OTHER, put("rank0*", b'{"step": 1}\n'), r"rank0\.jsonl, line 1: no field 'block'; got step, expected"),
        (MISSING, lose("rank3*"), r"rank 3 missing: got 7 files"),
        (MISSING, lose("rank7*"), r"got 7 ranks, expected a multiple of 2 pipeline x 4 expert"),
        (MISSING, edit("rank2*", LINE + LINE, ""), r"rank2\.jsonl: iteration 20 is missing"),
        (MISSING, edit("rank2*", LINE, ""), "step 20: layer 0 is missing"),
        (MISSING, edit("rank2*", r'"tpe": \[\[[^]]*\], ', '"tpe": ['), r"rank 2 has 1 micro-batches in layer 0"),
        (MISSING, edit("rank2*", r'("iter": 20[^\n]*"tpe": \[)\[[^]]*\], ', r"\1", 2), "rank 2 has 1 micro-batches in"),
        (ORDER, edit("rank2*", LINE, r"\1\1"), r"layer 0 of step 20 again"),
        (ORDER, edit("rank2*", '"iter": 30', '"iter": 10'), r"iter 10 after 20: out of order or twice"),
        (NEGATIVE, edit("rank2*", r'("tpe": \[\[)\d+', r"\1-3"), r"rank2\.jsonl, line 1: tpe\[0, 0\] is -3"),
        (EXPERT, edit("rank2*", r'("tpe": \[\[)\d+, ', r"\1"), r"tpe is not a table of numbers"),
        (EXPERT, edit("rank2*", r"(\[\[|\], \[)", r"\g<1>0, ", 2), "layer . has 2 experts, expected 3"),
        (TOP_K, edit("rank2*", r'("tpe": \[\[)\d+', r"\g<1>99"), r"loads sum to .* tokens were dropped or padded"),
    ],
    "megatron-routing": [
        (OTHER, put("*rank0*", b'{"iter": 1}\n'), "line 1: no field 'block'; got iter, expected"),
        (MISSING, lose("*rank5*"), r"rank 5 missing"),
        (MISSING, edit("*rank0*", r'\{"step": 1[^\n]*\n', ""), "micro-batches .* tokens were dropped"),
        (MISSING, lambda f: lines_of(f / "router_trace_rank1.jsonl", 1), "rank 1 has 1 micro-batches in layer"),
        (ORDER, edit("*rank0*", r'"step": 2', '"step": 0', 4), r"step 0 after 1: out of order or twice"),
        (NEGATIVE, edit("*rank0*", r'("top_indices": \[\[)\d+', r"\1-1"), r"top_indices\[0, 0\] is -1"),
        (EXPERT, edit("*rank0*", r'("top_indices": \[\[)\d+', r"\g<1>8"), r"holds expert 8, expected 0 to 7"),
        (TOP_K, edit("*rank0*", r'"topk": 2', '"topk": 3'), r"line 1: top_indices has shape|topk is"),
        (TOP_K, edit("*rank0*", r'("step": 1.*?"topk": )2', r"\g<1>3"), "topk is 3, it was 2 before: mixed top-k"),
    ],
    "sglang": [
        (OTHER, tensor(lambda torch: [1]), "an item of the list is a int, expected a tensor"),
        (OTHER, tensor(lambda torch: {"other": torch.ones(2)}), r"holds \['other'\], expected 'logical_count' or"),
        (OTHER, tensor(lambda torch: {"records": [{"rank": 0}]}), "expected 'global_physical_count'"),
        (OTHER, tensor(lambda torch: {"logical_count": torch.ones(2, 4)}), r"has shape \[2, 4\], expected 3 axes"),
        (MISSING, tensor(lambda torch: {"logical_count": torch.zeros(2, 1, 4)}), "no count in any layer"),
        (MISSING, per_pass(lambda r: r["records"].pop()), "rank 0 has 0 records of pass 9, expected one from each"),
        (ORDER, per_pass(lambda r: r["records"].append(r["records"][0])), "rank 0 has 2 records of pass 7"),
        (NEGATIVE, tensor(lambda torch: {"logical_count": torch.full((2, 1, 4), -1)}), r"\[0, 0, 0\] is -1"),
        (FRACTION, tensor(lambda torch: {"logical_count": torch.full((2, 1, 4), 0.5)}), r"\[0, 0, 0\] is 0\.5"),
        (EXPERT, per_pass(lambda r: r["last_physical_to_logical_map"].fill_(-1)), r"physical_to_logical_map\[0, 0\]"),
        (CUT, cut("*.pt"), "not an archive as torch.save writes it"),
        (TOP_K, tensor(lambda torch: {"logical_count": torch.arange(8).reshape(1, 2, 4)}), "loads sum to 6 in layer 0"),
        (PICKLE, put("*.pt", b"PK"), r"\.pt: not an archive as torch.save writes it"),
        (PICKLE, put("*.pt", pickle.dumps({"logical_count": 1})), "not an archive as torch.save writes it"),
        (PICKLE, tensor(lambda torch: {"logical_count": print}), "holds an object that is not a tensor"),
    ],
    "load-history": [
        (OTHER, edit("*.json", "load_history", "history"), "no whole entry, expected"),
        (OTHER, put("*.json", b'{"load_history": [5]}'), "entry 0: got a JSON int, expected an object"),
        (OTHER, put("*.json", b'{"load_history":' + b"[" * 100_000), "nested deeper than 64"),
        (OTHER, put("*.json", b'{"a": "' + b"x" * (1 << 21)), "a string of more than 1048576 bytes"),
        (OTHER, edit("*.json", r"\{\"load", '{"load_history": [], "load'), "'load_history' occurs twice in one object"),
        (OTHER, edit("*.json", r"\[\{\"", '[{"x": {"y": 1, "y": 2}, "'), "entry 0: not JSON: 'y' occurs twice in one"),
        (OTHER, edit("*.json", r"\[\[\d+", "[[true"), "logical_expert_load holds True, expected numbers from 0"),
        (MISSING, edit("*.json", "logical_expert_load", "load"), "entry 0: no field 'logical_expert_load'"),
        (NEGATIVE, edit("*.json", r"\[\[\d+", "[[-1"), r"entry 0: logical_expert_load\[0, 0\] is -1"),
        (FRACTION, edit("*.json", r"\[\[\d+", "[[1.5"), r"logical_expert_load\[0, 0\] is 1\.5, expected a"),
        (FRACTION, edit("*.json", r"\[\[\d+", f"[[{2**70}"), "entry 0: not JSON: .*integer overflow"),
        (EXPERT, edit("*.json", r"\[\[\d+, ", "[["), "is not a table of numbers, expected rows of one"),
        (EXPERT, edit("*.json", r"(.*\[)\[[^]]*\], ", r"\1"), r"entry 2: .* has shape \[3, 8\], expected \[4"),
        (PICKLE, put("*.json", PICKLED), "entry 0: not JSON"),
    ],
    "routed": [
        (OTHER, routed([[1, 2]]), r"request0\.npy: got int64 \[1, 2\], expected whole numbers \[tokens"),
        (OTHER, put("request0*", b"PK"), "not a NumPy array or archive"),
        (OTHER, put("request1*", b"PK\5\6" + bytes(18)), "no array in it"),
        (MISSING, routed(np.full((9, 4, 2), -1)), "no token has experts, expected ids from 0 to 7"),
        (MISSING, routed([[[1, 2], [-1, -1]]] * 3), "no token has experts in layers 1: if these are dense, say"),
        (MISSING, routed([[[1, 2], [3, 4]], [[1, 2], [-1, -1]]]), "1 of 2 tokens have no experts in layer 1"),
        (MISSING, routed([[[1, -1]]]), r"a token has experts \[1, -1\] in layer 0, expected different ones"),
        (NEGATIVE, routed([[[1, -2]]]), r"request0\.npy: expert -2, expected 0 to 7 \(--experts\), or -1"),
        (FRACTION, routed([[[1.0, 2.0]]]), r"request0\.npy: got float64 \[1, 1, 2\], expected whole numbers"),
        (EXPERT, routed([[[1, 8]]]), r"request0\.npy: expert 8, expected 0 to 7"),
        (EXPERT, routed([[[1, 2]]]), r"request1\.npz, .*: 4 layers, expected 1 as in the arrays before"),
        (CUT, cut("request0*"), r"request0\.npy: got int16 .* in \d+ bytes, expected as many ids"),
        (TOP_K, routed([[[1, 2, 3]] * 4], "request2"), r"request2\.npy: top-k is 3, it was 2 before: mixed"),
        (PICKLE, put("request0*", PICKLED), "not a NumPy array or archive"),
        (PICKLE, routed(np.array([[[None]]])), r"got object \[1, 1, 1\], expected whole numbers"),
    ],
    "ultra-ep": [
        (OTHER, put("*.json", b"[]"), "got a JSON list, expected an object"),
        (OTHER, put("*.json", b"[" * 100_000), "not JSON"),
        (OTHER, put("*.json", b" " * (1 << 21)), "more than 1048576 bytes"),
        (OTHER, edit("*.json", "trace_v1", "trace_v2"), "schema is 'ultra_ep_trace_v2' of group '0', expected"),
        (OTHER, edit("*.json", '"chunks": 4', '"chunks": -4'), "chunks is -4, expected a whole number from 0"),
        (OTHER, chunk(lambda a: a.update(loads=a["layers"])), "unknown array 'loads', expected: metadata, layers"),
        (MISSING, lose("*chunk000001*"), "chunk 1 missing: got 3 files, up to 3"),
        (MISSING, lose("*chunk000003*"), "got 3 chunks epg0_gr0_r0_1750000000000.chunk.* expected 4"),
        (MISSING, lambda folder: [lose("*epg0*.npz")(folder) for _ in range(4)] and None, "got 0 chunks"),
        (MISSING, chunk(lambda a: a.pop("microbatches")), "no field 'microbatches'; got layers, pre_logical_loads"),
        (MISSING, chunk(lambda a: a.update(layers=a["layers"][:-1])), "6 layers, 7 microbatches, 7 pre_logical_loads"),
        (MISSING, edit("*.json", '"ep_group_id": "0"', '"ep_group": "0"'), "no field 'ep_group_id'"),
        (MISSING, edit("*.json", '"record_interval": 1', '"record_interval": 4'), "record_interval is 1, expected 4"),
        (MISSING, chunk(lambda a: a.update(microbatches=a["microbatches"] + (np.arange(7) == 2) * 4)), "micro-batch 3"),
        (MISSING, chunk(lambda a: a.update(layers=a["layers"] + 4 * (a["layers"] == 0))), "layer 4 is in some groups"),
        (ORDER, edit("*.json", '"ep_group_id": "0"', '"ep_group_id": "1"'), "group 1 again, it is in"),
        (ORDER, chunk(lambda a: a.update(microbatches=0 * a["microbatches"])), "micro-batch 0 of layer . again"),
        (NEGATIVE, chunk(lambda a: a.update(pre_logical_loads=-a["pre_logical_loads"])), "pre_logical_loads.* is -"),
        (NEGATIVE, chunk(lambda a: a.update(microbatches=a["microbatches"] - 9)), r"microbatches\[0\] is -"),
        (EXPERT, chunk(lambda a: a.update(pre_logical_loads=a["pre_logical_loads"][:, 1:])), "7 experts, expected 8"),
        (CUT, cut("*.npz"), "not a NumPy archive"),
        (PICKLE, chunk(lambda a: a.update(layers=np.array([None] * 7))), "expected plain numbers"),
    ],
    "flame-moe": [
        (OTHER, put("*/*.parquet", b"PAR1"), "not a readable parquet file"),
        (OTHER, parquet([1, 2]), "column indices is not a column of lists"),
        (MISSING, lose("540/layer_02*"), "step 540: layer 2 is missing"),
        (NEGATIVE, parquet([[1, -2]]), "expert -2, expected 0 to 7"),
        (FRACTION, parquet([[1.5, 2.0]]), "expected the same number of whole numbers in each"),
        (EXPERT, parquet([[1, 9]]), r"expert 9, expected 0 to 7"),
        (CUT, cut("540/layer_02*"), "not a readable parquet file"),
        (TOP_K, parquet([[1, 2], [1]]), "mixed top-k"),
        (TOP_K, parquet([[1, 2, 3]]), "3 experts per token|2 experts per token"),
        (PICKLE, put("*/*.parquet", PICKLED), "not a readable parquet file"),
    ],
    "wandb": [
        (OTHER, edit("*.csv", "TokensTotal", "tokens", 0), "no name fits"),
        (OTHER, edit("*.csv", "Step", "when"), "no column of steps"),
        (MISSING, edit("*.csv", r"\n0,,\d+", "\n0,,"), r"row 2: .*layer0/expert0 is empty"),
        (MISSING, edit("*.csv", "\n10,,", "\n12,,"), r"step 24 is missing: got step 20|step 20 after 12|step 24"),
        (ORDER, edit("*.csv", "\n10,,", "\n0,,"), r"row 4: step 0 twice"),
        (ORDER, edit("*.csv", "layer0/expert1", "layer0/expert0"), r"column .*layer0/expert0 occurs twice"),
        (ORDER, edit("*.csv", "Step,loss", "Step,Step"), "column Step occurs twice"),
        (OTHER, edit("*.csv", "loss", "x" * 200_000), "row 1: not a CSV table: field larger than"),
        (ORDER, edit("*.csv", "\n0,,", "\n1e30,,"), r"row 2: Step is 1e\+30, expected a whole number from 0 to \d"),
        (ORDER, edit("*.csv", "\n0,,", "\ninf,,"), r"row 2: Step is inf, expected a whole number from 0 to \d"),
        (NEGATIVE, edit("*.csv", r"\n0,,\d+", "\n0,,-2"), r"layer0/expert0 is -2"),
        (FRACTION, edit("*.csv", r"\n0,,\d+", "\n0,,0.5"), r"row 2: .*layer0/expert0 is 0\.5, expected a whole number"),
        (
            EXPERT,
            edit("*.csv", "layer3/expert7", "layer3/expert9"),
            "expert 8 of layer 0|expert . of layer . is missing",
        ),
    ],
    "tensorboard": [
        (OTHER, put("events*", b"\xff" * 100), "is this an event file"),
        (OTHER, put("events*", logs._record(b"\xff\xff\xff")), "record 0: not an event"),
        (MISSING, event(*(logs._scalar(s, TAG.format(0, 0), 1.0) for s in (30, 40))), "no value in step 30"),
        (ORDER, event(logs._scalar(20, TAG.format(0, 0), 1.0)), "expert_0 of step 20 again"),
        (
            ORDER,
            event(*(logs._scalar(2**64 - 1, TAG.format(m, e), 1.0) for m in range(4) for e in range(8))),
            r"record \d+: step is -1, expected a whole number from 0 to \d",
        ),
        (NEGATIVE, event(logs._scalar(30, TAG.format(0, 0), -1.0)), "expert_0 of step 30 is -1"),
        (FRACTION, event(logs._scalar(30, TAG.format(0, 0), 0.5)), "expert_0 of step 30 is 0.5"),
        (EXPERT, event(logs._scalar(30, TAG.format(0, 9), 1.0)), "expert 8 of layer 0 is missing, expected 10"),
        (PICKLE, put("events*", PICKLED), "is this an event file"),
    ],
}
CUT_SHORT = {
    "csv": 15,
    "jsonl": 20,
    "load-history": 60,
    "megatron-tokens": 20,
    "megatron-routing": 20,
    "wandb": 60,
    "tensorboard": 20,
}
"""Formats that are read up to a line that breaks off, and how many bytes are taken from the end in the test."""
BOMBS: dict[str, tuple[str, Any, str]] = {
    "npz": ("env", "1000", "decoded, expected at most 1000"),
    "csv": ("moeload_bench.ops.interchange.counts.MAX_TABLE_BYTES", 8, "more than 8 bytes of counts"),
    "jsonl": ("moeload_bench.ops.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "megatron-tokens": ("moeload_bench.ops.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "megatron-routing": ("moeload_bench.ops.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "load-history": ("moeload_bench.ops.interchange.load_history.MAX_ENTRY", 50, "more than 50 bytes without an entry"),
    "routed": ("moeload_bench.ops.interchange.routed.MAX_CELLS", 9, "4 layers x 8 experts, expected at most 9"),
    "sglang": ("moeload_bench.ops.interchange.sglang.MAX_BYTES", 100, "members unpacked, expected at most 100"),
    "ultra-ep": ("moeload_bench.ops.interchange.ultra_ep.MAX_CHUNK", 10, "unpacked, expected at most 10"),
    "flame-moe": ("env", "10", "decoded, expected at most 10"),
    "wandb": ("moeload_bench.ops.interchange.table.BLOCK", 50, "row 1: more than 50 bytes"),
    "tensorboard": ("moeload_bench.ops.interchange.tensorboard.MAX_RECORD", 10, "expected at most 10: is this an"),
}
"""What bounds a format's memory, made small: the name of the constant, its value, and the refusal."""
ABSENT = {
    ("npz", EXPERT): "the experts are an axis of the array",
    ("load-history", ORDER): "entries have no number of their own",
    ("routed", ORDER): "files have no number of their own but their order",
    ("flame-moe", ORDER): "checkpoint and layer are the file's name; several files of one are parts of it",
}


def cases() -> Iterator[Any]:
    """Damages of sglang's tensors start a process with torch each, seconds of work: these are slow."""
    for name, damages in DAMAGES.items():
        for kind, damage, says in damages:
            slow = damage.__qualname__.startswith(("tensor.", "per_pass."))
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(name, damage, says, marks=marks, id=f"{name}-{kind}-{says[:20]}".replace(" ", "_"))


@pytest.mark.parametrize(("name", "damage", "says"), [*cases()])
def test_a_damaged_log_is_refused(name: str, damage: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    """Every kind of damage has its message, with file and line or name; nothing is written."""
    folder = made(name, tmp_path)
    damage(folder)
    with pytest.raises(TraceError, match=rf"(?s){re.escape(str(tmp_path))}.*({says})"):
        imported(name, folder, tmp_path / "out.parquet", top_k=2)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_take_too_much_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format has a bound, known before memory is taken."""
    constant, value, says = BOMBS[name]
    folder = made(name, tmp_path)
    if constant == "env":
        monkeypatch.setenv("MOELOAD_MAX_TRACE_BYTES", value)
    else:
        monkeypatch.setattr(constant, value)
        monkeypatch.setattr(logfiles, "_BLOCK", 20)
    with pytest.raises(TraceError, match=rf"(?s){re.escape(str(tmp_path))}.*({says})"):
        imported(name, folder, tmp_path / "out.parquet", top_k=2)


@pytest.mark.parametrize("name", CUT_SHORT)
def test_a_broken_last_line_ends_the_import_with_a_warning(name: str, tmp_path: Path) -> None:
    """A run that still writes: whole steps before it are imported, the trace is marked, and the file is named."""
    folder = made(name, tmp_path)
    path = logfiles.find_files([folder], "*")[-1]
    trimmed(path, CUT_SHORT[name])
    with pytest.warns(CutShortWarning, match="breaks off"):
        trace = imported(name, folder, tmp_path / "out.parquet", top_k=2)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN)[:2])
    assert not trace.meta.complete
    assert any(path.name in note for note in trace.meta.notes)


def test_a_last_step_that_lacks_values_is_left_out_and_said(tmp_path: Path) -> None:
    """TensorBoard's file may end between two records of a step: the steps before are read, the trace is marked."""
    folder = made("tensorboard", tmp_path)
    event(logs._scalar(30, TAG.format(0, 0), 1.0))(folder)
    with pytest.warns(CutShortWarning, match="breaks off in step 30, which has 1 of 32 values"):
        trace = imported("tensorboard", folder, tmp_path / "out.parquet", top_k=2)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN))
    assert not trace.meta.complete
    assert any("step 30" in note for note in trace.meta.notes)


@pytest.mark.parametrize("step", [-1, 2**64 - 1, 10**30])
def test_a_step_that_is_no_number_of_a_step_is_refused(step: int, tmp_path: Path) -> None:
    """Whatever a name or a cell holds: a step beyond the bound is refused by file, and nothing is written."""
    rows_here = iter([LogRow(step, np.ones((1, 2), dtype=np.int64), "a.log")])
    with pytest.raises(TraceError, match=rf"a\.log: step is {step}, expected a whole number from 0 to \d+"):
        write_log(Log("a.log", (0,), 2, rows_here), tmp_path / "o.parquet")
    assert not list(tmp_path.iterdir())


def test_an_enormous_number_in_a_name_costs_nothing(tmp_path: Path) -> None:
    """Ranks that are missing below it are not counted up; a digit that is no decimal one sorts as text."""
    for name in ("rank0.jsonl", f"rank{10**12}.jsonl", "1²2.jsonl"):
        (tmp_path / name).touch()
    files = logfiles.find_files([tmp_path], "*.jsonl")
    assert len(files) == 3
    with pytest.raises(TraceError, match=rf"rank 1, 2, .*, 10 \.\.\. missing: got 2 files, up to {10**12}"):
        logfiles.files_by_number(files[1:], r"rank(\d+)", "rank")


def test_json_of_any_kind_is_no_traceback(tmp_path: Path) -> None:
    """Objects with every field replaced by values of other kinds: refused, never another error."""
    good = {"step": 0, "layer": 0, "load": [1, 2], "tokens": 3, "dropped": [0, 0]}
    wrong: list[Any] = [None, True, -1, 1.5, "x", [], [[]], {}, [None], ["1"], [1, [2]], 2**70, [2**70], [float("nan")]]
    for name in good:
        for value in wrong:
            path = tmp_path / "a.jsonl"
            path.write_text(json.dumps({**good, name: value}) + "\n")
            with pytest.raises(TraceError, match=r"a\.jsonl"):
                list(read_jsonl([path]).rows)


NAMES = [f"moe/layer_{layer}/expert_{expert}" for layer in range(2) for expert in range(4)]
DEEP = "[" * 100_000


@pytest.mark.parametrize("before", range(4))
def test_quotes_within_a_string_of_a_history_end_no_string(before: int, tmp_path: Path) -> None:
    """Wherever a block ends, brackets within a long string are none, and the counts behind it are read."""
    need("ijson", "pip install '.[import]'")
    note = json.dumps(before * "x" + 200_000 * '"[')
    path = tmp_path / "history.json"
    path.write_text(f'{{"note": {note}, "load_history": [{{"logical_expert_load": [[1, 2]]}}]}}')
    assert [row.load_LE.tolist() for row in read_load_history([path]).rows] == [[[1, 2]]]


def test_a_string_of_a_history_is_left_out_in_one_pass_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bytes that are matched are those of the file, and a quote and a backslash at each block's begin."""
    matched = list[int]()

    def counted(pieces: load_history._Pieces, match: re.Match[bytes]) -> None:
        matched.append(len(match[0]))
        pass_string(pieces, match)

    need("ijson", "pip install '.[import]'")
    pass_string = load_history._Pieces._pass_string
    monkeypatch.setattr(load_history._Pieces, "_pass_string", counted)
    path = tmp_path / "history.json"
    path.write_text(json.dumps({"note": 400_000 * '"', "load_history": [{"logical_expert_load": [[1, 2]]}]}))
    list(read_load_history([path]).rows)
    assert len(matched) < 100
    assert sum(matched) < path.stat().st_size + 2 * len(matched)


def test_a_history_with_a_field_over_128_kib_is_read_or_refused(tmp_path: Path) -> None:
    """A long text beside the counts is no harm; a name so long is."""
    path = tmp_path / "history.csv"
    path.write_text(f"_step,{','.join(NAMES)},note\n0{',1' * 8},{'x' * 200_000}\n")
    assert [row.load_LE.sum() for row in read_wandb([path]).rows] == [8]
    path.write_text(f"_step,{','.join(NAMES)},{'x' * 200_000}\n0{',1' * 8},\n")
    with pytest.raises(TraceError, match=r"history\.csv, row 1: not a CSV table: field larger than field limit"):
        list(read_wandb([path]).rows)


@pytest.mark.parametrize("value", [np.int64(2**53 + 1), np.uint64(2**64 - 1)], ids=["above 2^53", "unsigned"])
@pytest.mark.parametrize("name", ["_step", NAMES[0]])
def test_integers_that_no_float_holds_are_refused(name: str, value: np.integer, tmp_path: Path) -> None:
    """By the column's name."""
    table = {column: np.array([0, 1]) for column in ("_step", *NAMES)} | {name: np.array([value, value])}
    pq.write_table(pa.table(table), tmp_path / "history.parquet")
    with pytest.raises(TraceError, match=f"column {name} holds a number of more than 53 bits"):
        list(read_wandb([tmp_path / "history.parquet"]).rows)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "5",
        '{"shards": 5}',
        '{"shards": [{}]}',
        '{"shards": ["../x"]}',
        '{"next_step": "x"}',
        '{"checkpoint": {}}',
        '{"checkpoint": "../x"}',
    ],
)
def test_a_manifest_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    """By `inspect --follow`, which follows a recording, and by a recording that goes on."""
    parts = tmp_path / "run.parts"
    parts.mkdir()
    (parts / "manifest.json").write_text(text)
    follower = Follower(find_run(parts))
    assert list(follower.poll()) == []
    assert "manifest.json: not a manifest" in str(follower.problem)
    with pytest.raises(RecordingError, match=r"manifest\.json: not a manifest"):
        Parts(tmp_path / "run.parquet").look()


@pytest.mark.parametrize("words", [["flame-moe"], ["wandb"]])
def test_experts_are_bounded(words: list[str], tmp_path: Path) -> None:
    """2^31 of them would take 16 GiB before a file is opened."""
    done = CliRunner().invoke(
        app, [*words, str(tmp_path), "--experts", "2147483648", "--out", str(tmp_path / "x.parquet")]
    )
    assert done.exit_code == 2
    assert "less than or equal to 65536" in done.output
