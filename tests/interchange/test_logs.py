"""Logs of engines become traces; what does not add up is refused with file, line and what was expected."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.interchange import flame_moe, megatron, rows, text
from moeload_bench.interchange.formats import FORMATS
from moeload_bench.interchange.jsonlines import read_jsonl
from moeload_bench.interchange.laer_moe import read_laer_moe
from moeload_bench.interchange.rows import CutShortWarning, Log, Options, write_log
from moeload_bench.interchange.sglang import load_arrays, read_sglang
from moeload_bench.interchange.smartmoe import read_smartmoe
from moeload_bench.interchange.tensorboard import read_tensorboard
from moeload_bench.interchange.tensorrt_llm import read_tensorrt_llm
from moeload_bench.interchange.wandb import read_wandb
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need
from tests.support.foreign import logs

CHOSEN = logs.choices()
LAYOUT = megatron.Layout(expert=4, pipeline=2, stage_layers=2)

Read = Callable[[Path], Log]
READERS: dict[str, tuple[Callable[..., Path], Read]] = {
    "jsonl": (logs.jsonl, lambda f: read_jsonl([f])),
    "megatron-tokens": (logs.megatron_tokens, lambda f: megatron.read_tokens([f], LAYOUT)),
    "megatron-routing": (
        logs.megatron_routing,
        lambda f: megatron.read_trace([f], 8, megatron.Layout(pipeline=2, stage_layers=2)),
    ),
    "sglang": (logs.sglang_stat, lambda f: read_sglang([f])),
    "tensorrt-llm": (logs.tensorrt_llm, lambda f: read_tensorrt_llm([f])),
    "smartmoe": (logs.smartmoe, lambda f: read_smartmoe([f])),
    "laer-moe": (logs.laer_moe, lambda f: read_laer_moe([f], device_loads=True, method="LAER")),
    "flame-moe": (logs.flame_moe, lambda f: flame_moe.read_flame_moe([f], 8)),
    "wandb": (logs.wandb, lambda f: read_wandb([f])),
    "tensorboard": (logs.tensorboard, lambda f: read_tensorboard([f])),
}
TORCH = ("sglang",)


def made(name: str, folder: Path) -> Path:
    """The log of a format in ``folder``."""
    if name in TORCH:
        need("torch", "pip install '.[torch]'")
    return READERS[name][0](folder / name, CHOSEN)


def imported(name: str, path: Path, out: Path, **options: Any) -> Trace:
    """Read and written by the importer of a format."""
    write_log(READERS[name][1](path), out, Options(**options))
    return read_trace(out)


def test_every_format_is_listed_and_tested() -> None:
    """`import formats` lists at least eight formats; each but the two older ones is in this file, and a command."""
    done = CliRunner().invoke(app, ["import", "formats"])
    assert done.exit_code == 0
    assert len(FORMATS) >= 8
    assert {one.name for one in FORMATS} == {"npz", "csv", *READERS}
    for one in FORMATS:
        assert one.name in done.output
        assert CliRunner().invoke(app, ["import", one.name, "--help"]).exit_code == 0


@pytest.mark.parametrize("name", READERS)
def test_a_log_gives_the_counts_that_were_routed(name: str, tmp_path: Path) -> None:
    """Ranks, micro-batches and stages put together: every count, the stride, and tokens where top-k is known."""
    top_k = None if name == "laer-moe" else 2
    trace = imported(name, made(name, tmp_path), tmp_path / "out.parquet", top_k=top_k)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN))
    stride = {"megatron-routing": 1, "sglang": 1, "tensorrt-llm": 1, "laer-moe": 1, "flame-moe": 540}.get(name, 10)
    assert trace.meta.stride == stride
    if top_k:
        assert (trace.tokens_SL == 4 * 12).all()
    semantics = {"laer-moe": "unknown", "wandb": "unknown", "tensorboard": "unknown"}.get(name, "pre_drop")
    assert trace.meta.count_semantics == semantics


@pytest.mark.slow
def test_sglang_records_of_passes_are_added_over_ranks_and_replicas(tmp_path: Path) -> None:
    """Mode per_pass: one file per rank, counts of physical experts; replicas count for their expert."""
    need("torch", "pip install '.[torch]'")
    log = read_sglang([logs.sglang_per_pass(tmp_path / "pp", CHOSEN)])
    got = list(log.rows)
    np.testing.assert_array_equal(np.stack([row.load_LE for row in got]), logs.truth(CHOSEN))
    assert [row.step for row in got] == [7, 8, 9]


def test_megatron_data_parallel_copies_of_experts_are_added(tmp_path: Path) -> None:
    """Two copies of four expert ranks: an expert's tokens are those of both."""
    chosen = logs.choices(W=8)
    folder = logs.megatron_tokens(tmp_path / "m", chosen, expert=4, pipeline=2, copies=2)
    log = megatron.read_tokens([folder], LAYOUT)
    np.testing.assert_array_equal(np.stack([row.load_LE for row in log.rows]), logs.truth(chosen))
    assert log.layers == (0, 1, 2, 3)


def test_chunks_on_disk_make_the_same_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few loads in memory, many shards: the content is that of all at once, and nothing is left beside it."""
    chosen = logs.choices(S=40)
    folder = logs.jsonl(tmp_path / "l", chosen)
    whole = imported("jsonl", folder, tmp_path / "a" / "whole.parquet")
    monkeypatch.setattr(rows, "CELLS_IN_MEMORY", 100)
    monkeypatch.setattr(text, "_BLOCK", 50)
    parts = imported("jsonl", folder, tmp_path / "b" / "parts.parquet")
    assert data_sha256(parts) == data_sha256(whole)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["parts.parquet"]


def test_a_part_of_a_log_is_imported(tmp_path: Path) -> None:
    """`first_step` and `last_step` bound what is read; what comes after the last one is not even looked at."""
    folder = made("megatron-tokens", tmp_path)
    broken = folder / "rank3.jsonl"
    broken.write_text(broken.read_text().replace('"iter": 30', '"iter": 31'))
    log = READERS["megatron-tokens"][1](folder)
    trace = read_trace(write_log(log, tmp_path / "o.parquet", Options(first_step=10, last_step=20)).path)
    assert trace.step_S.tolist() == [10, 20]


def edit(pattern: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    """Damage: the text of the first file that a pattern finds."""

    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        before = path.read_text(encoding="utf-8")
        assert re.search(old, before, re.S), (path, old)
        path.write_text(re.sub(old, new, before, count=count, flags=re.S), encoding="utf-8")

    return damage


def lose(pattern: str) -> Callable[[Path], None]:
    """Damage: a file is gone."""
    return lambda folder: sorted(folder.glob(pattern))[0].unlink()


def put(pattern: str, content: bytes) -> Callable[[Path], None]:
    """Damage: a file holds something else."""
    return lambda folder: sorted(folder.glob(pattern))[0].write_bytes(content) and None


def tensor(value: Any) -> Callable[[Path], None]:
    """Damage: another record in sglang's file."""

    def damage(folder: Path) -> None:
        import torch

        made_now = value(torch) if callable(value) else value
        torch.save(made_now, next(folder.glob("*.pt")))

    return damage


def safetensor(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Damage: another tensor in TensorRT-LLM's first rank."""

    def damage(folder: Path) -> None:
        load = logs.load_of(CHOSEN)
        tensors = {f"{100 + s}_{3 + m}": load[s, 0, m] for s in range(3) for m in range(4)}
        change(tensors)
        (folder / "rank0.safetensors").write_bytes(logs.safetensors_bytes(tensors))

    return damage


def parquet(indices: Any) -> Callable[[Path], None]:
    """Damage: other choices in FLAME-MoE's first file."""

    def damage(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"indices": indices}), sorted(folder.glob("*/*.parquet"))[0])

    return damage


LINE = r'(\{"iter": 20[^\n]*\n)'
DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("jsonl", put("rank0*", b"step,layer\n1,2\n"), r"rank0\.jsonl, line 1: not JSON"),
    ("jsonl", put("rank0*", b"[" * 100_000 + b"\n"), r"rank0\.jsonl, line 1: not JSON"),
    ("jsonl", edit("rank0*", r'"step": 20', '"step": 5'), r"rank0\.jsonl, line 9: step 5 after 10: out of order"),
    ("jsonl", edit("rank0*", r'("step": 10, "layer": 3.*?\n)', r'\1{"step": 10, "layer": 3, "load": [1]}\n'), "again"),
    ("jsonl", edit("rank0*", r'("load": \[)\d+', r"\1-1"), r"rank0\.jsonl, line 1: load\[0\] is -1"),
    ("jsonl", edit("rank0*", r'("load": \[)\d+', r"\g<1>1.5"), r"line 1: load\[0\] is 1\.5, expected a whole"),
    ("jsonl", edit("rank0*", r'("load": \[)\d+', r"\g<1>1e999"), r"line 1: load\[0\] is inf"),
    ("jsonl", edit("rank0*", r'"load": \[\d+, ', '"load": ['), r"has 8 experts, expected 7 in every layer"),
    ("jsonl", edit("rank0*", r'"layer": 1', '"layer": 7'), r"layer [17] of step|step 0: layer [17]|expected \(0, 2"),
    ("jsonl", edit("rank1*", r'\{"step": 10.*?(\{"step": 20)', r"\1"), "step 10 is missing"),
    ("jsonl", edit("rank0*", r'"tokens"', '"token"'), r"unknown field 'token'; there is: step, layer, load"),
    ("megatron-tokens", lose("rank3*"), r"rank 3 missing: got 7 files"),
    ("megatron-tokens", lose("rank7*"), r"got 7 ranks, expected a multiple of 2 pipeline x 4 expert"),
    ("megatron-tokens", put("rank0*", b'{"step": 1}\n'), r"rank0\.jsonl, line 1: no field 'iter'; got step, expected"),
    ("megatron-tokens", edit("rank2*", LINE, r"\1\1"), r"layer 0 of iter 20 again"),
    ("megatron-tokens", edit("rank2*", '"iter": 30', '"iter": 10'), r"iter 10 after 20: out of order or twice"),
    ("megatron-tokens", edit("rank2*", LINE + LINE, ""), "iteration 20 is missing in rank 2"),
    ("megatron-tokens", edit("rank2*", LINE, ""), "rank 2 has no layer 0 in iteration 20"),
    ("megatron-tokens", edit("rank2*", r'("tpe": \[\[)\d+', r"\1-3"), r"rank2\.jsonl, line 1: tpe\[0, 0\] is -3"),
    ("megatron-tokens", edit("rank2*", r'("tpe": \[\[)\d+', r"\g<1>0.5"), r"tpe\[0, 0\] is 0\.5"),
    ("megatron-tokens", edit("rank2*", r'("tpe": \[\[)\d+, ', r"\1"), r"tpe is not a table of numbers"),
    ("megatron-tokens", edit("rank2*", r'"tpe": \[\[[^]]*\], ', '"tpe": ['), r"rank 2 has 1 micro-batches in layer 0"),
    (
        "megatron-tokens",
        edit("rank2*", r'("tpe": \[\[)\d+', r"\g<1>99"),
        r"loads sum to .* tokens were dropped or padded",
    ),
    ("megatron-routing", lose("*rank5*"), r"rank 5 missing"),
    ("megatron-routing", edit("*rank0*", r'("top_indices": \[\[)\d+', r"\g<1>8"), r"holds expert 8, expected 0 to 7"),
    ("megatron-routing", edit("*rank0*", r'("top_indices": \[\[)\d+', r"\1-1"), r"top_indices\[0, 0\] is -1"),
    ("megatron-routing", edit("*rank0*", r'"topk": 2', '"topk": 3'), r"line 1: top_indices has shape|topk is"),
    ("megatron-routing", edit("*rank0*", r'\{"step": 1[^\n]*\n', ""), "micro-batches .* tokens were dropped"),
    ("megatron-routing", edit("*rank0*", r'"step": 2', '"step": 0', 4), r"step 0 after 1: out of order or twice"),
    ("sglang", put("*.pt", b"PK"), r"\.pt: not an archive as torch.save writes it"),
    ("sglang", put("*.pt", pickle.dumps({"logical_count": 1})), "not an archive as torch.save writes it"),
    ("sglang", tensor(lambda torch: [1]), "holds a list, expected a dict"),
    ("sglang", tensor(lambda torch: {"logical_count": print}), "holds an object that is no tensor"),
    ("sglang", tensor(lambda torch: {"other": 1}), r"holds \['other'\], expected 'logical_count' or 'records'"),
    ("sglang", tensor(lambda torch: {"logical_count": torch.full((2, 1, 4), 0.5)}), r"\[0, 0, 0\] is 0\.5"),
    ("sglang", tensor(lambda torch: {"logical_count": torch.full((2, 1, 4), -1)}), r"\[0, 0, 0\] is -1"),
    ("sglang", tensor(lambda torch: {"logical_count": torch.ones(2, 4)}), r"has shape \[2, 4\], expected 3 axes"),
    ("sglang", tensor(lambda torch: {"logical_count": torch.zeros(2, 1, 4)}), "no count in any layer"),
    ("sglang", tensor(lambda torch: {"records": [{"rank": 0}]}), "expected 'global_physical_count'"),
    ("tensorrt-llm", lose("rank1*"), r"rank 1 missing"),
    ("tensorrt-llm", lose("meta*"), r"meta_info\.json: expected JSON with num_experts"),
    ("tensorrt-llm", put("rank0*", pickle.dumps([1] * 99)), "not a safetensors file: a header of"),
    ("tensorrt-llm", put("rank0*", b"\xff" * 64), "not a safetensors file: a header of"),
    ("tensorrt-llm", safetensor(lambda t: t.update({"101_4": t["101_4"] - 50})), r"101_4\[\d\] is -\d+"),
    ("tensorrt-llm", safetensor(lambda t: t.update({"101_4": t["101_4"][:5]})), "has 5 counts, expected 8 experts"),
    ("tensorrt-llm", safetensor(lambda t: t.pop("101_4")), "layer 4 of iteration 101 is in one rank only"),
    ("tensorrt-llm", safetensor(lambda t: t.update({"weights": t["101_4"]})), "expected names like 100_3"),
    ("smartmoe", lose("table_iter11_rank2*"), r"table_iter11_rank2\.log is missing"),
    ("smartmoe", edit("table_iter11_rank2*", r"^0:", "0;"), r"line 1: got '0;.*expected layer:\[\["),
    ("smartmoe", edit("table_iter11_rank2*", r"\[\[\d+\.0", "[[-1.0"), r"layer 0\[0, 0\] is -1"),
    ("smartmoe", edit("table_iter11_rank2*", r"\[\[\d+\.0", "[[1.5"), r"layer 0\[0, 0\] is 1\.5"),
    ("smartmoe", edit("table_iter11_rank2*", r"^0:", "1:"), "layer 1 again"),
    ("smartmoe", edit("table_iter11_rank2*", r"^0:[^\n]*\n", ""), "layer 0 is missing"),
    ("laer-moe", edit("*.csv", "token_num", "tokens"), "expected columns rank,method"),
    ("laer-moe", edit("*.csv", r"0,LAER,a-model,0,0,\d+", "0,LAER,a-model,0,0,-4"), "row 2: token_num is -4"),
    ("laer-moe", edit("*.csv", r"0,LAER,a-model,0,0,\d+\n", ""), "rows, expected 3 iterations x 4 layers x 8"),
    ("flame-moe", parquet([[1, 9]]), r"expert 9, expected 0 to 7"),
    ("flame-moe", parquet([[1, 2], [1]]), "mixed top-k"),
    ("flame-moe", parquet([[1, 2, 3]]), "3 experts per token|2 experts per token"),
    ("flame-moe", put("*/*.parquet", b"PAR1"), "not a readable parquet file"),
    ("flame-moe", lose("540/layer_02*"), "layer 2 of checkpoint 540 is missing"),
    ("wandb", edit("*.csv", "layer3/expert7", "layer3/expert9"), "expert 8 of layer 0|expert . of layer . is missing"),
    ("wandb", edit("*.csv", r"\n0,,\d+", "\n0,,0.5"), r"row 2: .*layer0/expert0 is 0\.5, expected a whole number"),
    ("wandb", edit("*.csv", r"\n0,,\d+", "\n0,,-2"), r"layer0/expert0 is -2"),
    ("wandb", edit("*.csv", r"\n0,,\d+", "\n0,,"), r"row 2: .*layer0/expert0 is empty"),
    ("wandb", edit("*.csv", "\n10,,", "\n0,,"), r"row 4: step 0 twice"),
    ("wandb", edit("*.csv", "\n10,,", "\n12,,"), r"step 24 is missing: got step 20|step 20 after 12|step 24"),
    ("wandb", edit("*.csv", "TokensTotal", "tokens", 0), "no name fits"),
    ("wandb", edit("*.csv", "Step", "when"), "no column of steps"),
    ("tensorboard", put("events*", b"\xff" * 100), "no event file"),
    ("tensorboard", put("events*", logs._record(b"\xff\xff\xff")), "record 0: not an event"),
]


def cases() -> list[Any]:
    """Damages of sglang's tensors start a process with torch each, seconds of work: these are slow."""
    slow = [damage.__qualname__.startswith("tensor.") for _, damage, _ in DAMAGES]
    return [pytest.param(*d, marks=pytest.mark.slow) if s else d for d, s in zip(DAMAGES, slow, strict=True)]


@pytest.mark.parametrize(("name", "damage", "says"), cases(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_log_is_refused(name: str, damage: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    """Every kind of damage has its message, with file and line or name; nothing is written."""
    folder = made(name, tmp_path)
    damage(folder)
    with pytest.raises(TraceError, match=rf"(?s){re.escape(str(tmp_path))}.*({says})"):
        imported(name, folder, tmp_path / "out.parquet", top_k=None if name == "laer-moe" else 2)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_wrong_format_for_a_name_is_refused(tmp_path: Path) -> None:
    """A folder of another format holds no file of the name that is looked for."""
    folder = made("smartmoe", tmp_path)
    for name, (_, read) in READERS.items():
        if name != "smartmoe":
            with pytest.raises(TraceError, match=r"no file .* in this folder"):
                read(folder)


@pytest.mark.parametrize("name", ["jsonl", "megatron-tokens", "megatron-routing", "tensorboard"])
def test_a_broken_last_line_ends_the_import_with_a_warning(name: str, tmp_path: Path) -> None:
    """A run that still writes: whole steps before it are imported, the trace is marked, and the file is named."""
    folder = made(name, tmp_path)
    path = sorted(folder.iterdir())[1 if len(list(folder.iterdir())) > 1 else 0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(CutShortWarning, match="breaks off"):
        trace = imported(name, folder, tmp_path / "out.parquet", top_k=2)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN)[:2])
    assert not trace.meta.complete
    assert any(path.name in note for note in trace.meta.notes)


def test_device_loads_are_no_trace_of_experts(tmp_path: Path) -> None:
    """LAER-MoE's table is refused with the reason; asked for by name it is marked as devices."""
    folder = made("laer-moe", tmp_path)
    with pytest.raises(TraceError, match="tokens per device, not per expert"):
        read_laer_moe([folder])
    with pytest.raises(TraceError, match=r"method is one of FSDP, LAER, expected a choice"):
        read_laer_moe([folder], device_loads=True)
    trace = imported("laer-moe", folder, tmp_path / "out.parquet")
    assert "device loads" in trace.meta.notes[0]


def test_ranks_that_count_the_same_tokens_are_counted_once(tmp_path: Path) -> None:
    """TensorRT-LLM without attention data parallelism: refused until `replicated` says so, then counted once."""
    folder = logs.tensorrt_llm(tmp_path / "t", np.repeat(CHOSEN[:, :1], 2, axis=1))
    with pytest.raises(TraceError, match="say --replicated"):
        list(read_tensorrt_llm([folder]).rows)
    got = np.stack([row.load_LE for row in read_tensorrt_llm([folder], replicated=True).rows])
    np.testing.assert_array_equal(got, logs.truth(CHOSEN[:, :1]))


def test_thousands_of_files_are_read_and_more_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are open only while a block is read, so ranks may outnumber what a process may open; there is a limit."""
    chosen = logs.choices(S=2, W=1, L=1, T=2)
    folder = logs.jsonl(tmp_path / "l", chosen)
    line = (folder / "rank0.jsonl").read_text()
    for rank in range(1, 1500):
        (folder / f"rank{rank}.jsonl").write_text(line)
    got = np.stack([row.load_LE for row in read_jsonl([folder]).rows])
    np.testing.assert_array_equal(got, 1500 * logs.truth(chosen))
    monkeypatch.setattr(text, "MAX_FILES", 100)
    with pytest.raises(TraceError, match="more than 100 files"):
        read_jsonl([str(folder / "*.jsonl")])


def test_an_archive_is_bounded_before_it_is_opened(tmp_path: Path) -> None:
    """A `.pt` file that unpacks to more than the limit, or is compressed, costs nothing."""
    bomb = tmp_path / "expert_distribution_recorder_1.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(TraceError, match="expected at most 1000"):
        load_arrays(bomb, max_bytes=1000)
    with pytest.raises(TraceError, match="is compressed"):
        load_arrays(bomb)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (self.command,)


def test_a_pickle_in_a_pt_file_runs_nothing(tmp_path: Path) -> None:
    """Tensors and plain values only: an object with a payload is refused, and the payload did not run."""
    torch = need("torch", "pip install '.[torch]'")
    trap = tmp_path / "expert_distribution_recorder_1.pt"
    torch.save({"logical_count": Evil(f"touch {tmp_path / 'ran'}")}, trap)
    with pytest.raises(TraceError, match=r"expected tensors as sglang's recorder writes them"):
        load_arrays(trap)
    assert not (tmp_path / "ran").exists()


def test_tokens_are_those_of_the_log_or_given(tmp_path: Path) -> None:
    """Loads after drops need a number of tokens; one beside those of the log is refused."""
    folder = made("megatron-tokens", tmp_path)
    with pytest.raises(TraceError, match="expected --tokens"):
        imported("megatron-tokens", folder, tmp_path / "a.parquet", top_k=2, counted="post_drop")
    trace = imported("megatron-tokens", folder, tmp_path / "b.parquet", top_k=2, counted="post_drop", tokens=50)
    assert (trace.tokens_SL == 50).all()
    with pytest.raises(TraceError, match="tokens are in the log"):
        imported("jsonl", made("jsonl", tmp_path), tmp_path / "c.parquet", top_k=2, tokens=50)
    with pytest.raises(TraceError, match="top-k is 2 in the file, got --top-k 4"):
        imported("megatron-routing", made("megatron-routing", tmp_path), tmp_path / "d.parquet", top_k=4)


def test_dropped_tokens_are_kept_beside_the_loads(tmp_path: Path) -> None:
    """JSON Lines with `dropped`: the column of the format, added over files."""
    line = {"step": 0, "layer": 0, "load": [3, 1], "dropped": [1, 0], "tokens": 4}
    for rank in range(2):
        logs.write_lines(tmp_path / f"r{rank}.jsonl", [line, {**line, "step": 1}])
    trace = read_trace(write_log(read_jsonl([tmp_path]), tmp_path / "o.parquet", Options(top_k=1)).path)
    assert trace.columns["dropped"].tolist() == [[[2, 0]], [[2, 0]]]
    assert trace.tokens_SL.tolist() == [[8], [8]]


def test_the_command_reads_a_glob_and_shows_what_it_left_out(tmp_path: Path) -> None:
    """`import megatron-tokens 'DIR/*.jsonl'` with the layout gives the trace; multi-token heads are named."""
    folder = made("megatron-tokens", tmp_path)
    first = folder / "rank0.jsonl"
    first.write_text('{"iter": 10, "block": "mtp", "mtp_idx": 0, "layer": 0, "tpe": [[1]]}\n' + first.read_text())
    out = tmp_path / "out.parquet"
    words = ["import", "megatron-tokens", str(folder / "*.jsonl"), "--expert-parallel", "4", "--top-k", "2"]
    done = CliRunner().invoke(app, [*words, "--pipeline-parallel", "2", "--stage-layers", "2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "3 steps, one in 10, 4 layers, 8 experts" in done.output
    assert "multi-token-prediction layers of the log are left out" in done.output
    missing = CliRunner().invoke(app, [*words, "--pipeline-parallel", "2", "--out", str(tmp_path / "b.parquet")])
    assert isinstance(missing.exception, TraceError)
    assert "expected --stage-layers" in str(missing.exception)


def test_a_real_safetensors_file_is_read(tmp_path: Path) -> None:
    """What the library itself writes, as TensorRT-LLM does, is read alike."""
    torch = need("torch", "pip install '.[torch]'")
    saving = need("safetensors.torch", "pip install '.[record]'")
    folder = made("tensorrt-llm", tmp_path)
    load = logs.load_of(CHOSEN)
    for rank in range(4):
        tensors = {
            f"{100 + s}_{3 + m}": torch.tensor(load[s, rank, m], dtype=torch.int32) for s in range(3) for m in range(4)
        }
        saving.save_file(tensors, folder / f"rank{rank}.safetensors")
    got = np.stack([row.load_LE for row in read_tensorrt_llm([folder]).rows])
    np.testing.assert_array_equal(got, logs.truth(CHOSEN))


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
