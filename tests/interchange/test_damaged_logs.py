"""Damaged logs are refused with file, line and what was expected; one that breaks off is read so far, and marked."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moeload_bench.errors import TraceError
from moeload_bench.interchange import logfiles
from moeload_bench.interchange.jsonlines import read_jsonl
from moeload_bench.interchange.rows import CutShortWarning, Log, LogRow, write_log
from moeload_bench.interchange.smartmoe import read_smartmoe
from moeload_bench.interchange.wandb import read_wandb
from tests.support.foreign import logs
from tests.support.foreign.damage import (
    arrays,
    cut,
    edit,
    event,
    header,
    lines_of,
    lose,
    parquet,
    per_pass,
    put,
    replaced,
    routed,
    safetensor,
    tensor,
    trimmed,
    twice,
)
from tests.support.foreign.formats import CHOSEN, WRITERS, imported, made

OTHER, MISSING, ORDER, NEGATIVE, FRACTION = "another format", "missing", "order or twice", "negative", "fraction"
EXPERT, CUT, TOP_K, PICKLE, BOMB = "expert out of range", "breaks off", "mixed top-k", "a pickle", "too large"
KINDS = (OTHER, MISSING, ORDER, NEGATIVE, FRACTION, EXPERT, CUT, TOP_K, PICKLE, BOMB)

PICKLED = pickle.dumps([1] * 99)
LINE = r'(\{"iter": 20[^\n]*\n)'
TAG = "moe/layer_{}/expert_{}"
ONES = np.ones((3, 4, 8), dtype=np.int64)
DAMAGES: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("npz", OTHER, arrays(loads=ONES), "unknown array 'loads', expected: load, step, tokens"),
    ("npz", MISSING, arrays(step=np.array([0, 10, 30])), "gap after step 10"),
    ("npz", ORDER, arrays(step=np.array([0, 20, 10])), "step 10"),
    ("npz", NEGATIVE, arrays(load=-ONES), "step 0, layer 0: expert 0 has load -1"),
    ("npz", FRACTION, arrays(load=0.5 * ONES), "load must hold whole numbers"),
    ("npz", CUT, cut("*.npz"), "not a NumPy archive"),
    ("npz", TOP_K, arrays(load=logs.truth(CHOSEN) + (np.arange(8) == 0)), "loads sum to|sum to"),
    ("npz", PICKLE, put("*.npz", PICKLED), "not a NumPy archive"),
    (
        "csv",
        OTHER,
        edit("*.csv", "expert", "device"),
        "row 1: columns are 'step,layer,device,load', expected step,layer",
    ),
    ("csv", MISSING, edit("*.csv", r"\n10,1,2,\d+", ""), "no row for expert 2 of step 10, layer 1: got 95 rows"),
    ("csv", ORDER, edit("*.csv", r"\n10,1,2,", "\n10,1,1,"), "row 44: expert 1 of step 10, layer 1 again"),
    ("csv", NEGATIVE, edit("*.csv", r"\n10,1,2,", "\n10,1,2,-"), r"row 44, column load: got -\d+, expected at least 0"),
    (
        "csv",
        FRACTION,
        edit("*.csv", r"(\n10,1,2,\d+)", r"\1.5"),
        r"row 44, column load: got '\d+\.5', expected a whole",
    ),
    ("csv", EXPERT, edit("*.csv", r"\n10,1,2,", "\n10,1,8,"), "got 96 rows, expected 3 steps x 4 layers x 9 experts"),
    ("csv", TOP_K, edit("*.csv", r"\n10,1,2,", "\n10,1,2,1"), "step 10: loads sum to"),
    ("csv", PICKLE, put("*.csv", PICKLED), "not a CSV table"),
    ("jsonl", OTHER, put("rank0*", b"step,layer\n1,2\n"), r"rank0\.jsonl, line 1: not JSON"),
    ("jsonl", OTHER, put("rank0*", b"[" * 100_000 + b"\n"), r"rank0\.jsonl, line 1: not JSON"),
    ("jsonl", OTHER, edit("rank0*", r'"tokens"', '"token"'), r"unknown field 'token'; there is: step, layer, load"),
    (
        "jsonl",
        MISSING,
        edit("rank0*", r'"layer": 1', '"layer": 7'),
        r"layer [17] of step|step 0: layer [17]|expected \(0, 2",
    ),
    ("jsonl", ORDER, edit("rank0*", r'"layer": 1', '"layer": 1, "layer": 1'), "'layer' occurs twice in one object"),
    ("megatron-tokens", ORDER, edit("rank0*", r'"tpe"', '"tpe": [[1]], "tpe"'), "'tpe' occurs twice in one object"),
    ("jsonl", MISSING, edit("rank1*", r'\{"step": 10.*?(\{"step": 20)', r"\1"), "step 10 is missing"),
    (
        "jsonl",
        ORDER,
        edit("rank0*", r'"step": 20', '"step": 5'),
        r"rank0\.jsonl, line 9: step 5 after 10: out of order",
    ),
    (
        "jsonl",
        ORDER,
        edit("rank0*", r'("step": 10, "layer": 3.*?\n)', r'\1{"step": 10, "layer": 3, "load": [1]}\n'),
        "again",
    ),
    ("jsonl", NEGATIVE, edit("rank0*", r'("load": \[)\d+', r"\1-1"), r"rank0\.jsonl, line 1: load\[0\] is -1"),
    (
        "jsonl",
        FRACTION,
        edit("rank0*", r'("load": \[)\d+', r"\g<1>1.5"),
        r"line 1: load\[0\] is 1\.5, expected a whole",
    ),
    ("jsonl", FRACTION, edit("rank0*", r'("load": \[)\d+', r"\g<1>1e999"), r"line 1: load\[0\] is inf"),
    ("jsonl", EXPERT, edit("rank0*", r'"load": \[\d+, ', '"load": ['), r"has 8 experts, expected 7 in every layer"),
    ("jsonl", TOP_K, edit("rank0*", r'("load": \[)\d+', r"\g<1>99"), r"step 0, layer 0: loads sum to"),
    ("jsonl", PICKLE, put("rank0*", PICKLED), "not JSON|no complete step in it"),
    (
        "megatron-tokens",
        OTHER,
        put("rank0*", b'{"step": 1}\n'),
        r"rank0\.jsonl, line 1: no field 'block'; got step, expected",
    ),
    ("megatron-tokens", MISSING, lose("rank3*"), r"rank 3 missing: got 7 files"),
    ("megatron-tokens", MISSING, lose("rank7*"), r"got 7 ranks, expected a multiple of 2 pipeline x 4 expert"),
    ("megatron-tokens", MISSING, edit("rank2*", LINE + LINE, ""), r"rank2\.jsonl: iteration 20 is missing"),
    ("megatron-tokens", MISSING, edit("rank2*", LINE, ""), "rank 2 has no layer 0 in iteration 20"),
    (
        "megatron-tokens",
        MISSING,
        edit("rank2*", r'"tpe": \[\[[^]]*\], ', '"tpe": ['),
        r"rank 2 has 1 micro-batches in layer 0",
    ),
    (
        "megatron-tokens",
        MISSING,
        edit("rank2*", r'("iter": 20[^\n]*"tpe": \[)\[[^]]*\], ', r"\1", 2),
        "rank 2 has 1 micro-batches in iteration 20, rank 0 has 2",
    ),
    ("megatron-tokens", ORDER, edit("rank2*", LINE, r"\1\1"), r"layer 0 of step 20 again"),
    ("megatron-tokens", ORDER, edit("rank2*", '"iter": 30', '"iter": 10'), r"iter 10 after 20: out of order or twice"),
    (
        "megatron-tokens",
        NEGATIVE,
        edit("rank2*", r'("tpe": \[\[)\d+', r"\1-3"),
        r"rank2\.jsonl, line 1: tpe\[0, 0\] is -3",
    ),
    ("megatron-tokens", FRACTION, edit("rank2*", r'("tpe": \[\[)\d+', r"\g<1>0.5"), r"tpe\[0, 0\] is 0\.5"),
    ("megatron-tokens", EXPERT, edit("rank2*", r'("tpe": \[\[)\d+, ', r"\1"), r"tpe is not a table of numbers"),
    ("megatron-tokens", EXPERT, edit("rank2*", r"(\[\[|\], \[)", r"\g<1>0, ", 2), r"rank \d has 2 experts, expected 3"),
    (
        "megatron-tokens",
        TOP_K,
        edit("rank2*", r'("tpe": \[\[)\d+', r"\g<1>99"),
        r"loads sum to .* tokens were dropped or padded",
    ),
    ("megatron-tokens", PICKLE, put("rank0*", PICKLED), "not JSON|no complete iteration in it"),
    ("megatron-routing", OTHER, put("*rank0*", b'{"iter": 1}\n'), "line 1: no field 'block'; got iter, expected"),
    ("megatron-routing", MISSING, lose("*rank5*"), r"rank 5 missing"),
    ("megatron-routing", MISSING, edit("*rank0*", r'\{"step": 1[^\n]*\n', ""), "micro-batches .* tokens were dropped"),
    (
        "megatron-routing",
        MISSING,
        lambda f: lines_of(f / "router_trace_rank1.jsonl", 1),
        "rank 1 has 1 micro-batches in iteration 1, rank 0 has 2 .* tokens were dropped",
    ),
    (
        "megatron-routing",
        ORDER,
        edit("*rank0*", r'"step": 2', '"step": 0', 4),
        r"step 0 after 1: out of order or twice",
    ),
    ("megatron-routing", NEGATIVE, edit("*rank0*", r'("top_indices": \[\[)\d+', r"\1-1"), r"top_indices\[0, 0\] is -1"),
    (
        "megatron-routing",
        FRACTION,
        edit("*rank0*", r'("top_indices": \[\[)\d+', r"\g<1>1.5"),
        r"top_indices\[0, 0\] is 1\.5",
    ),
    (
        "megatron-routing",
        EXPERT,
        edit("*rank0*", r'("top_indices": \[\[)\d+', r"\g<1>8"),
        r"holds expert 8, expected 0 to 7",
    ),
    ("megatron-routing", TOP_K, edit("*rank0*", r'"topk": 2', '"topk": 3'), r"line 1: top_indices has shape|topk is"),
    (
        "megatron-routing",
        TOP_K,
        edit("*rank0*", r'("step": 1.*?"topk": )2', r"\g<1>3"),
        "topk is 3, it was 2 before: mixed top-k",
    ),
    ("megatron-routing", PICKLE, put("*rank0*", PICKLED), "not JSON|no complete iteration in it"),
    ("sglang", OTHER, tensor(lambda torch: [1]), "holds a list, expected a dict"),
    ("sglang", OTHER, tensor(lambda torch: {"other": 1}), r"holds \['other'\], expected 'logical_count' or 'records'"),
    ("sglang", OTHER, tensor(lambda torch: {"records": [{"rank": 0}]}), "expected 'global_physical_count'"),
    (
        "sglang",
        OTHER,
        tensor(lambda torch: {"logical_count": torch.ones(2, 4)}),
        r"has shape \[2, 4\], expected 3 axes",
    ),
    ("sglang", MISSING, tensor(lambda torch: {"logical_count": torch.zeros(2, 1, 4)}), "no count in any layer"),
    (
        "sglang",
        MISSING,
        per_pass(lambda r: r["records"].pop()),
        "rank 0 has 0 records of pass 9, expected one from each",
    ),
    ("sglang", ORDER, per_pass(lambda r: r["records"].append(r["records"][0])), "rank 0 has 2 records of pass 7"),
    ("sglang", NEGATIVE, tensor(lambda torch: {"logical_count": torch.full((2, 1, 4), -1)}), r"\[0, 0, 0\] is -1"),
    ("sglang", FRACTION, tensor(lambda torch: {"logical_count": torch.full((2, 1, 4), 0.5)}), r"\[0, 0, 0\] is 0\.5"),
    (
        "sglang",
        EXPERT,
        per_pass(lambda r: r["last_physical_to_logical_map"].fill_(-1)),
        r"physical_to_logical_map\[0, 0\] is -1",
    ),
    ("sglang", CUT, cut("*.pt"), "not an archive as torch.save writes it"),
    (
        "sglang",
        TOP_K,
        tensor(lambda torch: {"logical_count": torch.arange(8).reshape(1, 2, 4)}),
        "loads sum to 6 in layer 0",
    ),
    ("sglang", PICKLE, put("*.pt", b"PK"), r"\.pt: not an archive as torch.save writes it"),
    ("sglang", PICKLE, put("*.pt", pickle.dumps({"logical_count": 1})), "not an archive as torch.save writes it"),
    ("sglang", PICKLE, tensor(lambda torch: {"logical_count": print}), "holds an object that is not a tensor"),
    ("tensorrt-llm", OTHER, lose("meta*"), r"meta_info\.json: .*expected JSON with num_experts"),
    ("tensorrt-llm", OTHER, safetensor(lambda t: t.update({"weights": t["101_4"]})), "expected names like 100_3"),
    ("tensorrt-llm", MISSING, lose("rank1*"), r"rank 1 missing"),
    ("tensorrt-llm", MISSING, safetensor(lambda t: t.pop("101_4")), "step 101: layer 4 is missing or new"),
    ("tensorrt-llm", ORDER, lambda f: twice(f / "rank0.safetensors"), "'101_4' occurs twice"),
    ("tensorrt-llm", NEGATIVE, safetensor(lambda t: t.update({"101_4": t["101_4"] - 50})), r"101_4\[\d\] is -\d+"),
    (
        "tensorrt-llm",
        FRACTION,
        lambda f: replaced(f / "rank0.safetensors", b'"I32"', b'"F32"'),
        "expected I32 or I64 counts",
    ),
    (
        "tensorrt-llm",
        FRACTION,
        lambda f: header(f / "rank0.safetensors", '"data_offsets": [0, 32]', '"data_offsets": [0.0, 32.0]'),
        r"100_3\.data_offsets\.0: .* valid integer, got 0\.0",
    ),
    (
        "tensorrt-llm",
        OTHER,
        lambda f: header(f / "rank0.safetensors", '"data_offsets": [0, 32]', '"data_offsets": [false, 32]'),
        r"100_3\.data_offsets\.0: .* valid integer, got False",
    ),
    (
        "tensorrt-llm",
        EXPERT,
        safetensor(lambda t: t.update({"101_4": t["101_4"][:5]})),
        "layer 4 has 5 experts, expected 8",
    ),
    (
        "tensorrt-llm",
        CUT,
        lambda f: trimmed(f / "rank0.safetensors", 40),
        "it breaks off or has a tail",
    ),
    (
        "tensorrt-llm",
        TOP_K,
        safetensor(lambda t: t.update({"101_4": t["101_4"] + 1})),
        "step 101: loads sum to .* multiple of top-k",
    ),
    ("tensorrt-llm", PICKLE, put("rank0*", PICKLED), "not a safetensors file: a header of"),
    ("load-history", OTHER, edit("*.json", "load_history", "history"), "no whole entry, expected"),
    ("load-history", OTHER, put("*.json", b'{"load_history": [5]}'), "entry 0: got a JSON int, expected an object"),
    ("load-history", OTHER, put("*.json", b'{"load_history":' + b"[" * 100_000), "nested deeper than 64"),
    ("load-history", OTHER, put("*.json", b'{"a": "' + b"x" * (1 << 21)), "a string of more than 1048576 bytes"),
    ("load-history", MISSING, edit("*.json", "logical_expert_load", "load"), "entry 0: no field 'logical_expert_load'"),
    ("load-history", NEGATIVE, edit("*.json", r"\[\[\d+", "[[-1"), r"entry 0: logical_expert_load\[0, 0\] is -1"),
    ("load-history", FRACTION, edit("*.json", r"\[\[\d+", "[[1.5"), r"logical_expert_load\[0, 0\] is 1\.5, expected a"),
    ("load-history", FRACTION, edit("*.json", r"\[\[\d+", f"[[{2**70}"), "entry 0: not JSON: .*integer overflow"),
    ("load-history", EXPERT, edit("*.json", r"\[\[\d+, ", "[["), "is not a table of numbers, expected rows of one"),
    (
        "load-history",
        EXPERT,
        edit("*.json", r"(.*\[)\[[^]]*\], ", r"\1"),
        r"entry 2: .* has shape \[3, 8\], expected \[4",
    ),
    ("load-history", TOP_K, edit("*.json", r"\[\[\d+", "[[99"), "step 0: loads sum to"),
    ("load-history", PICKLE, put("*.json", PICKLED), "entry 0: not JSON"),
    ("routed", OTHER, routed([[1, 2]]), r"request0\.npy: got int64 \[1, 2\], expected whole numbers \[tokens"),
    ("routed", OTHER, put("request0*", b"PK"), "not a NumPy array or archive"),
    ("routed", OTHER, put("request1*", b"PK\5\6" + bytes(18)), "no array in it"),
    ("routed", MISSING, routed(np.full((9, 4, 2), -1)), "no token has experts, expected ids from 0 to 7"),
    ("routed", MISSING, routed([[[1, 2], [-1, -1]]] * 3), "no token has experts in layers 1: if these are dense, say"),
    ("routed", MISSING, routed([[[1, 2], [3, 4]], [[1, 2], [-1, -1]]]), "1 of 2 tokens have no experts in layer 1"),
    ("routed", MISSING, routed([[[1, -1]]]), r"a token has experts \[1, -1\] in layer 0, expected different ones"),
    ("routed", NEGATIVE, routed([[[1, -2]]]), r"request0\.npy: expert -2, expected 0 to 7 \(--experts\), or -1"),
    ("routed", FRACTION, routed([[[1.0, 2.0]]]), r"request0\.npy: got float64 \[1, 1, 2\], expected whole numbers"),
    ("routed", EXPERT, routed([[[1, 8]]]), r"request0\.npy: expert 8, expected 0 to 7"),
    (
        "routed",
        EXPERT,
        routed([[[1, 2]]]),
        r"request1\.npz, .*: 4 layers, expected 1 as in the arrays before",
    ),
    ("routed", CUT, cut("request0*"), r"request0\.npy: got int16 .* in \d+ bytes, expected as many ids"),
    ("routed", TOP_K, routed([[[1, 2, 3]] * 4], "request2"), r"request2\.npy: top-k is 3, it was 2 before: mixed"),
    ("routed", PICKLE, put("request0*", PICKLED), "not a NumPy array or archive"),
    ("routed", PICKLE, routed(np.array([[[None]]])), r"got object \[1, 1, 1\], expected whole numbers"),
    ("smartmoe", OTHER, edit("table_iter11_rank2*", r"^0:", "0;"), r"line 1: got '0;.*expected layer:\[\["),
    (
        "smartmoe",
        OTHER,
        edit("table_iter11_rank2*", r"^0:", "9" * 5000 + ":"),
        r"line 1: got '9999.*expected layer:\[\[",
    ),
    ("smartmoe", MISSING, lose("table_iter11_rank2*"), r"rank2\.log: iteration 11 is missing"),
    ("smartmoe", MISSING, edit("table_iter11_rank2*", r"^0:[^\n]*\n", ""), "layer 0 is missing"),
    ("smartmoe", ORDER, edit("table_iter11_rank2*", r"^0:", "1:"), "layer 1 of step 11 again"),
    ("smartmoe", NEGATIVE, edit("table_iter11_rank2*", r"\[\[\d+\.0", "[[-1.0"), r"layer 0\[0, 0\] is -1"),
    ("smartmoe", FRACTION, edit("table_iter11_rank2*", r"\[\[\d+\.0", "[[1.5"), r"layer 0\[0, 0\] is 1\.5"),
    (
        "smartmoe",
        EXPERT,
        edit("table_iter11_rank2*", r"(\[\[|\], \[)", r"\g<1>0.0, ", 2),
        "layer 0 has 9 experts, expected 8",
    ),
    ("smartmoe", TOP_K, edit("table_iter11_rank2*", r"\[\[\d+\.0", "[[99.0"), "step 11: loads sum to"),
    ("smartmoe", PICKLE, put("table_iter11_rank2*", PICKLED), r"table_iter11_rank2\.log, line 1: "),
    ("flame-moe", OTHER, put("*/*.parquet", b"PAR1"), "not a readable parquet file"),
    ("flame-moe", OTHER, parquet([1, 2]), "column indices is not a column of lists"),
    ("flame-moe", MISSING, lose("540/layer_02*"), "step 540: layer 2 is missing"),
    ("flame-moe", NEGATIVE, parquet([[1, -2]]), "expert -2, expected 0 to 7"),
    ("flame-moe", FRACTION, parquet([[1.5, 2.0]]), "expected the same number of whole numbers in each"),
    ("flame-moe", EXPERT, parquet([[1, 9]]), r"expert 9, expected 0 to 7"),
    ("flame-moe", CUT, cut("540/layer_02*"), "not a readable parquet file"),
    ("flame-moe", TOP_K, parquet([[1, 2], [1]]), "mixed top-k"),
    ("flame-moe", TOP_K, parquet([[1, 2, 3]]), "3 experts per token|2 experts per token"),
    ("flame-moe", PICKLE, put("*/*.parquet", PICKLED), "not a readable parquet file"),
    ("wandb", OTHER, edit("*.csv", "TokensTotal", "tokens", 0), "no name fits"),
    ("wandb", OTHER, edit("*.csv", "Step", "when"), "no column of steps"),
    ("wandb", MISSING, edit("*.csv", r"\n0,,\d+", "\n0,,"), r"row 2: .*layer0/expert0 is empty"),
    ("wandb", MISSING, edit("*.csv", "\n10,,", "\n12,,"), r"step 24 is missing: got step 20|step 20 after 12|step 24"),
    ("wandb", ORDER, edit("*.csv", "\n10,,", "\n0,,"), r"row 4: step 0 twice"),
    ("wandb", ORDER, edit("*.csv", "layer0/expert1", "layer0/expert0"), r"column .*layer0/expert0 occurs twice"),
    ("wandb", ORDER, edit("*.csv", "Step,loss", "Step,Step"), "column Step occurs twice"),
    ("wandb", OTHER, edit("*.csv", "loss", "x" * 200_000), "row 1: not a CSV table: field larger than"),
    (
        "wandb",
        ORDER,
        edit("*.csv", "\n0,,", "\n1e30,,"),
        r"row 2: Step is 1e\+30, expected a whole number from 0 to \d",
    ),
    ("wandb", ORDER, edit("*.csv", "\n0,,", "\ninf,,"), r"row 2: Step is inf, expected a whole number from 0 to \d"),
    ("wandb", NEGATIVE, edit("*.csv", r"\n0,,\d+", "\n0,,-2"), r"layer0/expert0 is -2"),
    (
        "wandb",
        FRACTION,
        edit("*.csv", r"\n0,,\d+", "\n0,,0.5"),
        r"row 2: .*layer0/expert0 is 0\.5, expected a whole number",
    ),
    (
        "wandb",
        EXPERT,
        edit("*.csv", "layer3/expert7", "layer3/expert9"),
        "expert 8 of layer 0|expert . of layer . is missing",
    ),
    ("wandb", TOP_K, edit("*.csv", r"\n0,,\d+", "\n0,,99"), "step 0: loads sum to"),
    ("wandb", PICKLE, put("*.csv", PICKLED), "not a CSV table"),
    ("tensorboard", OTHER, put("events*", b"\xff" * 100), "is this an event file"),
    ("tensorboard", OTHER, put("events*", logs._record(b"\xff\xff\xff")), "record 0: not an event"),
    ("tensorboard", MISSING, event(*(logs._scalar(s, TAG.format(0, 0), 1.0) for s in (30, 40))), "no value in step 30"),
    ("tensorboard", ORDER, event(logs._scalar(20, TAG.format(0, 0), 1.0)), "expert_0 of step 20 again"),
    (
        "tensorboard",
        ORDER,
        event(*(logs._scalar(2**64 - 1, TAG.format(m, e), 1.0) for m in range(4) for e in range(8))),
        r"record \d+: step is -1, expected a whole number from 0 to \d",
    ),
    ("tensorboard", NEGATIVE, event(logs._scalar(30, TAG.format(0, 0), -1.0)), "expert_0 of step 30 is -1"),
    ("tensorboard", FRACTION, event(logs._scalar(30, TAG.format(0, 0), 0.5)), "expert_0 of step 30 is 0.5"),
    (
        "tensorboard",
        EXPERT,
        event(logs._scalar(30, TAG.format(0, 9), 1.0)),
        "expert 8 of layer 0 is missing, expected 10",
    ),
    (
        "tensorboard",
        TOP_K,
        event(*(logs._scalar(30, TAG.format(m, e), float(m + e)) for m in range(4) for e in range(8))),
        "step 30: loads sum to 28 in layer 0 and to 52 in layer 3",
    ),
    ("tensorboard", PICKLE, put("events*", PICKLED), "is this an event file"),
]
CUT_SHORT = {
    "csv": 15,
    "jsonl": 20,
    "load-history": 60,
    "megatron-tokens": 20,
    "megatron-routing": 20,
    "smartmoe": 20,
    "wandb": 60,
    "tensorboard": 20,
}
"""Formats that are read up to a line that breaks off, and how many bytes are taken from the end in the test."""
BOMBS: dict[str, tuple[str, Any, str]] = {
    "npz": ("env", "1000", "decoded, expected at most 1000"),
    "csv": ("moeload_bench.interchange.table.BLOCK", 8, "not a table"),
    "jsonl": ("moeload_bench.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "megatron-tokens": ("moeload_bench.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "megatron-routing": ("moeload_bench.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "smartmoe": ("moeload_bench.interchange.logfiles.MAX_LINE", 50, "line 1: more than 50 bytes"),
    "load-history": (
        "moeload_bench.interchange.load_history.MAX_ENTRY",
        50,
        "more than 50 bytes without an entry's end",
    ),
    "routed": ("moeload_bench.interchange.routed.MAX_CELLS", 9, "4 layers x 8 experts, expected at most 9"),
    "sglang": ("moeload_bench.interchange.sglang.MAX_BYTES", 100, "members unpacked, expected at most 100"),
    "tensorrt-llm": ("moeload_bench.traces.tensors.MAX_HEADER_BYTES", 100, "not a safetensors file: a header of"),
    "flame-moe": ("env", "10", "decoded, expected at most 10"),
    "wandb": ("moeload_bench.interchange.wandb.MAX_LINE", 50, "row 1: more than 50 bytes"),
    "tensorboard": ("moeload_bench.interchange.tensorboard.MAX_RECORD", 10, "expected at most 10: is this an event"),
}
"""What bounds a format's memory, made small: the name of the constant, its value, and the refusal."""
ABSENT = {
    ("npz", EXPERT): "the experts are an axis of the array",
    ("load-history", ORDER): "entries have no number of their own",
    ("routed", ORDER): "files have no number of their own but their order",
    ("flame-moe", ORDER): "checkpoint and layer are the file's name; several files of one are parts of it",
}


def test_every_kind_of_damage_is_made_for_every_format() -> None:
    """The matrix of formats and kinds is full: a damage below, or the reason why there can be none."""
    made_here = {(name, kind) for name, kind, _, _ in DAMAGES}
    made_here |= {(name, CUT) for name in CUT_SHORT} | {(name, BOMB) for name in BOMBS}
    assert not made_here & set(ABSENT)
    assert made_here | set(ABSENT) == {(name, kind) for name in WRITERS for kind in KINDS}


def cases() -> list[Any]:
    """Damages of sglang's tensors start a process with torch each, seconds of work: these are slow."""
    slow = [damage.__qualname__.startswith(("tensor.", "per_pass.")) for _, _, damage, _ in DAMAGES]
    return [pytest.param(*d, marks=pytest.mark.slow) if s else d for d, s in zip(DAMAGES, slow, strict=True)]


@pytest.mark.parametrize(
    ("name", "kind", "damage", "says"),
    cases(),
    ids=lambda value: value.replace(" ", "_")[:20] if isinstance(value, str) else "",
)
def test_a_damaged_log_is_refused(
    name: str, kind: str, damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    """Every kind of damage has its message, with file and line or name; nothing is written."""
    folder = made(name, tmp_path)
    damage(folder)
    with pytest.raises(TraceError, match=rf"(?s){re.escape(str(tmp_path))}.*({says})"):
        imported(name, folder, tmp_path / "out.parquet", top_k=2)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (np.array([2**53 + 1] * 3), "more than 53 bits"),
        (np.array([2**63 + 5] * 3, dtype=np.uint64), "more than 53 bits"),
        (np.array([2**51] * 3), "expected a whole number from 0"),
    ],
)
def test_counts_that_a_float_cannot_hold_are_refused(column: Any, says: str, tmp_path: Path) -> None:
    """Of a parquet table of W&B's, which may hold integers of any size: they are never rounded."""
    counts = {f"train/TokensTotal/layer0/expert{e}": np.ones(3, dtype=np.int64) for e in range(2)}
    table = {"_step": np.arange(3), **counts, "train/TokensTotal/layer0/expert1": column}
    pq.write_table(pa.table(table), tmp_path / "history.parquet")
    with pytest.raises(TraceError, match=says):
        list(read_wandb([tmp_path / "history.parquet"]).rows)


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


def test_the_wrong_format_for_a_name_is_refused(tmp_path: Path) -> None:
    """A folder of another format holds no file of the name that is looked for."""
    folder = made("smartmoe", tmp_path)
    for name in WRITERS:
        if name not in ("smartmoe", "npz", "csv"):
            with pytest.raises(TraceError, match=r"no file .* in this folder"):
                imported(name, folder, tmp_path / "out.parquet")


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("npz", "csv")])
def test_more_files_than_the_limit_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format that takes a folder or a glob; npz and csv are one file."""
    folder = made(name, tmp_path)
    monkeypatch.setattr(logfiles, "MAX_FILES", 0)
    with pytest.raises(TraceError, match="more than 0 files, expected a narrower glob"):
        imported(name, folder, tmp_path / "out.parquet")


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


def test_a_last_number_of_a_history_may_have_lost_digits(tmp_path: Path) -> None:
    """W&B's table: a last line without its line break is left out, though every cell is there."""
    path = tmp_path / "history.csv"
    whole = "Step,moe/layer_0/expert_0,moe/layer_0/expert_1\n0,3,1\n1,2,1234\n"
    path.write_text(whole)
    assert [row.load_LE.tolist() for row in read_wandb([path]).rows] == [[[3, 1]], [[2, 1234]]]
    path.write_text(whole[:-3])
    log = read_wandb([path])
    assert [row.step for row in log.rows] == [0]
    assert "the last line breaks off, it has no line break" in log.cut[0]


def test_files_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    """SmartMoE's files are known by their names: one of two with the same name would be lost."""
    folders = [logs.smartmoe(tmp_path / name, CHOSEN) for name in ("a", "b")]
    with pytest.raises(TraceError, match=r"b/table_iter1_rank0\.log: iteration 1 of rank 0 again, it is in .*a/table"):
        read_smartmoe(folders)


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
