"""Logs of engines become traces: every count, over ranks, passes, copies and files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange import flame_moe, logfiles, megatron, rows
from moeload_bench.ops.interchange.counts import read_jsonl
from moeload_bench.ops.interchange.importing import FORMATS, import_log
from moeload_bench.ops.interchange.load_history import read_load_history
from moeload_bench.ops.interchange.routed import read_routed
from moeload_bench.ops.interchange.rows import Log, Options, write_log
from moeload_bench.ops.interchange.wandb import read_wandb
from moeload_bench.traces.lookup import find_trace
from moeload_bench.traces.store import data_sha256, read_trace, validate_path, write_trace
from moeload_bench.traces.trace import Trace
from tests.support.foreign import logs
from tests.support.foreign.formats import CHOSEN, FILES, LAYOUT, WRITERS, imported, made


def test_every_format_is_listed_and_tested() -> None:
    """`import formats` lists at least eight formats; each is in this file, and a command."""
    done = CliRunner().invoke(app, ["import", "formats"])
    assert done.exit_code == 0
    assert len(FORMATS) >= 8
    assert {one.name for one in FORMATS} == set(WRITERS)
    for one in FORMATS:
        assert one.name in done.output
        assert CliRunner().invoke(app, ["import", one.name, "--help"]).exit_code == 0


@pytest.mark.parametrize("name", WRITERS)
def test_a_log_gives_the_counts_that_were_routed(name: str, tmp_path: Path) -> None:
    """Ranks, micro-batches and stages put together: every count, the stride, and tokens where top-k is known."""
    trace = imported(name, made(name, tmp_path), tmp_path / "out.parquet", top_k=2)
    np.testing.assert_array_equal(trace.load_SLE, logs.truth(CHOSEN))
    stride = {"megatron-routing": 1, "sglang": 1, "flame-moe": 540, "routed": 1, "ultra-ep": 1}.get(name, 10)
    assert trace.meta.stride == stride
    assert (trace.tokens_SL == 4 * 12).all()
    semantics = {"wandb": "unknown", "tensorboard": "unknown"}.get(name, "pre_drop")
    assert trace.meta.count_semantics == semantics


def test_megatron_data_parallel_copies_of_experts_are_added(tmp_path: Path) -> None:
    """Two copies of four expert ranks: an expert's tokens are those of both."""
    chosen = logs.choices(W=8)
    folder = logs.megatron_tokens(tmp_path / "m", chosen, expert=4, pipeline=2, copies=2)
    log = megatron.read_megatron_tokens([folder], **LAYOUT)
    np.testing.assert_array_equal(np.stack([row.load_LE for row in log.rows]), logs.truth(chosen))
    assert log.layers == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["flame-moe", "wandb", "jsonl", "load-history", "routed"])
def test_progress_is_in_bytes_of_the_files(name: str, tmp_path: Path) -> None:
    """The last report is the whole: what was read never goes back and never beyond."""
    folder, told = made(name, tmp_path), []

    def report(done: int, total: int, what: str) -> None:
        told.append((done, total))

    read: dict[str, Callable[[], Log]] = {
        "flame-moe": lambda: flame_moe.read_flame_moe([folder], 8, report=report),
        "wandb": lambda: read_wandb([folder], report=report),
        "jsonl": lambda: read_jsonl([folder], report=report),
        "load-history": lambda: read_load_history([folder], report=report),
        "routed": lambda: read_routed([folder], 8, report=report),
    }
    assert len(list(read[name]().rows)) == 3
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert {total for _, total in told} == {size}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == size


def test_chunks_on_disk_make_the_same_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few loads in memory, many shards: the content is that of all at once, and nothing is left beside it."""
    chosen = logs.choices(S=40)
    folder = logs.jsonl(tmp_path / "l", chosen)
    intact = imported("jsonl", folder, tmp_path / "a" / "whole.parquet")
    monkeypatch.setattr(rows, "CELLS_IN_MEMORY", 100)
    monkeypatch.setattr(logfiles, "_BLOCK", 50)
    parts = imported("jsonl", folder, tmp_path / "b" / "parts.parquet")
    assert data_sha256(parts) == data_sha256(intact)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["parts.parquet"]


def test_a_part_of_a_log_is_imported(tmp_path: Path) -> None:
    """`first_step` and `last_step` bound what is read; what comes after the last one is not even looked at."""
    folder = made("megatron-tokens", tmp_path)
    broken = folder / "rank3.jsonl"
    broken.write_text(broken.read_text().replace('"iter": 30', '"iter": 31'))
    trace = imported("megatron-tokens", folder, tmp_path / "o.parquet", first_step=10, last_step=20)
    assert trace.step_S.tolist() == [10, 20]


def test_thousands_of_files_are_read_and_more_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are open only while a block is read, so ranks may outnumber what a process may open; there is a limit."""
    chosen = logs.choices(S=2, W=1, L=1, T=2)
    folder = logs.jsonl(tmp_path / "l", chosen)
    line = (folder / "rank0.jsonl").read_text()
    for rank in range(1, 1500):
        (folder / f"rank{rank}.jsonl").write_text(line)
    got = np.stack([row.load_LE for row in read_jsonl([folder]).rows])
    np.testing.assert_array_equal(got, 1500 * logs.truth(chosen))
    monkeypatch.setattr(logfiles, "MAX_FILES", 100)
    with pytest.raises(TraceError, match="more than 100 files"):
        read_jsonl([str(folder / "*.jsonl")])


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
    assert "3 steps, one in 10, 4 layers, 8 experts" in done.stdout
    assert "multi-token-prediction layers of the log are left out" in done.output
    assert "8 ranks = 2 stages x EP 4 x 1 copy" in done.output
    assert "8 ranks = 2 stages x EP 4 x 1 copy" in read_trace(out).meta.notes
    missing = CliRunner().invoke(app, [*words, "--pipeline-parallel", "2", "--out", str(tmp_path / "b.parquet")])
    assert isinstance(missing.exception, TraceError)
    assert "expected --stage-layers" in str(missing.exception)


@pytest.mark.parametrize(
    ("name", "sizes"), [("megatron-tokens", {"expert_parallel": 4}), ("megatron-routing", {"experts": 8})]
)
def test_stages_whose_layers_differ_must_be_those_that_were_stated(
    name: str, sizes: dict[str, int], tmp_path: Path
) -> None:
    """The first of three stages of four ranks begins with a dense layer: layers change at rank 4 of 12, 3 stages."""
    write = {"megatron-tokens": logs.megatron_tokens, "megatron-routing": logs.megatron_routing}[name]
    folder, out = write(tmp_path / name, logs.choices(L=6), pipeline=3), tmp_path / "out.parquet"
    for rank in range(4):
        path = next(folder.glob(f"*rank{rank}.jsonl"))
        path.write_text("".join(line for line in path.read_text().splitlines(True) if '"layer": 0' not in line))
    says = (
        r"rank4\.jsonl, .*got --pipeline-parallel 1, the files have 3 stages .*rank 4 has layers \[0, 1\], rank 3 \[1\]"
    )
    with pytest.raises(TraceError, match=says):
        import_log(folder, out, format=name, top_k=2, pipeline_parallel=1, **sizes)
    assert not out.exists()
    import_log(folder, out, format=name, top_k=2, pipeline_parallel=3, stage_layers=2, **sizes)
    assert [layer.index for layer in read_trace(out).meta.layers] == [1, 2, 3, 4, 5]


def test_an_imported_log_takes_metadata_of_every_version(tmp_path: Path) -> None:
    """Parameters, a way of balancing and what was counted came with later versions of the format."""
    log = tmp_path / "log.csv"
    log.write_text("step,layer,expert,load\n" + "".join(f"{s},0,{e},3\n" for s in range(5) for e in range(4)))
    given = ({"parameters": 10**9, "balancing": {"method": "quantile"}}, {"counted": "attended"}, {})
    traces = [import_log(log, tmp_path / f"{i}.parquet", format="csv", meta=meta) for i, meta in enumerate(given)]
    versions = [trace.meta.format_version for trace in traces]
    assert versions == ["1.3"] * 3


@pytest.mark.parametrize("without", [0, 3])
def test_tokens_in_some_steps_only_are_not_made_up_for_the_others(without: int, tmp_path: Path) -> None:
    """Nor are those of the log dropped for loads / top-k: the first step that is other than those before is named."""
    log = tmp_path / "log.jsonl"
    tokens = ['"tokens": 9' if step != without else '"layer": 0' for step in range(5)]
    log.write_text("".join(f'{{"step": {s}, "layer": 0, "load": [4, 5], {tokens[s]}}}\n' for s in range(5)).replace(
        '"layer": 0, "load": [4, 5], "layer": 0', '"layer": 0, "load": [4, 5]'))  # fmt: skip
    said = r"step 1 has tokens, the steps before have none" if not without else r"step 3 has no tokens, .* have them"
    with pytest.raises(TraceError, match=said):
        import_log(log, tmp_path / "out.parquet", format="jsonl", top_k=1)


def test_a_range_of_steps_that_the_log_has_not_is_named_with_those_it_has(tmp_path: Path) -> None:
    """The message states the steps asked for and the steps that were read: 7 to 9, and 0 to 4."""
    log = tmp_path / "log.csv"
    log.write_text("step,layer,expert,load\n" + "".join(f"{s},0,{e},3\n" for s in range(5) for e in range(2)))
    with pytest.raises(TraceError, match="no step to import for --first-step 7 --last-step 9: read were steps 0 to 4"):
        import_log(log, tmp_path / "out.parquet", format="csv", first_step=7, last_step=9)
    with pytest.raises(TraceError, match=r"missing\.csv: no such file"):
        import_log(tmp_path / "missing.csv", tmp_path / "out.parquet", format="csv")
    with pytest.raises(TraceError, match=r"log\.csv: not a \.parquet trace; `moeload-bench import` makes one"):
        find_trace(log)


def lines(path: Path, *layers: tuple[int, list[int]]) -> Path:
    """Step 0 of a log, a line per layer."""
    path.write_text("".join(json.dumps({"step": 0, "layer": m, "load": load}) + "\n" for m, load in layers))
    return path


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([(1, [5, 5, 5])], "line 3: layer 1 has 3 experts, expected 2"),
        ([(1, [5, 5]), (7, [5, 5])], "line 4: step 0: layer 7 is missing or new"),
        ([], "line 1: step 0: layer 1 is missing or new"),
    ],
)
def test_the_line_that_is_wrong_is_named(wrong: list[tuple[int, list[int]]], words: str, tmp_path: Path) -> None:
    """Not the first one of its step, unless a line is missing from it."""
    right = [(0, [5, 5]), (2, [5, 5])]
    intact = lines(tmp_path / "rank0.jsonl", *right, (1, [5, 5]))
    other = lines(tmp_path / "rank1.jsonl", *right, *wrong)
    with pytest.raises(TraceError, match=rf"rank1\.jsonl, {words}"):
        list(read_jsonl([intact, other]).rows)


def test_equal_totals_that_top_k_does_not_divide_are_said_once(tmp_path: Path) -> None:
    """Not "64 in layer 0 and to 64 in layer 0"."""
    folder = tmp_path / "log"
    folder.mkdir()
    lines(folder / "rank0.jsonl", (0, [16] * 4), (1, [20, 12, 20, 12]))
    with pytest.raises(TraceError, match="loads sum to 64 in layer 0, expected the same multiple of top-k = 3 in"):
        imported("jsonl", folder, tmp_path / "out.parquet", top_k=3)


def test_a_log_without_any_count_is_refused(tmp_path: Path) -> None:
    """By import and by `validate`: a router that was not counted."""
    np.savez(tmp_path / "zero.npz", load=np.zeros((20, 2, 4), dtype=np.int64))
    with pytest.raises(TraceError, match="every count is zero"):
        import_log(tmp_path / "zero.npz", tmp_path / "out.parquet", format="npz")
    assert not (tmp_path / "out.parquet").exists()
    path = write_trace(Trace.from_arrays(np.zeros((20, 2, 4), dtype=np.int64)), tmp_path / "zero.parquet")
    ((_, error),) = validate_path(path)
    assert "every count is zero" in str(error)


# ---------------------------------------------------------------- options that do not fit a log are refused, or the


RIGHT, SAID, REFUSED = "right", "said", "refused"
"""Counts equal what was routed; the result is of other counts, and says so; nothing is written."""
EP4_PP2 = "--expert-parallel 4 --pipeline-parallel 2 --stage-layers 2"
"""True layout of Megatron's logs here, as top-2 of 8 experts, 48 tokens a step and layers 0 to 3 are of all logs."""
NAMES = "train/TokensTotal/layer"
TABLE: dict[str, list[tuple[str, str, str]]] = {
    # format: options, what becomes of it, what the command says
    "npz": [
        ("--top-k 3", RIGHT, "32 tokens a step, top-3"),
        ("--top-k 4", REFUSED, "expert 1 has load 28, expected at most the 24 tokens"),
        ("--top-k 9", REFUSED, "top_k is 9, expected at most the layer's 8 experts"),
        ("", RIGHT, "top-k not known"),
        ("--top-k 2 --tokens 96", REFUSED, "loads sum to 96, expected tokens x top_k = 192"),
        ("--top-k 2 --counted post_drop", REFUSED, "tokens do not follow from loads after drops"),
        ("--top-k 2 --tokens 30 --counted post_drop", RIGHT, r"sum to 96, more than 30 tokens x top-k 2: padding"),
        ("--layers three", REFUSED, "expected numbers such as 3-60"),
        ("--top-k 2 --layers 3,5", REFUSED, "the numbers of 2 layers, expected 4"),
        ("--top-k 2 --layers 6,5,4,3", REFUSED, "expected 4, rising"),
        ("--top-k 2 --first-layer 3", RIGHT, r"4 layers \(numbers 3-6\)"),
    ],
    "csv": [
        ("--top-k 1", RIGHT, "96 tokens a step, top-1"),
        ("--top-k 5", REFUSED, "loads sum to 96 in layer 0, expected the same multiple of top-k = 5"),
        ("--top-k 2 --tokens 24", REFUSED, "loads sum to 96, expected tokens x top_k = 48"),
        ("--top-k 2 --counted post_drop", REFUSED, "tokens do not follow from loads after drops"),
        ("--top-k 2 --tokens 30 --counted post_drop", RIGHT, r"sum to 96, more than 30 tokens x top-k 2: padding"),
        ("--top-k 2 --first-layer 3 --layers 3-6", REFUSED, "--first-layer, --layers and --model: expected one"),
    ],
    "jsonl": [
        ("--top-k 1", REFUSED, "loads sum to 96, expected tokens x top_k = 48"),
        ("--top-k 2 --tokens 48", REFUSED, "tokens are in the log, but --tokens 48 was given too"),
        ("--top-k 2 --first-step 20 --last-step 10", REFUSED, "no step to import"),
        ("--top-k 2 --first-step 500", REFUSED, "no step to import"),
    ],
    "megatron-tokens": [
        ("--expert-parallel 4 --top-k 2", REFUSED, "expected --pipeline-parallel"),
        ("--pipeline-parallel 2 --stage-layers 2", REFUSED, "8 ranks.*expected --expert-parallel"),
        ("", REFUSED, "expected --expert-parallel and --pipeline-parallel"),
        ("--expert-parallel 4 --pipeline-parallel 1 --top-k 2", SAID, "2 layers, 8 experts(?s:.*)8 ranks = 1 stage x"),
        ("--expert-parallel 8 --pipeline-parallel 1", REFUSED, "--expert-parallel 4, with --pipeline"),
        ("--expert-parallel 2 --pipeline-parallel 2 --stage-layers 2 --top-k 2", REFUSED, "groups of 2 did not: they"),
        ("--expert-parallel 2 --pipeline-parallel 4 --stage-layers 2", REFUSED, "expected --expert-parallel 4"),
        ("--expert-parallel 1 --pipeline-parallel 1", REFUSED, "expected --expert-parallel 4"),
        ("--expert-parallel 1 --pipeline-parallel 8 --stage-layers 2", REFUSED, "expected --expert-parallel 4"),
        ("--expert-parallel 3 --pipeline-parallel 1", REFUSED, "got 8 ranks, expected a multiple of"),
        (
            "--expert-parallel 2 --expert-tensor-parallel 2 --pipeline-parallel 2 --stage-layers 2",
            REFUSED,
            "rank 1 counts other tokens than rank 0",
        ),
        ("--expert-parallel 4 --pipeline-parallel 2", REFUSED, "expected --stage-layers"),
        ("--expert-parallel 4 --pipeline-parallel 2 --stage-layers 1", REFUSED, "layer 1 of rank 0, expected 0 to 0"),
        ("--expert-parallel 4 --pipeline-parallel 2 --stage-layers 7 --top-k 2", RIGHT, r"4 layers \(numbers"),
        (f"{EP4_PP2} --top-k 4", REFUSED, "expert 1 has load 28, expected at most the 24 tokens"),
        (f"{EP4_PP2} --top-k 1", RIGHT, "96 tokens a step, top-1"),
    ],
    "megatron-routing": [
        ("--experts 8", REFUSED, "expected --pipeline-parallel"),
        ("--experts 8 --pipeline-parallel 1", SAID, r"2 layers(?s:.*)8 ranks = 1 stage x 8 copies"),
        ("--experts 8 --pipeline-parallel 4 --stage-layers 2", SAID, r"8 layers(?s:.*)8 ranks = 4 stages x 2 copies"),
        ("--experts 4 --pipeline-parallel 2 --stage-layers 2", REFUSED, "holds expert 7, expected 0"),
        ("--experts 16 --pipeline-parallel 2 --stage-layers 2", SAID, "experts 8 to 15 got no token in any layer and"),
        ("--experts 8 --pipeline-parallel 2 --stage-layers 2 --top-k 1", REFUSED, "top-k is 2 in the file, got"),
    ],
    "flame-moe": [
        ("--experts 16", SAID, "experts 8 to 15 got no token in any layer and step"),
        ("--experts 4", REFUSED, "expert 7, expected 0 to 3"),
        ("--experts 8 --column scores", REFUSED, "expected the same number of whole numbers"),
        ("--experts 8 --top-k 1", REFUSED, "top-k is 2 in the file"),
    ],
    "wandb": [
        ("--top-k 2 --tokens 48 --shares", REFUSED, "sum to 96, expected 1, 100 or 8"),
        (f"--pattern {NAMES}{{e}}/expert{{l}}", SAID, "are layers and experts swapped"),
        (f"--pattern {NAMES}{{l}}/expert0", REFUSED, "expected histograms in parquet or JSON Lines"),
        ("--step-column loss", REFUSED, "loss is nan, expected a whole number"),
        ("--experts 16", REFUSED, "has 8 experts, got --experts 16"),
    ],
    "tensorboard": [
        ("--pattern moe/layer_{e}/expert_{l}", SAID, "are layers and experts swapped"),
        ("--pattern moe/layer_{l}/expert_{e}{e}", REFUSED, "expected {l} and {e} once each"),
        ("--top-k 2 --tokens 48 --shares", REFUSED, "sum to 96, expected 1, 100 or 8"),
        ("--top-k 1", RIGHT, "96 tokens a step, top-1"),
    ],
}
ROWS = [(name, *row) for name, rows in TABLE.items() for row in rows]


@pytest.mark.parametrize(("name", "words", "end", "says"), ROWS, ids=[f"{n} {w}" for n, w, _, _ in ROWS])
def test_options_that_do_not_fit_are_never_wrong_in_silence(
    name: str, words: str, end: str, says: str, tmp_path: Path
) -> None:
    """Refused with the reason; or the counts are right and the tokens are named; or the result names what it took."""
    folder, out = made(name, tmp_path), tmp_path / "out.parquet"
    source = folder / FILES.get(name, "")
    done = CliRunner().invoke(app, ["import", name, str(source), *words.split(), "--out", str(out)])
    said = re.sub(r"\s+", " ", done.output if done.exception is None else f"{done.output} {done.exception}")
    assert re.search(says, said), said
    assert out.exists() == (end != REFUSED)
    if end != REFUSED:
        load_SLE = read_trace(out).load_SLE
        same = np.array_equal(load_SLE, logs.truth(CHOSEN))
        assert same == (end == RIGHT)


def test_loads_with_layers_and_experts_swapped_are_noted(tmp_path: Path) -> None:
    """Of an archive [steps, experts, layers]: every layer routes as many tokens, an expert gets what it gets."""
    out = tmp_path / "out.parquet"
    folder = logs.archive(tmp_path / "npz", CHOSEN, load=logs.truth(CHOSEN).transpose(0, 2, 1))
    done = CliRunner().invoke(app, ["import", "npz", str(folder / "counts.npz"), "--out", str(out)])
    assert "8 layers, 4 experts" in done.output
    assert "are layers and experts swapped" in done.output
    assert any("swapped" in note for note in read_trace(out).meta.notes)
